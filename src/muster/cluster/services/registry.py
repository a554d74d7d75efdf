# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The services of the fleet's registry: who offers what."""
from __future__ import annotations

from typing import Any

from muster.cluster.loop import Reply
from muster.cluster.services.desk import Desk, limited, Row
from muster.cluster.state.commands import (
    check_text,
    MAX_NAME,
    Register,
    SetCapabilities,
    Unregister,
)
from muster.ros.durations import duration, nanoseconds
from muster_interfaces.msg import ServiceInfo
from muster_interfaces.srv import (
    FindServices,
    RegisterService,
    SetCapabilities as SetCapabilitiesService,
    UnregisterService,
)


class RegistryServices:
    """Register, find and remove services; say what a robot can do."""

    def __init__(self, desk: Desk) -> None:
        """Serve through `desk`."""
        self._desk = desk
        self.rows: tuple[Row, ...] = (
            ('register_service', RegisterService, self._register),
            ('unregister_service', UnregisterService, self._unregister),
            ('find_services', FindServices, self._find),
            ('set_capabilities', SetCapabilitiesService, self._set_capabilities))

    def _register(self, request: Any, response: Any, reply: Reply) -> None:
        operation = Register(request.robot or self._desk.member_id, request.name, request.type,
                             tuple(request.capabilities), request.metadata or '{}',
                             nanoseconds(request.time_to_live))
        self._desk.submit(operation, request.request_id, response, reply)

    def _unregister(self, request: Any, response: Any, reply: Reply) -> None:
        operation = Unregister(request.robot or self._desk.member_id, request.name)
        self._desk.submit(operation, request.request_id, response, reply)

    def _set_capabilities(self, request: Any, response: Any, reply: Reply) -> None:
        operation = SetCapabilities(request.robot or self._desk.member_id, tuple(request.add),
                                    tuple(request.remove), request.capacity)
        self._desk.submit(operation, request.request_id, response, reply)

    def _find(self, request: Any, response: Any, reply: Reply) -> None:
        for field in ('name', 'type', 'capability', 'robot'):
            check_text(field, getattr(request, field), MAX_NAME)
        limit = limited(request.limit)
        machine = self._desk.machine
        found = machine.registry.find(request.name, request.type, request.capability, request.robot)
        response.total = len(found)
        response.services = [
            ServiceInfo(robot=s.robot, name=s.name, type=s.type, capabilities=list(s.capabilities),
                        metadata=s.metadata, time_to_live=duration(s.ttl),
                        remaining=duration(max(0, s.expires - machine.time)))
            for s in found[:limit]]
        response.success = True
        reply(response)
