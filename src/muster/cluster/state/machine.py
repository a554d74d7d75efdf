# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The replicated state machine: entries in, answers and events out, the same on every member."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import Entry, Kind
from muster.cluster.state.commands import (
    Abandon,
    Acquire,
    Answer,
    Barrier,
    Code,
    Command,
    decode,
    Invalid,
    Operation,
    Release,
    Renew,
    Withdraw,
)
from muster.cluster.state.events import Event, EventLog, EventType
from muster.cluster.state.locks import (
    Change,
    Claim,
    Full,
    LockRefused,
    LockTable,
    NotFound,
    RequestId,
    WrongToken,
)
from muster.cluster.state.sessions import SessionExpired, Sessions

SECOND = 1_000_000_000
_CODES = {NotFound: Code.NOT_FOUND, WrongToken: Code.WRONG_TOKEN, Full: Code.BUSY}
_EVENTS = {'acquired': EventType.LOCK_ACQUIRED, 'renewed': EventType.LOCK_RENEWED,
           'released': EventType.LOCK_RELEASED, 'expired': EventType.LOCK_EXPIRED,
           'queued': EventType.LOCK_QUEUED, 'wait_ended': EventType.LOCK_WAIT_ENDED}


@dataclass(frozen=True)
class Applied:
    """What one entry did."""

    events: Sequence[Event] = ()
    answers: Sequence[tuple[RequestId, Answer]] = ()


class StateMachine:
    """Cluster time, sessions, locks, members and events."""

    def __init__(self) -> None:
        """Begin empty, at cluster time 0."""
        self.time = 0
        self.applied = 0
        self.term = 0
        self.locks = LockTable()
        self.sessions = Sessions()
        self.events = EventLog()
        self._configuration = Configuration()

    def apply(self, entry: Entry) -> Applied:
        """Apply the next committed entry."""
        assert entry.index == self.applied + 1, 'entries are applied in order, each once'
        self.applied, self.term = entry.index, entry.term
        self.time += entry.elapsed
        self.sessions.expire(self.time)
        changes = self.locks.expire(self.time, entry.index)
        answers: list[tuple[RequestId, Answer]] = []
        if entry.kind == Kind.COMMAND:
            answers += self._execute(entry, changes)
        answers += [(c.claim.request, self._wait_over(c.claim))
                    for c in changes if c.what == 'wait_ended']
        answers += [(c.claim.request, self._granted(c.claim))
                    for c in changes if c.what == 'acquired']
        events = [self._event(entry, _EVENTS[c.what], c.claim.name, c.claim) for c in changes]
        if entry.kind == Kind.NOOP:
            events.append(self._event(entry, EventType.LEADER_ELECTED, entry.data.decode()))
        elif entry.kind == Kind.CONFIGURATION:
            events += self._reconfigure(entry)
        events = [event._replace(ordinal=ordinal) for ordinal, event in enumerate(events)]
        self.events.extend(events)
        return Applied(events, answers)

    def clock_interval(self) -> int | None:
        """
        Return how soon after the last entry another must follow, None where nothing waits.

        Cluster time stands still between entries; while a lease runs, it must not.
        """
        lease = self.locks.shortest_lease()
        deadline = self.locks.next_deadline()
        if lease is None or deadline is None:
            return None
        return max(0, min(SECOND, lease // 4, deadline - self.time))

    def _execute(self, entry: Entry, changes: list[Change]) -> list[tuple[RequestId, Answer]]:
        """Execute a command once; `changes` grows by what it does to locks."""
        try:
            command = decode(entry.data)
        except Invalid:
            return []  # of a newer version: nobody here waits for its answer
        try:
            answer = self.sessions.find(*command.request, self.time)
        except SessionExpired as error:
            return [(command.request, Answer(Code.SESSION_EXPIRED, str(error)))]
        operation = command.operation
        if answer is None and isinstance(operation, Acquire) and \
                self.locks.claim_of(operation.name, command.request):
            answer = Answer(Code.QUEUED)  # a hold or wait may outlive the session that asked for it
            self.sessions.answered(*command.request, answer)
        if answer is not None:
            return [(command.request, self._repeat(command, answer))]
        if not isinstance(operation, Acquire | Renew | Release | Withdraw | Barrier | Abandon):
            return [(command.request, Answer(Code.INVALID, 'not served by this version: update this member'))]
        try:
            done = self._operate(command, entry.index)
            changes += done
            answer = self._answer(command, done)
        except LockRefused as error:
            answer = Answer(_CODES[type(error)], str(error))
        self.sessions.answered(*command.request, answer)
        return [(command.request, answer)]

    def _operate(self, command: Command, index: int) -> list[Change]:
        operation: Operation = command.operation
        if isinstance(operation, Acquire):
            claim = Claim(operation.name, operation.owner, command.member, command.run,
                          command.request, operation.lease, 0)
            return self.locks.acquire(claim, operation.wait, self.time, index)
        if isinstance(operation, Renew):
            return self.locks.renew(operation.name, operation.token, operation.lease, self.time)
        if isinstance(operation, Release):
            return self.locks.release(operation.name, operation.token, self.time, index)
        if isinstance(operation, Abandon):
            return self.locks.abandon(command.member, command.run)
        if isinstance(operation, Barrier):
            return []
        assert isinstance(operation, Withdraw)
        return self.locks.withdraw(operation.name, (operation.session, operation.sequence),
                                   self.time, index)

    def _answer(self, command: Command, done: list[Change]) -> Answer:
        operation = command.operation
        if isinstance(operation, Acquire):
            if not done:
                return self._held(operation.name)
            if done[0].what == 'queued':
                return Answer(Code.QUEUED)
            return self._granted(done[0].claim)
        if isinstance(operation, Renew):
            return self._granted(done[0].claim)
        return Answer(Code.OK)

    def _repeat(self, command: Command, first: Answer) -> Answer:
        """Answer a retry: as before, but what is left of a hold or wait is as it is now."""
        operation = command.operation
        if not isinstance(operation, Acquire) or first.code not in (Code.OK, Code.QUEUED):
            return first
        claim = self.locks.serve(operation.name, command.request, command.member, command.run)
        if claim is None:
            return Answer(Code.NOT_FOUND, f"this request for lock '{operation.name}' was served "
                          'before, and its hold or wait has ended since')
        return self._granted(claim) if claim.token else Answer(Code.QUEUED)

    def _granted(self, claim: Claim) -> Answer:
        return Answer(Code.OK, '', claim.token, claim.deadline - self.time, claim.owner)

    def _held(self, name: str) -> Answer:
        holder = self.locks.holder(name)
        assert holder is not None
        left = (holder.deadline - self.time) / SECOND
        return Answer(Code.HELD, f"lock '{name}' is held by '{holder.owner}' for another "
                      f'{left:.1f} s at most', holder=holder.owner)

    def _wait_over(self, claim: Claim) -> Answer:
        holder = self.locks.holder(claim.name)
        return replace(self._held(claim.name), message=f"the wait for lock '{claim.name}' is over") \
            if holder else Answer(Code.HELD, f"the wait for lock '{claim.name}' is over")

    def _event(self, entry: Entry, kind: EventType, subject: str, claim: Claim | None = None) -> Event:
        event = Event(entry.index, 0, kind, entry.term, self.time, subject)
        if claim is None:
            return event
        return event._replace(member=claim.member, owner=claim.owner, token=claim.token)

    def _reconfigure(self, entry: Entry) -> list[Event]:
        old, new = self._configuration, Configuration.decode(entry.data)
        self._configuration = new
        groups = ((EventType.MEMBER_ADDED, new.members - old.members),
                  (EventType.MEMBER_PROMOTED, new.voters - old.voters),
                  (EventType.MEMBER_REMOVED, old.members - new.members))
        return [self._event(entry, kind, member.id)
                for kind, group in groups for member in sorted(group)]
