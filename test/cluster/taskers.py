# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The programs of a simulated fleet that give tasks, and those that execute them."""
from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from clients import LockClient
from muster.cluster.state.commands import (
    Answer,
    CancelTask,
    Code,
    FinishTask,
    Operation,
    Outcome,
    ReportTasks,
    SetCapabilities,
    SubmitTask,
)
from oracle import MAX_DRIFT, MILLISECOND, SECOND

if TYPE_CHECKING:
    from simulation import Robot, Simulation

TYPE = 'sweep'
#: The length of every attempt's lease, and what is left to stop in.
LEASE, GRACE = SECOND, SECOND // 4


class TaskClient(LockClient):
    """A program that gives tasks to the fleet, and takes some of them back."""

    def act(self) -> None:
        """Give a task."""
        operation = SubmitTask(TYPE, '{}', deadline=self._random.choice((0, 0, 3 * SECOND)),
                               max_attempts=3, lease=LEASE, grace=GRACE)
        request = self._next_request()

        def answered(answer: Answer) -> None:
            if answer.code == Code.OK:
                self.done += 1
                self.simulation.oracle.state.acknowledged.add(answer.task_id)
                if self._random.random() < 0.2:
                    self._ask(CancelTask(answer.task_id), None, self._refused)
                    return
            elif answer.code == Code.OUTCOME_UNKNOWN and request is not None:
                self._ask(operation, request, answered)
                return
            self._refused(answer)
        self._ask(operation, request, answered)

    def _later(self, delay: int = 0) -> None:
        super()._later(delay + self._random.randrange(SECOND // 2))


@dataclass
class _Attempt:
    done_at: int
    until: int = 0       # end of the worker's own view of the lease, simulation time
    ended: bool = False


class Worker:
    """The program that executes the tasks of one robot; it asks its own member only."""

    def __init__(self, simulation: Simulation, robot: Robot) -> None:
        """Begin without work."""
        self.simulation, self.robot, self.name = simulation, robot, f'worker of {robot.name}'
        self._random = simulation.random
        self._rate = 1 + self._random.uniform(-MAX_DRIFT, MAX_DRIFT)
        self._attempts: dict[tuple[str, int], _Attempt] = {}
        self._asking = False

    def look(self) -> None:
        """Follow what is assigned, end what is over, report the rest; and look again soon."""
        now = self.simulation.time
        for key in [k for k, a in self._attempts.items() if 0 < a.until <= now]:
            del self._attempts[key]            # its lease has ended, for all it knows
        if self._random.random() < 0.01:
            self._crash()
        member = self.robot.member
        if member is not None and not self.robot.paused and not self._asking:
            known = member.machine.members.get(self.robot.name)
            if known is not None and f'task:{TYPE}' not in known.capabilities:
                self._ask(SetCapabilities(self.robot.name, (f'task:{TYPE}',), (), 2), lambda _: None)
            else:
                assigned = {(t.id, t.token): t for t in member.machine.tasks.assigned_to(self.robot.name)}
                self._follow(assigned.keys(), {k for k, t in assigned.items() if t.cancel_requested})
        self.simulation.after(self._random.randrange(100 * MILLISECOND), self.look)

    def _follow(self, assigned: Set[tuple[str, int]], canceled: Set[tuple[str, int]]) -> None:
        now = self.simulation.time
        for key in assigned - self._attempts.keys():
            self._attempts[key] = _Attempt(now + self._random.randrange(2 * SECOND))
        for key in list(self._attempts.keys() - assigned):
            self._stop(key)
        for key, attempt in self._attempts.items():
            if attempt.ended or (attempt.until and (now >= attempt.done_at or key in canceled)):
                attempt.ended = True        # it has stopped, also where that must be said again
                self.simulation.oracle.gives_up(key[0], f'{self.name} {key[1]}')
                outcome = Outcome.CANCELED if key in canceled else \
                    self._random.choice((Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED))
                said = FinishTask(*key, outcome, '', '')
                self._ask(said, partial(self._finished, said))
                return
        if self._attempts:
            reports = tuple((*key, 0.5, '') for key in sorted(self._attempts))
            self._ask(ReportTasks(reports), partial(self._reported, now, reports))

    def _reported(self, sent: int, reports: tuple[tuple[str, int, float, str], ...], answer: Answer) -> None:
        if answer.code != Code.OK:
            return   # some are over: the state says which
        for id, token, _, _ in reports:
            attempt = self._attempts.get((id, token))
            if attempt is not None:
                attempt.until = sent + int(0.99 * LEASE / self._rate)
                if attempt.until > self.simulation.time:
                    self.simulation.oracle.view(id, f'{self.name} {token}', self.simulation.time,
                                                attempt.until)

    def _finished(self, said: FinishTask, answer: Answer) -> None:
        if self._random.random() < 0.1:
            self._ask(said, partial(self._finished, said))   # as one that lost the answer
        elif answer.code != Code.OUTCOME_UNKNOWN:
            self._stop((said.task_id, said.token))

    def _stop(self, key: tuple[str, int]) -> None:
        self.simulation.oracle.gives_up(key[0], f'{self.name} {key[1]}')
        self._attempts.pop(key, None)

    def _crash(self) -> None:
        """Forget all; what was going on goes on no more."""
        for key in list(self._attempts):
            self._stop(key)

    def _ask(self, operation: Operation, then: Callable[[Answer], None]) -> None:
        self._asking = True

        def answered(answer: Answer) -> None:
            self._asking = False
            then(answer)
        self.simulation.request(self.name, operation, None, answered)
