# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The loop of the transport: waits for one small node, and takes all that has come at once.

rclpy's executors make a new wait set for every callback, and one more after it; that was more work
than the consensus itself (docs/benchmarks.md). This loop drains every ready entity and lets its owner
settle once for all of it. The calls that rclpy's own executors are made of are used here and in
`arrivals`, and nowhere else.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
import threading
from typing import Any

from muster.cluster.arrivals import Arrivals, Events, Unsupported, WaitSet
from muster.ros.servers import is_served
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node

#: What one entity may bring in one round; the rest waits for the next, so that none starves others.
MOST = 256
#: Answers a request, from the loop's thread, once.
Reply = Callable[[Any], None]
#: Gets a request and an empty response, and answers with Reply now or later.
Server = Callable[[Any, Any, Reply], None]


class Loop:
    """Serves subscriptions, services and clients of one node, in one thread, without an executor."""

    def __init__(self, node: Node, settle: Callable[[], int], failed: Callable[[Exception], None],
                 events: bool = True) -> None:
        """
        Prepare; the loop runs in a thread of its own from `start` on, or where `turn` is called.

        `settle()` runs after each round and returns for how many nanoseconds nothing is due.
        `failed(error)` runs when something raises in the thread, which has ended then.
        Where `events` are off or not to be had from the middleware, a wait set does their work.
        """
        self._node, self._settle, self._failed = node, settle, failed
        self._calls: deque[Callable[[], None]] = deque()
        #: What each entity is, and what takes one thing from it, where there is one.
        self._entities: dict[Any, tuple[str, Callable[[], None]]] = {}
        self._untaken: dict[Any, int] = {}   # how often each must be asked yet
        self._patience = 0
        #: Whether something is expected within a round trip or two; set by the owner as it settles.
        self.eager = False
        self._running = True
        self._thread = threading.Thread(target=self._run, name='cluster transport')
        self._arrivals = self._way(events)

    def _way(self, events: bool) -> Arrivals:
        try:
            return Events() if events else WaitSet(self._node)
        except Unsupported:
            return WaitSet(self._node)

    # Entities: made before the loop runs or on its thread ----------------------------------------
    def listen(self, kind: Any, topic: str, taken: Callable[[bytes], None], qos: Any) -> Any:
        """Subscribe to a topic; `taken` gets each message serialised. Return what `leave` needs."""
        subscription = self._node.create_subscription(kind, topic, lambda _: None, qos)
        take = subscription.handle.take_message

        def take_one() -> None:
            found = take(kind, True)
            if found is not None:
                taken(found[0])

        self._add(subscription, 'subscription', take_one)
        return subscription

    def leave(self, subscription: Any) -> None:
        """End what `listen` began."""
        self._remove(subscription)
        self._node.destroy_subscription(subscription)

    def serve(self, kind: Any, name: str, server: Server, qos: Any) -> None:
        """Make a service whose requests may be answered later."""
        service = self._node.create_service(kind, name, lambda _, response: response, qos_profile=qos)
        take, send = service.handle.service_take_request, service.handle.service_send_response

        def take_one() -> None:
            request, header = take(kind.Request)
            if header is not None:
                server(request, kind.Response(), lambda response: self._reply(send, response, header))

        self._add(service, 'service', take_one)

    def _reply(self, send: Callable[[Any, Any], None], response: Any, header: Any) -> None:
        try:
            send(response, header.request_id)
        except _rclpy.RCLError as error:  # its client has gone, or was never quite there
            self._node.get_logger().warning(f'an answer could not be sent: {error}')

    def client(self, kind: Any, name: str, qos: Any) -> Caller:
        """Make a client of a service whose answers this loop takes."""
        client = self._node.create_client(kind, name, qos_profile=qos)
        caller = Caller(self._node, client)
        self._add(client, 'client', caller.take)
        return caller

    def drop(self, caller: Caller) -> None:
        """End what `client` made; answers that are outstanding never come."""
        self._remove(caller.client)
        self._node.destroy_client(caller.client)

    def _add(self, entity: Any, kind: str, take: Callable[[], None]) -> None:
        try:
            self._arrivals.add(kind, entity)
        except Unsupported:
            self._arrivals.close()
            self._arrivals = WaitSet(self._node)
            for other, (its_kind, _) in self._entities.items():
                self._arrivals.add(its_kind, other)
            self._arrivals.add(kind, entity)
        self._entities[entity] = kind, take

    def _remove(self, entity: Any) -> None:
        self._arrivals.remove(entity)
        del self._entities[entity]
        self._untaken.pop(entity, None)

    # Life ----------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to serve, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, where there is one, and the waiting for the entities."""
        self._running = False
        if self._thread.is_alive():
            self._arrivals.wake()
            self._thread.join()
        self._arrivals.close()

    def call_soon(self, work: Callable[[], None]) -> None:
        """Run `work` on the loop's thread; from any thread."""
        self._calls.append(work)
        self._arrivals.wake()

    def wake(self) -> None:
        """Make the loop settle soon; from any thread."""
        self._arrivals.wake()

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
            while self._running:
                self.turn(self._patience)
        except Exception as error:
            self._failed(error)

    def turn(self, patience: int) -> None:
        """Wait at most `patience` nanoseconds for something to come, take it and settle."""
        for entity, count in self._arrivals.wait(0 if self._untaken else patience, self.eager):
            self._untaken[entity] = self._untaken.get(entity, 0) + count
        for entity, count in list(self._untaken.items()):
            if entity not in self._entities:
                continue  # it was given up by what another one brought
            if count > MOST:
                self._untaken[entity] = count - MOST
            else:
                del self._untaken[entity]
            take = self._entities[entity][1]
            for _ in range(min(count, MOST)):
                take()
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        self._patience = self._settle()


class Caller:
    """A client of a service, for requests from any thread; several may be under way at once."""

    def __init__(self, node: Node, client: Any) -> None:
        """Wrap a client of a node that the loop takes answers from."""
        self._node = node
        self.client, self._response = client, client.srv_type.Response
        self._send, self._take = client.handle.send_request, client.handle.take_response
        self._waiting: dict[int, Callable[[Any], None]] = {}
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Return whether somebody serves it."""
        return is_served(self._node, self.client)

    def call(self, request: Any, then: Callable[[Any], None]) -> int:
        """Send a request; `then` gets its response, on the loop's thread. Return what `forget` needs."""
        with self._lock:  # the answer may be here before its number is known
            number = int(self._send(request))
            self._waiting[number] = then
        return number

    def forget(self, number: int) -> None:
        """Wait for an answer no longer."""
        self._waiting.pop(number, None)

    def take(self) -> None:
        """Take one answer, where there is one, and hand it on."""
        header, response = self._take(self._response)
        if header is None:
            return
        with self._lock:
            then = self._waiting.pop(header.request_id.sequence_number, None)
        if then is not None:
            then(response)
