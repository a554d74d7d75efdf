# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real members in network namespaces, parted by the kernel: what a fleet meets when the radio fades."""
from __future__ import annotations

from builtin_interfaces.msg import Duration
from muster_interfaces.msg import ClusterStatus, ErrorCode
from muster_interfaces.srv import ReleaseLock
from network import network
from processes import Fleet, wait_until
import pytest
from robots import check_history, comparable, NAMES, Robots

pytestmark = [pytest.mark.processes, pytest.mark.own_process, pytest.mark.timeout(180)]


def agree(robots: Robots) -> None:
    """Wait until all members tell one history; at no time may one tell another."""
    def one() -> bool:
        histories = [comparable(robots.events(name)) for name in NAMES]
        shortest = min(map(len, histories))
        assert all(history[:shortest] == histories[0][:shortest] for history in histories)
        return shortest == max(map(len, histories))
    wait_until(one, 30, 'all members know the same events')
    check_history(robots.events(NAMES[0]))


def test_an_unplugged_leader_is_succeeded_and_follows_when_it_is_back(fleet: Fleet) -> None:
    with network(fleet, NAMES) as wires:
        robots = Robots(fleet)
        robots.start()
        old = robots.leader()
        term = robots.status(old).term
        assert robots.acquire(old, 'before', 600.0).success
        wires.cut(old)
        others = tuple(name for name in NAMES if name != old)
        new = robots.leader(*others)
        assert new != old and robots.status(new).term > term
        assert robots.acquire(others[0], 'during', 600.0).success
        assert robots.acquire(others[1], 'before', 600.0).error_code == ErrorCode.HELD
        led = robots.status(new).term
        wires.join(old)
        wait_until(lambda: robots.status(old).leader == new, 30, 'the old leader follows')
        assert robots.status(old).term == led == robots.status(new).term
        assert robots.acquire(old, 'during', 600.0).error_code == ErrorCode.HELD
        agree(robots)


def test_a_follower_that_was_away_disturbs_nobody(fleet: Fleet) -> None:
    """It asks for no election in a higher term when it is back (pre-vote)."""
    with network(fleet, NAMES) as wires:
        robots = Robots(fleet)
        robots.start()
        leader = robots.leader()
        term = robots.status(leader).term
        away = next(name for name in NAMES if name != leader)
        wires.cut(away)
        tokens = [robots.acquire(leader, f'lock{i}', 600.0).fencing_token for i in range(20)]
        wait_until(lambda: robots.acquire(leader, 'clock', 0.2, wait_timeout=Duration(sec=5)).success
                   and robots.status(leader).cluster_time.sec >= 2, 30, 'two seconds of cluster time')
        wires.join(away)
        wait_until(lambda: robots.status(away).applied_index >= max(tokens), 30, 'it catches up')
        assert (robots.leader(), robots.status(leader).term) == (leader, term)
        agree(robots)


def test_a_leader_that_no_member_hears_grants_nothing(fleet: Fleet) -> None:
    """Its clients reach it still; the members hear no word of it, and it hears them."""
    with network(fleet, NAMES) as wires:
        robots = Robots(fleet)
        robots.start()
        old = robots.leader()
        others = tuple(name for name in NAMES if name != old)
        held = robots.acquire(old, 'dock', 600.0)
        assert held.success
        for name in others:
            wires.mute(old, name)
        refused = robots.acquire(old, 'taken', 600.0, timeout=30.0)
        assert refused.error_code in (ErrorCode.OUTCOME_UNKNOWN, ErrorCode.NO_QUORUM)
        new = robots.leader(*others)
        assert new != old
        wait_until(lambda: robots.status(old).role != ClusterStatus.LEADER, 30, 'it leads no more')
        released = robots.call(new, 'release_lock', ReleaseLock, name='dock',
                               fencing_token=held.fencing_token)
        assert released.success
        for name in others:
            wires.unmute(old, name)
        wait_until(lambda: robots.status(old).leader, 30, 'it knows a leader')
        agree(robots)


def test_no_half_of_a_fleet_decides_without_the_other(fleet: Fleet) -> None:
    with network(fleet, NAMES) as wires:
        robots = Robots(fleet)
        robots.start()
        leader = robots.leader()
        wires.cut(*(name for name in NAMES if name != leader))
        answer = robots.acquire(leader, 'dock', 600.0, timeout=30.0)
        assert answer.error_code in (ErrorCode.OUTCOME_UNKNOWN, ErrorCode.NO_QUORUM)
        wait_until(lambda: robots.status(leader).role != ClusterStatus.LEADER, 30, 'it steps down')
        answer = robots.acquire(leader, 'dock', 600.0, timeout=30.0)
        assert answer.error_code == ErrorCode.NO_QUORUM and not answer.success
        wires.join(*NAMES)
        robots.leader()
        assert robots.acquire(leader, 'after', 600.0).success
        agree(robots)
