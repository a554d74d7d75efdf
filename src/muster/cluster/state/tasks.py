# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The fleet's tasks: they wait, are given to robots in attempts with leases, and end.

Execution is at least once. An attempt is identified by its token, the log index of the entry that
assigned it, and belongs to its robot until its lease ends, then for `grace` to nobody: the robot
must stop, and only what it says about the end still counts. After that the task is tried again
elsewhere. Times are cluster time in nanoseconds.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from operator import attrgetter
from sys import intern
from typing import Any

from muster.cluster.state.commands import FinishTask, Outcome, ReportTasks, SECOND, SubmitTask
from muster.cluster.state.deadlines import Deadlines, Shortest
from muster.cluster.state.events import EventType
from muster.cluster.state.members import Members
from muster.cluster.state.placement import Line, LineKey, Placement
from muster.cluster.state.refused import Busy, NotFound, WrongToken

#: Tasks that have not ended, and characters of their payloads; beyond them `submit_task` is refused.
MAX_TASKS = 100_000
MAX_PAYLOADS = 16 * 1024 * 1024
#: Tasks that have ended, characters of their results, and how long they are kept.
MAX_FINISHED = 10_000
MAX_RESULTS = 16 * 1024 * 1024
LIFETIME = 3600 * SECOND

#: Tells an event: type, subject, member, owner, token.
Tell = Callable[[EventType, str, str, str, int], None]


class TaskState(IntEnum):
    """Where a task is; the numbers are those of muster_interfaces/msg/TaskInfo."""

    WAITING = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELED = 5


class Cancel(IntEnum):
    """Why the robot that executes a task is asked to stop."""

    NONE = 0
    ASKED = 1
    DEADLINE = 2


@dataclass(slots=True, eq=False)
class Task:
    """One task; whoever reads it must not change it."""

    id: str
    index: int                       # log index of its submission: the smaller, the older
    type: str
    payload: str                     # JSON; dropped when it has ended
    required: tuple[str, ...]        # sorted
    priority: int
    deadline: int                    # 0 = none
    max_attempts: int
    lease: int
    grace: int
    submitted: int
    state: TaskState = TaskState.WAITING
    attempts: int = 0                # begun so far
    robot: str = ''                  # of the present or last attempt
    token: int = 0                   # of the present or last attempt
    lease_end: int = 0
    lapsed: bool = False             # the lease of the attempt has ended, its grace has not
    cancel: Cancel = Cancel.NONE
    progress: float = 0.0
    note: str = ''
    result: str = ''                 # JSON
    message: str = ''                # why it ended so, or why the last attempt did
    finished: int = 0                # when it ended
    line: Line | None = None         # where it waits

    @property
    def cancel_requested(self) -> bool:
        """Return whether its robot should stop executing it."""
        return self.cancel != Cancel.NONE

    def due(self) -> int | None:
        """Return when something happens to it by itself."""
        if self.state == TaskState.RUNNING:
            end = self.lease_end + self.grace if self.lapsed else self.lease_end
            return self.deadline if self.cancel == Cancel.NONE and 0 < self.deadline < end else end
        return (self.deadline or None) if self.state == TaskState.WAITING else None

    @property
    def ended(self) -> bool:
        """Return whether nothing will happen to it any more."""
        return self.state >= TaskState.SUCCEEDED


_DUMPED = [field.name for field in fields(Task) if field.name != 'line']
_dump = attrgetter(*_DUMPED)


class TaskTable:
    """All tasks that have not ended, and the last that have."""

    def __init__(self, members: Members, tell: Tell) -> None:
        """Begin without tasks; what happens is told as events."""
        self._members, self._tell = members, tell
        self._tasks: dict[str, Task] = {}                      # by age
        self._finished: deque[Task] = deque()                  # in the order in which they ended
        self._attempts: dict[str, dict[str, Task]] = {}        # by robot; in grace they count too
        self._versions: dict[str, int] = {}
        self._placement = Placement(members)
        self._deadlines: Deadlines[str] = Deadlines(self._due)
        self._leases = Shortest()                              # of attempts
        self._payloads = self._results = 0                     # characters

    # What it tells -----------------------------------------------------------------------------
    def __len__(self) -> int:
        """Return how many tasks are stored."""
        return len(self._tasks)

    def get(self, id: str) -> Task | None:
        """Return a task."""
        return self._tasks.get(id)

    def listed(self, type: str = '', robot: str = '', state: int = 0, limit: int = 100
               ) -> tuple[list[Task], int]:
        """Return the youngest tasks for which all that is given holds, and how many there are."""
        found = [task for task in reversed(self._tasks.values())
                 if type in ('', task.type) and robot in ('', task.robot) and state in (0, task.state)]
        return found[:limit], len(found)

    def assigned_to(self, robot: str) -> list[Task]:
        """Return what a robot should be executing now, the oldest attempt first."""
        return sorted((task for task in self._attempts.get(robot, {}).values() if not task.lapsed),
                      key=lambda task: (task.token, task.index))

    def version(self, robot: str) -> int:
        """Return a number that changes whenever `assigned_to` or what it tells may have changed."""
        return self._versions.get(robot, 0)

    def next_deadline(self) -> int | None:
        """Return when the next lease, grace or deadline of a task ends."""
        return self._deadlines.next()

    def shortest_lease(self) -> int | None:
        """Return the shortest lease of an attempt, rounded down to a power of two nanoseconds."""
        return self._leases.get()

    # Commands ----------------------------------------------------------------------------------
    def submit(self, operation: SubmitTask, now: int, index: int) -> Task:
        """Let a new task wait for a robot."""
        o = operation
        key = o.type, tuple(sorted(o.required)), ''
        if len(self._tasks) - len(self._finished) >= MAX_TASKS:
            raise Busy(f'{MAX_TASKS} tasks have not ended yet: try later')
        if self._payloads + len(o.payload) > MAX_PAYLOADS:
            raise Busy(f'the payloads of the tasks that have not ended would exceed {MAX_PAYLOADS} '
                       'characters: try later')
        self._placement.check_room(key)
        task = Task(f'{o.type}-{index}', index, intern(o.type), o.payload, tuple(map(intern, key[1])),
                    o.priority, now + o.deadline if o.deadline else 0, o.max_attempts, o.lease, o.grace, now)
        self._tasks[task.id] = task
        self._payloads += len(task.payload)
        self._tell(EventType.TASK_SUBMITTED, task.id, '', '', 0)
        self._wait(task)
        return task

    def cancel(self, id: str, now: int, index: int) -> None:
        """End a task that waits at once; ask the robot to stop where one executes it."""
        task = self._known(id)
        if task.state == TaskState.WAITING:
            self._placement.remove(task)
            self._finish(task, TaskState.CANCELED, 'canceled before a robot began', now)
        elif task.state == TaskState.RUNNING:
            self._request_cancel(task, Cancel.ASKED, index)
        elif task.state != TaskState.CANCELED:
            raise NotFound(f"task '{id}' has {task.state.name.lower()} already")

    def report(self, operation: ReportTasks, now: int) -> None:
        """
        Note the progress of attempts and renew their leases.

        The lease of a task that is to stop is not renewed: it ends in bounded time. Raise
        WrongToken, naming them, where attempts are over; the others are renewed all the same.
        """
        over = []
        for id, token, progress, note in operation.reports:
            task = self._tasks.get(id)
            if task is None or task.state != TaskState.RUNNING or task.token != token or task.lapsed:
                over.append(f"'{id}'")
                continue
            task.progress, task.note = float(progress), note
            if task.cancel == Cancel.NONE:
                task.lease_end = now + task.lease
        if over:
            raise WrongToken(f'these attempts are over, stop them: {", ".join(over)}'[:1000])

    def finish(self, operation: FinishTask, now: int, index: int) -> None:
        """Learn how an attempt ended; what did not succeed is tried again while it may be."""
        task = self._known(operation.task_id)
        if task.token != operation.token or task.state == TaskState.WAITING:
            raise WrongToken(f'token {operation.token} is not that of the present attempt at task '
                             f"'{task.id}': its lease has ended and it was taken away")
        if task.ended:
            return   # told twice
        self._end_attempt(task, index)
        task.result, outcome = operation.result, Outcome(operation.outcome)
        if outcome == Outcome.SUCCEEDED:
            self._finish(task, TaskState.SUCCEEDED, operation.message, now)
        else:
            self._try_again(task, operation.message or f"'{task.robot}' says {outcome.name.lower()}", now)

    # Time --------------------------------------------------------------------------------------
    def expire(self, now: int, index: int) -> None:
        """Do what is due, and forget what ended long ago."""
        while due := self._deadlines.due(now):
            for id in due:
                self._expire(self._tasks[id], now, index)
        while self._finished and self._finished[0].finished + LIFETIME <= now:
            self._forget_oldest()

    def _expire(self, task: Task, now: int, index: int) -> None:
        if task.state == TaskState.WAITING:
            self._placement.remove(task)
            self._finish(task, TaskState.FAILED, _late(task), now)
        elif task.cancel == Cancel.NONE and 0 < task.deadline <= now:
            self._request_cancel(task, Cancel.DEADLINE, index)
        elif not task.lapsed:
            task.lapsed = True
            self._touch(task.robot, index)
            self._watch(task)
        else:
            self._end_attempt(task, index)
            self._try_again(task, f"'{task.robot}' did not report for {task.lease / SECOND:g} s", now)

    def _due(self, id: str) -> int | None:
        """Return when something happens to a task by itself."""
        task = self._tasks.get(id)
        return None if task is None else task.due()

    # Robots ------------------------------------------------------------------------------------
    def robot_changed(self, id: str) -> None:
        """Learn that the health, capabilities or capacity of a robot have changed."""
        self._placement.update(self._members[id])
        self._placement.reconsider()

    def robot_leaves(self, id: str) -> None:
        """Learn that a robot is about to leave; its attempts end with their leases."""
        self._placement.leave(self._members[id])
        self._placement.reconsider()
        if id not in self._attempts:
            self._versions.pop(id, None)

    def running(self, id: str) -> int:
        """Return how many attempts count against a robot."""
        return len(self._attempts.get(id, ()))

    def place(self, now: int, index: int) -> None:
        """Give waiting tasks to free robots; call it once for each entry, last."""
        if self._placement.settled:
            return
        for task, robot in self._placement.place():
            assert isinstance(task, Task)
            task.state, task.robot, task.token = TaskState.RUNNING, robot.id, index
            task.attempts += 1
            task.lease_end, task.lapsed = now + task.lease, False
            self._count(task)
            self._touch(robot.id, index)
            self._tell(EventType.TASK_ASSIGNED, task.id, robot.id, '', index)

    # Snapshots ---------------------------------------------------------------------------------
    def dump(self) -> list[Any]:
        """Return all there is in plain values, always in the same order."""
        return [list(map(_dump, self._tasks.values())), [task.id for task in self._finished],
                sorted(self._versions.items())]

    def load(self, dumped: Any) -> None:
        """Take in what `dump` returned, into an empty table whose members are there."""
        tasks, finished, versions = dumped
        for row in tasks:
            self._load_task(Task(*row))
        for id in finished:
            self._finished.append(self._tasks[id])
        self._versions = {intern(robot): version for robot, version in versions}
        for robot in self._members.values():
            self._placement.update(robot)
        self._placement.settle()   # what could have been placed was, before the snapshot

    def _load_task(self, task: Task) -> None:
        task.type, task.robot = intern(task.type), intern(task.robot)
        task.required = tuple(map(intern, task.required))
        task.state, task.cancel = TaskState(task.state), Cancel(task.cancel)
        self._tasks[task.id] = task
        if task.ended:
            self._results += _result_size(task)
            return
        self._payloads += len(task.payload)
        if task.state == TaskState.WAITING:
            self._wait(task)
        else:
            self._count(task)

    # Inside ------------------------------------------------------------------------------------
    def _known(self, id: str) -> Task:
        task = self._tasks.get(id)
        if task is None:
            raise NotFound(f"there is no task '{id}': it ended and was forgotten, or never was")
        return task

    def _wait(self, task: Task) -> None:
        self._placement.add(task, _line_of(task))
        if task.deadline:
            self._watch(task)

    def _request_cancel(self, task: Task, why: Cancel, index: int) -> None:
        if task.cancel == Cancel.NONE:
            self._touch(task.robot, index)
            self._tell(EventType.TASK_CANCEL_REQUESTED, task.id, task.robot, '', task.token)
            task.cancel = why
            self._watch(task)

    def _count(self, task: Task) -> None:
        """Count an attempt that begins, or is restored."""
        self._attempts.setdefault(task.robot, {})[task.id] = task
        self._leases.add(task.lease)
        self._watch(task)
        robot = self._members.get(task.robot)
        if robot is not None:
            robot.running += 1
            self._placement.update(robot)

    def _end_attempt(self, task: Task, index: int) -> None:
        attempts = self._attempts[task.robot]
        del attempts[task.id]
        if not attempts:
            del self._attempts[task.robot]
        self._leases.remove(task.lease)
        self._touch(task.robot, index)
        robot = self._members.get(task.robot)
        if robot is None:
            self._versions.pop(task.robot, None)
        else:
            robot.running -= 1
            self._placement.freed(robot)

    def _try_again(self, task: Task, why: str, now: int) -> None:
        """Let a task wait for another attempt, or end it where there is no other."""
        if task.cancel == Cancel.ASKED:
            self._finish(task, TaskState.CANCELED, why, now)
        elif task.cancel == Cancel.DEADLINE:
            self._finish(task, TaskState.FAILED, _late(task), now)
        elif task.attempts >= task.max_attempts:
            self._finish(task, TaskState.FAILED, f'attempt {task.attempts}, the last: {why}', now)
        else:
            task.state, task.message, task.result = TaskState.WAITING, why, ''
            task.progress, task.note, task.lapsed = 0.0, '', False
            self._tell(EventType.TASK_RETURNED, task.id, task.robot, '', task.token)
            self._wait(task)

    def _finish(self, task: Task, state: TaskState, message: str, now: int) -> None:
        task.state, task.message, task.finished = state, message, now
        self._payloads -= len(task.payload)
        task.payload, task.lapsed = '', False
        self._finished.append(task)
        self._results += _result_size(task)
        self._tell(EventType.TASK_FINISHED, task.id, task.robot, '', task.token)
        while len(self._finished) > MAX_FINISHED or self._results > MAX_RESULTS:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        task = self._finished.popleft()
        self._results -= _result_size(task)
        del self._tasks[task.id]

    def _touch(self, robot: str, index: int) -> None:
        self._versions[robot] = index

    def _watch(self, task: Task) -> None:
        due = task.due()
        assert due is not None, 'the task waits with a deadline, or runs'
        self._deadlines.watch(due, task.id, len(self._tasks) - len(self._finished))


def _line_of(task: Task) -> LineKey:
    """Return where a task waits: the robot whose attempt has ended is to be avoided."""
    return task.type, task.required, task.robot


def _late(task: Task) -> str:
    return f'its deadline passed after {task.attempts} attempts' if task.attempts else \
        'its deadline passed before a robot could begin'


def _result_size(task: Task) -> int:
    return len(task.result) + len(task.message) + len(task.note)
