# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Many learners in one process: `learners.py COUNT`.

Each is a whole member with a log in memory that speaks the protocol over DDS under its own name, on
an inbox of its own, and reports as often as a real one. What they share is the process: its
subscription to the learners' broadcast and its publishers.
"""
from __future__ import annotations

from random import Random
import signal
import sys
import threading
from typing import Any

from muster.cluster import protocol
from muster.cluster.engine import INBOX, now
from muster.cluster.loop import Loop
from muster.cluster.member import ClusterMember
from muster.cluster.raft.core import PROFILES
from muster.cluster.raft.types import Member
from muster_interfaces.msg import ClusterPacket
import rclpy
from rclpy.node import Node

#: The parameter `cluster` of the nodes, by default.
CLUSTER = 'fleet'


class Learners:
    """The members and their way to the others."""

    def __init__(self, node: Node, count: int) -> None:
        """Begin to look for the cluster."""
        self._node = node
        self.loop = Loop(node, self._settle, self._failed)
        self.error: Exception | None = None
        self.ended = threading.Event()
        self._outboxes: dict[str, Any] = {}
        ids = [Member(f'learner_{number}', 1 + number) for number in range(count)]
        self._members = {
            me.id: ClusterMember(me, '', 'join', (), PROFILES['lan'], Random(me.incarnation), now())
            for me in ids}
        self._touched = set(self._members)
        for topic in (*self._members, '_hello', '_learners'):
            self.loop.listen(ClusterPacket, self._topic(topic), self._on_message, INBOX)

    def _topic(self, name: str) -> str:
        return f'/muster/{CLUSTER}/_raft/{name}'

    def _failed(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    def _on_message(self, message: bytes) -> None:
        packet = protocol.decode(protocol.unwrapped(message))
        if packet.sender.id in self._members:
            return
        names = [packet.receiver.id] if packet.receiver.id else list(self._members)
        for name in names:
            self._members[name].receive(packet, now())
            self._touched.add(name)

    def _settle(self) -> int:
        time_now = now()
        for name, member in self._members.items():
            if member.next_deadline() <= time_now:
                member.advance(time_now)
                self._touched.add(name)
        for name in self._touched:
            self._carry_out(self._members[name])
        self._touched.clear()
        return max(0, min(member.next_deadline() for member in self._members.values()) - now())

    def _carry_out(self, member: ClusterMember) -> None:
        effects = member.take_effects()
        if effects.record.entries:
            member.persisted(effects.record.entries[-1], now())
        for packet in effects.packets + effects.packets_when_durable:
            self._send(packet)

    def _send(self, packet: protocol.Packet) -> None:
        name = packet.receiver.id or '_hello'
        if name not in self._outboxes:
            self._outboxes[name] = self._node.create_publisher(ClusterPacket, self._topic(name), INBOX)
        self._outboxes[name].publish(protocol.wrapped(protocol.encode(packet)))


def main() -> None:
    """Learn until SIGTERM."""
    rclpy.init()
    learners = Learners(Node('learners', enable_rosout=False, start_parameter_services=False),
                        int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: learners.ended.set())
    learners.loop.start()
    learners.ended.wait()
    if learners.error is not None:
        raise learners.error
    learners.loop.stop()


if __name__ == '__main__':
    main()
