# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Agents that learn one task after another: with rehearsal they keep the first, without it they do not."""
from __future__ import annotations

from muster.learning.agents.base import Continuous, Discrete, LearningMode, Transition
from muster.learning.agents.dqn import DQN, DQNParameters
from muster.learning.agents.ppo import PPO, PPOParameters
import numpy as np
import pytest

TASKS = ('first', 'second')


def ppo(seed, **parameters):
    return PPO(Discrete(2), 4, PPOParameters(
        rollout=64, batch=32, learning_rate=3e-3, hidden=(32,), discount=0.0, entropy=0.05,
        normalise_rewards=False, normalise_observations=False, **parameters), seed)


def dqn(seed, **parameters):
    return DQN(Discrete(2), 4, DQNParameters(
        hidden=(32,), discount=0.0, learning_rate=0.01, learning_starts=50, batch=16,
        epsilon_steps=200, **parameters), seed)


def seen(task, side):
    """Return what a robot sees: the colour of the floor, which is the task, and a side."""
    return np.float32([task == 'first', task == 'second', side, 1.0])


def right(task, side):
    """Return the side to turn to, which is the other one in the second task."""
    return int(side > 0) if task == 'first' else int(side < 0)


def practise(agent, task, steps, random):
    """Let the agent learn; each step is an episode."""
    agent.begin_task(task)
    for _ in range(steps):
        side = random.choice([-1.0, 1.0])
        state = agent.encode(seen(task, side))
        action = agent.act(state, LearningMode.MIXED).action
        agent.observe(Transition(state, action, float(action == right(task, side)), state, True))
        while agent.learn() is not None:
            pass


def score(agent, task):
    return np.mean([agent.act(agent.encode(seen(task, side)), LearningMode.EXPLOITATION).action
                    == right(task, side) for side in (-1.0, 1.0)])


def practised(make, **parameters):
    agent, random = make(0, **parameters), np.random.default_rng(0)
    for task in TASKS:
        before = score(agent, task)
        practise(agent, task, 600, random)
        assert score(agent, task) > before
    agent.consolidate()
    return agent


@pytest.mark.parametrize('make', [ppo, dqn])
def test_rehearsal_keeps_the_first_task_and_naive_learning_does_not(make):
    naive = practised(make, rehearsal_batch=0)
    assert score(naive, 'first') < 1
    assert naive.transfer.backward_transfer < -0.2
    agent = practised(make, rehearsal=100)
    assert score(agent, 'first') == 1
    assert agent.transfer.backward_transfer > -0.05
    assert agent.transfer.tasks == list(TASKS)


@pytest.mark.parametrize('make', [ppo, dqn])
def test_an_agent_in_its_second_task_goes_on_bit_for_bit_after_a_restart(make):
    whole = make(0, rehearsal=50, elastic_strength=1.0, consolidate_every=20)
    practise(whole, 'first', 400, np.random.default_rng(1))
    practise(whole, 'second', 300, np.random.default_rng(2))
    resumed = make(7, rehearsal=50)
    resumed.restore(*whole.export())
    assert resumed.task == 'second'
    for agent in (whole, resumed):
        practise(agent, 'second', 300, np.random.default_rng(3))
        practise(agent, 'third', 300, np.random.default_rng(4))
    document, arrays = whole.export()
    again, same = resumed.export()
    assert document == again
    assert all(np.array_equal(arrays[name], same[name]) for name in arrays)


@pytest.mark.parametrize('make', [ppo, dqn])
def test_beginning_the_present_task_changes_nothing(make):
    agent = make(0)
    practise(agent, 'first', 100, np.random.default_rng(1))
    document, arrays = agent.export()
    agent.begin_task('first')
    again, same = agent.export()
    assert document == again
    assert all(np.array_equal(arrays[name], same[name]) for name in arrays)


@pytest.mark.parametrize('make', [ppo, dqn])
def test_what_is_rehearsed_can_be_changed_live(make):
    agent = make(0)
    agent.configure(rehearsal_batch=7)
    assert agent.memory.parameters.rehearsal_batch == 7
    with pytest.raises(ValueError, match='rehearsal is fixed'):
        agent.configure(rehearsal=7)


def test_bounded_actions_agree_within_a_tenth_of_their_range():
    agent = PPO(Continuous((-2.0,), (2.0,)), 1, PPOParameters(hidden=(4,)), 0)
    once = np.float32([[0.0], [0.0]])
    assert agent.memory._agreement(np.arctanh(np.float32([[0.19], [0.21]])), once) == 0.5
