# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Multilayer perceptrons with gradients written out, and Adam: all that the deep agents need of them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
import math
from typing import Any

from muster.learning.agents.base import count
import numpy as np
from numpy.typing import NDArray

#: Buffers are kept for so many different sizes of batch.
_BATCH_SIZES = 8


@dataclass(slots=True)
class _Buffers:
    """What one pass writes, for one size of batch: made once, used again."""

    extended: list[NDArray[Any]]   # [batch, n + 1] of each layer's input; the last column is 1
    inputs: list[NDArray[Any]]     # the same without that column
    output: NDArray[Any]           # [batch, outputs]
    deltas: list[NDArray[Any]]     # [batch, n + 1] of each hidden layer: the loss by what it got
    slopes: list[NDArray[Any]]     # [batch, n + 1] of each hidden layer: its activation's derivative


class MLP:
    """
    A fully connected network, y = W_L f(... f(W_1 x)); each layer also has a bias.

    All parameters are one flat vector `theta`, so that optimisers, target networks and penalties are
    single operations on vectors. Of each layer it holds a matrix of (inputs + 1) x outputs, whose
    last row is the bias: with a constant 1 beside its input a layer is one product, and so is its
    gradient. `activation`: 'relu' or 'tanh' on the hidden layers; the output is linear.
    """

    def __init__(self, sizes: Sequence[int], generator: np.random.Generator, activation: str = 'relu',
                 output_gain: float = 1.0, dtype: type = np.float32) -> None:
        """
        Draw orthogonal weights (Saxe et al. 2014) of gain sqrt(2), `output_gain` on the output layer.

        `sizes` are those of the input, the hidden layers and the output. Biases begin at 0. Raises
        ValueError on another activation.
        """
        if activation not in ('relu', 'tanh'):
            raise ValueError(f"the activation is 'relu' or 'tanh', not {activation!r}")
        self.sizes, self.activation = tuple(sizes), activation
        shapes = [(inputs + 1, outputs) for inputs, outputs in pairwise(self.sizes)]
        self.theta: NDArray[Any] = np.zeros(sum(map(math.prod, shapes)), dtype)
        """All parameters, [size]; change it in place only."""
        self.gradient: NDArray[Any] = np.zeros_like(self.theta)
        """What `backward` returned last."""
        self._layers = _views(self.theta, shapes)
        self._gradients = _views(self.gradient, shapes)
        for layer in self._layers:
            gain = output_gain if layer is self._layers[-1] else math.sqrt(2.0)
            layer[:-1] = gain * _orthogonal(layer.shape[0] - 1, layer.shape[1], generator)
        self._buffers: dict[int, _Buffers] = {}
        self._last = self._prepare(1)
        self._steps = self._single_steps()

    def share(self, theta: NDArray[Any], gradient: NDArray[Any]) -> None:
        """Keep parameters and gradient in these, [size] each: parts of vectors of several networks."""
        theta[:] = self.theta
        self.theta, self.gradient = theta, gradient
        shapes = [(layer.shape[0], layer.shape[1]) for layer in self._layers]
        self._layers, self._gradients = _views(theta, shapes), _views(gradient, shapes)
        self._steps = self._single_steps()

    @property
    def layers(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Return the weights [inputs, outputs] and biases [outputs] of each layer, which are its own."""
        return [(layer[:-1], layer[-1]) for layer in self._layers]

    def inputs(self, batch: int) -> NDArray[Any]:
        """Return the [batch, inputs] that `forward` reads from: filled in place, it is not copied."""
        return self._prepare(batch).inputs[0]

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the outputs [batch, outputs] for x [batch, inputs]; the next call overwrites them."""
        buffers = self._last = self._prepare(len(x))
        if x is not buffers.inputs[0]:
            buffers.inputs[0][...] = x
        last = len(self._layers) - 1
        for number, layer in enumerate(self._layers):
            out = buffers.inputs[number + 1] if number < last else buffers.output
            np.matmul(buffers.extended[number], layer, out=out)
            if number < last:
                whole = buffers.extended[number + 1]  # contiguous, thus faster than without the column
                if self.activation == 'relu':
                    np.maximum(whole, 0.0, out=whole)
                else:
                    np.tanh(whole, out=whole)
                    whole[:, -1] = 1.0
        return buffers.output

    def forward_one(self, x: NDArray[Any]) -> NDArray[Any]:
        """
        Return the outputs [outputs] for a single x [inputs]; the next call overwrites them.

        Faster than `forward`; rounding may differ, and there is no `backward`.
        """
        self._single[...] = x
        for row, layer, out, whole in self._steps:
            row.dot(layer, out)
            if whole is not None:
                if self.activation == 'relu':
                    np.maximum(whole, 0.0, out=whole)
                else:
                    np.tanh(whole, out=whole)
                    whole[-1] = 1.0
        return self._steps[-1][2]

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """
        Return the gradient [size] of a loss, given its derivative by the outputs of `forward`.

        `dy` is [rows, outputs], of the first rows of the batch; the others have no part in the loss.
        The next call overwrites the result.
        """
        extended, delta, rows = self._last.extended, dy, len(dy)
        for number in range(len(self._layers) - 1, -1, -1):
            np.matmul(extended[number][:rows].T, delta, out=self._gradients[number])
            if number:
                delta = self._below(number, delta)
        return self.gradient

    def squared_gradients(self, dy: NDArray[Any]) -> NDArray[Any]:
        """
        Return the sum [size] of the squares of each sample's own gradient, after `forward`.

        A sample's gradient of a layer is the product of one input and one output vector, and its
        square that of their squares.
        """
        result = np.empty_like(self.theta)
        squares = _views(result, [layer.shape for layer in self._layers])
        extended, delta = self._last.extended, dy
        for number in range(len(self._layers) - 1, -1, -1):
            np.matmul(np.square(extended[number]).T, np.square(delta), out=squares[number])
            if number:
                delta = self._below(number, delta)
        return result

    def _below(self, number: int, delta: NDArray[Any]) -> NDArray[Any]:
        """Return the loss by what the hidden layer below a layer got, given it by the layer's result."""
        buffers, rows = self._last, len(delta)
        whole, slope = buffers.deltas[number - 1][:rows], buffers.slopes[number - 1][:rows]
        np.matmul(delta, self._layers[number].T, out=whole)
        self._slope(buffers.extended[number][:rows], slope)
        np.multiply(whole, slope, out=whole)
        return whole[:, :-1]

    def _slope(self, activated: NDArray[Any], out: NDArray[Any]) -> None:
        """Write the derivative of the activation, from what it returned."""
        if self.activation == 'relu':
            np.greater(activated, 0.0, out=out)
        else:
            np.multiply(activated, activated, out=out)
            np.subtract(1.0, out, out=out)

    def _prepare(self, batch: int) -> _Buffers:
        buffers = self._buffers.get(batch)
        if buffers is None:
            if len(self._buffers) >= _BATCH_SIZES:
                self._buffers.clear()
            kind, hidden = self.theta.dtype, self.sizes[1:-1]
            extended = [np.ones((batch, size + 1), kind) for size in self.sizes[:-1]]
            slope = np.bool_ if self.activation == 'relu' else kind
            buffers = self._buffers[batch] = _Buffers(
                extended, [rows[:, :-1] for rows in extended], np.empty((batch, self.sizes[-1]), kind),
                [np.empty((batch, size + 1), kind) for size in hidden],
                [np.empty((batch, size + 1), slope) for size in hidden])
        return buffers

    def _single_steps(self) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any] | None]]:
        """Return of each layer its input, matrix, output, and all of the next input to activate."""
        rows = [np.ones(size + 1, self.theta.dtype) for size in self.sizes[:-1]]
        self._single = rows[0][:-1]
        outs = [row[:-1] for row in rows[1:]] + [np.empty(self.sizes[-1], self.theta.dtype)]
        return list(zip(rows, self._layers, outs, [*rows[1:], None], strict=True))


def _views(flat: NDArray[Any], shapes: Sequence[tuple[int, int]]) -> list[NDArray[Any]]:
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return [flat[end - math.prod(shape):end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]


def _orthogonal(rows: int, columns: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return rows x columns with orthonormal rows or columns, whichever are fewer; Haar distributed."""
    normal = generator.normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))
    return q if rows >= columns else q.T


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1) on a flat vector of parameters."""

    def __init__(self, size: int, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
                 dtype: type = np.float32) -> None:
        """Begin with no moments; the defaults are those of the paper."""
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.steps = 0
        self.mean: NDArray[Any] = np.zeros(size, dtype)
        """First moment of the gradient, [size]."""
        self.square: NDArray[Any] = np.zeros(size, dtype)
        """Second moment of the gradient, [size]."""
        self._work: NDArray[Any] = np.empty(size, dtype)

    def step(self, theta: NDArray[Any], gradient: NDArray[Any], learning_rate: float) -> None:
        """Move `theta` [size] in place, against `gradient` [size]."""
        self.steps += 1
        work, root = self._work, math.sqrt(1.0 - self.beta2 ** self.steps)
        np.multiply(gradient, 1.0 - self.beta1, out=work)
        self.mean *= self.beta1
        self.mean += work
        np.multiply(gradient, gradient, out=work)
        work *= 1.0 - self.beta2
        self.square *= self.beta2
        self.square += work
        # The corrections of both biases are moved into two scalars (their section 2).
        np.sqrt(self.square, out=work)
        work += self.epsilon * root
        np.divide(self.mean, work, out=work)
        work *= learning_rate * root / (1.0 - self.beta1 ** self.steps)
        theta -= work

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of the moments."""
        return {'steps': self.steps}, {'mean': self.mean.copy(), 'square': self.square.copy()}

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        try:
            steps, mean, square = count(document['steps']), arrays['mean'], arrays['square']
        except (KeyError, TypeError) as error:
            raise ValueError(f'the optimiser lacks {error}') from error
        for array in (mean, square):
            check_vector(array, self.mean, 'the moments of the optimiser')
        if (square < 0).any():
            raise ValueError('the second moment of the optimiser is negative')
        self.steps, self.mean[:], self.square[:] = steps, mean, square


def check_vector(array: NDArray[Any], like: NDArray[Any], what: str) -> None:
    """Raise ValueError unless an array is finite and of the type and shape of another."""
    if array.dtype != like.dtype or array.shape != like.shape or not np.isfinite(array).all():
        raise ValueError(f'{what} are unsound, or of a network of another size')


def clip_norm(gradient: NDArray[Any], maximum: float) -> float:
    """Scale `gradient` in place to a norm of at most `maximum` (Pascanu et al. 2013); return what it was."""
    norm = math.sqrt(float(np.dot(gradient, gradient)))
    if norm > maximum:
        gradient *= maximum / norm
    return norm


def huber_gradient(errors: NDArray[Any], threshold: float, out: NDArray[Any]) -> NDArray[Any]:
    """
    Write the derivative of the Huber loss by each error into `out` and return it.

    The loss is error^2 / 2 up to `threshold` and linear beyond it (Huber 1964).
    """
    np.minimum(errors, threshold, out=out)  # a fifth of the time of np.clip
    return np.maximum(out, -threshold, out=out)
