# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The consensus cores of some members, with the network and the disks in the hands of a test."""
from __future__ import annotations

from random import Random

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import PROFILES, Raft, SPARE_PACE
from muster.cluster.raft.types import (
    Append,
    BLANK,
    Entry,
    Envelope,
    HardState,
    Kind,
    Member,
    Message,
    Role,
)

TIMING = PROFILES['lan']
MILLISECOND = 1_000_000


def member(name: str) -> Member:
    """Return a member whose incarnation follows from its name, as `a` or `a2`."""
    return Member(name[0], int(name[1:] or 1))


def founding(*names: str) -> Entry:
    """Return the first entry of a cluster with these voters."""
    voters = frozenset(map(member, names))
    return Entry(1, 1, 0, Kind.CONFIGURATION, Configuration(voters).encode())


def log(first: Entry, terms: str) -> tuple[Entry, ...]:
    """Return a log with entries of these terms behind the founding one."""
    return (first, *(Entry(i, int(t), 0, Kind.COMMAND, f'{t}.{i}'.encode())
                     for i, t in enumerate(terms, 2)))


class Group:
    """Members that talk over a wire which the test holds in its hands."""

    def __init__(self, *names: str, logs: dict[str, tuple[Entry, ...]] | None = None,
                 terms: dict[str, int] | None = None) -> None:
        """Start them from founding entries, or from given logs and terms."""
        self.now = 0
        self.random = Random(1)
        self.wire: list[tuple[str, Envelope]] = []
        self.heard_by_all: list[tuple[str, Append]] = []
        self.cut: set[str] = set()
        self.disk: dict[str, tuple[HardState, list[Entry]]] = {}
        self.nodes: dict[str, Raft] = {}
        first = founding(*names)
        for name in names:
            entries = (logs or {}).get(name, (first,))
            self.start(name, HardState((terms or {}).get(name, entries[-1].term), None), entries)

    def start(self, name: str, state: HardState = BLANK, entries: tuple[Entry, ...] = ()) -> Raft:
        """Start a member from what is durable."""
        self.nodes[name] = Raft(member(name), TIMING, self.random, self.now, state, entries)
        self.disk[name] = state, list(entries)
        return self.nodes[name]

    def take_in(self, leader: Raft, names: str) -> None:
        """Start members that the leader takes in as its learners."""
        for name in names:
            self.start(name)
        leader.change_configuration(leader.configuration.voters, frozenset(map(member, names)), self.now)
        self.settle()

    def restart(self, name: str) -> Raft:
        """Kill a member and start it from its disk."""
        state, entries = self.disk[name]
        return self.start(name, state, tuple(entries))

    def collect(self, name: str, *, durable: bool = True) -> None:
        """Put what a member has to say on the wire, with its disk writes done or not."""
        node = self.nodes[name]
        while True:
            output = node.take_output()
            said = output.messages + (output.messages_when_durable if durable else [])
            self.wire += [(name, envelope) for envelope in said]
            self.heard_by_all += [(name, append) for append in output.broadcast]
            if not durable or not (said or output.hard_state or output.entries or output.committed):
                return
            state, entries = self.disk[name]
            for entry in output.entries:
                del entries[entry.index - 1:]
                entries.append(entry)
            self.disk[name] = output.hard_state or state, entries
            if output.entries:
                node.persisted(output.entries[-1], self.now)

    def deliver(self, sender: str, envelope: Envelope) -> None:
        """Hand one message to its receiver, unless one of them is cut off."""
        name = next((n for n in self.nodes if member(n) == envelope.to), None)
        if name is None or {sender, name} & self.cut:
            return
        self.nodes[name].step(member(sender), envelope.message, self.now)
        self.collect(name)

    def settle(self) -> None:
        """Deliver all messages until nobody says anything."""
        for name in self.nodes:
            self.collect(name)
        while self.wire or self.heard_by_all:
            if self.wire:
                self.deliver(*self.wire.pop(0))
            else:
                self.spread(*self.heard_by_all.pop(0))

    def spread(self, sender: str, append: Append) -> None:
        """Hand a broadcast to all learners that are not cut off."""
        for name, node in self.nodes.items():
            if member(name) in self.nodes[sender].configuration.learners and not {sender, name} & self.cut:
                node.step(member(sender), append, self.now, broadcast=True)
                self.collect(name)

    def campaign(self, name: str) -> None:
        """Let a member's election time-out pass, for it alone, and the talk that follows."""
        node = self.nodes[name]
        self.now = max(self.now, node.next_deadline())
        node.advance(self.now)
        self.settle()

    def elect(self, name: str) -> Raft:
        """Make a member the leader, after all leases have ended."""
        self.now += 2 * TIMING.election_max
        self.campaign(name)
        assert self.nodes[name].role == Role.LEADER
        return self.nodes[name]

    def beat(self, name: str) -> None:
        """Let a leader send its heartbeat."""
        self.now += TIMING.heartbeat
        self.nodes[name].advance(self.now)
        self.settle()

    def supply(self, name: str) -> None:
        """Let a leader's spare followers get what was held back for them."""
        self.now += SPARE_PACE
        self.nodes[name].advance(self.now)
        self.settle()

    def tell(self, to: str, sender: str, message: Message) -> list[Message]:
        """Give one message to a member and return what it answers."""
        node = self.nodes[to]
        self.collect(to)
        self.wire.clear()
        node.step(member(sender), message, self.now)
        self.collect(to)
        answers = [e.message for _, e in self.wire if e.to == member(sender)]
        self.wire.clear()
        return answers

    def terms(self, name: str) -> str:
        """Return the terms of a log's entries, one digit each."""
        node = self.nodes[name]
        return ''.join(str(e.term) for e in node.log.slice(1, node.log.last_index))
