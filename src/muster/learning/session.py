# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""One stretch of training with an end, then evaluation: the bookkeeping of the action `Train`."""
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from muster.learning.agents.base import LearningMode
from muster.learning.cycle import Decision, End

MAXIMUM_STEPS = 10**9
MAXIMUM_EPISODES = 10**6
MAXIMUM_EVALUATIONS = 1000


@dataclass(frozen=True)
class Plan:
    """
    What is to be done.

    Training ends after `steps` or after `episodes`, whichever is given, and `evaluations` whole
    episodes follow in mode exploitation.
    """

    steps: int = 0
    episodes: int = 0
    evaluations: int = 0
    mode: LearningMode = LearningMode.MIXED

    def __post_init__(self) -> None:
        """Refuse what never ends or does nothing with a ValueError that says what to change."""
        for name, value, limit in (('steps', self.steps, MAXIMUM_STEPS),
                                   ('episodes', self.episodes, MAXIMUM_EPISODES),
                                   ('evaluation_episodes', self.evaluations, MAXIMUM_EVALUATIONS)):
            if not 0 <= value <= limit:
                raise ValueError(f'{name} must be within 0..{limit}, not {value}')
        if self.steps and self.episodes:
            raise ValueError('give steps or episodes, not both')
        if not (self.trains or self.evaluations):
            raise ValueError('nothing to do: give steps, episodes or evaluation_episodes')

    @property
    def trains(self) -> bool:
        """Return whether there is training, not evaluation alone."""
        return bool(self.steps or self.episodes)


class Session:
    """
    Counts decisions and ended episodes until its plan is fulfilled.

    Only whole episodes count: none that a failing sensor, a pause or the change of phase cut off.
    """

    def __init__(self, plan: Plan) -> None:
        """Begin with training, or at once with evaluation if there is none."""
        self.plan = plan
        self.steps = 0
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=20)
        """Of the last whole training episodes."""
        self.evaluation: list[float] = []
        """The return of each whole evaluation episode."""
        self._partial = True

    @property
    def trained(self) -> bool:
        """Return whether training is over."""
        return self.steps >= self.plan.steps and self.episodes >= self.plan.episodes

    @property
    def done(self) -> bool:
        """Return whether all is over."""
        return self.trained and len(self.evaluation) >= self.plan.evaluations

    @property
    def mode(self) -> LearningMode:
        """Return how the agent has to act now."""
        return LearningMode.EXPLOITATION if self.trained else self.plan.mode

    @property
    def recent(self) -> Sequence[float]:
        """Return the last returns of the present phase."""
        return self.evaluation[-20:] if self.trained else self.returns

    @property
    def mean_evaluation(self) -> float:
        """Return the mean return of the evaluation episodes, 0 without any."""
        return fmean(self.evaluation) if self.evaluation else 0.0

    @property
    def progress(self) -> float:
        """Return how much of the plan is done, 0..1; an evaluation episode counts as one of training."""
        if self.plan.steps and not self.plan.evaluations:
            return min(1.0, self.steps / self.plan.steps)
        share = self.steps / self.plan.steps if self.plan.steps else 0.0
        whole = self.plan.episodes + self.plan.evaluations + bool(self.plan.steps)
        return min(1.0, (share + self.episodes + len(self.evaluation)) / whole)

    def take(self, decision: Decision) -> None:
        """Count what one cycle decided."""
        ended = decision.ended
        whole = ended is not None and ended.end is not End.TRUNCATED
        if self.trained:
            # The rest of an episode that was under way, or was cut, says nothing about the policy.
            if ended is not None and whole and not self._partial:
                self.evaluation.append(ended.total)
            self._partial = not whole if ended is not None else self._partial
            return
        self.steps += not decision.safe_reason
        if ended is not None and whole:
            self.episodes += 1
            self.returns.append(ended.total)
        self._partial = not whole
