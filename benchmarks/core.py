# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Three members with real logs in one process: what core and storage reach without ROS and its network."""
from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
import gc
from pathlib import Path
import queue
from random import Random
import tempfile
import time
from typing import Any

from harness import DISK
from muster.cluster.execution import Assignment, Execution, Key
from muster.cluster.member import ClusterMember, Effects
from muster.cluster.node import GARBAGE_THRESHOLDS
from muster.cluster.raft.core import PROFILES
from muster.cluster.state.commands import (
    Acquire,
    Answer,
    MAX_CAPACITY,
    Outcome,
    Release,
    SetCapabilities,
    SubmitTask,
)
from muster.cluster.storage import Storage
from muster.cluster.writer import Writer

NAMES = ('a', 'b', 'c')
SECOND = 1_000_000_000
LEASE = 60 * SECOND
PATIENCE = 30 * SECOND
TASKS_IN_FLIGHT = 64


class _Robot:
    """A member, its log, and the thread that writes it."""

    def __init__(self, name: str, folder: Path, durable: queue.SimpleQueue[tuple[_Robot, list[Effects]]],
                 number: int) -> None:
        self.storage = Storage(folder / name, name, lambda: number)
        self.writer = Writer(self.storage, lambda batch, error: self._written(batch, error), _refuse)
        self.member = ClusterMember(
            self.storage.me, '', 'members', NAMES, PROFILES['lan'], Random(number), _now())
        self.unwritten = 0
        self._durable = durable

    def _written(self, batch: list[Any], error: Exception | None) -> None:
        if error is not None:
            raise error
        self._durable.put((self, batch))

    @staticmethod
    def _stalled(error: OSError | None) -> None:
        if error is not None:
            raise error


class _Executor:
    """Executes the tasks of one robot by ending them at once, as the node's own executor would."""

    def __init__(self, member: ClusterMember) -> None:
        self._member, self._core, self._version = member, Execution(), -1
        self._finishes: dict[int, Key] = {}
        self._core.workers(frozenset(('nothing',)), _now())

    def step(self) -> None:
        tasks, me = self._member.machine.tasks, self._member.me.id
        if tasks.version(me) != self._version:
            self._version = tasks.version(me)
            self._core.assigned([Assignment(t.id, t.token, t.type, t.payload, t.lease, 0, t.cancel_requested)
                                 for t in tasks.assigned_to(me)], _now())
        effects = self._core.take_effects()
        for goal in effects.goals:
            self._core.accepted(goal.key, _now())
            self._core.ended(goal.key, Outcome.SUCCEEDED, '', '', _now())
        for finish in effects.finishes + self._core.take_effects().finishes:
            ticket = self._member.submit(finish, None, PATIENCE, _now())
            self._finishes[ticket] = finish.task_id, finish.token

    def answered(self, ticket: int, answer: Answer) -> None:
        key = self._finishes.pop(ticket, None)
        if key is not None:
            self.step()  # what the applied state says comes first
            self._core.finish_answered(key, answer, _now())


class Core:
    """A cluster whose network is a queue of packets, handed over as they are."""

    def __init__(self, folder: Path) -> None:
        """Found the cluster and elect a leader."""
        self._durable: queue.SimpleQueue[tuple[_Robot, list[Effects]]] = queue.SimpleQueue()
        self._packets: deque = deque()
        self._robots = {name: _Robot(name, folder, self._durable, 1 + number)
                        for number, name in enumerate(NAMES)}
        deadline = time.monotonic() + 20
        while not any(robot.member.leads for robot in self._robots.values()):
            if time.monotonic() > deadline:
                raise TimeoutError('the core elects no leader')
            list(self._round())

    def run(self, in_flight: int, seconds: float) -> float:
        """Take and give back locks at the leader, so many at a time; return log entries per second."""
        leader = next(robot for robot in self._robots.values() if robot.member.leads)
        lanes: dict[int, tuple[int, bool]] = {}

        def take(lane: int) -> None:
            operation = Acquire(f'lane_{lane:03}_of_the_benchmark', 'owner', LEASE, 0)
            lanes[leader.member.submit(operation, None, PATIENCE, _now())] = lane, True

        for lane in range(in_flight):
            take(lane)
        begun, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begun) < seconds:
            for ticket, answer in self._round():
                lane, taken = lanes.pop(ticket)
                done += 1
                if taken:
                    release = Release(f'lane_{lane:03}_of_the_benchmark', answer.token)
                    lanes[leader.member.submit(release, None, PATIENCE, _now())] = lane, False
                else:
                    take(lane)
        return done / elapsed

    def tasks(self, in_flight: int, seconds: float) -> list[float]:
        """Submit tasks at the leader, so many at a time, execute them; return when each ended."""
        leader = next(robot for robot in self._robots.values() if robot.member.leads)
        for name in NAMES:
            leader.member.submit(SetCapabilities(name, ('task:nothing',), (), MAX_CAPACITY), None, PATIENCE,
                                 _now())
        executors = [_Executor(robot.member) for robot in self._robots.values()]
        ends: list[float] = []
        table, begun, submitted = leader.member.machine.tasks, time.perf_counter(), 0
        open_tasks: set[str] = set()
        tickets: set[int] = set()

        def submit() -> None:
            nonlocal submitted
            submitted += 1
            tickets.add(leader.member.submit(SubmitTask('nothing', '{}'), None, PATIENCE, _now()))

        for _ in range(in_flight):
            submit()
        while (elapsed := time.perf_counter() - begun) < seconds:
            for ticket, answer in self._round():
                if ticket in tickets:
                    tickets.remove(ticket)
                    open_tasks.add(answer.task_id)
                for executor in executors:
                    executor.answered(ticket, answer)
            for executor in executors:
                executor.step()
            for id in [id for id in open_tasks if (task := table.get(id)) is not None and task.ended]:
                open_tasks.remove(id)
                ends.append(elapsed)
                submit()
        return ends

    def _round(self) -> Iterator[tuple[int, Answer]]:
        """Let every member take in what there is, and carry out what it decided; yield the answers."""
        time_now = _now()
        for robot in self._robots.values():
            if robot.member.next_deadline() <= time_now:
                robot.member.advance(time_now)
        # Where only the disk can bring something new, its threads get the interpreter.
        wait = not self._packets and any(robot.unwritten for robot in self._robots.values())
        while wait or not self._durable.empty():
            wait = False
            robot, batch = self._durable.get()
            robot.unwritten -= len(batch)
            for effects in batch:
                self._packets += effects.packets_when_durable
                if effects.record.entries:
                    robot.member.persisted(effects.record.entries[-1], time_now)
        for _ in range(len(self._packets)):
            packet = self._packets.popleft()
            for robot in self._robots.values():
                if packet.receiver.id in ('', robot.member.me.id):
                    robot.member.receive(packet, time_now)
        for robot in self._robots.values():
            yield from self._carry_out(robot)

    def _carry_out(self, robot: _Robot) -> list[tuple[int, Answer]]:
        effects = robot.member.take_effects()
        self._packets += effects.packets
        if effects.record or (effects.packets_when_durable and robot.unwritten):
            robot.unwritten += 1
            robot.writer.submit(effects.record, effects)
        else:
            self._packets += effects.packets_when_durable
        return effects.answers

    def close(self) -> None:
        """Finish the logs."""
        for robot in self._robots.values():
            robot.writer.close()
            robot.storage.close()


def entries_per_second(in_flight: int, seconds: float) -> float:
    """Return how many entries a second three durable members commit and apply."""
    with _running_core() as core:
        return core.run(in_flight, seconds)


def tasks_in_process(seconds: float) -> tuple[list[float], float]:
    """Return when, in seconds, each task ended that three durable members placed and executed."""
    with _running_core() as core:
        return core.tasks(TASKS_IN_FLIGHT, seconds), seconds


@contextmanager
def _running_core() -> Iterator[Core]:
    before = gc.get_threshold()
    gc.set_threshold(*GARBAGE_THRESHOLDS)  # as the node does
    with tempfile.TemporaryDirectory(prefix='muster-benchmark-core-', dir=DISK) as folder:
        core = Core(Path(folder))
        try:
            yield core
        finally:
            core.close()
            gc.set_threshold(*before)


def _refuse(error: OSError | None) -> None:
    raise RuntimeError('the disk takes nothing') from error


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
