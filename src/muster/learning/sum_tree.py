# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A tree of sums, to draw numbers with probability in proportion to their priority."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BITS = 4
#: Children of a node: few, so that little is summed anew; not two, so that there are few levels.
_BRANCHES = 1 << _BITS
#: The topmost level has at most so many nodes; a search begins with a bisection among them.
_TOP = 256


class SumTree:
    """
    Priorities float64[capacity], at first 0, and their sums over ever larger groups.

    The sum tree of Schaul et al. 2016 (appendix B.2.1) with 16 branches, which sets and finds many
    at once. Sums are made anew from their parts, never by differences, so no error builds up.
    """

    def __init__(self, capacity: int) -> None:
        """Make room for numbers 0..capacity-1."""
        levels, size = [], capacity
        while size > _TOP:
            size = -(-size // _BRANCHES)
            levels.append(np.zeros((size, _BRANCHES)))
        levels.append(np.zeros((size, 1)))
        self._groups: list[NDArray[np.float64]] = levels       # [nodes of the level above, branches]
        self._nodes = [level.reshape(-1) for level in levels]  # the same, flat
        self.priorities: NDArray[np.float64] = self._nodes[0][:capacity]
        """float64[capacity]; change them by `set` only."""
        self._before = np.zeros(size + 1)

    @property
    def total(self) -> float:
        """Return the sum of all priorities."""
        return float(self._nodes[-1].sum())

    def set(self, numbers: NDArray[np.intp], priorities: NDArray[np.float64] | float) -> None:
        """Give each of `numbers` [n] its priority [n] >= 0; of repeated numbers the last counts."""
        nodes = numbers
        self._nodes[0][nodes] = priorities
        for group, above in zip(self._groups, self._nodes[1:], strict=False):
            nodes = nodes >> _BITS
            above[nodes] = group.take(nodes, axis=0).sum(axis=1)

    def find(self, points: NDArray[np.float64]) -> NDArray[np.intp]:
        """
        Return the number in whose stretch each point [n] lies, when priorities are laid end to end.

        Points are within 0..total, which must be positive. Never returns a number of priority 0.
        """
        before = self._before
        np.cumsum(self._nodes[-1], out=before[1:])
        rest = np.minimum(points, np.nextafter(before[-1], 0.0))
        node = before[1:].searchsorted(rest, side='right')
        rest -= before[node]
        ends = np.zeros((len(points), _BRANCHES + 1))
        first = np.arange(0, ends.size, _BRANCHES + 1)
        for group in self._groups[-2::-1]:
            np.cumsum(group.take(node, axis=0), axis=1, out=ends[:, 1:])
            # A sum may be rounded otherwise than the same sum made step by step: stay inside.
            np.minimum(rest, np.nextafter(ends[:, -1], 0.0), out=rest)
            branch = (ends[:, 1:] <= rest[:, None]).sum(axis=1)
            rest -= ends.take(first + branch)
            node = (node << _BITS) + branch
        return node
