# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A replicated state, and the entries that feed it."""
from __future__ import annotations

from collections.abc import Iterable

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import Entry, Kind, Member
from muster.cluster.state.commands import (
    Answer,
    Command,
    Health,
    OpenSession,
    Operation,
    SetCapabilities,
    SetHealth,
)
from muster.cluster.state.events import Event
from muster.cluster.state.machine import Applied, StateMachine

SECOND = 1_000_000_000


class Fleet:
    """A state machine, and what the last entry did."""

    def __init__(self, *robots: str) -> None:
        """Begin with these members, empty otherwise."""
        self.machine = StateMachine()
        self.sequence = 0
        self.sessions: set[str] = set()
        self.answers: dict[tuple[str, int], Answer] = {}    # of the last entry that answered a request
        self.last = Applied()
        self.history: list[Event] = []
        if robots:
            self.configure(robots)

    def feed(self, kind: Kind, data: bytes = b'', elapsed: int = 0, term: int = 1) -> Applied:
        """Apply an entry."""
        self.last = self.machine.apply(Entry(self.machine.applied + 1, term, elapsed, kind, data))
        self.answers.update(reversed(self.last.answers))    # of an entry's answers to one request the first
        self.history += self.last.events
        return self.last

    def do(self, operation: Operation, request: tuple[str, int] | None = None, elapsed: int = 0,
           member: str = 'r1', run: int = 1) -> Answer:
        """Apply one command and return its answer."""
        self.sequence += 1
        request = request or ('@test', self.sequence)
        if request[0] not in self.sessions and not request[0].startswith('@') and not request[0].isdecimal():
            # A client with a name of its own: easier to read than the index that opened its session.
            self.sessions.add(request[0])
            self.machine.sessions.open(request[0], self.machine.time)
        self.feed(Kind.COMMAND, Command(operation, request, member, run).encode(), elapsed)
        return self.answers[request]

    def session(self) -> str:
        """Open a session and return its name."""
        return str(self.do(OpenSession()).token)

    def wait(self, elapsed: int) -> list[str]:
        """Let cluster time go on and return what happened."""
        self.feed(Kind.CLOCK, b'', elapsed)
        return self.happened

    def configure(self, robots: Iterable[str], incarnation: int = 1) -> list[str]:
        """Make these the members."""
        voters = frozenset(Member(robot, incarnation) for robot in robots)
        self.feed(Kind.CONFIGURATION, Configuration(voters).encode())
        return self.happened

    def can(self, robot: str, *capabilities: str, capacity: int = 0) -> None:
        """Give a robot capabilities."""
        self.do(SetCapabilities(robot, capabilities, (), capacity))

    def health(self, robot: str, health: Health) -> list[str]:
        """Declare a robot alive, suspect or dead."""
        self.do(SetHealth(robot, self.machine.members[robot].incarnation, health))
        return self.happened

    @property
    def happened(self) -> list[str]:
        """Return the events of the last entry."""
        return [event.type.name for event in self.last.events]
