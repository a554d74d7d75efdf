# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real processes in an isolated ROS domain, and a probe that talks to them."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import fcntl
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from lifecycle_msgs.srv import GetState
from muster.ros.servers import is_served
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

#: Domain ids whose ports lie below Linux' ephemeral range (ROS 2 documentation, "The ROS_DOMAIN_ID").
DOMAINS = range(1, 100)


@contextmanager
def reserved_domain() -> Iterator[int]:
    """Reserve a ROS domain id for this user of the machine by binding a port of its number."""
    for domain in DOMAINS:
        guard = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            guard.bind(f'\0muster-test-domain-{domain}')  # abstract: vanishes with the process
        except OSError:
            guard.close()
            continue
        try:
            yield domain
        finally:
            guard.close()
        return
    raise RuntimeError('no free ROS domain id: are other test runs going on?')


def wait_until(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """Return the first true value of `condition`; fail with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f'not within {timeout} s: {what}'
        pause.wait(0.01)


def settled[T](look: Callable[[], T], timeout: float, what: str, quiet: float = 2.0) -> T:
    """Return what `look` returns once it has been the same for `quiet` seconds: discovery has no end."""
    since, last = time.monotonic(), look()

    def unchanged() -> bool:
        nonlocal since, last
        now = look()
        if now != last:
            since, last = time.monotonic(), now
        return time.monotonic() - since >= quiet
    wait_until(unchanged, timeout, what)
    return last


class Process:
    """One executable in a process group of its own, its output kept in a file."""

    def __init__(self, command: list[str], output: Path, environment: dict[str, str]) -> None:
        """Start `command`."""
        self.output = output
        with output.open('ab') as sink:
            self._process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment,
                                             stdin=subprocess.DEVNULL, process_group=0)
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether it still runs."""
        return self._process.poll() is None

    @property
    def text(self) -> str:
        """Return all that it printed so far."""
        return self.output.read_text(errors='replace')

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself."""
        if self.alive:
            self._process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Return the exit code."""
        return self._process.wait(timeout)

    def end(self) -> None:
        """Kill the whole group, if anything of it is left."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            self._process.wait(10)


class Fleet:
    """The processes and the probe of one test, in one ROS domain."""

    def __init__(self, folder: Path, domain: int) -> None:
        """Prepare the environment; nothing is started yet."""
        self.folder = folder
        self.environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain),
                            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'PYTHONUNBUFFERED': '1',
                            'ROS_LOG_DIR': str(folder / 'log'), 'MUSTER_HOME': str(folder / 'home'),
                            'OPENBLAS_NUM_THREADS': '1'}
        self.processes: dict[str, Process] = {}
        self.inside: dict[str, list[str]] = {}    # by a process's name: the command that runs it somewhere
        self._domain = domain
        self._probe: Probe | None = None

    @property
    def probe(self) -> Probe:
        """Return the node that calls services and listens for the test."""
        if self._probe is None:
            self._probe = Probe(self._domain, self.environment['ROS_AUTOMATIC_DISCOVERY_RANGE'])
        return self._probe

    def start(self, name: str, module: str, *arguments: str) -> Process:
        """Start `python -m module arguments...` as process `name`."""
        process = Process([*self.inside.get(name, ()), sys.executable, '-m', module, *arguments],
                          self.folder / f'{name}.txt', self.environment)
        self.processes[name] = process
        return process

    def start_node(self, module: str, namespace: str, parameters: dict[str, Any] | None = None,
                   name: str = '') -> Process:
        """Start the node of `module` (as `muster.cluster.node`) for the robot `namespace`."""
        arguments = ['--ros-args', '-r', f'__ns:=/{namespace}']
        for key, value in (parameters or {}).items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ['-p', f'{key}:={text}']
        return self.start(name or f'{namespace}.{module.split(".")[-2]}', module, *arguments)

    def close(self) -> None:
        """Kill what still runs and clean up behind it."""
        for process in self.processes.values():
            process.end()
        if self._probe is not None:
            self._probe.close()
        sweep_shared_memory()


def sweep_shared_memory() -> None:
    """
    Remove the shared memory that killed participants left behind.

    Fast DDS holds a lock on `<segment>_el` for as long as the owner of a segment lives.
    """
    for guard in Path('/dev/shm').glob('fastrtps_*_el'):
        if 'port' in guard.name:
            continue
        try:
            with guard.open('rb') as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                guard.with_name(guard.name.removesuffix('_el')).unlink(missing_ok=True)
                guard.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError, PermissionError):
            continue  # in use, or another test swept it


@dataclass(frozen=True)
class Graph:
    """Names and types, as `ros2 service list -t` and `ros2 topic list -t` show them."""

    services: dict[str, list[str]]
    topics: dict[str, list[str]]
    published: set[str]

    @classmethod
    def of(cls, fleet: Fleet, robot: str = 'robot_1', patience: float = 60.0) -> Graph:
        """Start the three nodes of a robot and the world, and read what they offer once active."""
        fleet.environment |= {'HOME': str(fleet.folder), 'XDG_STATE_HOME': ''}
        fleet.start('robot', 'muster.composed', '--ros-args', '-r', f'__ns:=/{robot}')
        fleet.start('world', 'muster.simulation.node', '--ros-args', '-p', f'robots:=[{robot}]')
        node = fleet.probe.node
        for name in (*(f'/{robot}/{name}' for name in ('cluster', 'learning', 'hardware')), '/world'):
            wait_until(lambda name=name: fleet.probe.call(  # type: ignore[misc]
                GetState, f'{name}/get_state', patience).current_state.label == 'active',
                patience, f'{name} active')
        return settled(lambda: cls.seen_by(node), patience, 'all is discovered')

    @classmethod
    def seen_by(cls, node: Node) -> Graph:
        """Return what a node has discovered so far."""
        topics = dict(node.get_topic_names_and_types())
        return cls(dict(node.get_service_names_and_types()), topics,
                   {name for name in topics if node.count_publishers(name)})


class Probe:
    """A node of the test's own context, spinning in a thread."""

    def __init__(self, domain: int, discovery_range: str) -> None:
        """Join the domain."""
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = discovery_range
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node('probe', context=self.context, enable_rosout=False,
                         start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()
        self._service_clients: dict[str, Any] = {}

    def client(self, kind: type, name: str, timeout: float = 20.0) -> Any:
        """Return a client whose service is there."""
        if name not in self._service_clients:
            self._service_clients[name] = self.node.create_client(kind, name)
            self._executor.wake()
        client = self._service_clients[name]
        wait_until(lambda: is_served(self.node, client), timeout, f'service {name}')
        return client

    def call(self, kind: type, name: str, /, timeout: float = 20.0, **fields: Any) -> Any:
        """
        Call a service and return its response.

        A server that was killed counts as there for as long as its DDS lease, and one that has just
        come may not have found its client yet: what is not answered in half the time is sent again.
        """
        client = self.client(kind, name, timeout)
        answered, request = threading.Event(), kind.Request(**fields)
        futures = []
        for _ in range(2):
            futures.append(client.call_async(request))
            futures[-1].add_done_callback(lambda _: answered.set())
            if answered.wait(timeout / 2):
                return next(future for future in futures if future.done()).result()
        raise AssertionError(f'not within {timeout} s: answer of {name}')

    def asked(self, ask: Callable[[], Any], timeout: float, what: str) -> Any:
        """
        Return the result of the future that `ask` returns, which runs on the executor's thread.

        An ActionClient notes what it waits for only after it has sent it: on another thread the answer
        may be there before, and is dropped.
        """
        return self.result(self.result(self._executor.create_task(ask), timeout, what), timeout, what)

    def result(self, future: Any, timeout: float, what: str) -> Any:
        """Return the result of a future that another thread completes."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(timeout), f'not within {timeout} s: {what}'
        return future.result()

    def listen(self, kind: type, topic: str, qos: Any) -> list[Any]:
        """Return a list that grows with every message of a topic."""
        received: list[Any] = []
        self.node.create_subscription(kind, topic, received.append, qos)
        self._executor.wake()
        return received

    def publisher(self, kind: type, topic: str, qos: Any, timeout: float = 20.0) -> Any:
        """Return a publisher that somebody listens to."""
        publisher = self.node.create_publisher(kind, topic, qos)
        wait_until(lambda: publisher.get_subscription_count() > 0, timeout, f'subscriber of {topic}')
        return publisher

    def withdraw(self, publisher: Any) -> None:
        """
        Destroy a publisher, on the executor's thread.

        On another one rclpy's executor may be about to wait for the publisher's events, and ends with
        InvalidHandle.
        """
        self.result(self._executor.create_task(self.node.destroy_publisher, publisher), 10, 'withdrawn')

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown(timeout_sec=5)
        self._thread.join(5)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)
