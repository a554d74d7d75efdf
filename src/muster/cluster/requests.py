# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the clients of one member have asked for and were not answered yet, without I/O."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from muster.cluster.raft.types import Member
from muster.cluster.state.commands import Acquire, Answer, Code, Command, Operation
from muster.cluster.state.locks import RequestId
from muster.cluster.state.sessions import MEMBER_PREFIX

#: Requests of clients in flight at one member; less than the window of a session.
MAX_PENDING = 512
#: Bytes of commands in one Forward.
MAX_FORWARD_BYTES = 32 * 1024
#: A leader as a request's destination: who, and in which term.
Leader = tuple[Member | None, int]

_UNKNOWN = Answer(Code.OUTCOME_UNKNOWN, 'not confirmed in time: it may still take effect; repeat it with '
                  'the same request_id')
_NO_QUORUM = Answer(Code.NO_QUORUM, 'no leader is known, too few members of the cluster can be reached; '
                    'nothing was changed')


@dataclass(slots=True)
class Pending:
    """A command whose answer is outstanding."""

    request: RequestId
    command: bytes
    deadline: int
    tickets: list[int]
    wait: int = 0
    proposed: bool = False    # it left this member, so it may take effect
    repeated: bool = False    # more than once
    queued: bool = False      # it was applied and waits for its lock
    sent_at: int = 0
    sent_to: Leader = (None, -1)


@dataclass(slots=True)
class PendingRead:
    """A linearizable read that is not answered yet."""

    ticket: int
    deadline: int
    index: int = 0            # what must be applied before it is answered; 0 while unknown
    sent_at: int = 0
    sent_to: Leader = (None, -1)


class Requests:
    """The outstanding commands and reads, and the answers that are ready."""

    def __init__(self, me: Member, retry: int, generator: Random) -> None:
        """Begin empty; what the leader does not confirm for `retry` nanoseconds is sent again."""
        self.commands: dict[RequestId, Pending] = {}
        self.reads: dict[int, PendingRead] = {}
        self.answers: list[tuple[int, Answer]] = []
        self.expire_at = 0
        self.run = generator.getrandbits(63)
        self._me, self._retry = me, retry
        self._session = f'{MEMBER_PREFIX}{me.id}/{self.run:016x}'
        self._sequence = 0
        # Answers to reads of an earlier run of this member may still be under way.
        self._ticket = generator.getrandbits(32) << 30

    def __len__(self) -> int:
        """Return how many are outstanding."""
        return len(self.commands) + len(self.reads)

    @property
    def under_way(self) -> bool:
        """Return whether more is outstanding than what waits for a lock to become free."""
        return bool(self.reads) or any(not pending.queued for pending in self.commands.values())

    def add(self, operation: Operation, request: RequestId | None, patience: int,
            now: int) -> tuple[int, Pending | None]:
        """Take in a command; return its ticket, and what is to be sent unless it is under way or refused."""
        ticket = self.new_ticket()
        if request is None:
            self._sequence += 1
            request = self._session, self._sequence
        elif request in self.commands:
            self.commands[request].tickets.append(ticket)
            return ticket, None
        if self._full(ticket):
            return ticket, None
        wait = operation.wait if isinstance(operation, Acquire) else 0
        command = Command(operation, request, self._me.id, self.run).encode()
        pending = Pending(request, command, now + patience, [ticket], wait)
        self._watch(now)
        self.commands[request] = pending
        return ticket, pending

    def add_read(self, patience: int, now: int) -> tuple[int, PendingRead | None]:
        """Take in a read; return its ticket, and the read unless it is refused."""
        ticket = self.new_ticket()
        if self._full(ticket):
            return ticket, None
        read = PendingRead(ticket, now + patience)
        self._watch(now)
        self.reads[ticket] = read
        return ticket, read

    def new_ticket(self) -> int:
        """Return a number that no other request of this run has."""
        self._ticket += 1
        return self._ticket

    def _full(self, ticket: int) -> bool:
        if len(self.commands) + len(self.reads) < MAX_PENDING:
            return False
        self.answers.append((ticket, Answer(
            Code.BUSY, f'{MAX_PENDING} requests are in flight here already: try again')))
        return True

    def _watch(self, now: int) -> None:
        """Begin to look at deadlines where nothing was outstanding."""
        if not self.commands and not self.reads:
            self.expire_at = now + self._retry

    def due(self, candidates: Iterable[Pending], target: Leader, now: int) -> list[Pending]:
        """Return the commands that have not reached the leader `target`, for all this member knows."""
        # After its deadline a copy could be executed when the session that would notice is over.
        return [pending for pending in candidates if not pending.queued and now < pending.deadline
                and self._again(pending, target, now)]

    def due_reads(self, candidates: Iterable[PendingRead], target: Leader, now: int) -> list[PendingRead]:
        """Return the reads that are to be asked for at the leader `target`, and note that they are."""
        due = [r for r in candidates if not r.index and self._again(r, target, now)]
        for read in due:
            read.sent_to, read.sent_at = target, now
        return due

    def _again(self, item: Pending | PendingRead, target: Leader, now: int) -> bool:
        return item.sent_to != target or (target[0] != self._me and now - item.sent_at >= self._retry)

    def applied(self, request: RequestId, answer: Answer) -> None:
        """Learn what became of a command."""
        pending = self.commands.get(request)
        if pending is None:
            return  # of a client of another member
        if answer.code == Code.SESSION_EXPIRED and pending.repeated:
            self._finish(pending, _UNKNOWN)  # an earlier copy may have been executed while the session lived
        elif answer.code != Code.QUEUED:
            self._finish(pending, answer)
        elif not pending.queued:
            # From here on cluster time decides when the wait is over.
            pending.queued = True
            pending.deadline += pending.wait
            pending.wait = 0

    def read_at(self, tickets: Iterable[int], index: int, applied: int) -> None:
        """Learn how far must be applied before these reads are answered."""
        for ticket in tickets:
            if ticket in self.reads:
                self.reads[ticket].index = index
        self.answer_reads(applied)

    def answer_reads(self, applied: int) -> None:
        """Answer the reads for which enough is applied."""
        if not self.reads:
            return
        for ticket in [r.ticket for r in self.reads.values() if 0 < r.index <= applied]:
            del self.reads[ticket]
            self.answers.append((ticket, Answer(Code.OK)))

    def overtaken(self, outcome_of: Callable[[bytes], Answer]) -> None:
        """
        Learn what became of the commands that wait for locks: a snapshot has replaced the state.

        Their answers may have been in between. They are not sent again: a session that was not used while
        they waited, for up to an hour, may have expired, and they would be executed twice.
        """
        for pending in [p for p in self.commands.values() if p.queued]:
            answer = outcome_of(pending.command)
            if answer.code != Code.QUEUED:
                self._finish(pending, answer)

    def expire(self, now: int) -> None:
        """Answer what was not confirmed in time."""
        for pending in [p for p in self.commands.values() if now >= p.deadline]:
            self._finish(pending, _UNKNOWN if pending.proposed else _NO_QUORUM)
        for ticket in [r.ticket for r in self.reads.values() if now >= r.deadline]:
            del self.reads[ticket]
            self.answers.append((ticket, _NO_QUORUM))
        deadlines = [item.deadline for group in (self.commands, self.reads) for item in group.values()]
        self.expire_at = min([now + self._retry, *deadlines])

    def _finish(self, pending: Pending, answer: Answer) -> None:
        del self.commands[pending.request]
        for ticket in pending.tickets:
            self.answers.append((ticket, answer))

    def take_answers(self) -> list[tuple[int, Answer]]:
        """Return what is answered, once."""
        answers, self.answers = self.answers, []
        return answers


def batches(commands: list[bytes]) -> list[tuple[bytes, ...]]:
    """Split commands into messages of a bounded size."""
    found: list[list[bytes]] = []
    room = 0
    for command in commands:
        if len(command) > room:
            found.append([])
            room = MAX_FORWARD_BYTES
        found[-1].append(command)
        room -= len(command) + 8
    return [tuple(batch) for batch in found]
