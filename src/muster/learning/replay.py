# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Experience replay with uniform sampling (Lin 1992)."""
from __future__ import annotations

from collections.abc import Iterator

from muster.learning.agents.base import Transition
import numpy as np


class UniformReplay[State]:
    """The last `capacity` transitions; each is drawn with the same probability."""

    def __init__(self, capacity: int) -> None:
        """Make an empty buffer; raises ValueError unless 1 <= capacity <= 1000000."""
        if not 1 <= capacity <= 1_000_000:
            raise ValueError(f'the capacity of a replay buffer must be within 1..1000000, not {capacity}')
        self.capacity = capacity
        self._transitions: list[Transition[State]] = []
        self._next = 0

    def __len__(self) -> int:
        """Return how many transitions it holds."""
        return len(self._transitions)

    def add(self, transition: Transition[State]) -> None:
        """Add a transition in the place of the oldest, once full."""
        if len(self._transitions) < self.capacity:
            self._transitions.append(transition)
        else:
            self._transitions[self._next] = transition
        self._next = (self._next + 1) % self.capacity

    def sample(self, size: int, generator: np.random.Generator) -> list[Transition[State]]:
        """Draw `size` transitions with replacement; the buffer must not be empty."""
        # Positions count from the oldest, so that a restored buffer draws the same.
        return [self.oldest_first(i) for i in generator.integers(len(self), size=size).tolist()]

    def oldest_first(self, position: int) -> Transition[State]:
        """Return the transition at a position, 0 being the oldest."""
        start = self._next if len(self) == self.capacity else 0
        return self._transitions[(start + position) % len(self)]

    def __iter__(self) -> Iterator[Transition[State]]:
        """Go through all transitions, oldest first."""
        return (self.oldest_first(position) for position in range(len(self)))
