# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Experience replay that prefers what surprised most (Schaul et al. 2016)."""
from __future__ import annotations

from typing import Any

from muster.learning.agents.base import finite
from muster.learning.replay import Batch, Floats, Replay
from muster.learning.sum_tree import SumTree
import numpy as np
from numpy.typing import NDArray

#: Keeps the priority of a transition that is predicted exactly above 0.
_LEAST_ERROR = 1e-6


class PrioritizedReplay(Replay):
    """
    Transitions drawn with probability p_i^exponent / sum p^exponent (their equation 1).

    Proportional variant: p_i is the size of the last temporal-difference error; new transitions have
    the largest so far, so each is soon seen once.
    """

    def __init__(self, capacity: int, size: int, exponent: float = 0.6) -> None:
        """Make an empty buffer; `exponent` 0 draws all alike."""
        super().__init__(capacity, size)
        self.exponent = exponent
        self._tree = SumTree(capacity)
        self._largest = 1.0
        self._new = 0  # added since the tree was brought up to date

    def add(self, state: Floats, action: int, reward: float, next_state: Floats, steps: int) -> None:
        """Add a transition, as Replay.add, that has the largest priority so far."""
        super().add(state, action, reward, next_state, steps)
        self._new += 1

    def sample(self, size: int, generator: np.random.Generator, correction: float = 1.0) -> Batch:
        """
        Draw `size` transitions, one from each of as many equal parts of the sum of priorities.

        `correction` 0..1 is the exponent of the importance weights (their beta).
        """
        self._bring_up_to_date()
        total = self._tree.total
        points = generator.random(size)
        points += np.arange(size)
        points *= total / size
        positions = self._tree.find(points)
        weights = self._tree.priorities.take(positions)
        weights *= self._used / total
        weights **= -correction
        weights /= weights.max()
        return Batch(self._rows.take(positions, axis=0), self.size, positions, weights.astype(np.float32))

    def update(self, positions: NDArray[np.intp], errors: Floats) -> None:
        """Give the transitions at `positions` [n] the priorities that follow from their errors [n]."""
        self._bring_up_to_date()
        priorities = np.abs(errors).astype(np.float64)
        priorities += _LEAST_ERROR
        priorities **= self.exponent
        self._largest = max(self._largest, float(priorities.max()))
        self._tree.set(positions, priorities)

    def _bring_up_to_date(self) -> None:
        if self._new:
            new = min(self._new, self.capacity)
            self._tree.set(np.arange(self._next - new, self._next) % self.capacity, self._largest)
            self._new = 0

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of all of it as JSON values and arrays."""
        self._bring_up_to_date()
        document, arrays = super().export()
        priorities = self._tree.priorities[:self._used].copy()
        return {**document, 'largest': self._largest}, {**arrays, 'priorities': priorities}

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        rows = self._sound(document, arrays)[1]
        try:
            largest, priorities = finite(document['largest']), arrays['priorities']
        except KeyError as error:
            raise ValueError(f'the prioritized replay buffer lacks {error}') from error
        if priorities.dtype != np.float64 or priorities.shape != (len(rows),) \
                or not np.isfinite(priorities).all() or (priorities <= 0).any() or largest <= 0:
            raise ValueError('the priorities of the replay buffer are unsound')
        super().restore(document, arrays)
        self._tree = SumTree(self.capacity)
        self._tree.set(np.arange(len(rows)), priorities)
        self._largest, self._new = largest, 0
