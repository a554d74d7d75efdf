# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Experience replay (Lin 1992): of any states for tables, and of vectors for networks.

Vectors are kept as one row of float32 per transition, so that adding writes to one place and a
sample is one gathering of rows.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from muster.learning.agents.base import count, Transition
import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float32]
MAXIMUM_CAPACITY = 2_000_000


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


@dataclass(slots=True)
class Batch:
    """Sampled transitions: rows [n, width] of `size` elements of state, and where they came from."""

    rows: Floats
    size: int
    positions: NDArray[np.intp]
    weights: Floats | None = None
    """Importance weights [n] within 0..1; None: all are 1."""

    @property
    def states(self) -> Floats:
        """Return the states [n, size]."""
        return self.rows[:, :self.size]

    @property
    def next_states(self) -> Floats:
        """Return the states [n, size] that were reached."""
        return self.rows[:, self.size:-3]

    @property
    def actions(self) -> NDArray[np.intp]:
        """Return the numbers of the actions [n]."""
        return self.rows[:, -3].astype(np.intp)

    @property
    def rewards(self) -> Floats:
        """Return the discounted sums of rewards [n] on the way to the next states."""
        return self.rows[:, -2]

    @property
    def steps(self) -> NDArray[np.intp]:
        """Return the lengths of the ways to the next states [n]; 0: the task ended there."""
        return self.rows[:, -1].astype(np.intp)


class Replay:
    """The last `capacity` transitions between vectors of `size` float32; all are drawn alike."""

    def __init__(self, capacity: int, size: int) -> None:
        """Make an empty buffer; raises ValueError unless 1 <= capacity <= 2000000."""
        if not 1 <= capacity <= MAXIMUM_CAPACITY:
            raise ValueError(f'the capacity of a replay buffer must be within 1..{MAXIMUM_CAPACITY}, '
                             f'not {capacity}')
        self.capacity, self.size = capacity, size
        self.width = 2 * size + 3
        self._rows: Floats = np.zeros((capacity, self.width), np.float32)  # taken from memory as it fills
        self._cells = memoryview(self._rows).cast('B').cast('f')  # writes single cells without NumPy
        self._next, self._used = 0, 0

    def __len__(self) -> int:
        """Return how many transitions it holds."""
        return self._used

    def add(self, state: Floats, action: int, reward: float, next_state: Floats, steps: int) -> None:
        """
        Add a transition in the place of the oldest, once full.

        `next_state` was reached after `steps` actions with the discounted sum `reward`; `steps` is 0
        if the task ended there. Raises ValueError unless states are float32[size].
        """
        cells, place = self._cells, self._next
        start = place * self.width
        middle = start + self.size
        end = middle + self.size
        cells[start:middle] = state
        cells[middle:end] = next_state
        cells[end] = action
        cells[end + 1] = reward
        cells[end + 2] = steps
        place += 1
        self._next = place if place < self.capacity else 0
        if self._used < self.capacity:
            self._used += 1

    def sample(self, size: int, generator: np.random.Generator) -> Batch:
        """Draw `size` transitions with replacement; the buffer must not be empty."""
        # A third of the time of Generator.integers; the bias, 2^-53 times the capacity, is none.
        positions = (generator.random(size) * self._used).astype(np.intp)
        return Batch(self._rows.take(positions, axis=0), self.size, positions)

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of all of it as JSON values and arrays."""
        return {'next': self._next}, {'rows': self._rows[:self._used].copy()}

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        place, rows = self._sound(document, arrays)
        self._rows[:len(rows)] = rows
        self._next, self._used = place, len(rows)

    def _sound(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> tuple[int, Floats]:
        try:
            place, rows = count(document['next']), arrays['rows']
        except (KeyError, TypeError) as error:
            raise ValueError(f'the replay buffer lacks {error}') from error
        if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != self.width \
                or len(rows) > self.capacity or not np.isfinite(rows).all():
            raise ValueError('the rows of the replay buffer are unsound, or of another size')
        whole = rows[:, [-3, -1]]
        if (whole < 0).any() or (whole > 65536).any() or (whole != np.floor(whole)).any():
            raise ValueError('an action or a number of steps in the replay buffer is unsound')
        if place != len(rows) % self.capacity and (place >= self.capacity or len(rows) < self.capacity):
            raise ValueError(f'the replay buffer has {len(rows)} rows and goes on at {place}')
        return place, rows
