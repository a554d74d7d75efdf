# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Running moments against the plain formulas; what they scale."""
from muster.learning.normaliser import ObservationNormaliser, RewardNormaliser, RunningMoments
import numpy as np
import pytest


@pytest.mark.parametrize('batches', [[500], [1] * 500, [1, 99, 0, 200, 1, 199]])
@pytest.mark.parametrize('offset', [0.0, 1e6])
def test_incremental_equals_batch(batches: list[int], offset: float) -> None:
    data = np.random.default_rng(1).normal(offset, [0.1, 1.0, 30.0], (500, 3))
    moments = RunningMoments(3)
    for rows in np.split(data, np.cumsum(batches)[:-1]):
        moments.update(rows)
    assert moments.count == 500
    assert moments.mean == pytest.approx(data.mean(axis=0), rel=1e-12)
    assert moments.variance == pytest.approx(data.var(axis=0), rel=1e-6)


def test_observations_become_standard_and_are_clipped() -> None:
    data = np.random.default_rng(2).normal([5.0, -3.0], [2.0, 0.5], (2000, 2)).astype(np.float32)
    normaliser = ObservationNormaliser(2)
    assert normaliser(np.array([0.5, 20.0], np.float32)).tolist() == [0.5, 10.0]
    normaliser.update(data)
    scaled = normaliser(data)
    assert scaled.dtype == np.float32
    assert scaled.mean(axis=0) == pytest.approx(0.0, abs=1e-5)
    assert scaled.std(axis=0) == pytest.approx(1.0, abs=1e-5)
    assert normaliser(np.array([1e9, -1e9], np.float32)).tolist() == [10.0, -10.0]


def test_a_constant_element_stays_finite() -> None:
    normaliser = ObservationNormaliser(1)
    normaliser.update(np.full((100, 1), 7.0, np.float32))
    assert normaliser(np.array([7.0], np.float32)).tolist() == [0.0]


def test_rewards_are_divided_by_the_deviation_of_the_return_and_keep_their_sign() -> None:
    rewards = np.array([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0], [-1.0, 4.0]])
    ended = np.array([[False, False], [True, False], [False, True], [False, False]])
    returns = np.array([[1.0, -2.0], [1.4, -1.8], [3.0, -0.62], [1.7, 4.0]])  # discounted by 0.9, by hand
    parts, whole = RewardNormaliser(2), RewardNormaliser(2)
    scaled = whole(rewards, ended, 0.9)
    assert whole.moments.variance[0] == pytest.approx(returns.var())
    assert scaled == pytest.approx(rewards / np.sqrt(returns.var() + 1e-8))
    for half in (slice(0, 2), slice(2, 4)):  # a sequence goes on over the end of a rollout
        parts(rewards[half], ended[half], 0.9)
    assert parts.moments.variance[0] == pytest.approx(returns.var())
    assert parts.returns == pytest.approx([1.7, 4.0])


def test_moments_are_restored_exactly_or_refused() -> None:
    moments = RunningMoments(2)
    moments.update(np.random.default_rng(3).normal(size=(10, 2)))
    arrays = moments.export('x_')
    again = RunningMoments.restored(arrays, 'x_', 2)
    assert again.count == 10 and (again.mean == moments.mean).all()
    assert (again.variance == moments.variance).all()
    for broken in ({'x_count': np.array([-1])}, {'x_mean': np.zeros(3)}, {'x_square': np.array([-1.0, 0.0])},
                   {'x_mean': np.array([np.nan, 0.0])}, {'x_count': np.array(3)},
                   {'x_mean': np.zeros(2, np.float32)}):
        with pytest.raises(ValueError, match='x_'):
            RunningMoments.restored(arrays | broken, 'x_', 2)
    with pytest.raises(ValueError, match='missing'):
        RunningMoments.restored({}, 'x_', 2)
