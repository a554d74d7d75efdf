# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The services of the fleet's locks."""
from __future__ import annotations

from typing import Any

from muster.cluster.loop import Reply
from muster.cluster.services.desk import Desk, limited, Row
from muster.cluster.state.commands import (
    Acquire,
    Answer,
    check_text,
    Invalid,
    MAX_NAME,
    Operation,
    parse_request_id,
    Release,
    Renew,
    Withdraw,
)
from muster.ros.durations import duration, nanoseconds
from muster_interfaces.msg import LockInfo
from muster_interfaces.srv import AcquireLock, ListLocks, ReleaseLock, RenewLock


class LockServices:
    """Take, renew, give back and list locks."""

    def __init__(self, desk: Desk) -> None:
        """Serve through `desk`."""
        self._desk = desk
        self.rows: tuple[Row, ...] = (
            ('acquire_lock', AcquireLock, self._acquire), ('renew_lock', RenewLock, self._renew),
            ('release_lock', ReleaseLock, self._release), ('list_locks', ListLocks, self._list))

    def _acquire(self, request: Any, response: Any, reply: Reply) -> None:
        def fill(answer: Answer) -> None:
            response.fencing_token = answer.token
            response.remaining = duration(answer.remaining)
            response.holder = answer.holder

        operation = Acquire(request.name, request.owner or self._desk.member_id, nanoseconds(request.lease),
                            nanoseconds(request.wait_timeout), nanoseconds(request.lock_delay))
        self._desk.submit(operation, request.request_id, response, reply, fill)

    def _renew(self, request: Any, response: Any, reply: Reply) -> None:
        def fill(answer: Answer) -> None:
            response.remaining = duration(answer.remaining)

        operation = Renew(request.name, request.fencing_token, nanoseconds(request.lease))
        self._desk.submit(operation, request.request_id, response, reply, fill)

    def _release(self, request: Any, response: Any, reply: Reply) -> None:
        operation: Operation
        if request.fencing_token:
            operation = Release(request.name, request.fencing_token)
        else:
            acquire = parse_request_id(request.acquire_request_id)
            if acquire is None:
                raise Invalid('give fencing_token, or acquire_request_id to cancel a wait')
            operation = Withdraw(request.name, *acquire)
        self._desk.submit(operation, request.request_id, response, reply)

    def _list(self, request: Any, response: Any, reply: Reply) -> None:
        check_text('prefix', request.prefix, MAX_NAME)
        machine = self._desk.machine
        names, response.total = machine.locks.named(request.prefix, limited(request.limit))
        for name in names:
            held = machine.locks.holder(name)
            assert held is not None
            response.locks.append(LockInfo(
                name=held.name, owner=held.owner, member=held.member, fencing_token=held.token,
                lease=duration(held.lease), remaining=duration(max(0, held.deadline - machine.time)),
                waiters=[waiter.owner for waiter in machine.locks.waiters(name)]))
        response.success = True
        reply(response)
