# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scripted scenes of members that come, go and are replaced."""
from __future__ import annotations

from group import Group, member, TIMING
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import LEARNER_PATIENCE
from muster.cluster.raft.types import AppendReply, Entry, Kind, Refused, Role, Vote, VoteRequest
import pytest


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
    group.take_in(leader, 'd')
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
    group.take_in(leader, 'd')
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
    group.take_in(leader, 'de')
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
    group.take_in(leader, 'd')
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


def test_an_election_in_a_joint_configuration_needs_both_majorities() -> None:
    old, joint = Configuration(frozenset(map(member, 'abc'))), frozenset(map(member, 'ade'))
    first = Entry(1, 1, 0, Kind.CONFIGURATION, old.encode())
    entries = (first, Entry(2, 1, 0, Kind.CONFIGURATION, old.changed_to(joint, ()).encode()))
    group = Group('a', 'b', 'c', 'd', 'e', logs=dict.fromkeys('abcde', entries))
    node = group.nodes['a']
    group.now += 2 * TIMING.election_max
    node.advance(max(group.now, node.next_deadline()))
    for pre in (True, False):
        term = node.term + pre
        node.step(member('d'), Vote(term, True, pre), group.now)
        node.step(member('e'), Vote(term, True, pre), group.now)
        assert node.role == Role.CANDIDATE and node.term == term - pre   # all new voters, one old one
        node.step(member('b'), Vote(term, True, pre), group.now)
    assert node.role == Role.LEADER


def test_a_change_that_was_not_committed_is_taken_back_with_its_leader() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.take_in(leader, 'd')
    before = leader.configuration
    group.cut = {'a'}
    leader.change_configuration(frozenset(map(member, 'abd')), frozenset(), group.now)
    group.settle()
    assert leader.configuration.joint and not leader.configuration_committed
    group.elect('b')
    group.cut = set()
    group.beat('b')
    group.beat('b')
    assert leader.role == Role.FOLLOWER and leader.configuration == before
    assert leader.log.slice(1, 99) == group.nodes['b'].log.slice(1, 99)


def test_a_dead_voter_is_replaced_in_one_change() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.take_in(leader, 'd')
    group.cut = {'c'}
    leader.change_configuration(frozenset(map(member, 'abd')), frozenset({member('c')}), group.now)
    for _ in range(3):
        group.beat('a')
    assert leader.configuration == Configuration(frozenset(map(member, 'abd')), frozenset(),
                                                 frozenset({member('c')}))
    group.cut = {'b', 'c'}
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    for _ in range(2):
        group.beat('a')
    assert leader.commit == entry.index
    group.cut = set()
    for _ in range(2):
        group.beat('a')
    for _ in range(3):
        group.campaign('c')                # it is no voter any more, and it knows
    assert leader.role == Role.LEADER
