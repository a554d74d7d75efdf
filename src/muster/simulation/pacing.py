# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""How many steps of simulated time are due at a moment of real time."""
from __future__ import annotations

import math

#: The timer ticks at most so often [Hz]; a faster world makes several steps in one tick.
MAX_TICKS = 200.0
#: A late world catches up at most so much real time in one tick [s]; what is older is dropped.
CATCH_UP = 0.25


class Pacer:
    """
    Spread `speed` steps per second of real time over the ticks of a timer.

    Ticks come late and early; rounding keeps one step for each tick then, instead of none or two.
    """

    def __init__(self, speed: float, now: float) -> None:
        """Begin at `now` [s]; `speed` > 0 is steps per second of real time."""
        self.speed = speed
        self.period = 1.0 / min(speed, MAX_TICKS)
        self.dropped = 0
        self._limit = max(1, math.ceil(speed * CATCH_UP))
        self._last = now
        self._owed = 0.0

    def due(self, now: float) -> int:
        """Return how many steps to make now; those beyond the limit are counted in `dropped`."""
        self._owed += (now - self._last) * self.speed
        self._last = now
        due = max(0, round(self._owed))
        self._owed -= due
        self.dropped += max(0, due - self._limit)
        return min(due, self._limit)
