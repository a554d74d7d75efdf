# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Three real members, one of which has a disk that is full, damaged or torn, or is itself asleep."""
from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
import signal

from diagnostic_msgs.msg import DiagnosticStatus
from muster_interfaces.msg import ClusterMember, ClusterStatus, ErrorCode
from muster_interfaces.srv import GetClusterStatus, ListLocks
from processes import Fleet, wait_until
import pytest
from robots import check_history, comparable, NAMES, Robots, small_disk

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


def started(fleet: Fleet) -> tuple[Robots, str, list[str]]:
    """Return three robots, their leader and their followers."""
    robots = Robots(fleet)
    robots.start()
    leader = robots.leader()
    return robots, leader, [name for name in NAMES if name != leader]


def caught_up(robots: Robots, name: str, leader: str) -> None:
    """Wait until a member tells the history that the leader tells."""
    def same() -> bool:
        return comparable(robots.events(name)) == comparable(robots.events(leader))
    wait_until(same, 30, f'{name} has caught up')
    check_history(robots.events(name))


def fill(disk: Path) -> Path:
    """Leave no byte free, and return the file whose removal makes room again."""
    ballast = disk / 'ballast'
    with ballast.open('wb', buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return ballast


def test_a_leader_whose_disk_is_full_hands_over_and_comes_back(fleet: Fleet) -> None:
    with ExitStack() as disks:
        robots = Robots(fleet)
        for name in NAMES:
            disk = disks.enter_context(small_disk(fleet.folder / f'disk_{name}', 4 << 20))
            robots.parameters[name]['data_directory'] = disk / 'data'
        disks.callback(fleet.close)          # before the disks go
        robots.start()
        full = robots.leader()
        others = tuple(name for name in NAMES if name != full)
        assert robots.acquire(full, 'before', 600.0).success
        ballast = fill(fleet.folder / f'disk_{full}')

        def refused() -> bool:
            answer = robots.acquire(full, 'x' * 200, 0.1)
            return answer.error_code in (ErrorCode.STORAGE, ErrorCode.OUTCOME_UNKNOWN)
        wait_until(refused, 30, 'it takes nothing more')
        successor = robots.leader(*others)
        assert successor != full and robots.process(full).alive
        during = robots.acquire(others[0], 'during', 600.0)
        assert during.success

        def alarm() -> bool:
            return any(status.hardware_id == full and status.level == DiagnosticStatus.ERROR and
                       'the log cannot be written' in status.message
                       for message in robots.diagnostics[-20:] for status in message.status)
        wait_until(alarm, 20, 'it says so')
        answer = robots.acquire(full, 'taken', 600.0)
        assert answer.error_code == ErrorCode.STORAGE and full in answer.message
        # It reads on from what it has; what it cannot know it does not pretend to know.
        assert robots.call(full, 'get_status', GetClusterStatus).status.leader == successor
        read = robots.call(full, 'get_status', GetClusterStatus, linearizable=True)
        assert not read.success or read.status.applied_index >= during.fencing_token
        names = [lock.name for lock in robots.call(full, 'list_locks', ListLocks).locks]
        assert 'before' in names and 'taken' not in names
        ballast.unlink()
        wait_until(lambda: robots.acquire(full, 'after', 600.0).success, 30, 'it takes part again')
        caught_up(robots, full, successor)
        assert robots.process(full).alive


def test_a_torn_record_is_cut_off_and_the_member_goes_on(fleet: Fleet) -> None:
    """The crash came in the middle of a write, of which nothing had been said."""
    robots, leader, (torn, _) = started(fleet)
    held = robots.acquire(torn, 'dock', 600.0)
    assert held.success
    robots.kill(torn)
    file = robots.directory(torn) / 'wal-00000001.log'
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:12])
    incarnation = robots.status(torn).incarnation
    robots.start(torn)
    leader = robots.leader()     # it follows, whoever leads on a loaded machine by now
    assert robots.status(torn).incarnation == incarnation
    assert robots.acquire(torn, 'dock').error_code == ErrorCode.HELD
    caught_up(robots, torn, leader)


def test_a_flipped_byte_keeps_a_member_out_until_its_directory_is_gone(fleet: Fleet) -> None:
    """It says which file and where; the others go on, and take it in again as somebody new."""
    robots, leader, (damaged, _) = started(fleet)
    assert robots.acquire(damaged, 'dock', 600.0).success
    incarnation = robots.status(damaged).incarnation
    robots.kill(damaged)
    file = robots.directory(damaged) / 'wal-00000001.log'
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    robots.start(damaged)
    wait_until(lambda: robots.diagnosed(damaged, f"'{file}' is damaged at offset"), 20, 'it says so')
    assert robots.acquire(damaged, 'x').error_code == ErrorCode.INACTIVE
    assert robots.acquire(leader, 'without it', 600.0).success
    assert file.read_bytes() == data
    robots.kill(damaged)
    robots.directory(damaged).rename(robots.directory(f'{damaged}.kept'))
    robots.start(damaged)

    def votes() -> bool:
        return any(member.id == damaged and member.incarnation != incarnation
                   and member.role == ClusterMember.VOTER for member in robots.status(leader).members)
    wait_until(votes, 60, 'it votes under a new incarnation')
    assert robots.acquire(damaged, 'dock').error_code == ErrorCode.HELD
    caught_up(robots, damaged, leader)


def test_a_follower_that_sleeps_holds_up_nobody_and_disturbs_nobody(fleet: Fleet) -> None:
    robots, leader, (sleeper, _) = started(fleet)
    term = robots.status(leader).term
    robots.process(sleeper).send(signal.SIGSTOP)
    tokens = [robots.acquire(leader, f'lock{i}', 600.0).fencing_token for i in range(50)]
    assert all(tokens)
    robots.process(sleeper).send(signal.SIGCONT)
    wait_until(lambda: robots.status(sleeper).applied_index >= tokens[-1], 30, 'it catches up')
    caught_up(robots, sleeper, leader)
    assert robots.status(leader).role == ClusterStatus.LEADER and robots.status(leader).term == term


def test_two_that_sleep_take_the_quorum_with_them_and_bring_it_back(fleet: Fleet) -> None:
    robots, leader, followers = started(fleet)
    for name in followers:
        robots.process(name).send(signal.SIGSTOP)
    answer = robots.acquire(leader, 'dock', 600.0, timeout=30.0)
    assert answer.error_code in (ErrorCode.OUTCOME_UNKNOWN, ErrorCode.NO_QUORUM)
    wait_until(lambda: robots.status(leader).role != ClusterStatus.LEADER, 30, 'it steps down')
    read = robots.call(leader, 'get_status', GetClusterStatus, linearizable=True)
    assert not read.success and read.error_code in (ErrorCode.NO_QUORUM, ErrorCode.OUTCOME_UNKNOWN)
    for name in followers:
        robots.process(name).send(signal.SIGCONT)
    again = robots.leader()
    assert robots.acquire(again, 'after', 600.0).success
    for name in NAMES:
        caught_up(robots, name, again)
