# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The cluster: latency, throughput and failover of locks, three members as processes, logs on the disk.

The client is another process and calls the ROS services. etcd stands beside it where it is
installed (Debian: `apt install etcd-server`), three members, the same load in the same run.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
import os
import tempfile
import time
from typing import Any

from core import entries_per_second
import etcd
import fleet
from harness import awake, DISK, percentile, processor_share, Results

KILLS = 10
SAMPLES, WARM_UP = 500, 100
IN_FLIGHT = ((1, 0.8), (8, 1.0), (32, 1.5))   # requests, and the target relative to the peer
THROUGHPUT_SECONDS = 4.0
IDLE_SECONDS = 10.0
CORE_IN_FLIGHT, CORE_SECONDS = 256, 4.0
SYNC_SAMPLES, SYNC_BYTES = 500, 150


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=KILLS, help='kills of the leader (default: %(default)s)')
    kills = parser.parse_args().kills
    results = Results('cluster')
    peer: dict[str, Any] = {}
    if etcd.installed():
        with etcd.etcd_cluster() as cluster:
            peer = measure(cluster, etcd.MEMBERS, kills, etcd.select_nothing)
    else:
        results.say('  etcd: not installed, no peer in this run (Debian: apt install etcd-server)')
    with fleet.muster_cluster() as cluster:
        member = fleet.MEMBERS[0]
        with awake():  # before any kill: DDS goes on calling for the dead for a while
            floor = {'ROS service round trip without consensus': cluster.round_trips(member, SAMPLES),
                     'DDS round trip of 64 bytes': cluster.echoes(SAMPLES),
                     f'fdatasync of {SYNC_BYTES} appended bytes': syncs()}
        own = measure(cluster, fleet.MEMBERS, kills, cluster.client.spin)
    report(results, own, peer, kills)
    for what, samples in floor.items():
        for percent in (50, 99):
            results.add(f'floor: {what}, p{percent}', _ms(percentile(samples, percent)), 'ms')
    with awake():
        results.add('core and storage in one process, 256 in flight',
                    entries_per_second(CORE_IN_FLIGHT, CORE_SECONDS), 'entries/s', at_least=8000)
    results.finish()


def measure(cluster: Any, members: tuple[str, ...], kills: int,
            pause: Callable[[float], None]) -> dict[str, Any]:
    """Put the same load on Muster or a peer and return what came out, by name."""
    found: dict[str, Any] = {}
    leader = cluster.settle()
    follower = next(member for member in members if member != leader)
    with awake():
        for role, member in (('leader', leader), ('follower', follower)):
            cluster.load(member, 1, count=WARM_UP)
            found[role] = cluster.load(member, 1, count=SAMPLES)
        for in_flight, _ in IN_FLIGHT:
            found[in_flight] = cluster.load(leader, in_flight, seconds=THROUGHPUT_SECONDS).pairs_per_second
    found['idle'] = processor_share([cluster.pid(m) for m in (leader, follower)], IDLE_SECONDS, pause)
    found['kills'] = []
    for number in range(kills):
        leader = cluster.settle()
        survivor = next(member for member in members if member != leader)
        found['kills'].append(1e3 * cluster.kill(leader, survivor, number))
        cluster.restart(leader)
    return found


def report(results: Results, own: dict[str, Any], peer: dict[str, Any], kills: int) -> None:
    """Turn what was found into rows with their targets."""
    def add(measure: str, unit: str, value: Callable[[Any], float | None], **targets: float) -> None:
        results.add(measure, value(own), unit, peer='etcd' if peer else None,
                    peer_value=value(peer) if peer else None, **targets)

    for role in ('leader', 'follower'):
        for what in ('acquire', 'release'):
            for percent, targets in ((50, {'peer_at_most': 1.25}), (99, {'at_most': 8.0})):
                add(f'lock {what}, {role}, p{percent}', 'ms',
                    lambda found, r=role, w=what, p=percent: _ms(percentile(getattr(found[r], w), p)),
                    **(targets if what == 'acquire' else {}))
    for in_flight, target in IN_FLIGHT:
        add(f'lock+unlock, {in_flight} in flight', 'pairs/s', lambda found, n=in_flight: found[n],
            peer_at_least=target)
    if kills:
        add(f'failover, {kills} kills, median', 'ms', lambda found: percentile(found['kills'], 50),
            at_most=250, peer_at_most=0.8)
        add(f'failover, {kills} kills, max', 'ms', lambda found: max(found['kills']), at_most=550)
    for number, role in enumerate(('leader', 'follower')):
        add(f'idle processor, {role}, lan', '% of a core', lambda found, n=number: found['idle'][n],
            at_most=3)


def syncs() -> list[float]:
    """Return the seconds of disk syncs of a growing file by this process alone."""
    samples = []
    with tempfile.TemporaryFile(prefix='muster-benchmark-', dir=DISK, buffering=0) as file:
        for _ in range(SYNC_SAMPLES):
            begun = time.perf_counter()
            file.write(bytes(SYNC_BYTES))
            os.fdatasync(file.fileno())
            samples.append(time.perf_counter() - begun)
    return samples


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


if __name__ == '__main__':
    main()
