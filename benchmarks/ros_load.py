# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The load of locks that a ROS client puts on one member of a Muster cluster."""
from __future__ import annotations

import time
from typing import Any

from builtin_interfaces.msg import Duration
from load import Load
from muster_interfaces.srv import AcquireLock, ReleaseLock
from ros_client import RosClient

LEASE = Duration(sec=60)
#: Patience with one load, seconds beyond its own time.
PATIENCE = 120.0


def take_locks(client: RosClient, member: str, in_flight: int, seconds: float = 1e9, count: int = 10**9,
               prefix: str = 'lane') -> Load:
    """Take and give back `in_flight` locks at a time, until the time or the number is reached."""
    acquire = client.client(AcquireLock, f'/{member}/cluster/acquire_lock')
    release = client.client(ReleaseLock, f'/{member}/cluster/release_lock')
    load, lanes = Load(), in_flight
    begun = time.perf_counter()

    def take(lane: int) -> None:
        sent = time.perf_counter()
        request = AcquireLock.Request(name=f'{prefix}_{lane}', lease=LEASE)
        acquire.call(request, lambda answer: give(lane, sent, answer))

    def give(lane: int, sent: float, answer: Any) -> None:
        now = time.perf_counter()
        assert answer.success, answer.message
        load.acquire.append(now - sent)
        request = ReleaseLock.Request(name=f'{prefix}_{lane}', fencing_token=answer.fencing_token)
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
    client.spin_until(lambda: not lanes, min(seconds, PATIENCE) + PATIENCE, 'the end of the load')
    load.seconds = time.perf_counter() - begun
    return load
