# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A ROS client whose only thread is its caller's: no hand-over between threads is measured."""
from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from muster.cluster.loop import Caller, Loop
from muster.ros.middleware import without_shared_memory
from muster.ros.qos import SERVICES
import rclpy
from rclpy.node import Node
from rclpy.serialization import deserialize_message

#: How late a wait notices that its time is over or its condition true by itself, nanoseconds.
PATIENCE = 50_000_000


class RosClient:
    """A node in this process, in a ROS domain of its own."""

    def __init__(self, domain: int) -> None:
        """Join the domain."""
        self._context = rclpy.Context()
        with without_shared_memory(whole_process=True):  # as in Muster's own programs
            rclpy.init(context=self._context, domain_id=domain)
            self.node = Node('benchmark', context=self._context, enable_rosout=False,
                             start_parameter_services=False)
        self._loop = Loop(self.node, lambda: PATIENCE, _raised)
        self._callers: dict[str, Caller] = {}

    def spin_until(self, condition: Callable[[], Any], timeout: float, what: str) -> Any:
        """Take what comes until `condition` holds and return its value; raise TimeoutError naming `what`."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f'not within {timeout} s: {what}')
            self._loop.turn(PATIENCE)
        return value

    def spin(self, seconds: float) -> None:
        """Take what comes for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._loop.turn(PATIENCE)

    def listen(self, kind: Any, topic: str, heard: Callable[[Any], None], qos: Any) -> Callable[[], None]:
        """Subscribe to a topic; return what ends it."""
        subscription = self._loop.listen(
            kind, topic, lambda message: heard(deserialize_message(message, kind)), qos)
        return lambda: self._loop.leave(subscription)

    def client(self, kind: Any, name: str, timeout: float = 30.0) -> Caller:
        """Return a client whose service is there."""
        if name not in self._callers:
            self._callers[name] = self._loop.client(kind, name, SERVICES)
        caller = self._callers[name]
        self.spin_until(lambda: caller.ready, timeout, f'service {name}')
        return caller

    def call(self, kind: Any, name: str, /, timeout: float = 30.0, **fields: Any) -> Any:
        """Call a service and return its answer."""
        return self.answer(self.client(kind, name, timeout), kind.Request(**fields), timeout, name)

    def answer(self, caller: Caller, request: Any, timeout: float, name: str) -> Any:
        """Send a request and return its answer."""
        answers: list[Any] = []
        number = caller.call(request, answers.append)
        try:
            return self.spin_until(lambda: answers, timeout, f'answer of {name}')[0]
        finally:
            caller.forget(number)

    def close(self) -> None:
        """Leave the domain."""
        self._loop.stop()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)


def _raised(error: Exception) -> None:
    raise error
