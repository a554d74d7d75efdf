# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The services that tell how the cluster is and what happened in it."""
from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from muster.cluster.engine import now
from muster.cluster.loop import Reply
from muster.cluster.raft.types import Role
from muster.cluster.services.desk import Desk, limited, Row
from muster.cluster.state.commands import Answer
from muster.cluster.state.events import Event
from muster.ros.durations import duration
from muster_interfaces.msg import ClusterEvent, ClusterMember, ClusterStatus
from muster_interfaces.srv import GetClusterStatus, ListEvents


class StatusServices:
    """Tell the status and the events."""

    def __init__(self, desk: Desk, cluster: str) -> None:
        """Serve through `desk`."""
        self._desk, self._cluster = desk, cluster
        self.rows: tuple[Row, ...] = (
            ('get_status', GetClusterStatus, self._get_status),
            ('list_events', ListEvents, self._list_events))

    def _get_status(self, request: Any, response: Any, reply: Reply) -> None:
        def fill(_: Answer) -> None:
            response.status = self.status()

        if request.linearizable:
            self._desk.engine.read(self._desk.patience, self._desk.answering(response, reply, fill))
            return
        response.success, response.status = True, self.status()
        reply(response)

    def _list_events(self, request: Any, response: Any, reply: Reply) -> None:
        log = self._desk.machine.events
        events, following = log.since(request.since_revision, limited(request.limit))
        stamp = self._desk.stamp()
        response.events = [event_message(event, stamp) for event in events]
        response.next_revision = following
        response.compacted_before = log.compacted_before
        response.success = True
        reply(response)

    def status(self) -> ClusterStatus:
        """Return the cluster as this member sees it; call it on the engine's thread."""
        member = self._desk.engine.member
        status = ClusterStatus(stamp=self._desk.stamp(), cluster=self._cluster, member=self._desk.member_id,
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
        for m in sorted(configuration.members):
            known = machine.members.get(m.id)
            shown = ClusterMember(
                id=m.id, incarnation=m.incarnation,
                role=ClusterMember.VOTER if configuration.may_vote(m) else ClusterMember.LEARNER,
                reachable=member.reachable(m, time_now),
                match_index=progress[m].match if m in progress else 0)
            if known is not None and known.incarnation == m.incarnation:
                shown.health, shown.capabilities = int(known.health), sorted(known.capabilities)
                shown.capacity, shown.running = known.capacity, known.running
            status.members.append(shown)
        return status


def event_message(event: Event, stamp: Time) -> ClusterEvent:
    """Return the message of an event."""
    return ClusterEvent(stamp=stamp, cluster_time=duration(event.cluster_time), revision=event.revision,
                        ordinal=event.ordinal, type=int(event.type), subject=event.subject,
                        member=event.member, owner=event.owner, fencing_token=event.token,
                        term=event.term)
