# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""How the control cycle keeps time: what is measured, and how much learning fits in."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


class Window:
    """The newest values of something that is measured."""

    def __init__(self, size: int = 500) -> None:
        """Keep `size` values."""
        self._values = np.zeros(size)
        self._count = 0

    def __len__(self) -> int:
        """Return how many values there are."""
        return min(self._count, len(self._values))

    def add(self, value: float) -> None:
        """Add a value in place of the oldest."""
        self._values[self._count % len(self._values)] = value
        self._count += 1

    @property
    def mean(self) -> float:
        """Return the mean, 0 where there is nothing."""
        return float(self._values[:len(self)].mean()) if self._count else 0.0

    @property
    def maximum(self) -> float:
        """Return the largest value, 0 where there is nothing."""
        return float(self._values[:len(self)].max()) if self._count else 0.0

    def percentile(self, percent: float) -> float:
        """Return the value that `percent` (0..100) of all are below, 0 where there is nothing."""
        return float(np.percentile(self._values[:len(self)], percent)) if self._count else 0.0


@dataclass
class CycleStatistics:
    """What the newest cycles measured, in seconds, and counts since the cycle began."""

    time: Window = field(default_factory=Window)
    """From the begin of a cycle until its command was out, without learning."""
    learning: Window = field(default_factory=Window)
    """Spent on learning in a cycle."""
    jitter: Window = field(default_factory=Window)
    """How far the distance of two cycles was from the period."""
    staleness: Window = field(default_factory=Window)
    """Age of the stalest term when it was used."""
    latency: Window = field(default_factory=Window)
    """From the stalest term to the command made of it: staleness and time."""
    late: int = 0
    """Cycles that came two periods or more after the last one: a deadline was missed."""
    safe: int = 0
    """Cycles that gave the safe action."""
    units: int = 0
    """Units of learning done."""


class Budget:
    """
    Decides whether one more unit of learning fits before a deadline.

    It expects the next unit to take as long as the longest of the last ones; what it expects fades
    while nothing fits, so that one slow unit does not end learning for good.
    """

    FADING = 0.98

    def __init__(self) -> None:
        """Expect nothing yet."""
        self.expected = 0.0

    def fits(self, seconds: float) -> bool:
        """Return whether a unit is expected to take at most `seconds`."""
        if self.expected <= seconds:
            return True
        self.expected *= self.FADING
        return False

    def took(self, seconds: float) -> None:
        """Take note of how long a unit took."""
        self.expected = max(seconds, self.expected * self.FADING)
