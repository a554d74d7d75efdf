# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tabular Q-learning in Gymnasium's numbered worlds, its policies scored by exact dynamic programming."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from muster.learning.agents.base import Discrete
from muster.learning.agents.q_learning import QLearning, QLearningParameters
from muster.learning.gymnasium_env import actions_of, exact_score, make, train
import numpy as np

SEEDS = range(5)
#: The part of a step's reward that a rounded target may hide.
ROUNDING = 1e-4


@dataclass(frozen=True)
class World:
    """A world, how long to learn in it, the steps that the score looks ahead, and the score to reach."""

    name: str
    steps: int
    horizon: int
    target: float
    parameters: dict[str, Any]


WORLDS = (
    World('FrozenLake-v1', 400_000, 100, 0.7402,
          {'learning_rate': 1.0, 'step_power': 0.7, 'discount': 1.0, 'epsilon_min': 0.3}),
    World('FrozenLake8x8-v1', 600_000, 200, 0.88,
          {'learning_rate': 1.0, 'step_power': 0.5, 'discount': 0.995, 'epsilon': 0.1, 'epsilon_min': 0.1,
           'initial_value': 1.0}),
    World('CliffWalking-v1', 30_000, 100, -13.0,
          {'learning_rate': 1.0, 'discount': 1.0, 'epsilon_min': 0.3}),
    World('Taxi-v4', 150_000, 200, 7.84,
          {'learning_rate': 1.0, 'discount': 0.99, 'epsilon_min': 0.3}),
)


def score(world: World, seed: int) -> float:
    """Learn, and return the exact expected return of the greedy policy."""
    environment = make(world.name)
    actions = actions_of(environment)
    assert isinstance(actions, Discrete)
    agent = QLearning(actions, QLearningParameters(**world.parameters), seed)
    train(agent, environment, world.steps, seed)
    return exact_score(agent, environment, world.horizon)


def measure(results: Any) -> None:
    """Add a row for each world: the mean score over the seeds."""
    for world in WORLDS:
        with results.part(world.name):
            scores = [score(world, seed) for seed in SEEDS]
            results.add(f'Q-learning in {world.name}, {world.steps:,} steps', float(np.mean(scores)),
                        'return', at_least=world.target - ROUNDING,
                        remark=f'exact; lowest of {len(scores)} seeds {min(scores):.4g}')
