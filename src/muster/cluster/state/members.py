# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The robots of the fleet: how they are, what they can do, and how much of it at once."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from sys import intern
from typing import Any

from muster.cluster.raft.types import Member
from muster.cluster.state.commands import Health, MAX_CAPABILITIES, SetCapabilities
from muster.cluster.state.refused import Busy, NotFound

DEFAULT_CAPACITY = 4
#: Capabilities of one robot; beyond it `set_capabilities` is refused.
MAX_ROBOT_CAPABILITIES = 256


class Robot:
    """One member as the cluster has agreed to see it; health is one of Health."""

    __slots__ = ('capabilities', 'capacity', 'health', 'id', 'incarnation', 'rank', 'running')

    def __init__(self, id: str, incarnation: int, running: int) -> None:
        """Begin alive, without capabilities; `running` attempts may be left from an earlier life."""
        self.id, self.incarnation = id, incarnation
        self.health = Health.ALIVE
        self.capabilities: frozenset[str] = frozenset()
        self.capacity = DEFAULT_CAPACITY
        self.running = running                          # attempts at tasks that count against it
        self.rank: tuple[float, str] | None = None      # its place among the free robots

    def announcements(self) -> list[SetCapabilities]:
        """Return the operations that would make it what it is."""
        names = sorted(self.capabilities)
        if not names and self.capacity == DEFAULT_CAPACITY:
            return []
        return [SetCapabilities(self.id, tuple(names[i:i + MAX_CAPABILITIES]), (), self.capacity)
                for i in range(0, max(1, len(names)), MAX_CAPABILITIES)]

    def forget_capabilities(self) -> None:
        """Begin anew, as it must when it was dead."""
        self.capabilities, self.capacity = frozenset(), DEFAULT_CAPACITY


class Members(Mapping[str, Robot]):
    """The robots by id; of a robot with two incarnations in the configuration the one added last."""

    def __init__(self) -> None:
        """Begin without members."""
        self._robots: dict[str, Robot] = {}

    def __getitem__(self, id: str) -> Robot:
        """Return a robot."""
        return self._robots[id]

    def __iter__(self) -> Iterator[str]:
        """Return the ids, in the order in which they came."""
        return iter(self._robots)

    def __len__(self) -> int:
        """Return how many robots there are."""
        return len(self._robots)

    def find(self, id: str) -> Robot:
        """Return a robot; raise NotFound where it is none of the members."""
        robot = self._robots.get(id)
        if robot is None:
            raise NotFound(f"robot '{id}' is not a member of the cluster; {len(self._robots)} are")
        return robot

    def living(self, id: str) -> Robot:
        """Return a robot that may announce something; raise NotFound or Busy."""
        robot = self.find(id)
        if robot.health == Health.DEAD:
            raise Busy(f"robot '{id}' is declared dead: announce again when it is declared alive")
        return robot

    def set_capabilities(self, operation: SetCapabilities) -> bool:
        """Add and remove capabilities and set the capacity; return whether anything changed."""
        robot = self.living(operation.robot)
        capabilities = (robot.capabilities | frozenset(map(intern, operation.add))) - set(operation.remove)
        if len(capabilities) > MAX_ROBOT_CAPABILITIES:
            raise Busy(f"robot '{robot.id}' would have {len(capabilities)} capabilities, at most "
                       f'{MAX_ROBOT_CAPABILITIES} are allowed: remove some')
        before = robot.capabilities, robot.capacity
        robot.capabilities, robot.capacity = capabilities, operation.capacity or robot.capacity
        return before != (robot.capabilities, robot.capacity)

    def successors(self, old: frozenset[Member], new: frozenset[Member]) -> dict[str, int | None]:
        """Return the incarnations that change with the configuration, None for robots that go."""
        changed: dict[str, int | None] = {}
        for member in sorted(old - new):
            robot = self._robots.get(member.id)
            if robot is not None and robot.incarnation == member.incarnation:
                changed[member.id] = max((m.incarnation for m in new if m.id == member.id), default=None)
        changed.update({member.id: member.incarnation for member in sorted(new - old)})
        return changed

    def add(self, id: str, incarnation: int, running: int) -> Robot:
        """Take a robot in, in place of an earlier incarnation."""
        self._robots.pop(id, None)
        robot = self._robots[id] = Robot(intern(id), incarnation, running)
        return robot

    def remove(self, id: str) -> None:
        """Take a robot out."""
        del self._robots[id]

    def dump(self) -> list[Any]:
        """Return all there is in plain values, always in the same order."""
        return [(r.id, r.incarnation, r.health, sorted(r.capabilities), r.capacity)
                for r in self._robots.values()]

    def load(self, dumped: Any) -> None:
        """Take in what `dump` returned; what they run is counted by who knows it."""
        for id, incarnation, health, capabilities, capacity in dumped:
            robot = self.add(id, incarnation, 0)
            robot.health, robot.capacity = Health(health), capacity
            robot.capabilities = frozenset(map(intern, capabilities))
