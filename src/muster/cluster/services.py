# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The cluster's services: ROS requests to operations of the core, and its answers back."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Duration, Time
from muster.cluster.engine import Engine, now
from muster.cluster.loop import Reply, Server
from muster.cluster.raft.types import Role
from muster.cluster.state.commands import (
    Acquire,
    Answer,
    check_text,
    Code,
    Invalid,
    MAX_NAME,
    Operation,
    parse_request_id,
    Release,
    Renew,
    SECOND,
    Withdraw,
)
from muster.cluster.state.events import Event
from muster.cluster.state.machine import StateMachine
from muster.ros.qos import SERVICES
from muster_interfaces.msg import ClusterEvent, ClusterMember, ClusterStatus, LockInfo
from muster_interfaces.srv import (
    AcquireLock,
    GetClusterStatus,
    ListEvents,
    ListLocks,
    ReleaseLock,
    RenewLock,
)

MAX_LISTED = 1000
DEFAULT_LISTED = 100
INACTIVE = "the cluster node is not active: see 'ros2 lifecycle get'"


def duration(nanoseconds: int) -> Duration:
    """Return a ROS duration."""
    return Duration(sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND)


def nanoseconds(value: Duration) -> int:
    """Return the nanoseconds of a ROS duration."""
    return int(value.sec) * SECOND + int(value.nanosec)


class Services:
    """The services of one engine, under the name of the public node."""

    def __init__(self, engine: Engine, prefix: str, cluster: str, patience: Callable[[], int],
                 stamp: Callable[[], Time]) -> None:
        """Create them; `patience()` is how long a confirmation is waited for, in nanoseconds."""
        self._engine, self._cluster = engine, cluster
        self._patience, self._stamp = patience, stamp
        for name, kind, server in (
                ('acquire_lock', AcquireLock, self._acquire), ('renew_lock', RenewLock, self._renew),
                ('release_lock', ReleaseLock, self._release), ('list_locks', ListLocks, self._list_locks),
                ('get_status', GetClusterStatus, self._get_status),
                ('list_events', ListEvents, self._list_events)):
            engine.loop.serve(kind, f'{prefix}/{name}', self._guarded(server), SERVICES)

    def _guarded(self, server: Server) -> Server:
        """Turn what is wrong with a request into its answer."""
        def serve(request: Any, response: Any, reply: Reply) -> None:
            try:
                if self._engine.member is None:
                    _refuse(response, Code.INACTIVE, INACTIVE, reply)
                else:
                    server(request, response, reply)
            except Invalid as error:
                _refuse(response, Code.INVALID, str(error), reply)
            except Exception as error:
                self._engine.node.get_logger().error(f'{type(request).__name__}: {error!r}')
                _refuse(response, Code.INTERNAL, f'{type(error).__name__}: {error}', reply)
        return serve

    def _submit(self, operation: Operation, request_id: str, response: Any, reply: Reply,
                fill: Callable[[Answer], None] = lambda _: None) -> None:
        """Ask the cluster; `fill` completes the response before it is sent."""
        operation.check()
        request = parse_request_id(request_id)

        def answer(given: Answer) -> None:
            response.success = given.code == Code.OK
            response.error_code = int(given.code)
            response.message = given.message
            fill(given)
            reply(response)

        self._engine.submit(operation, request, self._patience(), answer)

    def _acquire(self, request: Any, response: Any, reply: Reply) -> None:
        def fill(answer: Answer) -> None:
            response.fencing_token = answer.token
            response.remaining = duration(answer.remaining)
            response.holder = answer.holder

        operation = Acquire(request.name, request.owner or self._engine.member_id,
                            nanoseconds(request.lease), nanoseconds(request.wait_timeout))
        self._submit(operation, request.request_id, response, reply, fill)

    def _renew(self, request: Any, response: Any, reply: Reply) -> None:
        def fill(answer: Answer) -> None:
            response.remaining = duration(answer.remaining)

        operation = Renew(request.name, request.fencing_token, nanoseconds(request.lease))
        self._submit(operation, request.request_id, response, reply, fill)

    def _release(self, request: Any, response: Any, reply: Reply) -> None:
        operation: Operation
        if request.fencing_token:
            operation = Release(request.name, request.fencing_token)
        else:
            acquire = parse_request_id(request.acquire_request_id)
            if acquire is None:
                raise Invalid('give fencing_token, or acquire_request_id to cancel a wait')
            operation = Withdraw(request.name, *acquire)
        self._submit(operation, request.request_id, response, reply)

    def _list_locks(self, request: Any, response: Any, reply: Reply) -> None:
        check_text('prefix', request.prefix, MAX_NAME)
        limit = _limit(request.limit)
        machine = self._machine
        found = [row for row in machine.locks if row[0].name.startswith(request.prefix)]
        response.total = len(found)
        response.locks = [
            LockInfo(name=h.name, owner=h.owner, member=h.member, fencing_token=h.token,
                     lease=duration(h.lease), remaining=duration(max(0, h.deadline - machine.time)),
                     waiters=[waiter.owner for waiter in waiters])
            for h, waiters in found[:limit]]
        response.success = True
        reply(response)

    def _get_status(self, request: Any, response: Any, reply: Reply) -> None:
        def answer(given: Answer) -> None:
            response.success = given.code == Code.OK
            response.error_code, response.message = int(given.code), given.message
            response.status = self.status()
            reply(response)

        if request.linearizable:
            self._engine.read(self._patience(), answer)
            return
        response.success, response.status = True, self.status()
        reply(response)

    def _list_events(self, request: Any, response: Any, reply: Reply) -> None:
        log = self._machine.events
        events, following = log.since(request.since_revision, _limit(request.limit))
        stamp = self._stamp()
        response.events = [event_message(event, stamp) for event in events]
        response.next_revision = following
        response.compacted_before = log.compacted_before
        response.success = True
        reply(response)

    @property
    def _machine(self) -> StateMachine:
        assert self._engine.member is not None  # _guarded saw to it
        return self._engine.member.machine

    def status(self) -> ClusterStatus:
        """Return the cluster as this member sees it; call it on the engine's thread."""
        member = self._engine.member
        status = ClusterStatus(stamp=self._stamp(), cluster=self._cluster, member=self._engine.member_id,
                               role=ClusterStatus.WAITING)
        if member is None:
            return status
        status.incarnation = member.me.incarnation
        raft, machine = member.raft, member.machine
        if raft is None:
            return status
        configuration = raft.configuration
        progress = raft.progress
        status.cluster_id, status.leader = member.cluster_id, member.leader
        status.role = {Role.FOLLOWER: ClusterStatus.FOLLOWER, Role.CANDIDATE: ClusterStatus.CANDIDATE,
                       Role.LEADER: ClusterStatus.LEADER}[raft.role]
        status.term, status.commit_index, status.applied_index = raft.term, raft.commit, machine.applied
        status.cluster_time, status.locks = duration(machine.time), len(machine.locks)
        time_now = now()
        status.members = [
            ClusterMember(id=m.id, incarnation=m.incarnation,
                          role=ClusterMember.VOTER if configuration.may_vote(m) else ClusterMember.LEARNER,
                          reachable=member.reachable(m, time_now),
                          match_index=progress[m].match if m in progress else 0)
            for m in sorted(configuration.members)]
        return status


def event_message(event: Event, stamp: Time) -> ClusterEvent:
    """Return the message of an event."""
    return ClusterEvent(stamp=stamp, cluster_time=duration(event.cluster_time), revision=event.revision,
                        ordinal=event.ordinal, type=int(event.type), subject=event.subject,
                        member=event.member, owner=event.owner, fencing_token=event.token,
                        term=event.term)


def _limit(asked: int) -> int:
    if asked > MAX_LISTED:
        raise Invalid(f'limit must be within 0..{MAX_LISTED}, not {asked}')
    return asked or DEFAULT_LISTED


def _refuse(response: Any, code: Code, message: str, reply: Reply) -> None:
    response.success, response.error_code, response.message = False, int(code), message
    reply(response)
