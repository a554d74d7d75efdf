# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""How members find, found and rejoin a cluster, and what they report of one another."""
from __future__ import annotations

from calm import Fleet, Robot, robots
from hypothesis import given, settings, strategies as st
from muster.cluster.member import SECOND
from muster.cluster.protocol import Forward, Hello, Join, JoinRefused, Packet
from muster.cluster.raft.types import Append, HardState, Kind, Member, Role
from muster.cluster.state.commands import Acquire, Code
import pytest


def test_who_looks_for_a_cluster_is_answered_also_by_a_silent_learner() -> None:
    fleet = Fleet(*robots('ab', 'auto'))
    fleet.run(6)
    assert fleet['b'].raft is not None and fleet.leaders() == ['a']
    fleet.cut = {'a'}                            # its greetings are lost: the learner alone can tell
    newcomer = Robot('c', 'auto', (), 3)
    fleet.robots['c'] = newcomer
    newcomer.start(fleet.now)
    fleet.run(5)
    assert newcomer.member is not None and newcomer.member.raft is None
    fleet.cut = set()
    fleet.run(3)
    assert newcomer.cluster_id == fleet['a'].cluster_id


def test_listed_members_found_one_cluster_that_all_vote_in() -> None:
    fleet = Fleet(*robots('abc'))
    fleet.run(2)
    assert len(fleet.leaders()) == 1
    assert len({r.cluster_id for r in fleet.robots.values()}) == 1
    for member in map(fleet.__getitem__, 'abc'):
        assert member.raft is not None and {m.id for m in member.raft.configuration.voters} == set('abc')


@pytest.mark.parametrize('missing', 'abc')
def test_a_cluster_is_not_founded_while_a_listed_member_is_missing(missing: str) -> None:
    fleet = Fleet(*robots('abc'))
    fleet.cut = {missing}
    fleet.run(5)
    assert fleet.leaders() == [] and not any(r.cluster_id for r in fleet.robots.values())
    fleet.cut = set()
    fleet.run(2)
    assert len(fleet.leaders()) == 1


def test_members_with_different_lists_found_nothing() -> None:
    for lists in (('ab', 'abc'), ('abc', 'ab')):
        fleet = Fleet(Robot('a', 'members', tuple(lists[0]), 1), Robot('b', 'members', tuple(lists[1]), 2))
        fleet.run(6)
        assert not any(r.cluster_id for r in fleet.robots.values())


def test_alone_leads_within_a_second() -> None:
    fleet = Fleet(*robots('a', 'alone'))
    fleet.run(0.5)
    assert fleet.leaders() == ['a']


def test_auto_listens_and_then_the_lowest_founds_and_the_others_join() -> None:
    fleet = Fleet(*robots('bac', 'auto'))
    fleet.run(2.9)
    assert not any(r.cluster_id for r in fleet.robots.values())
    fleet.run(6)
    assert fleet.leaders() == ['a']
    raft = fleet['a'].raft
    assert raft is not None and {m.id for m in raft.configuration.voters} == set('abc')


def test_join_never_founds() -> None:
    fleet = Fleet(*robots('ab', 'join'))
    fleet.run(10)
    assert not any(r.cluster_id for r in fleet.robots.values())


def test_a_wiped_member_joins_as_a_learner_and_is_swapped_in() -> None:
    fleet = Fleet(*robots('abc'))
    fleet.run(2)
    leader = fleet.leaders()[0]
    robot = next(r for r in fleet.robots.values() if r.name != leader)
    robot.wipe(99)
    robot.start(fleet.now)
    seen = set()
    for _ in range(100):
        fleet.run(0.1)
        raft = fleet[leader].raft
        assert raft is not None
        if robot.me in raft.configuration.learners:
            seen.add('learner')
        if robot.me in raft.configuration.voters and not raft.configuration.joint:
            break
    assert seen == {'learner'}
    assert {m.id: m.incarnation for m in raft.configuration.voters}[robot.name] == 99
    assert len(raft.configuration.members) == 3


def test_a_member_whose_admission_was_lost_asks_again() -> None:
    """It adopted the cluster from a leader that died with the entry."""
    fleet = Fleet(*robots('abc'))
    fleet.run(2)
    newcomer = Robot('d', 'join', (), 9)
    newcomer.cluster_id = fleet.robots['a'].cluster_id          # all that is left of its admission
    newcomer.state = HardState(1, None)
    fleet.robots['d'] = newcomer
    newcomer.start(fleet.now)
    fleet.run(5)
    raft = fleet[fleet.leaders()[0]].raft
    assert raft is not None and newcomer.me in raft.configuration.learners
    assert fleet['d'].leader == fleet.leaders()[0]


def test_two_clusters_of_one_name_are_reported_on_both_with_both_ids() -> None:
    fleet = Fleet(*robots('ab', 'alone'))
    fleet.run(3)
    ids = {r.cluster_id for r in fleet.robots.values()}
    assert len(ids) == 2 and fleet.leaders() == ['a', 'b']
    for name in 'ab':
        [text] = fleet[name].problems(fleet.now)
        assert all(cluster_id in text for cluster_id in ids) and 'stop its members' in text


def test_two_live_members_of_one_id_are_reported() -> None:
    fleet = Fleet(*robots('abc'))
    fleet.run(2)
    twin = Member('b', 77)
    for name in 'ab':
        for _ in range(2):
            for member in (twin, fleet.robots['b'].me):
                fleet[name].receive(Packet('', member, Member('', 0), Hello((), False, '')), fleet.now)
        assert any("themselves 'b'" in p or "calls itself 'b'" in p
                   for p in fleet[name].problems(fleet.now)), name
    fleet[fleet.leaders()[0]].receive(Packet(fleet.robots['a'].cluster_id, Member('c', 78), fleet.robots[
        fleet.leaders()[0]].me, Join()), fleet.now)
    assert fleet[fleet.leaders()[0]].problems(fleet.now)


def test_a_twin_of_a_live_member_is_not_taken_in() -> None:
    fleet = Fleet(*robots('abc'))
    fleet.run(2)
    leader = fleet.leaders()[0]
    other = next(n for n in 'abc' if n != leader)
    join = Packet(fleet.robots[leader].cluster_id, Member(other, 78), fleet.robots[leader].me, Join())
    fleet[leader].receive(join, fleet.now)
    bodies = [p.body for p in fleet.robots[leader].flush(fleet.now)]
    assert any(isinstance(b, JoinRefused) and 'in use by a live member' in b.reason for b in bodies)
    raft = fleet[leader].raft
    assert raft is not None and Member(other, 78) not in raft.configuration.members


def test_a_request_that_slept_with_its_robot_is_not_sent_afterwards() -> None:
    """Its client was told that nobody knows, and the session that would notice a copy is over."""
    fleet = Fleet(*robots('abc'))
    fleet.run(2)
    follower = next(n for n in 'abc' if n not in fleet.leaders())
    fleet[follower].submit(Acquire('dock', 'x', SECOND, 0), None, SECOND, fleet.now)
    fleet.robots[follower].flush(fleet.now)
    raft = fleet[follower].raft
    assert raft is not None
    successor = next(r for r in fleet.robots.values() if r.name != follower and not r.member.leads)
    greeting = Append(raft.term + 1, 0, 0, 0, ())
    later = fleet.now + 900 * SECOND
    fleet[follower].receive(Packet(successor.cluster_id, successor.me, raft.me, greeting), later)
    fleet[follower].advance(later)
    effects = fleet[follower].take_effects()
    assert not any(isinstance(p.body, Forward) for p in effects.packets)
    assert [answer.code for _, answer in effects.answers] == [Code.OUTCOME_UNKNOWN]


ACTIONS = st.lists(st.tuples(st.sampled_from(('advance', 'deliver', 'repeat', 'drop', 'restart', 'wipe')),
                             st.integers(0, 10**6)), max_size=150)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_two_empty_robots_found_one_cluster_or_none(actions: list[tuple[str, int]]) -> None:
    """Whatever the order of messages, restarts, and one disk that is lost at any moment."""
    pair = robots('ab')
    packets: list[Packet] = []
    now, wiped, led = 0, False, set()
    for robot in pair:
        robot.start(now)
    for what, number in actions:
        robot = pair[number % 2]
        member = robot.member
        assert member is not None
        if what == 'advance':
            now = max(now, member.next_deadline())
            member.advance(now)
            packets += robot.flush(now)
        elif what in ('deliver', 'repeat', 'drop') and packets:
            packet = packets[number % len(packets)] if what == 'repeat' else \
                packets.pop(number % len(packets))
            for receiver in pair:
                if what != 'drop' and packet.receiver.id in ('', receiver.name):
                    assert receiver.member is not None
                    receiver.member.receive(packet, now)
                    packets += receiver.flush(now)
        elif what == 'restart':
            robot.start(now)
        elif what == 'wipe' and not wiped:
            wiped = True
            robot.wipe(number + 10)
            robot.start(now)
        led |= {r.cluster_id for r in pair if r.member and r.member.raft
                and r.member.raft.role == Role.LEADER}
        assert len(led) <= 1


def test_founding_writes_the_cluster_before_anybody_hears_of_it() -> None:
    robot = robots('a', 'alone')[0]
    robot.start(0).advance(SECOND)
    assert robot.member is not None
    effects = robot.member.take_effects()
    assert effects.record.cluster_id and effects.record.hard_state
    assert effects.record.entries[0].kind == Kind.CONFIGURATION
    assert all(isinstance(p.body, Hello) and not p.cluster_id for p in effects.packets)
