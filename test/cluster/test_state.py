# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The replicated state as a whole: exactly once, cluster time, events, snapshots."""
from __future__ import annotations

from contextlib import suppress
from random import Random

import msgpack
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import Entry, Kind, Member
from muster.cluster.state import events as events_module, sessions as sessions_module
from muster.cluster.state.commands import (
    Abandon,
    Acquire,
    CancelTask,
    Code,
    Command,
    FinishTask,
    Health,
    Invalid,
    OpenSession,
    Operation,
    Register,
    Release,
    Renew,
    ReportTasks,
    SetCapabilities,
    SetHealth,
    SubmitTask,
    Unregister,
    Withdraw,
)
from muster.cluster.state.events import Event, EventLog, EventType
from muster.cluster.state.machine import StateMachine
from muster.cluster.state.sessions import LIFETIME, WINDOW
from muster.cluster.state.tasks import TaskState
import pytest
from state_fleet import Fleet, SECOND


# Exactly once -----------------------------------------------------------------------------------
def test_a_retry_is_executed_once_and_told_what_holds_now() -> None:
    fleet = Fleet()
    acquire = Acquire('dock', 'a', 10 * SECOND, 0)
    first = fleet.do(acquire, ('s', 1))
    again = fleet.do(acquire, ('s', 1), elapsed=SECOND)
    assert (again.token, again.remaining) == (first.token, 9 * SECOND)
    assert fleet.do(Release('dock', first.token), ('s', 2)).code == Code.OK
    assert fleet.do(acquire, ('s', 1)).code == Code.NOT_FOUND         # served before, and over
    other = fleet.do(acquire, ('other', 1))
    assert fleet.do(Release('dock', first.token), ('s', 2)).code == Code.OK   # as it was answered
    holder = fleet.machine.locks.holder('dock')
    assert holder is not None and holder.token == other.token


def test_a_retry_of_a_long_hold_or_wait_outlives_its_session() -> None:
    """A lease and a wait may be longer than a session lives; what it asked for is not asked again."""
    fleet = Fleet()
    hold, wait = Acquire('dock', 'a', 7200 * SECOND, 0), Acquire('dock', 'b', SECOND, 3600 * SECOND)
    token = fleet.do(hold, ('a', 1)).token
    fleet.do(wait, ('b', 1))
    fleet.wait(LIFETIME + SECOND)
    assert len(fleet.machine.sessions) == 0
    assert fleet.do(Abandon(), ('a', 2)).code == Code.SESSION_EXPIRED
    assert fleet.do(hold, ('a', 1)).token == token
    assert fleet.do(wait, ('b', 1)).code == Code.QUEUED
    [(holder, waiters)] = list(fleet.machine.locks)
    assert (holder.owner, [w.owner for w in waiters]) == ('a', ['b'])
    assert fleet.wait(3600 * SECOND - LIFETIME) == ['LOCK_WAIT_ENDED']      # as first asked for


def test_old_requests_are_refused_without_effect() -> None:
    fleet = Fleet()
    session = fleet.session()
    for sequence in range(1, WINDOW + 2):
        fleet.do(Abandon(), (session, sequence))
    before = fleet.machine.locks.dump()
    assert fleet.do(Acquire('dock', 'a', SECOND, 0), (session, 1)).code == Code.SESSION_EXPIRED
    assert fleet.machine.locks.dump() == before


@pytest.mark.parametrize('sequence', [1, 2, 77])
def test_no_request_of_an_expired_session_is_executed_not_even_the_first(sequence: int) -> None:
    fleet = Fleet()
    session = fleet.session()
    acquire = Acquire('dock', 'a', SECOND, 0)
    token = fleet.do(acquire, (session, sequence)).token
    assert fleet.do(Release('dock', token)).code == Code.OK
    fleet.wait(LIFETIME)
    answer = fleet.do(acquire, (session, sequence))
    assert answer.code == Code.SESSION_EXPIRED and 'open_session' in answer.message
    assert len(fleet.machine.locks) == 0


def test_sessions_are_opened_and_never_twice_under_one_name() -> None:
    fleet = Fleet()
    names = {fleet.session() for _ in range(5)}
    assert len(names) == 5 == len(fleet.machine.sessions) - 1     # and that of the member
    for session in (str(fleet.machine.applied + 1), '99', '0'):
        assert fleet.do(Abandon(), (session, 1)).code == Code.SESSION_EXPIRED


def test_a_leap_in_a_session_costs_no_more_than_a_step() -> None:
    fleet = Fleet()
    for sequence in (1, 2, WINDOW, 2**62, 2**62 + 1):
        assert fleet.do(Abandon(), ('s', sequence)).code == Code.OK
    assert fleet.do(Abandon(), ('s', WINDOW)).code == Code.SESSION_EXPIRED
    assert fleet.do(Abandon(), ('s', 2**62)).code == Code.OK


def test_a_member_s_request_that_outlives_its_session_is_executed_once() -> None:
    fleet = Fleet()
    hold, request = Acquire('dock', 'a', 7200 * SECOND, 0), ('@r1/1', 1)
    token = fleet.do(hold, request).token
    fleet.wait(LIFETIME)
    assert fleet.do(hold, request).token == token
    assert fleet.do(Release('dock', token)).code == Code.OK
    assert fleet.do(hold, request).code == Code.NOT_FOUND


def test_a_session_lives_as_long_as_it_is_used() -> None:
    fleet = Fleet()
    used, unused = fleet.session(), fleet.session()
    for sequence in (1, 2, 3):
        assert fleet.do(Abandon(), (used, sequence), elapsed=LIFETIME - 1).code == Code.OK
    assert fleet.do(Abandon(), (unused, 1)).code == Code.SESSION_EXPIRED
    assert fleet.do(Abandon(), (used, 4)).code == Code.OK


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, 'MAX_SESSIONS', 5)
    fleet = Fleet()
    for i in range(9):
        fleet.do(Abandon(), (f'@r{i}', 1))
    assert len(fleet.machine.sessions) == 5


# Time and events --------------------------------------------------------------------------------
def test_clock_goes_on_while_a_lease_runs_and_only_then() -> None:
    fleet = Fleet()
    assert fleet.machine.clock_interval() is None
    fleet.do(Acquire('dock', 'a', SECOND // 5, 0))
    assert 0 < (fleet.machine.clock_interval() or 0) <= SECOND // 20
    fleet.wait(SECOND // 5)
    assert fleet.machine.clock_interval() is None


def test_late_subscribers_catch_up_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, 'MAX_EVENTS', 40)
    log = EventLog()
    for revision in range(1, 101):
        log.extend([Event(revision, i, EventType.LOCK_QUEUED, 1, 0, 'x') for i in range(revision % 4)])
    assert 0 < log.compacted_before <= 90
    found, following = [], 0
    while True:
        page, following = log.since(following, 7)
        if not page:
            break
        assert page[0].ordinal == 0        # no revision is split
        found += page
    assert [(e.revision, e.ordinal) for e in found] == [
        (r, i) for r in range(log.compacted_before, 101) for i in range(r % 4)]


# Snapshots --------------------------------------------------------------------------------------
class Life:
    """A random fleet: commands that fit the state it is in, and some that do not."""

    ROBOTS = ('r1', 'r2', 'r3', 'r4')

    def __init__(self, seed: int) -> None:
        """Choose everything by the seed."""
        self.random = Random(seed)
        self.sequences: dict[str, int] = {}
        self.requests: list[tuple[str, int]] = [('1', 1)]

    def entry(self, machine: StateMachine) -> Entry:
        """Return the next entry."""
        random = self.random
        elapsed = random.choice((0, random.randrange(SECOND), random.randrange(4 * SECOND)))
        if random.random() < 0.001:
            elapsed = LIFETIME
        choice = random.random()
        if machine.applied == 0 or choice < 0.03:
            # Each robot as a member, absent, or as a new incarnation; sometimes both at once.
            members = {Member(r, random.choice((1, 1, 1, 2))) for r in self.ROBOTS if random.random() < 0.9}
            configuration = Configuration(frozenset(members), frozenset(
                Member(m.id, 2) for m in members if random.random() < 0.2))
            return Entry(machine.applied + 1, 1, elapsed, Kind.CONFIGURATION, configuration.encode())
        if choice < 0.06:
            return Entry(machine.applied + 1, 2, 0, Kind.NOOP, b'r1')
        if choice < 0.15:
            return Entry(machine.applied + 1, 2, elapsed, Kind.CLOCK, b'')
        request = self.request(machine)
        server = random.choice(self.ROBOTS), random.randrange(1, 3)
        command = Command(self.operation(machine), request, *server)
        return Entry(machine.applied + 1, 2, elapsed, Kind.COMMAND, command.encode())

    def request(self, machine: StateMachine) -> tuple[str, int]:
        """Return a new request or one that was there before."""
        if self.random.random() < 0.1:
            return self.random.choice(self.requests)
        session = self.random.choice(('@r1', '@r2', *list(machine.sessions._sessions)[-2:]))
        self.sequences[session] = self.sequences.get(session, 0) + 1
        self.requests.append((session, self.sequences[session]))
        return self.requests[-1]

    def operation(self, machine: StateMachine) -> Operation:
        """Return something to do."""
        random = self.random
        lock, robot, kind = random.choice('ab'), random.choice(self.ROBOTS), random.choice(('sweep', 'lift'))
        holder = machine.locks.holder(lock)
        hold = holder.token if holder and random.random() < 0.9 else random.randrange(1, machine.applied + 2)
        tasks, _ = machine.tasks.listed(limit=12)
        task = random.choice(tasks) if tasks else None
        id_, token = (task.id, task.token or 1) if task and random.random() < 0.95 else ('sweep-1', 1)
        running = [t for t in tasks if t.state == TaskState.RUNNING]
        caps = tuple(random.sample(('task:sweep', 'task:lift', 'arm', 'wide'), random.randrange(5)))
        needs = tuple(random.sample(('arm', 'wide'), random.choice((0, 0, 1, 2))))
        return random.choice((
            lambda: Acquire(lock, robot, random.randrange(SECOND // 10, 5 * SECOND),
                            random.choice((0, random.randrange(9 * SECOND))),
                            random.choice((0, 0, random.randrange(3 * SECOND)))),
            lambda: Acquire(lock, robot, 3 * SECOND, 9 * SECOND),
            lambda: Renew(lock, hold, random.choice((0, SECOND))), lambda: Release(lock, hold),
            lambda: Withdraw(lock, *random.choice(self.requests)), Abandon, OpenSession,
            lambda: Register(robot, random.choice('xyz'), kind, caps, '{}', random.choice((0, 2 * SECOND))),
            lambda: Unregister(robot, random.choice('xyz')),
            lambda: SetCapabilities(robot, caps, random.choice(((), (), ('arm',))), random.randrange(4)),
            lambda: SetCapabilities(robot, ('task:sweep', 'task:lift', 'arm'), (), 0),
            lambda: SubmitTask(kind, '{}', needs, random.randrange(3), random.choice((0, 0, 20 * SECOND)),
                               random.randint(1, 3), random.randint(1, 4) * SECOND,
                               random.choice((0, SECOND))),
            lambda: SubmitTask(kind, '[1]', (), 1),
            lambda: CancelTask(id_),
            lambda: ReportTasks(tuple((t.id, t.token, 0.5, 'on it') for t in running)
                                or ((id_, token, 0, ''),)),
            lambda: FinishTask(id_, token, random.randint(1, 4), '{"done": 1}', 'so'),
            lambda: FinishTask(id_, token, 1, '', ''),
            lambda: SetHealth(robot, random.choice((1, 1, 2)), random.randint(1, 3)),
            lambda: SetHealth(robot, random.choice((1, 2)), Health.ALIVE)))()


def seen(machine: StateMachine) -> object:
    """Return what a shell asks a machine after each entry."""
    return (machine.clock_interval(), machine.digest(), list(machine.locks), machine.registry.find(),
            [(r, machine.members[r].running, machine.members[r].rank) for r in machine.members],
            [(r, machine.tasks.version(r), [(t.id, t.token, t.cancel) for t in machine.tasks.assigned_to(r)])
             for r in Life.ROBOTS])


@pytest.mark.parametrize('seed', range(25))
def test_a_restored_machine_goes_on_as_if_nothing_had_been(seed: int) -> None:
    life, machine = Life(seed), StateMachine()
    for _ in range(life.random.randrange(300)):
        machine.apply(life.entry(machine))
    data = machine.snapshot()
    restored = StateMachine.restored(data)
    assert restored.snapshot() == data
    assert restored.events.compacted_before == restored.applied + 1 and restored.events.since(0, 10)[0] == []
    assert seen(restored) == seen(machine)
    for _ in range(200):
        entry = life.entry(machine)
        assert restored.apply(entry) == machine.apply(entry)
        assert seen(restored) == seen(machine)


@pytest.mark.parametrize('seed', range(100, 115))
def test_invariants_hold_in_a_random_life(seed: int) -> None:
    life, machine = Life(seed), StateMachine()
    tokens: dict[str, int] = {}
    kinds = set()
    for _ in range(400):
        applied = machine.apply(life.entry(machine))
        kinds |= {event.type for event in applied.events}
        assert [(e.revision, e.ordinal) for e in applied.events] == [
            (machine.applied, i) for i in range(len(applied.events))]
        for event in applied.events:
            if event.type == EventType.TASK_ASSIGNED:
                assert event.token > tokens.get(event.subject, 0)
                tokens[event.subject] = event.token
        check_tasks(machine)
        check_clock(machine)
    assert len(kinds) > 15      # the life was rich enough to show something


def check_tasks(machine: StateMachine) -> None:
    """Check the tables of tasks and robots against one another."""
    tasks, _ = machine.tasks.listed(limit=10**6)
    running = [t for t in tasks if t.state == TaskState.RUNNING]
    for robot in machine.members.values():
        assert robot.running == sum(t.robot == robot.id for t in running)
        free = robot.health == Health.ALIVE and robot.running < robot.capacity
        assert (robot.rank is not None) == free
    for task in tasks:
        assert task.attempts <= task.max_attempts
        if task.state != TaskState.WAITING:
            continue
        able = [r for r in machine.members.values() if r.health == Health.ALIVE
                and {f'task:{task.type}', *task.required} <= r.capabilities]
        able = [r for r in able if r.id != task.robot] or able
        assert not any(r.rank for r in able), f'{task.id} waits though a robot is free'


def check_clock(machine: StateMachine) -> None:
    """Check that the clock goes on while anything runs, often enough, and only then."""
    tasks, _ = machine.tasks.listed(limit=10**6)
    holders = [holder for holder, _ in machine.locks]
    closed = list(machine.locks._closed.values())
    waits = [w for queue in machine.locks._queues.values() for w in queue.values()]
    services = [s for s in machine.registry.find() if s.ttl]
    running = [t for t in tasks if t.state == TaskState.RUNNING]
    ends = [c.deadline for c in holders + closed + waits] + [s.expires for s in services]
    ends += [t.lease_end + (t.grace if t.lapsed else 0) for t in running]
    ends += [t.deadline for t in tasks if not t.ended and t.deadline and not t.cancel_requested]
    lengths = [h.lease for h in holders] + [s.ttl for s in services] + [t.lease for t in running]
    interval = machine.clock_interval()
    if not ends:
        assert interval is None
        return
    longest = max(0, min(SECOND, min(ends) - machine.time, *(length // 4 for length in lengths)))
    assert interval is not None and longest // 2 <= interval <= longest


def test_damaged_snapshots_are_invalid() -> None:
    life, machine = Life(7), StateMachine()
    for _ in range(150):
        machine.apply(life.entry(machine))
    data, random = machine.snapshot(), Random(7)
    for wrong in (b'', b'\x93', msgpack.packb([2]), msgpack.packb([1] * 10), data[:-1], data + b'x',
                  msgpack.packb({'a': 1}), msgpack.packb([99, *msgpack.unpackb(data)[1:]])):
        with pytest.raises(Invalid):
            StateMachine.restored(wrong)
    for _ in range(400):
        at = random.randrange(len(data))
        changed = data[:at] + bytes([random.randrange(256)]) + data[at + 1:]
        with suppress(Invalid):
            assert StateMachine.restored(changed).snapshot() == changed
