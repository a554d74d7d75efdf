# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The state machine of one member: elections, replication and membership.

It holds no clock, thread, file or socket. Time comes in as nanoseconds of any steady clock;
`take_output` hands out what is to be done, and this contract goes with it:

1. `messages` and `broadcast` may be sent at once, in parallel with the disk: they promise nothing.
2. `installed`, `hard_state` and then `entries` must be durable, in the order of the outputs, before
   `messages_when_durable` are sent and `persisted` is called.
3. `installed` replaces the applied state; then `committed` entries may be applied at once: a quorum
   has them on disk.
4. A read in `reads` may be answered as soon as all up to its index is applied.
"""
from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from random import Random

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.log import Log
from muster.cluster.raft.progress import MAX_IN_FLIGHT, Progress
from muster.cluster.raft.types import (
    Append,
    AppendReply,
    BLANK,
    Entry,
    Envelope,
    HardState,
    Kind,
    Member,
    Message,
    Refused,
    Role,
    Snapshot,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    Vote,
    VoteRequest,
)

#: Data of the entries of one append, and of one chunk of a snapshot; an envelope with its framing
#: stays below 64 KiB.
MAX_APPEND_BYTES = 32 * 1024
MILLISECOND = 1_000_000
#: How long a follower that waits for nothing hears later of a commitment: while commands come
#: one after the other, the next append carries it for free.
NOTICE_DELAY = 3 * MILLISECOND
#: How long entries wait at most for the acknowledgement of those before: on a quick network it is
#: there sooner, and fewer messages carry more.
PACE = 2 * MILLISECOND
#: How long a follower that no quorum needs waits for its entries at most, to get many at once
#: ("thrifty": Moraru et al., "There Is More Consensus in Egalitarian Parliaments", SOSP 2013).
SPARE_PACE = 20 * MILLISECOND
#: How often a leader without news speaks to the learners that listen, and how often each reports.
LEARNER_INTERVAL = 1000 * MILLISECOND
#: Messages that must not go out before what they promise is durable.
PROMISES = Vote, AppendReply
#: Messages of one broadcast; the rest follows a heartbeat later.
MAX_BROADCASTS = 16
#: How long a learner hears nothing before it forgets its leader.
LEARNER_PATIENCE = 3 * LEARNER_INTERVAL


@dataclass(frozen=True)
class Timing:
    """Durations of the consensus in nanoseconds."""

    heartbeat: int = 50 * MILLISECOND
    election_min: int = 150 * MILLISECOND
    election_max: int = 300 * MILLISECOND


#: The profiles of the parameter `profile`.
PROFILES = {
    'lan': Timing(),
    'wifi': Timing(250 * MILLISECOND, 1000 * MILLISECOND, 2000 * MILLISECOND),
}


@dataclass
class Output:
    """What is to be done now; see the contract above."""

    messages: list[Envelope] = field(default_factory=list)
    broadcast: list[Append] = field(default_factory=list)      # to all learners at once
    installed: Snapshot | None = None
    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)
    messages_when_durable: list[Envelope] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)
    reads: list[tuple[Hashable, int]] = field(default_factory=list)   # context and index


@dataclass
class _Incoming:
    """A snapshot of which some chunks have come."""

    index: int
    term: int
    size: int
    data: bytearray = field(default_factory=bytearray)


class Raft:
    """One member of the consensus."""

    def __init__(self, me: Member, timing: Timing, generator: Random, now: int,
                 hard_state: HardState = BLANK, entries: tuple[Entry, ...] = (),
                 snapshot: Snapshot | None = None) -> None:
        """Start as a follower from what is durable; everything else is forgotten."""
        self.me = me
        self.timing = timing
        self.snapshot = snapshot
        self.log = Log(entries, snapshot.index, snapshot.term) if snapshot else Log(entries)
        self.term, self.vote = hard_state
        self.role = Role.FOLLOWER
        self.leader: Member | None = None
        self.commit = self.log.base
        self.stalled = False                      # the disk takes nothing: see `stall`
        self.attended: frozenset[Member] = frozenset()
        self._random = generator
        self._durable = self.log.last_index
        self._handed_out = self.commit            # last committed index given to the outside
        self._configurations = [(snapshot.index, Configuration.decode(snapshot.configuration))] \
            if snapshot else []
        self._configurations += [(e.index, Configuration.decode(e.data))
                                 for e in entries if e.kind == Kind.CONFIGURATION]
        self._votes: dict[Member, bool] = {}
        self._pre = False                         # a candidate that only asks
        self._transfer_to: Member | None = None
        self._heard_leader = now - timing.election_max
        self._saved = hard_state
        self._output = Output()
        self.progress: dict[Member, Progress] = {}
        self._directly: list[Member] | None = None       # whom to speak to directly; None: look anew
        self._stamped = 0                         # when the last entry was stamped, this term
        self._round = 0                           # of heartbeats, this term
        # Of each read: the round that confirms it, what must be committed before, and the context.
        self._reads: list[tuple[int, int, Hashable]] = []
        self._notice_at: int | None = None
        self._widen_at: int | None = None
        self._supply_at: int | None = None
        self._broadcast_at = self._broadcast_index = 0   # when next, and up to which entry it went
        self._incoming: _Incoming | None = None
        self._matched = 0                         # last index known to be the leader's, this term
        self._leader_stored = 0                   # what the leader has on disk, this term
        self._told_stored = 0                     # what a leader has told of that
        self._report_at = now
        self._start_election_timer(now)

    # What is asked of it -----------------------------------------------------------------------
    @property
    def configuration(self) -> Configuration:
        """Return the configuration in force: the last in the log, committed or not."""
        return self._configurations[-1][1] if self._configurations else Configuration()

    @property
    def configuration_committed(self) -> bool:
        """Return whether the configuration in force can no longer be taken back."""
        return not self._configurations or self._configurations[-1][0] <= self.commit

    @property
    def last_stamped(self) -> int:
        """Return when this leader stamped its last entry, on the clock that `now` comes from."""
        return self._stamped

    @property
    def transferring(self) -> bool:
        """Return whether this leader is handing over."""
        return self._transfer_to is not None

    @property
    def waits_for_disk(self) -> bool:
        """Return whether this member's own disk is all that keeps entries from being committed."""
        last = self.log.last_index
        if self._durable == last:
            return False
        if self.role != Role.LEADER:
            return self._agreed(last) > self.commit
        return self._stored(last) > self.commit or any(
            p.awaits > max(p.told_commit, self._durable) and self._concludes(m) for m, p in self._direct)

    @property
    def commits(self) -> bool:
        """Return whether a leader has entries that are not committed yet."""
        return self.role == Role.LEADER and self.commit < self.log.last_index

    def next_deadline(self) -> int:
        """Return when `advance` must be called at the latest."""
        if self.role == Role.LEADER:
            due = min(self._heartbeat_at, self._quorum_at)
            if self._notice_at is not None:
                due = min(due, self._notice_at)
            if self._widen_at is not None:
                due = min(due, self._widen_at)
            if self._supply_at is not None:
                due = min(due, self._supply_at)
            return min(due, self._broadcast_at) if self.configuration.learners else due
        return min(self._election_at, self._report_at) if self._reports else self._election_at

    @property
    def _reports(self) -> bool:
        return self.leader is not None and self._matched > 0 and self.me in self.configuration.learners

    def propose(self, kind: Kind, data: bytes, now: int) -> Entry:
        """Append an entry to the leader's log; raise Refused where this is not the leader."""
        if self.role != Role.LEADER:
            raise Refused('this member does not lead')
        if self._transfer_to is not None:
            raise Refused('leadership is being handed over')
        if self.stalled:
            raise Refused('the disk takes nothing')
        return self._append(kind, data, now)

    def read(self, context: Hashable) -> None:
        """
        Ask up to which index a read that begins now must see; it comes as `reads`, or never.

        ReadIndex (thesis 6.4): the leader answers when it has committed in its term and a quorum
        has confirmed after this call that it leads still. What a follower may have committed by itself
        it must have committed, too. Raise Refused where this is not the leader.
        """
        if self.role != Role.LEADER:
            raise Refused('this member does not lead')
        self._reads.append((self._round + 1, self._told_stored, context))

    def expects(self, member: Member, index: int) -> None:
        """Tell a follower at once when this entry is committed: somebody waits for it there."""
        if member in self.progress:
            self.progress[member].awaits = index
            self.progress[member].spare = False

    def attend(self, learners: frozenset[Member]) -> None:
        """Speak to these learners directly, and leave the others to the broadcast."""
        self.attended = learners
        for member in learners & self.progress.keys():
            if self.progress[member].listening:
                self._probe(self.progress[member])

    def compact(self, index: int, data: bytes, retained: int) -> Snapshot:
        """Let `data`, the state after an applied entry, stand for the log, but for the last `retained`."""
        assert self.log.base < index <= self._handed_out, 'only what was applied can be compacted'
        position = max(i for i, (at, _) in enumerate(self._configurations) if at <= index)
        configuration = self._configurations[position][1]
        self.snapshot = Snapshot(index, self.log.term(index), configuration.encode(), data)
        self._configurations = self._configurations[position:]
        self.log.compact(max(self.log.base, index - retained))
        return self.snapshot

    def stall(self, stalled: bool) -> None:
        """
        Learn that the disk takes nothing, or takes writes again.

        A stalled member takes no new entries, gives no votes and stands for no election; one that
        leads hands over.
        """
        self.stalled = stalled

    def change_configuration(self, voters: frozenset[Member], learners: frozenset[Member], now: int,
                             removed: frozenset[Member] = frozenset()) -> None:
        """Begin a change of the members; raise Refused while another is under way."""
        if not self.configuration_committed or self.configuration.joint:
            raise Refused('another change of the members is under way')
        if self.log.term(self.commit) != self.term:
            # Otherwise two changes based on different committed ones could overlap
            # (Ongaro, raft-dev, July 2015, "bug in single-server membership changes").
            raise Refused('the leader has not committed in its term yet')
        changed = self.configuration.changed_to(voters, learners, removed)
        self.propose(Kind.CONFIGURATION, changed.encode(), now)

    def transfer_leadership(self, to: Member | None = None) -> None:
        """Hand leadership to a voter, without `to` to the one that has most of the log."""
        others = [m for m in self.configuration.voters if m != self.me and to in (None, m)]
        if self.role != Role.LEADER or not others:
            return
        # One that has just died has most of the log, too: only who was heard lately can take over.
        recent = max(self.progress[m].heard for m in others) - self.timing.election_min
        self._transfer_to = max(others, key=lambda m: (
            self.progress[m].heard >= recent, self.progress[m].match, m))
        self.progress[self._transfer_to].spare = False
        self._finish_transfer()

    def persisted(self, entry: Entry, now: int) -> None:
        """Learn that the log is durable up to this entry."""
        if self.log.term(entry.index) == entry.term and entry.index > self._durable:
            self._durable = entry.index
            if self.role == Role.LEADER:
                self._advance_commit(now)
            else:
                self._conclude()

    def take_output(self) -> Output:
        """Return what is to be done, once; what was proposed since the last time goes together."""
        if self._reads and self._reads[-1][0] > self._round:
            self._begin_round([m for m in self.progress if self.configuration.may_vote(m)])
            self._confirm_reads()
        last = self.log.last_index
        direct = self._direct
        for member, progress in direct:
            if progress.next <= last or progress.snapshot is not None or self._has_news(member, progress):
                self._replicate(member, progress)
        if self._widen_at is not None and not any(p.waits(last) for _, p in direct):
            self._widen_at = None
        if self._supply_at is not None and not any(p.held(last) for _, p in direct):
            self._supply_at = None
        output, self._output = self._output, Output()
        for envelope in output.messages:
            assert not isinstance(envelope.message, PROMISES), 'a promise goes out before it is durable'
        if (self.term, self.vote) != self._saved:
            self._saved = HardState(self.term, self.vote)
            output.hard_state = self._saved
        if self.commit > self._handed_out:
            output.committed = list(self.log.slice(self._handed_out + 1, self.commit))
            self._handed_out = self.commit
        return output

    # Time --------------------------------------------------------------------------------------
    def advance(self, now: int) -> None:
        """Do what is due at `now`."""
        if self.role == Role.LEADER and now >= self._quorum_at:
            self._check_quorum(now)
        if self.role == Role.LEADER:
            if now >= self._heartbeat_at:
                self._heartbeat(now)
            if self._notice_at is not None and now >= self._notice_at:
                self._notify()
            if self._widen_at is not None and now >= self._widen_at:
                self._widen()
            if self._supply_at is not None and now >= self._supply_at:
                self._supply()
            if now >= self._broadcast_at and self.configuration.learners:
                self._broadcast(now)
        elif now >= self._election_at:
            self._start_election_timer(now)
            if not self._may_lead():
                self.leader = None
            elif not self.stalled:
                self._campaign(now, pre=True)
        if self._reports and now >= self._report_at:
            self._report_at = now + LEARNER_INTERVAL - self._random.randint(0, LEARNER_INTERVAL // 5)
            assert self.leader is not None
            self._reply(self.leader, AppendReply(self.term, True, self._matched))

    def _may_lead(self) -> bool:
        """
        Return whether this member may be needed as a leader.

        One that the newest configuration leaves out may be the only one that has it, and is needed
        until it is committed (thesis 4.2.2); its own vote does not count.
        """
        for index, configuration in reversed(self._configurations):
            if configuration.may_vote(self.me):
                return True
            if index <= self.commit:
                break
        return False

    def _start_election_timer(self, now: int) -> None:
        shortest, longest = self.timing.election_min, self.timing.election_max
        if not self.configuration.may_vote(self.me):
            shortest, longest = LEARNER_PATIENCE, LEARNER_PATIENCE + longest
        self._election_at = now + self._random.randint(shortest, longest)

    def _check_quorum(self, now: int) -> None:
        """Step down where no quorum was heard for an election time-out (thesis 6.2)."""
        since = now - self.timing.election_max
        heard = {m for m, p in self.progress.items() if p.heard >= since} | {self.me}
        self._quorum_at = now + self.timing.election_min
        self._transfer_to = None
        if not self.configuration.has_quorum(heard):
            self._become_follower(self.term, None, now)

    def _heartbeat(self, now: int) -> None:
        self._heartbeat_at = now + self.timing.heartbeat
        direct = self._direct
        for _, progress in direct:
            progress.paused = False
        self._begin_round([member for member, _ in direct])

    def _begin_round(self, members: Iterable[Member]) -> None:
        """Ask members to confirm that this one leads."""
        self._round += 1
        for member in members:
            self._send_append(member, (), self._round)

    def _notify(self) -> None:
        """Tell followers of what was committed, where nothing else has carried it meanwhile."""
        self._notice_at = None
        for member, progress in self._direct:
            if progress.told_commit < self.commit and not progress.paused and \
                    not progress.held(self.log.last_index):
                self._send_append(member, ())

    def _broadcast(self, now: int) -> None:
        """Tell all learners that listen of what was committed; one that missed something asks."""
        self._broadcast_at = now + LEARNER_INTERVAL
        listening = [p for p in self.progress.values() if p.listening]
        if not listening:
            self._broadcast_index = self.commit
            return
        position = max(self._broadcast_index, self.log.base)
        for _ in range(MAX_BROADCASTS):
            entries = self.log.slice(position + 1, self.commit, MAX_APPEND_BYTES)
            self._output.broadcast.append(
                Append(self.term, position, self.log.term(position), self.commit, entries))
            position += len(entries)
            if position == self.commit:
                break
        else:
            self._broadcast_at = now + self.timing.heartbeat
        self._broadcast_index = position
        for progress in listening:
            progress.told_commit = position

    # Messages ----------------------------------------------------------------------------------
    def step(self, sender: Member, message: Message, now: int, *, broadcast: bool = False) -> None:
        """
        Take in one message; it may be late, repeated or out of order.

        An Append that came by `broadcast` is answered only where something is missing.
        """
        if isinstance(message, VoteRequest) and self._refuses_votes(message, now):
            return
        if message.term > self.term and not self._asks_only(message):
            self._become_follower(message.term, None, now)
        if message.term < self.term:
            self._answer_the_past(sender, message)
        elif isinstance(message, VoteRequest):
            self._on_vote_request(sender, message, now)
        elif isinstance(message, Vote):
            self._on_vote(sender, message, now)
        elif isinstance(message, Append):
            self._on_append(sender, message, now, broadcast)
        elif isinstance(message, AppendReply):
            self._on_append_reply(sender, message, now)
        elif isinstance(message, SnapshotChunk):
            self._on_chunk(sender, message, now)
        elif isinstance(message, SnapshotReply):
            self._on_snapshot_reply(sender, message, now)
        elif self.configuration.may_vote(self.me) and not self.stalled:
            self._campaign(now, pre=False, transfer=True)

    @staticmethod
    def _asks_only(message: Message) -> bool:
        """Whether a higher term in the message is hypothetical (a pre-vote)."""
        return (isinstance(message, VoteRequest) and message.pre) or \
            (isinstance(message, Vote) and message.pre and message.granted)

    def _refuses_votes(self, message: VoteRequest, now: int) -> bool:
        """Whether a leader is alive, so that an election would only disturb (thesis 4.2.3)."""
        if message.transfer:
            return False
        if self.role == Role.LEADER:
            return message.term > self.term
        return self.leader is not None and now - self._heard_leader < self.timing.election_min

    def _answer_the_past(self, sender: Member, message: Message) -> None:
        """Tell a member of an older term about ours, lest it hopes for ever."""
        if isinstance(message, Append | SnapshotChunk):
            self._reply(sender, AppendReply(self.term, False, self.log.last_index))
        elif isinstance(message, VoteRequest) and message.pre:
            self._reply(sender, Vote(self.term, False, True))

    def _reply(self, to: Member, message: Message) -> None:
        """Send what promises something: only when all before it is durable."""
        self._output.messages_when_durable.append(Envelope(to, message))

    # Elections ---------------------------------------------------------------------------------
    def _become_follower(self, term: int, leader: Member | None, now: int) -> None:
        if term > self.term:
            self.term, self.vote, self._matched, self._leader_stored = term, None, 0, 0
        if self.role != Role.FOLLOWER or leader != self.leader:
            self._start_election_timer(now)
        self.role, self.leader = Role.FOLLOWER, leader
        self.progress, self._directly = {}, None
        self._transfer_to, self._notice_at, self._widen_at, self._supply_at = None, None, None, None
        self._reads.clear()

    def _campaign(self, now: int, *, pre: bool, transfer: bool = False) -> None:
        """Ask for votes, or first whether they would be given."""
        self.role, self.leader, self._pre = Role.CANDIDATE, None, pre
        self._start_election_timer(now)
        term = self.term + 1
        if not pre:
            self.term, self.vote, self._matched, self._leader_stored = term, self.me, 0, 0
        self._votes = {self.me: True}
        request = VoteRequest(term, self.log.last_index, self.log.last_term, pre, transfer)
        for member in sorted(self.configuration.members):
            if member != self.me and self.configuration.may_vote(member):
                self._reply(member, request)
        self._count_votes(now)

    def _on_vote_request(self, sender: Member, request: VoteRequest, now: int) -> None:
        if self.stalled:
            return  # the vote could not be kept
        current = self.log.at_least(request.last_index, request.last_term)
        if request.pre:
            granted = current and request.term > self.term
            self._reply(sender, Vote(request.term if granted else self.term, granted, True))
            if not current and self.configuration.may_vote(self.me):
                # The leader is gone, and this member has more of its log: it stands soon, and before
                # others that have, as a rule.
                soon = now + self._random.randint(0, self.timing.heartbeat // 2)
                self._election_at = min(self._election_at, soon)
            return
        granted = current and self.vote in (None, sender)
        if granted:
            self.vote = sender
            self._start_election_timer(now)
        self._reply(sender, Vote(self.term, granted, False))

    def _on_vote(self, sender: Member, vote: Vote, now: int) -> None:
        expected = self.term + 1 if self._pre and vote.granted else self.term
        if self.role == Role.CANDIDATE and vote.pre == self._pre and vote.term == expected:
            self._votes[sender] = vote.granted
            self._count_votes(now)

    def _count_votes(self, now: int) -> None:
        # has_quorum counts voters of the configuration only: the vote of another incarnation
        # of a voter, or of a learner, is never counted.
        if self.configuration.has_quorum(m for m, granted in self._votes.items() if granted):
            if self._pre:
                self._campaign(now, pre=False)
            else:
                self._become_leader(now)

    def _become_leader(self, now: int) -> None:
        self.role, self.leader, self._transfer_to = Role.LEADER, self.me, None
        self._round = self._told_stored = 0
        self._broadcast_at, self._broadcast_index = now, self.commit
        self._quorum_at = now + self.timing.election_max
        self._stamped = now  # the first entry of a term adds nothing to cluster time
        self.progress = {m: Progress(self.log.last_index + 1, heard=now)
                         for m in sorted(self.configuration.members) if m != self.me}
        self._directly = None
        self._append(Kind.NOOP, self.me.id.encode(), now)
        self._heartbeat_at = now + self.timing.heartbeat

    # Replication -------------------------------------------------------------------------------
    def _append(self, kind: Kind, data: bytes, now: int) -> Entry:
        entry = Entry(self.log.last_index + 1, self.term, max(0, now - self._stamped), kind, data)
        self._stamped = now
        self.log.append(entry)
        self._output.entries.append(entry)
        if kind == Kind.CONFIGURATION:
            self._configure(entry, now)
        self._pace(now)
        return entry

    @property
    def _direct(self) -> list[tuple[Member, Progress]]:
        """Return whom the leader speaks to directly: of up to 100 members few, the others listen."""
        progress = self.progress
        if self._directly is None:
            self._directly = [m for m, p in progress.items() if not p.listening]
        return [(member, progress[member]) for member in self._directly]

    def _probe(self, progress: Progress) -> None:
        """Speak to a follower directly, from where the logs agree."""
        progress.probe()
        self._directly = None

    def _pace(self, now: int) -> None:
        """Give what must wait a time at which it goes all the same."""
        if self._widen_at is None:
            self._widen_at = now + PACE
        if self._supply_at is None:
            self._supply_at = now + SPARE_PACE

    def _supply(self) -> None:
        """Let the spare followers have all that there is by now."""
        self._supply_at = None
        for _, progress in self._direct:
            progress.lot = self.log.last_index

    def _widen(self) -> None:
        """Let what waits for an acknowledgement go without it."""
        self._widen_at = None
        for _, progress in self._direct:
            if progress.waits(self.log.last_index):
                progress.window = MAX_IN_FLIGHT

    def _configure(self, entry: Entry, now: int) -> None:
        """Put a configuration in force as soon as it is in the log (Raft paper, section 6)."""
        self._configurations.append((entry.index, Configuration.decode(entry.data)))
        if self.role == Role.LEADER:
            wanted = sorted(self.configuration.members - {self.me})
            self.progress = {m: self.progress.get(m) or Progress(entry.index, heard=now)
                             for m in wanted}
            for member, progress in self.progress.items():
                progress.spare = False      # the new quorum is another one
                if progress.listening and self.configuration.may_vote(member):
                    self._probe(progress)
            self._directly = None
        else:
            self._start_election_timer(now)  # a learner's is longer than a voter's

    def _replicate(self, member: Member, progress: Progress) -> None:
        """Send a follower all that it lacks and may get now."""
        last = progress.allowed(self.log.last_index)
        while progress.next <= last and progress.may_send and progress.next > self.log.base \
                and progress.snapshot is None:
            entries = self.log.slice(progress.next, last, MAX_APPEND_BYTES)
            self._send_append(member, entries)
            progress.sent(entries[-1].index)
        if progress.paused:
            return
        if progress.next <= self.log.base or progress.snapshot is not None or \
                self._has_news(member, progress):
            self._send_append(member, ())

    def _has_news(self, member: Member, progress: Progress) -> bool:
        """Return whether a follower can be told what it needs to commit the entry that it waits for."""
        if progress.awaits <= progress.told_commit:
            return False
        if self._concludes(member):
            return progress.told_stored < progress.awaits <= max(self.commit, self._durable)
        return progress.awaits <= self.commit

    def _concludes(self, follower: Member) -> bool:
        """Return whether a follower commits by itself what the leader has on disk: see `_conclude`."""
        return self.configuration.has_quorum((self.me, follower))

    def _send_append(self, member: Member, entries: tuple[Entry, ...], confirmed_by: int = 0) -> None:
        """Send entries, or none; to a follower behind the log's base go chunks of a snapshot instead."""
        progress = self.progress[member]
        if progress.next <= self.log.base or progress.snapshot is not None:
            self._send_chunk(member, progress)
            return
        progress.told_commit, progress.told_stored = self.commit, self._durable
        self._told_stored = self._durable
        previous = progress.next - 1
        self._outbox.append(Envelope(member, Append(
            self.term, previous, self.log.term(previous), self.commit, entries, confirmed_by,
            self._durable)))

    def _send_chunk(self, member: Member, progress: Progress) -> None:
        if progress.snapshot is None:
            progress.snapshot, progress.offset = self.snapshot, 0
        snapshot = progress.snapshot
        assert snapshot is not None, 'entries were compacted away without a snapshot'
        part = snapshot.data[progress.offset:progress.offset + MAX_APPEND_BYTES]
        progress.paused = True
        self._outbox.append(Envelope(member, SnapshotChunk(
            self.term, snapshot.index, snapshot.term, snapshot.configuration, len(snapshot.data),
            progress.offset, part)))

    @property
    def _outbox(self) -> list[Envelope]:
        """
        Where a leader's messages go.

        A sole voter leads before its vote is durable: it could forget this term in a crash and lead
        it again with other entries, so its messages wait for the disk.
        """
        if self.log.term(self._durable) != self.term and self.configuration.has_quorum((self.me,)):
            return self._output.messages_when_durable
        return self._output.messages

    def _follow(self, leader: Member, term: int, now: int) -> None:
        """Take a message as the sign of life of the term's leader."""
        assert self.role != Role.LEADER, f'two leaders in term {self.term}: {self.me} and {leader}'
        self._become_follower(term, leader, now)
        self._heard_leader = now
        self._start_election_timer(now)

    def _on_append(self, sender: Member, append: Append, now: int, broadcast: bool) -> None:
        self._follow(sender, append.term, now)
        if self.stalled and append.entries:
            return  # they could not be kept; the leader sends them again
        # What lies below the base was committed, so it is the leader's too (leader completeness).
        if append.previous_index >= self.log.base and \
                self.log.term(append.previous_index) != append.previous_term:
            hint = max(self.commit, self.log.conflict_hint(append.previous_index))
            self._reply(sender, AppendReply(self.term, False, hint, append.round))
            return
        self._merge(append.entries, now)
        last = append.previous_index + len(append.entries)
        self._matched = max(self._matched, last)
        self.commit = max(self.commit, min(append.commit, last))
        self._leader_stored = max(self._leader_stored, append.stored)
        self._conclude()
        if (append.entries or append.round) and not broadcast:
            self._reply(sender, AppendReply(self.term, True, last, append.round))

    def _on_chunk(self, sender: Member, chunk: SnapshotChunk, now: int) -> None:
        """Collect a snapshot, and install it when it is whole (paper, figure 13)."""
        self._follow(sender, chunk.term, now)
        if self.stalled:
            return
        if chunk.index <= self.commit:
            self._reply(sender, AppendReply(self.term, True, self.commit))
            return
        incoming = self._incoming
        if incoming is None or (incoming.index, incoming.term, incoming.size) != \
                (chunk.index, chunk.snapshot_term, chunk.size):
            incoming = self._incoming = _Incoming(chunk.index, chunk.snapshot_term, chunk.size)
        if chunk.offset == len(incoming.data):
            incoming.data += chunk.data
        if len(incoming.data) < chunk.size:
            self._output.messages.append(Envelope(sender, SnapshotReply(
                self.term, chunk.index, len(incoming.data))))
            return
        self._incoming = None
        self._install(Snapshot(chunk.index, chunk.snapshot_term, chunk.configuration, bytes(incoming.data)))
        self._reply(sender, AppendReply(self.term, True, chunk.index))

    def _install(self, snapshot: Snapshot) -> None:
        self.snapshot = self._output.installed = snapshot
        self.log.reset(snapshot.index, snapshot.term)
        self._configurations = [(snapshot.index, Configuration.decode(snapshot.configuration)),
                                *((i, c) for i, c in self._configurations
                                  if snapshot.index < i <= self.log.last_index)]
        self._output.entries = [e for e in self._output.entries
                                if snapshot.index < e.index <= self.log.last_index]
        self._durable = max(snapshot.index, min(self._durable, self.log.last_index))
        self._matched = max(self._matched, snapshot.index)
        self.commit = self._handed_out = snapshot.index

    def _merge(self, entries: tuple[Entry, ...], now: int) -> None:
        new = self.log.merge(entries)
        if not new:
            return
        first = new[0].index
        assert first > self.commit, 'a leader asked to overwrite a committed entry'
        self._durable = min(self._durable, first - 1)
        self._output.entries = [e for e in self._output.entries if e.index < first]
        self._output.entries.extend(new)
        while self._configurations and self._configurations[-1][0] >= first:
            self._configurations.pop()
        for entry in new:
            if entry.kind == Kind.CONFIGURATION:
                self._configure(entry, now)

    def _on_append_reply(self, sender: Member, reply: AppendReply, now: int) -> None:
        progress = self.progress.get(sender)
        if self.role != Role.LEADER or progress is None:
            return  # not a member, or an incarnation that is none: it acknowledges nothing
        progress.heard = now
        progress.round = max(progress.round, reply.round)
        if reply.accepted:
            if progress.accepted(min(reply.index, self.log.last_index)):
                self._advance_commit(now)
            self._pace(now)
            if sender in self.configuration.learners:
                # Only who knows that it is a learner, and nothing else, follows the broadcast.
                told = max(self._broadcast_index, self._configurations[-1][0])
                listening = progress.match >= told and sender not in self.attended and \
                    not self.configuration.may_vote(sender)
                if listening != progress.listening:
                    progress.listening, self._directly = listening, None
        elif progress.listening:
            self._probe(progress)  # it missed something of the broadcast
        else:
            progress.refused(reply.index)
        if reply.round:
            self._confirm_reads()
        self._finish_transfer()

    def _on_snapshot_reply(self, sender: Member, reply: SnapshotReply, now: int) -> None:
        progress = self.progress.get(sender)
        if self.role != Role.LEADER or progress is None:
            return
        progress.heard = now
        if progress.snapshot is not None and progress.snapshot.index == reply.index and \
                reply.offset != progress.offset:
            progress.offset, progress.paused = min(reply.offset, len(progress.snapshot.data)), False

    def _confirm_reads(self) -> None:
        """Hand out the reads whose round a quorum has answered, once this term has committed."""
        if not self._reads or self.log.term(self.commit) != self.term:
            return
        rounds = {m: p.round for m, p in self.progress.items()} | {self.me: self._round}
        reached = self.configuration.committed(rounds)  # the same arithmetic as for entries
        ready = next((i for i, (at, told, _) in enumerate(self._reads)    # both grow along the list
                      if at > reached or told > self.commit), len(self._reads))
        self._output.reads += [(context, self.commit) for _, _, context in self._reads[:ready]]
        del self._reads[:ready]

    def _advance_commit(self, now: int) -> None:
        """Commit what a quorum has stored; only entries of the own term count (paper, 5.4.2)."""
        if self.role != Role.LEADER:
            return
        index = self._stored(self._durable)
        if index <= self.commit or self.log.term(index) != self.term:
            return
        self.commit = index
        self._find_spares(index, now)
        if self._notice_at is None:
            self._notice_at = now + NOTICE_DELAY
        if self.configuration.learners:
            awaited = any(p.listening and p.told_commit < p.awaits <= index for p in self.progress.values())
            self._broadcast_at = min(self._broadcast_at, now if awaited else now + self.timing.heartbeat)
        self._confirm_reads()
        if self.configuration_committed:
            self._continue_change(now)

    def _find_spares(self, committed: int, now: int) -> None:
        """Find out who was needed to commit, and is needed next; the others get their entries in lots."""
        for progress in [self.progress[m] for m in self.configuration.deciding if m in self.progress]:
            progress.spare = progress.match < committed and progress.awaits <= progress.match
        self._pace(now)

    def _conclude(self) -> None:
        """
        Commit what the leader and this follower have on disk, where the two are a quorum.

        An entry of the leader's term that a quorum has stored is committed, whoever finds that out
        first; so acceptors may tell learners themselves (Lamport, "Paxos Made Simple", section 2.3).
        """
        index = self._agreed(self._durable)
        if index > self.commit:
            self.commit = index

    def _agreed(self, own: int) -> int:
        """Return the last index that the leader and this follower have, which has it up to `own`."""
        # A configuration behind what matches may be one that the leader does not have.
        if self.leader is None or not self._configurations or self._configurations[-1][0] > self._matched:
            return 0
        index = min(self._matched, self.configuration.committed({self.leader: self._leader_stored,
                                                                 self.me: own}))
        return index if self.log.term(index) == self.term else 0

    def _stored(self, own: int) -> int:
        """Return the last index that a quorum has, this member up to `own`."""
        progress = self.progress     # of up to 100 members, few of which decide
        match = {m: progress[m].match for m in self.configuration.deciding if m in progress}
        match[self.me] = own
        return self.configuration.committed(match)

    def _continue_change(self, now: int) -> None:
        """Leave a committed joint configuration; a leader that it left out steps down."""
        if self.configuration.joint:
            self._append(Kind.CONFIGURATION, self.configuration.settled().encode(), now)
        elif not self.configuration.may_vote(self.me):
            self._become_follower(self.term, None, now)

    def _finish_transfer(self) -> None:
        target = self._transfer_to
        if target in self.progress and self.progress[target].match == self.log.last_index:
            self._output.messages.append(Envelope(target, TimeoutNow(self.term)))
