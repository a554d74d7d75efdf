# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Three worlds in turn: an agent learns one after another, and is asked for the first again."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from muster.learning.agents.base import Agent, LearningMode, Transition
from muster.learning.continual.transfer import TransferMatrix
import numpy as np
from numpy.typing import NDArray

#: Where the goal is in each world.
GOALS = {'red floor': (0.1, 0.1), 'green floor': (0.9, 0.9), 'blue floor': (0.1, 0.9)}
MOVES = np.array([[0.1, 0], [-0.1, 0], [0, 0.1], [0, -0.1]], np.float32)
REACHED, PRICE, TIME_LIMIT = 0.12, 0.02, 60
ELEMENTS = 2 + len(GOALS)


class PointWorld:
    """
    A point in the unit square that looks for a goal in the corner that its world has it in.

    It sees its place and the colour of the floor; 1 for the goal, less 0.02 for each step.
    """

    def __init__(self, name: str, seed: int) -> None:
        """Make the world of that name."""
        self.random = np.random.default_rng(seed)
        self._goal = np.array(GOALS[name], np.float32)
        self._seen = np.zeros(ELEMENTS, np.float32)
        self._seen[2 + list(GOALS).index(name)] = 1.0

    def reset(self) -> NDArray[np.float32]:
        """Begin anywhere but at the goal."""
        while True:
            self._seen[:2] = self.random.random(2)
            if not self._reached():
                self._steps = 0
                return self._seen.copy()

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool]:
        """Move; return what is seen, the reward, whether the goal is reached, whether time is up."""
        self._steps += 1
        noise = self.random.normal(0.0, 0.01, 2)
        self._seen[:2] = np.clip(self._seen[:2] + MOVES[action] + noise, 0.0, 1.0)
        reached = self._reached()
        return self._seen.copy(), float(reached) - PRICE, reached, not reached and self._steps >= TIME_LIMIT

    def _reached(self) -> bool:
        return bool(np.hypot(*(self._seen[:2] - self._goal)) < REACHED)


def train(agent: Agent[Any], world: PointWorld, steps: int) -> None:
    """Let the agent learn for so many steps."""
    state = agent.encode(world.reset())
    for _ in range(steps):
        action = agent.act(state, LearningMode.MIXED).action
        seen, reward, terminated, truncated = world.step(int(action))
        following = agent.encode(seen)
        agent.observe(Transition(state, action, reward, following, terminated, truncated))
        while agent.learn() is not None:
            pass
        state = following
        if terminated or truncated:
            agent.decay()
            state = agent.encode(world.reset())


def mean_return(agent: Agent[Any], world: PointWorld, episodes: int) -> float:
    """Return what the agent reaches without exploring."""
    total = 0.0
    for _ in range(episodes):
        seen, ended = world.reset(), False
        while not ended:
            action = agent.act(agent.encode(seen), LearningMode.EXPLOITATION).action
            seen, reward, terminated, truncated = world.step(int(action))
            total, ended = total + reward, terminated or truncated
    return total / episodes


def in_turn(make: Callable[[int], Agent[Any]], seed: int, steps: int, episodes: int) -> TransferMatrix:
    """Let an agent learn the worlds in turn; return its mean returns in all of them after each."""
    agent, transfer = make(seed), TransferMatrix()
    for number, name in enumerate(GOALS):
        agent.begin_task(name)
        train(agent, PointWorld(name, 100 * seed + number), steps)
        transfer.record(name, {world: mean_return(agent, PointWorld(world, 7_000 + seed), episodes)
                               for world in GOALS})
    return transfer
