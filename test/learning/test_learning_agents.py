# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Q-learning on problems with known answers; the Python API; saving and going on."""
from collections.abc import Hashable
import json
from pathlib import Path
import subprocess
import sys

from hypothesis import given, strategies as st
from muster.learning import LearningMode, ReinforcementLearningAgent
from muster.learning.agents.base import Discrete, Transition
from muster.learning.agents.q_learning import QLearning, QLearningParameters
from muster.learning.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from muster.learning.discretiser import Discretiser
from muster.learning.models import ModelError
from muster.learning.states import freeze
import numpy as np
from problems import chain, cliff, exact_values, Rules, State
import pytest


def run(agent: QLearning, rules: Rules, start: State, updates: int, state: State | None = None,
        mode: LearningMode = LearningMode.MIXED) -> tuple[list[int], State]:
    """Learn for a number of updates; return the actions taken and the state reached."""
    state, actions = state or start, []
    for _ in range(updates):
        action = agent.act(state, mode).action
        following, reward, done = rules(state, action)
        agent.observe(Transition(state, action, reward, following, done))
        agent.learn()
        state = start if done else following
        actions.append(action)
    return actions, state


@pytest.mark.parametrize(('rules', 'start', 'actions', 'updates'), [
    (chain, (0, 0), 2, 20_000), (cliff, (3, 0), 4, 60_000)])
@pytest.mark.parametrize('seed', [1, 2, 3])
def test_values_are_those_of_dynamic_programming(rules: Rules, start: State, actions: int, updates: int,
                                                 seed: int) -> None:
    agent = QLearning(Discrete(actions), QLearningParameters(learning_rate=1.0, discount=0.9), seed)
    run(agent, rules, start, updates, mode=LearningMode.EXPLORATION)
    exact = exact_values(rules, start, actions, 0.9)
    compared = 0
    for state, values in agent.table.items():
        assert values == pytest.approx(exact[state], abs=1e-6)  # type: ignore[index]
        compared += 1
    assert compared == len(exact)


def test_greedy_policy_walks_the_shortest_way_along_the_cliff() -> None:
    agent = QLearning(Discrete(4), QLearningParameters(learning_rate=0.5, discount=1.0, epsilon=0.1), 1)
    run(agent, cliff, (3, 0), 40_000)
    state, total, done = (3, 0), 0.0, False
    for _ in range(50):
        state, reward, done = cliff(state, agent.act(state, LearningMode.EXPLOITATION).action)
        total += reward
        if done:
            break
    assert done and total == -13.0


def test_modes_explore_exploit_and_mix() -> None:
    agent = QLearning(Discrete(4), QLearningParameters(epsilon=0.25), 3)
    agent.table['here'] = [0.0, 1.0, 0.0, 0.0]
    mixed = [agent.act('here', LearningMode.MIXED) for _ in range(4000)]
    assert 0.22 < sum(choice.exploratory for choice in mixed) / 4000 < 0.28
    assert {choice.action for choice in mixed if not choice.exploratory} == {1}
    explored = [agent.act('here', LearningMode.EXPLORATION) for _ in range(400)]
    assert all(choice.exploratory for choice in explored) and {c.action for c in explored} == {0, 1, 2, 3}
    before = agent.generator.bit_generator.state
    assert agent.act('here', LearningMode.EXPLOITATION).action == 1
    assert agent.generator.bit_generator.state == before


def test_the_table_is_bounded_and_the_exploration_rate_decays_to_its_minimum() -> None:
    parameters = QLearningParameters(max_states=3, epsilon=0.8, epsilon_decay=0.5, epsilon_min=0.3)
    agent = QLearning(Discrete(2), parameters, 1)
    for state in range(10):
        agent.observe(Transition(state, 0, 1.0, state, True))
        agent.learn()
    assert agent.states == 3
    rates = []
    for _ in range(3):
        agent.decay()
        rates.append(agent.epsilon)
    assert rates == [0.4, 0.3, 0.3]


@pytest.mark.parametrize('parameters', [{'learning_rate': 1.5}, {'discount': float('nan')}, {'epsilon': '1'},
                                        {'max_states': 0}])
def test_hyperparameters_out_of_range_are_refused_by_name(parameters: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        QLearningParameters(**parameters)


def test_only_live_hyperparameters_change_and_a_refused_change_changes_nothing() -> None:
    agent = QLearning(Discrete(2), seed=1)
    agent.decay()
    decayed = agent.epsilon
    agent.configure(learning_rate=0.5)
    assert agent.parameters.learning_rate == 0.5 and agent.epsilon == decayed
    agent.configure(epsilon=0.9)
    assert agent.epsilon == 0.9
    for values, reason in (({'learning_rate': 0.1, 'max_states': 5}, 'max_states is fixed'),
                           ({'learning_rate': 0.1, 'discount': 2.0}, 'discount must be within 0..1, not 2.0'),
                           ({'learnin_rate': 0.1}, "unknown hyper-parameter 'learnin_rate'")):
        with pytest.raises(ValueError, match=reason):
            agent.configure(**values)
    assert agent.parameters.learning_rate == 0.5


def test_a_transition_is_never_lost_and_one_that_is_due_is_saved() -> None:
    agent = QLearning(Discrete(2), QLearningParameters(learning_rate=1.0), seed=1)
    agent.observe(Transition('a', 0, 1.0, 'b', True))
    agent.observe(Transition('b', 1, 2.0, 'c', True))
    assert agent.table == {'a': [1.0, 0.0]}
    resumed = QLearning(Discrete(2), seed=2)
    resumed.restore(*agent.export())
    assert resumed.learn() == 2.0 and resumed.learn() is None
    assert resumed.table == {'a': [1.0, 0.0], 'b': [0.0, 2.0]}


def test_same_seed_same_run_and_another_seed_another() -> None:
    def outcome(seed: int) -> tuple[list[int], dict[Hashable, list[float]]]:
        agent = QLearning(Discrete(4), seed=seed)
        return run(agent, cliff, (3, 0), 3000)[0], agent.table
    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)


def test_n_plus_m_updates_equal_n_save_load_m_bit_for_bit() -> None:
    whole, first = QLearning(Discrete(4), seed=9), QLearning(Discrete(4), seed=9)
    run(whole, cliff, (3, 0), 5000)
    _, state = run(first, cliff, (3, 0), 2000)
    document, arrays = first.export()
    second = QLearning(Discrete(4), seed=1)
    second.restore(json.loads(json.dumps(document)), arrays)
    run(second, cliff, (3, 0), 3000, state)
    assert second.table == whole.table
    assert second.export()[0] == whole.export()[0]


def play(agent: ReinforcementLearningAgent[str], updates: int, state: State = (3, 0)) -> State:
    for number in range(updates):
        action = agent.select_action({'cell': list(state)})
        following, reward, done = cliff(state, ['up', 'right', 'down', 'left'].index(action))
        agent.update({'cell': list(state)}, action, reward, {'cell': list(following)}, done)
        state = (3, 0) if done else following
        if done:
            agent.decay_epsilon()
        if number % 500 == 499:
            assert agent.train_from_replay(batch_size=32, num_batches=10) >= 0.0
    return state


def make() -> ReinforcementLearningAgent[str]:
    return ReinforcementLearningAgent('walker', ['up', 'right', 'down', 'left'], seed=4, replay_capacity=700)


def test_the_python_api_learns_saves_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, first, second = make(), make(), make()
    play(whole, 4000)
    state = play(first, 1500)
    first.save(tmp_path / 'a.model')
    second.load(tmp_path / 'a.model')
    assert second.get_policy_stats() == first.get_policy_stats()
    play(second, 2500, state)
    whole.save(tmp_path / 'whole.model')
    second.save(tmp_path / 'second.model')
    assert (tmp_path / 'whole.model').read_bytes() == (tmp_path / 'second.model').read_bytes()
    assert whole.policy.average_reward < 0
    stats = whole.get_policy_stats()
    assert stats['updates'] == 4000 and stats['replay'] == 700 and stats['states'] <= 48
    assert stats['episodes'] > 10 and stats['epsilon'] < 0.3


def test_replay_alone_reduces_the_error_and_counts_no_new_reward() -> None:
    agent = make()
    assert agent.train_from_replay() == 0.0
    play(agent, 400)
    average = agent.policy.average_reward
    errors = [agent.train_from_replay(64, 50) for _ in range(5)]
    assert errors[-1] < errors[0] / 2 and agent.policy.average_reward == average


def test_bad_input_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    agent = make()
    play(agent, 100)
    before = agent.get_policy_stats()
    for arguments in (('s', 'jump', 1.0, 's', False), ('s', 'up', float('nan'), 's', False),
                      ('s', 'up', float('inf'), 's', False), (object(), 'up', 1.0, 's', False),
                      ({1: 2}, 'up', 1.0, 's', False), ('s', 'up', 1.0, float('nan'), False)):
        with pytest.raises(ValueError):
            agent.update(*arguments)
    with pytest.raises(ValueError):
        agent.train_from_replay(batch_size=0)
    other = ReinforcementLearningAgent('other', ['up', 'down'], seed=1)
    other.save(tmp_path / 'other.model')
    with pytest.raises(ModelError, match=r'another specification.*actions: \["up", "down"\] in the model'):
        agent.load(tmp_path / 'other.model')
    (tmp_path / 'garbage.model').write_bytes(b'garbage')
    with pytest.raises(CheckpointError, match='not a Muster model'):
        agent.load(tmp_path / 'garbage.model')
    for changed in ({'capacity': 0}, {'capacity': 10**9}, {'transitions': [[1, -1, 0.0, 1, False]]},
                    {'transitions': [[1, 0, float('nan'), 1, False]]}, {'transitions': 3}):
        agent.save(tmp_path / 'a.model')
        checkpoint = load_checkpoint(tmp_path / 'a.model')
        checkpoint.document['replay'].update(changed)
        save_checkpoint(tmp_path / 'a.model', checkpoint)
        with pytest.raises(ModelError, match='remembered transitions are unsound'):
            agent.load(tmp_path / 'a.model')
    assert agent.get_policy_stats() == before
    for actions in ([], ['a', 'a'], list(range(300))):
        with pytest.raises(ValueError, match='actions'):
            ReinforcementLearningAgent('x', actions)
    with pytest.raises(ValueError, match='learnin_rate'):
        ReinforcementLearningAgent('x', ['a'], learnin_rate=0.1)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-2**60, 2**60) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12)


@given(PLAIN)
def test_any_plain_state_is_hashable_and_survives_json(state: object) -> None:
    frozen = freeze(state)
    assert hash(frozen) == hash(freeze(state))
    assert freeze(json.loads(json.dumps(frozen))) == frozen


def test_states_are_equal_whatever_the_order_and_the_container() -> None:
    assert freeze({'a': 1, 'b': [1, 2]}) == freeze({'b': (1, 2), 'a': 1})
    assert freeze(np.array([1.5, 2.0])) == (1.5, 2.0)
    deep: list = []
    for _ in range(20):
        deep = [deep]
    for state in (deep, [0] * 5000, {1: 1}, {1, 2}, b'x', float('inf')):
        with pytest.raises(ValueError):
            freeze(state)


def test_discretiser_puts_an_edge_into_the_bin_above() -> None:
    discretise = Discretiser([(0.1, 0.5), (), (0.0,)])
    assert discretise(np.array([0.1, 7.0, -0.1], np.float32)) == (1, 0, 0)
    assert discretise(np.array([0.7, 7.0, 0.0], np.float32)) == (2, 0, 1)
    with pytest.raises(ValueError, match='ascend'):
        Discretiser([(0.5, 0.1)])
    with pytest.raises(ValueError):
        discretise(np.zeros(2, np.float32))


def test_learning_is_importable_without_ros() -> None:
    code = ('import sys; import muster.learning, muster.learning.training, muster.simulation.environment; '
            'loaded = {name.split(".")[0] for name in sys.modules}; '
            'sys.exit(bool(loaded & {"rclpy", "muster_interfaces", "sensor_msgs"}))')
    assert subprocess.run([sys.executable, '-c', code], timeout=60).returncode == 0
