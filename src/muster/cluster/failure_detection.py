# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Who is alive, as far as can be told from when they were heard.

The accrual failure detector of Hayashibara, Défago, Yared and Katayama ("The phi accrual failure
detector", SRDS 2004): phi is minus the decimal logarithm of the probability that a member which is
alive is silent for so long, given how its messages arrived so far. So it adapts to the heartbeats'
period and jitter; its thresholds are levels of confidence. Arrivals are taken as normally distributed,
as in the paper.
"""
from __future__ import annotations

from collections import deque
from math import isqrt
from statistics import NormalDist

from muster.cluster.state.commands import Health

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND
#: Inter-arrival times that are remembered of each member.
WINDOW = 64


class _Arrivals:
    """When one member was heard, with the sums that mean and variance are made of."""

    __slots__ = ('intervals', 'last', 'squares', 'total')

    def __init__(self, at: int) -> None:
        self.last = at
        self.intervals: deque[int] = deque(maxlen=WINDOW)
        self.total = self.squares = 0     # whole numbers: nothing is lost by adding and subtracting

    def add(self, interval: int) -> None:
        """Take in an inter-arrival time."""
        if len(self.intervals) == WINDOW:
            oldest = self.intervals[0]
            self.total -= oldest
            self.squares -= oldest * oldest
        self.intervals.append(interval)
        self.total += interval
        self.squares += interval * interval

    def distribution(self) -> tuple[int, int]:
        """Return mean and standard deviation."""
        count = len(self.intervals)
        if not count:
            return 0, 0
        return self.total // count, isqrt(self.squares * count - self.total * self.total) // count


class FailureDetector:
    """
    Tells members that are alive, suspect and dead apart. Times are nanoseconds of one clock.

    `suspect_phi` and `dead_phi` are the levels of confidence: 8 is one mistake in 10^8 if arrivals
    are normally distributed. As they are not, nobody is suspected or declared dead before a silence
    of `suspect_silence` and `dead_silence` either, and the deviation is taken for `least_deviation`
    and a quarter of the period at least: a single lost message is no reason. The defaults suit
    heartbeats of 50 ms to 1 s.
    """

    def __init__(self, suspect_phi: float = 8.0, dead_phi: float = 16.0,
                 suspect_silence: int = 4 * SECOND, dead_silence: int = 10 * SECOND,
                 least_deviation: int = 50 * MILLISECOND) -> None:
        """Know nobody; raise ValueError where a threshold cannot be."""
        if not 1 <= suspect_phi <= dead_phi <= 300 or not 0 < suspect_silence <= dead_silence \
                or least_deviation < 0:
            raise ValueError('phi must be within 1 and 300, silences positive, and the thresholds for dead '
                             'not below those for suspect')
        # phi exceeds a threshold where the silence exceeds the mean by so many deviations.
        self._suspect = -NormalDist().inv_cdf(10 ** -suspect_phi), suspect_silence
        self._dead = -NormalDist().inv_cdf(10 ** -dead_phi), dead_silence
        self._least_deviation = least_deviation
        self._arrivals: dict[str, _Arrivals] = {}

    def heard(self, member: str, at: int) -> None:
        """Note that a message of a member arrived."""
        arrivals = self._arrivals.setdefault(member, _Arrivals(at))
        interval = at - arrivals.last
        if interval <= 0:
            return
        # A silence that made it dead says nothing about its rhythm.
        if interval < self._dead[1] or at < self._end(arrivals, self._dead):
            arrivals.add(interval)
        arrivals.last = at

    def resumed(self, now: int) -> None:
        """
        Learn that this judge itself stood still until now.

        What was sent meanwhile may lie unread or be lost: every silence counts from now.
        """
        for arrivals in self._arrivals.values():
            arrivals.last = max(arrivals.last, now)

    def health(self, member: str, now: int) -> Health:
        """Return how a member is; one that was never heard is expected from its first question on."""
        arrivals = self._arrivals.setdefault(member, _Arrivals(now))
        if now < self._end(arrivals, self._suspect):
            return Health.ALIVE
        return Health.SUSPECT if now < self._end(arrivals, self._dead) else Health.DEAD

    def _end(self, arrivals: _Arrivals, threshold: tuple[float, int]) -> int:
        """Return from when on the silence of a member is too long for a threshold."""
        deviations, least = threshold
        mean, deviation = arrivals.distribution()
        deviation = max(deviation, self._least_deviation, mean // 4)
        return arrivals.last + max(least, mean + int(deviations * deviation))
