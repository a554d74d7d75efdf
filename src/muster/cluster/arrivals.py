# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
How the transport's loop waits for what arrives at its subscriptions, services and clients.

`Events` lets the middleware write into a file descriptor of each entity and waits with epoll: a wake
costs the same for three entities and for thirty, and half of what a wait set costs (docs/benchmarks.md).
`WaitSet` is what rclpy's executors use; it serves where the first cannot.
"""
from __future__ import annotations

from collections.abc import Iterable
import ctypes
import os
import select
import time
from typing import Any, Protocol

from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node

#: A wait set says where something has arrived, not how much; what is left it says again.
GUESS = 16
#: How long what is expected at once is polled for, nanoseconds: a few round trips. A core that sleeps
#: takes about as long to wake as an answer takes to come (docs/benchmarks.md).
BUSY_POLL = 1_000_000
#: It pays under steady load only: after so many waits in a row that were shorter than this, nanoseconds.
#: A lock now and then would cost a member more in polling than in work.
STEADY, PAUSE = 32, 3_000_000
#: The function of rcl that has an entity report what is new, by the kind of the entity.
_REPORTERS = {'subscription': 'rcl_subscription_set_on_new_message_callback',
              'service': 'rcl_service_set_on_new_request_callback',
              'client': 'rcl_client_set_on_new_response_callback'}


class Unsupported(Exception):
    """This way to wait is not available here."""


class Arrivals(Protocol):
    """Waits for several entities at once."""

    def add(self, kind: str, entity: Any) -> None:
        """Wait for an entity too; `kind` is subscription, service or client."""

    def remove(self, entity: Any) -> None:
        """Wait for it no longer; before it is destroyed."""

    def wait(self, patience: int, eager: bool) -> Iterable[tuple[Any, int]]:
        """
        Return where something has arrived within `patience` nanoseconds, and how much.

        Under steady load, an `eager` wait may poll for a while before it sleeps: it is expected at once.
        So often the entity must be asked, even if there was nothing once: what was meant for another
        client of the same service, or tells that a client has gone, is taken and not handed out.
        """

    def wake(self) -> None:
        """End a wait; from any thread."""

    def close(self) -> None:
        """Give everything back."""


class Events:
    """
    The middleware's own notice of what is new, turned into file descriptors.

    Each counts what is new. The callback that rcl gets is `eventfd_write` of the C library and its
    user data the descriptor: no thread of the middleware ever runs Python. Both are called with two
    words in registers, on every 64-bit platform of Linux alike.
    """

    def __init__(self) -> None:
        """Raise Unsupported where the middleware, the C library or the platform lacks what it takes."""
        try:
            rcl, libc = ctypes.CDLL('librcl.so'), ctypes.CDLL(None)
            self._reporters = {kind: getattr(rcl, name) for kind, name in _REPORTERS.items()}
            self._write = ctypes.cast(libc.eventfd_write, ctypes.c_void_p)
            self._epoll = select.epoll()
        except (OSError, AttributeError) as error:
            raise Unsupported(str(error)) from error
        if ctypes.sizeof(ctypes.c_void_p) != ctypes.sizeof(ctypes.c_uint64):
            raise Unsupported('not a 64-bit platform')
        for reporter in self._reporters.values():
            reporter.argtypes = [ctypes.c_void_p] * 3
        self._entities: dict[int, Any] = {}
        self._kinds: dict[Any, tuple[str, int]] = {}
        self._wake = self._descriptor()
        self._brisk = 0   # short waits in a row

    def _descriptor(self) -> int:
        descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(descriptor, select.EPOLLIN)
        return descriptor

    def add(self, kind: str, entity: Any) -> None:
        """Wait for an entity too; raise Unsupported where the middleware cannot report its news."""
        descriptor = self._descriptor()
        with entity.handle:
            failed = self._reporters[kind](entity.handle.pointer, self._write, descriptor)
        if failed:
            os.close(descriptor)
            raise Unsupported(f'the middleware does not report what arrives at a {kind} ({failed})')
        self._entities[descriptor] = entity
        self._kinds[entity] = kind, descriptor

    def remove(self, entity: Any) -> None:
        """Wait for it no longer; before it is destroyed."""
        kind, descriptor = self._kinds.pop(entity)
        with entity.handle:
            self._reporters[kind](entity.handle.pointer, None, None)
        del self._entities[descriptor]
        os.close(descriptor)

    def wait(self, patience: int, eager: bool) -> Iterable[tuple[Any, int]]:
        """Return where something has arrived within `patience` nanoseconds, and how much."""
        begun = time.monotonic_ns()
        polling = min(patience, BUSY_POLL) if eager and self._brisk >= STEADY else 0
        ready = self._polled(begun + polling) or self._epoll.poll((patience - polling) / 1e9)
        self._brisk = self._brisk + 1 if time.monotonic_ns() - begun < PAUSE else 0
        counts = [(descriptor, os.eventfd_read(descriptor)) for descriptor, _ in ready]
        return [(self._entities[descriptor], count) for descriptor, count in counts
                if descriptor != self._wake]

    def _polled(self, until: int) -> list[tuple[int, int]]:
        """Look again and again, but let everybody else who is ready go first."""
        ready: list[tuple[int, int]] = []
        while not ready and time.monotonic_ns() < until:
            ready = self._epoll.poll(0)
            os.sched_yield()
        return ready

    def wake(self) -> None:
        """End a wait; from any thread."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Give everything back."""
        for entity in list(self._kinds):
            self.remove(entity)
        os.close(self._wake)
        self._epoll.close()


class WaitSet:
    """One wait set for all entities, filled anew for each wait as rcl requires."""

    def __init__(self, node: Node) -> None:
        """Begin with the guard condition that ends a wait."""
        self._node = node
        self._guard = node.create_guard_condition(lambda: None)
        self._entities: dict[Any, str] = {}
        self._set: Any = None

    def add(self, kind: str, entity: Any) -> None:
        """Wait for an entity too."""
        self._entities[entity] = kind
        self._set = None

    def remove(self, entity: Any) -> None:
        """Wait for it no longer; before it is destroyed."""
        del self._entities[entity]
        self._set = None

    def wait(self, patience: int, eager: bool) -> Iterable[tuple[Any, int]]:
        """Return where something has arrived within `patience` nanoseconds, and how much at a guess."""
        if self._set is None:
            kinds = list(self._entities.values())
            self._set = _rclpy.WaitSet(kinds.count('subscription'), 1, 0, kinds.count('client'),
                                       kinds.count('service'), 0, self._node.context.handle)
        self._set.clear_entities()
        for entity, kind in self._entities.items():
            getattr(self._set, f'add_{kind}')(entity.handle)
        self._set.add_guard_condition(self._guard.handle)
        self._set.wait(patience)
        ready = {kind: self._set.get_ready_entities(kind) for kind in _REPORTERS}
        return [(entity, GUESS) for entity, kind in self._entities.items()
                if entity.handle.pointer in ready[kind]]

    def wake(self) -> None:
        """End a wait; from any thread."""
        self._guard.trigger()

    def close(self) -> None:
        """Give everything back."""
        self._node.destroy_guard_condition(self._guard)
