# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The simulated world as a Gymnasium environment, seen and driven through a specification.

Observation, action and reward are made by the very parts that the node's control cycle uses, so what
another library learns here sees the same numbers there. Gymnasium is optional: only this module needs it.
"""
from __future__ import annotations

from typing import Any

import gymnasium
from muster.learning.action import Commander
from muster.learning.agents.base import Discrete
from muster.learning.observation import Observer
from muster.learning.reward import EpisodeEnd, make_reward
from muster.learning.specification import Specification
from muster.simulation.environment import WorldEnvironment, worlds
import numpy as np
from numpy.typing import NDArray

ROBOT = 'robot'


class GymnasiumWorld(gymnasium.Env[NDArray[np.float32], Any]):
    """
    One robot among obstacles; every episode is in a world of its own.

    Observations are float32[elements] as the terms make them, actions those of the specification. The
    episode terminates as its `episode` says and is truncated at its time limit. `info` of the last step
    says whether the goal was reached or something was hit (`goal`, `collision`).
    """

    metadata = {'render_modes': []}

    def __init__(self, specification: Specification) -> None:
        """Prepare; the worlds are made by `reset`."""
        self.specification = specification
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (specification.elements,), np.float32)
        space = specification.action.space
        self.action_space = gymnasium.spaces.Discrete(space.n) if isinstance(space, Discrete) else \
            gymnasium.spaces.Box(np.array(space.low, np.float32), np.array(space.high, np.float32))
        self._most_steps = round((specification.time_limit or 0.0) * specification.rate)
        self._period = 1.0 / specification.rate
        self._world: WorldEnvironment | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
              ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode; a `seed` begins another series of worlds."""
        super().reset(seed=seed)
        if self._world is None or seed is not None:
            series = worlds(ROBOT, int(self.np_random.integers(2**31)))
            self._world = WorldEnvironment(next(series), ROBOT, series)
        specification = self.specification
        self._observer, self._commander = Observer(specification.observation), Commander(specification)
        self._reward = make_reward(specification.reward, specification.reward_max_age, specification.places)
        self._end = EpisodeEnd(specification.episode_end, specification.places)
        self._now, self._steps = 0.0, 0
        self._take(self._world.reset())
        self._values = self._sensed()
        return self._values, {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Act for one control cycle; raises CommandError on an action that does not exist."""
        assert self._world is not None, 'reset() comes first'
        world, before = self._world, self._values
        ended = world.goals, world.collisions
        chosen = int(action) if isinstance(self.action_space, gymnasium.spaces.Discrete) else action
        command = self._commander.write(self._commander.command(chosen, before), world.command())
        self._steps += 1
        self._now = self._steps * self._period
        self._take(world.step(command, self._period))
        self._values = self._sensed()
        values, previous = self._values.tolist(), before.tolist()
        reward, problem = self._reward.take(self._now, values, previous)
        if problem:
            raise RuntimeError(f'no reward: {problem}')
        terminated = self._end.take(values, previous)
        truncated = not terminated and self._steps == self._most_steps
        return self._values, reward, terminated, truncated, {
            'goal': world.goals > ended[0], 'collision': world.collisions > ended[1]}

    def _take(self, messages: list[tuple[str, Any]]) -> None:
        for topic, message in messages:
            if topic in self._observer.topics:
                self._observer.receive(topic, message, self._now)
            if topic == self._reward.topic:
                self._reward.receive(message, self._now)
            if topic == self._end.topic:
                self._end.receive(message)

    def _sensed(self) -> NDArray[np.float32]:
        sample = self._observer.sample(self._now, self._now)
        if sample.problem:
            raise RuntimeError(f'the world cannot be sensed: {sample.problem}')
        return sample.values.copy()
