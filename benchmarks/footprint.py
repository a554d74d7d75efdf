# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""How many bytes a lock, a task and a member take in the replicated state."""
from __future__ import annotations

from collections.abc import Callable
import gc
import tracemalloc

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import Entry, Kind, Member
from muster.cluster.state.commands import Acquire, Command, Operation, SetCapabilities, SubmitTask
from muster.cluster.state.machine import StateMachine

SECOND = 1_000_000_000


class _Fed:
    """A state machine that is fed with commands of a hundred robots."""

    def __init__(self) -> None:
        self.machine = StateMachine()
        self._count = 0

    def do(self, operation: Operation) -> None:
        """Apply a command, a millisecond after the one before."""
        self._count += 1
        robot = f'robot_{self._count % 100}'
        self.apply(Kind.COMMAND, Command(operation, (f'@{robot}/1', self._count), robot, 2**62).encode())

    def apply(self, kind: Kind, data: bytes) -> None:
        """Apply an entry; the events and answers that are kept in any case are not counted."""
        self.machine.apply(Entry(self.machine.applied + 1, 1, SECOND // 1000, kind, data))
        self.machine.events._events.clear()
        for session in self.machine.sessions._sessions.values():
            session.answers.clear()


def bytes_each(feed: Callable[[_Fed, int], None], count: int) -> float:
    """Return what each of `count` things takes, with whatever in the tables belongs to it."""
    fed = _Fed()
    feed(fed, 0)     # what is needed once
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        feed(fed, count)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / count


def _locks(fed: _Fed, count: int) -> None:
    for i in range(count + 1):
        fed.do(Acquire(f'lock_{count}_{i}', f'robot_{i % 100}', 30 * SECOND + i, 0))


def _tasks(fed: _Fed, count: int) -> None:
    for i in range(count + 1):
        fed.do(SubmitTask('sweep', f'{{"room": {i}, "path": [[0.0, 1.5], [2.5, 1.5]]}}', ('gripper',), 5,
                          3600 * SECOND))


def _members(fed: _Fed, count: int) -> None:
    members = frozenset(Member(f'robot_{i}', 2**62 + i) for i in range(count + 1))
    fed.apply(Kind.CONFIGURATION, Configuration(members).encode())
    for i in range(count + 1):
        fed.do(SetCapabilities(f'robot_{i}', ('task:sweep', 'task:lift', 'gripper', f'floor_{i}'), (), 2))


def footprint(locks: int = 10_000, tasks: int = 10_000, members: int = 100) -> dict[str, float]:
    """Return bytes for each lock that is held, task that waits and member with capabilities."""
    return {'lock': bytes_each(_locks, locks), 'task': bytes_each(_tasks, tasks),
            'member': bytes_each(_members, members)}


if __name__ == '__main__':
    for name, size in footprint().items():
        print(f'{size:6.0f} bytes for each {name}')
