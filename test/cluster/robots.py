# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Cluster nodes as real processes, and what their histories must be."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import signal
import subprocess
from typing import Any

from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray
from muster.ros.qos import STATUS
from muster_interfaces.msg import ClusterEvent, ClusterStatus
from muster_interfaces.srv import AcquireLock, ListEvents
from processes import Fleet, Process, wait_until
import pytest

NAMES = ('r1', 'r2', 'r3')


class Robots:
    """Cluster nodes by the names of their robots."""

    def __init__(self, fleet: Fleet, names: tuple[str, ...] = NAMES, bootstrap: str = 'members') -> None:
        """Start all of them with empty disks."""
        self.fleet, self.names = fleet, names
        self.parameters: dict[str, dict[str, Any]] = {}
        self.statuses: dict[str, list[ClusterStatus]] = {}
        self.diagnostics: list[DiagnosticArray] = fleet.probe.listen(DiagnosticArray, '/diagnostics', 10)
        for name in names:
            self.parameters[name] = {'bootstrap': bootstrap, 'data_directory': self.directory(name)}
            if bootstrap == 'members':
                self.parameters[name]['members'] = '[' + ','.join(names) + ']'
            self.statuses[name] = fleet.probe.listen(ClusterStatus, f'/{name}/cluster/status', STATUS)

    def directory(self, name: str) -> Path:
        """Return a robot's data directory."""
        return self.fleet.folder / name

    def start(self, *names: str) -> None:
        """Start the nodes of robots."""
        for name in names or self.names:
            self.statuses[name].clear()
            self.fleet.start_node('muster.cluster.node', name, self.parameters[name])

    def process(self, name: str) -> Process:
        """Return the process of a robot."""
        return self.fleet.processes[f'{name}.cluster']

    def kill(self, *names: str) -> None:
        """Kill robots and wait for their end."""
        for name in names:
            self.process(name).send(signal.SIGKILL)
        for name in names:
            self.process(name).wait()

    def status(self, name: str) -> ClusterStatus:
        """Return the last status of a robot."""
        return self.statuses[name][-1] if self.statuses[name] else ClusterStatus()

    def leader(self, *among: str) -> str:
        """Wait until some robots name one of them as their leader."""
        among = among or self.names

        def agreed() -> str:
            leaders = {self.status(name).leader for name in among}
            name = leaders.pop()
            known = not leaders and name in among and self.process(name).alive
            return name if known and self.status(name).role == ClusterStatus.LEADER else ''
        found: str = wait_until(agreed, 30, f'one leader of {among}')
        return found

    def call(self, name: str, service: str, kind: type, /, **fields: Any) -> Any:
        """Call a service of a robot."""
        return self.fleet.probe.call(kind, f'/{name}/cluster/{service}', **fields)

    def acquire(self, name: str, lock: str, lease: float = 10.0, /, **fields: Any) -> Any:
        """Take a lock through a robot."""
        seconds = int(lease)
        return self.call(name, 'acquire_lock', AcquireLock, name=lock, lease=Duration(
            sec=seconds, nanosec=int((lease - seconds) * 1e9)), **fields)

    def events(self, name: str) -> list[ClusterEvent]:
        """Return every event that a robot knows, page by page."""
        found: list[ClusterEvent] = []
        following = 0
        while True:
            page = self.call(name, 'list_events', ListEvents, since_revision=following, limit=1000)
            assert page.success and page.compacted_before == 0
            if not page.events:
                return found
            found += page.events
            following = page.next_revision

    def diagnosed(self, name: str, text: str) -> bool:
        """Return whether a diagnostic of a robot contains a text."""
        return any(status.hardware_id == name and
                   text in status.message + ''.join(v.key + v.value for v in status.values)
                   for message in self.diagnostics[-20:] for status in message.status)


def check_history(events: list[ClusterEvent]) -> None:
    """Check that every lock is held by one at a time, with growing tokens."""
    holders: dict[str, int] = {}
    tokens: dict[str, int] = {}
    for event in events:
        if event.type == ClusterEvent.LOCK_ACQUIRED:
            assert event.subject not in holders, 'two holders'
            assert event.fencing_token > tokens.get(event.subject, 0)
            holders[event.subject] = tokens[event.subject] = event.fencing_token
        elif event.type in (ClusterEvent.LOCK_RELEASED, ClusterEvent.LOCK_EXPIRED):
            assert holders.pop(event.subject) == event.fencing_token


def comparable(events: list[ClusterEvent]) -> list[Any]:
    """Return what is the same on every member."""
    return [(e.revision, e.ordinal, e.type, e.subject, e.owner, e.fencing_token, e.term,
             e.cluster_time.sec, e.cluster_time.nanosec) for e in events]


@contextmanager
def small_disk(where: Path, size: int) -> Iterator[Path]:
    """Mount a real file system that is soon full."""
    where.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(where)],
                             capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f'no file system can be mounted here: {mounted.stderr.decode().strip()}')
    try:
        yield where
    finally:
        subprocess.run(['umount', '-l', str(where)], check=True)
