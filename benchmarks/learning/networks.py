# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""One action and one update of DQN, networks of 64 x 64, beside Stable-Baselines3."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from learning.peer import ask, Missing
from learning.timing import microseconds
from muster.learning.agents.base import Discrete, LearningMode, Transition
from muster.learning.agents.dqn import DQN, DQNParameters
import numpy as np

ELEMENTS, ACTIONS, FILLED = 4, 2, 2_000


def measure(results: Any, seconds: float) -> None:
    """Add both; an action is chosen with all checks of the observation."""
    agent = filled()
    observation = np.array([0.01, -0.02, 0.03, 0.04], np.float32)

    def act() -> object:
        return agent.act(agent.encode(observation), LearningMode.EXPLOITATION)

    for part, name, work, target in (('predict', 'action of a 64x64 network, all checks', act, 8.0),
                                     ('update', 'DQN update, batch 64, 64x64', update(agent), 5.0)):
        try:
            theirs, remark = ask('sb3.py', part, {'seconds': seconds})['microseconds'], ''
        except Missing as error:
            theirs, remark = None, str(error)
        results.add(name, microseconds(work, seconds), 'µs', peer='SB3' if theirs else None,
                    peer_value=theirs, peer_at_most=round(1 / target, 3), remark=remark)


def filled() -> DQN:
    """Return an agent with experience of random transitions."""
    generator = np.random.default_rng(1)
    agent = DQN(Discrete(ACTIONS), ELEMENTS, DQNParameters(hidden=(64, 64), batch=64), 1)
    for _ in range(FILLED):
        state, following = generator.normal(size=(2, ELEMENTS)).astype(np.float32)
        agent.observe(Transition(state, int(generator.integers(ACTIONS)), 1.0, following, False))
    return agent


def update(agent: DQN) -> Callable[[], object]:
    """Return a function that makes one update: a transition that makes it due, and the learning."""
    state = np.zeros(ELEMENTS, np.float32)
    transition = Transition(state, 0, 1.0, state, False)

    def work() -> None:
        agent.observe(transition)
        if agent.learn() is None:
            raise RuntimeError('no update was due')
    return work
