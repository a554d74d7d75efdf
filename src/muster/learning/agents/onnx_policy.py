# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Policies that were trained elsewhere and exported to ONNX; they act, but do not learn.

The model has one input, float32 of shape [batch, elements] or [elements]: the observation as the
specification makes it, so that normalisation belongs into the model. Its output (the one named `action`
or `actions`, else the first) is, for named actions, one value of each (the highest wins) or the number of
one (an integer type); for continuous actions one number of each, in the units of the message fields, or,
with `squashed`, within -1..1, to be scaled to their ranges. Whatever is beyond the ranges is clamped.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass
import hashlib
import importlib
from pathlib import Path
from typing import Any

from muster.durable import read_bounded
from muster.learning.agents.base import (
    Actions, Agent, Choice, Discrete, finite, hyperparameter, Hyperparameters, LearningMode, Statistics,
    Transition)
import numpy as np
from numpy.typing import NDArray

MAXIMUM_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class OnnxParameters(Hyperparameters):
    """How the output of a policy trained elsewhere is to be read."""

    squashed: bool = hyperparameter(
        False, 'Continuous outputs are within -1..1 and are scaled to the ranges of the actions.', live=False)


class OnnxPolicy(Agent[NDArray[np.float32]]):
    """
    Acts by an ONNX model; needs the package onnxruntime.

    An output that is not finite raises FloatingPointError, for which the control cycle gives the safe
    action. The model's bytes are part of what is saved.
    """

    kind = 'onnx'
    parameters: OnnxParameters

    def __init__(self, actions: Actions, elements: int, model: Path | bytes,
                 parameters: OnnxParameters | None = None) -> None:
        """
        Load and try a model for observations of shape (elements,).

        Raises ValueError naming the file and what does not fit: too large, unsound, other shapes.
        """
        self.actions, self.elements = actions, elements
        self.parameters = parameters or OnnxParameters()
        self.statistics = Statistics()
        if not isinstance(actions, Discrete):
            self._low, self._high = np.array(actions.low, np.float32), np.array(actions.high, np.float32)
        content = model if isinstance(model, bytes) else _read(model)
        try:
            self._use(content)
        except ValueError as error:
            name = 'the ONNX model' if isinstance(model, bytes) else str(model)
            raise ValueError(f'{name}: {error}') from error

    def _use(self, content: bytes) -> None:
        """Take over a model; raises ValueError and changes nothing if it does not fit."""
        session = _session(content)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != 'tensor(float)':
            found = ', '.join(f'{item.name} {item.type}' for item in inputs)
            raise ValueError(f'has the inputs {found}: it must have one, the observation, tensor(float)')
        shape = inputs[0].shape
        own = (1, self.elements)[-len(shape):]
        # What has a name, or none, in place of a number takes any.
        if len(shape) not in (1, 2) or any(isinstance(size, int) and size != fits
                                           for size, fits in zip(shape, own, strict=True)):
            raise ValueError(f'takes {shape}, but the observation makes [1, {self.elements}]: the terms must '
                             'be those that it was trained with, in that order')
        named = [item.name for item in outputs if item.name in ('action', 'actions')]
        output, buffer = (named or [outputs[0].name])[0], np.zeros(own, np.float32)
        self._check(output, _run(session, output, inputs[0].name, buffer))
        self._content, self._session, self._output = content, session, output
        self._input, self._buffer = inputs[0].name, buffer

    def _check(self, name: str, tried: Any) -> None:
        found = f"output '{name}' is {getattr(tried, 'dtype', type(tried).__name__)} {np.shape(tried)}"
        numbered = isinstance(tried, np.ndarray) and tried.dtype.kind in 'iu'
        wanted = self.actions.n if isinstance(self.actions, Discrete) else len(self.actions.low)
        if isinstance(self.actions, Discrete) and numbered and tried.size == 1:
            return
        if not isinstance(tried, np.ndarray) or tried.dtype.kind != 'f' or tried.size != wanted:
            one = ' or the number of one' if isinstance(self.actions, Discrete) else ''
            raise ValueError(f'{found}, but there are {wanted} actions: it must be one number for each{one}')

    def encode(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a copy of the observation, of shape (elements,)."""
        return observation.astype(np.float32)

    def act(self, state: NDArray[np.float32], mode: LearningMode) -> Choice:
        """Choose by the model, the same in every mode; FloatingPointError on an output that is not finite."""
        self._buffer[...] = state
        values = _run(self._session, self._output, self._input, self._buffer).ravel()
        if not np.isfinite(values).all():
            raise FloatingPointError(f'the ONNX model returned {values.tolist()[:8]}')
        if not isinstance(self.actions, Discrete):
            if self.parameters.squashed:
                values = self._low + (self._high - self._low) * 0.5 * (values + 1.0)
            return Choice(np.clip(values, self._low, self._high).astype(np.float32), False)
        number = int(values.argmax() if values.dtype.kind == 'f' else values[0])
        if not 0 <= number < self.actions.n:
            raise ValueError(f'the ONNX model chose action {number} of 0..{self.actions.n - 1}')
        return Choice(number, False)

    def observe(self, transition: Transition[NDArray[np.float32]]) -> None:
        """Count the reward; nothing is learned."""
        self.statistics.observed(finite(transition.reward))

    def learn(self) -> None:
        """Learn nothing: nothing is ever due."""

    def decay(self) -> None:
        """Change nothing: there are no schedules."""

    @property
    def epsilon(self) -> float:
        """Return 0: it never explores."""
        return 0.0

    @property
    def states(self) -> int:
        """Return 0: it keeps no states."""
        return 0

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the model's bytes and the statistics."""
        return ({'parameters': asdict(self.parameters), 'statistics': self.statistics.export(),
                 'sha256': hashlib.sha256(self._content).hexdigest()},
                {'model': np.frombuffer(self._content, np.uint8).copy()})

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        try:
            parameters = OnnxParameters.restored(document['parameters'])
            statistics, model = Statistics.restored(document['statistics']), arrays['model']
        except (KeyError, TypeError) as error:
            raise ValueError(f'an entry is missing or of the wrong type: {error}') from error
        if model.dtype != np.uint8 or model.ndim != 1:
            raise ValueError('the ONNX model is not a row of bytes')
        self._use(model.tobytes())
        self.parameters, self.statistics = parameters, statistics


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, MAXIMUM_BYTES)
    except OSError as error:
        raise ValueError(f'{path}: cannot be read: {error.strerror}') from error
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def _session(content: bytes) -> Any:
    """Return an inference session on one thread of the processor."""
    try:
        runtime = importlib.import_module('onnxruntime')
    except ImportError as error:
        raise ValueError("an agent of kind 'onnx' needs the package onnxruntime: python -m pip install "
                         'onnxruntime') from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong is raised
    try:
        return runtime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # the runtime has no common class of errors
        raise ValueError(f'is not a sound ONNX model: {str(error)[:500]}') from error


def _run(session: Any, output: str, name: str, observation: NDArray[np.float32]) -> Any:
    try:
        return session.run([output], {name: observation})[0]
    except Exception as error:  # the runtime has no common class of errors
        raise ValueError(f'the ONNX model failed: {str(error)[:500]}') from error
