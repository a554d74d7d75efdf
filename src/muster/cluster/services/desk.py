# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What every service of the cluster needs: the guard around it, and the way to the core and back."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Time
from muster.cluster.engine import Engine
from muster.cluster.loop import Reply, Server
from muster.cluster.state.commands import Answer, Code, Invalid, Operation, parse_request_id
from muster.cluster.state.machine import StateMachine

MAX_LISTED = 1000
DEFAULT_LISTED = 100
INACTIVE = "the cluster node is not active: see 'ros2 lifecycle get'"
#: Name, type and server of a service.
Row = tuple[str, Any, Server]


class Desk:
    """Where requests come in and answers go out, for the services of one engine."""

    def __init__(self, engine: Engine, patience: Callable[[], int], stamp: Callable[[], Time]) -> None:
        """`patience()` is how long a confirmation is waited for, in nanoseconds."""
        self.engine, self.stamp = engine, stamp
        self._patience = patience

    @property
    def member_id(self) -> str:
        """Return the id of this member."""
        return self.engine.member_id

    @property
    def patience(self) -> int:
        """Return how long a confirmation is waited for, nanoseconds."""
        return self._patience()

    @property
    def machine(self) -> StateMachine:
        """Return the applied state; there is one while a request is served."""
        assert self.engine.member is not None  # `guarded` saw to it
        return self.engine.member.machine

    def guarded(self, server: Server) -> Server:
        """Turn what is wrong with a request into its answer."""
        def serve(request: Any, response: Any, reply: Reply) -> None:
            try:
                if self.engine.member is None:
                    refuse(response, Code.INACTIVE, INACTIVE, reply)
                else:
                    server(request, response, reply)
            except Invalid as error:
                refuse(response, Code.INVALID, str(error), reply)
            except Exception as error:
                self.engine.node.get_logger().error(f'{type(request).__name__}: {error!r}')
                refuse(response, Code.INTERNAL, f'{type(error).__name__}: {error}', reply)
        return serve

    def submit(self, operation: Operation, request_id: str, response: Any, reply: Reply,
               fill: Callable[[Answer], None] = lambda _: None) -> None:
        """Ask the cluster; `fill` completes the response before it is sent."""
        operation.check()
        request = parse_request_id(request_id)
        self.engine.submit(operation, request, self.patience, self.answering(response, reply, fill))

    def answering(self, response: Any, reply: Reply,
                  fill: Callable[[Answer], None] = lambda _: None) -> Callable[[Answer], None]:
        """Return what turns the core's answer into the response."""
        def answer(given: Answer) -> None:
            response.success = given.code == Code.OK
            response.error_code = int(given.code)
            response.message = given.message
            fill(given)
            reply(response)
        return answer


def limited(asked: int) -> int:
    """Return how many rows are wanted; raise Invalid where that is too many."""
    if asked > MAX_LISTED:
        raise Invalid(f'limit must be within 0..{MAX_LISTED}, not {asked}')
    return asked or DEFAULT_LISTED


def refuse(response: Any, code: int, message: str, reply: Reply) -> None:
    """Answer that a request was not carried out."""
    response.success, response.error_code, response.message = False, int(code), message
    reply(response)
