# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The world as a Gymnasium environment: it is one, and shows what the control cycle shows."""
from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

from gymnasium.utils.env_checker import check_env
from muster.learning.action import CommandError
from muster.learning.agents.base import Choice
from muster.learning.cycle import ControlCycle
from muster.learning.gymnasium_env import actions_of, elements_of, train
from muster.learning.specification import load_specification
from muster.learning.training import make_agent, rollout
from muster.offline.gymnasium_world import GymnasiumWorld
from muster.simulation.environment import WorldEnvironment, worlds
import numpy as np
import pytest

FILES = Path(__file__).parents[2] / 'config' / 'learning'


@pytest.mark.parametrize('name', ['goal_seeking.yaml', 'goal_seeking_dqn.yaml'])
def test_it_is_a_gymnasium_environment(name: str) -> None:
    environment = GymnasiumWorld(load_specification(FILES / name))
    check_env(environment, skip_render_check=True)
    assert elements_of(environment) == environment.specification.elements


def test_it_shows_and_rewards_what_the_control_cycle_does() -> None:
    specification = load_specification(FILES / 'goal_seeking_dqn.yaml')
    environment = GymnasiumWorld(specification)
    observation, _ = environment.reset(seed=3)
    seed = int(np.random.Generator(np.random.PCG64(3)).integers(2**31))
    actions = [0, 0, 1, 0, 2, 3]
    agent = make_agent(specification, 1)
    seen: list[Any] = []
    turns = cycle(actions)
    agent.act = lambda state, mode: Choice(next(turns), False)  # type: ignore[method-assign]
    agent.observe = seen.append  # type: ignore[method-assign]
    series = worlds('robot', seed)
    for _ in rollout(ControlCycle(specification, agent), WorldEnvironment(next(series), 'robot', series), 60):
        pass
    for transition in seen:
        assert (transition.state == observation).all()
        observation, reward, terminated, truncated, _ = environment.step(transition.action)
        assert reward == pytest.approx(transition.reward) and terminated == transition.terminated
        if terminated or truncated:
            break
        assert (transition.next_state == observation).all()
    assert len(seen) > 20


def test_the_same_seed_gives_the_same_episode_and_ends_are_told() -> None:
    def ends(seed: int) -> list[tuple[int, bool, bool]]:
        environment = GymnasiumWorld(load_specification(FILES / 'goal_seeking.yaml'))
        environment.reset(seed=seed)
        found = []
        for number in range(600):
            _, _, terminated, truncated, info = environment.step(0)  # ahead, until something is there
            assert terminated == (info['goal'] or info['collision'])
            if terminated or truncated:
                found.append((number, info['goal'], info['collision']))
                environment.reset()
        return found

    assert ends(5) == ends(5) != ends(6)
    assert any(collision for _, _, collision in ends(5))


def test_an_agent_of_the_package_learns_in_it() -> None:
    specification = load_specification(FILES / 'goal_seeking_dqn.yaml')
    agent = make_agent(specification, 1)
    environment = GymnasiumWorld(specification)
    assert actions_of(environment) == specification.action.space
    train(agent, environment, 1200, seed=1)
    assert agent.statistics.updates > 100


def test_an_unknown_action_is_refused() -> None:
    environment = GymnasiumWorld(load_specification(FILES / 'goal_seeking.yaml'))
    environment.reset(seed=1)
    with pytest.raises(CommandError):
        environment.step(17)
