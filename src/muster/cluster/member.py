# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
One member of the cluster, whole, without I/O: bootstrap, consensus, state and its clients' requests.

Packets, requests and time go in; `take_effects` hands out what the shell must do. The contract of
`raft.core` holds for it: `packets` at once, `record` durable before `packets_when_durable`.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from muster.cluster.bootstrap import Ask, Bootstrap, Found, Heard
from muster.cluster.protocol import Body, EVERYBODY, Forward, Hello, Join, JoinRefused, Packet
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import Raft, Timing
from muster.cluster.raft.membership import admitted, next_voters
from muster.cluster.raft.types import (
    Append,
    BLANK,
    Entry,
    HardState,
    Kind,
    Member,
    Refused,
    Role,
    VoteRequest,
)
from muster.cluster.state.commands import (
    Abandon,
    Acquire,
    Answer,
    Code,
    Command,
    decode,
    Invalid,
    Operation,
)
from muster.cluster.state.events import Event
from muster.cluster.state.locks import RequestId
from muster.cluster.state.machine import StateMachine
from muster.cluster.state.sessions import MEMBER_PREFIX

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND
#: Requests of clients in flight at one member; less than the window of a session.
MAX_PENDING = 512
#: Entries that a leader has appended and not yet committed; beyond it new commands wait.
MAX_UNCOMMITTED = 4096
#: Bytes of commands in one Forward.
MAX_FORWARD_BYTES = 32 * 1024
#: A learner that lacks no more entries than this has caught up.
CAUGHT_UP = 64
#: How often a member without a cluster says Hello, and one with a cluster.
HELLO_WAITING, HELLO_SETTLED = 200 * MILLISECOND, SECOND
#: How long a restarted member tries to end the waits that its earlier run served.
ABANDON_PATIENCE = 3600 * SECOND
#: How long a problem is reported after it was last seen.
PROBLEM_LIFETIME = 5 * SECOND
MAX_HEARD = 1000


@dataclass
class Record:
    """What must become durable, in this order."""

    cluster_id: str = ''             # the member belongs to this cluster from now on
    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Return whether there is anything to write."""
        return bool(self.cluster_id or self.hard_state or self.entries)


@dataclass
class Effects:
    """What the shell has to do."""

    packets: list[Packet] = field(default_factory=list)
    record: Record = field(default_factory=Record)
    packets_when_durable: list[Packet] = field(default_factory=list)
    answers: list[tuple[int, Answer]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


@dataclass
class _Pending:
    """A request whose answer is outstanding."""

    command: bytes
    deadline: int
    tickets: list[int]
    wait: int = 0
    proposed: int = 0         # how often it left this member
    queued: bool = False      # it was applied and waits for its lock
    sent_at: int = 0
    sent_to: tuple[Member | None, int] = (None, -1)   # leader and term


class ClusterMember:
    """The functional core of the cluster node."""

    def __init__(self, me: Member, cluster_id: str, bootstrap: str, listed: tuple[str, ...],
                 timing: Timing, generator: Random, now: int,
                 hard_state: HardState = BLANK, entries: tuple[Entry, ...] = ()) -> None:
        """Begin from what the data directory holds; `cluster_id` is empty for an empty one."""
        self.me, self.cluster_id = me, cluster_id
        self.machine = StateMachine()
        self.raft: Raft | None = None
        self._timing, self._random = timing, generator
        self._bootstrap = Bootstrap(me, bootstrap, listed, now)
        self._heard: dict[str, Heard] = {}
        self._pending: dict[RequestId, _Pending] = {}
        self._unsent: list[_Pending] = []          # taken in since the last effects were taken
        self._unsent_at = now
        self._run = generator.getrandbits(63)
        self._session = f'{MEMBER_PREFIX}{me.id}/{self._run:016x}'
        self._sequence = self._ticket = 0
        self._problems: dict[str, tuple[str, int]] = {}
        self._hello_at = now
        self._expire_at = 0
        self._effects = Effects()
        if cluster_id:
            self.raft = Raft(me, timing, generator, now, hard_state, entries)
            self.submit(Abandon(), None, ABANDON_PATIENCE, now)

    # What it tells -----------------------------------------------------------------------------
    @property
    def leader(self) -> str:
        """Return the id of the leader it knows, empty where none."""
        return self.raft.leader.id if self.raft and self.raft.leader else ''

    @property
    def leads(self) -> bool:
        """Return whether this member leads."""
        return self.raft is not None and self.raft.role == Role.LEADER

    @property
    def pending(self) -> int:
        """Return how many requests are outstanding."""
        return len(self._pending)

    def problems(self, now: int) -> list[str]:
        """Return what an operator must look at, in words."""
        self._problems = {k: v for k, v in self._problems.items() if now - v[1] < PROBLEM_LIFETIME}
        return [text for text, _ in self._problems.values()]

    def reachable(self, member: Member, now: int) -> bool:
        """Return whether a message from a member came within the last election time-out."""
        if member == self.me:
            return True
        window = max(self._timing.election_max, 2 * HELLO_SETTLED)
        heard = self._heard.get(member.id)
        return heard is not None and heard.member == member and now - heard.at < window

    def next_deadline(self) -> int:
        """Return when `advance` must be called at the latest."""
        due = [self._hello_at]
        if self.raft:
            due.append(self.raft.next_deadline())
            clock = self._clock_due()
            if clock is not None:
                due.append(clock)
        if self._pending:
            due.append(self._expire_at)
        return min(due)

    def take_effects(self) -> Effects:
        """Return what is to be done, once; requests that came since the last time go together."""
        if self._unsent:
            self._send_pending(self._unsent, self._unsent_at)
            self._unsent.clear()
        self._carry_out_raft()
        effects, self._effects = self._effects, Effects()
        return effects

    # Requests of clients -----------------------------------------------------------------------
    def submit(self, operation: Operation, request: RequestId | None, patience: int, now: int) -> int:
        """
        Take in a request and return its ticket; the answer comes among the effects.

        `patience` is how long, in nanoseconds, a confirmation is waited for before the answer is
        NO_QUORUM (it never left this member) or OUTCOME_UNKNOWN. The operation is checked already.
        """
        self._ticket += 1
        if request is None:
            self._sequence += 1
            request = self._session, self._sequence
        pending = self._pending.get(request)
        if pending is None and len(self._pending) >= MAX_PENDING:
            self._effects.answers.append((self._ticket, Answer(
                Code.BUSY, f'{MAX_PENDING} requests are in flight here already: try again')))
        elif pending is None:
            wait = operation.wait if isinstance(operation, Acquire) else 0
            command = Command(operation, request, self.me.id, self._run).encode()
            pending = self._pending[request] = _Pending(command, now + patience, [self._ticket], wait)
            if len(self._pending) == 1:
                self._expire_at = now + self._timing.election_max
            self._unsent.append(pending)
            self._unsent_at = now
        else:
            pending.tickets.append(self._ticket)
        return self._ticket

    def _send_pending(self, requests: Iterable[_Pending], now: int) -> None:
        """Propose or forward those requests that have not reached the present leader yet."""
        if self.raft is None or self.raft.leader is None:
            return
        target = (self.raft.leader, self.raft.term)
        batch: list[bytes] = []
        for pending in requests:
            again = pending.sent_to != target or \
                (not self.leads and now - pending.sent_at >= self._timing.election_max)
            # After its deadline a copy could be executed when the session that would notice is over.
            if pending.queued or not again or now >= pending.deadline:
                continue
            if self.leads:
                if not self._propose(pending.command, now):
                    break
            else:
                batch.append(pending.command)
            pending.proposed += 1
            pending.sent_to, pending.sent_at = target, now
        for commands in _batches(batch):
            self._send(self.raft.leader, Forward(commands))

    def _propose(self, command: bytes, now: int) -> bool:
        raft = self.raft
        assert raft is not None
        if raft.log.last_index - raft.commit >= MAX_UNCOMMITTED:
            return False
        try:
            raft.propose(Kind.COMMAND, command, now)
        except Refused:
            return False
        return True

    def _expire_pending(self, now: int) -> None:
        for request, pending in list(self._pending.items()):
            if now >= pending.deadline:
                self._finish(request, Answer(
                    Code.OUTCOME_UNKNOWN, 'not confirmed in time: it may still take effect; '
                    'repeat it with the same request_id') if pending.proposed else Answer(
                    Code.NO_QUORUM, 'no leader is known, too few members of the cluster can be '
                    'reached; nothing was changed'))
        retry = now + self._timing.election_max
        self._expire_at = min([retry, *(p.deadline for p in self._pending.values())])

    def _finish(self, request: RequestId, answer: Answer) -> None:
        pending = self._pending.pop(request, None)
        if pending is not None:
            self._effects.answers += [(ticket, answer) for ticket in pending.tickets]

    # Time --------------------------------------------------------------------------------------
    def advance(self, now: int) -> None:
        """Do what is due at `now`."""
        if now >= self._hello_at:
            self._say_hello(now)
        if self.raft is not None:
            before = self.raft.leader, self.raft.term
            self.raft.advance(now)
            self._greet_leader(before, now)
            clock = self._clock_due()
            if clock is not None and now >= clock:
                self.raft.propose(Kind.CLOCK, b'', now)
        if self._pending and now >= self._expire_at:
            self._send_pending(self._pending.values(), now)
            self._expire_pending(now)

    def _clock_due(self) -> int | None:
        """When the leader must append an entry so that cluster time goes on (while leases run)."""
        raft = self.raft
        if raft is None or not self.leads or raft.commit < raft.log.last_index \
                or self.machine.applied < raft.commit or raft.transferring:
            return None
        interval = self.machine.clock_interval()
        return None if interval is None else raft.last_stamped + interval

    def _say_hello(self, now: int) -> None:
        base = HELLO_SETTLED if self.raft else HELLO_WAITING
        self._hello_at = now + base - self._random.randint(0, base // 5)
        hello = Hello((), False, self.leader) if self.raft else self._bootstrap.hello
        self._send(EVERYBODY, hello)
        if self.raft is None:
            self._look_for_cluster(now)
        elif self.raft.leader is None:
            # The entry that took this member in may have been lost with its leader.
            self._ask(self.cluster_id, (h.member for h in self._heard.values()
                                        if h.cluster_id == self.cluster_id))
        else:
            self._tend_membership(now)

    # Bootstrap ---------------------------------------------------------------------------------
    def _look_for_cluster(self, now: int) -> None:
        decision = self._bootstrap.decide(self._heard, now)
        if isinstance(decision, Found):
            self._found(decision.voters, now)
        elif isinstance(decision, Ask):
            self._ask(decision.cluster_id, decision.members)

    def _ask(self, cluster_id: str, members: Iterable[Member]) -> None:
        """Ask to be taken in; only the leader answers, and ignores whom it has already."""
        self._effects.packets += [Packet(cluster_id, self.me, member, Join()) for member in members]

    def _found(self, voters: frozenset[Member], now: int) -> None:
        """Found a cluster: its first entry, in term 1, says who votes."""
        cluster_id = f'{self._random.getrandbits(64):016x}'
        first = Entry(1, 1, 0, Kind.CONFIGURATION, Configuration(voters).encode())
        self._adopt(cluster_id, now, HardState(1, None), (first,))

    def _adopt(self, cluster_id: str, now: int, hard_state: HardState = BLANK,
               entries: tuple[Entry, ...] = ()) -> None:
        """Belong to a cluster from now on."""
        self.cluster_id = cluster_id
        self.raft = Raft(self.me, self._timing, self._random, now, hard_state, entries)
        record = self._effects.record
        record.cluster_id, record.entries = cluster_id, list(entries)
        record.hard_state = hard_state if entries else None

    # Messages ----------------------------------------------------------------------------------
    def receive(self, packet: Packet, now: int) -> None:
        """Take in a packet from the network; what is not for this member is dropped."""
        sender, body = packet.sender, packet.body
        if sender.id == self.me.id:
            if sender != self.me:
                self._report('twin', f"another live member calls itself '{self.me.id}' too (incarnations "
                             f'{self.me.incarnation:x} and {sender.incarnation:x}): rename one robot', now)
            return
        if isinstance(body, Hello):
            self._on_hello(packet, body, now)
        elif packet.receiver != self.me:
            return  # meant for an earlier incarnation of this robot
        elif isinstance(body, JoinRefused):
            self._report('refused', body.reason, now)
        elif self.raft is None:
            if isinstance(body, Append | VoteRequest):
                # Whoever knows this incarnation learnt it from this member while it was empty,
                # so no vote or entry that it could have forgotten was ever given under it.
                self._adopt(packet.cluster_id, now)
                self._on_cluster_message(packet, now)
        elif packet.cluster_id != self.cluster_id:
            self._report_other_cluster(sender, packet.cluster_id, now)
        else:
            self._on_cluster_message(packet, now)

    def _on_hello(self, packet: Packet, hello: Hello, now: int) -> None:
        sender = packet.sender
        known = self._heard.get(sender.id)
        if known and known.member != sender and now - known.at < HELLO_WAITING:
            self._report(f'twin {sender.id}', f"two live members call themselves '{sender.id}': "
                         'rename one robot', now)
        if known or len(self._heard) < MAX_HEARD:
            self._heard[sender.id] = Heard(sender, packet.cluster_id, hello, now)
        if self.cluster_id and packet.cluster_id and packet.cluster_id != self.cluster_id:
            self._report_other_cluster(sender, packet.cluster_id, now)

    def _on_cluster_message(self, packet: Packet, now: int) -> None:
        raft, sender, body = self.raft, packet.sender, packet.body
        assert raft is not None
        if isinstance(body, Join):
            self._on_join(sender, now)
        elif isinstance(body, Forward):
            if self.leads and sender in raft.configuration.members:
                for command in body.commands:
                    if _well_formed(command) and not self._propose(command, now):
                        return
        elif not isinstance(body, Hello | JoinRefused):
            before = raft.leader, raft.term
            raft.step(sender, body, now)
            self._greet_leader(before, now)

    def _greet_leader(self, before: tuple[Member | None, int], now: int) -> None:
        """Send what is outstanding to a leader as soon as it is known."""
        assert self.raft is not None
        if (self.raft.leader, self.raft.term) != before:
            self._send_pending(self._pending.values(), now)

    def _report(self, key: str, text: str, now: int) -> None:
        self._problems[key] = text, now

    def _report_other_cluster(self, sender: Member, other: str, now: int) -> None:
        self._report('other cluster', f"'{sender.id}' belongs to another cluster of this name "
                     f'({other}, this one is {self.cluster_id}): give one of them another `cluster` '
                     'name, or stop its members, remove their data directories and let them join', now)

    # Membership --------------------------------------------------------------------------------
    def _on_join(self, newcomer: Member, now: int) -> None:
        """Take a newcomer in as a learner, unless its id is in use."""
        raft = self.raft
        if raft is None or not self.leads:
            return
        learners = admitted(raft.configuration, newcomer)
        if learners is None:
            return
        since = now - 2 * self._timing.election_max
        if any(m.id == newcomer.id and p.heard >= since for m, p in raft.progress.items()):
            reason = f"the id '{newcomer.id}' is in use by a live member: rename one robot"
            self._report(f'twin {newcomer.id}', reason, now)
            self._send(newcomer, JoinRefused(reason))
            return
        self._change(raft.configuration.voters, learners, now)

    def _tend_membership(self, now: int) -> None:
        """Promote learners that have caught up, where the policy wants them."""
        raft = self.raft
        if raft is None or not self.leads or not raft.configuration.learners:
            return
        since = now - 2 * self._timing.election_max
        caught_up = frozenset(m for m, p in raft.progress.items()
                              if p.heard >= since and p.match + CAUGHT_UP >= raft.commit)
        voters = next_voters(raft.configuration, caught_up)
        if voters is not None:
            self._change(voters, raft.configuration.learners, now)

    def _change(self, voters: frozenset[Member], learners: frozenset[Member], now: int) -> None:
        assert self.raft is not None
        try:
            self.raft.change_configuration(voters, learners, now)
        except Refused:
            return  # the newcomer asks again, and the policy looks again

    def hand_over(self) -> None:
        """Give leadership to another voter, before this member stops."""
        if self.raft:
            self.raft.transfer_leadership()

    # Effects -----------------------------------------------------------------------------------
    def persisted(self, entry: Entry, now: int) -> None:
        """Learn that the log is durable up to this entry."""
        if self.raft:
            self.raft.persisted(entry, now)

    def _send(self, to: Member, body: Body) -> None:
        self._effects.packets.append(Packet(self.cluster_id, self.me, to, body))

    def _carry_out_raft(self) -> None:
        if self.raft is None:
            return
        output = self.raft.take_output()
        effects = self._effects
        for source, packets in ((output.messages, effects.packets),
                                (output.messages_when_durable, effects.packets_when_durable)):
            packets += [Packet(self.cluster_id, self.me, e.to, e.message) for e in source]
        effects.record.hard_state = output.hard_state or effects.record.hard_state
        effects.record.entries += output.entries
        for entry in output.committed:
            self._apply(entry)

    def _apply(self, entry: Entry) -> None:
        applied = self.machine.apply(entry)
        self._effects.events += applied.events
        for request, answer in applied.answers:
            pending = self._pending.get(request)
            if pending is None:
                continue
            if answer.code != Code.QUEUED:
                self._finish(request, answer)
            elif not pending.queued:
                # From here on cluster time decides when the wait is over.
                pending.queued = True
                pending.deadline += pending.wait


def _batches(commands: list[bytes]) -> list[tuple[bytes, ...]]:
    """Split commands into messages of a bounded size."""
    batches: list[list[bytes]] = []
    room = 0
    for command in commands:
        if len(command) > room:
            batches.append([])
            room = MAX_FORWARD_BYTES
        batches[-1].append(command)
        room -= len(command) + 8
    return [tuple(batch) for batch in batches]


def _well_formed(command: bytes) -> bool:
    try:
        decode(command)
    except Invalid:
        return False
    return True
