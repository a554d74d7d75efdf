# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Networks: gradients against finite differences, known answers, and optimisation."""
import math
from typing import Any

from muster.learning.networks import Adam, clip_norm, huber_gradient, MLP
import numpy as np
import pytest


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize('activation', ['relu', 'tanh'])
@pytest.mark.parametrize('sizes', [(3, 2), (4, 8, 3), (2, 16, 5, 1)])
def test_the_gradient_is_that_of_finite_differences(activation: str, sizes: tuple[int, ...]) -> None:
    random = generator()
    network = MLP(sizes, random, activation, dtype=np.float64)
    network.theta += 0.1 * random.normal(size=network.theta.shape)  # biases too
    x, target = random.normal(size=(7, sizes[0])), random.normal(size=(7, sizes[-1]))

    def loss() -> float:
        return float(0.5 * np.sum((network.forward(x) - target) ** 2))
    exact = network.backward(network.forward(x) - target).copy()
    measured, step = np.empty_like(exact), 1e-6
    for i in range(len(exact)):
        value = network.theta[i]
        network.theta[i] = value + step
        above = loss()
        network.theta[i] = value - step
        measured[i] = (above - loss()) / (2 * step)
        network.theta[i] = value
    assert np.abs(exact - measured).max() <= 1e-6 * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize('activation', ['relu', 'tanh'])
def test_known_answers(activation: str) -> None:
    network = MLP((2, 2, 1), generator(), activation)
    network.theta[:] = [1, -1, 2, 0, 0.5, -0.5, 3, -2, 0.25]  # rows: inputs, then the bias
    assert network.theta.dtype == np.float32
    hidden = np.array([1 + 4 + 0.5, -1 + 0 - 0.5])
    hidden = np.maximum(hidden, 0) if activation == 'relu' else np.tanh(hidden)
    expected = 3 * hidden[0] - 2 * hidden[1] + 0.25
    assert network.forward(np.array([[1, 2]], np.float32))[0, 0] == pytest.approx(expected, rel=1e-6)
    assert network.forward_one(np.array([1, 2], np.float32))[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('activation', ['relu', 'tanh'])
def test_batches_of_any_size_and_single_rows_agree_and_buffers_stay_bounded(activation: str) -> None:
    network, x = MLP((5, 32, 32, 3), generator(), activation), generator().normal(size=(40, 5))
    whole = network.forward(x).copy()
    for size in range(1, 41):
        assert network.forward(x[:size]) == pytest.approx(whole[:size], abs=1e-5)
        assert network.forward_one(x[size - 1]) == pytest.approx(whole[size - 1], abs=1e-5)
    network.inputs(40)[...] = x
    assert (network.forward(network.inputs(40)) == whole).all()
    assert len(network._buffers) <= 8


@pytest.mark.parametrize('activation', ['relu', 'tanh'])
def test_a_loss_of_the_first_rows_alone_has_the_gradient_of_a_batch_of_these(activation: str) -> None:
    network, x = MLP((5, 32, 32, 3), generator(), activation), generator().normal(size=(40, 5))
    dy = generator(2).normal(size=(15, 3)).astype(np.float32)
    network.forward(x[:15])
    alone = network.backward(dy).copy()
    network.forward(x)
    assert network.backward(dy) == pytest.approx(alone, abs=1e-4)


def test_initial_weights_are_orthogonal_and_biases_zero() -> None:
    network = MLP((6, 10, 4), generator(), output_gain=0.01)
    first, last = network.theta[:70].reshape(7, 10), network.theta[70:].reshape(11, 4)
    assert first[:6] @ first[:6].T == pytest.approx(2 * np.eye(6), abs=1e-5)
    assert last[:10].T @ last[:10] == pytest.approx(1e-4 * np.eye(4), abs=1e-8)
    assert not first[6].any() and not last[10].any()
    assert (MLP((6, 10, 4), generator(), output_gain=0.01).theta == network.theta).all()
    with pytest.raises(ValueError, match='relu'):
        MLP((1, 1), generator(), 'sigmoid')


def test_adam_follows_algorithm_1() -> None:
    random = generator()
    adam, theta, expected = Adam(5, dtype=np.float64), np.zeros(5), np.zeros(5)
    mean, square = np.zeros(5), np.zeros(5)
    for t in range(1, 50):
        gradient = random.normal(size=5)
        before = gradient.copy()
        adam.step(theta, gradient, 0.01)
        assert (gradient == before).all()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient ** 2
        expected -= 0.01 * (mean / (1 - 0.9 ** t)) / (np.sqrt(square / (1 - 0.999 ** t)) + 1e-8)
        assert theta == pytest.approx(expected, abs=1e-12)
        if t == 1:
            assert theta == pytest.approx(-0.01 * np.sign(gradient), abs=1e-6)


def test_adam_goes_on_from_what_was_saved_and_refuses_the_unsound() -> None:
    random = generator()
    whole, theta = Adam(3), np.zeros(3, np.float32)
    for _ in range(4):
        whole.step(theta, random.normal(size=3).astype(np.float32), 0.1)
    document, arrays = whole.export()
    resumed, other = Adam(3), theta.copy()
    bad: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, arrays), ({'steps': -1}, arrays), (document, {**arrays, 'mean': np.zeros(4, np.float32)}),
        (document, {**arrays, 'square': np.full(3, -1, np.float32)}),
        (document, {**arrays, 'square': np.full(3, np.nan, np.float32)}),
        (document, {'mean': arrays['mean']})]
    for unsound in bad:
        with pytest.raises(ValueError, match=r'optimiser|count'):
            resumed.restore(*unsound)
    assert resumed.steps == 0 and not resumed.mean.any()
    resumed.restore(document, arrays)
    gradient = random.normal(size=3).astype(np.float32)
    whole.step(theta, gradient, 0.1)
    resumed.step(other, gradient, 0.1)
    assert (theta == other).all()


def test_huber_and_clipping_have_known_answers() -> None:
    errors = np.array([-3.0, -1.0, 0.5, 2.0])

    def loss(error: float) -> float:
        return 0.5 * error ** 2 if abs(error) <= 1.5 else 1.5 * (abs(error) - 0.75)
    slope = huber_gradient(errors, 1.5, np.empty(4))
    assert slope == pytest.approx([(loss(e + 1e-6) - loss(e - 1e-6)) / 2e-6 for e in errors], abs=1e-6)
    gradient = np.array([3.0, 4.0])
    assert clip_norm(gradient, 10.0) == 5.0 and gradient.tolist() == [3.0, 4.0]
    assert clip_norm(gradient, 1.0) == 5.0 and gradient == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize('activation', ['relu', 'tanh'])
def test_a_network_learns_a_function(activation: str) -> None:
    random = generator()
    network, adam = MLP((1, 32, 32, 1), random, activation), Adam(32 * 2 + 33 * 32 + 33)
    x = np.linspace(-math.pi, math.pi, 64, dtype=np.float32)[:, None]
    for _ in range(1500):
        gradient = network.backward((network.forward(x) - np.sin(x)) / len(x))
        clip_norm(gradient, 1.0)
        adam.step(network.theta, gradient, 3e-3)
    assert np.abs(network.forward(x) - np.sin(x)).max() < 0.05
