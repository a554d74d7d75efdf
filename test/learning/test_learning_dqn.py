# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Deep Q-learning on problems with known answers, its variants, drift, and going on bit for bit."""
import json
from pathlib import Path
from typing import Any

from muster.learning import gymnasium_env
from muster.learning.agents.base import Discrete, LearningMode, Transition
from muster.learning.agents.dqn import DQN, DQNParameters
from muster.learning.checkpoint import load_checkpoint, save_checkpoint
from muster.learning.drift import PageHinkley
from muster.learning.models.binding import restore, snapshot
from muster.learning.schedules import Linear
import numpy as np
import pytest

QUICK: dict[str, Any] = {'hidden': (32,), 'capacity': 2000, 'batch': 32, 'learning_starts': 50,
                         'target_interval': 50, 'epsilon_steps': 600, 'learning_rate': 5e-3,
                         'learning_rate_end': 5e-3}
VARIANTS: list[dict[str, Any]] = [
    {}, {'double': False}, {'duelling': True}, {'n_step': 3}, {'prioritized': True},
    {'target_rate': 0.05, 'target_interval': 1},
    {'prioritized': True, 'duelling': True, 'n_step': 3, 'hidden': (16, 16)}]


def make(seed: int = 1, observations: int = 3, actions: int = 3, **parameters: Any) -> DQN:
    return DQN(Discrete(actions), observations, DQNParameters(**{**QUICK, **parameters}), seed)


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def one_hot(number: int, size: int = 3) -> np.ndarray:
    return np.eye(size, dtype=np.float32)[number]


def learn_all(agent: DQN) -> None:
    while agent.learn() is not None:
        pass


def identity(agent: DQN, steps: int, begin: int = 0) -> None:
    """Name the one of three states shown, 5 times: 1 for each right answer (the identity environment)."""
    for step in range(begin, begin + steps):
        shown, following = step * 7 % 11 % 3, (step + 1) * 7 % 11 % 3
        state = agent.encode(one_hot(shown))
        action = agent.act(state, LearningMode.MIXED).action
        agent.observe(Transition(state, action, float(action == shown), agent.encode(one_hot(following)),
                                 step % 5 == 4))
        learn_all(agent)


@pytest.mark.parametrize('variant', VARIANTS, ids=str)
def test_it_learns_to_name_what_it_sees(variant: dict[str, Any]) -> None:
    agent = make(**variant)
    identity(agent, 1500)
    for shown in range(3):
        assert agent.act(one_hot(shown), LearningMode.EXPLOITATION).action == shown
    assert agent.epsilon == pytest.approx(0.05) and agent.statistics.updates > 1000


@pytest.mark.parametrize('variant', [{}, {'n_step': 3}, {'prioritized': True, 'duelling': True}], ids=str)
def test_the_random_walk_has_its_known_values(variant: dict[str, Any]) -> None:
    """Five states in a row, 1 for leaving on the right: 1/6 … 5/6 (Sutton & Barto, example 6.2)."""
    agent = make(observations=5, actions=1, discount=1.0, discount_end=1.0, hidden=(16,),
                 learning_rate=1e-2, learning_rate_end=1e-3, schedule_steps=5000, target_interval=25,
                 capacity=5000, train_interval=3, **variant)
    walk, place = np.random.default_rng(2), 2
    for _ in range(5000):
        following = place + (1 if walk.random() < 0.5 else -1)
        over = not 0 <= following < 5
        agent.observe(Transition(one_hot(place, 5), 0, float(following == 5),
                                 one_hot(place if over else following, 5), over))
        learn_all(agent)
        place = 2 if over else following
    values = [float(agent.values(one_hot(place, 5))[0]) for place in range(5)]
    assert values == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6], abs=0.06)


@pytest.mark.parametrize('variant', [
    {'target_interval': 25},
    {'duelling': True, 'n_step': 5, 'target_rate': 0.05, 'target_interval': 1}], ids=str)
def test_balancing_for_ever_is_worth_no_more_than_its_discounted_rewards(variant: dict[str, Any]) -> None:
    """One for each step is worth 1 / (1 - discount) at most; values that run away exceed it soon."""
    agent = make(observations=4, actions=2, discount=0.9, discount_end=0.9, train_interval=2, **variant)
    environment, bound, highest = gymnasium_env.make('CartPole-v1'), 1 / (1 - 0.9), []
    for _ in range(5):
        gymnasium_env.train(agent, environment, 500, seed=1)
        highest.append(float(agent.values(vector(0, 0, 0, 0)).max()))
    assert max(highest) < 2 * bound and highest[-1] > 0.5 * bound


def test_a_time_limit_is_not_the_end_of_the_task() -> None:
    def learned(**end: bool) -> float:
        agent = make(observations=1, actions=1, discount=0.5, discount_end=0.5, n_step=2)
        for _ in range(1500):
            agent.observe(Transition(vector(1), 0, 1.0, vector(1), **end))  # type: ignore[arg-type]
            learn_all(agent)
        return float(agent.values(vector(1))[0])
    assert learned(terminated=True) == pytest.approx(1.0, abs=0.05)
    assert learned(terminated=False, truncated=True) == pytest.approx(2.0, abs=0.1)


def test_an_interrupted_sequence_is_not_joined_to_the_next() -> None:
    agent = make(observations=1, n_step=3)
    agent.observe(Transition(vector(1), 0, 1.0, vector(2), False))
    agent.interrupt()
    agent.observe(Transition(vector(8), 0, 1.0, vector(9), True))
    rows = agent.export()[1]['rows']
    assert rows[:, [0, 1, 4]].tolist() == [[1, 2, 1], [8, 9, 0]]


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    def outcome(seed: int) -> bytes:
        agent = make(seed, prioritized=True)
        identity(agent, 300)
        return agent.network.theta.tobytes()
    assert outcome(1) == outcome(1) != outcome(2)


@pytest.mark.parametrize('variant', VARIANTS, ids=str)
def test_n_plus_m_steps_equal_n_save_load_m_bit_for_bit(variant: dict[str, Any], tmp_path: Path) -> None:
    whole, first, second = make(**variant), make(**variant), make(2)
    identity(whole, 500)
    identity(first, 203)
    save_checkpoint(tmp_path / 'a.model', snapshot(first, {}))
    restore(load_checkpoint(tmp_path / 'a.model'), second, {})
    identity(second, 297, begin=203)
    (one, arrays), (two, others) = whole.export(), second.export()
    assert json.dumps(one) == json.dumps(two) and arrays.keys() == others.keys()
    assert all(arrays[name].tobytes() == others[name].tobytes() for name in arrays)


@pytest.mark.parametrize(('change', 'reason'), [
    ({'actions': 2}, 'actions'), ({'parameters': {'hidden': [0]}}, 'hidden'), ({'parameters': 3}, 'mapping'),
    ({'parameters': {}}, 'another size'), ({'optimiser': {}}, 'optimiser'), ({'due': -1}, 'count'),
    ({'replay': {'next': 7}}, 'replay'), ({'drift': {'test': [0, 0, -1, 0], 'since': None}}, 'drift'),
    ({'window': None}, 'under way'), ({'generator': {}}, 'generator'), ({'statistics': {}}, 'missing')])
def test_an_unsound_model_is_refused_and_changes_nothing(change: dict[str, Any], reason: str) -> None:
    saved, agent = make(n_step=2), make(2)
    identity(saved, 60)
    identity(agent, 60)
    before = json.dumps(agent.export()[0]), agent.network.theta.tobytes()
    document, arrays = saved.export()
    with pytest.raises(ValueError, match=reason):
        agent.restore({**document, **change}, arrays)
    for name in arrays:
        with pytest.raises(ValueError):
            agent.restore(document, {**arrays, name: np.full_like(arrays[name], np.nan)})
        with pytest.raises(ValueError):
            agent.restore(document, {key: array for key, array in arrays.items() if key != name})
    rows = arrays['rows'].copy()
    rows[3, -3] = 3
    with pytest.raises(ValueError, match='does not exist'):
        agent.restore(document, {**arrays, 'rows': rows})
    assert before == (json.dumps(agent.export()[0]), agent.network.theta.tobytes())


def test_bad_input_is_refused_and_remembers_nothing() -> None:
    agent = make()
    for observation in ([1.0, 2.0], [1.0, 2.0, np.nan], [1.0, np.inf, 0.0], [[1.0, 2.0, 3.0]]):
        with pytest.raises(ValueError, match='3 finite values'):
            agent.encode(np.array(observation))
    for action, reward in ((3, 0.0), (-1, 0.0), (0.5, 0.0), (0, float('nan'))):
        with pytest.raises(ValueError):
            agent.observe(Transition(one_hot(0), action, reward, one_hot(1), False))  # type: ignore[arg-type]
    assert agent.statistics.steps == 0 and len(agent.export()[1]['rows']) == 0
    observation = one_hot(1)
    state = agent.encode(observation)
    observation[:] = 9
    assert state.tolist() == [0, 1, 0]  # a copy: the caller goes on with its buffer


def test_modes_explore_exploit_and_mix_by_schedule() -> None:
    agent = make(epsilon_steps=100)
    explored = [agent.act(one_hot(0), LearningMode.EXPLORATION) for _ in range(300)]
    assert all(choice.exploratory for choice in explored) and {c.action for c in explored} == {0, 1, 2}
    before = agent.generator.bit_generator.state
    assert len({agent.act(one_hot(0), LearningMode.EXPLOITATION).action for _ in range(9)}) == 1
    assert agent.generator.bit_generator.state == before
    assert agent.epsilon == 1.0
    identity(agent, 50)
    assert agent.epsilon == pytest.approx(0.525)
    identity(agent, 60)
    assert agent.epsilon == 0.05
    agent.configure(epsilon=0.8, learning_rate=1e-4)
    assert agent.epsilon == 0.8
    with pytest.raises(ValueError, match='hidden is fixed'):
        agent.configure(hidden=(4,))
    assert [Linear(1.0, 3.0, 4)(step) for step in (0, 1, 4, 9)] == [1.0, 1.5, 3.0, 3.0]
    assert Linear(1.0, 3.0, 0)(5) == 1.0


def reached(hold: int, steps: int = 1500) -> int:
    """Walk at random, a step left or right; return how far it came from where it began."""
    agent, place, furthest = make(actions=2, epsilon_hold=hold), 0, 0
    for _ in range(steps):
        place += 2 * int(agent.act(one_hot(0), LearningMode.EXPLORATION).action) - 1
        furthest = max(furthest, abs(place))
    return furthest


def test_random_actions_that_are_held_lead_far_away() -> None:
    assert reached(1) < 100 < 200 < reached(100)


def test_a_random_action_is_held_until_its_time_or_the_episode_is_over() -> None:
    agent = make(epsilon_hold=50)

    def draws() -> bool:
        before = agent.generator.bit_generator.state
        assert agent.act(one_hot(0), LearningMode.EXPLORATION).exploratory
        return agent.generator.bit_generator.state != before

    def held() -> None:
        while agent._holds < 3:
            draws()
        kept = agent.act(one_hot(0), LearningMode.EXPLORATION).action
        assert not draws() and agent.act(one_hot(0), LearningMode.EXPLORATION).action == kept

    held()
    agent.interrupt()
    assert draws()
    for end in ({'terminated': True}, {'terminated': False, 'truncated': True}):
        held()
        agent.observe(Transition(one_hot(0), 0, 0.0, one_hot(1), **end))
        assert draws()
    held()
    agent.begin_task('another')
    assert draws()
    assert max(agent._holds for _ in range(2000) if draws()) < 50


def test_training_is_due_at_its_interval_and_bounded() -> None:
    agent = make(train_interval=10, train_updates=4)
    transition = Transition(one_hot(0), 0, 0.0, one_hot(1), False)
    done = []
    for _ in range(80):
        agent.observe(transition)
        done.append(sum(agent.learn() is not None for _ in range(9)))
    assert done == [4 if step >= 50 and step % 10 == 0 else 0 for step in range(1, 81)]
    for _ in range(50):
        agent.observe(transition)
    assert sum(agent.learn() is not None for _ in range(99)) == 4


def test_a_drift_raises_exploration_and_learning_rate_for_a_while_and_is_reported() -> None:
    agent = make(drift_threshold=20.0, drift_epsilon=0.4, drift_steps=100, epsilon_steps=1)
    noise = np.random.default_rng(3)
    identity(agent, 10)
    for episode in range(300):  # learning makes returns rise: no drift
        agent.record_episode(float(min(2 * episode, 100) + noise.normal() * 5))
    assert agent.statistics.drifts == 0 and agent.epsilon == 0.05
    episodes = 0
    while not agent.statistics.drifts:
        agent.record_episode(float(60 + noise.normal() * 5))
        episodes += 1
    assert episodes <= 10 and agent.epsilon == pytest.approx(0.4)
    restored = make(9)
    restored.restore(*agent.export())
    assert restored.epsilon == agent.epsilon and restored.statistics.drifts == 1
    identity(agent, 50)
    assert agent.epsilon == pytest.approx(0.2)
    identity(agent, 50)
    assert agent.epsilon == 0.05


@pytest.mark.parametrize('seed', range(5))
def test_steady_returns_are_no_drift_and_single_failures_neither(seed: int) -> None:
    test, noise = PageHinkley(), np.random.default_rng(seed)
    for episode in range(3000):
        assert not test.update(float(noise.normal(100, 20)) - 500 * (episode % 200 == 199), 25.0)
