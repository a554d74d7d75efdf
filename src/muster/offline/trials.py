# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
How a policy of the simulated world is judged.

A trial is one start in a world of its own that was not learned in: other obstacles, another place,
another goal. It succeeds when the goal is reached within the time limit of the specification and
without a collision. The policy acts without exploration and learns nothing.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from muster.learning.agents.base import Agent, LearningMode
from muster.learning.cycle import ControlCycle
from muster.learning.specification import Specification
from muster.learning.training import rollout
from muster.simulation.environment import WorldEnvironment, worlds
from muster.simulation.world import WorldConfig

#: Worlds of these seeds and above are not learned in.
UNSEEN = 1_000_000_000
#: Seconds after which a start is given up where the specification sets no time limit.
PATIENCE = 60.0
ROBOT = 'robot'


@dataclass(frozen=True)
class Trial:
    """One start: its return, the seconds of simulated time that it took, and how it ended."""

    total: float
    seconds: float
    goal: bool
    collision: bool


@dataclass(frozen=True)
class Verdict:
    """All trials of a policy."""

    trials: tuple[Trial, ...]

    @property
    def success(self) -> float:
        """Return the share of starts that reached the goal, 0..1."""
        return sum(trial.goal for trial in self.trials) / len(self.trials)

    @property
    def collisions(self) -> float:
        """Return the share of starts that ended in a collision, 0..1."""
        return sum(trial.collision for trial in self.trials) / len(self.trials)

    @property
    def returns(self) -> list[float]:
        """Return the return of each start."""
        return [trial.total for trial in self.trials]

    @property
    def seconds(self) -> float:
        """Return the mean time to the goal of those that reached it, s; NaN if none did."""
        times = [trial.seconds for trial in self.trials if trial.goal]
        return sum(times) / len(times) if times else float('nan')


def judge(specification: Specification, agent: Agent[Any], starts: int = 200, first_seed: int = UNSEEN,
          config: WorldConfig | None = None, mode: LearningMode = LearningMode.EXPLOITATION) -> Verdict:
    """Let an agent drive from `starts` starts; with mode EXPLORATION it acts at random (and learns)."""
    return Verdict(tuple(trials(specification, agent, starts, first_seed, config, mode)))


def trials(specification: Specification, agent: Agent[Any], starts: int, first_seed: int = UNSEEN,
           config: WorldConfig | None = None,
           mode: LearningMode = LearningMode.EXPLOITATION) -> Iterator[Trial]:
    """Yield one trial after the other."""
    steps = round((specification.time_limit or PATIENCE) * specification.rate) + 2
    unseen = worlds(ROBOT, first_seed, config)
    for _ in range(starts):
        environment = WorldEnvironment(next(unseen), ROBOT)
        for decision in rollout(ControlCycle(specification, agent, mode), environment, steps):
            if decision.ended:
                break
        ended = decision.ended
        yield Trial(ended.total if ended else 0.0, (ended.steps if ended else steps) / specification.rate,
                    environment.goals > 0, environment.collisions > 0)
