# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A hundred members: five voters as processes, the others as learners in one more."""
from __future__ import annotations

import time

from builtin_interfaces.msg import Duration
import fleet
from harness import processor_share
import learners
from muster_interfaces.msg import ClusterStatus
from muster_interfaces.srv import AcquireLock, GetClusterStatus, ReleaseLock

VOTERS = tuple(f'robot_{i}' for i in range(1, 6))
MEMBERS = 100
#: Seconds that all may take to be taken in, and then to calm down; and pairs of lock and unlock a second.
JOINED, CALM, PAIRS = 180.0, 5.0, 10


def leaders_shares(seconds: float) -> tuple[float, float]:
    """Return the percentage of a core that the leader takes: with nothing to do, and with some locks."""
    with fleet.muster_cluster(VOTERS) as cluster:
        leader = cluster.settle()
        process = cluster.run(learners.__file__, str(MEMBERS - len(VOTERS)))

        def joined() -> bool:
            assert process.alive, f'the learners ended: {process.text[-300:]}'
            status: ClusterStatus = cluster.client.call(
                GetClusterStatus, f'/{leader}/cluster/get_status').status
            cluster.client.spin(0.5)
            return len(status.members) == MEMBERS and all(member.reachable for member in status.members)

        cluster.client.spin_until(joined, JOINED, f'{MEMBERS} members')
        cluster.client.spin(CALM)
        idle, = processor_share([cluster.pid(leader)], seconds, cluster.client.spin)
        loaded, = processor_share([cluster.pid(leader)], seconds,
                                  lambda seconds: take_locks(cluster, leader, seconds))
        leads = cluster.client.call(GetClusterStatus, f'/{leader}/cluster/get_status').status.leader
        assert leads == leader, f"'{leads}' leads now, no longer '{leader}'"
        return idle, loaded


def take_locks(cluster: fleet.MusterCluster, member: str, seconds: float) -> None:
    """Take and give back a lock so many times a second."""
    client = cluster.client
    acquire = client.client(AcquireLock, f'/{member}/cluster/acquire_lock')
    release = client.client(ReleaseLock, f'/{member}/cluster/release_lock')
    begun = time.monotonic()
    for number in range(round(seconds * PAIRS)):
        client.spin(begun + number / PAIRS - time.monotonic())
        request = AcquireLock.Request(name='dock', lease=Duration(sec=60))
        answer = client.answer(acquire, request, 10, 'a lock')
        assert answer.success, answer.message
        client.answer(release, ReleaseLock.Request(name='dock', fencing_token=answer.fencing_token), 10,
                      'the end of a lock')
