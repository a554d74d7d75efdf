# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Interquartile means with bootstrap intervals (Agarwal et al. 2021, "Statistical precipice")."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half; a value on its border counts in part."""
    ordered = np.sort(np.asarray(values, np.float64))
    return float(_means(ordered[None])[0])


def _means(ordered: np.ndarray) -> np.ndarray:
    n = ordered.shape[1]
    places = np.arange(n)
    weights = np.clip(np.minimum(places + 1, 0.75 * n) - np.maximum(places, 0.25 * n), 0.0, 1.0)
    return ordered @ weights / weights.sum()


def interval(values: Sequence[float], seed: int = 1) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the interquartile mean."""
    drawn = np.random.default_rng(seed).choice(np.asarray(values, np.float64), (RESAMPLES, len(values)))
    low, high = np.percentile(_means(np.sort(drawn, axis=1)), (2.5, 97.5))
    return float(low), float(high)


def told(values: Sequence[float]) -> str:
    """Return the interval as text."""
    low, high = interval(values)
    return f'{low:.3g}..{high:.3g}'
