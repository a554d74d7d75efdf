# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real members over DDS: deaths, pauses, lost disks, full disks and bad input."""
from __future__ import annotations

from array import array
import os
from pathlib import Path
import signal
import threading

from builtin_interfaces.msg import Duration
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import msgpack
from muster.cluster import protocol
from muster.cluster.engine import INBOX
from muster.cluster.member import Record
from muster.cluster.protocol import Join, Packet
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import HardState, Member, Snapshot
from muster.cluster.storage import Storage
from muster_interfaces.msg import ClusterEvent, ClusterMember, ClusterPacket, ClusterStatus, ErrorCode
from muster_interfaces.srv import (
    AcquireLock,
    GetClusterStatus,
    ListEvents,
    ListLocks,
    ReleaseLock,
    RenewLock,
)
from processes import Fleet, wait_until
import pytest
from robots import check_history, comparable, NAMES, Robots, small_disk

pytestmark = pytest.mark.processes


def contend(robots: Robots, name: str, stop: threading.Event, granted: list[int]) -> None:
    """Take and give back one lock through one robot, over and over."""
    client = robots.fleet.probe.client(ReleaseLock, f'/{name}/cluster/release_lock')
    while not stop.is_set():
        try:
            answer = robots.acquire(name, 'contended', 0.5, wait_timeout=Duration(sec=1), timeout=4.0)
        except AssertionError:
            continue           # this robot was just killed
        if answer.success:
            granted.append(answer.fencing_token)
            future = client.call_async(
                ReleaseLock.Request(name='contended', fencing_token=answer.fencing_token))
            done = threading.Event()
            future.add_done_callback(lambda _, done=done: done.set())
            done.wait(0.3)     # the lease ends by itself where the answer is lost
        stop.wait(0.05)        # leave the processors to the members


@pytest.mark.timeout(300)
def test_the_leader_is_killed_twenty_times(fleet: Fleet) -> None:
    """Never two holders, the same history everywhere, and the lock that is held survives."""
    robots = Robots(fleet)
    robots.start()
    leader = robots.leader()
    for name in NAMES:
        assert robots.acquire(name, f'of_{name}').success        # any robot answers
    held = robots.acquire('r1', 'held', 600.0, owner='keeper')
    assert held.success
    stop, granted = threading.Event(), []
    threads = [threading.Thread(target=contend, args=(robots, name, stop, granted)) for name in NAMES]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            before = len(granted)
            robots.kill(leader)
            robots.start(leader)
            wait_until(lambda before=before: len(granted) > before, 30, 'another grant')
            leader = robots.leader()
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    for name in NAMES:
        assert robots.call(name, 'get_status', GetClusterStatus, linearizable=True).success
        locks = robots.call(name, 'list_locks', ListLocks, prefix='held').locks
        assert [(lock.owner, lock.fencing_token) for lock in locks] == [('keeper', held.fencing_token)]
    assert robots.call('r2', 'renew_lock', RenewLock, name='held', fencing_token=held.fencing_token).success
    histories = [robots.events(name) for name in NAMES]
    shortest = min(map(len, histories))
    assert shortest > 100
    assert all(comparable(h[:shortest]) == comparable(histories[0][:shortest]) for h in histories)
    check_history(max(histories, key=len))


def test_a_killed_process_can_hold_no_lock_that_a_member_waits_for(fleet: Fleet) -> None:
    """The shared memory of Fast DDS has such locks: a member that publishes would stand still for 1 s."""
    robots = Robots(fleet)
    robots.start()
    robots.leader()
    for name in NAMES:
        mapped = Path(f'/proc/{robots.process(name).pid}/maps').read_text()
        assert 'librcl.so' in mapped
        assert {line.split()[-1] for line in mapped.splitlines() if '/dev/shm/fastrtps' in line} == set()


def test_a_stopped_leader_is_succeeded_and_acknowledges_nothing_afterwards(fleet: Fleet) -> None:
    robots = Robots(fleet)
    robots.start()
    old = robots.leader()
    term = robots.status(old).term
    fleet.probe.client(AcquireLock, f'/{old}/cluster/acquire_lock')
    robots.process(old).send(signal.SIGSTOP)
    others = tuple(name for name in NAMES if name != old)
    new = robots.leader(*others)
    assert new != old and robots.status(new).term > term
    taken = robots.acquire(others[0], 'dock', 60.0)
    assert taken.success
    robots.process(old).send(signal.SIGCONT)
    late = robots.acquire(old, 'dock', 60.0)
    assert not late.success and late.error_code == ErrorCode.HELD
    assert robots.leader() != old or robots.status(old).term > term
    check_history(robots.events(old))


def test_all_restart_at_once_and_keep_the_locks(fleet: Fleet) -> None:
    robots = Robots(fleet)
    robots.start()
    robots.leader()
    held = robots.acquire('r2', 'dock', 600.0, owner='keeper')
    robots.kill(*NAMES)
    robots.start()
    robots.leader()
    again = robots.acquire('r1', 'dock')
    assert again.error_code == ErrorCode.HELD and again.holder == 'keeper'
    assert robots.call('r3', 'release_lock', ReleaseLock, name='dock',
                       fencing_token=held.fencing_token).success


def test_a_wiped_member_does_not_vote_until_it_was_taken_in_again(fleet: Fleet) -> None:
    robots = Robots(fleet)
    robots.start()
    leader = robots.leader()
    wiped, other = (name for name in NAMES if name != leader)
    incarnation = robots.status(wiped).incarnation
    held = robots.acquire(wiped, 'dock', 600.0)
    robots.kill(*NAMES)
    for file in robots.directory(wiped).iterdir():
        file.unlink()
    robots.start(wiped, other)          # one voter and one that has forgotten everything
    wait_until(lambda: robots.status(wiped).incarnation and robots.status(other).cluster_id, 20, 'status')
    assert robots.status(wiped).incarnation != incarnation
    answer = robots.acquire(other, 'x')
    assert answer.error_code == ErrorCode.NO_QUORUM and not answer.success
    assert robots.status(wiped).role == ClusterStatus.WAITING
    robots.start(leader)

    def role() -> int:
        roles = [m.role for m in robots.status(robots.leader()).members
                 if m.id == wiped and m.incarnation != incarnation]
        return roles[0] if roles else 0
    wait_until(lambda: role() == ClusterMember.VOTER, 30, 'the wiped member votes again')
    changes = ClusterEvent.MEMBER_ADDED, ClusterEvent.MEMBER_PROMOTED, ClusterEvent.MEMBER_REMOVED
    wait_until(lambda: [(e.type, e.subject) for e in robots.events(other) if e.type in changes][-3:]
               == [(change, wiped) for change in changes], 20, 'the other one has applied it')
    robots.kill(other)
    robots.leader(wiped, leader)        # now its vote makes the quorum
    assert robots.call(wiped, 'renew_lock', RenewLock, name='dock',
                       fencing_token=held.fencing_token).success


@pytest.mark.parametrize('order', [('a', 'b'), ('b', 'a')])
def test_two_robots_found_one_cluster_in_either_order(fleet: Fleet, order: tuple[str, str]) -> None:
    robots = Robots(fleet, ('a', 'b'))
    robots.start(order[0])
    wait_until(lambda: robots.statuses[order[0]], 20, 'the first is up')
    assert robots.status(order[0]).role == ClusterStatus.WAITING
    robots.start(order[1])
    robots.leader()
    assert len({robots.status(name).cluster_id for name in order}) == 1


def test_alone_leads_at_once_and_ends_cleanly_on_either_signal(fleet: Fleet) -> None:
    robots = Robots(fleet, ('solo',), 'alone')
    for number in (signal.SIGINT, signal.SIGTERM):
        robots.start('solo')
        wait_until(lambda: robots.status('solo').role == ClusterStatus.LEADER, 20, 'it leads')
        assert robots.acquire('solo', 'dock', 0.1, wait_timeout=Duration(sec=5)).success
        robots.process('solo').send(number)
        assert robots.process('solo').wait() == 0
        assert 'Traceback' not in robots.process('solo').text


def test_a_leader_that_stops_hands_over(fleet: Fleet) -> None:
    """It ends in order, and another one leads; that no time-out passes is shown by the scripted scenes."""
    robots = Robots(fleet)
    robots.start()
    old = robots.leader()
    term = robots.status(old).term
    robots.process(old).send(signal.SIGTERM)
    new = robots.leader(*(name for name in NAMES if name != old))
    assert robots.process(old).wait() == 0
    assert robots.status(new).term > term


def test_a_damaged_log_keeps_the_node_alive_and_out(fleet: Fleet) -> None:
    robots = Robots(fleet, ('solo',), 'alone')
    robots.start('solo')
    wait_until(lambda: robots.status('solo').role == ClusterStatus.LEADER, 20, 'it leads')
    assert robots.acquire('solo', 'dock').success
    robots.kill('solo')
    file = robots.directory('solo') / 'wal-00000001.log'
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    robots.start('solo')
    wait_until(lambda: robots.diagnosed('solo', f"'{file}' is damaged at offset"), 20, 'it says so')
    assert robots.process('solo').alive and robots.status('solo').cluster_id == ''
    assert robots.acquire('solo', 'dock').error_code == ErrorCode.INACTIVE
    assert bytes(data) == file.read_bytes()


def test_a_snapshot_of_a_newer_version_is_refused_until_it_is_moved_away(fleet: Fleet) -> None:
    robots = Robots(fleet, ('solo',), 'alone')
    directory = robots.directory('solo')
    storage = Storage(directory, 'solo', lambda: 1)
    newer = Snapshot(7, 1, Configuration(frozenset({Member('solo', 1)})).encode(), msgpack.packb([99]))
    storage.write([Record(cluster_id='a cluster', hard_state=HardState(1, None), snapshot=newer)])
    storage.close()
    robots.start('solo')
    wait_until(lambda: robots.diagnosed('solo', f"'{directory}' cannot be used: snapshot version 99 is not "
                                        'known here: update this member'), 20, 'it says so')
    directory.rename(robots.directory('kept'))
    activate = Transition(id=Transition.TRANSITION_ACTIVATE)
    assert robots.fleet.probe.call(ChangeState, '/solo/cluster/change_state', transition=activate).success
    wait_until(lambda: robots.status('solo').role == ClusterStatus.LEADER, 20, 'it leads')


def test_a_full_disk_is_said_and_survived(fleet: Fleet) -> None:
    with small_disk(fleet.folder / 'disk', 256 * 1024) as disk:
        robots = Robots(fleet, ('solo',), 'alone')
        robots.parameters['solo']['data_directory'] = disk / 'solo'
        robots.start('solo')
        wait_until(lambda: robots.status('solo').role == ClusterStatus.LEADER, 20, 'it leads')
        held = robots.acquire('solo', 'kept', 600.0)
        assert held.success
        ballast = disk / 'ballast'
        with ballast.open('wb', buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        for i in range(100):
            answer = robots.acquire('solo', f'{i}' + 'x' * 200, 60.0)
            if not answer.success:
                break
        assert answer.error_code in (ErrorCode.OUTCOME_UNKNOWN, ErrorCode.INACTIVE), answer
        wait_until(lambda: robots.diagnosed('solo', 'the log cannot be written'), 20, 'it says so')
        ballast.unlink()
        wait_until(lambda: robots.acquire('solo', f'after{os.urandom(4).hex()}').success, 30, 'recovery')
        assert robots.call('solo', 'renew_lock', RenewLock, name='kept',
                           fencing_token=held.fencing_token).success
    robots.kill('solo')


# Bad input --------------------------------------------------------------------------------------
def test_bad_requests_and_packets_are_refused_by_name(fleet: Fleet) -> None:
    robots = Robots(fleet, ('solo',), 'alone')
    robots.start('solo')
    wait_until(lambda: robots.status('solo').role == ClusterStatus.LEADER, 20, 'it leads')
    lease = Duration(sec=10)
    for fields, code, names in (
            ({'name': ''}, ErrorCode.INVALID, 'name is empty'),
            ({'name': 'é' * 128}, ErrorCode.INVALID, 'name has 256 bytes'),
            ({'name': 'x', 'lease': Duration(sec=-1)}, ErrorCode.INVALID, 'lease must be'),
            ({'name': 'x', 'lease': Duration()}, ErrorCode.INVALID, 'lease must be'),
            ({'name': 'x', 'lease': Duration(sec=90000)}, ErrorCode.INVALID, 'lease must be'),
            ({'name': 'x', 'wait_timeout': Duration(sec=-1)}, ErrorCode.INVALID, 'wait_timeout'),
            ({'name': 'x', 'owner': 'o' * 256}, ErrorCode.INVALID, 'owner has 256 bytes'),
            ({'name': 'x', 'request_id': 'no number'}, ErrorCode.INVALID, 'request_id'),
            ({'name': 'x', 'request_id': 's:0'}, ErrorCode.INVALID, 'request_id'),
            ({'name': 'x', 'request_id': '@solo/1:1'}, ErrorCode.INVALID, "begin with '@'"),
            ({'name': 'x', 'request_id': 's:7'}, ErrorCode.SESSION_EXPIRED, "session 's' is not open")):
        answer = robots.call('solo', 'acquire_lock', AcquireLock, **{'lease': lease, **fields})
        assert (answer.success, answer.error_code) == (False, code) and names in answer.message, answer
    assert robots.call('solo', 'list_locks', ListLocks).total == 0      # nothing was changed
    assert robots.acquire('solo', 'x').success
    for service, kind, fields, code in (
            ('renew_lock', RenewLock, {'name': 'x', 'fencing_token': 1}, ErrorCode.WRONG_TOKEN),
            ('release_lock', ReleaseLock, {'name': 'x', 'fencing_token': 1}, ErrorCode.WRONG_TOKEN),
            ('release_lock', ReleaseLock, {'name': 'y', 'fencing_token': 1}, ErrorCode.NOT_FOUND),
            ('release_lock', ReleaseLock, {'name': 'x'}, ErrorCode.INVALID),
            ('renew_lock', RenewLock, {'name': 'x'}, ErrorCode.INVALID),
            ('list_events', ListEvents, {'limit': 1001}, ErrorCode.INVALID),
            ('list_locks', ListLocks, {'limit': 1001}, ErrorCode.INVALID)):
        answer = robots.call('solo', service, kind, **fields)
        assert (answer.success, answer.error_code) == (False, code) and answer.message, answer
    assert robots.call('solo', 'list_locks', ListLocks).total == 1

    inbox = fleet.probe.publisher(ClusterPacket, '/muster/fleet/_raft/solo', INBOX)
    me = Member('solo', robots.status('solo').incarnation)
    foreign = Packet('0123456789abcdef', Member('stranger', 7), me, Join())
    newer = bytearray(protocol.encode(foreign))
    newer[2] = 9
    for data in (bytes(newer), b'', b'\xff' * 70000, protocol.encode(foreign)):
        inbox.publish(ClusterPacket(data=array('B', data)))
    for text in ('protocol version 9', 'too short', '70000 bytes', '0123456789abcdef'):
        wait_until(lambda text=text: robots.diagnosed('solo', text), 20, text)
    assert robots.acquire('solo', 'still alive').success


def test_bad_parameters_and_names_are_refused_by_name(fleet: Fleet) -> None:
    robots = Robots(fleet, ('unknown', 'unlisted', 'timing'), 'alone')
    robots.parameters['unknown']['electoin_min'] = 0.2
    robots.parameters['unlisted'] |= {'bootstrap': 'members', 'members': '[a,b]'}
    robots.parameters['timing'] |= {'heartbeat': 0.5}
    robots.start()
    illegal = fleet.start_node('muster.cluster.node', '7up')
    for name, text in (('unknown', 'electoin_min'), ('unlisted', "'unlisted'"), ('timing', 'heartbeat')):
        wait_until(lambda name=name, text=text: robots.diagnosed(name, text), 20, f'{name} names {text}')
        assert robots.process(name).alive
    assert illegal.wait() != 0 and '7up' in illegal.text and 'Traceback' not in illegal.text
