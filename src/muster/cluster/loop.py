# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The loop of the transport: waits for one small node, and takes all that has come at once.

rclpy's executors make a new wait set for every callback, and one more after it; that was more work
than the consensus itself (docs/benchmarks.md). This loop keeps one wait set, drains every ready
entity, and lets its owner settle once for all of it. It uses the calls that rclpy's own executors
and `wait_for_message` are made of; they are used here and nowhere else.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
import threading
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node

#: What one entity may bring in one round; the rest waits for the next, so that none starves others.
MOST = 256
#: Answers a request, from the loop's thread, once.
Reply = Callable[[Any], None]
#: Gets a request and an empty response, and answers with Reply now or later.
Server = Callable[[Any, Any, Reply], None]


class Loop:
    """Serves the subscriptions and services of one node, in one thread, without an executor."""

    def __init__(self, node: Node, settle: Callable[[], int], failed: Callable[[Exception], None]) -> None:
        """
        Prepare; `run` begins in a thread of its own with `start`.

        `settle()` runs after each round and returns for how many nanoseconds nothing is due.
        `failed(error)` runs when something raises; the loop has ended then.
        """
        self._node, self._settle, self._failed = node, settle, failed
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = node.create_guard_condition(lambda: None)
        self._servers: dict[Any, Server] = {}
        self._running = True
        self._thread = threading.Thread(target=self._run, name='cluster transport')

    def serve(self, kind: Any, name: str, server: Server, qos: Any) -> None:
        """Make a service whose requests may be answered later; call it before `start`."""
        service = self._node.create_service(kind, name, lambda _, response: response, qos_profile=qos)
        self._servers[service] = server

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; safe where it never began."""
        self._running = False
        if self._thread.is_alive():
            self._wake.trigger()
            self._thread.join()

    def call_soon(self, work: Callable[[], None]) -> None:
        """Run `work` on the loop's thread; from any thread."""
        self._calls.append(work)
        self._wake.trigger()

    def call(self, work: Callable[[], Any], timeout: float) -> Any:
        """Run `work` on the loop's thread and return or raise what it did; TimeoutError if stuck."""
        if not self._thread.is_alive():
            raise TimeoutError('the cluster transport has ended')
        done = threading.Event()
        results: list[Any] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(work())
            except Exception as error:  # raised again by the caller
                errors.append(error)
            done.set()

        self.call_soon(run)
        if not done.wait(timeout):
            raise TimeoutError('the cluster transport does not respond')
        if errors:
            raise errors[0]
        return results[0]

    def _run(self) -> None:
        try:
            wait_set, size, patience = None, (-1, -1), 0
            while self._running:
                subscriptions, services = list(self._node.subscriptions), list(self._servers)
                if size != (len(subscriptions), len(services)):
                    size = len(subscriptions), len(services)
                    wait_set = _rclpy.WaitSet(size[0], 1, 0, 0, size[1], 0, self._node.context.handle)
                self._wait(wait_set, subscriptions, services, patience)
                self._take_messages(wait_set, subscriptions)
                self._take_requests(wait_set, services)
                for _ in range(len(self._calls)):
                    self._calls.popleft()()
                patience = self._settle()
        except Exception as error:
            self._failed(error)

    def _wait(self, wait_set: Any, subscriptions: list[Any], services: list[Any], patience: int) -> None:
        wait_set.clear_entities()
        for subscription in subscriptions:
            wait_set.add_subscription(subscription.handle)
        for service in services:
            wait_set.add_service(service.handle)
        wait_set.add_guard_condition(self._wake.handle)
        wait_set.wait(patience if not self._calls else 0)

    @staticmethod
    def _take_messages(wait_set: Any, subscriptions: list[Any]) -> None:
        ready = wait_set.get_ready_entities('subscription')
        for subscription in subscriptions:
            if subscription.handle.pointer not in ready:
                continue
            for _ in range(MOST):
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, False)
                if taken is None:
                    break
                subscription.callback(taken[0])

    def _take_requests(self, wait_set: Any, services: list[Any]) -> None:
        ready = wait_set.get_ready_entities('service')
        for service in services:
            if service.handle.pointer not in ready:
                continue
            for _ in range(MOST):
                with service.handle:
                    request, header = service.handle.service_take_request(service.srv_type.Request)
                if header is None:
                    break
                self._servers[service](request, service.srv_type.Response(), _reply(service, header))


def _reply(service: Any, header: Any) -> Reply:
    def reply(response: Any) -> None:
        service.send_response(response, header)
    return reply
