# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The replicated state: locks, sessions, events and commands."""
from muster.cluster.raft.types import Entry, Kind
from muster.cluster.state.commands import Acquire, Answer, Code, Command, Operation, Renew
from muster.cluster.state.machine import StateMachine

SECOND = 1_000_000_000


class Fleet:
    """A state machine and the entries that feed it."""

    def __init__(self) -> None:
        """Begin empty."""
        self.machine = StateMachine()
        self.sequence = 0

    def do(self, operation: Operation, request: tuple[str, int] | None = None, elapsed: int = 0,
           member: str = 'r1', run: int = 1) -> Answer:
        """Apply one command and return its answer."""
        self.sequence += 1
        request = request or ('@test', self.sequence)
        entry = Entry(self.machine.applied + 1, 1, elapsed, Kind.COMMAND,
                      Command(operation, request, member, run).encode())
        return dict(self.machine.apply(entry).answers)[request]

    def wait(self, elapsed: int) -> list[str]:
        """Let cluster time go on and return what happened."""
        entry = Entry(self.machine.applied + 1, 1, elapsed, Kind.CLOCK, b'')
        return [event.type.name for event in self.machine.apply(entry).events]


def test_two_renewals_at_one_cluster_time_expire_once() -> None:
    fleet = Fleet()
    token = fleet.do(Acquire('dock', 'a', SECOND, 0)).token
    for _ in range(3):
        assert fleet.do(Renew('dock', token, 0)).code == Code.OK
    fleet.do(Acquire('dock', 'b', SECOND, 10 * SECOND))
    assert fleet.wait(SECOND) == ['LOCK_EXPIRED', 'LOCK_ACQUIRED']
    assert fleet.wait(SECOND) == ['LOCK_EXPIRED']
