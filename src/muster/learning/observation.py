# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""From messages to the observation vector, and whether it can be trusted."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from muster.learning.fields import FieldError, parse_path
from muster.learning.specification import Term
import numpy as np
from numpy.typing import NDArray

_UFUNCS: dict[tuple[str, str], Any] = {  # NaN goes through the first two; the others leave it out
    ('min', 'reject'): np.minimum, ('max', 'reject'): np.maximum,
    ('min', 'clip_high'): np.fmin, ('max', 'clip_low'): np.fmax}
_REDUCTIONS: dict[str, Any] = {'min': np.min, 'mean': np.mean, 'max': np.max}
_LARGEST = float(np.finfo(np.float32).max)


class ObservationError(Exception):
    """A message whose values cannot be used; the message says why."""


class _Feed:
    """The newest message of a topic, and how old it is."""

    __slots__ = ('age', 'arrived', 'furthest', 'message')

    def __init__(self) -> None:
        self.message: Any = None
        self.arrived = self.age = self.furthest = 0.0

    def look(self, now: float, clock: float) -> None:
        """Work out the age by arrival, and the age by arrival or stamp that is further from now."""
        self.age = self.furthest = now - self.arrived
        stamp = getattr(getattr(self.message, 'header', None), 'stamp', None)
        if stamp is not None and (stamp.sec or stamp.nanosec):
            stamped = clock - stamp.sec - stamp.nanosec * 1e-9
            if abs(stamped) > abs(self.age):
                self.furthest = stamped


class TermReader:
    """The compiled form of one term: from a message to its values, before clip, scale and offset."""

    def __init__(self, term: Term, place: slice, feed: _Feed) -> None:
        """Compile the term, whose values stand at `place` of the observation."""
        self.term, self.place, self.feed = term, place, feed
        self.by_arrival = term.stamp == 'arrival'
        path = parse_path(term.source.field)
        self._field = path.text
        self._read, self._array = path.reader(), path.array_reader()
        self._single = not path.several and term.length is None and term.reduce == 'none'
        whole = term.length is None and path.steps[path.array].subscript is None
        self._size = None if whole else path.size(term.length)
        self._reduction: Callable[[NDArray[np.float64]], float] | None = None
        if term.reduce != 'none':
            ufunc = _UFUNCS.get((term.reduce, term.nan_policy))
            self._reduction = ufunc.reduce if ufunc else self._reduce

    def __call__(self, message: Any, raw: NDArray[np.float64]) -> None:
        """Write the values into `raw`; raises ObservationError where the message does not have them."""
        try:
            if self._single:
                raw[self.place.start] = self._read(message)
                return
            self._check_length(message)
            values = self._read(message)
        except IndexError as error:
            raise ObservationError(f"'{self._field}' is beyond the end of the array") from error
        except FieldError as error:
            raise ObservationError(f"'{self._field}': {error}") from error
        if self._size is not None and len(values) != self._size:
            raise ObservationError(f"'{self._field}' gave {len(values)} values instead of {self._size}")
        if self._reduction is None:
            raw[self.place] = values
            return
        array = np.array(values, np.float64)
        if array.size == 0:
            raise ObservationError(f"'{self._field}' is empty")
        if self.term.valid:
            self.check_valid(array)
        raw[self.place.start] = self._reduction(array)

    def _check_length(self, message: Any) -> None:
        length = self.term.length
        if length is not None and len(self._array(message)) != length:
            raise ObservationError(f"'{self._field}' is of {len(self._array(message))} values instead of "
                                   f'{length}')

    def _reduce(self, values: NDArray[np.float64]) -> float:
        """Reduce what does not commute with the clipping of single values."""
        term = self.term
        if term.clip:
            if term.nan_policy != 'reject':
                values[np.isnan(values)] = term.clip[term.nan_policy == 'clip_high']
            values = np.minimum(np.maximum(values, term.clip[0]), term.clip[1])
        return float(_REDUCTIONS[term.reduce](values))

    def check_valid(self, values: NDArray[np.float64]) -> None:
        """Raise ObservationError on a finite value that cannot be true; infinity means out of reach."""
        low, high = self.term.valid or (-_LARGEST, _LARGEST)
        finite = values[np.isfinite(values)]
        for value in finite[(finite < low) | (finite > high)][:1].tolist():
            raise ObservationError(f"'{self._field}' gave {value:g}, outside its valid range "
                                   f'[{low:g}, {high:g}]')


@dataclass(frozen=True, slots=True)
class Sample:
    """
    The observation of one cycle.

    `values` has shape (elements,), float32, is of this cycle alone, and may be used only if
    `problem` is empty. `oldest` is the age of the stalest term in seconds, -1 if one never arrived.
    """

    values: NDArray[np.float32]
    problem: str
    oldest: float


class Observer:
    """
    Keeps the newest message of each topic and samples all terms together.

    Values are read term by term; missing values, clip, scale and offset are then done for all terms
    at once. What went wrong is looked for only when something did.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        """Compile the terms."""
        self._feeds = {term.source.topic: _Feed() for term in terms}
        ends = np.cumsum([term.size for term in terms]).tolist()
        self._readers = [TermReader(term, slice(end - term.size, end), self._feeds[term.source.topic])
                         for term, end in zip(terms, ends, strict=True)]
        self._raw, self._scaled, self._size = np.zeros(ends[-1]), np.zeros(ends[-1]), np.zeros(ends[-1])
        self._scale, self._offset = self._spread(lambda t: t.scale), self._spread(lambda t: t.offset)
        self._low = self._spread(lambda t: t.clip[0] if t.clip else -np.inf)
        self._high = self._spread(lambda t: t.clip[1] if t.clip else np.inf)
        self._missing = self._spread(lambda t: t.clip[t.nan_policy == 'clip_high']
                                     if t.clip and t.nan_policy != 'reject' else np.nan)
        self._clips = any(term.clip for term in terms)
        self._fills = any(term.nan_policy != 'reject' for term in terms)
        self._validated = [reader for reader in self._readers
                           if reader.term.valid and reader.term.reduce == 'none']
        self.topics = set(self._feeds)
        self.forget()

    def _spread(self, of: Callable[[Term], Any]) -> NDArray[np.float64]:
        """Return a number of each term at the places of all its values."""
        return np.concatenate([np.full(reader.term.size, of(reader.term), np.float64)
                               for reader in self._readers])

    def forget(self) -> None:
        """Drop all messages, so that every term must arrive anew."""
        for feed in self._feeds.values():
            feed.message = None
        self._values = self._spread(lambda term: term.default).astype(np.float32)

    def receive(self, topic: str, message: Any, now: float) -> None:
        """Take a message that arrived at `now` (seconds on the clock that `sample` is given)."""
        feed = self._feeds[topic]
        feed.message, feed.arrived = message, now

    def sample(self, now: float, clock: float) -> Sample:
        """
        Return the observation at `now`; `clock` is the time that stamps are made with, seconds.

        A term is stale when it arrived, or was stamped, more than its maximum age ago, and broken
        when its stamp is that far in the future. A stamp of zero says nothing.
        """
        for feed in self._feeds.values():
            feed.look(now, clock)
        broken: dict[int, str] = {}
        oldest, missing = 0.0, False
        for number, reader in enumerate(self._readers):
            term, feed = reader.term, reader.feed
            if feed.message is None:
                missing = True
                broken[number] = f"no message on '{term.source.topic}' yet"
                continue
            age = feed.age if reader.by_arrival else feed.furthest
            if age > oldest:
                oldest = age
            if not -term.max_age <= age <= term.max_age:
                broken[number] = _stale(term, age)
                continue
            try:
                reader(feed.message, self._raw)
            except ObservationError as error:
                broken[number] = str(error)
        return Sample(*self._finished(broken), -1.0 if missing else oldest)

    def _finished(self, broken: dict[int, str]) -> tuple[NDArray[np.float32], str]:
        """Turn what was read into the observation, and say what is wrong with it."""
        for number in broken:
            self._raw[self._readers[number].place] = 0.0
        for reader in self._validated:
            try:
                reader.check_valid(self._raw[reader.place])
            except ObservationError as error:
                broken.setdefault(self._readers.index(reader), str(error))
        if self._fills:
            np.copyto(self._raw, self._missing, where=np.isnan(self._raw))
        if self._clips:
            np.maximum(self._raw, self._low, out=self._raw)
            np.minimum(self._raw, self._high, out=self._raw)
        np.multiply(self._raw, self._scale, out=self._scaled)
        self._scaled += self._offset
        if not np.absolute(self._scaled, out=self._size).max() <= _LARGEST:
            self._find_not_finite(broken)
        values = self._scaled.astype(np.float32)
        problem = ''
        for number, reason in broken.items():
            term, place = self._readers[number].term, self._readers[number].place
            values[place] = term.default if term.on_stale == 'default' else self._values[place]
            if term.required:
                problem = problem or f"observation term '{term.name}': {reason}"
        self._values = values
        return values, problem

    def _find_not_finite(self, broken: dict[int, str]) -> None:
        for number, reader in enumerate(self._readers):
            if not (self._size[reader.place] <= _LARGEST).all():
                broken.setdefault(number, f"'{reader.term.source.field}' is not finite")
                self._scaled[reader.place] = 0.0


def _stale(term: Term, age: float) -> str:
    hint = ' (do use_sim_time here and of the sensor agree?)' if abs(age) > 3600.0 else ''
    if age < 0.0:
        return f"the stamp on '{term.source.topic}' is {-age:.2f} s in the future{hint}"
    return f"the last message on '{term.source.topic}' is {age:.2f} s old, allowed {term.max_age:g} s{hint}"
