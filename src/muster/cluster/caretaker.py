# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""How a leader looks after its members: who is alive, and who should vote; decisions only."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from muster.cluster.failure_detection import FailureDetector
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.membership import next_voters
from muster.cluster.raft.progress import Progress
from muster.cluster.raft.types import Member
from muster.cluster.state.commands import Health, SetHealth

SECOND = 1_000_000_000
#: How often a leader looks after its members, nanoseconds.
TEND_PERIOD = SECOND // 4
#: A learner that lacks no more entries than this has caught up.
CAUGHT_UP = 64
#: How long a leader waits for its own proposal before it makes it again.
REPEAT = SECOND


@dataclass(frozen=True)
class Care:
    """Thresholds of the failure detector (which explains them) and of replacement; nanoseconds."""

    suspect_phi: float = 8.0
    dead_phi: float = 16.0
    suspect_after: int = 2 * SECOND       # least silence before a member is suspect, and dead
    dead_after: int = 5 * SECOND
    promotion_delay: int = 120 * SECOND   # a voter dead for so long is replaced; longer than a reboot


class Caretaker:
    """The care of one leader, from its election on."""

    def __init__(self, me: Member, care: Care, members: Iterable[Member], now: int) -> None:
        """Begin with the benefit of the doubt for everybody."""
        self.due = now + TEND_PERIOD
        self._me, self._care = me, care
        self._detector = FailureDetector(care.suspect_phi, care.dead_phi, care.suspect_after,
                                         care.dead_after)
        self._dead_since: dict[Member, int] = {}
        self._asked: dict[Member, tuple[Health, int]] = {}
        for member in members:
            self._detector.heard(member.id, now)

    def heard(self, member: Member, now: int) -> None:
        """Note a sign of life."""
        self._detector.heard(member.id, now)

    def begin_round(self, now: int) -> None:
        """Note that the members are looked after now; one that stood still itself has heard nobody."""
        if now - self.due > self._care.suspect_after:
            self._detector.resumed(now)
        self.due = now + TEND_PERIOD

    def health_changes(self, configuration: Configuration, known: dict[Member, Health],
                       now: int) -> list[SetHealth]:
        """Return what the cluster should be told of its members; `known` is what it has agreed on."""
        changes = []
        for member in sorted(configuration.members):
            health = Health.ALIVE if member == self._me else Health(self._detector.health(member.id, now))
            if health == Health.DEAD:
                self._dead_since.setdefault(member, now)
            else:
                self._dead_since.pop(member, None)
            if known.get(member, health) == health:
                continue
            asked, at = self._asked.get(member, (known[member], 0))
            if asked != health or now - at > REPEAT:
                self._asked[member] = health, now
                changes.append(SetHealth(member.id, member.incarnation, health))
        return changes

    def wanted_voters(self, configuration: Configuration, progress: dict[Member, Progress], commit: int,
                      now: int) -> frozenset[Member] | None:
        """Return the voters as they should be, None where they are; see `next_voters`."""
        if not configuration.learners:
            return None
        ready = frozenset(m for m in configuration.learners & progress.keys() if m not in self._dead_since
                          and progress[m].match + CAUGHT_UP >= commit)
        lost = frozenset(m for m, since in self._dead_since.items()
                         if now - since >= self._care.promotion_delay)
        return next_voters(configuration, ready, configuration.voters - self._dead_since.keys(), lost)


def with_voters(configuration: Configuration, voters: frozenset[Member]) -> frozenset[Member]:
    """
    Return the learners beside these voters.

    Who votes no longer learns, so that it is a member when it comes back, unless its robot is among
    the voters under another incarnation: then its disk was lost.
    """
    present = {m.id for m in voters}
    return (configuration.learners | {m for m in configuration.voters if m.id not in present}) - voters
