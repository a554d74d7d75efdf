# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is due next among many things, in a heap that renewals do not touch."""
from __future__ import annotations

from collections.abc import Callable
import heapq


class Deadlines[Key: (str, tuple[str, str], tuple[str, tuple[str, int]])]:
    """
    The deadlines of things that are named by a key.

    Invariant: whatever has a deadline has an item in the heap that is not later. So a deadline
    that moves back needs nothing, one that is new or moves forward needs `watch`; an item is
    compared with the present deadline when it comes up. What is due, and in which order, depends
    on the deadlines alone and not on the heap's history.
    """

    __slots__ = ('_current', '_heap')

    def __init__(self, current: Callable[[Key], int | None]) -> None:
        """Begin empty; `current` tells the deadline of a key, None where it has none any more."""
        self._current: Callable[[Key], int | None] = current
        self._heap: list[tuple[int, Key]] = []

    def __len__(self) -> int:
        """Return how many items there are, stale ones too."""
        return len(self._heap)

    def watch(self, deadline: int, key: Key, living: int) -> None:
        """Note a deadline; `living` things, about, have one: stale items are at most twice as many."""
        heapq.heappush(self._heap, (deadline, key))
        if len(self._heap) > 64 + 2 * living:
            current = {key: self._current(key) for _, key in self._heap}
            self._heap = [(deadline, key) for key, deadline in current.items() if deadline is not None]
            heapq.heapify(self._heap)

    def due(self, now: int) -> list[Key]:
        """Take out and return the keys whose deadline is reached, the earliest first."""
        heap = self._heap
        if not heap or heap[0][0] > now:
            return []
        found: dict[Key, None] = {}
        while heap and heap[0][0] <= now:
            deadline, key = heap[0]
            current = self._current(key)
            if current is not None and current > deadline:
                heapq.heapreplace(heap, (current, key))
                continue
            heapq.heappop(heap)
            if current == deadline:
                found[key] = None
        return list(found)

    def next(self) -> int | None:
        """Return the earliest deadline."""
        heap = self._heap
        while heap:
            deadline, key = heap[0]
            current = self._current(key)
            if current == deadline:
                return deadline
            if current is not None and current > deadline:
                heapq.heapreplace(heap, (current, key))
            else:
                heapq.heappop(heap)
        return None


class Shortest:
    """The shortest of many lengths, to a power of two: it costs the same for one and for all."""

    __slots__ = ('_magnitudes',)

    def __init__(self) -> None:
        """Begin empty."""
        self._magnitudes: dict[int, int] = {}      # how many have so many binary digits

    def add(self, length: int) -> None:
        """Take in a length, > 0."""
        magnitude = length.bit_length()
        self._magnitudes[magnitude] = self._magnitudes.get(magnitude, 0) + 1

    def remove(self, length: int) -> None:
        """Take out a length that was taken in."""
        magnitude = length.bit_length()
        left = self._magnitudes[magnitude] - 1
        if left:
            self._magnitudes[magnitude] = left
        else:
            del self._magnitudes[magnitude]

    def get(self) -> int | None:
        """Return the shortest length, rounded down to a power of two."""
        return 1 << (min(self._magnitudes) - 1) if self._magnitudes else None
