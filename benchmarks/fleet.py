# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Three members of a Muster cluster as processes, and the load that a benchmark puts on them."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import signal
import sys
import tempfile
import time
from typing import Any

from builtin_interfaces.msg import Duration
import echo
from harness import DISK
from load import Load
from muster_interfaces.msg import ClusterStatus
from muster_interfaces.srv import AcquireLock, GetClusterStatus, ListLocks, ReleaseLock
from processes import Fleet, Process, reserved_domain
from ros_client import RosClient

MEMBERS = ('robot_1', 'robot_2', 'robot_3')
LEASE = Duration(sec=60)
#: A member that does not answer for so long (seconds) is asked again.
ANSWER = 1.0


class MusterCluster:
    """Three voters, each a process with its log on the disk; one client."""

    name = 'Muster'

    def __init__(self, fleet: Fleet, client: RosClient, profile: str = 'lan') -> None:
        """Start them and wait for a leader."""
        self._fleet, self.client, self._profile = fleet, client, profile
        for member in MEMBERS:
            self.start(member)
        self.settle()

    def start(self, member: str) -> None:
        """Start a member, again after a kill."""
        self._fleet.start_node('muster.cluster.node', member, {
            'bootstrap': 'members', 'members': list(MEMBERS), 'profile': self._profile,
            'data_directory': self._fleet.folder / member})

    def pid(self, member: str) -> int:
        """Return the process of a member."""
        return self._fleet.processes[f'{member}.cluster'].pid

    def settle(self) -> str:
        """Wait until every member reaches every other and knows one leader; return the leader."""
        def leader() -> str:
            try:
                seen: list[ClusterStatus] = [
                    self.client.call(GetClusterStatus, f'/{m}/cluster/get_status', ANSWER).status
                    for m in MEMBERS]
            except TimeoutError:
                return ''  # it went to the process that was killed
            leaders = {status.leader for status in seen}
            together = all(len(status.members) == len(MEMBERS) and all(m.reachable for m in status.members)
                           for status in seen)
            caught_up = len({status.commit_index for status in seen}) == 1
            return leaders.pop() if together and caught_up and len(leaders) == 1 else ''
        return str(self.client.spin_until(leader, 90, 'every member reaches every other'))

    def round_trips(self, member: str, count: int) -> list[float]:
        """Return the seconds of service calls that need no consensus: the floor of a lock."""
        service = self.client.client(ListLocks, f'/{member}/cluster/list_locks')
        samples = []
        for _ in range(count):
            begun = time.perf_counter()
            self.client.answer(service, ListLocks.Request(), 10, 'list_locks')
            samples.append(time.perf_counter() - begun)
        return samples

    def load(self, member: str, in_flight: int, seconds: float = 1e9, count: int = 10**9) -> Load:
        """Take and give back `in_flight` locks at a time, until the time or the number is reached."""
        acquire = self.client.client(AcquireLock, f'/{member}/cluster/acquire_lock')
        release = self.client.client(ReleaseLock, f'/{member}/cluster/release_lock')
        load, lanes = Load(), in_flight
        begun = time.perf_counter()

        def take(lane: int) -> None:
            sent = time.perf_counter()
            request = AcquireLock.Request(name=f'lane_{lane}', lease=LEASE)
            acquire.call(request, lambda answer: give(lane, sent, answer))

        def give(lane: int, sent: float, answer: Any) -> None:
            now = time.perf_counter()
            assert answer.success, answer.message
            load.acquire.append(now - sent)
            request = ReleaseLock.Request(name=f'lane_{lane}', fencing_token=answer.fencing_token)
            release.call(request, lambda answer: given(lane, now, answer))

        def given(lane: int, sent: float, answer: Any) -> None:
            nonlocal lanes
            now = time.perf_counter()
            assert answer.success, answer.message
            load.release.append(now - sent)
            if now - begun < seconds and len(load.acquire) + lanes <= count:
                take(lane)
            else:
                lanes -= 1

        for lane in range(in_flight):
            take(lane)
        self.client.spin_until(lambda: not lanes, 120, 'the end of the load')
        load.seconds = time.perf_counter() - begun
        return load

    def kill(self, victim: str, member: str, number: int) -> float:
        """Kill `victim` with SIGKILL; return the seconds until a client of `member` holds a lock."""
        service = self.client.client(AcquireLock, f'/{member}/cluster/acquire_lock')
        begun = time.perf_counter()
        os.kill(self.pid(victim), signal.SIGKILL)
        while True:
            request = AcquireLock.Request(name=f'kill_{number}', lease=LEASE)
            if self.client.answer(service, request, 30, 'a lock after the death of the leader').success:
                return time.perf_counter() - begun

    def echoes(self, count: int) -> list[float]:
        """Return the seconds of round trips over DDS to a process that only sends back."""
        command = [sys.executable, echo.__file__]
        self._fleet.processes['echo'] = process = Process(
            command, self._fleet.folder / 'echo.txt', self._fleet.environment)
        try:
            return echo.round_trips(self.client, count)
        finally:
            process.end()

    def restart(self, member: str) -> None:
        """Start a member again that was killed."""
        self._fleet.processes[f'{member}.cluster'].wait(10)
        self._fleet.processes[f'{member}.cluster'].end()
        self.start(member)


@contextmanager
def muster_cluster(profile: str = 'lan') -> Iterator[MusterCluster]:
    """Run a cluster in a ROS domain of its own, with its logs on the disk."""
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    with tempfile.TemporaryDirectory(prefix='muster-benchmark-', dir=DISK) as folder, \
            reserved_domain() as domain:
        fleet = Fleet(Path(folder), domain)
        client = RosClient(domain)
        try:
            yield MusterCluster(fleet, client, profile)
        finally:
            client.close()
            fleet.close()
