# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The state machine of one member: elections, replication and membership.

It holds no clock, thread, file or socket. Time comes in as nanoseconds of any steady clock;
`take_output` hands out what is to be done, and this contract goes with it:

1. `messages` may be sent at once, in parallel with the disk.
2. `hard_state` and then `entries` must be durable, in the order of the outputs, before
   `messages_when_durable` are sent and `persisted` is called.
3. `committed` entries may be applied at once: a quorum has them on disk.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.log import Log
from muster.cluster.raft.progress import Progress
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
    TimeoutNow,
    Vote,
    VoteRequest,
)

#: Data of the entries of one append; an envelope with its framing stays below 64 KiB.
MAX_APPEND_BYTES = 32 * 1024
MILLISECOND = 1_000_000


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
    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)
    messages_when_durable: list[Envelope] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)


class Raft:
    """One member of the consensus."""

    def __init__(self, me: Member, timing: Timing, generator: Random, now: int,
                 hard_state: HardState = BLANK, entries: tuple[Entry, ...] = ()) -> None:
        """Start as a follower from what is durable; everything else is forgotten."""
        self.me = me
        self.timing = timing
        self.log = Log(entries)
        self.term, self.vote = hard_state
        self.role = Role.FOLLOWER
        self.leader: Member | None = None
        self.commit = 0
        self._random = generator
        self._durable = self.log.last_index
        self._handed_out = 0                      # last committed index given to the outside
        self._configurations = [(e.index, Configuration.decode(e.data))
                                for e in entries if e.kind == Kind.CONFIGURATION]
        self._votes: dict[Member, bool] = {}
        self._pre = False                         # a candidate that only asks
        self._transfer_to: Member | None = None
        self._heard_leader = now - timing.election_max
        self._saved = hard_state
        self._output = Output()
        self.progress: dict[Member, Progress] = {}
        self._stamped = 0                         # when the last entry was stamped, this term
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

    def next_deadline(self) -> int:
        """Return when `advance` must be called at the latest."""
        if self.role == Role.LEADER:
            return min(self._heartbeat_at, self._quorum_at)
        return self._election_at

    def propose(self, kind: Kind, data: bytes, now: int) -> Entry:
        """Append an entry to the leader's log; raise Refused where this is not the leader."""
        if self.role != Role.LEADER:
            raise Refused('this member does not lead')
        if self._transfer_to is not None:
            raise Refused('leadership is being handed over')
        return self._append(kind, data, now)

    def change_configuration(self, voters: frozenset[Member], learners: frozenset[Member],
                             now: int) -> None:
        """Begin a change of the members; raise Refused while another is under way."""
        if not self.configuration_committed or self.configuration.joint:
            raise Refused('another change of the members is under way')
        if self.log.term(self.commit) != self.term:
            # Otherwise two changes based on different committed ones could overlap
            # (Ongaro, raft-dev, July 2015, "bug in single-server membership changes").
            raise Refused('the leader has not committed in its term yet')
        self.propose(Kind.CONFIGURATION, self.configuration.changed_to(voters, learners).encode(), now)

    def transfer_leadership(self) -> None:
        """Hand leadership to the voter that has most of the log, where there is one."""
        others = [m for m in self.configuration.voters if m != self.me]
        if self.role != Role.LEADER or not others:
            return
        self._transfer_to = max(others, key=lambda m: (self.progress[m].match, m))
        self._finish_transfer()

    def persisted(self, entry: Entry, now: int) -> None:
        """Learn that the log is durable up to this entry."""
        if self.log.term(entry.index) == entry.term and entry.index > self._durable:
            self._durable = entry.index
            self._advance_commit(now)

    def take_output(self) -> Output:
        """Return what is to be done, once; what was proposed since the last time goes together."""
        for member in self.progress:
            self._replicate(member)
        output, self._output = self._output, Output()
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
        if self.role == Role.LEADER:
            if now >= self._quorum_at:
                self._check_quorum(now)
            if self.role == Role.LEADER and now >= self._heartbeat_at:
                self._heartbeat(now)
        elif now >= self._election_at:
            self._start_election_timer(now)
            if self.configuration.may_vote(self.me):
                self._campaign(now, pre=True)
            else:
                self.leader = None

    def _start_election_timer(self, now: int) -> None:
        timing = self.timing
        self._election_at = now + self._random.randint(timing.election_min, timing.election_max)

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
        for member, progress in self.progress.items():
            progress.paused = False
            self._send_append(member, ())

    # Messages ----------------------------------------------------------------------------------
    def step(self, sender: Member, message: Message, now: int) -> None:
        """Take in one message; it may be late, repeated or out of order."""
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
            self._on_append(sender, message, now)
        elif isinstance(message, AppendReply):
            self._on_append_reply(sender, message, now)
        elif self.configuration.may_vote(self.me):
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
        if isinstance(message, Append):
            self._reply(sender, AppendReply(self.term, False, self.log.last_index))
        elif isinstance(message, VoteRequest) and message.pre:
            self._reply(sender, Vote(self.term, False, True))

    def _reply(self, to: Member, message: Message) -> None:
        """Send what promises something: only when all before it is durable."""
        self._output.messages_when_durable.append(Envelope(to, message))

    # Elections ---------------------------------------------------------------------------------
    def _become_follower(self, term: int, leader: Member | None, now: int) -> None:
        if term > self.term:
            self.term, self.vote = term, None
        if self.role != Role.FOLLOWER or leader != self.leader:
            self._start_election_timer(now)
        self.role, self.leader = Role.FOLLOWER, leader
        self.progress, self._transfer_to = {}, None

    def _campaign(self, now: int, *, pre: bool, transfer: bool = False) -> None:
        """Ask for votes, or first whether they would be given."""
        self.role, self.leader, self._pre = Role.CANDIDATE, None, pre
        self._start_election_timer(now)
        term = self.term + 1
        if not pre:
            self.term, self.vote = term, self.me
        self._votes = {self.me: True}
        request = VoteRequest(term, self.log.last_index, self.log.last_term, pre, transfer)
        for member in self.configuration.voters | self.configuration.outgoing:
            if member != self.me:
                self._reply(member, request)
        self._count_votes(now)

    def _on_vote_request(self, sender: Member, request: VoteRequest, now: int) -> None:
        current = self.log.at_least(request.last_index, request.last_term)
        if request.pre:
            granted = current and request.term > self.term
            self._reply(sender, Vote(request.term if granted else self.term, granted, True))
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
        self._quorum_at = now + self.timing.election_max
        self._stamped = now  # the first entry of a term adds nothing to cluster time
        self.progress = {m: Progress(self.log.last_index + 1, heard=now)
                         for m in self.configuration.members if m != self.me}
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
        return entry

    def _configure(self, entry: Entry, now: int) -> None:
        """Put a configuration in force as soon as it is in the log (Raft paper, section 6)."""
        self._configurations.append((entry.index, Configuration.decode(entry.data)))
        if self.role == Role.LEADER:
            wanted = self.configuration.members - {self.me}
            self.progress = {m: self.progress.get(m) or Progress(entry.index, heard=now)
                             for m in wanted}

    def _replicate(self, member: Member) -> None:
        """Send a follower all that it lacks and may get now, or else what was committed."""
        progress = self.progress[member]
        while progress.next <= self.log.last_index and progress.may_send:
            entries = self.log.slice(progress.next, self.log.last_index, MAX_APPEND_BYTES)
            self._send_append(member, entries)
            progress.sent(entries[-1].index)
        if progress.told_commit < self.commit and not progress.paused:
            self._send_append(member, ())

    def _send_append(self, member: Member, entries: tuple[Entry, ...]) -> None:
        progress = self.progress[member]
        progress.told_commit = self.commit
        previous = progress.next - 1
        output = self._output.messages
        if self.log.term(self._durable) != self.term and self.configuration.has_quorum((self.me,)):
            # A sole voter leads before its vote is durable: it could forget this term in a crash
            # and lead it again with other entries.
            output = self._output.messages_when_durable
        output.append(Envelope(member, Append(
            self.term, previous, self.log.term(previous), self.commit, entries)))

    def _on_append(self, sender: Member, append: Append, now: int) -> None:
        assert self.role != Role.LEADER, f'two leaders in term {self.term}: {self.me} and {sender}'
        self._become_follower(append.term, sender, now)
        self._heard_leader = now
        self._start_election_timer(now)
        if self.log.term(append.previous_index) != append.previous_term:
            hint = max(self.commit, self.log.conflict_hint(append.previous_index))
            self._reply(sender, AppendReply(self.term, False, hint))
            return
        self._merge(append.entries, now)
        last = append.previous_index + len(append.entries)
        self.commit = max(self.commit, min(append.commit, last))
        self._reply(sender, AppendReply(self.term, True, last))

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
        if reply.accepted:
            if progress.accepted(min(reply.index, self.log.last_index)):
                self._advance_commit(now)
        else:
            progress.refused(reply.index)
        self._finish_transfer()

    def _advance_commit(self, now: int) -> None:
        """Commit what a quorum has stored; only entries of the own term count (paper, 5.4.2)."""
        if self.role != Role.LEADER:
            return
        match = {m: p.match for m, p in self.progress.items()} | {self.me: self._durable}
        index = self.configuration.committed(match)
        if index <= self.commit or self.log.term(index) != self.term:
            return
        self.commit = index
        if self.configuration_committed:
            self._continue_change(now)

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
