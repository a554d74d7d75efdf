# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What must hold in a simulated cluster after every step; the oracle sees all members and disks at once.

Each check is cheap because it looks at what the step changed only. Agreement with what is known
already makes the global properties follow: two logs that agree with one registry of (index, term)
agree with one another, and so on.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from disks import Disk
from muster.cluster.member import ClusterMember
from muster.cluster.protocol import Packet
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import Timing
from muster.cluster.raft.types import (
    Append,
    AppendReply,
    Entry,
    HardState,
    Kind,
    Member,
    Role,
    Vote,
    VoteRequest,
)
from muster.cluster.state.commands import (
    Acquire,
    Command,
    decode,
    FinishTask,
    Operation,
    Release,
    Renew,
    ReportTasks,
    SubmitTask,
)
from muster.cluster.state.events import Event, EventType
from muster.cluster.state.locks import RequestId
from muster.cluster.state.machine import StateMachine

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND
#: Two clocks drift apart by less than the 1 % that the leases allow for.
MAX_DRIFT = 0.0045
#: What rounding may add up to in the conversions between clocks.
ROUNDING = 10_000
#: Every so many entries the whole state of a member is compared, else a part of it.
WHOLE = 16


class Violation(AssertionError):
    """An invariant does not hold; `what` is one line that says which."""

    def __init__(self, text: str, what: str = '') -> None:
        """Take the whole text, and its essence."""
        super().__init__(text)
        self.what = what or text


class Consensus:
    """Elections, logs, commitment and durability (Raft paper, figure 3)."""

    def __init__(self, timing: Timing) -> None:
        """Know nothing yet."""
        self.log: list[Entry] = []
        self.cluster_id = ''
        self.disks: dict[Member, Disk] = {}       # of every incarnation there ever was
        self.appended: dict[tuple[int, int], int] = {}    # when a leader appended (index, term)
        self._timing = timing
        self._known: dict[tuple[str, int, int], tuple[Entry, int]] = {}   # and the term before it
        self._leaders: dict[tuple[str, int], ClusterMember] = {}
        #: Of a run: what is committed and applied, and the term it leads.
        self._seen: dict[tuple[Member, int], tuple[int, int, int]] = {}
        self._heard: dict[Member, dict[Member, int]] = {}

    def check_step(self, member: ClusterMember, run: int, entries: Sequence[Entry],
                   applied: Sequence[Entry], time: int) -> list[Entry]:
        """Check a member after its step, which appended and applied entries; return what is new."""
        raft = member.raft
        assert raft is not None
        for entry in entries:
            self.appended.setdefault((entry.index, entry.term), time)
            before = raft.log.term(entry.index - 1)
            if before < 0:
                continue  # a snapshot stands for it already
            key = member.cluster_id, entry.index, entry.term
            if self._known.setdefault(key, (entry, before)) != (entry, before):
                raise Violation(f'log matching: {member.me} has {entry} after term {before}, '
                                f'but known is {self._known[key]}')
            if entry.kind == Kind.CONFIGURATION and member.leads:
                self._heard[member.me] = dict.fromkeys(raft.configuration.members | {member.me}, time)
        commit, index, led = self._seen.get((member.me, run), (0, 0, 0))
        if raft.commit < commit or member.machine.applied < index:
            raise Violation(f'{member.me} went back from index {commit} to {raft.commit}')
        if member.leads:
            if led != raft.term:
                self._check_leader(member)
                self._heard[member.me] = dict.fromkeys(raft.configuration.members | {member.me}, time)
            elif raft.commit > max(commit, raft.log.base) and raft.log.term(raft.commit) != raft.term:
                raise Violation(f'{member.me} leads term {raft.term} and committed index {raft.commit} of '
                                f'term {raft.log.term(raft.commit)} by counting')
        self._seen[member.me, run] = raft.commit, member.machine.applied, raft.term if member.leads else 0
        return self._check_committed(member, applied)

    def forget(self, disk: Disk, cluster_id: str) -> None:
        """
        Forget a term that a crash undid.

        A sole voter leads before its vote is durable, and nobody hears of it until it is.
        """
        lost = [key for key, leader in self._leaders.items()
                if key[0] == cluster_id and leader.me == disk.me and key[1] > disk.hard_state.term]
        for key in lost:
            del self._leaders[key]
        terms = {term for _, term in lost}
        self._known = {k: v for k, v in self._known.items() if k[0] != cluster_id or k[2] not in terms}
        self.appended = {k: v for k, v in self.appended.items() if k[1] not in terms}

    def _check_leader(self, member: ClusterMember) -> None:
        """Election safety and leader completeness."""
        raft = member.raft
        assert raft is not None
        first = self._leaders.setdefault((member.cluster_id, raft.term), member)
        if first is not member:
            raise Violation(f'term {raft.term} has two leaders, {first.me} and {member.me}')
        for entry in self.log:
            if entry.term < raft.term and entry.index >= raft.log.base and \
                    raft.log.term(entry.index) != entry.term:
                raise Violation(f'{member.me} leads term {raft.term} without the committed {entry}')

    def _check_committed(self, member: ClusterMember, applied: Sequence[Entry]) -> list[Entry]:
        """State-machine safety: nobody applies another entry, and a quorum has stored what is committed."""
        raft = member.raft
        assert raft is not None
        if applied and self.cluster_id != member.cluster_id:
            if self.cluster_id:
                raise Violation(f'two clusters work: {self.cluster_id} and {member.cluster_id}')
            self.cluster_id = member.cluster_id
        if raft.commit > raft.log.last_index:
            raise Violation(f'{member.me} committed index {raft.commit} and has {raft.log.last_index}')
        new = []
        for entry in applied:
            if entry.index > len(self.log):
                self._check_stored(member, entry)
                self.log.append(entry)
                new.append(entry)
            elif self.log[entry.index - 1] != entry:
                raise Violation(f'{member.me} applied {entry}, but {self.log[entry.index - 1]} was committed')
        return new

    def _check_stored(self, member: ClusterMember, entry: Entry) -> None:
        """
        Check that a quorum has a committed entry on disk.

        It is one of the configuration in force at the entry, or of a later one that the leader
        has: whose predecessor, the joint one, was committed by the quorums of both.
        """
        raft = member.raft
        assert raft is not None
        stored = [m for m, disk in self.disks.items() if disk.had(entry.index, entry.term)]
        known = raft._configurations
        first = max((i for i, _ in known if i <= entry.index), default=0)
        if not any(c.has_quorum(stored) for i, c in known if i >= first):
            raise Violation(f'{member.me} committed {entry}, which {stored} stored')

    def check_promise(self, me: Member, packet: Packet) -> None:
        """Check when a packet leaves that what it promises is on the disk of its sender."""
        body, disk = packet.body, self.disks[me]
        if isinstance(body, Vote):
            kept = not body.granted or body.pre or _promised(disk.hard_state, body.term, packet.receiver)
        elif isinstance(body, VoteRequest):
            kept = body.pre or _promised(disk.hard_state, body.term, me)
        elif isinstance(body, AppendReply):
            kept = not body.accepted or disk.hard_state.term > body.term or (
                disk.hard_state.term == body.term and self._acknowledges(disk, packet.cluster_id, body))
        elif isinstance(body, Append):
            kept = disk.hard_state.term >= body.term
        else:
            return
        if not kept:
            raise Violation(f'{me} sends {body} but its disk has {disk.hard_state} and {disk.last_index} '
                            'entries')

    def _acknowledges(self, disk: Disk, cluster_id: str, reply: AppendReply) -> bool:
        """Whether the disk has what the leader of the term has, as long as it leads, up to an index."""
        leader = self._leaders.get((cluster_id, reply.term))
        raft = leader.raft if leader is not None else None
        if raft is None or raft.role != Role.LEADER or raft.term != reply.term:
            return disk.last_index >= reply.index
        term = raft.log.term(reply.index)
        return disk.last_index >= reply.index and (term < 0 or disk.had(reply.index, term))

    def hears(self, me: Member, other: Member, time: int) -> None:
        """Note that a packet reached a member."""
        self._heard.setdefault(me, {})[other] = time

    def check_clock(self, member: ClusterMember, clock: int) -> None:
        """Check that a leader which has nothing to wait for lets cluster time go on while leases run."""
        raft = member.raft
        if raft is None or not member.leads or raft.commit < raft.log.last_index or raft.transferring or \
                raft.stalled or member.machine.applied < raft.commit:
            return
        leases = [holder.lease for holder, _ in member.machine.locks]
        if leases and clock - raft.last_stamped > min(SECOND, min(leases) // 4) + MILLISECOND:
            raise Violation(f'{member.me} lets cluster time stand still while leases run')

    def check_quorum_heard(self, member: ClusterMember, time: int) -> None:
        """Check that a leader that hears no quorum has stepped down (thesis 6.2)."""
        raft = member.raft
        if raft is None or not member.leads:
            return
        limit = 2 * self._timing.election_max + 20 * MILLISECOND
        heard = self._heard.get(member.me, {}).items()  # empty where it leads from this moment on
        recent = {m for m, at in heard if time - at < limit} | {member.me}
        if heard and not raft.configuration.has_quorum(recent):
            raise Violation(f'{member.me} leads term {raft.term} and hears only {sorted(recent)}')


def _promised(state: HardState, term: int, vote: Member) -> bool:
    return state.term > term or state == (term, vote)


@dataclass
class _Task:
    lease: int
    grace: int
    attempts: int = 0
    token: int = 0         # of the last attempt
    ends: int = 0          # of its lease, cluster time; 0 while there is none
    cancels: bool = False
    finished: bool = False


@dataclass
class _Hold:
    token: int
    lease: int
    delay: int
    ends: int        # cluster time


class State:
    """What the committed entries mean: one holder, growing tokens, leases, fair queues, exactly once."""

    def __init__(self) -> None:
        """Begin with an empty state."""
        self.machine = StateMachine()
        self._digests: list[tuple[Any, Any]] = [(None, None)]
        self._holds: dict[str, _Hold] = {}
        self._closed: dict[str, int] = {}         # until when, cluster time
        self._tokens: dict[str, int] = {}
        self._granted: set[RequestId] = set()
        self._queues: dict[str, list[RequestId]] = {}
        self._waits: dict[RequestId, int] = {}
        self._operations: dict[RequestId, Operation] = {}
        self._acted: set[RequestId] = set()
        self._tasks: dict[str, _Task] = {}
        self.acknowledged: set[str] = set()       # tasks of which a client was told
        self._least_ahead = 0.0
        self._last: tuple[Entry, int] | None = None
        #: When each request did something for the last time, in time of the simulation.
        self.settled: dict[RequestId, int] = {}

    def apply(self, entry: Entry, appended: int, time: int) -> Sequence[Event]:
        """Apply the next committed entry, which its leader appended some time ago; return its events."""
        command = _command(entry)
        if command is not None:
            self._operations.setdefault(command.request, command.operation)
        applied = self.machine.apply(entry)
        for request, _ in applied.answers:
            self.settled[request] = time
        self._check_clock(entry, appended)
        if command is not None and isinstance(command.operation, ReportTasks) and \
                command.request not in self._acted:
            self._acted.add(command.request)   # a copy of it does nothing
            self._renew_attempts(command.operation, self.machine.time)
        for event in applied.events:
            self._check_lock(event, command)
            self._check_task(event, command)
        if applied.events and command is not None:
            self._check_once(command, applied.events)
        for name in {e.subject for e in applied.events if e.type in LOCK_EVENTS}:
            self._queues[name] = self._queue(name)
        for name, hold in self._holds.items():
            if hold.ends < self.machine.time:
                raise Violation(f"lock '{name}' is held {self.machine.time - hold.ends} ns after its lease")
        for id, task in self._tasks.items():
            if task.ends and task.ends + task.grace < self.machine.time:
                raise Violation(f'attempt {task.token} at {id} outlives its lease')
        whole = entry.index % WHOLE == 0
        self._digests.append((part(self.machine), self.machine.digest() if whole else None))
        return applied.events

    def agrees(self, machine: StateMachine) -> bool:
        """Return whether a member has the state that it must have at its index."""
        some, whole = self._digests[machine.applied]
        return some == part(machine) and whole in (None, machine.digest() if whole is not None else None)

    def _check_clock(self, entry: Entry, appended: int) -> None:
        """Check that cluster time goes as clocks do, in a term; between terms it may stand still."""
        ahead = self.machine.time - appended * (1 + MAX_DRIFT)
        self._least_ahead = min(self._least_ahead, ahead) if self._last else ahead
        if ahead > self._least_ahead + ROUNDING:
            raise Violation(f'cluster time ran {(ahead - self._least_ahead) / SECOND:.6f} s ahead by {entry}')
        if self._last and self._last[0].term == entry.term:
            passed = (appended - self._last[1]) * (1 - MAX_DRIFT)
            if entry.elapsed < passed - ROUNDING:
                raise Violation(f'{passed / SECOND:.6f} s passed before {entry}')
        self._last = entry, appended

    def _check_lock(self, event: Event, command: Command | None) -> None:
        name, now = event.subject, event.cluster_time
        hold = self._holds.get(name)
        if event.type == EventType.LOCK_ACQUIRED:
            self._check_grant(event, hold)
        elif event.type == EventType.LOCK_QUEUED:
            assert command is not None and isinstance(command.operation, Acquire)
            self._waits[command.request] = now + command.operation.wait
        elif event.type in (EventType.LOCK_RENEWED, EventType.LOCK_RELEASED, EventType.LOCK_EXPIRED):
            if hold is None or hold.token != event.token:
                raise Violation(f'{event} of a lock that this token does not hold')
            if event.type == EventType.LOCK_RENEWED:
                assert command is not None and isinstance(command.operation, Renew)
                hold.lease = command.operation.lease or hold.lease
                hold.ends = now + hold.lease
            else:
                if event.type == EventType.LOCK_EXPIRED:
                    if now < hold.ends:
                        raise Violation(f'{event} {(hold.ends - now) / SECOND:.6f} s before its lease ends')
                    self._closed[name] = now + hold.delay
                del self._holds[name]

    def _check_grant(self, event: Event, hold: _Hold | None) -> None:
        name, now = event.subject, event.cluster_time
        if hold is not None:
            raise Violation(f'{event} while token {hold.token} holds it')
        if event.token <= self._tokens.get(name, 0):
            raise Violation(f'{event} after token {self._tokens[name]}')
        if now < self._closed.pop(name, 0):
            raise Violation(f'{event} while it is closed')
        claim = self.machine.locks.holder(name)
        assert claim is not None
        if claim.request in self._granted:
            raise Violation(f'request {claim.request} was granted twice')
        if now >= self._waits.get(claim.request, now + 1):
            raise Violation(f'{event} to a waiter whose wait is over')
        still = [r for r in self._queues.get(name, ()) if r in self._queue(name) or r == claim.request]
        if still and still[0] != claim.request:
            raise Violation(f'{event} before {still[0]}, which waited longer')
        operation = self._operations[claim.request]
        assert isinstance(operation, Acquire)
        self._granted.add(claim.request)
        self._tokens[name] = event.token
        # Withdrawn by the entry that granted it, a hold ends at once and without delay.
        ended = claim.deadline == now
        self._holds[name] = _Hold(event.token, operation.lease, 0 if ended else operation.delay,
                                  now if ended else now + operation.lease)

    def _renew_attempts(self, operation: ReportTasks, now: int) -> None:
        for id, token, _, _ in operation.reports:
            task = self._tasks.get(id)
            if task is not None and task.token == token and now < task.ends and not task.cancels:
                task.ends = now + task.lease

    def _check_task(self, event: Event, command: Command | None) -> None:
        """Check that attempts follow one another, are fenced by growing tokens, and end once."""
        id, now, kind = event.subject, event.cluster_time, event.type
        operation = command.operation if command is not None else None
        if kind == EventType.TASK_SUBMITTED:
            assert isinstance(operation, SubmitTask)
            self._tasks[id] = _Task(operation.lease, operation.grace)
        task = self._tasks.get(id)
        if task is None:
            return
        if kind == EventType.TASK_CANCEL_REQUESTED:
            task.cancels = True
        elif kind == EventType.TASK_ASSIGNED:
            if task.finished or task.ends or event.token <= task.token:
                raise Violation(f'{event}, but before: {task}')
            task.attempts, task.token, task.ends = task.attempts + 1, event.token, now + task.lease
        elif kind in (EventType.TASK_RETURNED, EventType.TASK_FINISHED):
            told = isinstance(operation, FinishTask) and operation.task_id == id and \
                operation.token == task.token
            if task.finished or (task.ends and not told and now < task.ends + task.grace):
                raise Violation(f'{event}, but before: {task}')
            if isinstance(operation, FinishTask) and operation.task_id == id and not told and task.ends and \
                    now < task.ends + task.grace:
                raise Violation(f'{event} by token {operation.token}, but before: {task}')
            task.ends, task.finished = 0, kind == EventType.TASK_FINISHED

    def check_tasks_kept(self) -> None:
        """Check that no task is lost of which a client was told."""
        for id in self.acknowledged:
            if self.machine.tasks.get(id) is None:
                raise Violation(f'task {id} was acknowledged and is lost')

    def _check_once(self, command: Command, events: Iterable[Event]) -> None:
        """Check that no request does anything for the second time."""
        operation, types = command.operation, {e.type for e in events}
        acted = (isinstance(operation, Renew) and EventType.LOCK_RENEWED in types) or \
            (isinstance(operation, Release) and EventType.LOCK_RELEASED in types) or \
            (isinstance(operation, Acquire) and EventType.LOCK_QUEUED in types) or \
            (isinstance(operation, SubmitTask) and EventType.TASK_SUBMITTED in types)
        if acted and command.request in self._acted:
            raise Violation(f'{command} was executed twice')
        if acted:
            self._acted.add(command.request)

    def _queue(self, name: str) -> list[RequestId]:
        return [claim.request for claim in self.machine.locks.waiters(name)]


LOCK_EVENTS = frozenset({EventType.LOCK_ACQUIRED, EventType.LOCK_QUEUED, EventType.LOCK_WAIT_ENDED,
                         EventType.LOCK_RELEASED, EventType.LOCK_EXPIRED})


def _command(entry: Entry) -> Command | None:
    return decode(entry.data) if entry.kind == Kind.COMMAND else None


def part(machine: StateMachine) -> Any:
    """Return what is cheap to compare of a state."""
    return machine.time, machine.term, len(machine.locks), len(machine.sessions), len(machine.members)


class Oracle:
    """All that must hold, whatever happens."""

    def __init__(self, timing: Timing) -> None:
        """Know nothing yet."""
        self.consensus = Consensus(timing)
        self.state = State()
        self._views: dict[str, tuple[str, int]] = {}
        self._agreed: dict[tuple[Member, int], int] = {}

    @property
    def log(self) -> list[Entry]:
        """Return all committed entries."""
        return self.consensus.log

    def check(self, member: ClusterMember, run: int, entries: Sequence[Entry], applied: Sequence[Entry],
              time: int) -> list[Event]:
        """Check one member after its step, which appended and applied entries; return what is new."""
        if member.raft is None:
            return []
        events: list[Event] = []
        for entry in self.consensus.check_step(member, run, entries, applied, time):
            events += self.state.apply(entry, self.consensus.appended[entry.index, entry.term], time)
        self._check_state(member, run)
        return events

    def _check_state(self, member: ClusterMember, run: int) -> None:
        applied = member.machine.applied
        if applied != self._agreed.get((member.me, run), 0):
            self._agreed[member.me, run] = applied
            if not self.state.agrees(member.machine):
                raise Violation(f'{member.me} has another state at index {applied} than it must have')

    def view(self, lock: str, client: str, time: int, until: int) -> None:
        """Note that a client believes to hold a lock from `time` on."""
        other, end = self._views.get(lock, (client, 0))
        if other != client and time < end:
            raise Violation(f'{client} and {other} both believe to hold {lock}')
        self._views[lock] = client, until

    def gives_up(self, lock: str, client: str) -> None:
        """Note that a client no longer believes to hold a lock."""
        if self._views.get(lock, ('', 0))[0] == client:
            del self._views[lock]


def configurations(log: Iterable[Entry]) -> list[Configuration]:
    """Return the configurations among some entries."""
    return [Configuration.decode(e.data) for e in log if e.kind == Kind.CONFIGURATION]
