# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Noticing that the world has changed, and learning anew because of it."""
from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any, Self

from muster.learning.agents.base import count, finite, hyperparameter, Hyperparameters

#: So many episodes make the first estimate of what is usual.
_FIRST = 20
#: Differences within this many standard deviations are tolerated (the test's delta).
_TOLERANCE = 0.25
#: Weight of a new return in what is usual: about the last 50 episodes count.
_WEIGHT = 0.02


@dataclass(frozen=True)
class DriftParameters(Hyperparameters):
    """Hyper-parameters of the answer to a world that changes, of every agent that learns."""

    drift_threshold: float = hyperparameter(
        0.0, 'Standard deviations that returns must have lost, added up over episodes, to be a drift; '
        '0: none is looked for. 20 to 50 are usual (Page 1954; Gama et al. 2014, section 3.2).', 0.0, 1e6)
    drift_learning_rate: float = hyperparameter(
        2.0, 'Factor on the learning rate right after a drift; falls back linearly to 1 over drift_steps.',
        1.0, 100.0)
    drift_steps: int = hyperparameter(
        5000, 'Steps that exploration and learning rate stay raised after a drift.', 1, 1_000_000_000)


@dataclass(frozen=True)
class EpsilonDriftParameters(DriftParameters):
    """The same, of agents that explore by random actions."""

    drift_epsilon: float = hyperparameter(
        0.3, 'Exploration rate right after a drift; falls back linearly over drift_steps.', 0.0, 1.0)


class PageHinkley:
    """
    The Page-Hinkley test (Page 1954, Hinkley 1971) for a fall of a sequence of numbers.

    Numbers are compared with their own running mean, in units of their running standard deviation,
    so the threshold does not depend on their scale. A rise is no alarm: that is learning.
    """

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.seen = 0
        self.mean = 0.0
        self.variance = 0.0
        self.fallen = 0.0
        """Standard deviations lost so far, beyond what is tolerated."""

    def update(self, value: float, threshold: float) -> bool:
        """Take the next number; return whether the sequence has fallen, and then begin anew."""
        deviation = value - self.mean
        if self.seen >= _FIRST:
            spread = max(math.sqrt(self.variance), 1e-6 * (1.0 + abs(self.mean)))
            # One number, however bad, is no drift.
            lost = min(max(-deviation / spread, -4.0), 4.0)
            self.fallen = max(0.0, self.fallen + lost - _TOLERANCE)
            if self.fallen > threshold:
                PageHinkley.__init__(self)
                return True
        self.seen += 1
        weight = max(1.0 / self.seen, _WEIGHT)
        self.mean += weight * deviation
        self.variance = (1.0 - weight) * (self.variance + weight * deviation * deviation)
        return False

    def export(self) -> list[float]:
        """Return all of it as JSON values."""
        return [self.seen, self.mean, self.variance, self.fallen]

    @classmethod
    def restored(cls, document: Any) -> Self:
        """Rebuild from `export()`; raises ValueError on anything else."""
        test = cls()
        try:
            seen, mean, variance, fallen = document
        except TypeError as error:
            raise ValueError(f'the drift test is unsound: {error}') from error
        test.seen, test.mean = count(seen), finite(mean)
        test.variance, test.fallen = finite(variance), finite(fallen)
        if test.variance < 0 or test.fallen < 0:
            raise ValueError('the drift test is unsound: it has a negative entry')
        return test


class DriftResponse:
    """Raises exploration and learning rate for a while after the returns of episodes have fallen."""

    def __init__(self) -> None:
        """Begin without a drift."""
        self.test = PageHinkley()
        self.since: int | None = None
        """The step of the last drift."""

    def episode(self, episode_return: float, step: int, parameters: DriftParameters) -> bool:
        """Take the return of an episode that ended at `step`; return whether it revealed a drift."""
        if parameters.drift_threshold == 0.0 \
                or not self.test.update(episode_return, parameters.drift_threshold):
            return False
        self.since = step
        return True

    def _strength(self, step: int, parameters: DriftParameters) -> float:
        if self.since is None:
            return 0.0
        return max(0.0, 1.0 - (step - self.since) / parameters.drift_steps)

    def active(self, step: int, parameters: DriftParameters) -> bool:
        """Return whether exploration is raised now."""
        return self._strength(step, parameters) > 0.0

    def exploration(self, step: int, usual: float, peak: float, parameters: DriftParameters) -> float:
        """Return how much to explore: as `usual`, or more; right after a drift as the `peak` is."""
        return max(usual, peak * self._strength(step, parameters))

    def learning_rate(self, step: int, usual: float, parameters: DriftParameters) -> float:
        """Return the learning rate: the `usual` one, or more."""
        return usual * (1.0 + (parameters.drift_learning_rate - 1.0) * self._strength(step, parameters))

    def export(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {'test': self.test.export(), 'since': self.since}

    @classmethod
    def restored(cls, document: Any) -> Self:
        """Rebuild from `export()`; raises ValueError, TypeError or KeyError on anything else."""
        response = cls()
        response.test = PageHinkley.restored(document['test'])
        response.since = None if document['since'] is None else count(document['since'])
        return response
