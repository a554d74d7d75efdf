# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Three whole robots in one simulated world, each as three processes and as one (`--composed`).

What it costs the consensus to share an interpreter with learning and hardware: the latency of a
lock, and elections while nobody died; and what it saves in memory.
"""
from __future__ import annotations

import os
from pathlib import Path
import tempfile
import time

from fleet import ANSWER, MEMBERS, MusterCluster
from harness import DISK, percentile, Results
from muster.bringup import default_params
from muster_interfaces.srv import GetClusterStatus
from processes import Fleet, reserved_domain
import psutil
from ros_client import RosClient
import yaml

ACQUIRES = 300
#: Seconds in which elections are counted while the robots drive.
WATCH = 20.0


class Robots(MusterCluster):
    """Three robots with all their nodes; the lock services are those of the cluster nodes."""

    def __init__(self, fleet: Fleet, client: RosClient, composed: bool) -> None:
        """Start the world and the robots."""
        self._composed = composed
        parameters = yaml.safe_load(default_params().read_text())
        parameters['/**/cluster']['ros__parameters'] |= {'bootstrap': 'members', 'members': list(MEMBERS)}
        self._file = fleet.folder / 'robot.yaml'
        self._file.write_text(yaml.safe_dump(parameters))
        fleet.start('world', 'muster.simulation.node', '--ros-args', '-p', f'robots:=[{",".join(MEMBERS)}]')
        super().__init__(fleet, client)

    def start(self, member: str) -> None:
        """Start a whole robot."""
        self._fleet.start(member, 'muster.cli', 'up', '--robot', member, '--params', str(self._file),
                          '--data', str(self._fleet.folder), *(['--composed'] if self._composed else []))

    def memory(self) -> float:
        """Return the memory of one robot's nodes in MB, the mean; shared pages count once for each."""
        nodes = [child for member in MEMBERS
                 for child in psutil.Process(self._fleet.processes[member].pid).children()]
        return sum(node.memory_info().rss for node in nodes) / len(MEMBERS) / 1e6

    def terms(self) -> int:
        """Return the highest term that a member knows."""
        return max(self.client.call(GetClusterStatus, f'/{m}/cluster/get_status', ANSWER).status.term
                   for m in MEMBERS)


def measure(results: Results, composed: bool) -> None:
    """Measure one arrangement and add its rows."""
    how = 'one process' if composed else 'three processes'
    with tempfile.TemporaryDirectory(prefix='muster-benchmark-', dir=DISK) as folder, \
            reserved_domain() as domain:
        fleet, client = Fleet(Path(folder), domain), RosClient(domain)
        try:
            robots = Robots(fleet, client, composed)
            leader = robots.settle()
            load = robots.load(leader, 1, count=ACQUIRES)
            before, begun = robots.terms(), time.monotonic()
            client.spin_until(lambda: time.monotonic() - begun > WATCH, 2 * WATCH, 'the end of the watch')
            results.add(f'lock acquire, {how}, p50', percentile(load.acquire, 50) * 1e3, 'ms')
            results.add(f'lock acquire, {how}, p99', percentile(load.acquire, 99) * 1e3, 'ms')
            results.add(f'elections in {WATCH:g} s, {how}', float(robots.terms() - before), '')
            results.add(f'memory of a robot, {how}', robots.memory(), 'MB')
        finally:
            client.close()
            fleet.close()


def main() -> None:
    """Measure both and write the results."""
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    results = Results('bringup')
    for composed in (False, True):
        measure(results, composed)
    results.finish()


if __name__ == '__main__':
    main()
