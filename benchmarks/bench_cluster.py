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
from dataclasses import dataclass, replace
import os
import tempfile
import time
from typing import Any

from core import entries_per_second
import etcd
import fleet
from footprint import footprint
from harness import awake, busy, DISK, percentile, processor_share, Results
from lock_client import together
from placement import placement_microseconds

SAMPLES, WARM_UP = 500, 100
IN_FLIGHT = ((1, 0.8), (8, 1.0), (32, 1.5))   # requests, and the target relative to the peer
CLIENTS = 8
CORE_IN_FLIGHT = 256
SYNC_SAMPLES, SYNC_BYTES = 500, 150


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    kills: int = 50
    stops: int = 10
    seconds: float = 5.0            # of each load
    idle_seconds: float = 20.0
    busy_seconds: float = 600.0     # in which elections are counted


QUICK = Plan(kills=5, stops=3, seconds=2.0, idle_seconds=5.0, busy_seconds=20.0)


def main() -> None:
    """Measure all of it."""
    plan = arguments()
    results = Results('cluster')
    peer: dict[str, Any] = {}
    if etcd.installed():
        with etcd.etcd_cluster() as cluster:
            peer = measure(cluster, etcd.MEMBERS, plan, etcd.select_nothing)
    else:
        results.say('  etcd: not installed, no peer in this run (Debian: apt install etcd-server)')
    with fleet.muster_cluster() as cluster:
        member = fleet.MEMBERS[0]
        with awake():  # before any kill: DDS goes on calling for the dead for a while
            floor = {'ROS service round trip without consensus': cluster.round_trips(member, SAMPLES),
                     'DDS round trip of 64 bytes': cluster.echoes(SAMPLES),
                     f'fdatasync of {SYNC_BYTES} appended bytes': syncs()}
        own = measure(cluster, fleet.MEMBERS, plan, cluster.client.spin)
    report(results, own, peer, plan)
    for what, samples in floor.items():
        for percent in (50, 99):
            results.add(f'floor: {what}, p{percent}', _ms(percentile(samples, percent)), 'ms')
    add_idle_on_wifi(results, plan)
    add_elections(results, plan)
    with awake():
        results.add('core and storage in one process, 256 in flight',
                    entries_per_second(CORE_IN_FLIGHT, plan.seconds), 'entries/s', at_least=8000)
        add_state(results)
    results.finish()


def arguments() -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='everything, but short: two minutes')
    parser.add_argument('--kills', type=int, help=f'kills of the leader (default: {Plan.kills})')
    parser.add_argument('--busy-seconds', type=float, help='time in which elections are counted beside busy '
                        f'loops (default: {Plan.busy_seconds:g})')
    given = vars(parser.parse_args())
    plan = QUICK if given.pop('quick') else Plan()
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def measure(cluster: Any, members: tuple[str, ...], plan: Plan,
            pause: Callable[[float], None]) -> dict[Any, Any]:
    """Put the same load on Muster or a peer and return what came out, by name."""
    found: dict[Any, Any] = {}
    leader = cluster.settle()
    follower = next(member for member in members if member != leader)
    with awake():
        for role, member in (('leader', leader), ('follower', follower)):
            cluster.load(member, 1, count=WARM_UP)
            found[role] = cluster.load(member, 1, count=SAMPLES)
        for in_flight, _ in IN_FLIGHT:
            found[in_flight] = cluster.load(leader, in_flight, seconds=plan.seconds).pairs_per_second
        found['clients'] = together(CLIENTS, cluster.client_of(leader), cluster.environment, plan.seconds)
    found['idle'] = processor_share([cluster.pid(m) for m in (leader, follower)], plan.idle_seconds, pause)
    for what, end, times in (('stops', cluster.stop, plan.stops), ('kills', cluster.kill, plan.kills)):
        found[what] = []
        for number in range(times):
            leader = cluster.settle()
            survivor = next(member for member in members if member != leader)
            found[what].append(1e3 * end(leader, survivor, number))
            cluster.restart(leader)
    return found


def report(results: Results, own: dict[Any, Any], peer: dict[Any, Any], plan: Plan) -> None:
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
    add(f'lock+unlock, {CLIENTS} client processes', 'pairs/s', lambda found: found['clients'])
    if plan.kills:
        add(f'failover, {plan.kills} kills, median', 'ms', lambda found: percentile(found['kills'], 50),
            at_most=250, peer_at_most=0.8)
        add(f'failover, {plan.kills} kills, max', 'ms', lambda found: max(found['kills']), at_most=550)
    if plan.stops:
        add(f'longest wait in a clean stop, {plan.stops} stops, median', 'ms',
            lambda found: percentile(found['stops'], 50), at_most=60)
        add(f'longest wait in a clean stop, {plan.stops} stops, max', 'ms', lambda found: max(found['stops']))
    for number, role in enumerate(('leader', 'follower')):
        add(f'idle processor, {role}, lan', '% of a core', lambda found, n=number: found['idle'][n],
            at_most=3)


def add_idle_on_wifi(results: Results, plan: Plan) -> None:
    """Add what voters cost that have nothing to do, with the profile for Wi-Fi."""
    with fleet.muster_cluster('wifi') as cluster:
        leader = cluster.settle()
        follower = next(member for member in fleet.MEMBERS if member != leader)
        shares = processor_share([cluster.pid(leader), cluster.pid(follower)], plan.idle_seconds,
                                 cluster.client.spin)
    for role, share in zip(('leader', 'follower'), shares, strict=True):
        results.add(f'idle processor, {role}, wifi', share, '% of a core', at_most=1)


def add_elections(results: Results, plan: Plan) -> None:
    """Add how often a leader is elected while nobody died, with a busy loop on every core."""
    with fleet.muster_cluster() as cluster:
        cluster.settle()
        before = cluster.term()
        with busy():
            cluster.client.spin(plan.busy_seconds)
        results.add(f'elections in {plan.busy_seconds:g} s beside busy loops', float(cluster.term() - before),
                    '', at_most=0)


def add_state(results: Results) -> None:
    """Add what the replicated state takes: time for each placement, bytes for each thing."""
    few, many = placement_microseconds().values()
    results.add('placement of a task, 100 tasks stored', few, 'µs', at_most=20)
    results.add('placement of a task, 100,000 tasks stored', many, 'µs', at_most=20)
    results.add('the second by the first', many / few, 'x', at_most=1.5)
    for what, size in footprint().items():
        results.add(f'memory of a {what}', size, 'bytes', at_most=500 if what == 'lock' else 1000)


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
