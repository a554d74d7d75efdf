# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What an episode earns and when it ends: told by a topic, or computed from the observation."""
from __future__ import annotations

from collections.abc import Callable, Mapping
import math
from typing import Any, Protocol

from muster.learning.expression import Expression, Values
from muster.learning.fields import FieldError, parse_path
from muster.learning.specification import Formula, Source


def scalar_reader(field: str) -> Callable[[Any], float]:
    """Return a function from a message to one number, NaN where the message does not have it."""
    read = parse_path(field).reader()

    def scalar(message: Any) -> float:
        try:
            return float(read(message))
        except (IndexError, FieldError):
            return math.nan
    return scalar


class Reward(Protocol):
    """Gives the reward of each cycle."""

    topic: str
    """Whose messages `receive` takes; empty if none."""

    def receive(self, message: Any, now: float) -> None:
        """Take a message that arrived at `now` (seconds)."""

    def take(self, now: float, values: Values, previous: Values) -> tuple[float, str]:
        """Return the reward since the last call and what is wrong with it (empty: nothing)."""


class TopicReward:
    """Sums the samples of the reward topic between two cycles."""

    def __init__(self, source: Source, max_age: float) -> None:
        """Compile the field; `max_age` in seconds."""
        self.topic = source.topic
        self._read = scalar_reader(source.field)
        self._max_age = max_age
        self._sum, self._arrived = 0.0, -math.inf

    def receive(self, message: Any, now: float) -> None:
        """Add one sample."""
        self._sum += self._read(message)
        self._arrived = now

    def take(self, now: float, values: Values, previous: Values) -> tuple[float, str]:
        """Return the sum since the last call and what is wrong with it (empty: nothing)."""
        total, self._sum = self._sum, 0.0
        if not math.isfinite(total):
            return 0.0, 'a reward was not a finite number'
        if now - self._arrived > self._max_age:
            return 0.0, f"no reward on '{self.topic}' for more than {self._max_age:g} s"
        return total, ''


class ComputedReward:
    """An expression of the observation that an action led to, and of the one before."""

    topic = ''

    def __init__(self, formula: Formula, places: Mapping[str, slice]) -> None:
        """Compile the expression."""
        self._expression = Expression(formula.text, places)

    def receive(self, message: Any, now: float) -> None:
        """Take nothing: it has no topic."""

    def take(self, now: float, values: Values, previous: Values) -> tuple[float, str]:
        """Return the value and what is wrong with it (empty: nothing)."""
        value = self._expression(values, previous)
        return (value, '') if math.isfinite(value) else (0.0, 'the reward expression has no finite value')


class EpisodeEnd:
    """Tells when the task ended: a value of a topic or of an expression that is not 0 (NaN is not)."""

    def __init__(self, told: Source | Formula | None, places: Mapping[str, slice]) -> None:
        """Compile the field or the expression."""
        self.topic = told.topic if isinstance(told, Source) else ''
        self._read = scalar_reader(told.field) if isinstance(told, Source) else None
        self._expression = Expression(told.text, places) if isinstance(told, Formula) else None
        self._told = False

    def receive(self, message: Any) -> None:
        """Take a message of the topic."""
        if self._read is not None:
            self._told |= abs(self._read(message)) > 0.0

    def take(self, values: Values, previous: Values) -> bool:
        """Return whether the task ended since the last call."""
        told, self._told = self._told, False
        if self._expression is not None:
            return abs(self._expression(values, previous)) > 0.0
        return told


def make_reward(told: Source | Formula, max_age: float, places: Mapping[str, slice]) -> Reward:
    """Compile what the specification says about the reward."""
    return TopicReward(told, max_age) if isinstance(told, Source) else ComputedReward(told, places)
