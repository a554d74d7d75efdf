# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tabular agents in all their forms, scored by exact dynamic programming in Gymnasium's worlds."""
import json
from typing import Any

from muster.learning.agents.base import Discrete, LearningMode, Transition
from muster.learning.agents.q_learning import QLearning, QLearningParameters
from muster.learning.discretiser import Discretiser, TileCoder, uniform
from muster.learning.gymnasium_env import actions_of, evaluate, exact_score, make, train
import numpy as np
import pytest


@pytest.mark.parametrize(('name', 'steps', 'horizon', 'optimal', 'parameters'), [
    ('CliffWalking-v1', 20_000, 100, -13.0, {'learning_rate': 1.0, 'discount': 1.0, 'epsilon_min': 0.3}),
    ('FrozenLake-v1', 60_000, 100, 0.7402, {'learning_rate': 1.0, 'step_power': 0.75, 'discount': 0.99,
                                            'epsilon_min': 0.3, 'initial_value': 1.0}),
])
@pytest.mark.parametrize('double', [False, True])
def test_the_policy_is_optimal(name: str, steps: int, horizon: int, optimal: float,
                               parameters: dict[str, Any], double: bool) -> None:
    environment = make(name)
    agent = QLearning(actions_of(environment), QLearningParameters(**parameters, double=double), 1)
    train(agent, environment, 3 * steps if double else steps, 1)
    assert exact_score(agent, environment, horizon) == pytest.approx(optimal, abs=1e-4)


def test_double_does_not_overestimate_noise() -> None:
    def value_of_start(double: bool) -> float:
        """Learn Sutton & Barto's example 6.7: right ends at once with 0, left leads to noise of mean -0.1."""
        noise = np.random.default_rng(5)
        agent = QLearning(Discrete(10), QLearningParameters(
            learning_rate=0.1, discount=1.0, epsilon=1.0, epsilon_decay=1.0, double=double), 5)
        for _ in range(3000):
            agent.improve(Transition('start', 0, 0.0, 'noise', False))
            action, reward = int(noise.integers(10)), float(noise.normal(-0.1))
            agent.improve(Transition('noise', action, reward, 'end', True))
        return agent.values('start')[0]
    assert value_of_start(False) > 0.1
    assert value_of_start(True) < 0.0


def test_step_sizes_fall_with_the_visits_of_each_state_and_action() -> None:
    agent = QLearning(Discrete(2), QLearningParameters(learning_rate=1.0, step_power=1.0))
    rewards = [3.0, 5.0, 1.0, 7.0]
    for number, reward in enumerate(rewards, 1):
        agent.improve(Transition('s', 0, reward, 's', True))
        assert agent.values('s')[0] == pytest.approx(np.mean(rewards[:number]))  # 1/n: the plain mean
    agent.improve(Transition('s', 1, 2.0, 's', True))
    assert agent.values('s')[1] == 2.0
    floored = QLearning(Discrete(1), QLearningParameters(
        learning_rate=1.0, step_power=1.0, learning_rate_min=0.5))
    for reward in rewards:
        floored.improve(Transition('s', 0, reward, 's', True))
    assert floored.values('s')[0] == pytest.approx(4.75)


def test_tiles_are_displaced_and_neighbours_share_them() -> None:
    edges = [uniform(0.0, 1.0, 10), uniform(-1.0, 1.0, 10)]
    coder, plain = TileCoder(edges, 8), Discretiser(edges)

    def tiles(x: float, y: float) -> tuple[tuple[int, ...], ...]:
        return coder(np.array([x, y], np.float32))
    here = tiles(0.55, 0.1)
    assert len(set(here)) == 8
    assert here[0] == (0, *plain(np.array([0.55, 0.1], np.float32)))
    shared = [len(set(here) & set(tiles(0.55 + d, 0.1))) for d in (0.0, 0.02, 0.05, 0.09, 0.11)]
    assert shared[0] == 8 and shared == sorted(shared, reverse=True) and 0 < shared[2] < 8
    assert shared[-1] == 0
    with pytest.raises(ValueError, match='bins'):
        uniform(1.0, 0.0, 3)


def test_mountain_car_by_tile_coding() -> None:
    environment = make('MountainCar-v0')
    edges = [uniform(-1.2, 0.6, 10), uniform(-0.07, 0.07, 10)]
    agent = QLearning(actions_of(environment), QLearningParameters(
        learning_rate=0.5, discount=1.0, epsilon=0.0, tilings=8), 1, TileCoder(edges, 8))
    train(agent, environment, 60_000, 1)
    assert np.mean(evaluate(agent, environment, 30, 100)) > -160.0  # by chance it is -200


@pytest.mark.parametrize('parameters', [{'double': True}, {'step_power': 0.6}, {'tilings': 4},
                                        {'double': True, 'step_power': 0.6, 'tilings': 4}])
def test_every_form_goes_on_bit_for_bit(parameters: dict[str, Any]) -> None:
    def agent(seed: int) -> QLearning:
        encode = TileCoder([uniform(0, 16, 16)], 4) if 'tilings' in parameters else Discretiser(
            [uniform(0, 16, 16)])
        return QLearning(Discrete(4), QLearningParameters(**parameters), seed, encode)

    def work(agent: QLearning, begin: int, end: int) -> None:
        states = np.random.default_rng(3).integers(16, size=(1001, 1)).astype(np.float32)
        for state, following in zip(states[begin:end], states[begin + 1:end + 1], strict=True):
            action = agent.act(agent.encode(state), LearningMode.MIXED).action
            agent.observe(Transition(agent.encode(state), action, float(following[0]),
                                     agent.encode(following), bool(following[0] == 7)))
            agent.learn()
    whole, first, second = agent(1), agent(1), agent(2)
    work(whole, 0, 1000)
    work(first, 0, 400)
    document, arrays = first.export()
    second.restore(json.loads(json.dumps(document)), arrays)
    work(second, 400, 1000)
    assert second.table == whole.table and second.export()[0] == whole.export()[0]
    other = QLearning(Discrete(4), QLearningParameters(tilings=3))
    with pytest.raises(ValueError, match='tilings'):
        other.restore(document, arrays)


def test_a_restored_table_must_have_the_form_of_its_parameters() -> None:
    agent = QLearning(Discrete(2), QLearningParameters(double=True), 1)
    agent.improve(Transition('s', 0, 1.0, 't', False))
    document, arrays = agent.export()
    for broken in ({'values': arrays['values'][:, :2]}, {'values': arrays['values'] * np.nan}):
        with pytest.raises(ValueError, match='table'):
            agent.restore(document, arrays | broken)
    tiled = QLearning(Discrete(2), QLearningParameters(tilings=2), 1)
    document, arrays = tiled.export()
    with pytest.raises(ValueError, match='tiles'):
        tiled.restore(document | {'due': [1, 0, 0.0, 2, False]}, arrays)
