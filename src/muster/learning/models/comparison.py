# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Whether one policy is better than another, from the returns of evaluation episodes."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """The difference of two mean returns and its bootstrap interval, both in units of return."""

    difference: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """Return whether the whole interval is above zero."""
        return self.low > 0.0


def compare(challenger: Sequence[float], reference: Sequence[float]) -> Comparison:
    """
    Estimate how much better the mean of `challenger` is, with a 95 % percentile bootstrap interval.

    Efron & Tibshirani 1993, section 13.3: both samples are resampled independently. The draws are
    seeded, so the same returns always give the same verdict. Both need at least one return.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    means = [_resampled_means(np.asarray(sample, np.float64), generator)
             for sample in (challenger, reference)]
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(means[0] - means[1], (tail, 1.0 - tail))
    return Comparison(float(np.mean(challenger) - np.mean(reference)), float(low), float(high))


def _resampled_means(sample: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    rows = [sample[generator.integers(len(sample), size=(100, len(sample)))].mean(axis=1)
            for _ in range(RESAMPLES // 100)]  # in portions, to bound the memory
    return np.concatenate(rows)
