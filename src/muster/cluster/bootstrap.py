# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
How a member without a cluster finds or founds one.

A member with an empty disk votes for nobody. It asks around: where anybody knows the cluster it
joins under its own incarnation; a cluster is founded only when every listed member says that it
is empty too (`members`), or by the operator (`alone`), or, where the operator left it to the
robots (`auto`), by the lowest id of those heard during LISTEN. So two robots with empty disks
found one cluster or none, except for `auto` across a partition, which is then reported.
"""
from __future__ import annotations

from dataclasses import dataclass

from muster.cluster.protocol import Hello
from muster.cluster.raft.types import Member

MODES = ('auto', 'members', 'join', 'alone')
SECOND = 1_000_000_000
#: How long `auto` listens before anybody founds: longer than the 3 s between two announcements of a
#: participant of Fast DDS, which is not discovered before the second where its first ones are lost.
LISTEN = 4 * SECOND
#: A member that was not heard for so long is not counted on.
RECENT = 2 * SECOND


@dataclass
class Heard:
    """The last Hello of a member."""

    member: Member
    cluster_id: str
    hello: Hello
    at: int


@dataclass(frozen=True)
class Found:
    """Decision: found a cluster with these voters."""

    voters: frozenset[Member]


@dataclass(frozen=True)
class Ask:
    """Decision: ask to be taken in, by these members."""

    cluster_id: str
    members: tuple[Member, ...]


Decision = Found | Ask | None


class Bootstrap:
    """The search of one empty member."""

    def __init__(self, me: Member, mode: str, listed: tuple[str, ...], now: int) -> None:
        """Begin to listen."""
        self.me, self.mode, self.listed = me, mode, tuple(sorted(listed))
        self._since = now

    @property
    def hello(self) -> Hello:
        """Return what to broadcast meanwhile."""
        return Hello(self.listed if self.mode == 'members' else (), self.mode == 'auto', '')

    def decide(self, heard: dict[str, Heard], now: int) -> Decision:
        """Return what to do, given the last Hello of every other member."""
        if self.mode == 'alone':
            return Found(frozenset({self.me}))
        recent = [h for h in heard.values() if now - h.at < RECENT]
        settled = [h for h in recent if h.cluster_id]
        if settled:
            # The lowest id decides where two clusters of one name are heard: both are reported.
            cluster_id = min(h.cluster_id for h in settled)
            return Ask(cluster_id, tuple(h.member for h in settled if h.cluster_id == cluster_id))
        if self.mode == 'members':
            return self._all_are_empty(recent)
        if self.mode == 'auto' and now - self._since >= LISTEN:
            others = [h.member.id for h in recent if h.hello.automatic]
            if all(self.me.id < other for other in others):
                return Found(frozenset({self.me}))
        return None

    def _all_are_empty(self, recent: list[Heard]) -> Decision:
        """Found where every listed member is heard, empty, and was given the same list."""
        agreeing = {h.member.id: h.member for h in recent if h.hello.listed == self.listed}
        others = [name for name in self.listed if name != self.me.id]
        if self.me.id != self.listed[0] or any(name not in agreeing for name in others):
            return None
        return Found(frozenset({self.me, *(agreeing[name] for name in others)}))
