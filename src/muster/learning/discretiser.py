# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""From continuous observations to the finite states of tabular agents."""
from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


class Discretiser:
    """
    Give each element of an observation the number of the bin it falls into.

    `edges[i]` are the ascending inner edges of element i: n edges make n + 1 bins, and a value on
    an edge belongs to the bin above it.
    """

    def __init__(self, edges: Sequence[Sequence[float]]) -> None:
        """Take the edges of every element; raises ValueError where they do not ascend."""
        for row in edges:
            if any(low >= high for low, high in pairwise(row)):
                raise ValueError(f'bin edges must ascend: {list(row)}')
        # In the precision of the observation, or a value would fall beside the edge it equals.
        self.edges = [np.asarray(row, np.float32).tolist() for row in edges]

    def __call__(self, observation: NDArray[np.float32]) -> tuple[int, ...]:
        """Return the bins of an observation of shape (elements,); raises ValueError on another shape."""
        return tuple([bisect_right(row, value)
                      for row, value in zip(self.edges, observation.tolist(), strict=True)])


def uniform(low: float, high: float, bins: int) -> list[float]:
    """Return the inner edges of `bins` equal bins over low..high; raises ValueError."""
    if not low < high or bins < 1:
        raise ValueError(f'equal bins need low < high and at least 1 bin, not {low}, {high}, {bins}')
    return np.linspace(low, high, bins + 1)[1:-1].tolist()


class TileCoder:
    """
    Give an observation the tiles it lies on: one in each of several grids, displaced against each other.

    The edges are those of a Discretiser. Tiling k is displaced by k/tilings of an element's mean bin
    width, times an odd number of that element (1, 3, 5 …), so that no diagonal is preferred (Sutton &
    Barto 2018, section 9.5.4). An element with less than two edges is not displaced.
    """

    def __init__(self, edges: Sequence[Sequence[float]], tilings: int) -> None:
        """Take the edges of every element; raises ValueError where they do not ascend."""
        widths = [(row[-1] - row[0]) / (len(row) - 1) if len(row) > 1 else 0.0 for row in edges]
        self._tilings = [
            Discretiser([[edge - width * ((2 * i + 1) * k % tilings) / tilings for edge in row]
                         for i, (row, width) in enumerate(zip(edges, widths, strict=True))])
            for k in range(tilings)]

    def __call__(self, observation: NDArray[np.float32]) -> tuple[tuple[int, ...], ...]:
        """Return a tile (tiling, bin, bin …) of each tiling; raises ValueError on another shape."""
        return tuple([(k, *tiling(observation)) for k, tiling in enumerate(self._tilings)])
