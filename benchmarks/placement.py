# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What it costs to place a task, with few and with many tasks stored."""
from __future__ import annotations

import gc
from statistics import median
import time

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import Entry, Kind, Member
from muster.cluster.state.commands import Command, FinishTask, Operation, SetCapabilities, SubmitTask
from muster.cluster.state.machine import StateMachine

SECOND = 1_000_000_000
ROBOTS, CAPACITY = 10, 4


class Placing:
    """A fleet whose robots are all busy, with tasks that wait: for a robot, or for one that can do them."""

    def __init__(self, stored: int) -> None:
        """Store so many tasks, running ones among them."""
        self.machine = StateMachine()
        self._sequence = 0
        robots = [f'robot_{i}' for i in range(ROBOTS)]
        members = frozenset(Member(robot, 1) for robot in robots)
        self._apply(Kind.CONFIGURATION, Configuration(members).encode())
        for robot in robots:
            self._do(SetCapabilities(robot, ('task:sweep', 'task:lift', 'gripper', 'wide'), (), CAPACITY))
        for i in range(stored):
            self._submit(i)

    def _submit(self, i: int) -> None:
        kind, required = (('sweep', ()), ('sweep', ('gripper',)), ('lift', ()), ('inspect', ()))[i % 4]
        self._do(SubmitTask(kind, '{"room": 3}', required, i % 5))

    def _do(self, operation: Operation) -> None:
        self._sequence += 1
        self._apply(Kind.COMMAND, Command(operation, ('@robot_0/1', self._sequence), 'robot_0', 1).encode())

    def _apply(self, kind: Kind, data: bytes) -> None:
        self.machine.apply(Entry(self.machine.applied + 1, 1, 0, kind, data))

    def microseconds(self, count: int = 5000) -> float:
        """Let attempts end, each giving its robot to the next task; return the median time of placing one."""
        tasks, times = self.machine.tasks, []
        gc.collect()
        for i in range(count):
            task = tasks.assigned_to(f'robot_{i % ROBOTS}')[0]
            # The two halves of applying an entry that says so, to measure the second alone.
            index = self.machine.applied
            tasks.finish(FinishTask(task.id, task.token, 1, '', ''), self.machine.time, index)
            begun = time.perf_counter_ns()
            tasks.place(self.machine.time, index)
            times.append(time.perf_counter_ns() - begun)
            self._submit(i % 3)
        return median(times) / 1000


def placement_microseconds(stored: tuple[int, ...] = (100, 100_000)) -> dict[int, float]:
    """Return the time of one placement in microseconds, by how many tasks are stored."""
    return {count: Placing(count).microseconds() for count in stored}


if __name__ == '__main__':
    for waiting, cost in placement_microseconds().items():
        print(f'{waiting:7} tasks stored: {cost:.1f} µs for each placement')
