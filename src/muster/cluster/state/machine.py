# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The replicated state machine: entries in, answers and events out, the same on every member."""
from __future__ import annotations

from collections.abc import Callable, Sequence
import hashlib
from typing import Any, NamedTuple

import msgpack

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import Entry, Kind
from muster.cluster.state.commands import (
    Abandon,
    Acquire,
    Answer,
    CancelTask,
    Code,
    Command,
    decode,
    FinishTask,
    Health,
    Invalid,
    OpenSession,
    Operation,
    Register,
    Release,
    Renew,
    ReportTasks,
    SECOND,
    SetCapabilities,
    SetHealth,
    SubmitTask,
    Unregister,
    Withdraw,
)
from muster.cluster.state.events import Event, EventLog, EventType
from muster.cluster.state.locks import Change, Claim, LockTable, RequestId
from muster.cluster.state.members import Members
from muster.cluster.state.refused import Busy, NotFound, Refused, WrongToken
from muster.cluster.state.registry import Registry
from muster.cluster.state.sessions import SessionExpired, Sessions
from muster.cluster.state.tasks import TaskTable

SNAPSHOT_VERSION = 1
#: One object for all answers that say nothing but how it ended: many of them are kept.
_PLAIN = {int(code): Answer(code) for code in Code}
OK, QUEUED = _PLAIN[Code.OK], _PLAIN[Code.QUEUED]
_CODES = {NotFound: Code.NOT_FOUND, WrongToken: Code.WRONG_TOKEN, Busy: Code.BUSY}
_HEALTH_EVENTS = {Health.ALIVE: EventType.MEMBER_ALIVE, Health.SUSPECT: EventType.MEMBER_SUSPECT,
                  Health.DEAD: EventType.MEMBER_DEAD}


class Applied(NamedTuple):
    """
    What one entry did; `orphaned` would announce again what went with a dead robot.

    The answers are in the order in which they came about: where a wait ends and the same entry brings
    its request again, the end of the wait is the answer, and the first.
    """

    events: Sequence[Event] = ()
    answers: Sequence[tuple[RequestId, Answer]] = ()
    orphaned: Sequence[Register | SetCapabilities] = ()


class StateMachine:
    """Cluster time, sessions, locks, members, services, tasks and events."""

    def __init__(self) -> None:
        """Begin empty, at cluster time 0."""
        self.time = 0
        self.applied = 0
        self.term = 0
        self.sessions = Sessions()
        self.locks = LockTable()
        self.members = Members()
        self.registry = Registry()
        self.tasks = TaskTable(self.members, self._tell)
        self.events = EventLog()
        self._configuration = Configuration()
        # What the entry that is applied has done so far.
        self._told: list[Event] = []
        self._answers: list[tuple[RequestId, Answer]] = []
        self._orphaned: list[Register | SetCapabilities] = []
        self._handlers: dict[type[Operation], Callable[[Any, Command], Answer]] = {
            Acquire: self._acquire, Renew: self._renew, Release: self._release, Withdraw: self._withdraw,
            Abandon: self._abandon, OpenSession: self._open_session,
            Register: self._register, Unregister: self._unregister,
            SetCapabilities: self._set_capabilities, SubmitTask: self._submit_task,
            CancelTask: self._cancel_task, ReportTasks: self._report_tasks, FinishTask: self._finish_task,
            SetHealth: self._set_health}

    def apply(self, entry: Entry, command: Command | None = None) -> Applied:
        """Apply the next committed entry; `command` is what `decode` makes of it, where that is known."""
        assert entry.index == self.applied + 1, 'entries are applied in order, each once'
        self.applied, self.term = entry.index, entry.term
        self.time += entry.elapsed
        self._told, self._answers, self._orphaned = [], [], []
        self._expire()
        if entry.kind == Kind.COMMAND:
            self._execute(command or _decoded(entry.data))
        elif entry.kind == Kind.NOOP:
            self._tell(EventType.LEADER_ELECTED, entry.data.decode())
        elif entry.kind == Kind.CONFIGURATION:
            self._reconfigure(Configuration.decode(entry.data))
        self.tasks.place(self.time, self.applied)
        self.events.extend(self._told)
        return Applied(self._told, self._answers, self._orphaned)

    def clock_interval(self) -> int | None:
        """
        Return how soon after the last entry another must follow, None where nothing waits.

        Cluster time stands still between entries; while a lease, a wait, a time to live or a
        deadline runs, it must not. How long results and sessions are kept does not count.
        """
        interval = None
        for deadline, shortest in ((self.locks.next_deadline(), self.locks.shortest_lease()),
                                   (self.registry.next_deadline(), self.registry.shortest_ttl()),
                                   (self.tasks.next_deadline(), self.tasks.shortest_lease())):
            if deadline is not None:
                interval = min(SECOND if interval is None else interval, deadline - self.time,
                               SECOND if shortest is None else shortest // 4)
        return None if interval is None else max(0, interval)

    # Snapshots ---------------------------------------------------------------------------------
    def snapshot(self) -> bytes:
        """Return all there is but the events, the same bytes for the same state."""
        return msgpack.packb((
            SNAPSHOT_VERSION, self.time, self.applied, self.term, self._configuration.encode(),
            self.sessions.dump(_pack), self.locks.dump(), self.members.dump(), self.registry.dump(),
            self.tasks.dump()))

    @classmethod
    def restored(cls, data: bytes) -> StateMachine:
        """Return the machine that a snapshot was made of; raise Invalid where it is none."""
        try:
            version, *rest = msgpack.unpackb(data, use_list=False)
            if version != SNAPSHOT_VERSION:
                raise Invalid(f'snapshot version {version!r:.20} is not known here: update this member')
            machine = cls()
            machine._load(*rest)
            again = machine.snapshot()
        except Invalid:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, AssertionError,
                msgpack.UnpackException) as error:
            raise Invalid(f'malformed snapshot: {error!r}') from error
        if again != data:
            raise Invalid('malformed snapshot: it contradicts itself')
        return machine

    def digest(self) -> bytes:
        """Return a hash of the state, the same on every member that has applied the same entries."""
        return hashlib.blake2b(self.snapshot(), digest_size=16).digest()

    def _load(self, time: int, applied: int, term: int, configuration: bytes, sessions: Any, locks: Any,
              members: Any, registry: Any, tasks: Any) -> None:
        self.time, self.applied, self.term = time, applied, term
        self._configuration = Configuration.decode(configuration)
        self.events = EventLog(compacted_before=applied + 1)
        self.sessions.load(sessions, _unpack)
        self.locks.load(locks)
        self.members.load(members)
        self.registry.load(registry)
        self.tasks.load(tasks)

    # Time --------------------------------------------------------------------------------------
    def _expire(self) -> None:
        """End whatever has reached its deadline."""
        now, index = self.time, self.applied
        self.sessions.expire(now)
        self._tell_changes(self.locks.expire(now, index))
        for service in self.registry.expire(now):
            self._tell(EventType.SERVICE_REMOVED, service.name, service.robot)
        self.tasks.expire(now, index)

    # Commands ----------------------------------------------------------------------------------
    def _execute(self, command: Command | None) -> None:
        """Execute a command once, and answer it; one that is not known here nobody here waits for."""
        if command is not None:
            self._answers.append((command.request, self._answer(command)))

    def _answer(self, command: Command) -> Answer:
        operation, (session, sequence), _, _ = command
        try:
            answer = self.sessions.find(session, sequence, self.time)
        except SessionExpired as error:
            if not self._claims(command):
                return Answer(Code.SESSION_EXPIRED, str(error))
            return self._repeat(command, QUEUED)
        if answer is None and self._claims(command):
            answer = QUEUED
            self.sessions.answered(session, sequence, answer)
        if answer is not None:
            return self._repeat(command, answer)
        try:
            answer = self._handlers[type(operation)](operation, command)
        except Refused as error:
            answer = Answer(_CODES[type(error)], str(error))
        # What an acquire got is looked up when it is asked for again.
        served = isinstance(operation, Acquire) and answer.code == Code.OK
        self.sessions.answered(session, sequence, QUEUED if served else answer)
        return answer

    def _claims(self, command: Command) -> bool:
        """Return whether a request has a hold or wait, which may outlive its session: it is told of it."""
        operation = command.operation
        return isinstance(operation, Acquire) and \
            self.locks.claim_of(operation.name, command.request) is not None

    def _repeat(self, command: Command, first: Answer) -> Answer:
        """Answer a retry: as before, but what is left of a hold or wait is as it is now."""
        operation = command.operation
        if not isinstance(operation, Acquire) or first.code != Code.QUEUED:
            return first
        self.locks.serve(operation.name, command.request, command.member, command.run)
        return self.outcome_of(command)

    def outcome_of(self, command: Command) -> Answer:
        """Return what a request that was queued or granted has come to by now; QUEUED while it waits."""
        operation = command.operation
        assert isinstance(operation, Acquire)
        claim = self.locks.claim_of(operation.name, command.request)
        if claim is None:
            return Answer(Code.NOT_FOUND, f"this request for lock '{operation.name}' was served "
                          'before, and its hold or wait has ended since')
        return self._granted(claim) if claim.token else QUEUED

    def _open_session(self, operation: OpenSession, command: Command) -> Answer:
        self.sessions.open(str(self.applied), self.time)
        return Answer(Code.OK, token=self.applied)

    # Locks -------------------------------------------------------------------------------------
    def _acquire(self, operation: Acquire, command: Command) -> Answer:
        name, owner, lease, wait, delay = operation
        claim = self.locks.acquire(name, owner, command[2:], command.request, lease, wait, delay,
                                   self.time, self.applied)
        if claim is None:
            return Answer(Code.HELD, self._why_held(name), holder=self._holder(name))
        if not claim.token:
            self._tell_claim(EventType.LOCK_QUEUED, claim)
            return QUEUED
        self._tell_claim(EventType.LOCK_ACQUIRED, claim)
        return self._granted(claim)

    def _renew(self, operation: Renew, command: Command) -> Answer:
        claim = self.locks.renew(operation.name, operation.token, operation.lease, self.time)
        self._tell_claim(EventType.LOCK_RENEWED, claim)
        return self._granted(claim)

    def _release(self, operation: Release, command: Command) -> Answer:
        self._tell_changes(self.locks.release(operation.name, operation.token, self.time, self.applied))
        return OK

    def _withdraw(self, operation: Withdraw, command: Command) -> Answer:
        request = operation.session, operation.sequence
        self._tell_changes(self.locks.withdraw(operation.name, request, self.time, self.applied))
        return OK

    def _abandon(self, operation: Abandon, command: Command) -> Answer:
        self._tell_changes(self.locks.abandon(command.member, command.run))
        return OK

    def _tell_changes(self, changes: list[Change]) -> None:
        """Tell what happened to locks, also those whose wait has ended by it."""
        for kind, claim in changes:
            self._tell_claim(kind, claim)
            if kind == EventType.LOCK_ACQUIRED:
                self._answers.append((claim.request, self._granted(claim)))
            elif kind == EventType.LOCK_WAIT_ENDED:
                self._answers.append((claim.request, Answer(
                    Code.HELD, f"the wait for lock '{claim.name}' is over", holder=self._holder(claim.name))))

    def _tell_claim(self, kind: EventType, claim: Claim) -> None:
        told = self._told
        told.append(Event(self.applied, len(told), kind, self.term, self.time,
                          claim.name, claim.member, claim.owner, claim.token))

    def _granted(self, claim: Claim) -> Answer:
        return Answer(Code.OK, '', claim.token, claim.deadline - self.time, claim.owner)

    def _holder(self, name: str) -> str:
        holder = self.locks.holder(name)
        return holder.owner if holder else ''

    def _why_held(self, name: str) -> str:
        holder = self.locks.holder(name)
        if holder is not None:
            left = (holder.deadline - self.time) / SECOND
            return f"lock '{name}' is held by '{holder.owner}' for another {left:.1f} s at most"
        closed = self.locks.closed(name)
        assert closed is not None, 'neither held nor closed, yet not granted'
        left = (closed.deadline - self.time) / SECOND
        return f"lock '{name}' is closed for another {left:.1f} s, because the lease of '{closed.owner}' " \
            'expired and it asked for this delay'

    # Members and services ----------------------------------------------------------------------
    def _register(self, operation: Register, command: Command) -> Answer:
        self.members.living(operation.robot)
        self.registry.register(operation, self.time)
        self._tell(EventType.SERVICE_REGISTERED, operation.name, operation.robot)
        return OK

    def _unregister(self, operation: Unregister, command: Command) -> Answer:
        self.registry.unregister(operation.robot, operation.name)
        self._tell(EventType.SERVICE_REMOVED, operation.name, operation.robot)
        return OK

    def _set_capabilities(self, operation: SetCapabilities, command: Command) -> Answer:
        if self.members.set_capabilities(operation):
            self.tasks.robot_changed(operation.robot)
            self._tell(EventType.CAPABILITIES_CHANGED, operation.robot, operation.robot)
        return OK

    def _set_health(self, operation: SetHealth, command: Command) -> Answer:
        robot = self.members.find(operation.member)
        if robot.incarnation != operation.incarnation:
            raise NotFound(f"'{operation.member}' has another incarnation by now")
        if robot.health != operation.health:
            robot.health = Health(operation.health)
            self._tell(_HEALTH_EVENTS[robot.health], robot.id, robot.id)
            if robot.health == Health.DEAD:
                self._orphan(robot.id)
            self.tasks.robot_changed(robot.id)
        return OK

    def _orphan(self, id: str) -> None:
        """Drop what a robot has announced."""
        robot = self.members[id]
        for service in self.registry.drop(id):
            self._orphaned.append(service.announcement())
            self._tell(EventType.SERVICE_REMOVED, service.name, id)
        announcements = robot.announcements()
        if announcements:
            self._orphaned += announcements
            robot.forget_capabilities()
            self._tell(EventType.CAPABILITIES_CHANGED, id, id)

    def _reconfigure(self, new: Configuration) -> None:
        old, self._configuration = self._configuration, new
        for kind, group in ((EventType.MEMBER_ADDED, new.members - old.members),
                            (EventType.MEMBER_PROMOTED, new.voters - old.voters),
                            (EventType.MEMBER_REMOVED, old.members - new.members)):
            for member in sorted(group):
                self._tell(kind, member.id)
        for id, incarnation in self.members.successors(old.members, new.members).items():
            if id in self.members:
                self._orphan(id)
                self.tasks.robot_leaves(id)
                self.members.remove(id)
            if incarnation is not None:
                self.members.add(id, incarnation, self.tasks.running(id))
                self.tasks.robot_changed(id)

    # Tasks -------------------------------------------------------------------------------------
    def _submit_task(self, operation: SubmitTask, command: Command) -> Answer:
        task = self.tasks.submit(operation, self.time, self.applied)
        return Answer(Code.OK, task_id=task.id)

    def _cancel_task(self, operation: CancelTask, command: Command) -> Answer:
        self.tasks.cancel(operation.task_id, self.time, self.applied)
        return OK

    def _report_tasks(self, operation: ReportTasks, command: Command) -> Answer:
        self.tasks.report(operation, self.time)
        return OK

    def _finish_task(self, operation: FinishTask, command: Command) -> Answer:
        self.tasks.finish(operation, self.time, self.applied)
        return OK

    # Events ------------------------------------------------------------------------------------
    def _tell(self, kind: EventType, subject: str, member: str = '', owner: str = '', token: int = 0) -> None:
        told = self._told
        told.append(Event(self.applied, len(told), kind, self.term, self.time, subject, member, owner, token))


def _decoded(data: bytes) -> Command | None:
    """Return a committed command, None where it is of a newer version."""
    try:
        return decode(data)
    except Invalid:
        return None


def _pack(answer: Answer) -> tuple[Any, ...]:
    """Return the fields of an answer; most say nothing but how it ended."""
    a = answer
    rest = a.message, a.token, a.remaining, a.holder, a.task_id
    return (a.code, *rest) if any(rest) else (a.code,)


def _unpack(code: int, *rest: Any) -> Answer:
    if not rest:
        return _PLAIN[code]
    return Answer(Code(code), *rest)
