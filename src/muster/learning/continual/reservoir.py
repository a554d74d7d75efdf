# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Rehearsal memory: a uniform sample of each task's experience, bounded over all tasks together."""
from __future__ import annotations

from typing import Any

from muster.learning.agents.base import count
import numpy as np
from numpy.typing import NDArray

MAXIMUM_TASKS = 64
MAXIMUM_CAPACITY = 100_000
MAXIMUM_NAME = 64


def check_task(task: str) -> str:
    """Return the name of a task, '' for the only one; raises ValueError if it is longer than 64."""
    if not isinstance(task, str) or len(task) > MAXIMUM_NAME or not task.isprintable():
        raise ValueError(f'{str(task)[:80]!r} is not the name of a task: use up to {MAXIMUM_NAME} '
                         'printable characters')
    return task


class TaskReservoirs:
    """
    A reservoir for each task: whatever its length, every row of its stream is kept with the same chance.

    Reservoir sampling is Vitter 1985, algorithm R. All tasks share `capacity` rows. Once these are
    used up, a task that has less than its fair share takes a row at random from the largest reservoir:
    a uniform sample of a uniform sample is uniform. Shares only shrink as tasks come, so a task takes
    rows from others only as long as it has kept everything it saw.
    """

    def __init__(self, capacity: int, width: int) -> None:
        """Make room for `capacity` rows (1..100000) of `width` float32 each; raises ValueError."""
        if not 1 <= capacity <= MAXIMUM_CAPACITY:
            raise ValueError(f'the capacity of the rehearsal memory must be within 1..{MAXIMUM_CAPACITY}, '
                             f'not {capacity}')
        self.rows: NDArray[np.float32] = np.zeros((capacity, width), np.float32)
        """float32[capacity, width]; the first `len(self)` rows are in use."""
        self.task = ''
        """The present task."""
        self.seen: dict[str, int] = {}
        """Rows offered of each task, in the order in which tasks were first met."""
        self._owners = np.full(capacity, -1, np.int32)   # place in `seen` of each row's task
        self._kept = [0] * MAXIMUM_TASKS                 # how many rows each task has
        self._number = -1                                # place in `seen` of the present task
        self._used = 0
        self._others: NDArray[np.intp] | None = None     # rows of other tasks, until these change

    def __len__(self) -> int:
        """Return how many rows are kept, of all tasks."""
        return self._used

    @property
    def capacity(self) -> int:
        """Return how many rows are kept at most."""
        return len(self.rows)

    def check(self, task: str) -> None:
        """Raise ValueError if `task` cannot begin, because there are too many."""
        limit = min(MAXIMUM_TASKS, self.capacity)
        if check_task(task) not in self.seen and len(self.seen) >= limit:
            raise ValueError(f"no room for task '{task}': at most {limit} tasks are remembered; "
                             'reset the agent or go on with a known task')

    def begin(self, task: str) -> None:
        """Let what is added belong to `task` from now on; raises ValueError if there are too many."""
        self.check(task)
        self.task, self._number, self._others = task, self._place(task), None

    def of(self, task: str) -> NDArray[np.intp]:
        """Return the numbers of the rows kept of a task."""
        number = self._place(task)
        return np.flatnonzero(self._owners[:self._used] == number)

    def others(self) -> NDArray[np.intp]:
        """Return the numbers of the rows kept of all tasks but the present one."""
        if self._others is None:
            self._others = np.flatnonzero(self._owners[:self._used] != self._number)
        return self._others

    def add(self, row: NDArray[np.float32], generator: np.random.Generator) -> None:
        """Offer a row float32[width] of the present task."""
        seen = self.seen[self.task] = self.seen.get(self.task, 0) + 1
        if self._number < 0:
            self._number = len(self.seen) - 1
        kept = self._kept[self._number]
        if self._used < self.capacity:
            place, self._used = self._used, self._used + 1
            self._kept[self._number] += 1
        elif kept < self.capacity // len(self.seen):
            place, self._others = self._surrendered(generator), None
            self._kept[self._number] += 1
        else:
            drawn = int(generator.random() * seen)
            if drawn >= kept:
                return
            place = int(self.of(self.task)[drawn])
        self.rows[place] = row
        self._owners[place] = self._number

    def draw(self, size: int, generator: np.random.Generator) -> NDArray[np.intp]:
        """Draw numbers of `size` rows of other tasks, with replacement; empty if there are none."""
        others = self.others()
        if not len(others):
            return others
        return others[generator.integers(len(others), size=size)]

    def _place(self, task: str) -> int:
        return list(self.seen).index(task) if task in self.seen else -1

    def _surrendered(self, generator: np.random.Generator) -> int:
        """Return a row at random of the largest reservoir of another task, which gives it up."""
        largest = max((n for n in range(len(self.seen)) if n != self._number), key=self._kept.__getitem__)
        self._kept[largest] -= 1
        rows = np.flatnonzero(self._owners == largest)
        return int(rows[int(generator.random() * len(rows))])

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of all of it as JSON values and arrays."""
        return ({'task': self.task, 'seen': list(self.seen.items())},
                {'rows': self.rows[:self._used].copy(), 'owners': self._owners[:self._used].copy()})

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        try:
            task = check_task(document['task'])
            seen = {check_task(name): count(times) for name, times in document['seen']}
            rows, owners = arrays['rows'], arrays['owners']
            used, tasks = len(rows), len(seen | {task: 0})
            if len(seen) != len(document['seen']) or tasks > min(MAXIMUM_TASKS, self.capacity):
                raise ValueError('the rehearsal memory has too many tasks, or one twice')
            if rows.dtype != np.float32 or rows.shape[1:] != self.rows.shape[1:] or used > self.capacity \
                    or not np.isfinite(rows).all():
                raise ValueError('the rows of the rehearsal memory are unsound, or of another size')
            if owners.dtype != np.int32 or owners.shape != (used,) \
                    or (used and not 0 <= owners.min() <= owners.max() < len(seen)):
                raise ValueError('rows of the rehearsal memory belong to no task')
            kept = np.bincount(owners, minlength=MAXIMUM_TASKS).tolist()
            if any(size > times for size, times in zip(kept, seen.values(), strict=False)):
                raise ValueError('the rehearsal memory holds more of a task than was seen')
        except (KeyError, TypeError) as error:
            raise ValueError(f'an entry of the rehearsal memory is missing or wrong: {error}') from error
        self.rows[:used], self._owners[:used], self._owners[used:] = rows, owners, -1
        self.seen, self._kept, self._used = seen, kept, used
        self.begin(task)
