# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Every agent that learns answers to a world that changed, and says so."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from muster.learning.agents.base import Agent, Discrete, LearningMode, Transition
from muster.learning.agents.dqn import DQN, DQNParameters
from muster.learning.agents.ppo import PPO, PPOParameters
from muster.learning.agents.q_learning import QLearning, QLearningParameters
import numpy as np
import pytest

STEPS = 64
DRIFT = {'drift_threshold': 20.0, 'drift_steps': STEPS, 'drift_learning_rate': 4.0}
SENSED = np.zeros(2, np.float32)
MAKERS: dict[str, Callable[[], Agent[Any]]] = {
    'q_learning': lambda: QLearning(Discrete(2), QLearningParameters().changed(epsilon=0.05, **DRIFT), 1),
    'dqn': lambda: DQN(Discrete(2), 2, DQNParameters().changed(hidden=(8,), **DRIFT), 1),
    'ppo': lambda: PPO(Discrete(2), 2, PPOParameters().changed(hidden=(8,), rollout=32, **DRIFT), 1),
}


@pytest.mark.parametrize('kind', MAKERS)
def test_a_fall_of_the_returns_is_answered_for_a_while(kind: str) -> None:
    agent, noise = MAKERS[kind](), np.random.default_rng(2)
    for episode in range(100):  # learning makes returns rise: no drift
        agent.record_episode(float(episode + noise.normal()))
    assert not agent.adapting and not agent.statistics.drifts
    episodes = 0
    while not agent.statistics.drifts and episodes < 20:
        agent.record_episode(float(noise.normal()))
        episodes += 1
    assert agent.adapting and agent.statistics.drifts == 1
    other = MAKERS[kind]()
    other.restore(*agent.export())
    assert other.adapting and other.statistics.drifts == 1
    for _ in range(STEPS):
        action = agent.act(agent.encode(SENSED), LearningMode.MIXED).action
        agent.observe(Transition(agent.encode(SENSED), action, 0.0, agent.encode(SENSED), False))
    assert not agent.adapting


def test_a_table_learns_faster_and_explores_more_right_after_a_drift() -> None:
    usual, shaken = (MAKERS['q_learning']() for _ in range(2))
    for ended in (*[1.0] * 40, *[-1.0] * 20):
        shaken.record_episode(ended)
    assert shaken.epsilon == 0.3 and usual.epsilon == 0.05
    for agent in (usual, shaken):
        agent.observe(Transition('here', 0, 1.0, 'there', True))
        agent.learn()
    assert isinstance(usual, QLearning) and isinstance(shaken, QLearning)
    assert usual.values('here')[0] == pytest.approx(0.2)
    assert shaken.values('here')[0] == pytest.approx(0.2 * (1 + 3 * (1 - 1 / STEPS)))


def test_a_policy_becomes_more_random_after_a_drift() -> None:
    """From the same experience it settles less: the entropy of its actions counts."""
    agents = [PPO(Discrete(2), 2, PPOParameters().changed(
        hidden=(8,), rollout=32, learning_rate=0.01, drift_entropy=1.0, drift_threshold=5.0,
        drift_learning_rate=1.0), 1) for _ in range(2)]
    for ended in (*[1.0] * 40, *[-1.0] * 20):
        agents[1].record_episode(ended)
    for agent in agents:
        for _ in range(320):
            action = agent.act(SENSED, LearningMode.MIXED).action
            agent.observe(Transition(SENSED, action, float(action == 1), SENSED, True))
            while agent.learn() is not None:
                pass
    assert agents[1].epsilon > 2 * agents[0].epsilon
