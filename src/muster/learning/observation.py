# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""From messages to the observation vector, and whether it can be trusted."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
from typing import Any

from muster.learning.fields import parse_path
from muster.learning.specification import Term
import numpy as np
from numpy.typing import NDArray

_REDUCTIONS: dict[str, Any] = {'min': np.min, 'mean': np.mean, 'max': np.max}


class ObservationError(Exception):
    """A message whose values cannot be used; the message says why."""


class TermReader:
    """The compiled form of one term: from a message to its values."""

    def __init__(self, term: Term) -> None:
        """Compile the term."""
        self.term = term
        path = parse_path(term.source.field)
        self._read = path.reader()
        self._size = path.size
        self._array = next((step.name for step in path.steps if not isinstance(step.subscript, int | None)),
                           path.steps[-1].name)
        self._missing = {'clip_low': 0, 'clip_high': 1}.get(term.nan_policy)

    def __call__(self, message: Any) -> NDArray[np.float32]:
        """
        Return the values of shape (term.size,).

        Infinities mean 'beyond the range' (REP 117) and are clipped; NaN goes by the term's policy.
        Raises ObservationError on a wrong length and on values that remain not finite.
        """
        term = self.term
        try:
            values = np.array(self._read(message), np.float64, ndmin=1)
        except IndexError as error:
            raise ObservationError(f"'{term.source.field}' is beyond the end of the array") from error
        if self._size is not None and values.size != self._size:
            raise ObservationError(f"'{term.source.field}' gave {values.size} values instead of {self._size}")
        if values.size == 0:
            raise ObservationError(f"'{term.source.field}' is empty")
        if term.length is not None and len(getattr(message, self._array)) != term.length:
            raise ObservationError(f"'{self._array}' has {len(getattr(message, self._array))} values "
                                   f'instead of {term.length}')
        if term.clip:
            if self._missing is not None:
                values[np.isnan(values)] = term.clip[self._missing]
            values = np.minimum(np.maximum(values, term.clip[0]), term.clip[1])
        if term.reduce != 'none':
            values = _REDUCTIONS[term.reduce](values, keepdims=True)
        values = values * term.scale + term.offset
        if not np.isfinite(values).all():
            raise ObservationError(f"'{term.source.field}' is not finite")
        return values.astype(np.float32)


@dataclass(frozen=True)
class Sample:
    """
    The observation of one cycle.

    `values` has shape (elements,), float32; it may be used only if `problem` is empty. `oldest` is
    the age of the stalest term in seconds, -1 if one never arrived.
    """

    values: NDArray[np.float32]
    problem: str
    oldest: float


class Observer:
    """Keeps the newest message of each topic and samples all terms together."""

    def __init__(self, terms: Sequence[Term]) -> None:
        """Compile the terms."""
        self._readers = [TermReader(term) for term in terms]
        ends = np.cumsum([term.size for term in terms])
        self._places = [slice(end - term.size, end) for term, end in zip(terms, ends, strict=True)]
        self._values = np.empty(int(ends[-1]), np.float32)
        self._latest: dict[str, tuple[Any, float]] = {}
        self.topics = {term.source.topic for term in terms}
        self.forget()

    def forget(self) -> None:
        """Drop all messages, so that every term must arrive anew."""
        self._latest.clear()
        for reader, place in zip(self._readers, self._places, strict=True):
            self._values[place] = reader.term.default

    def receive(self, topic: str, message: Any, now: float) -> None:
        """Take a message that arrived at `now` (seconds on the clock that `sample` is given)."""
        self._latest[topic] = message, now

    def sample(self, now: float, clock: float) -> Sample:
        """
        Return the observation at `now`; `clock` is the time that stamps are made with, seconds.

        A term is stale when it arrived, or was stamped, more than its maximum age ago, and broken
        when its stamp is that far in the future. A stamp of zero says nothing.
        """
        problem, oldest = '', 0.0
        for reader, place in zip(self._readers, self._places, strict=True):
            term, latest = reader.term, self._latest.get(reader.term.source.topic)
            age = _age(latest, now, clock)
            oldest = -1.0 if oldest < 0.0 or latest is None else max(oldest, age)
            try:
                if latest is None:
                    raise ObservationError(f"no message on '{term.source.topic}' yet")
                if not -term.max_age <= age <= term.max_age:
                    raise ObservationError(_stale(term, age))
                self._values[place] = reader(latest[0])
            except ObservationError as error:
                if term.required:
                    problem = problem or f"observation term '{term.name}': {error}"
                elif term.on_stale == 'default':
                    self._values[place] = term.default
        return Sample(self._values.copy(), problem, oldest)


def _age(latest: tuple[Any, float] | None, now: float, clock: float) -> float:
    """Return the age by arrival or by stamp, whichever is further from now."""
    if latest is None:
        return 0.0
    message, arrived = latest
    stamp = getattr(getattr(message, 'header', None), 'stamp', None)
    if stamp is None or (stamp.sec == 0 and stamp.nanosec == 0):
        return now - arrived
    return max(now - arrived, clock - stamp.sec - stamp.nanosec * 1e-9, key=abs)


def _stale(term: Term, age: float) -> str:
    hint = ' (do use_sim_time here and of the sensor agree?)' if abs(age) > 3600.0 else ''
    if age < 0.0:
        return f"the stamp on '{term.source.topic}' is {-age:.2f} s in the future{hint}"
    return f"the last message on '{term.source.topic}' is {age:.2f} s old, allowed {term.max_age:g} s{hint}"


def scalar_reader(field: str) -> Callable[[Any], float]:
    """Return a function from a message to one number, NaN where the message is too short for it."""
    read = parse_path(field).reader()

    def scalar(message: Any) -> float:
        try:
            return float(read(message))
        except IndexError:
            return math.nan
    return scalar


class Reward:
    """Sums the samples of the reward topic between two cycles."""

    def __init__(self, field: str, max_age: float) -> None:
        """Compile the field; `max_age` in seconds."""
        self._read = scalar_reader(field)
        self._max_age = max_age
        self._sum, self._arrived = 0.0, -math.inf

    def receive(self, message: Any, now: float) -> None:
        """Add one sample."""
        self._sum += self._read(message)
        self._arrived = now

    def take(self, now: float) -> tuple[float, str]:
        """Return the sum since the last call and what is wrong with it (empty: nothing)."""
        total, self._sum = self._sum, 0.0
        if not math.isfinite(total):
            return 0.0, 'a reward was not a finite number'
        if now - self._arrived > self._max_age:
            return 0.0, f'no reward for more than {self._max_age:g} s'
        return total, ''
