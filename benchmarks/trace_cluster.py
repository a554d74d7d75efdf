# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Where the time of one lock goes: the table of docs/benchmarks.md, from marks in every process.

    python benchmarks/trace_cluster.py [--count N]

Three members run as `traced_node.py`, which notes what passes on CLOCK_MONOTONIC, the same in all
processes of a machine. The acquires follow one another, so the marks of each lie between its ends
as the client has them.
"""
from __future__ import annotations

import argparse
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
import json
import os
from pathlib import Path
import signal
from statistics import median
import time

from builtin_interfaces.msg import Duration
import fleet
from muster_interfaces.srv import AcquireLock, ReleaseLock
import traced_node

COUNT, WARM_UP = 200, 50
#: The steps of one acquire: whose mark ends it, which, and in words. A follower is the one whose
#: acknowledgement is there first.
STEPS = (
    ('client', 'sent', "the client's `call`"),
    ('leader', 'asked', 'until the leader has taken the request'),
    ('leader', 'published', 'the leader decides and begins to send'),
    ('follower', 'heard', 'until the quicker follower has it'),
    ('follower', 'writing', "the follower decides and its log's thread begins"),
    ('follower', 'written', "the follower's write and `fdatasync`"),
    ('follower', 'acknowledged', 'until its acknowledgement is sent'),
    ('leader', 'heard', 'until the leader has it'),
    ('leader', 'answered', 'the leader commits, applies and answers'),
    ('client', 'answered', 'the answer on its way to the client'))
Marks = dict[str, list[int]]


def main() -> None:
    """Trace and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('--count', type=int, default=COUNT, help=f'acquires (default: {COUNT})')
    count = parser.parse_args().count
    wrapper = Path(traced_node.__file__)
    os.environ['PYTHONPATH'] = os.pathsep.join([str(wrapper.parent), os.environ.get('PYTHONPATH', '')])
    with fleet.muster_cluster(module=wrapper.stem) as cluster:
        leader = cluster.settle()
        calls = acquires(cluster, leader, WARM_UP + count)[WARM_UP:]
        traces = {member: cluster.output(member, signal.SIGTERM) for member in fleet.MEMBERS}
    members = {member: json.loads(text.rpartition(traced_node.BEGIN)[2].split('\n')[0])
               for member, text in traces.items()}
    followers = [marks for member, marks in members.items() if member != leader]
    rows = [row for call in calls for row in steps(call, members[leader], followers)]
    print(f'{len(rows)} of {count} acquires, medians, '
          f'{median(call[2] - call[0] for call in calls) / 1e6:.2f} ms in all\n')
    print('| ms | step |\n| --: | --- |')
    for number, (_, _, text) in enumerate(STEPS):
        print(f'| {median(row[number] for row in rows) / 1e6:.2f} | {text} |')


def acquires(cluster: fleet.MusterCluster, member: str, count: int) -> list[tuple[int, int, int]]:
    """Take and give back a lock so often; return when each call began, was sent and was answered."""
    client, found = cluster.client, []
    acquire = client.client(AcquireLock, f'/{member}/cluster/acquire_lock')
    release = client.client(ReleaseLock, f'/{member}/cluster/release_lock')
    for _ in range(count):
        answers: list[tuple[int, AcquireLock.Response]] = []
        begun = time.monotonic_ns()
        acquire.call(AcquireLock.Request(name='dock', lease=Duration(sec=60)),
                     lambda answer, answers=answers: answers.append((time.monotonic_ns(), answer)))
        sent = time.monotonic_ns()
        (ended, answer), = client.spin_until(lambda answers=answers: answers, 10, 'a lock')
        found.append((begun, sent, ended))
        client.answer(release, ReleaseLock.Request(name='dock', fencing_token=answer.fencing_token), 10,
                      'the end of a lock')
    return found


def steps(call: tuple[int, int, int], leader: Marks, followers: list[Marks]) -> Iterator[list[int]]:
    """Yield the nanoseconds of each step of one acquire, where all its marks are in order."""
    begun, sent, ended = call

    def first(marks: Marks, name: str, after: int) -> int:
        position = bisect_left(marks.get(name, []), after)
        return marks[name][position] if position < len(marks.get(name, [])) else ended + 1

    def path(follower: Marks) -> list[int]:
        times = [begun]
        for who, name, _ in STEPS[1:-1]:
            times.append(first(leader if who == 'leader' else follower, name, times[-1]))
        return times[1:]

    way = min(map(path, followers), key=lambda times: times[5])
    times = [begun, sent, *way, ended]
    if times[-2] <= ended:
        yield [after - before for before, after in pairwise(times)]


if __name__ == '__main__':
    main()
