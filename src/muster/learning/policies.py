# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Stochastic policies on top of a network's outputs: probabilities, samples and hand-made gradients.

Shapes: `outputs` (rows, policy.outputs), actions (rows,) or (rows, dimensions).
"""
from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

from muster.learning.agents.base import Continuous, Discrete
import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float32]
type Backward = Callable[[Floats, float], tuple[Floats, Floats]]

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
#: A Gaussian's logarithmic spread stays within these bounds, in units of half the action's range.
SPREAD_BOUNDS = (math.log(0.01), math.log(2.0))


class Categorical:
    """Discrete actions, drawn with the softmax of the outputs as probabilities; it has no spread."""

    def __init__(self, actions: Discrete) -> None:
        """Choose among `actions`."""
        self.outputs, self.spreads = actions.n, 0
        self.shape: tuple[int, ...] = ()
        self.type: type[np.generic] = np.int64
        self._most = math.log(actions.n) or 1.0

    def sample(self, outputs: Floats, spread: Floats, generator: np.random.Generator) \
            -> tuple[NDArray[Any], Floats]:
        """Draw an action of each row; return the actions and their log-probabilities."""
        logs = _log_softmax(outputs)
        bounds = np.exp(logs).cumsum(axis=1)
        # Rounding may leave the last bound below the number drawn.
        actions = np.minimum((bounds < generator.random((len(outputs), 1))).sum(axis=1), self.outputs - 1)
        return actions, logs[np.arange(len(actions)), actions]

    def uniform(self, rows: int, generator: np.random.Generator) -> tuple[NDArray[Any], Floats]:
        """Draw actions regardless of any state; return them and their log-probabilities."""
        return generator.integers(self.outputs, size=rows), np.full(rows, -self._most, np.float32)

    def best(self, outputs: Floats) -> NDArray[Any]:
        """Return the most probable action of each row, the first of equals."""
        actions: NDArray[Any] = outputs.argmax(axis=1)
        return actions

    def evaluate(self, outputs: Floats, spread: Floats, actions: NDArray[Any]) \
            -> tuple[Floats, float, Backward]:
        """
        Return the log-probabilities of the actions, and how random the policy is.

        That is its mean entropy, relative to the highest possible, 0..1. The third is a function
        from the derivatives of a loss by the log-probabilities and by the mean entropy [nat] to those
        by the outputs and by the spread.
        """
        logs, rows = _log_softmax(outputs), np.arange(len(actions))
        probabilities = np.exp(logs)
        entropies = -(probabilities * logs).sum(axis=1, keepdims=True)

        def backward(by_log: Floats, by_entropy: float) -> tuple[Floats, Floats]:
            result = probabilities * -by_log[:, None]
            result[rows, actions] += by_log
            if by_entropy:
                result -= (by_entropy / len(actions)) * probabilities * (logs + entropies)
            return result, spread
        return logs[rows, actions], float(entropies.mean()) / self._most, backward

    def to_commands(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Return the actions as the environment takes them."""
        return actions

    def from_commands(self, commands: NDArray[Any]) -> NDArray[Any]:
        """Return what would have given these commands."""
        return commands


class Gaussian:
    """
    Actions within bounds: a normal distribution around tanh of the outputs, clipped to the bounds.

    It works in units in which the bounds are -1 and 1. The mean depends on the state and never
    leaves the bounds; the spread is learned, one for each dimension. Probabilities are those of the
    number drawn, before it is clipped.
    """

    def __init__(self, actions: Continuous) -> None:
        """Choose within `actions`; raises ValueError unless low < high in every dimension."""
        low, high = np.array(actions.low, np.float32), np.array(actions.high, np.float32)
        if low.shape != high.shape or not low.size or not (np.isfinite(low) & np.isfinite(high)).all() \
                or not (low < high).all():
            raise ValueError(f'the bounds of continuous actions must be finite and low < high, not {actions}')
        self._low, self._high = low, high
        self._centre, self._half = (high + low) / 2, (high - low) / 2
        self.outputs = self.spreads = len(low)
        self.shape: tuple[int, ...] = low.shape
        self.type: type[np.generic] = np.float32

    def sample(self, outputs: Floats, spread: Floats, generator: np.random.Generator) \
            -> tuple[NDArray[Any], Floats]:
        """Draw an action of each row; return the actions and their log-probabilities."""
        noise: NDArray[Any] = generator.standard_normal(outputs.shape, dtype=np.float32)
        actions = np.tanh(outputs) + np.exp(spread) * noise
        return actions, self._log_density(noise, spread)

    @staticmethod
    def _log_density(noise: NDArray[Any], spread: Floats) -> Floats:
        result: Floats = (-0.5 * noise * noise - spread - np.float32(_HALF_LOG_TAU)).sum(axis=1)
        return result

    def uniform(self, rows: int, generator: np.random.Generator) -> tuple[NDArray[Any], Floats]:
        """Draw actions regardless of any state; return them and their log-probabilities."""
        actions = generator.uniform(-1.0, 1.0, (rows, self.outputs)).astype(np.float32)
        return actions, np.full(rows, -math.log(2.0) * self.outputs, np.float32)

    def best(self, outputs: Floats) -> NDArray[Any]:
        """Return the mean of each row."""
        return np.tanh(outputs)

    def evaluate(self, outputs: Floats, spread: Floats, actions: NDArray[Any]) \
            -> tuple[Floats, float, Backward]:
        """Return what Categorical.evaluate does; how random the policy is: its mean spread, at most 1."""
        means, deviation = np.tanh(outputs), np.exp(spread)
        noise: NDArray[Any] = (actions - means) / deviation

        def backward(by_log: Floats, by_entropy: float) -> tuple[Floats, Floats]:
            by_outputs: NDArray[Any] = by_log[:, None] * noise / deviation * (1.0 - means * means)
            return by_outputs, by_log @ (noise * noise - 1.0) + np.float32(by_entropy)
        return self._log_density(noise, spread), min(1.0, float(deviation.mean())), backward

    def to_commands(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Return the actions clipped and in the units of the bounds."""
        return np.clip(self._centre + self._half * actions, self._low, self._high)

    def from_commands(self, commands: NDArray[Any]) -> NDArray[Any]:
        """Return what would have given these commands."""
        return ((commands - self._centre) / self._half).astype(np.float32)


type Policy = Categorical | Gaussian


def _log_softmax(outputs: Floats) -> Floats:
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
