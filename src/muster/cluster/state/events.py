# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The numbered events of the cluster, kept for those who come late."""
from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

#: Events kept; older ones are compacted away.
MAX_EVENTS = 10_000


class EventType(IntEnum):
    """What happened; the numbers are those of muster_interfaces/msg/ClusterEvent."""

    LOCK_ACQUIRED = 1
    LOCK_RENEWED = 2
    LOCK_RELEASED = 3
    LOCK_EXPIRED = 4
    LOCK_QUEUED = 5
    LOCK_WAIT_ENDED = 6
    LOCK_CLOSED = 7            # follows LOCK_EXPIRED
    MEMBER_ADDED = 10
    MEMBER_PROMOTED = 11
    MEMBER_REMOVED = 12
    LEADER_ELECTED = 13
    SERVICE_REGISTERED = 20
    SERVICE_REMOVED = 21
    CAPABILITIES_CHANGED = 22
    MEMBER_ALIVE = 30
    MEMBER_SUSPECT = 31
    MEMBER_DEAD = 32
    TASK_SUBMITTED = 40
    TASK_ASSIGNED = 41
    TASK_FINISHED = 42
    TASK_CANCEL_REQUESTED = 43
    TASK_RETURNED = 44         # an attempt has ended, another will follow
    GAP = 50                   # made by a member that installed a snapshot, never by an entry


class Event(NamedTuple):
    """One event; (revision, ordinal) numbers it."""

    revision: int
    ordinal: int
    type: EventType
    term: int
    cluster_time: int
    subject: str
    member: str = ''
    owner: str = ''
    token: int = 0


class EventLog:
    """The last events in order."""

    def __init__(self, compacted_before: int = 0) -> None:
        """Begin without events; those of earlier revisions are not to be had here."""
        self._events: list[Event] = []
        self.compacted_before = compacted_before

    def extend(self, events: Sequence[Event]) -> None:
        """Add the events of one entry; whole revisions are dropped from the other end."""
        self._events += events
        if len(self._events) > MAX_EVENTS + MAX_EVENTS // 8:
            last_dropped = self._events[len(self._events) - MAX_EVENTS - 1].revision
            self.compacted_before = last_dropped + 1
            del self._events[:bisect_left(self._events, (self.compacted_before,))]

    def since(self, revision: int, limit: int) -> tuple[list[Event], int]:
        """
        Return events from `revision` on and the revision to go on with.

        About `limit` of them: the events of one revision are never split.
        """
        first = bisect_left(self._events, (revision,))
        last = min(first + limit, len(self._events))
        while 0 < last < len(self._events) and \
                self._events[last].revision == self._events[last - 1].revision:
            last += 1
        found = self._events[first:last]
        return found, found[-1].revision + 1 if found else max(revision, self.compacted_before)
