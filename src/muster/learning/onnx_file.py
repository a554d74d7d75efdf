# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Policies of this package as ONNX files, with normalisation and scaling inside; no package is needed.

Only what perceptrons need of the format (onnx.proto, IR version 8, operator set 13) is written, as
protocol buffers by hand: numbers in brackets below are those of its fields.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muster.learning.agents.base import Agent, Continuous
from muster.learning.agents.dqn import DQN
from muster.learning.agents.ppo import PPO
from muster.learning.normaliser import CLIP, EPSILON
import numpy as np
from numpy.typing import NDArray

_FLOAT = 1
_IR_VERSION, _OPSET = 8, 13


def perceptron(layers: Sequence[tuple[NDArray[Any], NDArray[Any]]], activation: str = 'relu', *,
               mean: NDArray[Any] | None = None, deviation: NDArray[Any] | None = None,
               clip: float | None = None, squash: str = '', low: NDArray[Any] | None = None,
               high: NDArray[Any] | None = None) -> bytes:
    """
    Return an ONNX model of a multilayer perceptron, from `observation` [batch, n] to `action` [batch, m].

    `layers`: weights [inputs, outputs] and biases [outputs] of each; `activation` 'relu' or 'tanh'
    between them. The observation is first normalised, (x - mean) / deviation, and clipped to
    -clip..clip. With `low` and `high` [m] the output is clamped to them; with `squash` 'tanh' it is
    put through tanh and then scaled to them. Raises ValueError.
    """
    if activation not in ('relu', 'tanh') or squash not in ('', 'tanh'):
        raise ValueError("the activation must be 'relu' or 'tanh', squash '' or 'tanh'")
    graph = _Graph('observation')
    if mean is not None and deviation is not None:
        graph.apply('Sub', mean)
        graph.apply('Div', deviation)
    if clip is not None:
        graph.apply('Clip', np.array(-clip), np.array(clip))
    for number, (weights, biases) in enumerate(layers):
        graph.apply('Gemm', weights, biases)
        if number < len(layers) - 1:
            graph.apply('Relu' if activation == 'relu' else 'Tanh')
    if low is not None and high is not None:
        if squash:
            graph.apply('Tanh')
            graph.apply('Mul', 0.5 * (np.asarray(high) - low))
            graph.apply('Add', 0.5 * (np.asarray(high) + low))
        # Max and Min, because Clip takes scalars only.
        graph.apply('Max', low)
        graph.apply('Min', high)
    return graph.model(len(layers[0][0]), 'action', len(layers[-1][1]))


def export_policy(agent: Agent[Any]) -> bytes:
    """
    Return what an agent does in mode exploitation as an ONNX model, normalisation and ranges inside.

    Raises ValueError where it has no network.
    """
    if isinstance(agent, DQN):
        *hidden, (weights, biases) = agent.network.layers
        skipped = agent.parameters.duelling  # the value of the state itself decides nothing
        return perceptron([*hidden, (weights[:, skipped:], biases[skipped:])], agent.network.activation)
    if not isinstance(agent, PPO):
        raise ValueError(f"an agent of kind '{agent.kind}' has no network to export")
    scaling: dict[str, Any] = {}
    if agent.parameters.normalise_observations:
        moments = agent.observations.moments
        scaling = {'mean': moments.mean, 'deviation': np.sqrt(moments.variance + EPSILON), 'clip': CLIP}
    if isinstance(agent.actions, Continuous):
        low, high = np.array(agent.actions.low), np.array(agent.actions.high)
        scaling |= {'squash': 'tanh', 'low': low, 'high': high}
    return perceptron(agent.actor.layers, agent.actor.activation, **scaling)


class _Graph:
    """A chain of operations, each on the result of the last and on constants."""

    def __init__(self, name: str) -> None:
        self._first = self._last = name
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []

    def apply(self, operation: str, *constants: Any) -> None:
        """Append an operation."""
        names = [f'c{len(self._constants) + number}' for number in range(len(constants))]
        for name, values in zip(names, constants, strict=True):
            self._constants.append(_tensor(name, np.asarray(values, '<f4')))
        result = f'r{len(self._nodes)}'
        inputs = b''.join(_bytes(1, name.encode()) for name in (self._last, *names))
        self._nodes.append(inputs + _bytes(2, result.encode()) + _bytes(4, operation.encode()))
        self._last = result

    def model(self, inputs: int, name: str, outputs: int) -> bytes:
        """Return the whole ModelProto; the last result gets a name."""
        self._nodes.append(_bytes(1, self._last.encode()) + _bytes(2, name.encode())
                           + _bytes(4, b'Identity'))
        graph = b''.join([*(_bytes(1, node) for node in self._nodes), _bytes(2, b'policy'),
                          *(_bytes(5, constant) for constant in self._constants),
                          _bytes(11, _value(self._first, inputs)), _bytes(12, _value(name, outputs))])
        return (_number(1, _IR_VERSION) + _bytes(2, b'muster') + _bytes(7, graph)
                + _bytes(8, _bytes(1, b'') + _number(2, _OPSET)))


def _tensor(name: str, values: NDArray[Any]) -> bytes:
    """TensorProto: dims [1], data_type [2], name [8], raw_data [9]."""
    dims = b''.join(_number(1, size) for size in values.shape)
    return dims + _number(2, _FLOAT) + _bytes(8, name.encode()) + _bytes(9, values.tobytes())


def _value(name: str, size: int) -> bytes:
    """ValueInfoProto: name [1], type [2], of a float tensor of shape [batch, size]."""
    shape = _bytes(1, _bytes(2, b'batch')) + _bytes(1, _number(1, size))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, shape)))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7f:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
