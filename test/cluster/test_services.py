# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The cluster's services over DDS: registry, capabilities, bad input, and more requests than may be."""
from __future__ import annotations

from collections import Counter
import threading
from typing import Any

from builtin_interfaces.msg import Duration
from muster.cluster.state.locks import LockTable
from muster.ros.qos import SERVICES
from muster_interfaces.msg import ErrorCode, ServiceInfo, TaskInfo
from muster_interfaces.srv import (
    AcquireLock,
    CancelTask,
    ChangeMembership,
    FindServices,
    GetClusterStatus,
    GetTask,
    ListEvents,
    ListLocks,
    ListTasks,
    OpenSession,
    RegisterService,
    SetCapabilities,
    SubmitTask,
    TransferLeadership,
    UnregisterService,
)
from processes import Fleet, wait_until
import pytest
from robots import Robots


def test_locks_are_listed_by_name_from_a_prefix() -> None:
    table = LockTable()
    for name in ('dock_2', 'gate', 'dock_1', 'dock_3'):
        table.acquire(name, 'me', ('r1', 1), ('s', 1), 10**9, 0, 0, 0, 1)
    assert table.named('dock', 2) == (['dock_1', 'dock_2'], 3)
    assert table.named('', 9) == (['dock_1', 'dock_2', 'dock_3', 'gate'], 4)
    assert table.named('x', 9) == ([], 0)


def found(robots: Robots, asked: str, /, **fields: Any) -> list[ServiceInfo]:
    """Return what a robot finds in the registry."""
    answer = robots.call(asked, 'find_services', FindServices, **fields)
    assert answer.success and answer.total == len(answer.services)
    return list(answer.services)


@pytest.mark.processes
def test_what_a_robot_registers_is_found_from_every_other(fleet: Fleet) -> None:
    robots = Robots(fleet)
    robots.start()
    robots.leader()
    assert robots.call('r1', 'register_service', RegisterService, name='map', type='navigation',
                       capabilities=['2d', 'live'], metadata='{"port": 80}').success
    assert robots.call('r2', 'register_service', RegisterService, robot='r3', name='scan', type='navigation',
                       time_to_live=Duration(sec=1)).success
    for asked in ({'name': 'map'}, {'capability': '2d'}, {'robot': 'r1'},
                  {'type': 'navigation', 'name': 'map'}):
        wait_until(lambda asked=asked: found(robots, 'r3', **asked), 10, 'the service is found')
        service, = found(robots, 'r3', **asked)
        assert (service.robot, service.name, service.metadata) == ('r1', 'map', '{"port": 80}')
        assert service.capabilities == ['2d', 'live'] and service.remaining == Duration()
    wait_until(lambda: not found(robots, 'r1', name='scan'), 10, 'its time to live has ended')
    assert robots.call('r2', 'unregister_service', UnregisterService, robot='r1', name='map').success
    assert robots.call('r2', 'unregister_service', UnregisterService, robot='r1',
                       name='map').error_code == ErrorCode.NOT_FOUND
    wait_until(lambda: not found(robots, 'r3'), 10, 'it is gone everywhere')
    assert robots.call('r1', 'set_capabilities', SetCapabilities, robot='r2', add=['arm'], capacity=7).success
    wait_until(lambda: [(m.capabilities, m.capacity) for m in robots.call(
        'r3', 'get_status', GetClusterStatus).status.members if m.id == 'r2'] == [(['arm'], 7)], 10,
        'the capability is known')
    first, second = (robots.call(name, 'open_session', OpenSession) for name in ('r1', 'r2'))
    assert first.success and second.success and first.session != second.session


BAD: tuple[tuple[str, Any, dict[str, Any], int, str], ...] = (
    ('acquire_lock', AcquireLock, {'name': 'x', 'lease': Duration(sec=1), 'lock_delay': Duration(sec=3601)},
     ErrorCode.INVALID, 'lock_delay must be within 0 s and 3600 s'),
    ('register_service', RegisterService, {'name': ''}, ErrorCode.INVALID, 'name is empty'),
    ('register_service', RegisterService, {'name': 'x', 'metadata': '['}, ErrorCode.INVALID, 'is not JSON'),
    ('register_service', RegisterService, {'name': 'x', 'robot': 'nobody'}, ErrorCode.NOT_FOUND,
     "robot 'nobody' is not a member"),
    ('find_services', FindServices, {'limit': 1001}, ErrorCode.INVALID, 'limit must be within 0..1000'),
    ('set_capabilities', SetCapabilities, {'capacity': 65}, ErrorCode.INVALID, 'capacity must be'),
    ('set_capabilities', SetCapabilities, {'add': ['a', 'a']}, ErrorCode.INVALID, 'add has a name twice'),
    ('submit_task', SubmitTask, {'type': 'a/b'}, ErrorCode.INVALID, "type 'a/b' must be"),
    ('submit_task', SubmitTask, {'type': 'a', 'payload': '{'}, ErrorCode.INVALID, 'payload is not JSON'),
    ('submit_task', SubmitTask, {'type': 'a', 'max_attempts': 101}, ErrorCode.INVALID, 'max_attempts must'),
    ('cancel_task', CancelTask, {'task_id': 'a-1'}, ErrorCode.NOT_FOUND, "there is no task 'a-1'"),
    ('get_task', GetTask, {'task_id': 'a-1'}, ErrorCode.NOT_FOUND, "task 'a-1' is not known here"),
    ('get_task', GetTask, {}, ErrorCode.INVALID, 'task_id is empty'),
    ('list_tasks', ListTasks, {'status': 6}, ErrorCode.INVALID, 'status must be 0 or one of'),
    ('list_events', ListEvents, {'limit': 1001}, ErrorCode.INVALID, 'limit must be within'),
    ('list_locks', ListLocks, {'prefix': 'x' * 256}, ErrorCode.INVALID, 'prefix has 256 bytes'),
    ('change_membership', ChangeMembership, {}, ErrorCode.INVALID, 'remove is empty'),
    ('change_membership', ChangeMembership, {'remove': 'nobody'}, ErrorCode.INVALID, 'nobody'),
    ('transfer_leadership', TransferLeadership, {'to': 'nobody'}, ErrorCode.INVALID, 'nobody'),
)


@pytest.mark.processes
def test_bad_requests_are_refused_with_what_is_wrong(fleet: Fleet) -> None:
    robots = Robots(fleet, ('solo',), 'alone')
    robots.start()
    robots.leader()
    for service, kind, fields, code, words in BAD:
        answer = robots.call('solo', service, kind, **fields)
        assert not answer.success and answer.error_code == code, (service, fields, answer.message)
        assert words in answer.message
    assert robots.call('solo', 'list_tasks', ListTasks, status=TaskInfo.WAITING).total == 0
    assert robots.process('solo').alive and 'Traceback' not in robots.process('solo').text


def at_once(fleet: Fleet, name: str, number: int, **fields: Any) -> Counter[int]:
    """Send so many requests without waiting for an answer, and count the answers by error code."""
    client = fleet.probe.node.create_client(AcquireLock, name, qos_profile=SERVICES)
    wait_until(client.service_is_ready, 20, name)
    codes: Counter[int] = Counter()
    done, lock = threading.Event(), threading.Lock()

    def answered(future: Any) -> None:
        with lock:
            codes[future.result().error_code] += 1
            if codes.total() == number:
                done.set()

    for index in range(number):
        client.call_async(AcquireLock.Request(name=f'{number}_{index}', lease=Duration(sec=60),
                                              **fields)).add_done_callback(answered)
    done.wait(60)
    return codes


@pytest.mark.processes
def test_many_requests_at_once_are_all_answered(fleet: Fleet) -> None:
    """Two hundred in flight lose nothing; what is beyond the limit is refused, not dropped."""
    robots = Robots(fleet)
    robots.start()
    leader = robots.leader()
    follower = next(name for name in robots.names if name != leader)
    for robot in (leader, follower):
        assert at_once(fleet, f'/{robot}/cluster/acquire_lock', 200 + (robot == leader)) == {
            ErrorCode.OK: 200 + (robot == leader)}
    robots.kill(*(name for name in robots.names if name != follower))
    wait_until(lambda: robots.status(follower).leader == '', 20, 'no leader is left')
    codes = at_once(fleet, f'/{follower}/cluster/acquire_lock', 1000)
    assert codes.total() == 1000 and codes[ErrorCode.BUSY] >= 400
    assert set(codes) <= {ErrorCode.BUSY, ErrorCode.NO_QUORUM, ErrorCode.OUTCOME_UNKNOWN}
    assert at_once(fleet, f'/{follower}/cluster/acquire_lock', 1)[ErrorCode.BUSY] == 0
