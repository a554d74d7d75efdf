# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""ContinualLearningSystem: the best so far is kept, and what several models know becomes one."""
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

from muster.learning import ContinualLearningSystem, LearningMode, ReinforcementLearningAgent
from muster.learning.agents.base import Discrete
from muster.learning.agents.q_learning import QLearning
from muster.learning.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from muster.learning.consolidation import action_values, merge, weights_of
import numpy as np
import pytest

LENGTH = 10


def agent(name: str, seed: int = 1, **hyperparameters: Any) -> ReinforcementLearningAgent[str]:
    return ReinforcementLearningAgent(name, ['left', 'right'], seed=seed, **hyperparameters)


def walk(learner: ReinforcementLearningAgent[str], goal: int, places: Iterable[int],
         rounds: int = 60) -> None:
    """Learn in a corridor to reach `goal`, trying both actions in these places only."""
    places = list(places)
    for _ in range(rounds):
        for place in places:
            for action, move in (('left', -1), ('right', 1)):
                there = min(max(place + move, 0), LENGTH - 1)
                learner.update({'at': place}, action, float(there == goal), {'at': there}, there == goal)


def solved(learner: ReinforcementLearningAgent[str], goal: int) -> float:
    """Return the share of places from which the greedy policy heads for the goal."""
    right = [learner.select_action({'at': place}, LearningMode.EXPLOITATION)
             == ('right' if place < goal else 'left') for place in range(LENGTH) if place != goal]
    return float(np.mean(right))


# The best so far ------------------------------------------------------------------------------
def test_a_score_is_compared_with_the_best_so_far_not_with_the_last() -> None:
    system = ContinualLearningSystem('robot_1', clock=count(1).__next__)
    assert system.register_model('nav', {'w': [1.0, 2.0]}) == 1
    assert [system.update_model_performance('nav', score) for score in (0.9, 0.7, 0.8, 0.9, 0.95)] == [
        True, False, False, False, True]
    history = system.get_model_history('nav')
    assert [entry['best_score'] for entry in history] == [0.9, 0.9, 0.9, 0.9, 0.95]
    assert [round(entry['forgotten'], 3) for entry in history] == [0.0, 0.2, 0.1, 0.0, 0.0]
    assert [entry['time'] for entry in history] == [1, 2, 3, 4, 5]


def test_the_best_that_a_learning_agent_ever_was_can_be_gone_back_to() -> None:
    system, learner = ContinualLearningSystem('robot_1'), agent('a')
    system.register_model('nav', learner, task='right')
    walk(learner, 9, range(9))
    assert solved(learner, 9) == 1.0
    assert system.update_model_performance('nav', solved(learner, 9))
    walk(learner, 0, range(1, 10), 300)  # another task: the first is forgotten
    assert solved(learner, 9) < 0.5
    assert not system.update_model_performance('nav', solved(learner, 9))
    assert system.update_model_performance('nav', solved(learner, 0), task='left')
    assert system.get_model_history('nav')[1]['forgotten'] > 0.5
    learner.restore(system.get_best_model('nav'))
    assert solved(learner, 9) == 1.0
    learner.restore(system.get_best_model('nav', 'left'))
    assert solved(learner, 0) == 1.0


def test_from_returns_of_episodes_only_what_is_surely_better_becomes_the_best() -> None:
    system, generator = ContinualLearningSystem('robot_1'), np.random.default_rng(1)
    system.register_model('nav', {'w': 1.0}, score=generator.normal(10.0, 1.0, 20))
    assert not system.update_model_performance('nav', generator.normal(10.1, 1.0, 20).tolist())
    system.register_model('nav', {'w': 2.0})
    assert system.update_model_performance('nav', generator.normal(13.0, 1.0, 20))
    assert system.get_model_history('nav')[-1]['best_version'] == 2
    assert system.get_best_model('nav').arrays['w'] == 2.0


# Consolidation --------------------------------------------------------------------------------
def test_agents_that_know_parts_of_a_world_know_all_of_it_together() -> None:
    system = ContinualLearningSystem('fleet')
    for name, places in (('a', range(5)), ('b', range(6, 10))):
        learner = agent(name)
        walk(learner, 5, places)
        assert learner.get_policy_stats()['states'] in (4, 5)
        system.register_model(name, learner, score=solved(learner, 5))
    told = system.consolidate_knowledge()
    assert told['method'] == 'merged' and told['models'] == ['a', 'b']
    together = agent('together')
    together.restore(system.get_consolidated_knowledge()['checkpoint'])
    assert solved(together, 5) == 1.0
    assert len(system.get_consolidated_knowledge()['values']) == 9
    together.update({'at': 0}, 'right', 0.0, {'at': 1}, False)  # and it learns on


def table(rows: dict[str, list[float]], **parameters: Any) -> Checkpoint:
    """Return a table of two actions; rows are estimates, then updates where they are counted."""
    agent = {'actions': 2, 'states': list(rows), 'parameters': {'initial_value': 0.0, **parameters}}
    return Checkpoint({'kind': 'q_learning', 'agent': agent}, {'values': np.array(list(rows.values()))})


def test_what_was_updated_more_often_counts_more_and_what_never_was_does_not() -> None:
    often, seldom = {'s': [1.0, 0.0, 9.0, 0.0]}, {'s': [0.0, 2.0, 1.0, 1.0], 't': [0.0, 1.0, 0.0, 1.0]}
    models = [table(rows, step_power=1.0) for rows in (often, seldom)]
    merged = merge(models, np.array([0.5, 0.5]))
    assert action_values(merged) == {'s': [0.9, 2.0], 't': [0.0, 1.0]}
    assert merged.arrays['values'][0].tolist() == [0.9, 2.0, 10.0, 1.0]
    # Twice the weight of one is twice the updates of it.
    assert action_values(merge(models, np.array([0.9, 0.1])))['s'] == pytest.approx([81 / 82, 2.0])
    # Where updates are not counted, the initial value is taken for what was never updated.
    plain = [table({'s': [1.0, 0.0]}), table({'s': [3.0, 4.0], 't': [0.0, 1.0]})]
    assert action_values(merge(plain, np.array([0.5, 0.5]))) == {'s': [2.0, 4.0], 't': [0.0, 1.0]}
    double = [table({'s': row}, double=True) for row in ([1.0, 0.0, 3.0, 0.0], [3.0, 0.0, 5.0, 0.0])]
    assert action_values(merge(double, np.array([0.5, 0.5]))) == {'s': [3.0, 0.0]}
    with pytest.raises(ValueError, match='layouts'):
        merge([models[0], plain[0]], np.array([0.5, 0.5]))


def test_parameters_are_averaged_by_weight_and_importance() -> None:
    system = ContinualLearningSystem('fleet')
    system.register_model('a', {'w': np.float32([1.0, 1.0, 1.0]), 'b': 2}, importance={'w': [3.0, 0.0, 0.0]},
                          score=1.0)
    system.register_model('b', {'w': np.float32([5.0, 5.0, 5.0]), 'b': 4}, importance={'w': [1.0, 1.0, 0.0]},
                          score=1.0)
    system.consolidate_knowledge()
    merged = system.get_consolidated_knowledge()['parameters']
    assert merged['w'].tolist() == [2.0, 5.0, 3.0] and merged['w'].dtype == np.float32 and merged['b'] == 3.0
    system.consolidate_knowledge(['a', 'b'], weights={'b': 2.0})
    assert system.get_consolidated_knowledge()['parameters']['b'] == 4.0
    told = system.consolidate_knowledge(['a', 'b'], weights={'a': 1.0, 'b': 3.0})
    assert told['weights'] == {'a': 0.25, 'b': 0.75}
    assert system.get_consolidated_knowledge()['parameters']['b'] == 3.5
    assert merged['w'].tolist() == [2.0, 5.0, 3.0]  # the caller's own


def test_better_models_weigh_more_whatever_the_unit_of_the_score() -> None:
    assert weights_of([5.0, 5.0]).tolist() == [0.5, 0.5]
    weights = weights_of([1.0, 2.0, 3.0])
    np.testing.assert_allclose(weights, weights_of([-10.0, 0.0, 10.0]))
    assert weights[2] > weights[1] > weights[0] > 0.0 and weights.sum() == pytest.approx(1.0)


def test_models_that_do_not_fit_together_are_not_averaged() -> None:
    system = ContinualLearningSystem('fleet')
    system.register_model('table', agent('a'), score=0.5)
    system.register_model('numbers', {'w': 7.0}, score=0.9)
    system.register_model('scores only', score=1.0)
    told = system.consolidate_knowledge()
    assert (told['method'], told['best_model'], told['models']) == ('best', 'numbers', ['table', 'numbers'])
    assert system.get_consolidated_knowledge()['parameters']['w'] == 7.0
    system.register_model('other', ReinforcementLearningAgent('b', ['up', 'down']), score=0.5)
    system.register_model('shape', {'w': [7.0, 8.0]}, score=0.9)
    for pair, text in ((['table', 'other'], 'different actions'), (['numbers', 'shape'], "parameter 'w'")):
        with pytest.raises(ValueError, match=text):
            system.consolidate_knowledge(pair)
    assert system.get_consolidated_knowledge()['parameters']['w'] == 7.0  # as before


def test_knowledge_of_each_task_is_kept_apart() -> None:
    system = ContinualLearningSystem('fleet')
    for task, value in (('day', 1.0), ('night', 3.0)):
        system.register_model(task, {'w': value}, task=task, score=1.0)
        system.consolidate_knowledge(task=task)
    assert system.get_consolidated_knowledge('day')['parameters']['w'] == 1.0
    assert system.get_consolidated_knowledge('night')['parameters']['w'] == 3.0
    assert system.get_consolidated_knowledge('dusk') == {}


def test_other_agents_are_kept_too() -> None:
    system, learner = ContinualLearningSystem('robot_1'), QLearning(Discrete(2), seed=1)
    learner.table['s'] = [0.5, 0.25]
    system.register_model('a', learner, score=1.0)
    learner.table['s'][0] = -1.0
    assert system.get_best_model('a').arrays['values'].tolist() == [[0.5, 0.25]]


# Bad input and saving -------------------------------------------------------------------------
def test_bad_input_is_refused_and_changes_nothing() -> None:
    system = ContinualLearningSystem('robot_1')
    for bad in ({'a b': 1.0}, {'../w': 1.0}, {'w': 'x'}, {'w': float('nan')}, {'w': [object()]}, {1: 1.0}):
        with pytest.raises(ValueError, match='must be finite'):
            system.register_model('a', bad)
    for importance in ({'v': 1.0}, {'w': -1.0}, {'w': [1.0, 2.0]}, {'w': float('nan')}):
        with pytest.raises(ValueError, match='importance'):
            system.register_model('a', {'w': 1.0}, importance=importance)
    with pytest.raises(ValueError, match='model_id'):
        system.register_model('', {'w': 1.0})
    for work in (lambda: system.update_model_performance('a', 1.0), lambda: system.get_model_history('a'),
                 lambda: system.consolidate_knowledge(['a'])):
        with pytest.raises(KeyError, match="no model 'a'"):
            work()
    system.register_model('a', {'w': 1.0})
    for score in (float('nan'), [], 'x', [1.0, float('inf')], True):
        with pytest.raises((ValueError, TypeError)):
            system.update_model_performance('a', score)
    with pytest.raises(ValueError, match='no model has been scored'):
        system.consolidate_knowledge()
    with pytest.raises(KeyError, match='no best'):
        system.get_best_model('a')
    assert system.get_model_history('a') == []
    system.update_model_performance('a', 1.0)
    for weights in ({}, {'a': -1.0}, {'a': float('nan')}):
        with pytest.raises(ValueError, match=r'weights|finite'):
            system.consolidate_knowledge(weights=weights)


@pytest.mark.parametrize('name', ['system.npz', 'system.json'])
def test_it_is_saved_and_loaded(tmp_path: Path, name: str) -> None:
    system, learner = ContinualLearningSystem('robot_1'), agent('a')
    walk(learner, 9, range(9))
    system.register_model('nav', learner, score=0.5)
    system.register_model('numbers', {'w': [1.0, 2.0]}, task='day', importance={'w': [1.0, 0.0]}, score=0.25)
    system.register_model('scores only', score=[1.0, 2.0])
    system.consolidate_knowledge()
    system.consolidate_knowledge(task='day')
    system.save(tmp_path / name)
    loaded = ContinualLearningSystem('other')
    loaded.load(tmp_path / name)
    assert loaded.system_id == 'robot_1'
    for model_id in ('nav', 'numbers', 'scores only'):
        assert loaded.get_model_history(model_id) == system.get_model_history(model_id)
    other = agent('b')
    other.restore(loaded.get_consolidated_knowledge()['checkpoint'])
    assert solved(other, 9) == 1.0
    assert loaded.get_consolidated_knowledge('day')['parameters']['w'].tolist() == [1.0, 2.0]
    assert not loaded.update_model_performance('nav', 0.4) and loaded.register_model('nav', learner) == 2
    loaded.save(tmp_path / 'again.npz')
    assert len(load_checkpoint(tmp_path / 'again.npz').document['copies']) == 4


def test_an_unsound_file_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    system = ContinualLearningSystem('robot_1')
    system.register_model('a', {'w': 1.0}, score=0.5)
    system.save(tmp_path / 'a.npz')
    sound = load_checkpoint(tmp_path / 'a.npz')
    for change, arrays in (({'kind': 'x'}, {}), ({'models': 1}, {}), ({'models': [['a', {}]]}, {}),
                           ({'copies': []}, {}), ({'copies': [1]}, {}), ({}, {'9/w': np.zeros(1)}),
                           ({}, {'x/w': np.zeros(1)}), ({'consolidated': [[1, 0]]}, {})):
        save_checkpoint(tmp_path / 'b.npz', Checkpoint({**sound.document, **change},
                                                       {**sound.arrays, **arrays}))
        with pytest.raises(CheckpointError, match=r'b\.npz'):
            system.load(tmp_path / 'b.npz')
    assert system.get_best_model('a').arrays['w'] == 1.0
