# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Whole members on a network without faults and with disks that write at once, for scripted scenes."""
from __future__ import annotations

from random import Random

from muster.cluster.member import ClusterMember, Policy, SECOND
from muster.cluster.protocol import decode, encode, Packet
from muster.cluster.raft.core import PROFILES
from muster.cluster.raft.types import BLANK, Entry, Member, Snapshot
from muster.cluster.state.commands import Answer
from muster.cluster.state.events import Event

TIMING = PROFILES['lan']


class Robot:
    """A member with its disk; writes are durable at once."""

    policy = Policy()

    def __init__(self, name: str, mode: str, listed: tuple[str, ...], incarnation: int) -> None:
        """Come with an empty disk."""
        self.name, self.mode, self.listed = name, mode, listed
        self.events: list[Event] = []          # all that it ever told
        self.wipe(incarnation)

    def wipe(self, incarnation: int) -> None:
        """Lose the disk."""
        self.me = Member(self.name, incarnation)
        self.cluster_id, self.state = '', BLANK
        self.entries: list[Entry] = []
        self.snapshot: Snapshot | None = None
        self.member: ClusterMember | None = None

    def start(self, now: int) -> ClusterMember:
        """Start from the disk."""
        self.member = ClusterMember(self.me, self.cluster_id, self.mode, self.listed, TIMING,
                                    Random(self.me.incarnation), now, self.state, tuple(self.entries),
                                    self.snapshot, self.policy)
        self.answers: dict[int, Answer] = {}
        return self.member

    def flush(self, now: int) -> list[Packet]:
        """Do the effects of the last step, and return the packets."""
        assert self.member is not None
        packets: list[Packet] = []
        while True:
            effects = self.member.take_effects()
            record = effects.record
            self.cluster_id = record.cluster_id or self.cluster_id
            self.state = record.hard_state or self.state
            if record.snapshot:
                self.snapshot, self.entries = record.snapshot, list(record.tail)
            base = self.snapshot.index if self.snapshot else 0
            for entry in record.entries:
                del self.entries[entry.index - base - 1:]
                self.entries.append(entry)
            self.answers |= effects.answers
            self.events += effects.events
            packets += effects.packets + effects.packets_when_durable
            if not record.entries:
                return packets
            self.member.persisted(record.entries[-1], now)


class Fleet:
    """Robots on a network without faults, in steps of 10 ms."""

    def __init__(self, *robots: Robot) -> None:
        """Start all of them."""
        self.robots = {robot.name: robot for robot in robots}
        self.now = 0
        self.cut: set[str] = set()
        for robot in robots:
            robot.start(0)

    def run(self, seconds: float) -> None:
        """Let time go on."""
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            self.now += SECOND // 100
            packets = []
            for robot in self.robots.values():
                if robot.member is not None:
                    robot.member.advance(self.now)
                    packets += robot.flush(self.now)
            while packets:
                packet = decode(encode(packets.pop(0)))
                for robot in self.robots.values():
                    if robot.member is not None and packet.receiver.id in ('', robot.name) \
                            and not {robot.name, packet.sender.id} & self.cut:
                        robot.member.receive(packet, self.now)
                        packets += robot.flush(self.now)

    def __getitem__(self, name: str) -> ClusterMember:
        """Return the running member of a robot."""
        member = self.robots[name].member
        assert member is not None
        return member

    def leaders(self) -> list[str]:
        """Return who leads."""
        return [r.name for r in self.robots.values() if r.member is not None and r.member.leads]


def robots(names: str, mode: str = 'members', listed: str = '') -> list[Robot]:
    """Return robots with empty disks."""
    return [Robot(name, mode, tuple(listed or names) if mode == 'members' else (), i)
            for i, name in enumerate(names, 1)]
