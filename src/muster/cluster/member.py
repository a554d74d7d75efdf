# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
One member of the cluster, whole, without I/O: bootstrap, consensus, state and its clients' requests.

Packets, requests and time go in; `take_effects` hands out what the shell must do. The contract of
`raft.core` holds for it: `packets` at once, `record` durable before `packets_when_durable`.
"""
from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import cast

from muster.cluster.bootstrap import Ask, Bootstrap, Found, Heard
from muster.cluster.caretaker import Care, Caretaker, with_voters
from muster.cluster.protocol import (
    Body,
    EVERYBODY,
    Forward,
    Hello,
    Join,
    JoinRefused,
    Packet,
    Read,
    ReadAt,
    Remove,
    Transfer,
)
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import Raft, Timing
from muster.cluster.raft.membership import admitted
from muster.cluster.raft.types import (
    Append,
    AppendReply,
    BLANK,
    Entry,
    HardState,
    Kind,
    Member,
    Message,
    Refused,
    Role,
    Snapshot,
    SnapshotChunk,
    VoteRequest,
)
from muster.cluster.requests import batches, Pending, PendingRead, Requests
from muster.cluster.state.commands import (
    Abandon,
    Answer,
    Code,
    Command,
    decode,
    Health,
    Invalid,
    Operation,
)
from muster.cluster.state.events import Event, EventType
from muster.cluster.state.locks import RequestId
from muster.cluster.state.machine import StateMachine
from muster.cluster.wishes import grant, Wishes

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND
#: Entries that a leader has appended and not yet committed; beyond it new commands wait.
MAX_UNCOMMITTED = 4096
#: How often a member without a cluster says Hello, and one with a cluster.
HELLO_WAITING, HELLO_SETTLED = 200 * MILLISECOND, SECOND
#: How long a restarted member tries to end the waits that its earlier run served.
ABANDON_PATIENCE = 3600 * SECOND
#: How long a problem is reported after it was last seen.
PROBLEM_LIFETIME = 5 * SECOND
MAX_HEARD = 1000
#: Ordinal of a GAP: behind every event of its revision.
LAST_ORDINAL = 2**32 - 1


@dataclass(frozen=True)
class Policy:
    """How a member looks after its cluster and its log."""

    care: Care = field(default_factory=Care)
    compact_after: int = 20_000           # entries between two snapshots
    compact_bytes: int = 16 << 20         # or bytes of commands


@dataclass
class Record:
    """What must become durable: a snapshot with the log behind it first, then the rest in this order."""

    cluster_id: str = ''             # the member belongs to this cluster from now on
    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)
    snapshot: Snapshot | None = None
    tail: list[Entry] = field(default_factory=list)   # the log behind the snapshot

    def __bool__(self) -> bool:
        """Return whether there is anything to write."""
        return bool(self.entries or self.hard_state or self.cluster_id or self.snapshot)


@dataclass
class Effects:
    """What the shell has to do."""

    packets: list[Packet] = field(default_factory=list)
    record: Record = field(default_factory=Record)
    packets_when_durable: list[Packet] = field(default_factory=list)
    answers: list[tuple[int, Answer]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class ClusterMember:
    """The functional core of the cluster node."""

    def __init__(self, me: Member, cluster_id: str, bootstrap: str, listed: tuple[str, ...],
                 timing: Timing, generator: Random, now: int,
                 hard_state: HardState = BLANK, entries: tuple[Entry, ...] = (),
                 snapshot: Snapshot | None = None, policy: Policy = Policy()) -> None:
        """
        Begin from what the data directory holds; `cluster_id` is empty for an empty one.

        Raise Invalid where the snapshot is of a version that is not known here.
        """
        self.me, self.cluster_id = me, cluster_id
        self.machine = StateMachine.restored(snapshot.data) if snapshot else StateMachine()
        self.raft: Raft | None = None
        self.disk_problem = ''
        self._timing, self._random, self._policy = timing, generator, policy
        self._bootstrap = Bootstrap(me, bootstrap, listed, now)
        self._heard: dict[str, Heard] = {}
        self._requests = Requests(me, timing.election_max, generator)
        self._unsent: list[Pending] = []           # taken in since the last effects were taken
        self._unsent_reads: list[PendingRead] = []
        self._now = now
        self._wishes = Wishes(timing.election_max)
        self._problems: dict[str, tuple[str, int]] = {}
        self._hello_at = now
        self._greeted_at = now - HELLO_SETTLED     # when it last answered somebody who looks for a cluster
        self._caretaker: Caretaker | None = None   # while it leads
        self._orphaned: list[Operation] = []       # to be announced again when this member counts as alive
        self._bytes = 0                            # of commands since the last snapshot
        # What was decoded before it was proposed, to be applied: no more than is not committed.
        self._decoded: dict[bytes, Command] = {}
        self._clock: tuple[int, int | None] = (-1, None)   # the clock interval as of an applied index
        # Events of the log that is on disk may have been told by an earlier run.
        first = snapshot.index + 1 if snapshot else 1
        self._gap = (first, first + len(entries) - 1)
        self._effects = Effects()
        if cluster_id:
            self.raft = Raft(me, timing, generator, now, hard_state, entries, snapshot)
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
        return len(self._requests)

    @property
    def expectant(self) -> bool:
        """Return whether others wait for what is to come next: an acknowledgement, or a commitment."""
        return self._requests.under_way or (self.raft is not None and self.raft.commits)

    def problems(self, now: int) -> list[str]:
        """Return what an operator must look at, in words."""
        self._problems = {k: v for k, v in self._problems.items() if now - v[1] < PROBLEM_LIFETIME}
        disk = [f'the log cannot be written ({self.disk_problem}): this member takes nothing in until '
                'it can'] if self.disk_problem else []
        return disk + [text for text, _ in self._problems.values()]

    def reachable(self, member: Member, now: int) -> bool:
        """Return whether this member has heard of another lately; of a learner the leader knows."""
        if member == self.me:
            return True
        heard = self._heard.get(member.id)
        window = max(self._timing.election_max, 2 * HELLO_SETTLED)
        if heard is not None and heard.member == member and now - heard.at < window:
            return True
        known = self.machine.members.get(member.id)
        return self.raft is not None and member in self.raft.configuration.learners and \
            known is not None and known.health == Health.ALIVE

    def next_deadline(self) -> int:
        """Return when `advance` must be called at the latest."""
        due = self._hello_at
        if self.raft:
            due = min(due, self.raft.next_deadline())
            if self._caretaker is not None:
                due = min(due, self._caretaker.due)
                clock = self._clock_due()
                if clock is not None:
                    due = min(due, clock)
        if len(self._requests) or self._wishes:
            due = min(due, self._requests.expire_at)
        return due

    def take_effects(self) -> Effects:
        """Return what is to be done, once; requests that came since the last time go together."""
        if self._unsent:
            self._send_commands(self._unsent, self._now)
            self._unsent.clear()
        if self._unsent_reads:
            self._send_reads(self._unsent_reads, self._now)
            self._unsent_reads.clear()
        self._carry_out_raft()
        if self._wishes:
            self._requests.answers += self._wishes.answered(self.raft, self._now)
        effects, self._effects = self._effects, Effects()
        effects.answers += self._requests.take_answers()
        return effects

    # Requests of clients -----------------------------------------------------------------------
    def submit(self, operation: Operation, request: RequestId | None, patience: int, now: int) -> int:
        """
        Take in a request and return its ticket; the answer comes among the effects.

        `patience` is how long, in nanoseconds, a confirmation is waited for before the answer is
        NO_QUORUM (it never left this member) or OUTCOME_UNKNOWN. The operation is checked already.
        """
        if self.disk_problem:
            return self._refuse_for_disk()
        ticket, pending = self._requests.add(operation, request, patience, now)
        if pending is not None:
            self._unsent.append(pending)
            self._now = now
        return ticket

    def read(self, patience: int, now: int) -> int:
        """
        Ask for a linearizable read; it is answered OK when the applied state may be read.

        The state then holds everything that was acknowledged to anybody before this call.
        """
        if self.disk_problem and not self.leads:
            return self._refuse_for_disk()  # it cannot store what it must have seen
        ticket, read = self._requests.add_read(patience, now)
        if read is not None:
            self._unsent_reads.append(read)
            self._now = now
        return ticket

    def _refuse_for_disk(self) -> int:
        ticket = self._requests.new_ticket()
        self._requests.answers.append((ticket, Answer(
            Code.STORAGE, f"the disk of '{self.me.id}' takes nothing ({self.disk_problem}): ask another "
            'robot, or make room')))
        return ticket

    def remove(self, member_id: str, patience: int, now: int) -> int:
        """Ask the leader to remove a robot from the cluster; raise Invalid where that cannot be."""
        return self._wish(Remove(member_id), patience, now)

    def transfer(self, to: str, patience: int, now: int) -> int:
        """
        Ask the leader to hand over to a voter, or with an empty `to` to whom it likes.

        Raise Invalid where that cannot be.
        """
        return self._wish(Transfer(to), patience, now)

    def _wish(self, body: Remove | Transfer, patience: int, now: int) -> int:
        ticket = self._requests.new_ticket()
        self._wishes.add(ticket, body, now + patience, self.raft)
        self._requests.expire_at = now
        return ticket

    def _pursue_wishes(self, now: int) -> None:
        """Tell the leader what is wished."""
        raft = self.raft
        for body in self._wishes.due(raft.leader if raft else None, now):
            assert raft is not None and raft.leader is not None
            if self.leads:
                grant(body, raft, now)
            else:
                self._send(raft.leader, body)

    def _send_commands(self, candidates: Iterable[Pending], now: int) -> None:
        """Propose or forward those commands that have not reached the present leader yet."""
        if self.raft is None or self.raft.leader is None:
            return
        target = (self.raft.leader, self.raft.term)
        leads = self.leads
        forwarded: list[bytes] = []
        for pending in self._requests.due(candidates, target, now):
            if leads:
                if self._propose(pending.command, now) is None:
                    break
            else:
                forwarded.append(pending.command)
            pending.repeated, pending.proposed = pending.proposed, True
            pending.sent_to, pending.sent_at = target, now
        for commands in batches(forwarded):
            self._send(self.raft.leader, Forward(commands))

    def _send_reads(self, candidates: Iterable[PendingRead], now: int) -> None:
        """Ask the present leader how far must be applied for these reads."""
        if self.raft is None or self.raft.leader is None:
            return
        due = self._requests.due_reads(candidates, (self.raft.leader, self.raft.term), now)
        if self.leads:
            for read in due:
                self.raft.read((self.me, read.ticket))
        elif due:
            self._send(self.raft.leader, Read(tuple(read.ticket for read in due)))

    def _send_outstanding(self, now: int) -> None:
        self._send_commands(list(self._requests.commands.values()), now)
        self._send_reads(list(self._requests.reads.values()), now)

    def _propose(self, command: bytes, now: int) -> Entry | None:
        raft = self.raft
        assert raft is not None
        if raft.log.last_index - raft.commit >= MAX_UNCOMMITTED:
            return None
        try:
            return raft.propose(Kind.COMMAND, command, now)
        except Refused:
            return None

    # Time --------------------------------------------------------------------------------------
    def advance(self, now: int) -> None:
        """Do what is due at `now`."""
        self._now = now
        if now >= self._hello_at:
            self._say_hello(now)
        if self.raft is not None:
            before = self.raft.leader, self.raft.term
            self.raft.advance(now)
            self._greet_leader(before, now)
            if self._caretaker is not None:
                if now >= self._caretaker.due:
                    self._tend(self._caretaker, now)
                clock = self._clock_due()
                if clock is not None and now >= clock:
                    self.raft.propose(Kind.CLOCK, b'', now)
        if (len(self._requests) or self._wishes) and now >= self._requests.expire_at:
            self._send_outstanding(now)
            self._pursue_wishes(now)
            self._requests.expire(now)

    def _clock_due(self) -> int | None:
        """When the leader must append an entry so that cluster time goes on (while leases run)."""
        raft = self.raft
        if raft is None or raft.role != Role.LEADER or raft.commit < raft.log.last_index \
                or self.machine.applied < raft.commit or raft.transferring or raft.stalled:
            return None
        if self._clock[0] != self.machine.applied:
            self._clock = self.machine.applied, self.machine.clock_interval()
        interval = self._clock[1]
        return None if interval is None else raft.last_stamped + interval

    def _say_hello(self, now: int) -> None:
        base = HELLO_SETTLED if self.raft else HELLO_WAITING
        self._hello_at = now + base - self._random.randint(0, base // 5)
        if self.raft is None:
            self._send(EVERYBODY, self._bootstrap.hello)
            self._look_for_cluster(now)
            return
        if self.raft.leader is None or self.raft.configuration.may_vote(self.me):
            # A learner that hears its leader is silent: a hundred greetings a second would cost
            # everybody more than the consensus does.
            self._send(EVERYBODY, Hello((), False, self.leader))
        known = self.raft.configuration_committed and self.me in self.raft.configuration.members
        if self.raft.leader is None or not known:
            # The entry that took this member in may have been lost with its leader, and the next one
            # sends it nothing but broadcasts, which do not continue its log.
            self._ask(self.cluster_id, (h.member for h in self._heard.values()
                                        if h.cluster_id == self.cluster_id))

    # The disk ----------------------------------------------------------------------------------
    def disk_stalled(self, problem: str, now: int) -> None:
        """
        Learn that the disk takes nothing, or with an empty text that it does again.

        A member without a disk takes nothing in, hands over where it leads, and still answers what
        the applied state can answer.
        """
        self.disk_problem = problem
        if self.raft is not None:
            self.raft.stall(bool(problem))
            if problem:
                self.raft.transfer_leadership()
            else:
                self._send_outstanding(now)

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
        self._now = now
        sender, body = packet.sender, packet.body
        if sender.id == self.me.id:
            if sender != self.me:
                self._report('twin', f"another live member calls itself '{self.me.id}' too (incarnations "
                             f'{self.me.incarnation:x} and {sender.incarnation:x}): rename one robot', now)
            return
        if isinstance(body, Hello):
            self._on_hello(packet, body, now)
        elif packet.receiver == EVERYBODY:
            if self.raft is not None and packet.cluster_id == self.cluster_id and isinstance(body, Append):
                self._step(sender, body, now, broadcast=True)
        elif packet.receiver != self.me:
            return  # meant for an earlier incarnation of this robot
        elif isinstance(body, JoinRefused):
            self._report('refused', body.reason, now)
        elif self.raft is None:
            if isinstance(body, Append | VoteRequest | SnapshotChunk):
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
        if not packet.cluster_id and self.raft is not None and now - self._greeted_at >= HELLO_SETTLED:
            # A learner is silent otherwise, and whoever hears nobody for long founds another cluster.
            self._greeted_at = now
            self._send(EVERYBODY, Hello((), False, self.leader))
        if known or len(self._heard) < MAX_HEARD:
            self._heard[sender.id] = Heard(sender, packet.cluster_id, hello, now)
        if self.cluster_id and packet.cluster_id and packet.cluster_id != self.cluster_id:
            self._report_other_cluster(sender, packet.cluster_id, now)

    def _on_cluster_message(self, packet: Packet, now: int) -> None:
        raft, sender, body = self.raft, packet.sender, packet.body
        assert raft is not None
        if isinstance(body, Append | AppendReply):
            self._step(sender, body, now)
        elif isinstance(body, Join):
            self._on_join(sender, now)
        elif isinstance(body, Forward | Read | Remove | Transfer):
            if self.leads and sender in raft.configuration.members:
                self._on_request(sender, body, now)
        elif isinstance(body, ReadAt):
            self._requests.read_at(body.contexts, body.index, self.machine.applied)
        elif not isinstance(body, Hello | JoinRefused):
            self._step(sender, body, now)

    def _step(self, sender: Member, message: Message, now: int, *, broadcast: bool = False) -> None:
        raft = self.raft
        assert raft is not None
        before = raft.leader, raft.term
        raft.step(sender, message, now, broadcast=broadcast)
        self._greet_leader(before, now)
        if isinstance(message, AppendReply) and self._caretaker is not None and \
                (message.round or sender in raft.configuration.learners):
            self._caretaker.heard(sender, now)

    def _on_request(self, sender: Member, body: Forward | Read | Remove | Transfer, now: int) -> None:
        """Serve as leader what another member asks for."""
        raft = self.raft
        assert raft is not None
        if isinstance(body, Forward):
            for command in body.commands:
                self._on_forwarded(raft, sender, command, now)
        elif isinstance(body, Read):
            for context in body.contexts:
                raft.read((sender, context))
        else:
            grant(body, raft, now)

    def _on_forwarded(self, raft: Raft, sender: Member, command: bytes, now: int) -> None:
        """Propose what another member's client asks for; what is malformed is dropped."""
        try:
            decoded = decode(command)
        except Invalid:
            return
        entry = self._propose(command, now)
        if entry is not None:
            self._decoded[command] = decoded
            raft.expects(sender, entry.index)

    def _greet_leader(self, before: tuple[Member | None, int], now: int) -> None:
        """Send what is outstanding to a leader as soon as it is known, and begin as one."""
        raft = self.raft
        assert raft is not None
        if (raft.leader, raft.term) == before:
            return
        self._decoded.clear()
        self._caretaker = Caretaker(
            self.me, self._policy.care, raft.configuration.members, now) if self.leads else None
        self._send_outstanding(now)

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
        if newcomer in raft.configuration.removed:
            self._send(newcomer, JoinRefused(
                f"'{newcomer.id}' was removed from the cluster: remove its data directory to let it join "
                'anew'))
            return
        since = now - 2 * self._timing.election_max
        if any(m.id == newcomer.id and p.heard >= since for m, p in raft.progress.items()):
            reason = f"the id '{newcomer.id}' is in use by a live member: rename one robot"
            self._report(f'twin {newcomer.id}', reason, now)
            self._send(newcomer, JoinRefused(reason))
            return
        self._change(raft.configuration.voters, learners, now)

    def _tend(self, caretaker: Caretaker, now: int) -> None:
        """Look after the members, as their leader."""
        raft = self.raft
        assert raft is not None
        caretaker.begin_round(now)
        if raft.stalled:
            raft.transfer_leadership()
            return
        configuration, progress = raft.configuration, raft.progress
        known = {m: self.machine.members[m.id].health for m in configuration.members
                 if m.id in self.machine.members}
        for change in caretaker.health_changes(configuration, known, now):
            self.submit(change, None, SECOND, now)
        voters = caretaker.wanted_voters(configuration, progress, raft.commit, now)
        newcomers = (voters or configuration.voters) - configuration.voters
        raft.attend(newcomers)
        # One that is about to vote and has just lost its disk would take the majority with it: it must
        # have answered within two heartbeats.
        recent = now - 2 * self._timing.heartbeat
        if voters is not None and all(progress[m].heard >= recent and not progress[m].probing
                                      for m in newcomers):
            self._change(voters, with_voters(configuration, voters), now)

    def _change(self, voters: frozenset[Member], learners: frozenset[Member], now: int) -> None:
        assert self.raft is not None
        with suppress(Refused):  # the newcomer asks again, and the policy looks again
            self.raft.change_configuration(voters, learners, now)

    def hand_over(self) -> bool:
        """Give leadership away, before this member stops; return whether there is somebody to take it."""
        if self.raft is None:
            return False
        self.raft.transfer_leadership()
        return self.raft.transferring

    # Effects -----------------------------------------------------------------------------------
    @property
    def waits_for_disk(self) -> bool:
        """Return whether something would be committed if all that was handed out were durable."""
        return self.raft is not None and self.raft.waits_for_disk

    def persisted(self, entry: Entry, now: int) -> None:
        """Learn that the log is durable up to this entry."""
        self._now = now
        if self.raft:
            self.raft.persisted(entry, now)

    def _send(self, to: Member, body: Body) -> None:
        self._effects.packets.append(Packet(self.cluster_id, self.me, to, body))

    def _carry_out_raft(self) -> None:
        if self.raft is None:
            return
        output = self.raft.take_output()
        effects, me, cluster_id = self._effects, self.me, self.cluster_id
        for to, message in output.messages:
            effects.packets.append(Packet(cluster_id, me, to, message))
        for append in output.broadcast:
            effects.packets.append(Packet(cluster_id, me, EVERYBODY, append))
        for to, message in output.messages_when_durable:
            effects.packets_when_durable.append(Packet(cluster_id, me, to, message))
        if output.installed is not None:
            self._install(output.installed)
        if output.hard_state is not None:
            effects.record.hard_state = output.hard_state
        effects.record.entries += output.entries
        for entry in output.committed:
            self._apply(entry)
        if output.reads:
            self._answer_reads(output.reads)
        if output.committed:
            self._requests.answer_reads(self.machine.applied)
            self._compact_where_due()

    def _answer_reads(self, reads: list[tuple[Hashable, int]]) -> None:
        """Tell everybody who asked this leader how far must be applied."""
        asked: dict[tuple[Member, int], list[int]] = {}
        for context, index in reads:
            requester, ticket = cast(tuple[Member, int], context)
            asked.setdefault((requester, index), []).append(ticket)
        for (requester, index), tickets in asked.items():
            if requester == self.me:
                self._requests.read_at(tickets, index, self.machine.applied)
            else:
                assert self.raft is not None
                self.raft.expects(requester, index)
                self._send(requester, ReadAt(tuple(tickets), index))

    def _apply(self, entry: Entry) -> None:
        applied = self.machine.apply(entry, self._decoded.pop(entry.data, None))
        self._bytes += len(entry.data)
        if applied.events or entry.index == self._gap[1]:
            self._tell(entry.index, applied.events)
        for request, answer in applied.answers:
            self._requests.applied(request, answer)
        if applied.orphaned:
            self._orphaned += [operation for operation in applied.orphaned if operation.robot == self.me.id]
        known = self.machine.members.get(self.me.id) if self._orphaned else None
        if known is not None and known.health == Health.ALIVE:   # not removed meanwhile
            for operation in self._orphaned:
                self.submit(operation, None, ABANDON_PATIENCE, self._now)
            self._orphaned.clear()

    def _tell(self, index: int, events: Sequence[Event]) -> None:
        """Report events, each at most once in the life of this member; a GAP stands for the others."""
        first, last = self._gap
        if index > last:
            self._effects.events += events
        elif index == last:
            machine = self.machine
            self._effects.events.append(Event(last, LAST_ORDINAL, EventType.GAP, machine.term, machine.time,
                                              f'{first}..{last}', token=first))

    # Snapshots ---------------------------------------------------------------------------------
    def _compact_where_due(self) -> None:
        """Let a snapshot stand for the log when it has become long."""
        raft, policy = self.raft, self._policy
        assert raft is not None
        behind = raft.snapshot.index if raft.snapshot else 0
        size = len(raft.snapshot.data) if raft.snapshot else 0
        if raft.stalled or (self.machine.applied - behind < policy.compact_after and
                            self._bytes < max(policy.compact_bytes, size)):
            return
        self._bytes = 0
        # Followers that lag a little are brought up to date from what is kept of the log.
        snapshot = raft.compact(self.machine.applied, self.machine.snapshot(), policy.compact_after // 4)
        self._record(snapshot)

    def _install(self, snapshot: Snapshot) -> None:
        """Take over the state from the leader's snapshot: the entries up to there are not to be had."""
        before = self.machine
        self.machine = StateMachine.restored(snapshot.data)
        first, last = self._gap
        missed = before.applied + 1
        self._gap = min(first, missed) if last >= missed else missed, snapshot.index
        self._tell(snapshot.index, ())
        # Where this member was declared dead in between, its announcements went.
        kept = {service.name for service in self.machine.registry.find(robot=self.me.id)}
        self._orphaned += [service.announcement() for service in before.registry.find(robot=self.me.id)
                           if service.name not in kept]
        self._requests.overtaken(lambda command: self.machine.outcome_of(decode(command)))
        self._bytes = 0
        self._record(snapshot)

    def _record(self, snapshot: Snapshot) -> None:
        raft, record = self.raft, self._effects.record
        assert raft is not None
        record.snapshot = snapshot
        record.tail = list(raft.log.slice(snapshot.index + 1, raft.log.last_index))
        record.hard_state = HardState(raft.term, raft.vote)
