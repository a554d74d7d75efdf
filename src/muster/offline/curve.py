# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The learning curve as a picture and as text."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

#: Episodes that the line of the picture is the mean of, at most.
WINDOW = 50
_BARS = ' ▁▂▃▄▅▆▇█'


@dataclass
class Curve:
    """What happened in training: (step, return) of each ended episode, and (step, success 0..1) of checks."""

    episodes: list[tuple[int, float]] = field(default_factory=list)
    checks: list[tuple[int, float]] = field(default_factory=list)

    @property
    def returns(self) -> list[float]:
        """Return the return of each episode."""
        return [total for _, total in self.episodes]

    def recent(self, episodes: int = 20) -> float:
        """Return the mean return of the newest episodes; NaN before the first."""
        newest = self.returns[-episodes:]
        return sum(newest) / len(newest) if newest else float('nan')


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Return values as a row of bars, each the mean of an equal share of them; empty for none."""
    if not values:
        return ''
    means = np.array([part.mean() for part in np.array_split(np.asarray(values, np.float64),
                                                             min(width, len(values)))])
    low, high = means.min(), means.max()
    heights = np.full(len(means), 4) if high == low else np.rint(1 + 7 * (means - low) / (high - low))
    return ''.join(_BARS[int(height)] for height in heights)


def draw(curve: Curve, title: str, path: Path) -> None:
    """Write the picture (PNG); raises ImportError without matplotlib, OSError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 3.6), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if curve.episodes:
        steps, returns = np.array(curve.episodes).T
        axes.plot(steps, returns, '.', markersize=2, color='#9ecae1', label='one episode')
        window = min(WINDOW, len(returns))
        mean = np.convolve(returns, np.ones(window) / window, 'valid')
        axes.plot(steps[window - 1:], mean, color='#08519c', label=f'mean of {window}')
    axes.set(xlabel='steps', ylabel='return', title=title)
    if curve.checks:
        steps, success = np.array(curve.checks).T
        beside = axes.twinx()
        beside.plot(steps, 100 * success, 'o-', markersize=4, color='#31a354')
        beside.set(ylim=(0, 102))
        beside.set_ylabel('success in worlds not learned in, %', color='#31a354')
    if curve.episodes:
        axes.legend(loc='lower right', fontsize=8)
    figure.savefig(path, dpi=110)
