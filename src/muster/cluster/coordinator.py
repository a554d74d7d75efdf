# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
A robot of the fleet inside a Python program: a real member of a real cluster.

    coordinator = create_cluster_coordinator(node_id='robot_1')
    coordinator.start()
    if coordinator.acquire_lock('dock_3', timeout=5.0):
        ...
        coordinator.release_lock('dock_3')
    coordinator.stop()
"""
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
import gc
import sys
import threading
import time
from types import TracebackType
from typing import Any

from muster.cluster.client import Fleet, Lock, LockTimeout, Service
from muster.cluster.node import ClusterNode, SWITCH_INTERVAL
from muster.cluster.state.events import Event, EventType
from muster.cluster.state.tasks import TaskState
from muster.ros.middleware import without_shared_memory
from muster.ros.node import NAME
from muster_interfaces.msg import ClusterStatus
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

#: How often a coordinator that starts looks whether there is a leader, seconds.
LOOK_PERIOD = 0.1
#: How long a coordinator that stops waits until its locks are given back, seconds.
RELEASE_TIMEOUT = 2.0
ROLES = {ClusterStatus.FOLLOWER: 'follower', ClusterStatus.CANDIDATE: 'candidate',
         ClusterStatus.LEADER: 'leader', ClusterStatus.WAITING: 'waiting'}


class ServiceRegistry:
    """The services of the fleet."""

    def __init__(self, fleet: Callable[[], Fleet]) -> None:
        """Ask through the client that `fleet` returns."""
        self._fleet = fleet

    def register_service(self, node_id: str, name: str, type: str = '', capabilities: tuple[str, ...] = (),
                         metadata: dict[str, Any] | None = None, ttl: float = 0.0) -> None:
        """Enter a service of a robot; with `ttl` [s] it goes after so long without being entered again."""
        self._fleet().register(name, type, capabilities, metadata, ttl, robot=node_id)

    def unregister_service(self, node_id: str, name: str) -> None:
        """Take a service of a robot out; raise RequestRefused where it has none of that name."""
        self._fleet().unregister(name, robot=node_id)

    def find_service(self, name: str) -> list[Service]:
        """Return the services of a name, by robot."""
        return self._fleet().find(name)

    def get_node_services(self, node_id: str) -> list[Service]:
        """Return the services of a robot, by name."""
        return self._fleet().find(robot=node_id)


class ClusterCoordinator:
    """One member of the cluster, with a client that asks it first; a context manager."""

    def __init__(self, node_id: str, cluster: str, data_directory: str, domain_id: int | None,
                 parameters: dict[str, Any]) -> None:
        """Prepare; `start` begins."""
        if not NAME.fullmatch(node_id):
            raise ValueError(f"node_id '{node_id}' must be letters, digits and underscores, beginning with a "
                             'letter, 64 at most: it names the robot')
        self.node_id = node_id
        self.registry = ServiceRegistry(self._client)
        self._domain = domain_id
        self._parameters = {'cluster': cluster, 'data_directory': data_directory, **parameters}
        self._handlers: dict[EventType, list[Callable[[dict[str, Any]], None]]] = {}
        self._fleet: Fleet | None = None
        self._locks: dict[str, Lock] = {}

    # Life --------------------------------------------------------------------------------------
    def start(self, timeout: float = 30.0) -> bool:
        """
        Take part in the cluster, or found one where none is heard for 4 s; return whether it is led.

        It waits for that `timeout` seconds at most, and goes on trying afterwards. Raise RuntimeError
        where the member cannot begin, as with a data directory that is in use.
        """
        if self._fleet is not None:
            return True
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, domain_id=self._domain,
                   signal_handler_options=SignalHandlerOptions.NO)
        with without_shared_memory():
            self._node = ClusterNode(
                context=self._context, namespace=self.node_id, use_global_arguments=False,
                parameter_overrides=[Parameter(name, value=value)
                                     for name, value in self._parameters.items()])
        self._node.listeners.append(self._on_event)
        self._calls = ThreadPoolExecutor(1, thread_name_prefix='cluster events')
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        started = self._executor.create_task(self._node.start)
        self._thread = threading.Thread(target=self._executor.spin, name='cluster', daemon=True)
        self._thread.start()
        self._fleet = Fleet(self.node_id, self._parameters['cluster'], self.node_id, domain_id=self._domain)
        return self._wait_for_a_leader(started, time.monotonic() + timeout)

    def _wait_for_a_leader(self, started: Any, deadline: float) -> bool:
        alarm = threading.Event()
        while time.monotonic() < deadline:
            if started.done() and not self._node.is_active:
                failure = self._node.failure
                self.stop()
                raise RuntimeError(f"'{self.node_id}' could not begin: {failure}")
            if started.done() and self._node.status().leader:
                return True
            alarm.wait(LOOK_PERIOD)
        return False

    def stop(self) -> None:
        """Give the locks back, hand over leadership and leave; what is stored stays. Safe to call twice."""
        fleet, self._fleet = self._fleet, None
        if fleet is None:
            return
        wait([lock.release_async() for lock in self._locks.values()], RELEASE_TIMEOUT)
        self._locks.clear()
        fleet.close()
        self._executor.shutdown(timeout_sec=0)
        self._thread.join()
        self._node.stop()
        self._node.destroy_node()
        self._calls.shutdown(wait=False, cancel_futures=True)
        rclpy.try_shutdown(context=self._context)
        # rclpy's executor and node hold one another, and the node stays in the ROS graph until they go.
        del self._node, self._executor, self._context
        gc.collect()

    def __enter__(self) -> ClusterCoordinator:
        """Start."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    def _client(self) -> Fleet:
        if self._fleet is None:
            raise RuntimeError(f"'{self.node_id}' does not take part in a cluster: start it first")
        return self._fleet

    # What it can do ----------------------------------------------------------------------------
    def add_capability(self, name: str) -> None:
        """Say that this robot can do something."""
        self._client().set_capabilities(add=[name])

    def remove_capability(self, name: str) -> None:
        """Say that this robot can do something no longer."""
        self._client().set_capabilities(remove=[name])

    # Locks -------------------------------------------------------------------------------------
    def acquire_lock(self, name: str, timeout: float = 0.0, lease: float = 30.0) -> bool:
        """
        Take a lock of the fleet and return whether that succeeded within `timeout` seconds.

        It is renewed until it is released; a holder that dies loses it when the lease [s] ends. A lock
        that this coordinator holds already is not given again.
        """
        lock = self._client().lock(name, lease, timeout)
        try:
            lock.acquire()
        except LockTimeout:
            return False
        self._locks[name] = lock
        return True

    def release_lock(self, name: str) -> bool:
        """Give a lock back, and return whether it was still held."""
        lock = self._locks.pop(name, None)
        if lock is None:
            return False
        held = lock.held
        lock.release()
        return held

    # Tasks -------------------------------------------------------------------------------------
    def submit_task(self, task_type: str, payload: dict[str, Any] | None = None, **arguments: Any) -> str:
        """Give the fleet a task and return its id; `arguments` as those of `Fleet.submit`."""
        return self._client().submit(task_type, payload, **arguments).id

    def get_task_status(self, task_id: str) -> str:
        """Return waiting, running, succeeded, failed or canceled; raise RequestRefused if it is unknown."""
        return TaskState(self._client().task(task_id).info().status).name.lower()

    # The cluster -------------------------------------------------------------------------------
    def get_cluster_status(self) -> dict[str, Any]:
        """Return how the cluster is, as this member sees it."""
        self._client()
        status = self._node.status()
        return {
            'cluster': status.cluster, 'cluster_id': status.cluster_id, 'node_id': self.node_id,
            'role': ROLES[status.role], 'leader': status.leader, 'term': status.term,
            'total_nodes': len(status.members), 'locks': status.locks,
            'nodes': {m.id: {'capabilities': list(m.capabilities), 'reachable': m.reachable,
                             'running': m.running, 'capacity': m.capacity} for m in status.members}}

    def on_event(self, name: str, handler: Callable[[dict[str, Any]], None]) -> None:
        """
        Call `handler` with every event of a kind, as 'lock_acquired' or 'member_dead'.

        It gets a dict with revision, ordinal, type, subject, member, owner, token and term, in a thread
        of the coordinator's own.
        """
        if name.upper() not in EventType.__members__:
            raise ValueError(f"there is no event '{name}': "
                             f'{", ".join(kind.name.lower() for kind in EventType)}')
        self._handlers.setdefault(EventType[name.upper()], []).append(handler)

    def _on_event(self, event: Event) -> None:
        handlers = self._handlers.get(event.type)
        if handlers:
            told = {**event._asdict(), 'type': event.type.name.lower()}
            for handler in handlers:
                self._calls.submit(handler, told)


def create_cluster_coordinator(node_id: str, cluster: str = 'fleet', data_directory: str = '',
                               domain_id: int | None = None, **parameters: Any) -> ClusterCoordinator:
    """
    Return a coordinator, not started yet, that makes this program a robot of the fleet.

    `node_id` names the robot, `cluster` the fleet. What lasts is kept in `data_directory` (default: as
    the cluster node). `parameters` are others of the cluster node, as profile='wifi'.
    """
    return ClusterCoordinator(node_id, cluster, data_directory, domain_id, parameters)
