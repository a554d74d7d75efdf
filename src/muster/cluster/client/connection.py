# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The client's ROS shell: a small node and a thread of its own, whatever else the process spins.

Everything below runs on that thread, except what is said to be for any thread. It never waits for
anybody, so it can be asked from a callback of another executor; waiting is done by its callers.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial
import heapq
from itertools import count
import os
import random
import secrets
import threading
import time
from typing import Any, TypeVar

from muster.cluster.client.errors import FleetUnavailable
from muster.cluster.client.requests import Call, Done, Requests, Send
from muster.cluster.loop import Caller, Loop
from muster.ros import interfaces as interfaces  # noqa: F401 (first: it explains missing types)
from muster.ros.qos import SERVICES
from muster_interfaces import srv
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

Result = TypeVar('Result')
SECOND = 1_000_000_000
#: How often the ROS graph is looked at for robots: while one can be asked, and while none can.
LOOK_SETTLED, LOOK_SEARCHING = SECOND, SECOND // 20
#: Robots that are kept ready to be asked.
MOST_ROBOTS = 3
#: How often one who waits looks whether the client was closed meanwhile, seconds.
CLOSED_PERIOD = 1.0
#: Patience with the own thread, seconds.
STOP_TIMEOUT = 5.0
#: The types of the services that are called.
KINDS = {
    'open_session': srv.OpenSession, 'acquire_lock': srv.AcquireLock, 'renew_lock': srv.RenewLock,
    'release_lock': srv.ReleaseLock, 'list_locks': srv.ListLocks, 'list_events': srv.ListEvents,
    'get_status': srv.GetClusterStatus, 'register_service': srv.RegisterService,
    'unregister_service': srv.UnregisterService, 'find_services': srv.FindServices,
    'set_capabilities': srv.SetCapabilities, 'submit_task': srv.SubmitTask, 'cancel_task': srv.CancelTask,
    'get_task': srv.GetTask, 'list_tasks': srv.ListTasks,
}
#: A sign of life: answered from memory, and with nothing.
SIGN_OF_LIFE = 'list_events'
NOTHING_YET = 2**64 - 1
LOCK_TYPE = 'muster_interfaces/srv/AcquireLock'


def now() -> int:
    """Return the time that leases are measured in: it goes on while a robot sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def members_by_cluster(topics: Iterable[str]) -> dict[str, set[str]]:
    """Return the members of every cluster in the ROS graph, from the names of their inboxes."""
    found: dict[str, set[str]] = {}
    for topic in topics:
        parts = topic.split('/')
        if len(parts) == 5 and parts[1] == 'muster' and parts[3] == '_raft' and not parts[4].startswith('_'):
            found.setdefault(parts[2], set()).add(parts[4])
    return found


class Connection:
    """Carries requests to whichever robot of one cluster answers."""

    def __init__(self, robot: str, cluster: str, domain: int | None, context: Any = None) -> None:
        """Join the ROS graph and begin to look for robots; `robot` is asked first."""
        self._robot, self._cluster = robot, cluster
        self._own_context = context is None
        self._context = rclpy.Context() if context is None else context
        if self._own_context:
            rclpy.init(args=[], context=self._context, domain_id=domain,
                       signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node(f'_muster_client_{os.getpid()}_{secrets.token_hex(4)}', context=self._context,
                          use_global_arguments=False, enable_rosout=False, start_parameter_services=False,
                          parameter_overrides=[Parameter('start_type_description_service', value=False)])
        self._loop = Loop(self._node, self._settle, lambda error: None)
        self._patience = 0
        self._requests = Requests(robot, srv.OpenSession.Request, random.Random(secrets.randbits(64)))
        self._clients: dict[str, dict[str, Caller]] = {}  # by robot and service
        self._flights: dict[Call, tuple[Caller, int]] = {}
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._look_at = 0
        self._problem = ''
        self._closing = threading.Lock()
        self._running = True
        self._thread = threading.Thread(target=self._run, name='muster client', daemon=True)
        self._thread.start()

    # For any thread ----------------------------------------------------------------------------
    def submit(self, call: Call) -> None:
        """Begin a call; its `done` runs on the connection's thread."""
        self.call_soon(lambda: self._add(call))

    def call_soon(self, work: Callable[[], None]) -> None:
        """Run something on the connection's thread."""
        if self._running:
            self._loop.call_soon(work)

    def wait(self, future: Future[Result]) -> Result:
        """Return the result of a future, or raise what it raised; a wait that is broken off cancels it."""
        self.check_thread()
        try:
            while not wait([future], CLOSED_PERIOD).done:
                if not self._thread.is_alive():
                    raise FleetUnavailable('the fleet client is closed')
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def check_thread(self) -> None:
        """Raise RuntimeError on the connection's own thread, which must not wait for itself."""
        if threading.current_thread() is self._thread:
            raise RuntimeError('this waits for the fleet, and callbacks of the fleet client must not wait: '
                               'use the method with _async, or another thread')

    @property
    def closed(self) -> bool:
        """Return whether it was closed."""
        return not self._running

    def close(self) -> None:
        """End everything; what is outstanding fails. Safe to call twice."""
        self.check_thread()
        with self._closing:
            if self._running:
                self._running = False
                self._loop.wake()
                self._thread.join(STOP_TIMEOUT)

    # On the connection's thread ----------------------------------------------------------------
    def call_at(self, when: int, work: Callable[[], None]) -> None:
        """Run something at a time of `now()`."""
        heapq.heappush(self._timers, (when, next(self._order), work))

    def _add(self, call: Call) -> None:
        if not self._running:
            call.done(Done(None, FleetUnavailable('the fleet client is closed'), 0))
        else:
            self._requests.add(call, now())

    def _run(self) -> None:
        try:
            while self._running:
                self._loop.turn(self._patience)
        finally:
            self._running = False
            self._end()

    def _settle(self) -> int:
        """Do what is due, send what was decided, and return the nanoseconds until something is due."""
        time_now = now()
        if time_now >= self._look_at:
            self._look(time_now)
        while self._timers and self._timers[0][0] <= time_now:
            heapq.heappop(self._timers)[2]()
        deadline = self._requests.next_deadline()
        if deadline is not None and time_now >= deadline:
            self._requests.advance(time_now)
        for send in self._requests.take_sends():
            self._send(send)
        due = [self._look_at, *(timer[0] for timer in self._timers[:1])]
        deadline = self._requests.next_deadline()
        if deadline is not None:
            due.append(deadline)
        self._patience = max(0, min(due) - now())
        return self._patience

    def _end(self) -> None:
        """Fail what is outstanding and leave the ROS graph."""
        self._requests.fail(FleetUnavailable('the fleet client was closed'))
        self._loop.stop()
        self._node.destroy_node()
        if self._own_context:
            rclpy.try_shutdown(context=self._context)

    # Robots ------------------------------------------------------------------------------------
    def _look(self, time_now: int) -> None:
        """See in the ROS graph which robots of the cluster can be asked."""
        members = self._members()
        found: dict[str, str] = {}
        for name, kinds in self._node.get_service_names_and_types():
            namespace, _, service = name.rpartition('/cluster/')
            robot = namespace.strip('/').replace('/', '_') or 'robot'
            if service == 'acquire_lock' and LOCK_TYPE in kinds and robot in members:
                found[robot] = namespace
        self._choose(found)
        ready = frozenset(robot for robot, clients in self._clients.items()
                          if all(client.ready for client in clients.values()))
        self._requests.robots(ready, time_now)
        self._requests.explain(self._problem)
        self._look_at = time_now + (LOOK_SETTLED if ready else LOOK_SEARCHING)

    def _members(self) -> set[str]:
        """Return the members of the client's cluster, as the ROS graph shows them."""
        clusters = members_by_cluster(name for name, _ in self._node.get_topic_names_and_types())
        if not self._cluster:
            mine = [name for name, members in clusters.items() if not self._robot or self._robot in members]
            if len(mine) > 1:
                self._problem = f'there are several clusters ({", ".join(sorted(mine))}): name one'
                return set()
            if not mine:
                self._problem = f"no cluster with a robot '{self._robot}' was found" if self._robot else \
                    'no cluster was found'
                return set()
            self._cluster, = mine
        self._problem = f"no robot of cluster '{self._cluster}' was found"
        return clusters.get(self._cluster, set())

    def _choose(self, found: dict[str, str]) -> None:
        """Keep clients for the preferred robot and a few others: they cannot be made when one is needed."""
        for robot in [name for name in self._clients if name not in found]:
            for client in self._clients.pop(robot).values():
                self._loop.drop(client)
        for robot in sorted(found, key=lambda name: (name not in self._clients, name != self._robot, name)):
            if robot not in self._clients and (len(self._clients) < MOST_ROBOTS or robot == self._robot):
                self._clients[robot] = {
                    service: self._loop.client(kind, f'{found[robot]}/cluster/{service}', SERVICES)
                    for service, kind in KINDS.items()}

    # Requests ----------------------------------------------------------------------------------
    def _send(self, send: Send) -> None:
        robot, call = send
        if call is None:
            self._clients[robot][SIGN_OF_LIFE].call(
                srv.ListEvents.Request(since_revision=NOTHING_YET, limit=1),
                lambda _: self._requests.alive(robot, now()))
            return
        self._forget(call)
        client = self._clients[robot][call.service]
        self._flights[call] = client, client.call(call.request, partial(self._answered, call, robot))

    def _forget(self, call: Call) -> None:
        """Do not wait any more for a robot that did not answer."""
        if call in self._flights:
            client, number = self._flights.pop(call)
            client.forget(number)

    def _answered(self, call: Call, robot: str, response: Any) -> None:
        self._flights.pop(call, None)
        self._requests.answered(call, robot, response, now())
