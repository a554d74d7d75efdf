# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the demo sees and does: an ordinary ROS node, with the topics and services everybody has."""
from __future__ import annotations

from collections.abc import Callable, Sequence
import threading
import time
from typing import Any, NamedTuple

from muster.ros import interfaces as interfaces  # noqa: F401 (first: it explains missing types)
from muster.ros.qos import EVENTS, STATUS
from muster.ros.servers import is_served
from muster_interfaces.msg import (
    ClusterEvent,
    ClusterStatus,
    DeviceArray,
    DeviceEvent,
    LearningStatus,
)
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float32


#: Seconds after which an unanswered request is repeated.
REPEAT = 2.0


class Missing(Exception):
    """Something that the demo waited for did not happen in time."""


class Seen(NamedTuple):
    """A message with when it arrived, on time.monotonic()."""

    at: float
    message: Any


class Observer:
    """Listens to every robot, in a thread of its own."""

    def __init__(self, robots: Sequence[str]) -> None:
        """Subscribe to everything."""
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node('demo', enable_rosout=False, start_parameter_services=False)
        self.robots = tuple(robots)
        self.cluster: dict[str, list[Seen]] = {}
        self.events: dict[str, list[Seen]] = {}
        self.devices: dict[str, list[Seen]] = {}
        self.device_events: dict[str, list[Seen]] = {}
        self.learning: dict[str, list[Seen]] = {}
        self.rewards: dict[str, list[Seen]] = {}
        self._changed = threading.Condition()
        self._known: dict[str, Any] = {}
        for robot in robots:
            for kept, kind, topic, qos in (
                    (self.cluster, ClusterStatus, 'cluster/status', STATUS),
                    (self.events, ClusterEvent, 'cluster/events', EVENTS),
                    (self.devices, DeviceArray, 'hardware/devices', STATUS),
                    (self.device_events, DeviceEvent, 'hardware/events', EVENTS),
                    (self.learning, LearningStatus, 'learning/status', STATUS),
                    (self.rewards, Float32, 'reward', EVENTS)):
                self.node.create_subscription(kind, f'/{robot}/{topic}',
                                              self._keep(kept.setdefault(robot, [])), qos)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, name='observer', daemon=True)
        self._thread.start()

    def _keep(self, seen: list[Seen]) -> Callable[[Any], None]:
        def callback(message: Any) -> None:
            with self._changed:
                seen.append(Seen(time.monotonic(), message))
                self._changed.notify_all()
        return callback

    def wait(self, condition: Callable[[], Any], timeout: float, what: str) -> Any:
        """Return the first true value of `condition`; raise Missing after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            value = condition()  # without the lock: it may call services
            if value:
                return value
            left = deadline - time.monotonic()
            if left <= 0:
                raise Missing(f'not within {timeout:g} s: {what}')
            with self._changed:
                self._changed.wait(min(left, 0.05))  # bounded: not every change is a message

    def call(self, kind: Any, service: str, /, patience: float = 15.0, **fields: Any) -> Any:
        """
        Call a service and return its response; raise Missing where none comes.

        The request is repeated, because DDS drops the answer of a server that has not discovered
        its new client yet. So it must be one that may be repeated, by its nature or its request_id.
        """
        client = self._known.get(service)
        if client is None:
            client = self._known[service] = self.node.create_client(kind, service)
        self.wait(lambda: is_served(self.node, client), patience, f'service {service}')
        answers: list[Any] = []
        done = threading.Event()

        def keep(future: Any) -> None:
            answers.append(future.result())
            done.set()

        for _ in range(max(1, round(patience / REPEAT))):
            client.call_async(kind.Request(**fields)).add_done_callback(keep)
            if done.wait(REPEAT):
                return answers[0]
        raise Missing(f'not within {patience:g} s: an answer of {service}')

    def status(self, robot: str) -> ClusterStatus | None:
        """Return the last cluster status of a robot."""
        seen = self.cluster[robot]
        return seen[-1].message if seen else None

    def leader(self, among: Sequence[str]) -> str:
        """Return whom all of these robots follow, empty where they differ or know none."""
        leaders = {status.leader if (status := self.status(robot)) else '' for robot in among}
        return leaders.pop() if len(leaders) == 1 else ''

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown(timeout_sec=5)
        self._thread.join(5)
        self.node.destroy_node()
        rclpy.try_shutdown()
