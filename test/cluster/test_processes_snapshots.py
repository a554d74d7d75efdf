# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real members that compact their logs, and one that missed what is gone."""
from __future__ import annotations

from collections import deque

from muster.cluster.member import Policy
from muster.ros.qos import SERVICES
from muster_interfaces.srv import ListEvents, ListLocks, RenewLock
from processes import Fleet, wait_until
import pytest
from robots import NAMES, Robots

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]
#: Requests in flight at one member.
WINDOW = 150


def renew(robots: Robots, name: str, lock: str, token: int, count: int) -> None:
    """Renew a lock so many times, many renewals at once."""
    client = robots.fleet.probe.node.create_client(RenewLock, f'/{name}/cluster/renew_lock',
                                                   qos_profile=SERVICES)
    wait_until(client.service_is_ready, 20, 'the service')
    waiting: deque = deque()
    for _ in range(count):
        if len(waiting) == WINDOW:
            assert robots.fleet.probe.result(waiting.popleft(), 30, 'a renewal').success
        waiting.append(client.call_async(RenewLock.Request(name=lock, fencing_token=token)))
    for future in waiting:
        assert robots.fleet.probe.result(future, 30, 'a renewal').success


def test_a_member_that_missed_the_log_gets_the_state_and_says_so(fleet: Fleet) -> None:
    robots = Robots(fleet)
    robots.start()
    leader = robots.leader()
    away = next(name for name in NAMES if name != leader)
    for i in range(400):                     # more than one chunk of state
        assert robots.acquire(leader, f'{i:03}' + 'x' * 200, 3600.0).success
    held = robots.acquire(leader, 'dock', 3600.0)
    robots.kill(away)
    renew(robots, leader, 'dock', held.fencing_token, Policy().compact_after * 5 // 4 + 1000)
    assert list(robots.directory(leader).glob('snapshot*'))
    robots.start(away)
    last = robots.status(leader).applied_index
    wait_until(lambda: robots.status(away).applied_index >= last, 60, 'it catches up')
    page = robots.call(away, 'list_events', ListEvents, limit=1)
    assert page.success and page.compacted_before > held.fencing_token
    expected, found = (sorted((lock.name, lock.fencing_token) for lock in robots.call(
        name, 'list_locks', ListLocks, limit=1000).locks) for name in (leader, away))
    assert found == expected and len(found) == 401
    robots.kill(*NAMES)                      # and all of them begin from their snapshots
    robots.start()
    robots.leader()
    answer = robots.call(away, 'renew_lock', RenewLock, name='dock', fencing_token=held.fencing_token)
    assert answer.success
