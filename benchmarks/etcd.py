# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The peer of the cluster: three members of etcd on this machine, under the same load as Muster's.

etcd's lock service is spoken to as JSON over HTTP (its gRPC gateway) on kept-alive connections of
one thread, so that the client costs about as little as the one that drives Muster.
"""
from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import json
from pathlib import Path
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from typing import Any

from harness import DISK
from load import Load

MEMBERS = ('etcd_1', 'etcd_2', 'etcd_3')
#: The timing of Muster's profile `lan` as nearly as etcd allows, and its pre-vote.
TIMING = ('--heartbeat-interval=50', '--election-timeout=250', '--pre-vote=true')
LEASE_SECONDS = 60
#: While there is no leader etcd drops requests: a new one is sent so often, seconds.
ATTEMPT_INTERVAL = 0.01


def installed() -> bool:
    """Return whether etcd is on this machine (Debian: etcd-server)."""
    return shutil.which('etcd') is not None


class Connection:
    """One kept-alive HTTP connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self.socket = socket.create_connection(('127.0.0.1', port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.then: Callable[[dict[str, Any]], None] | None = None
        self._data = b''

    def send(self, path: str, body: dict[str, Any]) -> None:
        """Send a request."""
        content = json.dumps(body).encode()
        self.socket.sendall(f'POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}'
                            '\r\n\r\n'.encode() + content)

    def receive(self) -> dict[str, Any] | None:
        """Return the answer, None while it is incomplete; raise ConnectionError."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError('etcd closed the connection')
        self._data += data
        head, separator, content = self._data.partition(b'\r\n\r\n')
        if not separator:
            return None
        lengths = [int(line.split(b':')[1]) for line in head.split(b'\r\n')
                   if line.lower().startswith(b'content-length:')]
        if not lengths:
            raise ConnectionError('an answer of unknown length, which is how etcd refuses')
        length, = lengths
        if len(content) < length:
            return None
        self._data = b''
        answer: dict[str, Any] = json.loads(content)
        return answer

    def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer."""
        self.send(path, body)
        while (answer := self.receive()) is None:
            continue
        return answer


class EtcdCluster:
    """Three voters, each a process with its log on the disk."""

    name = 'etcd'
    #: For clients in processes of their own; None is this process's.
    environment: dict[str, str] | None = None

    def __init__(self, folder: Path) -> None:
        """Start them and wait for a leader."""
        self._folder = folder
        ports = free_ports(2 * len(MEMBERS))
        self._ports = dict(zip(MEMBERS, ports[:3], strict=True))
        self._peers = {m: f'http://127.0.0.1:{port}' for m, port in zip(MEMBERS, ports[3:], strict=True)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for member in MEMBERS:
            self.start(member)
        self.settle()
        self._lease = lease(self._ports[MEMBERS[0]])

    def start(self, member: str) -> None:
        """Start a member, again after a kill."""
        client = f'http://127.0.0.1:{self._ports[member]}'
        with (self._folder / f'{member}.txt').open('ab') as output:
            self.processes[member] = subprocess.Popen(
                ['etcd', '--name', member, '--data-dir', str(self._folder / member),
                 '--listen-client-urls', client, '--advertise-client-urls', client,
                 '--listen-peer-urls', self._peers[member],
                 '--initial-advertise-peer-urls', self._peers[member],
                 '--initial-cluster', ','.join(f'{m}={url}' for m, url in self._peers.items()), *TIMING],
                stdout=output, stderr=output, process_group=0)

    def pid(self, member: str) -> int:
        """Return the process of a member."""
        return self.processes[member].pid

    def settle(self) -> str:
        """Wait until every member knows one leader and has caught up; return the leader."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                seen = [call(self._ports[m], '/v3/maintenance/status', {}) for m in MEMBERS]
                leaders = {status.get('leader') for status in seen}
                applied = {status.get('raftAppliedIndex') for status in seen}
                if len(leaders) == 1 == len(applied) and None not in leaders:
                    return next(m for m, status in zip(MEMBERS, seen, strict=True)
                                if status['header']['member_id'] == status['leader'])
            except (OSError, KeyError, StopIteration):
                pass  # a member is still starting
            select_nothing(0.05)
        raise TimeoutError('etcd does not become healthy')

    def load(self, member: str, in_flight: int, seconds: float = 1e9, count: int = 10**9) -> Load:
        """Take and give back `in_flight` locks at a time, until the time or the number is reached."""
        return take_locks(self._ports[member], self._lease, in_flight, seconds, count)

    def client_of(self, member: str) -> tuple[str, str]:
        """Return what tells a client process whom to ask."""
        return 'etcd', str(self._ports[member])

    def kill(self, victim: str, member: str, number: int) -> float:
        """Kill `victim` with SIGKILL; return the seconds until a client of `member` holds a lock."""
        begun = time.perf_counter()
        self.processes[victim].kill()
        self._insist(member, f'kill_{number}')
        return time.perf_counter() - begun

    def stop(self, leader: str, member: str, number: int) -> float:
        """End `leader` with SIGTERM; return the longest wait for a lock at `member` until it is gone."""
        process, longest, count = self.processes[leader], 0.0, 0
        process.terminate()
        while process.poll() is None:
            begun = time.perf_counter()
            self._insist(member, f'stop_{number}_{count}')
            longest, count = max(longest, time.perf_counter() - begun), count + 1
        return longest

    def _insist(self, member: str, name: str) -> None:
        """Take a lock, asking again and again: without a leader etcd drops requests or refuses them."""
        attempts: list[Connection] = []
        with selectors.DefaultSelector() as selector:
            granted = False
            while not granted:
                # A lock of its own for each attempt: an earlier one may yet be granted.
                attempts.append(connection := Connection(self._ports[member]))
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.send('/v3/lock/lock', {'name': _encoded(f'{name}_{len(attempts)}'),
                                                  'lease': self._lease})
                granted = any('key' in answer for answer in _answers(selector, ATTEMPT_INTERVAL))
        for connection in attempts:
            connection.socket.close()

    def restart(self, member: str) -> None:
        """Start a member again that was killed."""
        self.processes[member].wait(10)
        self.start(member)

    def close(self) -> None:
        """Kill all members."""
        for process in self.processes.values():
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def call(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send one request and return its answer."""
    connection = Connection(port)
    try:
        return connection.call(path, body)
    finally:
        connection.socket.close()


def lease(port: int) -> str:
    """Return a new lease that outlives a benchmark."""
    return str(call(port, '/v3/lease/grant', {'TTL': LEASE_SECONDS * 60})['ID'])


def take_locks(port: int, lease_id: str, in_flight: int, seconds: float = 1e9, count: int = 10**9,
               prefix: str = 'lane') -> Load:
    """Take and give back `in_flight` locks at a time, until the time or the number is reached."""
    load, lanes = Load(), in_flight
    begun = time.perf_counter()

    def take(lane: int, connection: Connection) -> None:
        sent = time.perf_counter()
        connection.then = lambda answer: give(lane, connection, sent, answer)
        connection.send('/v3/lock/lock', {'name': _encoded(f'{prefix}_{lane}'), 'lease': lease_id})

    def give(lane: int, connection: Connection, sent: float, answer: dict[str, Any]) -> None:
        now = time.perf_counter()
        load.acquire.append(now - sent)
        connection.then = lambda _: given(lane, connection, now)
        connection.send('/v3/lock/unlock', {'key': answer['key']})

    def given(lane: int, connection: Connection, sent: float) -> None:
        nonlocal lanes
        now = time.perf_counter()
        load.release.append(now - sent)
        if now - begun < seconds and len(load.acquire) + lanes <= count:
            take(lane, connection)
        else:
            lanes -= 1

    with selectors.DefaultSelector() as selector:
        connections = [Connection(port) for _ in range(in_flight)]
        for lane, connection in enumerate(connections):
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            take(lane, connection)
        while lanes:
            for key, _ in selector.select(10):
                answer = key.data.receive()
                if answer is not None:
                    key.data.then(answer)
        load.seconds = time.perf_counter() - begun
        for connection in connections:
            connection.socket.close()
    return load


def _answers(selector: selectors.BaseSelector, seconds: float) -> list[dict[str, Any]]:
    """Return what arrives within a time, or as soon as something did."""
    answers = []
    deadline = time.perf_counter() + seconds
    while not answers and (left := deadline - time.perf_counter()) > 0:
        for key, _ in selector.select(left):
            try:
                answer = key.data.receive()
            except ConnectionError:
                selector.unregister(key.fileobj)
                continue
            if answer is not None:
                answers.append(answer)
    return answers


def select_nothing(seconds: float) -> None:
    """Let some time pass."""
    with selectors.DefaultSelector() as selector:
        selector.select(seconds)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def free_ports(count: int) -> Sequence[int]:
    """Return ports of the loopback interface that nobody uses now."""
    sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def etcd_cluster() -> Iterator[EtcdCluster]:
    """Run a cluster with its logs on the disk."""
    with tempfile.TemporaryDirectory(prefix='muster-benchmark-etcd-', dir=DISK) as folder:
        cluster = EtcdCluster(Path(folder))
        try:
            yield cluster
        finally:
            cluster.close()
