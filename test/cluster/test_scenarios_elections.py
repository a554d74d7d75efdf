# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scripted scenes of elections, votes and hand-overs."""
from __future__ import annotations

from group import founding, Group, log, member, TIMING
from muster.cluster.raft.types import (
    Append,
    Envelope,
    HardState,
    Kind,
    Refused,
    Role,
    TimeoutNow,
    Vote,
    VoteRequest,
)
import pytest


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


def test_who_refuses_a_stale_log_where_no_leader_is_stands_soon() -> None:
    """Of two that outlive a leader the one may have to wait for its time-out that cannot win."""
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c', logs={'a': log(first, '11'), 'b': log(first, '11'), 'c': log(first, '')})
    group.cut = {'a'}
    group.now += 2 * TIMING.election_max
    group.campaign('c')
    refused = group.now
    group.campaign('b')
    assert group.nodes['b'].role == Role.LEADER and group.now <= refused + TIMING.heartbeat // 2


def test_two_who_ask_at_once_both_stand_and_one_of_them_wins_the_next_term() -> None:
    """A pre-vote binds nobody: both get a quorum of them, split the votes, and try again."""
    group = Group('a', 'b', 'c')
    group.elect('a')
    group.cut = {'a'}
    group.now += 2 * TIMING.election_max
    for name in 'bc':
        node = group.nodes[name]
        node.advance(max(group.now, node.next_deadline()))
    for name in 'bc':
        group.collect(name)
    assert all(envelope.message.pre for _, envelope in group.wire)
    group.settle()
    assert [group.nodes[name].role for name in 'bc'] == [Role.CANDIDATE] * 2
    assert {(group.nodes[n].term, group.nodes[n].vote) for n in 'bc'} == {(3, member('b')), (3, member('c'))}
    group.campaign('c')
    assert group.nodes['c'].role == Role.LEADER and group.nodes['c'].term == 4


def test_a_candidate_yields_to_the_leader_of_its_term() -> None:
    group = Group('a', 'b', 'c')
    node = group.nodes['b']
    group.now += 2 * TIMING.election_max
    node.advance(max(group.now, node.next_deadline()))
    node.step(member('c'), Vote(2, True, True), group.now)
    assert (node.role, node.term, node.vote) == (Role.CANDIDATE, 2, member('b'))
    group.tell('b', 'a', Append(2, 1, 1, 0, ()))
    assert (node.role, node.leader, node.vote) == (Role.FOLLOWER, member('a'), member('b'))


def test_votes_of_an_earlier_term_count_for_nothing() -> None:
    group = Group('a', 'b', 'c')
    node = group.nodes['a']
    for term in (2, 3):
        group.now += 2 * TIMING.election_max
        node.advance(max(group.now, node.next_deadline()))
        node.step(member('b'), Vote(term, True, True), group.now)
    assert (node.role, node.term) == (Role.CANDIDATE, 3)
    node.step(member('c'), Vote(2, True, False), group.now)
    assert node.role == Role.CANDIDATE
    node.step(member('c'), Vote(3, True, False), group.now)
    assert node.role == Role.LEADER


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


# Hand-over ---------------------------------------------------------------------------------------
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


@pytest.mark.parametrize('chosen', ['b', 'c'])
def test_leadership_goes_to_the_one_that_was_chosen(chosen: str) -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    leader.transfer_leadership(member(chosen))
    group.settle()
    assert [name for name in 'abc' if group.nodes[name].role == Role.LEADER] == [chosen]
