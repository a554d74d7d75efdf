# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The other peer of the cluster: three members of PySyncObj, a replicated lock manager in Python."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import importlib.util
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

from etcd import free_ports, select_nothing
from harness import DISK

MEMBER = Path(__file__).with_name('pysync_member.py')
#: How long (seconds) the members may take to find one another: they try every 5 s.
READY = 60.0


def installed() -> bool:
    """Return whether the package is there (PyPI: pysyncobj)."""
    return importlib.util.find_spec('pysyncobj') is not None


class PySyncCluster:
    """Three members as processes; each takes the locks that it is told to."""

    def __init__(self, folder: Path, period: float) -> None:
        """Start them, with a tick of `period` seconds or (0) as PySyncObj is by default."""
        self._folder, self._period = folder, period
        self.members = tuple(f'127.0.0.1:{port}' for port in free_ports(3))
        self._processes: dict[str, subprocess.Popen[str]] = {}
        for member in self.members:
            self._start(member)

    def _start(self, member: str) -> None:
        others = [other for other in self.members if other != member]
        with (self._folder / 'output.txt').open('ab') as output:
            self._processes[member] = subprocess.Popen(
                [sys.executable, str(MEMBER), str(self._folder), str(self._period), member, *others],
                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output)

    def ask(self, member: str, line: str) -> Any:
        """Let a member do something and return its answer."""
        process = self._processes[member]
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(line + '\n')
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise ConnectionError(f'{member} ended: {(self._folder / "output.txt").read_text()[-300:]}')
        return json.loads(answer)

    def settle(self) -> str:
        """Wait until every member reaches every other and knows one leader; return the leader."""
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline:
            leaders = {self.ask(member, 'leader') for member in self.members}
            if len(leaders) == 1 and '' not in leaders:
                return str(leaders.pop())
            select_nothing(0.1)
        raise TimeoutError('PySyncObj elects no leader')

    def kill(self, victim: str, survivor: str) -> float:
        """Kill `victim`; return the seconds until `survivor` holds a lock."""
        begun = time.perf_counter()
        self._processes[victim].kill()
        self.ask(survivor, 'insist kill')
        return time.perf_counter() - begun

    def close(self) -> None:
        """Kill all members."""
        for process in self._processes.values():
            process.kill()
            process.communicate(timeout=10)


@contextmanager
def pysync_cluster(period: float) -> Iterator[PySyncCluster]:
    """Run a cluster with its journals on the disk."""
    with tempfile.TemporaryDirectory(prefix='muster-benchmark-pysync-', dir=DISK) as folder:
        cluster = PySyncCluster(Path(folder), period)
        try:
            yield cluster
        finally:
            cluster.close()


def failovers(period: float, kills: int) -> list[float]:
    """Kill the leader of so many clusters; return the seconds until another member holds a lock."""
    found = []
    for _ in range(kills):
        with pysync_cluster(period) as cluster:  # one that was killed may take half a minute to be back
            leader = cluster.settle()
            survivor = next(member for member in cluster.members if member != leader)
            found.append(cluster.kill(leader, survivor))
    return found
