# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Continual learning: fair bounded samples of each task, elastic weights, and how forgetting is counted."""
from __future__ import annotations

from muster.learning.continual.classifier import ClassifierParameters, ContinualClassifier
from muster.learning.continual.elastic import ElasticWeights, fisher_diagonal
from muster.learning.continual.reservoir import TaskReservoirs
from muster.learning.continual.transfer import TransferMatrix
from muster.learning.networks import MLP
import numpy as np
import pytest


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def fill(reservoirs, task, rows, random):
    reservoirs.begin(task)
    for value in range(rows):
        reservoirs.add(np.float32([value]), random)


def kept(reservoirs, task):
    return reservoirs.rows[reservoirs.of(task), 0]


# --- reservoirs ---------------------------------------------------------------------------------------

def test_every_row_of_every_task_is_kept_with_the_same_chance():
    """Chi-square of how often each of 40 rows is kept, of tasks that shrank, shrank twice, and overflowed."""
    runs, length, tasks = 2000, 40, ('a', 'b', 'c')
    counts = {task: np.zeros(length) for task in tasks}
    random = generator(7)
    for _ in range(runs):
        reservoirs = TaskReservoirs(12, 1)
        for task in tasks:
            fill(reservoirs, task, length, random)
        for task in tasks:
            assert len(kept(reservoirs, task)) == 4
            counts[task][kept(reservoirs, task).astype(int)] += 1
    expected = runs * 4 / length
    for task in tasks:
        # Rows are drawn without replacement: the variance is that of chi-square times 1 - 4/40.
        chi_square = ((counts[task] - expected) ** 2 / expected).sum() / (1 - 4 / length)
        assert chi_square < 72.05, task      # the 99.9 % quantile with 39 degrees of freedom
        assert chi_square > 15, task         # more even than chance: not a random sample


def test_a_task_that_is_resumed_keeps_a_uniform_sample_of_all_it_saw():
    early = 0
    random = generator(3)
    for _ in range(1500):
        reservoirs = TaskReservoirs(10, 1)
        fill(reservoirs, 'a', 3, random)           # fewer than its share
        fill(reservoirs, 'b', 30, random)
        reservoirs.begin('a')
        for value in range(3, 30):                 # takes its share back from b, then overflows
            reservoirs.add(np.float32([value]), random)
        assert len(kept(reservoirs, 'a')) == len(kept(reservoirs, 'b')) == 5
        early += (kept(reservoirs, 'a') < 3).sum()
    assert early / 1500 == pytest.approx(5 * 3 / 30, abs=4 * np.sqrt(0.5 / 1500))


def test_all_tasks_together_stay_within_the_capacity():
    reservoirs, random = TaskReservoirs(10, 1), generator()
    fill(reservoirs, 'long', 1000, random)
    assert len(reservoirs) == len(kept(reservoirs, 'long')) == 10
    fill(reservoirs, 'short', 2, random)
    fill(reservoirs, 'third', 50, random)
    assert [len(kept(reservoirs, task)) for task in ('long', 'short', 'third')] == [5, 2, 3]
    assert reservoirs.seen == {'long': 1000, 'short': 2, 'third': 50}


def test_rehearsal_draws_evenly_from_the_other_tasks_alone():
    reservoirs, random = TaskReservoirs(9, 1), generator()
    assert len(reservoirs.draw(5, random)) == 0
    for offset, task in enumerate('abc'):
        reservoirs.begin(task)
        for _ in range(20):
            reservoirs.add(np.float32([offset]), random)
    drawn = reservoirs.rows[reservoirs.draw(4000, random), 0]
    assert (drawn == 0).mean() == pytest.approx(0.5, abs=0.04)
    assert not (drawn == 2).any()
    reservoirs.begin('new')
    assert set(reservoirs.rows[reservoirs.draw(200, random), 0]) == {0, 1, 2}


def test_reservoirs_go_on_bit_for_bit_after_a_restart():
    whole, random = TaskReservoirs(10, 1), generator(5)
    fill(whole, 'a', 30, random)
    fill(whole, 'b', 3, random)
    resumed, again = TaskReservoirs(10, 1), generator()
    resumed.restore(*whole.export())
    again.bit_generator.state = random.bit_generator.state
    for reservoirs, source in ((whole, random), (resumed, again)):
        fill(reservoirs, 'c', 30, source)
    assert np.array_equal(whole.rows, resumed.rows)
    assert np.array_equal(whole.draw(50, random), resumed.draw(50, again))
    assert whole.export()[0] == resumed.export()[0]


@pytest.mark.parametrize('change', [
    {'owners': np.zeros(3, np.int32)}, {'owners': np.full(10, 7, np.int32)},
    {'rows': np.full((10, 1), np.nan, np.float32)}, {'rows': np.zeros((10, 2), np.float32)},
    {'seen': [['a', 2]]}, {'seen': [['a', 30], ['a', 30]]}, {'seen': 5}, {'task': 'x' * 99}, {'task': None}])
def test_unsound_reservoirs_are_refused_and_change_nothing(change):
    reservoirs, random = TaskReservoirs(10, 1), generator()
    fill(reservoirs, 'a', 30, random)
    document, arrays = reservoirs.export()
    before = reservoirs.rows.copy()
    document |= {key: value for key, value in change.items() if key in document}
    arrays |= {key: value for key, value in change.items() if key in arrays}
    with pytest.raises(ValueError):
        reservoirs.restore(document, arrays)
    assert np.array_equal(reservoirs.rows, before)
    assert reservoirs.seen == {'a': 30}


def test_too_many_tasks_are_refused_by_name():
    reservoirs, random = TaskReservoirs(2, 1), generator()
    fill(reservoirs, 'a', 1, random)
    fill(reservoirs, 'b', 1, random)
    with pytest.raises(ValueError, match=r"'c'.*at most 2"):
        reservoirs.begin('c')
    assert reservoirs.task == 'b'
    with pytest.raises(ValueError, match='capacity'):
        TaskReservoirs(0, 1)


# --- elastic weights ----------------------------------------------------------------------------------

def test_the_gradient_of_the_elastic_penalty_is_that_of_finite_differences():
    random = generator(1)
    elastic = ElasticWeights(6)
    for _ in range(2):
        elastic.consolidate(random.normal(size=6).astype(np.float32),
                            random.random(6).astype(np.float32), decay=0.9)
    theta, step = random.normal(size=6).astype(np.float32), np.float32(1 / 64)
    gradient = np.zeros(6, np.float32)
    elastic.add_gradient(theta, 3.0, gradient)
    numeric = [(elastic.penalty(theta + step * unit, 3.0)
                - elastic.penalty(theta - step * unit, 3.0)) / (2 * step)
               for unit in np.eye(6, dtype=np.float32)]
    assert gradient == pytest.approx(numeric, rel=1e-4)


def test_importance_is_the_decayed_sum_and_the_anchor_the_latest_parameters():
    elastic = ElasticWeights(2)
    assert elastic.penalty(np.float32([5, 5]), 1.0) == 0.0
    elastic.consolidate(np.float32([9, 9]), np.float32([4, 0]), decay=0.5)
    elastic.consolidate(np.float32([1, 2]), np.float32([1, 8]), decay=0.5)
    assert elastic.importance.tolist() == [3, 8]
    assert elastic.penalty(np.float32([2, 4]), 10.0) == 10 / 2 * (3 * 1 + 8 * 4)
    other = ElasticWeights(2)
    other.restore(elastic.export())
    assert other.penalty(np.float32([2, 4]), 10.0) == elastic.penalty(np.float32([2, 4]), 10.0)


@pytest.mark.parametrize('arrays', [
    {}, {'importance': np.float32([-1, 0])}, {'anchor': np.float32([np.inf, 0])},
    {'anchor': np.zeros(3, np.float32)}, {'importance': np.zeros(2)}])
def test_unsound_elastic_weights_are_refused(arrays):
    elastic = ElasticWeights(2)
    sound = elastic.export() if arrays else {}
    with pytest.raises(ValueError):
        elastic.restore(sound | arrays)


@pytest.mark.parametrize('activation', ['relu', 'tanh'])
def test_the_fisher_information_is_the_mean_of_squared_gradients_of_single_samples(activation):
    random = generator(4)
    network = MLP([3, 5, 4, 2], random, activation, dtype=np.float64)
    x, dy = random.normal(size=(7, 3)), random.normal(size=(7, 2))
    singly = np.zeros_like(network.theta)
    for row in range(7):
        network.forward(x[row:row + 1])
        singly += network.backward(dy[row:row + 1]) ** 2 / 7
    assert fisher_diagonal(network, x, dy) == pytest.approx(singly, rel=1e-6)


# --- what was forgotten -------------------------------------------------------------------------------

def test_forgetting_by_a_matrix_worked_out_by_hand():
    transfer = TransferMatrix()
    transfer.record('a', {'a': 0.9})
    transfer.record('b', {'a': 0.95, 'b': 0.8})
    transfer.record('c', {'a': 0.6, 'b': 0.7, 'c': 1.0})
    assert transfer.average == pytest.approx((0.6 + 0.7 + 1.0) / 3)
    assert transfer.backward_transfer == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    assert transfer.forgetting == pytest.approx(((0.95 - 0.6) + (0.8 - 0.7)) / 2)
    assert np.array_equal(transfer.matrix, [[0.9, np.nan, np.nan], [0.95, 0.8, np.nan], [0.6, 0.7, 1.0]],
                          equal_nan=True)


def test_a_task_learned_again_counts_from_then():
    transfer = TransferMatrix()
    for learned, scores in (('a', {'a': 0.5}), ('b', {'a': 0.1, 'b': 0.6}), ('a', {'a': 0.9, 'b': 0.4}),
                            ('c', {'a': 0.8, 'b': 0.3, 'c': 1.0})):
        transfer.record(learned, scores)
    assert transfer.tasks == ['a', 'b', 'c']
    assert transfer.backward_transfer == pytest.approx(((0.8 - 0.9) + (0.3 - 0.6)) / 2)
    assert transfer.forgetting == pytest.approx(((0.9 - 0.8) + (0.6 - 0.3)) / 2)
    assert np.array_equal(TransferMatrix.restored(transfer.export()).matrix, transfer.matrix, equal_nan=True)


def test_nothing_is_forgotten_of_no_task_and_of_one():
    transfer = TransferMatrix()
    assert (transfer.average, transfer.backward_transfer, transfer.forgetting) == (0, 0, 0)
    transfer.record('a', {'a': 0.5})
    assert (transfer.average, transfer.backward_transfer, transfer.forgetting) == (0.5, 0, 0)


@pytest.mark.parametrize('document', [
    5, [5], [['a', {}]], [['a', {'a': 'high'}]], [['a', {'a': float('nan')}]], [[1, {1: 0.5}]], [['a', 3]]])
def test_an_unsound_accuracy_matrix_is_refused(document):
    with pytest.raises(ValueError):
        TransferMatrix.restored(document)


# --- a classifier -------------------------------------------------------------------------------------

def two_tasks():
    """Return two tasks of 200 samples: which of two blobs, in places and with labels of their own."""
    random, tasks = generator(2), {}
    for number, task in enumerate(('first', 'second')):
        y = random.integers(2, size=200) + 2 * number
        centres = np.float32([[0, 0], [0, 2], [1, 0], [1, 2]])
        tasks[task] = (centres[y] + random.normal(0, 0.15, (200, 2)).astype(np.float32), y)
    return tasks


def classifier_of(seed=0, **parameters):
    return ContinualClassifier(2, 4, ClassifierParameters(hidden=(16,), **parameters), seed)


def learned(epochs=15, seed=0, **parameters):
    classifier, tasks = classifier_of(seed, **parameters), two_tasks()
    for task, (x, y) in tasks.items():
        classifier.fit(task, x, y, epochs)
        classifier.evaluate(tasks)
    return classifier


def test_without_rehearsal_the_first_task_is_forgotten_and_with_it_is_not():
    naive = learned(30, learning_rate=0.02, rehearsal_batch=0).transfer.matrix
    assert naive[0, 0] > 0.95
    assert naive[1, 1] > 0.95
    assert naive[1, 0] < 0.2
    rehearsed = learned(30, learning_rate=0.02, rehearsal=20)
    assert rehearsed.transfer.matrix[1].min() > 0.95
    assert rehearsed.transfer.backward_transfer > -0.05
    assert len(rehearsed.reservoirs) == 20


def test_elastic_weights_keep_a_task_whose_outputs_another_shares():
    """Two tasks with the same labels, told apart by their inputs."""
    results = {}
    for strength in (0.0, 30.0):
        classifier = ContinualClassifier(6, 2, ClassifierParameters(
            hidden=(20,), learning_rate=0.01, rehearsal_batch=0, elastic_strength=strength), 0)
        random, sets = generator(3), {}
        for number, task in enumerate('ab'):
            # Of six inputs a task uses its own three; what they mean is opposite in the other.
            x = np.zeros((300, 6), np.float32)
            x[:, 3 * number:3 * number + 3] = random.normal(size=(300, 3))
            sets[task] = (x, ((x[:, 0] > 0) if number == 0 else (x[:, 3] < 0)).astype(np.int64))
        for task, (x, y) in sets.items():
            classifier.fit(task, x, y, 10)
            classifier.evaluate(sets)
        results[strength] = classifier.transfer
    assert results[30.0].backward_transfer > results[0.0].backward_transfer
    assert results[30.0].matrix[1].min() > 0.9


def test_the_loss_of_a_minibatch_is_cross_entropy_and_falls():
    classifier, (x, y) = ContinualClassifier(2, 4, seed=1), two_tasks()['first']
    outputs = classifier.network.forward(x[:8]).astype(np.float64)
    expected = np.mean(np.log(np.exp(outputs).sum(1)) - outputs[np.arange(8), y[:8]])
    assert classifier.learn(x[:8], y[:8]) == pytest.approx(expected, rel=1e-5)
    assert classifier.learn(x[:8], y[:8]) < expected


def test_a_classifier_goes_on_bit_for_bit_after_a_restart():
    whole = learned(3, elastic_strength=1.0, rehearsal=30)
    resumed = classifier_of(99, rehearsal=30)
    resumed.restore(*whole.export())
    x, y = two_tasks()['first']
    for classifier in (whole, resumed):
        classifier.fit('third', x + 1, y, 2)
    assert np.array_equal(whole.network.theta, resumed.network.theta)
    assert whole.export()[0] == resumed.export()[0]


@pytest.mark.parametrize(('x', 'y', 'message'), [
    ([[np.nan, 0]], [0], 'finite'), ([[0, 0, 0]], [0], 'shape'), ([[0, 0]], [4], '0..3'),
    ([[0, 0]], [0, 1], 'one per sample'), ([[0, 0]], [0.5], 'whole'), (np.zeros((0, 2)), [], 'at least 1')])
def test_unsound_samples_teach_nothing(x, y, message):
    classifier = ContinualClassifier(2, 4, seed=1)
    before = classifier.network.theta.copy()
    with pytest.raises(ValueError, match=message):
        classifier.learn(np.array(x), np.array(y))
    assert np.array_equal(classifier.network.theta, before)
    assert len(classifier.reservoirs) == 0


@pytest.mark.parametrize('name', ['theta', 'mean', 'rows', 'anchor', 'importance'])
def test_an_unsound_classifier_is_refused_and_changes_nothing(name):
    classifier = learned(1)
    before = classifier.network.theta.copy()
    document, arrays = learned(1, seed=5).export()
    arrays[name] = np.full_like(arrays[name], np.nan)
    with pytest.raises(ValueError):
        classifier.restore(document, arrays)
    del arrays[name]
    with pytest.raises(ValueError):
        classifier.restore(document, arrays)
    assert np.array_equal(classifier.network.theta, before)


def test_a_classifier_of_another_shape_is_refused_by_name():
    with pytest.raises(ValueError, match='rehearsal is 300 there and 30 here'):
        classifier_of(rehearsal=30).restore(*learned(1).export())
