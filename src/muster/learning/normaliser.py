# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Running mean and variance, and what they scale: observations and rewards."""
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Normalised values are clipped to so many standard deviations.
CLIP = 10.0
#: Keeps a constant element from being divided by zero.
EPSILON = 1e-8
_KEYS = ('mean', 'square', 'count')


class RunningMoments:
    """
    Mean and variance of everything seen, element by element, one batch at a time.

    Batches are merged by the parallel algorithm of Chan, Golub and LeVeque (1979): unlike sums of
    squares it stays exact far from zero. Before the first batch: mean 0, variance 1.
    """

    def __init__(self, size: int) -> None:
        """Have seen nothing of vectors of `size` elements."""
        self.count = 0
        self.mean = np.zeros(size)
        self._square = np.zeros(size)  # the sum of squared deviations from the mean

    @property
    def variance(self) -> NDArray[np.float64]:
        """Return the variance of each element (the population's: divided by the count)."""
        return self._square / self.count if self.count else np.ones_like(self.mean)

    def update(self, batch: NDArray[Any]) -> None:
        """Take in rows of shape (rows, size)."""
        rows = len(batch)
        if not rows:
            return
        if rows == 1:  # the control cycle's case: Welford's (1962), four operations
            deviation = batch[0] - self.mean
            self.count += 1
            self.mean += deviation / self.count
            self._square += deviation * (batch[0] - self.mean)
            return
        mean = batch.mean(axis=0, dtype=np.float64)
        total, deviation = self.count + rows, mean - self.mean
        self._square += np.square(batch - mean).sum(axis=0) + deviation**2 * (self.count * rows / total)
        self.mean += deviation * (rows / total)
        self.count = total

    def export(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return a copy as arrays whose names begin with `prefix`."""
        return {f'{prefix}mean': self.mean.copy(), f'{prefix}square': self._square.copy(),
                f'{prefix}count': np.array([self.count])}

    @classmethod
    def restored(cls, arrays: dict[str, NDArray[Any]], prefix: str, size: int) -> RunningMoments:
        """Rebuild from `export`; raises ValueError on anything unsound."""
        mean, square, count = (arrays.get(prefix + key) for key in _KEYS)
        if mean is None or square is None or count is None or count.shape != (1,) \
                or count.dtype != np.int64 or count[0] < 0 or (square < 0.0).any() \
                or any(a.dtype != np.float64 or a.shape != (size,) or not np.isfinite(a).all()
                       for a in (mean, square)):
            raise ValueError(f"the moments '{prefix}*' are missing or unsound")
        moments = cls(size)
        moments.count, moments.mean, moments._square = int(count[0]), mean.copy(), square.copy()
        return moments


class ObservationNormaliser:
    """Scales observations to mean 0 and variance 1 of all that `update` took, clipped to +-10."""

    def __init__(self, size: int) -> None:
        """Have seen no observation of `size` elements; until then nothing is changed but clipped."""
        self.moments = RunningMoments(size)
        self._refresh()

    def _refresh(self) -> None:
        self._mean = self.moments.mean.astype(np.float32)
        self._factor = (1.0 / np.sqrt(self.moments.variance + EPSILON)).astype(np.float32)

    def update(self, observations: NDArray[np.float32]) -> None:
        """Take in rows of shape (rows, size)."""
        self.moments.update(observations)
        self._refresh()

    def __call__(self, observations: NDArray[np.float32],
                 out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return observations of shape (..., size) normalised, in `out` if given."""
        out = np.subtract(observations, self._mean, out=out)
        out *= self._factor
        return np.clip(out, -CLIP, CLIP, out=out)

    def adopt(self, moments: RunningMoments) -> None:
        """Go on with restored moments."""
        self.moments = moments
        self._refresh()


class RewardNormaliser:
    """
    Divides rewards by the standard deviation of the discounted return, clipped to +-10.

    The return is accumulated forwards in each of `sequences` and starts anew where a sequence ends;
    the mean stays in, so that signs keep their meaning (Engstrom et al. 2020, "Implementation
    matters in deep policy gradients", section 3).
    """

    def __init__(self, sequences: int = 1) -> None:
        """Have seen no reward."""
        self.moments = RunningMoments(1)
        self.returns = np.zeros(sequences)

    def __call__(self, rewards: NDArray[Any], ended: NDArray[np.bool_],
                 discount: float) -> NDArray[np.float64]:
        """Take in rewards of shape (steps, sequences), and where sequences ended; return them scaled."""
        returns = np.empty(rewards.shape)
        for column, total in enumerate(self.returns.tolist()):
            sums = []
            for reward, end in zip(rewards[:, column].tolist(), ended[:, column].tolist(), strict=True):
                total = total * discount + reward
                sums.append(total)
                if end:
                    total = 0.0
            returns[:, column], self.returns[column] = sums, total
        self.moments.update(returns.reshape(-1, 1))
        scaled: NDArray[np.float64] = rewards / np.sqrt(self.moments.variance[0] + EPSILON)
        return np.clip(scaled, -CLIP, CLIP, out=scaled)
