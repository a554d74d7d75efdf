# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scripted scenes of locks across elections, pauses and restarts of whole members."""
from __future__ import annotations

from calm import Fleet, robots
from muster.cluster.client.guard import FencingGuard, StaleToken
from muster.cluster.member import SECOND
from muster.cluster.state.commands import Acquire, Answer, Code, Operation, Release, Renew
from muster.cluster.state.events import EventType
import pytest

PATIENCE = 3 * SECOND


def founded() -> tuple[Fleet, str, str, str]:
    """Return three voters: the fleet, its leader and the two followers."""
    fleet = Fleet(*robots('abc'))
    fleet.run(2)
    leader, = fleet.leaders()
    first, second = (name for name in 'abc' if name != leader)
    return fleet, leader, first, second


def ask(fleet: Fleet, name: str, operation: Operation, seconds: float = 1) -> Answer | None:
    """Return what a member has answered after a while."""
    ticket = fleet[name].submit(operation, None, PATIENCE, fleet.now)
    fleet.run(seconds)
    return fleet.robots[name].answers.get(ticket)


def kinds(fleet: Fleet, name: str, lock: str = 'dock') -> list[EventType]:
    """Return what happened to a lock, as one member told it."""
    return [EventType(e.type) for e in fleet.robots[name].events if e.subject == lock]


def test_a_stalled_old_leader_revokes_nothing() -> None:
    """By its own clock the lease is over; the cluster has renewed it meanwhile."""
    fleet, old, first, second = founded()
    held = ask(fleet, first, Acquire('dock', 'me', 2 * SECOND, 0))
    assert held is not None and held.code == Code.OK
    fleet.cut = {old}
    stalled, fleet.robots[old].member = fleet.robots[old].member, None
    for _ in range(4):
        renewed = ask(fleet, first, Renew('dock', held.token, 0))
        assert renewed is not None and renewed.code == Code.OK
    fleet.robots[old].member = stalled
    assert stalled is not None and stalled.leads     # it does not know yet
    waiting = stalled.submit(Acquire('dock', 'other', SECOND, 0), None, PATIENCE, fleet.now)
    fleet.robots[old].flush(fleet.now)
    fleet.cut = set()
    fleet.run(1)
    assert fleet.leaders() != [old] and fleet.robots[old].answers[waiting].code == Code.HELD
    for name in (old, first, second):
        assert kinds(fleet, name)[0] == EventType.LOCK_ACQUIRED
        assert EventType.LOCK_EXPIRED not in kinds(fleet, name)


def test_a_waiter_whose_wait_is_over_does_not_get_the_lock() -> None:
    fleet, _, first, second = founded()
    held = ask(fleet, first, Acquire('dock', 'me', 60 * SECOND, 0))
    assert held is not None and held.code == Code.OK
    late = ask(fleet, second, Acquire('dock', 'late', 60 * SECOND, SECOND), 2)
    assert late is not None and late.code == Code.HELD
    assert ask(fleet, first, Release('dock', held.token)) == Answer(Code.OK)
    assert kinds(fleet, second)[-1] == EventType.LOCK_RELEASED
    free = ask(fleet, second, Acquire('dock', 'next', SECOND, 0))
    assert free is not None and free.code == Code.OK


def test_a_lease_survives_failovers_and_ends_after_them() -> None:
    """No election shortens it, and ten of them do not make it immortal."""
    fleet, leader, first, _ = founded()
    held = ask(fleet, first, Acquire('dock', 'me', 4 * SECOND, 0))
    assert held is not None and held.code == Code.OK
    began = fleet.now - SECOND
    for _ in range(5):
        leader, = (name for name in fleet.leaders() if name not in fleet.cut)
        fleet.cut = {leader}
        fleet.run(0.45)
    fleet.cut = set()
    assert fleet.now - began < 4 * SECOND
    fleet.run(0.3)
    assert EventType.LOCK_EXPIRED not in kinds(fleet, first)
    fleet.run(4)
    assert EventType.LOCK_EXPIRED in kinds(fleet, first)


def test_all_restart_at_once_and_no_lock_is_lost() -> None:
    fleet, _, first, _ = founded()
    held = ask(fleet, first, Acquire('dock', 'me', 60 * SECOND, 0))
    assert held is not None and held.code == Code.OK
    for robot in fleet.robots.values():
        robot.start(fleet.now)
    fleet.run(2)
    for name in 'abc':
        answer = ask(fleet, name, Acquire('dock', 'other', SECOND, 0))
        assert answer is not None and answer.code == Code.HELD and answer.holder == 'me'
    assert ask(fleet, first, Release('dock', held.token)) == Answer(Code.OK)


def test_a_critical_section_that_outlives_its_lease_is_stopped_by_its_token() -> None:
    fleet, _, first, second = founded()
    resource = FencingGuard()
    slow = ask(fleet, first, Acquire('dock', 'slow', SECOND, 0))
    assert slow is not None and slow.code == Code.OK
    resource.admit(slow.token)
    quick = ask(fleet, second, Acquire('dock', 'quick', 60 * SECOND, 5 * SECOND), 3)
    assert quick is not None and quick.code == Code.OK and quick.token > slow.token
    resource.admit(quick.token)
    with pytest.raises(StaleToken):
        resource.admit(slow.token)           # it sleeps no longer, and believes to hold the lock
    assert ask(fleet, first, Renew('dock', slow.token, 0)) != Answer(Code.OK)
