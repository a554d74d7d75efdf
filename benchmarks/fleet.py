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

import echo
from harness import DISK
from load import Load
from muster_interfaces.msg import ClusterStatus
from muster_interfaces.srv import AcquireLock, GetClusterStatus, ListLocks
from processes import Fleet, Process, reserved_domain
from ros_client import RosClient
from ros_load import LEASE, PATIENCE, take_locks

MEMBERS = ('robot_1', 'robot_2', 'robot_3')
#: A member that does not answer for so long (seconds) is asked again.
ANSWER = 1.0


class MusterCluster:
    """Three voters, each a process with its log on the disk; one client."""

    name = 'Muster'

    def __init__(self, fleet: Fleet, client: RosClient, members: tuple[str, ...],
                 parameters: dict[str, Any], module: str) -> None:
        """Start them and wait for a leader."""
        self._fleet, self.client, self.members, self._module = fleet, client, members, module
        self._parameters = {'bootstrap': 'members', 'members': list(members), **parameters}
        for member in members:
            self.start(member)
        self.settle()

    def start(self, member: str) -> None:
        """Start a member, again after a kill."""
        self._fleet.start_node(self._module, member, {
            **self._parameters, 'data_directory': self._fleet.folder / member}, name=f'{member}.cluster')

    def run(self, script: str, *arguments: str, name: str = '') -> Process:
        """Start a script of the benchmarks in the domain of the cluster; it ends with it."""
        name = name or Path(script).stem
        self._fleet.processes[name] = process = Process(
            [sys.executable, script, *arguments], self._fleet.folder / f'{name}.txt', self.environment)
        return process

    def pid(self, member: str) -> int:
        """Return the process of a member."""
        return self._fleet.processes[f'{member}.cluster'].pid

    def settle(self) -> str:
        """Wait until every member reaches every other and knows one leader; return the leader."""
        def leader() -> str:
            try:
                seen: list[ClusterStatus] = [
                    self.client.call(GetClusterStatus, f'/{m}/cluster/get_status', ANSWER).status
                    for m in self.members]
            except TimeoutError:
                return ''  # it went to the process that was killed
            leaders = {status.leader for status in seen}
            together = all(len(status.members) == len(self.members) and
                           all(m.reachable for m in status.members) for status in seen)
            caught_up = len({status.commit_index for status in seen}) == 1
            return leaders.pop() if together and caught_up and len(leaders) == 1 else ''
        return str(self.client.spin_until(leader, 90, 'every member reaches every other'))

    def term(self) -> int:
        """Return the highest term that a member knows."""
        return max(self.client.call(GetClusterStatus, f'/{member}/cluster/get_status').status.term
                   for member in self.members)

    def round_trips(self, member: str, count: int) -> list[float]:
        """Return the seconds of service calls that need no consensus: the floor of a lock."""
        service = self.client.client(ListLocks, f'/{member}/cluster/list_locks')
        samples = []
        for _ in range(count):
            begun = time.perf_counter()
            self.client.answer(service, ListLocks.Request(), 10, 'list_locks')
            samples.append(time.perf_counter() - begun)
        return samples

    def calls(self, member: str, in_flight: int, seconds: float) -> float:
        """Return how many such calls a second are answered while so many are under way."""
        service = self.client.client(ListLocks, f'/{member}/cluster/list_locks')
        begun, answered, lanes = time.perf_counter(), 0, in_flight

        def again(_: Any) -> None:
            nonlocal answered, lanes
            answered += 1
            if time.perf_counter() - begun < seconds:
                service.call(ListLocks.Request(), again)
            else:
                lanes -= 1

        for _ in range(in_flight):
            service.call(ListLocks.Request(), again)
        self.client.spin_until(lambda: not lanes, seconds + PATIENCE, 'the end of the calls')
        return answered / (time.perf_counter() - begun)

    def load(self, member: str, in_flight: int, seconds: float = 1e9, count: int = 10**9) -> Load:
        """Take and give back `in_flight` locks at a time, until the time or the number is reached."""
        return take_locks(self.client, member, in_flight, seconds, count)

    def client_of(self, member: str) -> tuple[str, str]:
        """Return what tells a client process whom to ask."""
        return 'muster', member

    @property
    def environment(self) -> dict[str, str]:
        """Return that of clients in processes of their own."""
        return self._fleet.environment

    def kill(self, victim: str, member: str, number: int) -> float:
        """Kill `victim` with SIGKILL; return the seconds until a client of `member` holds a lock."""
        service = self.client.client(AcquireLock, f'/{member}/cluster/acquire_lock')
        begun = time.perf_counter()
        os.kill(self.pid(victim), signal.SIGKILL)
        while True:
            request = AcquireLock.Request(name=f'kill_{number}', lease=LEASE)
            if self.client.answer(service, request, 30, 'a lock after the death of the leader').success:
                return time.perf_counter() - begun

    def stop(self, leader: str, member: str, number: int) -> float:
        """End `leader` with SIGTERM; return the longest wait for a lock at `member` until it is gone."""
        service = self.client.client(AcquireLock, f'/{member}/cluster/acquire_lock')
        process, longest, count = self._fleet.processes[f'{leader}.cluster'], 0.0, 0
        process.send(signal.SIGTERM)
        while process.alive:
            begun = time.perf_counter()
            request = AcquireLock.Request(name=f'stop_{number}_{count}', lease=LEASE)
            answer = self.client.answer(service, request, 30, 'a lock while the leader stops')
            assert answer.success, answer.message
            longest, count = max(longest, time.perf_counter() - begun), count + 1
        return longest

    def echoes(self, count: int) -> list[float]:
        """Return the seconds of round trips over DDS to a process that only sends back."""
        process = self.run(echo.__file__)
        try:
            return echo.round_trips(self.client, count)
        finally:
            process.end()

    def output(self, member: str, number: signal.Signals) -> str:
        """End a member by a signal and return what it printed."""
        process = self._fleet.processes[f'{member}.cluster']
        process.send(number)
        process.wait()
        return process.text

    def restart(self, member: str) -> None:
        """Start a member again that was killed."""
        self._fleet.processes[f'{member}.cluster'].wait(10)
        self._fleet.processes[f'{member}.cluster'].end()
        self.start(member)


@contextmanager
def muster_cluster(members: tuple[str, ...] = MEMBERS, module: str = 'muster.cluster.node',
                   **parameters: Any) -> Iterator[MusterCluster]:
    """Run a cluster in a ROS domain of its own, its logs on the disk; `parameters` are its nodes'."""
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    with tempfile.TemporaryDirectory(prefix='muster-benchmark-', dir=DISK) as folder, \
            reserved_domain() as domain:
        fleet = Fleet(Path(folder), domain)
        client = RosClient(domain)
        try:
            yield MusterCluster(fleet, client, members, parameters, module)
        finally:
            client.close()
            fleet.close()
