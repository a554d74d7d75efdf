# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Returns over several steps (Sutton & Barto 2018, section 7.1)."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from muster.learning.agents.base import count, finite, Transition
import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float32]


@dataclass(slots=True)
class _Start:
    """A transition that is still under way: how far it has come and what it has gathered."""

    state: Floats
    action: int
    total: float = 0.0
    steps: int = 0
    factor: float = 1.0


class NStepWindow:
    """
    Joins up to `length` transitions into one: from the first state to the last, with their rewards.

    Where a sequence ends, shorter ones remain: none reaches beyond the end of a task, of its time,
    or a break of the sequence. Only the end of a task means that nothing follows.
    """

    def __init__(self, length: int, add: Callable[[Floats, int, float, Floats, int], None]) -> None:
        """Hand what is joined to `add(state, action, reward, next_state, steps)`, as Replay.add."""
        self.length, self._add = length, add
        self._window: deque[_Start] = deque(maxlen=length)
        self._reached: Floats | None = None  # the state after the last transition

    def push(self, transition: Transition[Floats], discount: float) -> None:
        """Take the transition that followed the last one."""
        assert isinstance(transition.action, int)
        if self.length == 1:
            self._add(transition.state, transition.action, transition.reward, transition.next_state,
                      0 if transition.terminated else 1)
            return
        self._window.append(_Start(transition.state, transition.action))
        self._reached = transition.next_state
        for start in self._window:
            start.total += start.factor * transition.reward
            start.factor *= discount
            start.steps += 1
        if transition.terminated or transition.truncated:
            self.cut(transition.terminated)
        elif self._window[0].steps == self.length:
            self._emit(self._window.popleft(), False)

    def cut(self, terminated: bool = False) -> None:
        """End the sequence here: hand over what is under way, at its present length."""
        while self._window:
            self._emit(self._window.popleft(), terminated)
        self._reached = None

    def _emit(self, start: _Start, terminated: bool) -> None:
        assert self._reached is not None
        self._add(start.state, start.action, start.total, self._reached, 0 if terminated else start.steps)

    def export(self) -> list[dict[str, Any]]:
        """Return a copy of what is under way as JSON values."""
        assert not self._window or self._reached is not None
        return [{**asdict(start), 'state': start.state.tolist(), 'reached': self._reached.tolist()}
                for start in self._window if self._reached is not None]

    def restore(self, document: Any, size: int, actions: int) -> None:
        """
        Take over what `export` returned, for states of `size` elements and so many actions.

        Raises ValueError and changes nothing if it is unsound.
        """
        try:
            reached = _vector(document[-1]['reached'], size) if document else None
            starts = [_Start(_vector(entry['state'], size), count(entry['action']), finite(entry['total']),
                             count(entry['steps']), finite(entry['factor'])) for entry in document]
        except (KeyError, TypeError) as error:
            raise ValueError(f'the transitions under way are incomplete: {error}') from error
        if len(starts) >= self.length or any(
                start.action >= actions or start.steps != len(starts) - i for i, start in enumerate(starts)):
            raise ValueError('the transitions under way are unsound')
        self._window, self._reached = deque(starts, maxlen=self.length), reached


def _vector(values: Any, size: int) -> Floats:
    if not isinstance(values, list) or len(values) != size:
        raise ValueError(f'a state has {size} values')
    return np.array([finite(value) for value in values], np.float32)
