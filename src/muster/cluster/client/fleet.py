# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The fleet as a Python program uses it: locks, registry and tasks, through any robot."""
from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
import json
import os
import socket
from types import TracebackType
from typing import Any

from muster.cluster.client.connection import Connection, now, SECOND
from muster.cluster.client.lock import Lock
from muster.cluster.client.requests import Call, Done
from muster.cluster.client.task import Task
from muster.cluster.state.commands import Acquire
from muster.ros.durations import duration
from muster_interfaces.msg import ClusterStatus, LockInfo, TaskInfo
from muster_interfaces.srv import (
    FindServices,
    GetClusterStatus,
    ListLocks,
    ListTasks,
    RegisterService,
    SetCapabilities,
    SubmitTask,
    UnregisterService,
)

#: How many rows a list has at most.
MOST_LISTED = 1000


@dataclass(frozen=True)
class Service:
    """An entry of the registry."""

    robot: str
    name: str
    type: str
    capabilities: tuple[str, ...]
    metadata: dict[str, Any]


class Fleet:
    """
    A client of the fleet's cluster; usable in any process and from any of its threads.

    It asks `robot` first, and any other robot of the same cluster where that one does not answer.
    Without `robot` it asks whichever it finds; where several clusters are in sight, name one with
    `cluster`. Every request is safe to repeat, and is repeated until it is answered or `patience`
    seconds are over; then FleetUnavailable says that nothing happened, and OutcomeUnknown that it may
    have. It has a ROS node and a thread of its own, also in a process that spins rclpy, in ROS domain
    `domain_id` (default: that of the environment). Its methods wait for the fleet, so a callback of an
    executor calls the ones that return a future. Close it, or use it as a context manager.
    """

    def __init__(self, robot: str = '', cluster: str = '', owner: str = '', patience: float = 10.0,
                 domain_id: int | None = None) -> None:
        """Begin to look for robots; `owner` names the holder of locks for people."""
        if not patience > 0:
            raise ValueError(f'patience must be positive, in seconds, not {patience}')
        self.robot = robot
        self.owner = owner or f'{socket.gethostname()}:{os.getpid()}'
        self._patience = int(patience * SECOND)
        self._connection = Connection(robot, cluster, domain_id)
        atexit.register(self.close)     # a context that is still open when Python ends may crash it

    # Locks -------------------------------------------------------------------------------------
    def lock(self, name: str, lease: float = 30.0, timeout: float = 60.0, delay: float = 0.0,
             owner: str = '', on_lost: Callable[[Lock], None] | None = None) -> Lock:
        """
        Return a lock of the fleet, not held yet: use it with `with`, or acquire it.

        `lease` [s, 0.1..86400] is how long the lock outlives a dead holder, `timeout` [s, 0..3600] how
        long it is waited for, `delay` [s, 0..3600] how long it stays closed where its lease ends without
        a release. While it is held it is renewed in the background; `on_lost(lock)` runs in a thread of
        its own when that failed. Raise ValueError where a value is out of its range.
        """
        owner = owner or self.owner
        wanted = Acquire(name, owner, int(lease * SECOND), int(timeout * SECOND), int(delay * SECOND))
        wanted.check()
        return Lock(self._connection, name, owner, wanted.lease, wanted.wait, wanted.delay, on_lost)

    def locks(self, prefix: str = '') -> list[LockInfo]:
        """Return the locks whose names begin with `prefix`, 1000 at most, by name."""
        request = ListLocks.Request(prefix=prefix, limit=MOST_LISTED)
        return list(self.ask('list_locks', request, changes=False).locks)

    # Registry ----------------------------------------------------------------------------------
    def register(self, name: str, type: str = '', capabilities: Iterable[str] = (),
                 metadata: dict[str, Any] | None = None, ttl: float = 0.0, robot: str = '') -> None:
        """
        Enter a service of a robot (default: the client's) into the registry, or replace its entry.

        With `ttl` [s] it goes after so long without being registered again; else with its robot.
        """
        self.ask('register_service', RegisterService.Request(
            robot=self._of(robot), name=name, type=type, capabilities=list(capabilities),
            metadata=json.dumps(metadata or {}), time_to_live=duration(int(ttl * SECOND))))

    def unregister(self, name: str, robot: str = '') -> None:
        """Take a service of a robot (default: the client's) out of the registry."""
        self.ask('unregister_service', UnregisterService.Request(robot=self._of(robot), name=name))

    def find(self, name: str = '', type: str = '', capability: str = '', robot: str = '') -> list[Service]:
        """Return the services that match all that is given, 1000 at most, by name and robot."""
        found = self.ask('find_services', FindServices.Request(
            name=name, type=type, capability=capability, robot=robot, limit=MOST_LISTED), changes=False)
        return [Service(s.robot, s.name, s.type, tuple(s.capabilities), json.loads(s.metadata or '{}'))
                for s in found.services]

    def set_capabilities(self, add: Iterable[str] = (), remove: Iterable[str] = (), capacity: int = 0,
                         robot: str = '') -> None:
        """Say what a robot (default: the client's) can do, and how many tasks at once (0: as before)."""
        self.ask('set_capabilities', SetCapabilities.Request(
            robot=self._of(robot), add=list(add), remove=list(remove), capacity=capacity))

    # Tasks -------------------------------------------------------------------------------------
    def submit(self, type: str, payload: Any = None, required: Iterable[str] = (), priority: int = 0,
               deadline: float = 0.0, max_attempts: int = 3, lease: float = 0.0,
               cancel_grace: float = 0.0) -> Task:
        """
        Give the fleet a task, and return it once it is safely stored.

        `payload` is anything JSON can say. A robot with a worker for `type` and all the capabilities
        `required` executes it, at least once. `priority` 0..255, 255 first; `deadline` [s] until it
        fails, 0 for none; `lease` [s] and `cancel_grace` [s]: 0 for the cluster's own.
        """
        answer = self.ask('submit_task', SubmitTask.Request(
            type=type, payload=json.dumps({} if payload is None else payload),
            required_capabilities=list(required), priority=priority, max_attempts=max_attempts,
            deadline=duration(int(deadline * SECOND)), lease=duration(int(lease * SECOND)),
            cancel_grace=duration(int(cancel_grace * SECOND))))
        return Task(self.ask, answer.task_id)

    def task(self, task_id: str) -> Task:
        """Return a task that was submitted before."""
        return Task(self.ask, task_id)

    def tasks(self, type: str = '', robot: str = '', status: int = 0) -> list[TaskInfo]:
        """Return the tasks that match all that is given, 1000 at most, without payload and result."""
        return list(self.ask('list_tasks', ListTasks.Request(
            type=type, robot=robot, status=status, limit=MOST_LISTED), changes=False).tasks)

    # The cluster -------------------------------------------------------------------------------
    def status(self, linearizable: bool = False) -> ClusterStatus:
        """Return the cluster as the answering robot sees it."""
        request = GetClusterStatus.Request(linearizable=linearizable)
        return self.ask('get_status', request, changes=False).status

    def ask(self, service: str, request: Any, changes: bool = True) -> Any:
        """Send a request to `cluster/<service>` of some robot and return its response; raise FleetError."""
        return self._connection.wait(self.ask_async(service, request, changes))

    def ask_async(self, service: str, request: Any, changes: bool = True) -> Future[Any]:
        """Send a request like `ask`, and return a future of the response."""
        future: Future[Any] = Future()

        def done(end: Done) -> None:
            if not future.set_running_or_notify_cancel():
                return
            if end.error is None:
                future.set_result(end.response)
            else:
                future.set_exception(end.error)

        self._connection.submit(Call(service, request, now() + self._patience, done, changes))
        return future

    def close(self) -> None:
        """End it; locks still held go when their leases end. Safe to call twice."""
        self._connection.close()
        atexit.unregister(self.close)

    def __enter__(self) -> Fleet:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """End it."""
        self.close()

    def _of(self, robot: str) -> str:
        if not (robot or self.robot):
            raise ValueError('say whose it is: give robot=, here or to Fleet')
        return robot or self.robot
