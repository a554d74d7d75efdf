# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What an agent's networks keep of their tasks: answers rehearsed, elastic weights, agreement with once."""
from __future__ import annotations

from muster.learning.continual.memory import ContinualParameters, TaskMemory
from muster.learning.networks import Adam, MLP
import numpy as np
import pytest


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def same_choice(now, once):
    return float((now.argmax(1) == once.argmax(1)).mean())


def memory_of(*networks, prepare=None, **parameters):
    more = {} if prepare is None else {'prepare': prepare}
    return TaskMemory(networks, ContinualParameters(**parameters), same_choice, **more)


def observations(task, rows, random):
    """Return what is seen in a task: 'left' and 'right' are in places of their own."""
    x = random.normal(size=(rows, 2)).astype(np.float32)
    x[:, 0] += -3 if task == 'left' else 3
    return x


def values(task, x):
    """Return what is right in a task."""
    sign = 1 if task == 'left' else -1
    return np.stack([sign * x[:, 1], -sign * x[:, 1]], 1)


def trained(updates=600, **parameters):
    """Learn the two tasks one after the other; return the network, its memory and the generator."""
    random = generator(1)
    network = MLP([2, 24, 2], random)
    memory, optimiser = memory_of(network, **parameters), Adam(network.theta.size)
    for task in ('left', 'right'):
        memory.begin_task(task, random)
        for _ in range(updates):
            x = observations(task, 16, random)
            memory.remember(x[0], random)
            gradient = network.backward((network.forward(x) - values(task, x)) / 16).copy()
            memory.add_gradient(gradient, random)
            optimiser.step(network.theta, gradient, 0.01)
    memory.consolidate(random)
    return network, memory, random


def error(network, task):
    x = observations(task, 500, generator(9))
    return float(np.abs(network.forward(x) - values(task, x)).mean())


def test_what_naive_learning_forgets_rehearsal_keeps():
    naive, memory, _ = trained(rehearsal_batch=0)
    assert error(naive, 'right') < 0.1
    assert error(naive, 'left') > 0.5
    assert memory.transfer.backward_transfer < -0.2
    network, memory, _ = trained(rehearsal=100)
    assert error(network, 'right') < 0.1
    assert error(network, 'left') < 0.15
    assert memory.transfer.backward_transfer > -0.1
    assert memory.transfer.tasks == ['left', 'right']


def test_the_gradient_of_what_is_held_on_to_is_that_of_finite_differences():
    random = generator(2)
    networks = [MLP([2, 5, outputs], random, 'tanh', dtype=np.float64) for outputs in (3, 1)]
    memory = memory_of(*networks, rehearsal=8, rehearsal_batch=6, rehearsal_weight=2.0, elastic_strength=0.5,
                       prepare=lambda x: x / 2)
    for _ in range(8):
        memory.remember(random.normal(size=2).astype(np.float32), random)
    memory.begin_task('next', random)
    for network in networks:
        network.theta += random.normal(0, 0.3, network.theta.size)
    state = random.bit_generator.state
    whole = np.ones(sum(network.theta.size for network in networks) + 3)
    memory.add_gradient(whole, random)
    *gradients, rest = np.split(whole - 1, np.cumsum([network.theta.size for network in networks]))
    assert not rest.any()
    random.bit_generator.state = state
    rows = memory.reservoirs.rows[memory.reservoirs.draw(6, random)].astype(np.float64)

    def loss():
        answers = np.hstack([network.forward(rows[:, :2] / 2).copy() for network in networks])
        size = np.abs(answers - rows[:, 2:])
        huber = np.where(size <= 1, size ** 2 / 2, size - 0.5).sum() / 6
        return 2.0 * huber + sum(elastic.penalty(network.theta, 0.5)
                                 for network, elastic in zip(networks, memory.elastic, strict=True))

    for network, gradient in zip(networks, gradients, strict=True):
        for place in range(0, network.theta.size, 3):
            kept = network.theta[place]
            around = []
            for step in (1e-3, -1e-3):
                network.theta[place] = kept + step
                around.append(loss())
            network.theta[place] = kept
            assert gradient[place] == pytest.approx((around[0] - around[1]) / 2e-3, abs=1e-3)


def held(memory, random):
    """Return the gradient of what is held on to, float32[22], by a network of 2, 4 and 2."""
    gradient = np.zeros(22, np.float32)
    memory.add_gradient(gradient, random)
    return gradient


def test_the_only_task_is_not_rehearsed_nor_anything_held_on_to():
    random = generator()
    network = MLP([2, 4, 2], random)
    memory = memory_of(network)
    for x in observations('left', 50, random):
        memory.remember(x, random)
    assert not held(memory, random).any()
    assert memory.begin_task('new', random) is True
    assert not held(memory, random).any()              # it still answers as it did
    network.theta *= np.float32(1.1)
    assert held(memory, random).any()
    assert memory.begin_task('', random) is False      # known


def test_a_schedule_consolidates_without_a_change_of_task():
    random = generator()
    memory = memory_of(MLP([2, 4, 2], random), consolidate_every=10, elastic_strength=1.0)
    memory.remember(np.ones(2, np.float32), random)
    for update in range(30):
        held(memory, random)
        assert len(memory.transfer.stages) == (update + 1) // 10
    assert memory.elastic[0].importance.any()


def test_a_task_returned_to_is_remembered_as_it_is_at_its_new_end():
    network, memory, random = trained(100)
    memory.begin_task('left', random)
    network.theta *= np.float32(-1)
    assert memory.agreement('left') < 1
    memory.begin_task('right', random)
    assert memory.agreement('left') == 1


def test_memory_goes_on_bit_for_bit_after_a_restart():
    network, memory, random = trained(100, rehearsal=50, elastic_strength=1.0)
    again = memory_of(network, rehearsal=50, elastic_strength=1.0)
    again.restore(*memory.export())
    source = generator()
    source.bit_generator.state = random.bit_generator.state
    x = observations('right', 40, generator(3))
    kept = []
    for one, drawn in ((memory, random), (again, source)):
        for row in x:
            one.remember(row, drawn)
        gradient = np.zeros_like(network.theta)
        one.add_gradient(gradient, drawn)
        kept.append((gradient, one.export()))
    assert np.array_equal(kept[0][0], kept[1][0])
    assert kept[0][1][0] == kept[1][1][0]
    assert all(np.array_equal(kept[0][1][1][name], kept[1][1][1][name]) for name in kept[0][1][1])


@pytest.mark.parametrize('name', [
    'importance_0', 'anchor_0', 'rows', 'owners', 'reservoirs', 'transfer', 'updates'])
def test_an_unsound_memory_is_refused_and_changes_nothing(name):
    network, memory, _ = trained(20, rehearsal=50)
    before = memory.export()[1]['rows']
    document, arrays = memory.export()
    if name in arrays:
        arrays[name] = arrays[name][:0].astype(np.float64)
    else:
        document[name] = 'x'
    with pytest.raises(ValueError):
        memory.restore(document, arrays)
    (arrays if name in arrays else document).pop(name)
    with pytest.raises(ValueError):
        memory.restore(document, arrays)
    assert np.array_equal(memory.export()[1]['rows'], before)
    with pytest.raises(ValueError):
        memory_of(network, rehearsal=30).restore(*memory.export())
