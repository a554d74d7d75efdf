# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A ROS client whose only thread is its caller's: no hand-over between threads is measured."""
from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from muster.ros.qos import SERVICES
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

#: How late a wait notices that its time is over, seconds.
WAKE_INTERVAL = 0.05


class RosClient:
    """A node in this process, in a ROS domain of its own."""

    def __init__(self, domain: int) -> None:
        """Join the domain."""
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node('benchmark', context=self._context, enable_rosout=False,
                         start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        # It wakes the waits below; a time-out of `spin_once` would make a timer at every call.
        self.node.create_timer(WAKE_INTERVAL, lambda: None)
        self._clients: dict[str, Any] = {}

    def spin_until(self, condition: Callable[[], Any], timeout: float, what: str) -> Any:
        """Spin until `condition` is true and return its value; raise TimeoutError naming `what`."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f'not within {timeout} s: {what}')
            self._executor.spin_once()
        return value

    def spin(self, seconds: float) -> None:
        """Spin for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._executor.spin_once()

    def client(self, kind: Any, name: str, timeout: float = 30.0) -> Any:
        """Return a client whose service is there."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name, qos_profile=SERVICES)
        client = self._clients[name]
        self.spin_until(client.service_is_ready, timeout, f'service {name}')
        return client

    def call(self, kind: Any, name: str, /, timeout: float = 30.0, **fields: Any) -> Any:
        """Call a service and return its answer."""
        future = self.client(kind, name, timeout).call_async(kind.Request(**fields))
        self.spin_until(future.done, timeout, f'answer of {name}')
        return future.result()

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown(timeout_sec=5)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)
