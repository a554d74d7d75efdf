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
