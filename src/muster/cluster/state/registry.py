# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The services that robots offer, found by name, type, capability and robot."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from muster.cluster.state.commands import Register
from muster.cluster.state.deadlines import Deadlines, Shortest
from muster.cluster.state.refused import Busy, NotFound

#: Services of the fleet and of one robot; beyond it `register_service` is refused.
MAX_SERVICES = 10_000
MAX_ROBOT_SERVICES = 1000


class Service(NamedTuple):
    """A service of a robot; times are nanoseconds of cluster time."""

    robot: str
    name: str
    type: str
    capabilities: tuple[str, ...]
    metadata: str              # a JSON object
    ttl: int                   # 0 = it stays until its robot dies
    expires: int               # 0 = never

    def announcement(self) -> Register:
        """Return the operation that would enter it again."""
        return Register(*self[:6])

    def _terms(self) -> Iterator[tuple[str, str]]:
        yield 'name', self.name
        yield 'type', self.type
        yield 'robot', self.robot
        for capability in self.capabilities:
            yield 'capability', capability


class Registry:
    """All services; a robot and a name identify one."""

    def __init__(self) -> None:
        """Begin without services."""
        self._services: dict[tuple[str, str], Service] = {}
        self._index: dict[tuple[str, str], set[tuple[str, str]]] = {}    # (what, value): keys
        self._deadlines: Deadlines[tuple[str, str]] = Deadlines(self._expires)
        self._ttls = Shortest()

    def __len__(self) -> int:
        """Return how many services there are."""
        return len(self._services)

    def find(self, name: str = '', type: str = '', capability: str = '', robot: str = '') -> list[Service]:
        """Return the services for which all that is given holds, by name and robot."""
        terms = [(what, value) for what, value in (('name', name), ('type', type), ('robot', robot),
                                                   ('capability', capability)) if value]
        groups = sorted((self._index.get(term, set()) for term in terms), key=len)
        keys = groups[0].intersection(*groups[1:]) if groups else self._services
        return sorted((self._services[key] for key in keys), key=lambda s: (s.name, s.robot))

    def register(self, operation: Register, now: int) -> Service:
        """Enter a service, or replace the one of this name; its time to live begins anew."""
        key = operation.robot, operation.name
        if key not in self._services:
            if len(self._services) >= MAX_SERVICES:
                raise Busy(f'{MAX_SERVICES} services are registered already: unregister some')
            if len(self._index.get(('robot', operation.robot), ())) >= MAX_ROBOT_SERVICES:
                raise Busy(f"robot '{operation.robot}' has {MAX_ROBOT_SERVICES} services already: "
                           'unregister some')
        else:
            self._remove(key)
        o = operation
        return self._add(Service(o.robot, o.name, o.type, o.capabilities, o.metadata, o.ttl,
                                 now + o.ttl if o.ttl else 0))

    def unregister(self, robot: str, name: str) -> Service:
        """Take a service out."""
        if (robot, name) not in self._services:
            raise NotFound(f"robot '{robot}' has no service '{name}': its time to live has ended, "
                           'or it was never registered')
        return self._remove((robot, name))

    def drop(self, robot: str) -> list[Service]:
        """Take out all services of a robot, and return them by name."""
        return [self._remove(key) for key in sorted(self._index.get(('robot', robot), ()))]

    def expire(self, now: int) -> list[Service]:
        """Take out and return the services whose time to live has ended."""
        return [self._remove(key) for key in self._deadlines.due(now)]

    def next_deadline(self) -> int | None:
        """Return when the next time to live ends."""
        return self._deadlines.next()

    def shortest_ttl(self) -> int | None:
        """Return the shortest time to live, rounded down to a power of two nanoseconds."""
        return self._ttls.get()

    def dump(self) -> list[Any]:
        """Return all there is in plain values, always in the same order."""
        return [self._services[key] for key in sorted(self._services)]

    def load(self, dumped: Any) -> None:
        """Take in what `dump` returned, into an empty registry."""
        for row in dumped:
            self._add(Service(*row))

    def _add(self, service: Service) -> Service:
        key = service.robot, service.name
        self._services[key] = service
        for term in service._terms():
            self._index.setdefault(term, set()).add(key)
        if service.ttl:
            self._ttls.add(service.ttl)
            self._deadlines.watch(service.expires, key, len(self._services))
        return service

    def _remove(self, key: tuple[str, str]) -> Service:
        service = self._services.pop(key)
        for term in service._terms():
            self._index[term].discard(key)
            if not self._index[term]:
                del self._index[term]
        if service.ttl:
            self._ttls.remove(service.ttl)
        return service

    def _expires(self, key: tuple[str, str]) -> int | None:
        service = self._services.get(key)
        return service.expires or None if service else None
