# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scripted scenes that every Raft must survive, named after what they show."""
from __future__ import annotations

from random import Random

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import LEARNER_PATIENCE, PROFILES, Raft
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
import pytest

TIMING = PROFILES['lan']
MILLISECOND = 1_000_000


def member(name: str) -> Member:
    """Return a member whose incarnation follows from its name, as `a` or `a2`."""
    return Member(name[0], int(name[1:] or 1))


def founding(*names: str) -> Entry:
    """Return the first entry of a cluster with these voters."""
    voters = frozenset(map(member, names))
    return Entry(1, 1, 0, Kind.CONFIGURATION, Configuration(voters).encode())


def log(first: Entry, terms: str) -> tuple[Entry, ...]:
    """Return a log with entries of these terms behind the founding one."""
    return (first, *(Entry(i, int(t), 0, Kind.COMMAND, f'{t}.{i}'.encode())
                     for i, t in enumerate(terms, 2)))


class Group:
    """Members that talk over a wire which the test holds in its hands."""

    def __init__(self, *names: str, logs: dict[str, tuple[Entry, ...]] | None = None,
                 terms: dict[str, int] | None = None) -> None:
        """Start them from founding entries, or from given logs and terms."""
        self.now = 0
        self.random = Random(1)
        self.wire: list[tuple[str, Envelope]] = []
        self.heard_by_all: list[tuple[str, Append]] = []
        self.cut: set[str] = set()
        self.disk: dict[str, tuple[HardState, list[Entry]]] = {}
        self.nodes: dict[str, Raft] = {}
        first = founding(*names)
        for name in names:
            entries = (logs or {}).get(name, (first,))
            self.start(name, HardState((terms or {}).get(name, entries[-1].term), None), entries)

    def start(self, name: str, state: HardState = BLANK, entries: tuple[Entry, ...] = ()) -> Raft:
        """Start a member from what is durable."""
        self.nodes[name] = Raft(member(name), TIMING, self.random, self.now, state, entries)
        self.disk[name] = state, list(entries)
        return self.nodes[name]

    def restart(self, name: str) -> Raft:
        """Kill a member and start it from its disk."""
        state, entries = self.disk[name]
        return self.start(name, state, tuple(entries))

    def collect(self, name: str, *, durable: bool = True) -> None:
        """Put what a member has to say on the wire, with its disk writes done or not."""
        node = self.nodes[name]
        while True:
            output = node.take_output()
            said = output.messages + (output.messages_when_durable if durable else [])
            self.wire += [(name, envelope) for envelope in said]
            self.heard_by_all += [(name, append) for append in output.broadcast]
            if not durable or not (said or output.hard_state or output.entries or output.committed):
                return
            state, entries = self.disk[name]
            for entry in output.entries:
                del entries[entry.index - 1:]
                entries.append(entry)
            self.disk[name] = output.hard_state or state, entries
            if output.entries:
                node.persisted(output.entries[-1], self.now)

    def deliver(self, sender: str, envelope: Envelope) -> None:
        """Hand one message to its receiver, unless one of them is cut off."""
        name = next((n for n in self.nodes if member(n) == envelope.to), None)
        if name is None or {sender, name} & self.cut:
            return
        self.nodes[name].step(member(sender), envelope.message, self.now)
        self.collect(name)

    def settle(self) -> None:
        """Deliver all messages until nobody says anything."""
        for name in self.nodes:
            self.collect(name)
        while self.wire or self.heard_by_all:
            if self.wire:
                self.deliver(*self.wire.pop(0))
            else:
                self.spread(*self.heard_by_all.pop(0))

    def spread(self, sender: str, append: Append) -> None:
        """Hand a broadcast to all learners that are not cut off."""
        for name, node in self.nodes.items():
            if member(name) in self.nodes[sender].configuration.learners and not {sender, name} & self.cut:
                node.step(member(sender), append, self.now, broadcast=True)
                self.collect(name)

    def campaign(self, name: str) -> None:
        """Let a member's election time-out pass, for it alone, and the talk that follows."""
        node = self.nodes[name]
        self.now = max(self.now, node.next_deadline())
        node.advance(self.now)
        self.settle()

    def elect(self, name: str) -> Raft:
        """Make a member the leader, after all leases have ended."""
        self.now += 2 * TIMING.election_max
        self.campaign(name)
        assert self.nodes[name].role == Role.LEADER
        return self.nodes[name]

    def beat(self, name: str) -> None:
        """Let a leader send its heartbeat."""
        self.now += TIMING.heartbeat
        self.nodes[name].advance(self.now)
        self.settle()

    def tell(self, to: str, sender: str, message: Message) -> list[Message]:
        """Give one message to a member and return what it answers."""
        node = self.nodes[to]
        self.collect(to)
        self.wire.clear()
        node.step(member(sender), message, self.now)
        self.collect(to)
        answers = [e.message for _, e in self.wire if e.to == member(sender)]
        self.wire.clear()
        return answers

    def terms(self, name: str) -> str:
        """Return the terms of a log's entries, one digit each."""
        node = self.nodes[name]
        return ''.join(str(e.term) for e in node.log.slice(1, node.log.last_index))


# Logs -------------------------------------------------------------------------------------------
@pytest.mark.parametrize('terms', [
    '11445566', '11', '114455666', '1144556677', '1144', '1122233333', ''])
def test_figure_7_divergence_converges(terms: str) -> None:
    """Every follower log of the Raft paper's figure 7 becomes the leader's."""
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c', logs={'a': log(first, '114455666'), 'b': log(first, terms),
                                       'c': log(first, '114455666')}, terms=dict.fromkeys('abc', 7))
    group.cut = {'b'}
    group.elect('a')
    group.cut = set()
    for _ in range(3):
        group.beat('a')
    assert group.nodes['b'].log.slice(1, 99) == group.nodes['a'].log.slice(1, 99)
    assert group.nodes['b'].commit == group.nodes['a'].commit == 11


def test_figure_8_old_entry_is_not_committed_by_counting() -> None:
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c', logs={'a': log(first, '2')}, terms={'a': 3})
    node = group.nodes['a']
    group.now = 3 * TIMING.election_max
    node.advance(group.now)
    node.step(member('b'), Vote(4, True, True), group.now)
    node.step(member('b'), Vote(4, True, False), group.now)
    group.collect('a')
    assert node.role == Role.LEADER and group.terms('a') == '124'
    node.step(member('b'), AppendReply(4, True, 2), group.now)
    assert node.commit == 0
    node.step(member('b'), AppendReply(4, True, 3), group.now)
    assert node.commit == 3


def test_late_append_after_a_longer_one_shortens_nothing() -> None:
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c')
    entries = log(first, '11')
    group.tell('b', 'a', Append(1, 1, 1, 0, entries[1:]))
    assert group.tell('b', 'a', Append(1, 1, 1, 0, entries[1:2])) == [AppendReply(1, True, 2)]
    assert group.terms('b') == '111'


def test_late_append_reply_after_truncation_is_harmless() -> None:
    """A deposed leader that leads again does not count what was acknowledged in its old term."""
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    old = AppendReply(leader.term, True, 9)
    group.cut = {'a'}
    for i in range(5):
        leader.propose(Kind.COMMAND, b'lost%d' % i, group.now)
    group.elect('b')
    group.nodes['b'].propose(Kind.COMMAND, b'kept', group.now)
    group.settle()
    group.cut = set()
    group.beat('b')
    group.beat('b')
    assert group.nodes['a'].log.slice(1, 99) == group.nodes['b'].log.slice(1, 99)
    leader = group.elect('a')
    group.cut = {'b', 'c'}
    entry = leader.propose(Kind.COMMAND, b'new', group.now)
    group.settle()
    group.tell('a', 'c', old)
    assert leader.commit < entry.index


def test_flow_control_resumes_after_lost_appends() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.cut = {'b'}
    for _ in range(100):
        leader.propose(Kind.COMMAND, b'x' * 4000, group.now)
        group.settle()
    group.cut = set()
    for _ in range(3):
        group.beat('a')
    assert group.nodes['b'].log.last_index == leader.log.last_index


def test_flow_control_resumes_after_lost_replies() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    for _ in range(40):
        leader.propose(Kind.COMMAND, b'x', group.now)
        group.collect('a')
        for sender, envelope in group.wire:
            if envelope.to == member('b'):
                group.nodes['b'].step(member(sender), envelope.message, group.now)
        group.nodes['b'].take_output()      # its answers are lost
        group.wire.clear()
    group.beat('a')
    group.beat('a')
    assert group.nodes['b'].log.last_index == leader.log.last_index
    assert leader.progress[member('b')].match == leader.log.last_index


# Elections --------------------------------------------------------------------------------------
def test_pre_vote_with_a_stale_log_does_not_disrupt() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    term = leader.term
    group.cut = {'c'}
    leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    for _ in range(40):
        group.beat('a')
        group.nodes['c'].advance(group.now)
        group.settle()
    assert group.nodes['c'].role == Role.CANDIDATE and group.nodes['c'].term == term
    group.cut = set()
    group.beat('a')
    assert leader.role == Role.LEADER and leader.term == term


def test_stale_log_is_refused_also_without_a_leader() -> None:
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c', logs={'a': log(first, '11'), 'b': log(first, '11'), 'c': log(first, '')})
    group.now += 2 * TIMING.election_max
    group.campaign('c')
    assert group.nodes['c'].role != Role.LEADER and group.nodes['a'].term == 1
    group.elect('a')


@pytest.mark.parametrize('pre', [True, False])
def test_votes_are_refused_inside_the_lease(pre: bool) -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    request = VoteRequest(leader.term + 5, 99, 99, pre, False)
    assert group.tell('b', 'c', request) == []
    assert group.tell('a', 'c', request) == []
    assert group.nodes['b'].term == leader.term and leader.role == Role.LEADER
    group.now += TIMING.election_min
    assert group.tell('b', 'c', request) != []


def test_leader_without_a_quorum_steps_down() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.cut = {'a'}
    for _ in range(10):
        group.beat('a')
    assert leader.role != Role.LEADER
    with pytest.raises(Refused):
        leader.propose(Kind.COMMAND, b'x', group.now)


def test_pre_votes_never_count_as_votes() -> None:
    group = Group('a', 'b', 'c')
    node = group.nodes['a']
    group.now += 2 * TIMING.election_max
    node.advance(max(group.now, node.next_deadline()))
    node.step(member('b'), Vote(2, True, True), group.now)
    assert node.role == Role.CANDIDATE and node.term == 2
    for sender in 'bc':
        for vote in (Vote(2, True, True), Vote(3, True, True)):
            node.step(member(sender), vote, group.now)
    assert node.role == Role.CANDIDATE
    node.step(member('c'), Vote(2, True, False), group.now)
    assert node.role == Role.LEADER


def test_member_of_a_lower_term_does_not_block_elections() -> None:
    """The member with the best log is of an old term; it learns the term and wins."""
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c', logs={'a': log(first, '11')}, terms={'a': 1, 'b': 7, 'c': 7})
    for _ in range(4):
        group.now += 2 * TIMING.election_max
        for name in 'bca':
            group.campaign(name)
    assert [n.role for n in group.nodes.values()].count(Role.LEADER) == 1


def test_leader_of_a_lower_term_learns_of_the_higher_one() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.nodes['c'].term = leader.term + 3
    group.beat('a')
    assert leader.role != Role.LEADER and leader.term == group.nodes['c'].term
    group.elect('a')


def test_one_vote_per_term_survives_a_restart() -> None:
    group = Group('a', 'b', 'c')
    assert group.tell('c', 'a', VoteRequest(5, 1, 1, False, False)) == [Vote(5, True, False)]
    group.restart('c')
    assert group.tell('c', 'b', VoteRequest(5, 1, 1, False, False)) == [Vote(5, False, False)]
    assert group.tell('c', 'a', VoteRequest(5, 1, 1, False, False)) == [Vote(5, True, False)]


def test_vote_is_not_said_before_it_is_durable() -> None:
    group = Group('a', 'b', 'c')
    group.nodes['c'].step(member('a'), VoteRequest(5, 1, 1, False, False), group.now)
    output = group.nodes['c'].take_output()
    assert output.messages == [] and output.hard_state == HardState(5, member('a'))
    assert output.messages_when_durable == [Envelope(member('a'), Vote(5, True, False))]


def test_sole_voter_says_nothing_of_a_term_that_its_disk_may_forget() -> None:
    """It elects itself at once; after a crash it could lead the same term again, with other entries."""
    group = Group('a')
    voter = group.elect('a')
    voter.change_configuration(frozenset({member('a')}), frozenset({member('b')}), group.now)
    group.settle()
    group.restart('a')
    voter = group.nodes['a']
    group.now += 2 * TIMING.election_max
    voter.advance(max(group.now, voter.next_deadline()))
    assert voter.role == Role.LEADER
    voter.propose(Kind.COMMAND, b'x', group.now)
    group.collect('a', durable=False)
    assert group.wire == []
    voter.propose(Kind.COMMAND, b'y', group.now)
    group.collect('a', durable=False)
    assert group.wire == []


# Membership -------------------------------------------------------------------------------------
def test_wiped_voter_counts_for_nothing() -> None:
    """Neither its vote nor its acknowledgement counts under an incarnation that nobody took in."""
    group = Group('a', 'b', 'c')
    node = group.nodes['a']
    group.now += 2 * TIMING.election_max
    node.advance(max(group.now, node.next_deadline()))
    node.step(member('b2'), Vote(2, True, True), group.now)
    assert node.term == 1
    node.step(member('b'), Vote(2, True, True), group.now)
    node.step(member('b2'), Vote(2, True, False), group.now)
    node.step(member('c9'), Vote(2, True, False), group.now)
    assert node.role == Role.CANDIDATE
    node.step(member('b'), Vote(2, True, False), group.now)
    assert node.role == Role.LEADER
    group.collect('a')
    node.step(member('b2'), AppendReply(2, True, 2), group.now)
    assert node.commit == 0
    node.step(member('b'), AppendReply(2, True, 2), group.now)
    assert node.commit == 2


def test_learners_decide_nothing() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.start('d')
    leader.change_configuration(leader.configuration.voters, frozenset({member('d')}), group.now)
    group.settle()
    group.beat('a')
    assert group.nodes['d'].commit == leader.commit
    leader.attend(frozenset({member('d')}))         # the broadcast has only what is committed
    group.beat('a')
    group.cut = {'b', 'c'}
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    assert group.nodes['d'].log.last_index == entry.index and leader.commit < entry.index
    for _ in range(5):
        group.campaign('d')
    assert group.nodes['d'].role == Role.FOLLOWER


def test_learner_that_hears_nothing_knows_no_leader() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.start('d')
    leader.change_configuration(leader.configuration.voters, frozenset({member('d')}), group.now)
    group.settle()
    assert group.nodes['d'].leader == member('a')
    group.now += 2 * LEARNER_PATIENCE
    group.campaign('d')
    assert group.nodes['d'].leader is None


def test_learner_promoted_while_behind_votes_nevertheless() -> None:
    """It does not know yet that it votes; whoever knows may count its vote (thesis 4.2.2)."""
    group = Group('a', 'b', 'c')
    group.elect('a')
    group.start('d')
    assert group.tell('d', 'a', VoteRequest(9, 2, 2, False, False)) == [Vote(9, True, False)]


def test_joint_change_needs_both_majorities() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    for name in 'de':
        group.start(name)
    leader.change_configuration(leader.configuration.voters, frozenset(map(member, 'de')), group.now)
    group.settle()
    group.cut = {'d', 'e'}
    leader.change_configuration(frozenset(map(member, 'ade')), frozenset(), group.now)
    joint = leader.log.last_index
    with pytest.raises(Refused):
        leader.change_configuration(frozenset(map(member, 'abc')), frozenset(), group.now)
    group.settle()
    assert leader.configuration.joint and leader.commit < joint     # b and c alone do not decide
    group.cut = {'b', 'c'}
    group.beat('a')
    group.cut = {'b'}
    for _ in range(3):
        group.beat('a')
    assert not leader.configuration.joint and leader.configuration.voters == set(map(member, 'ade'))
    assert leader.configuration_committed and leader.commit > joint


def test_leader_removed_by_a_change_steps_down_when_it_is_complete() -> None:
    group = Group('a', 'b', 'c', 'd')
    leader = group.elect('a')
    leader.change_configuration(frozenset(map(member, 'bcd')), frozenset(), group.now)
    assert leader.role == Role.LEADER      # it leads until the change is committed
    group.settle()
    assert leader.role == Role.FOLLOWER and leader.term == 2
    group.elect('b')
    assert group.nodes['b'].configuration.voters == set(map(member, 'bcd'))
    term = group.nodes['b'].term
    group.campaign('a')
    assert group.nodes['b'].role == Role.LEADER and group.nodes['b'].term == term


def test_next_leader_completes_a_change_that_was_left_joint() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.start('d')
    leader.change_configuration(leader.configuration.voters, frozenset({member('d')}), group.now)
    group.settle()
    leader.change_configuration(frozenset(map(member, 'abd')), frozenset(), group.now)
    group.collect('a')
    for sender, envelope in [w for w in group.wire if w[1].to != member('a')]:
        group.deliver(sender, envelope)
    group.wire.clear()                     # the acknowledgements are lost, and a dies
    group.cut = {'a'}
    assert group.nodes['b'].configuration.joint
    group.elect('b')
    assert group.nodes['b'].configuration == Configuration(frozenset(map(member, 'abd')))


def test_no_change_before_the_leader_committed_in_its_term() -> None:
    group = Group('a', 'b', 'c')
    group.cut = set()
    node = group.nodes['a']
    group.now += 2 * TIMING.election_max
    node.advance(max(group.now, node.next_deadline()))
    for vote in (Vote(2, True, True), Vote(2, True, False)):
        node.step(member('b'), vote, group.now)
    assert node.role == Role.LEADER
    with pytest.raises(Refused):
        node.change_configuration(frozenset(map(member, 'ab')), frozenset(), group.now)


# Transfer ---------------------------------------------------------------------------------------
def test_transfer_of_leadership_passes_the_lease() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    leader.transfer_leadership()
    with pytest.raises(Refused):
        leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    assert leader.role == Role.FOLLOWER
    assert Role.LEADER in {group.nodes[n].role for n in 'bc'}


def test_transfer_waits_until_the_successor_has_everything() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    leader.propose(Kind.COMMAND, b'x', group.now)
    leader.transfer_leadership()
    group.collect('a')
    assert not any(isinstance(e.message, TimeoutNow) for _, e in group.wire)
    group.settle()
    successor = next(n for n in group.nodes.values() if n.role == Role.LEADER)
    assert successor is not leader and successor.log.last_index == leader.log.last_index


def test_transfer_that_fails_is_given_up() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    leader.transfer_leadership()
    leader.take_output()                   # TimeoutNow is lost
    for _ in range(8):
        group.beat('a')
    assert leader.role == Role.LEADER
    leader.propose(Kind.COMMAND, b'x', group.now)


# Time -------------------------------------------------------------------------------------------
def test_entries_carry_the_time_since_the_one_before_and_elections_add_none() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    assert leader.log.slice(2, 2)[0].elapsed == 0
    group.now += 30 * MILLISECOND
    assert leader.propose(Kind.CLOCK, b'', group.now).elapsed == 30 * MILLISECOND
    assert leader.propose(Kind.CLOCK, b'', group.now).elapsed == 0
    assert leader.propose(Kind.CLOCK, b'', group.now - 5).elapsed == 0
