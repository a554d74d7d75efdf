# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The cluster: latency, throughput and failover of locks, three members as processes, logs on the disk.

The client is another process and calls the ROS services. etcd stands beside it where it is
installed (Debian: `apt install etcd-server`), three members, the same load in turns.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
import os
import tempfile
import time
from typing import Any

from core import entries_per_second, tasks_in_process
import etcd
import fleet
from footprint import footprint
from harness import busy, DISK, percentile, processor_share, reason, Results
import hundred
from load import Load
from lock_client import together
from placement import placement_microseconds
import pysync
from ros_tasks import tasks_over_ros

SAMPLES, WARM_UP = 500, 100
#: In so many turns Muster and its peer get a load: what the host does beside falls on both alike.
TURNS = 5
IN_FLIGHT = ((1, 0.8), (8, 1.0), (32, 1.5))   # requests, and the target relative to the peer
CALLS = 'ROS service calls without consensus, 32 in flight'
CLIENTS = 8
CORE_IN_FLIGHT = 256
SYNC_SAMPLES, SYNC_BYTES = 500, 150
PYSYNC_SAMPLES, PYSYNC_KILLS = 200, 10


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    kills: int = 50
    stops: int = 10
    seconds: float = 5.0            # of each load
    idle_seconds: float = 20.0
    busy_seconds: float = 600.0     # in which elections are counted
    task_seconds: float = 300.0


QUICK = Plan(kills=5, stops=3, seconds=2.0, idle_seconds=5.0, busy_seconds=20.0, task_seconds=15.0)


def main() -> None:
    """Measure all of it, or what was asked for."""
    plan, chosen, keep = arguments()
    results = Results('cluster')
    for name, part in PARTS.items():
        if name in chosen:
            with results.part(name):
                part(results, plan)
            if keep:
                results.merge(tuple(PARTS))
    results.finish(keep=False)


def arguments() -> tuple[Plan, list[str], bool]:
    """Return how much is to be measured, which parts, and whether the results are to be kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='everything, but short')
    parser.add_argument('--only', nargs='+', choices=tuple(PARTS), default=list(PARTS), metavar='PART',
                        help=f'some of {", ".join(PARTS)}; shown and not kept, without --keep')
    parser.add_argument('--keep', action='store_true',
                        help='put the results in place of those of the same parts; done with all parts')
    parser.add_argument('--kills', type=int, help=f'kills of the leader (default: {Plan.kills})')
    parser.add_argument('--busy-seconds', type=float, help='time in which elections are counted beside busy '
                        f'loops (default: {Plan.busy_seconds:g})')
    parser.add_argument('--task-seconds', type=float, help='time in which tasks are executed, of each kind '
                        f'(default: {Plan.task_seconds:g})')
    given = vars(parser.parse_args())
    quick, chosen, keep = given.pop('quick'), given.pop('only'), given.pop('keep')
    if quick and keep:
        parser.error('--quick measures too little to be kept')
    plan = replace(QUICK if quick else Plan(), **{name: value for name, value in given.items()
                                                  if value is not None})
    return plan, chosen, keep or (set(chosen) == PARTS.keys() and not quick)


def add_locks(results: Results, plan: Plan) -> None:
    """Add locks and failover beside those of etcd, and the floor that they stand on."""
    peer: dict[Any, Any] = {}
    own: dict[Any, Any] = {}
    floor: dict[Any, Any] = {}
    with ExitStack() as stack:
        clusters: list[tuple[Any, tuple[str, ...], dict[Any, Any]]] = []
        if etcd.installed():
            try:
                clusters.append((stack.enter_context(etcd.etcd_cluster()), etcd.MEMBERS, peer))
            except Exception as error:  # Muster's own figures are measured still
                results.say(f'  etcd: no peer in this run: {reason(error)}')
        else:
            results.say('  etcd: not installed, no peer in this run (Debian: apt install etcd-server)')
        clusters.append((stack.enter_context(fleet.muster_cluster()), fleet.MEMBERS, own))
        take_turns(clusters, plan)
    if peer:
        with etcd.etcd_cluster() as cluster:
            measure(cluster, etcd.MEMBERS, plan, etcd.select_nothing, peer)
    with fleet.muster_cluster() as cluster:
        member = fleet.MEMBERS[0]
        # Before any kill: DDS goes on calling for the dead for a while
        for what, sampled in (
                ('ROS service round trip without consensus',
                 lambda: cluster.round_trips(member, SAMPLES)),
                ('DDS round trip of 64 bytes', lambda: cluster.echoes(SAMPLES)),
                (f'fdatasync of {SYNC_BYTES} appended bytes', syncs)):
            attempt(floor, what, sampled)
        attempt(floor, CALLS, lambda: cluster.calls(member, 32, plan.seconds))
        measure(cluster, fleet.MEMBERS, plan, cluster.client.spin, own)
    report(results, own, peer, plan)
    calls = floor.pop(CALLS)
    failed = isinstance(calls, Exception)
    results.add(f'floor: {CALLS}', None if failed else calls, 'calls/s',
                remark=reason(calls) if failed else '')
    for what, samples in floor.items():
        for percent in (50, 99):
            failed = isinstance(samples, Exception)
            results.add(f'floor: {what}, p{percent}', None if failed else _ms(percentile(samples, percent)),
                        'ms', remark=reason(samples) if failed else '')


def attempt(found: dict[Any, Any], what: Any, work: Callable[[], Any]) -> None:
    """Note what some work returns, added to what it returned before, or what it raises instead."""
    before = found.get(what)
    if isinstance(before, Exception):
        return
    try:
        value = work()
    except Exception as error:  # the other figures are measured still
        found[what] = error
    else:
        found[what] = value if before is None else before + value


def take_turns(clusters: list[tuple[Any, tuple[str, ...], dict[Any, Any]]], plan: Plan) -> None:
    """Put the same loads on all clusters (each with its members) in turns, and note what came out of each."""
    def load(cluster: Any, member: str) -> Load:
        cluster.load(member, 1, count=WARM_UP // TURNS)
        found: Load = cluster.load(member, 1, count=SAMPLES // TURNS)
        return found

    for _ in range(TURNS):
        places = [(cluster, found, *_leader_and_follower(cluster, members))
                  for cluster, members, found in clusters]
        for role in ('leader', 'follower'):
            for cluster, found, *members in places:
                attempt(found, role, partial(load, cluster, members[role == 'follower']))
        for n, _ in IN_FLIGHT:
            for cluster, found, leader, _ in places:
                attempt(found, n, partial(cluster.load, leader, n, seconds=plan.seconds / TURNS))


def _leader_and_follower(cluster: Any, members: tuple[str, ...]) -> tuple[str, str]:
    leader = cluster.settle()
    return leader, next(member for member in members if member != leader)


def measure(cluster: Any, members: tuple[str, ...], plan: Plan, pause: Callable[[float], None],
            found: dict[Any, Any]) -> None:
    """Note, by name, what comes of many clients, idleness, stops and kills of Muster or a peer alone."""
    leader, follower = _leader_and_follower(cluster, members)
    attempt(found, 'clients', lambda: together(CLIENTS, cluster.client_of(leader), cluster.environment,
                                               plan.seconds))
    attempt(found, 'idle', lambda: processor_share([cluster.pid(m) for m in (leader, follower)],
                                                   plan.idle_seconds, pause))
    for what, end, times in (('stops', cluster.stop, plan.stops), ('kills', cluster.kill, plan.kills)):
        attempt(found, what, partial(ends, cluster, members, end, times))


def ends(cluster: Any, members: tuple[str, ...], end: Callable[[str, str, int], float],
         times: int) -> list[float]:
    """End the leader again and again; return how many milliseconds nobody was given a lock."""
    found = []
    for number in range(times):
        leader = cluster.settle()
        survivor = next(member for member in members if member != leader)
        found.append(1e3 * end(leader, survivor, number))
        cluster.restart(leader)
    return found


def report(results: Results, own: dict[Any, Any], peer: dict[Any, Any], plan: Plan) -> None:
    """Turn what was found into rows with their targets."""
    def add(measure: str, unit: str, what: Any, value: Callable[[Any], float | None],
            **targets: float) -> None:
        def of(found: dict[Any, Any]) -> float | None:
            return None if isinstance(found.get(what), Exception | None) else value(found[what])

        failed = [whose + reason(found[what]) for whose, found in (('', own), ('etcd: ', peer))
                  if isinstance(found.get(what), Exception)]
        results.add(measure, of(own), unit, peer='etcd' if peer else None, peer_value=of(peer),
                    remark='; '.join(failed), **targets)

    for role in ('leader', 'follower'):
        for what in ('acquire', 'release'):
            for percent, targets in ((50, {'peer_at_most': 1.25}), (99, {'at_most': 8.0})):
                add(f'lock {what}, {role}, p{percent}', 'ms', role,
                    lambda load, w=what, p=percent: _ms(percentile(getattr(load, w), p)),
                    **(targets if what == 'acquire' else {}))
    for in_flight, target in IN_FLIGHT:
        add(f'lock+unlock, {in_flight} in flight', 'pairs/s', in_flight, lambda load: load.pairs_per_second,
            peer_at_least=target)
    add(f'lock+unlock, {CLIENTS} client processes', 'pairs/s', 'clients', float)
    if plan.kills:
        add(f'failover, {plan.kills} kills, median', 'ms', 'kills', lambda times: percentile(times, 50),
            at_most=250, peer_at_most=0.8)
        add(f'failover, {plan.kills} kills, max', 'ms', 'kills', max, at_most=550)
    if plan.stops:
        add(f'longest wait in a clean stop, {plan.stops} stops, median', 'ms', 'stops',
            lambda times: percentile(times, 50), at_most=60)
        add(f'longest wait in a clean stop, {plan.stops} stops, max', 'ms', 'stops', max)
    for number, role in enumerate(('leader', 'follower')):
        add(f'idle processor, {role}, lan', '% of a core', 'idle', lambda shares, n=number: shares[n],
            at_most=3)


def add_idle_on_wifi(results: Results, plan: Plan) -> None:
    """Add what voters cost that have nothing to do, with the profile for Wi-Fi."""
    with fleet.muster_cluster(profile='wifi') as cluster:
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


def add_core(results: Results, plan: Plan) -> None:
    """Add what consensus and disk do without ROS."""
    results.add('core and storage in one process, 256 in flight',
                entries_per_second(CORE_IN_FLIGHT, plan.seconds), 'entries/s', at_least=8000)


def add_tasks(results: Results, plan: Plan) -> None:
    """Add tasks from their submission to their end: the core alone, and real workers over ROS."""
    for how, run, least in (('in-process executor', tasks_in_process, 500),
                            ('ExecuteTask', tasks_over_ros, 100)):
        with results.part(f'tasks, {how}'):
            ended, seconds = run(plan.task_seconds)
            part = min(60.0, seconds / 5)
            for when, low in (('first', 0.0), ('last', seconds - part)):
                rate = sum(low <= moment < low + part for moment in ended) / part
                results.add(f'tasks, {how}, {when} {part:g} s of {seconds:g} s', rate, 'tasks/s',
                            at_least=least)


def add_hundred(results: Results, plan: Plan) -> None:
    """Add what a hundred members cost their leader."""
    idle, loaded = hundred.leaders_shares(plan.idle_seconds)
    for what, share in (('idle', idle), (f'{hundred.PAIRS} lock pairs/s', loaded)):
        results.add(f'leader of {hundred.MEMBERS} members, {what}', share, '% of a core', at_most=10)


def add_pysyncobj(results: Results, plan: Plan) -> None:
    """Add what the second peer reaches, with a tick of 1 ms and as it is by default."""
    if not pysync.installed():
        results.say('  PySyncObj: not installed, no second peer in this run (pip install pysyncobj)')
        return
    kills = min(plan.kills, PYSYNC_KILLS)
    for what, period in (('1 ms tick', 0.001), ('default', 0.0)):
        name = f'PySyncObj, {what}'
        with results.part(name):
            with pysync.pysync_cluster(period) as cluster:
                leader = cluster.settle()
                follower = next(member for member in cluster.members if member != leader)
                for role, member in (('leader', leader), ('follower', follower)):
                    samples = cluster.ask(member, f'load {PYSYNC_SAMPLES}')
                    for percent in (50, 99):
                        results.add(f'{name}: tryAcquire, {role}, p{percent}',
                                    _ms(percentile(samples, percent)), 'ms')
            if kills:
                times = pysync.failovers(period, kills)
                results.add(f'{name}: failover, {kills} kills, median', _ms(percentile(times, 50)), 'ms')
                results.add(f'{name}: failover, {kills} kills, max', _ms(max(times)), 'ms')


def add_state(results: Results, plan: Plan) -> None:
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


#: What is measured, by the name that `--only` knows.
PARTS: dict[str, Callable[[Results, Plan], None]] = {
    'locks': add_locks, 'wifi': add_idle_on_wifi, 'elections': add_elections, 'core': add_core,
    'tasks': add_tasks, 'hundred': add_hundred,
    'pysyncobj': add_pysyncobj, 'state': add_state}


if __name__ == '__main__':
    main()
