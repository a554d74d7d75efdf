# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
A process that takes and gives back one lock after the other: `lock_client.py muster|etcd MEMBER PREFIX`.

It prints `ready`, begins at a line on its standard input that says for how many seconds, and prints
how many pairs of lock and unlock a second it made. etcd's member is the port of its clients.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
import subprocess
import sys

import etcd
from load import Load
from ros_client import RosClient
from ros_load import take_locks

#: How long the clients may take to end, seconds.
PATIENCE = 60.0


def together(count: int, whom: tuple[str, str], environment: dict[str, str] | None, seconds: float) -> float:
    """Run clients of one member at the same time, each a process; return the pairs a second of all."""
    clients = [subprocess.Popen([sys.executable, __file__, *whom, f'client_{number}'], env=environment,
                                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
               for number in range(count)]
    try:
        for client in clients:
            assert client.stdout is not None and client.stdout.readline() == 'ready\n', 'a client failed'
        for client in clients:
            assert client.stdin is not None
            client.stdin.write(f'{seconds}\n')
            client.stdin.flush()
        return sum(float(client.communicate(timeout=seconds + PATIENCE)[0]) for client in clients)
    finally:
        for client in clients:
            client.kill()
            client.wait()


@contextmanager
def connected(peer: str, member: str, prefix: str) -> Iterator[Callable[[float], Load]]:
    """Give what puts the load on a member, once it can be reached."""
    if peer == 'etcd':
        lease = etcd.lease(int(member))
        yield lambda seconds: etcd.take_locks(int(member), lease, 1, seconds, prefix=prefix)
        return
    client = RosClient(int(os.environ['ROS_DOMAIN_ID']))
    try:
        take_locks(client, member, 1, count=1, prefix=prefix)
        yield lambda seconds: take_locks(client, member, 1, seconds, prefix=prefix)
    finally:
        client.close()


def main() -> None:
    """Be one client."""
    with connected(*sys.argv[1:]) as run:
        print('ready', flush=True)
        print(run(float(sys.stdin.readline())).pairs_per_second)


if __name__ == '__main__':
    main()
