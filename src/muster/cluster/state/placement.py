# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Which robot takes which task, at a cost that does not depend on how many tasks wait.

Tasks with the same needs stand in one line; only its head is looked at. Invariant: after `place`
no waiting task can be taken by any robot. So only lines that were empty and robots that can take
more than before are looked at the next time.
"""
from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
import heapq
from typing import Protocol

from muster.cluster.state.commands import Health
from muster.cluster.state.members import Robot
from muster.cluster.state.refused import Busy

#: Lines of waiting tasks; a task that would begin another one is refused.
MAX_LINES = 256

#: Type of task, capabilities it needs besides, and the robot whose attempt has failed.
LineKey = tuple[str, tuple[str, ...], str]


class Waiting(Protocol):
    """What a task must have to be placed."""

    index: int
    priority: int
    line: Line | None


class Line:
    """Tasks that the same robots can take, the most urgent and among them the oldest first."""

    __slots__ = ('_again', '_arrived', '_left', '_urgencies', 'avoid', 'key', 'need', 'needs', 'size')

    def __init__(self, key: LineKey) -> None:
        """Begin empty."""
        type_, required, self.avoid = self.key = key
        self.need = f'task:{type_}'
        self.needs = frozenset((self.need, *required))
        self.size = 0
        # Most tasks come in the order in which they go, so that no comparison is needed; a heap of
        # 100,000 costs a walk through memory that no cache holds.
        self._arrived: dict[int, deque[Waiting]] = {}           # by priority
        self._urgencies: list[int] = []                         # heap of their negative priorities
        self._again: list[tuple[int, int, Waiting]] = []        # heap of those that came back
        self._left = 0                                          # of all these are not in the line any more

    def add(self, task: Waiting) -> None:
        """Let a task wait."""
        queue = self._arrived.get(task.priority)
        if queue is None:
            queue = self._arrived[task.priority] = deque()
            heapq.heappush(self._urgencies, -task.priority)
        if not queue or queue[-1].index < task.index:
            queue.append(task)
        else:
            heapq.heappush(self._again, (-task.priority, task.index, task))
        task.line = self
        self.size += 1

    def leave(self, task: Waiting) -> None:
        """Let a task go that is not the head; it does not come back."""
        task.line = None
        self.size -= 1
        self._left += 1
        if self._left > 64 + self.size:
            self._again = [item for item in self._again if item[2].line is self]
            heapq.heapify(self._again)
            for queue in self._arrived.values():
                kept = [task for task in queue if task.line is self]
                queue.clear()
                queue.extend(kept)
            self._left = 0

    def head(self) -> tuple[int, int]:
        """Return the rank of the first task, of which there is one; the smallest goes first."""
        again = self._again
        while again and again[0][2].line is not self:
            heapq.heappop(again)
            self._left -= 1
        queue = self._most_urgent()
        if not queue:
            return again[0][:2]
        rank = self._urgencies[0], queue[0].index
        return min(rank, again[0][:2]) if again else rank

    def _most_urgent(self) -> deque[Waiting] | None:
        """Return the queue of the highest priority that is not empty."""
        while self._urgencies:
            queue = self._arrived[-self._urgencies[0]]
            while queue and queue[0].line is not self:
                queue.popleft()
                self._left -= 1
            if queue:
                return queue
            del self._arrived[-heapq.heappop(self._urgencies)]
        return None

    def pop(self) -> Waiting:
        """Take out the first task."""
        rank = self.head()
        came_back = self._again and self._again[0][:2] == rank
        task = heapq.heappop(self._again)[2] if came_back else self._arrived[-rank[0]].popleft()
        task.line = None
        self.size -= 1
        return task


class Placement:
    """The lines of waiting tasks, and the free robots in the order in which they are taken."""

    def __init__(self, robots: Mapping[str, Robot]) -> None:
        """Begin without tasks."""
        self._robots = robots
        self._lines: dict[LineKey, Line] = {}                   # none of them empty
        self._by_need: dict[str, dict[LineKey, Line]] = {}      # by task:<type>
        self._free: list[tuple[float, str]] = []                # (load, id), the least loaded first
        self._begun: dict[LineKey, Line] = {}                   # lines that were empty
        self._freed: dict[str, Robot] = {}                      # robots that can take more than before

    def check_room(self, key: LineKey) -> None:
        """Raise Busy where a task with such needs cannot wait."""
        if key not in self._lines and len(self._lines) >= MAX_LINES:
            raise Busy(f'tasks with {MAX_LINES} different types and requirements wait already: try later')

    def add(self, task: Waiting, key: LineKey) -> None:
        """Let a task wait."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = self._begun[key] = Line(key)
            self._by_need.setdefault(line.need, {})[key] = line
        line.add(task)

    def remove(self, task: Waiting) -> None:
        """Take out a task that waits."""
        line = task.line
        assert line is not None, 'the task waits'
        line.leave(task)
        self._drop_if_empty(line)

    def update(self, robot: Robot) -> None:
        """Learn that the load, health or capacity of a robot has changed."""
        free = robot.health == Health.ALIVE and robot.running < robot.capacity
        load = robot.running / robot.capacity if robot.running else 0.0   # one object for all that are idle
        self._rank(robot, (load, robot.id) if free else None)

    def leave(self, robot: Robot) -> None:
        """Learn that a robot is not there any more."""
        self._rank(robot, None)
        self._freed.pop(robot.id, None)

    def freed(self, robot: Robot) -> None:
        """Learn that a robot can take more than before."""
        self.update(robot)
        self._freed[robot.id] = robot

    def reconsider(self) -> None:
        """Learn that what robots can do has changed: now one may have to take what it failed at."""
        self._freed.update((id, self._robots[id]) for _, id in self._free)

    @property
    def settled(self) -> bool:
        """Return whether nothing is to be placed."""
        return not self._begun and not self._freed

    def place(self) -> Iterator[tuple[Waiting, Robot]]:
        """Return tasks with the robots that take them; the caller counts each before the next."""
        begun, freed = self._begun, list(self._freed.values())
        heads = [(line.head(), line) for line in self._candidates(freed)]
        heapq.heapify(heads)
        while heads:
            freed = [robot for robot in freed if robot.rank is not None]
            if not begun and not freed:
                break
            line = heads[0][1]
            robot = self._best(line) if freed or line.key in begun else None
            if robot is None:
                heapq.heappop(heads)
                continue
            task = line.pop()
            if line.size:
                heapq.heapreplace(heads, (line.head(), line))
            else:
                heapq.heappop(heads)
                self._drop_if_empty(line)
            yield task, robot
        self.settle()

    def _candidates(self, freed: list[Robot]) -> Iterable[Line]:
        """Return the lines that were empty, and those whose tasks freed robots can perhaps take."""
        lines = {key: line for key, line in self._begun.items() if line.size}
        for robot in freed:
            for need, group in self._by_need.items():
                if need in robot.capabilities:
                    lines.update(group)
        return lines.values()

    def settle(self) -> None:
        """Note that nothing is to be placed."""
        self._begun.clear()
        self._freed.clear()

    def _rank(self, robot: Robot, rank: tuple[float, str] | None) -> None:
        """Put a robot where it belongs among the free ones."""
        if rank == robot.rank:
            return
        if robot.rank is not None:
            del self._free[bisect_left(self._free, robot.rank)]
        if rank is not None:
            insort(self._free, rank)
        robot.rank = rank

    def _best(self, line: Line) -> Robot | None:
        """Return the least loaded free robot that can take the tasks of a line."""
        for _, id in self._free:
            robot = self._robots[id]
            if line.needs <= robot.capabilities and (id != line.avoid or self._is_the_only(robot, line)):
                return robot
        return None

    def _is_the_only(self, robot: Robot, line: Line) -> bool:
        return not any(other.health == Health.ALIVE and line.needs <= other.capabilities
                       for other in self._robots.values() if other is not robot)

    def _drop_if_empty(self, line: Line) -> None:
        if not line.size:
            del self._lines[line.key]
            lines = self._by_need[line.need]
            del lines[line.key]
            if not lines:
                del self._by_need[line.need]
