# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scripted scenes of whole members: reads, wishes of operators, disks that are full, snapshots, health."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from calm import Fleet, Robot, robots
from muster.cluster.caretaker import Care
from muster.cluster.member import MILLISECOND, Policy, SECOND
from muster.cluster.raft.types import Kind
from muster.cluster.requests import MAX_PENDING
from muster.cluster.state import sessions
from muster.cluster.state.commands import Acquire, Answer, Code, Health, Invalid, Register, Release
from muster.cluster.state.events import EventType
import pytest

PATIENCE = 3 * SECOND
LEASE = 30 * SECOND


@contextmanager
def policy(chosen: Policy) -> Iterator[None]:
    """Let all robots of a scene follow a policy."""
    usual, Robot.policy = Robot.policy, chosen
    try:
        yield
    finally:
        Robot.policy = usual


def founded(names: str = 'abc') -> tuple[Fleet, str, list[str]]:
    """Return a fleet of voters with its leader and its followers."""
    fleet = Fleet(*robots(names))
    fleet.run(2)
    leader, = fleet.leaders()
    return fleet, leader, [name for name in names if name != leader]


def asked(fleet: Fleet, name: str, ticket: int, seconds: float = 1) -> Answer | None:
    """Return what a request was answered, if it was, after a while."""
    fleet.run(seconds)
    return fleet.robots[name].answers.get(ticket)


def take(fleet: Fleet, name: str, lock: str = 'dock') -> Answer | None:
    """Ask a member for a lock."""
    return asked(fleet, name, fleet[name].submit(Acquire(lock, 'me', LEASE, 0), None, PATIENCE, fleet.now))


# Reads ------------------------------------------------------------------------------------------
def test_every_member_reads_what_was_acknowledged_before() -> None:
    fleet, leader, _ = founded()
    answer = take(fleet, leader)
    assert answer is not None and answer.code == Code.OK
    entries = fleet[leader].machine.applied
    for name in 'abc':
        ticket = fleet[name].read(PATIENCE, fleet.now)
        assert asked(fleet, name, ticket, 0.1) == Answer(Code.OK)
        assert fleet[name].machine.applied >= answer.token
    assert fleet[leader].machine.applied <= entries + 1      # reads append nothing


def test_a_read_without_a_quorum_is_not_answered_from_old_state() -> None:
    fleet, leader, _ = founded()
    fleet.cut = {leader}
    ticket = fleet[leader].read(SECOND, fleet.now)
    answer = asked(fleet, leader, ticket, 2)
    assert answer is not None and answer.code == Code.NO_QUORUM


def test_a_read_outlives_the_leader() -> None:
    fleet, leader, followers = founded()
    fleet.cut = {leader}
    ticket = fleet[followers[0]].read(PATIENCE, fleet.now)
    assert asked(fleet, followers[0], ticket, 2) == Answer(Code.OK)


def test_requests_beyond_the_limit_are_told_so() -> None:
    fleet, leader, _ = founded()
    member = fleet[leader]
    tickets = [member.submit(Acquire(f'lock {i}', 'me', LEASE, 0), None, PATIENCE, fleet.now)
               for i in range(MAX_PENDING + 20 - member.pending)]
    answers = [asked(fleet, leader, ticket, 0 if i else 0.2) for i, ticket in enumerate(tickets)]
    codes = [answer.code for answer in answers if answer is not None]
    assert len(codes) == len(tickets)
    assert codes.count(Code.BUSY) == 20 and codes.count(Code.OK) == len(codes) - 20


@pytest.mark.parametrize('through', [0, 1])
def test_a_member_expects_something_until_it_has_answered(through: int) -> None:
    fleet, leader, followers = founded()
    name = followers[0] if through else leader
    member = fleet[name]
    assert not member.expectant
    ticket = member.submit(Acquire('dock', 'me', LEASE, 0), None, PATIENCE, fleet.now)
    assert member.expectant
    assert asked(fleet, name, ticket) is not None and not member.expectant
    ticket = member.read(PATIENCE, fleet.now)
    assert member.expectant
    assert asked(fleet, name, ticket) is not None and not member.expectant


def test_who_waits_for_a_lock_is_not_expected_to_be_answered_soon() -> None:
    fleet, leader, followers = founded()
    first = take(fleet, leader)
    assert first is not None
    member = fleet[followers[0]]
    ticket = member.submit(Acquire('dock', 'another', LEASE, 20 * SECOND), None, PATIENCE, fleet.now)
    assert asked(fleet, followers[0], ticket) is None
    assert member.pending == 1 and not member.expectant and not fleet[leader].expectant
    fleet[leader].submit(Release('dock', first.token), None, PATIENCE, fleet.now)
    answer = asked(fleet, followers[0], ticket)
    assert answer is not None and answer.code == Code.OK
    assert not member.pending and not member.expectant


# Operators --------------------------------------------------------------------------------------
@pytest.mark.parametrize('through', [0, 1])
def test_leadership_is_handed_over_on_request(through: int) -> None:
    fleet, leader, followers = founded()
    asking, to = (leader, followers[0]) if through else (followers[1], followers[0])
    ticket = fleet[asking].transfer(to, PATIENCE, fleet.now)
    assert asked(fleet, asking, ticket) == Answer(Code.OK) and fleet.leaders() == [to]


def test_an_impossible_hand_over_is_refused_by_name() -> None:
    fleet, leader, _ = founded()
    with pytest.raises(Invalid, match="'x' does not vote"):
        fleet[leader].transfer('x', PATIENCE, fleet.now)
    alone = Fleet(*robots('a', 'alone'))
    alone.run(1)
    with pytest.raises(Invalid, match='no other voter'):
        alone['a'].transfer('', PATIENCE, alone.now)


@pytest.mark.parametrize('removed', ['leader', 'follower'])
def test_a_removed_robot_does_not_come_back_until_its_disk_is_gone(removed: str) -> None:
    fleet, leader, followers = founded()
    name = leader if removed == 'leader' else followers[0]
    asking = followers[1]
    ticket = fleet[asking].remove(name, PATIENCE, fleet.now)
    assert asked(fleet, asking, ticket, 2) == Answer(Code.OK)
    fleet.run(5)
    present = {m.id for m in fleet[asking].raft.configuration.members}  # type: ignore[union-attr]
    assert name not in present and 'was removed' in ' '.join(fleet[name].problems(fleet.now))
    fleet.robots[name].wipe(99)
    fleet.robots[name].mode = 'join'
    fleet.robots[name].start(fleet.now)
    fleet.run(5)
    assert name in {m.id for m in fleet[asking].raft.configuration.members}  # type: ignore[union-attr]


def test_who_cannot_be_removed_is_named() -> None:
    fleet, leader, _ = founded()
    with pytest.raises(Invalid, match="'x' is no member"):
        fleet[leader].remove('x', PATIENCE, fleet.now)
    alone = Fleet(*robots('a', 'alone'))
    alone.run(1)
    with pytest.raises(Invalid, match='only voter'):
        alone['a'].remove('a', PATIENCE, alone.now)


# The disk ---------------------------------------------------------------------------------------
def test_a_leader_whose_disk_is_full_hands_over_and_says_so() -> None:
    fleet, leader, followers = founded()
    assert take(fleet, leader) is not None
    fleet[leader].disk_stalled('No space left on device', fleet.now)
    fleet.run(1)
    assert fleet.leaders() and fleet.leaders() != [leader]
    assert 'No space left' in fleet[leader].problems(fleet.now)[0]
    refused = take(fleet, leader, 'other')
    assert refused is not None and refused.code == Code.STORAGE and leader in refused.message
    assert fleet[leader].machine.locks.holder('dock') is not None       # what it has, it still tells
    answer = take(fleet, followers[0], 'other')
    assert answer is not None and answer.code == Code.OK
    fleet[leader].disk_stalled('', fleet.now)
    answer = take(fleet, leader, 'third')
    assert answer is not None and answer.code == Code.OK and not fleet[leader].problems(fleet.now)


def test_a_full_disk_does_not_hand_over_to_the_dead() -> None:
    fleet, leader, followers = founded('abcde')
    fleet.cut = {max(followers)}
    fleet.run(0.3)
    fleet[leader].disk_stalled('No space left on device', fleet.now)
    fleet.run(1)
    assert fleet.leaders() and leader not in fleet.leaders()


def test_a_member_with_a_full_disk_says_why_it_cannot_read() -> None:
    fleet, _, followers = founded()
    member = fleet[followers[0]]
    member.disk_stalled('No space left on device', fleet.now)
    answer = asked(fleet, followers[0], member.read(PATIENCE, fleet.now), 0.1)
    assert answer is not None and answer.code == Code.STORAGE and 'No space' in answer.message


# Snapshots --------------------------------------------------------------------------------------
def test_a_member_begins_from_its_snapshot_and_tells_nothing_twice() -> None:
    with policy(Policy(compact_after=8)):
        fleet, leader, followers = founded()
        for i in range(20):
            assert take(fleet, leader, f'lock {i}') is not None
        robot = fleet.robots[followers[0]]
        assert robot.snapshot is not None and robot.member is not None
        before = robot.member.machine.digest()
        told = [(e.revision, e.ordinal) for e in robot.events]
        assert told == sorted(set(told))
        robot.start(fleet.now)
        fleet.run(1)
        assert take(fleet, leader, 'after the restart') is not None
        assert robot.member.machine.digest() == fleet[leader].machine.digest() != before
        told = [(e.revision, e.ordinal) for e in robot.events]
        assert told == sorted(set(told))
        gaps = [e for e in robot.events if e.type == EventType.GAP]
        for gap in gaps:      # every event is told, or lies in a gap
            assert gap.token <= gap.revision
        last = fleet[leader].machine.applied
        heard = {e.revision for e in fleet.robots[leader].events}
        covered = {e.revision for e in robot.events} | {
            r for gap in gaps for r in range(gap.token, gap.revision + 1)}
        assert heard <= covered | {last}


def test_a_restarted_member_tells_a_gap_also_where_its_log_ends_without_events() -> None:
    fleet, leader, followers = founded()
    assert take(fleet, leader) is not None
    fleet.run(2.5)
    robot = fleet.robots[followers[0]]
    assert robot.entries[-1].kind == Kind.CLOCK
    last, before = robot.entries[-1].index, len(robot.events)
    robot.start(fleet.now)
    fleet.run(1.5)
    gap = robot.events[before]
    assert gap.type == EventType.GAP and (gap.token, gap.revision) == (1, last)


def test_a_member_that_missed_the_log_gets_the_state_and_a_gap() -> None:
    with policy(Policy(compact_after=8)):
        fleet, leader, followers = founded()
        behind = followers[0]
        fleet.cut = {behind}
        for i in range(30):
            assert take(fleet, leader, f'lock {i}') is not None
        fleet.cut = set()
        fleet.run(2)
        robot = fleet.robots[behind]
        assert robot.snapshot is not None
        assert fleet[behind].machine.digest() == fleet[leader].machine.digest()
        gap = [e for e in robot.events if e.type == EventType.GAP][-1]
        before = [e.revision for e in robot.events if e.revision < gap.token]
        assert gap.token == max(before) + 1 and gap.revision == robot.snapshot.index


@pytest.mark.parametrize(('ends', 'code'), [
    ('granted and over', Code.NOT_FOUND), ('granted', Code.OK), ('waits', Code.QUEUED)])
def test_a_wait_that_a_snapshot_overtakes_is_not_executed_again(
        ends: str, code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its member's session expires meanwhile: a second copy could not be told from a first (seed 5502)."""
    monkeypatch.setattr(sessions, 'LIFETIME', 10 * SECOND)
    with policy(Policy(compact_after=8)):
        fleet, leader, followers = founded()
        behind = followers[0]
        held = take(fleet, leader)
        assert held is not None
        lease = SECOND if ends == 'granted and over' else 3600 * SECOND
        wait = Acquire('dock', 'late', lease, 3600 * SECOND)
        ticket = fleet[behind].submit(wait, None, PATIENCE, fleet.now)
        assert asked(fleet, behind, ticket) is None      # it is queued
        fleet.cut = {behind}
        if ends != 'waits':
            released = fleet[leader].submit(Release('dock', held.token), None, PATIENCE, fleet.now)
            assert asked(fleet, leader, released) == Answer(Code.OK)
        for i in range(20):      # the lease of what is held ends later
            assert take(fleet, leader, f'lock {i}') is not None
        fleet.cut = set()
        answer = asked(fleet, behind, ticket, 3)
        assert fleet.robots[behind].snapshot is not None
        assert (answer.code if answer is not None else Code.QUEUED) == code
        grants = [e for e in fleet.robots[leader].events
                  if e.type == EventType.LOCK_ACQUIRED and e.owner == 'late']
        assert len(grants) == (ends != 'waits')


# Health -----------------------------------------------------------------------------------------
CARE = Care(suspect_after=SECOND // 2, dead_after=SECOND, promotion_delay=5 * SECOND)


def test_a_dead_robots_services_go_and_are_announced_again_when_it_is_back() -> None:
    with policy(Policy(CARE)):
        fleet, leader, followers = founded()
        lost = followers[0]
        camera = Register(lost, 'camera', 'sensor', ('rgb',), '{}', 0)
        ticket = fleet[lost].submit(camera, None, PATIENCE, fleet.now)
        answer = asked(fleet, lost, ticket)
        assert answer is not None and answer.code == Code.OK
        assert [s.name for s in fleet[leader].machine.registry.find(robot=lost)] == ['camera']
        fleet.cut = {lost}
        fleet.run(4)
        assert fleet[leader].machine.members[lost].health == Health.DEAD
        assert not fleet[leader].machine.registry.find(robot=lost)
        fleet.cut = set()
        fleet.run(3)
        assert fleet[leader].machine.members[lost].health == Health.ALIVE
        assert [s.name for s in fleet[leader].machine.registry.find(robot=lost)] == ['camera']


def test_a_voter_that_stays_dead_is_replaced_and_learns_when_it_is_back() -> None:
    with policy(Policy(CARE)):
        fleet, leader, followers = founded()
        newcomer = Robot('d', 'join', (), 9)
        fleet.robots['d'] = newcomer
        newcomer.start(fleet.now)
        fleet.run(3)
        assert {m.id for m in fleet[leader].raft.configuration.learners} == {'d'}  # type: ignore[union-attr]
        lost = followers[0]
        fleet.cut = {lost}
        fleet.run(4)
        configuration = fleet[leader].raft.configuration  # type: ignore[union-attr]
        assert lost in {m.id for m in configuration.voters}     # not before the delay is over
        fleet.run(5)
        configuration = fleet[leader].raft.configuration  # type: ignore[union-attr]
        assert {m.id for m in configuration.voters} == {leader, followers[1], 'd'}
        assert {m.id for m in configuration.learners} == {lost}
        fleet.cut = set()
        fleet.run(4)
        assert fleet[lost].machine.applied >= fleet[leader].machine.applied - 1
        configuration = fleet[lost].raft.configuration  # type: ignore[union-attr]
        assert {m.id for m in configuration.learners} == {lost}


def test_learners_serve_requests_at_once() -> None:
    """A learner waits for no heartbeat: who forwarded something hears of its commitment first."""
    fleet, leader, _ = founded()
    learner = Robot('d', 'join', (), 9)
    fleet.robots['d'] = learner
    learner.start(fleet.now)
    fleet.run(4)
    assert fleet[leader].raft.progress[learner.me].listening  # type: ignore[union-attr]
    begun = fleet.now
    ticket = fleet['d'].submit(Acquire('dock', 'me', LEASE, 0), None, PATIENCE, begun)
    while ticket not in learner.answers:
        fleet.run(0.01)
        assert fleet.now - begun <= 30 * MILLISECOND
    token = learner.answers[ticket].token
    ticket = fleet['d'].submit(Release('dock', token), None, PATIENCE, fleet.now)
    answer = asked(fleet, 'd', ticket, 0.05)
    assert answer is not None and answer.code == Code.OK
