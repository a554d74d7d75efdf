# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who belongs to the cluster, and the arithmetic of its quorums."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import msgpack

from muster.cluster.raft.types import Member


#: Removed incarnations that are remembered.
MAX_REMOVED = 256


@dataclass(frozen=True)
class Configuration:
    """
    The members of the cluster.

    While `outgoing` is not empty the configuration is joint (Raft paper, section 6): every
    decision needs a majority of `voters` and a majority of `outgoing`. Learners receive the log
    and decide nothing. Whom an operator has `removed` is not taken in again.
    """

    voters: frozenset[Member] = frozenset()
    outgoing: frozenset[Member] = frozenset()
    learners: frozenset[Member] = frozenset()
    removed: frozenset[Member] = frozenset()

    @property
    def joint(self) -> bool:
        """Return whether two majorities are needed."""
        return bool(self.outgoing)

    @cached_property
    def members(self) -> frozenset[Member]:
        """Return everybody who receives the log."""
        return self.voters | self.outgoing | self.learners

    @cached_property
    def deciding(self) -> frozenset[Member]:
        """Return whose votes count."""
        return self.voters | self.outgoing

    def may_vote(self, member: Member) -> bool:
        """Return whether the vote of exactly this incarnation counts."""
        return member in self.deciding

    def has_quorum(self, agreed: Iterable[Member]) -> bool:
        """Return whether those who agreed can decide."""
        agreed = frozenset(agreed)
        return all(len(group & agreed) * 2 > len(group)
                   for group in (self.voters, self.outgoing or self.voters)) and bool(self.voters)

    def committed(self, match: Mapping[Member, int]) -> int:
        """Return the highest index that a quorum has stored, given what each member has."""
        index = self._majority_index(self.voters, match)
        return min(index, self._majority_index(self.outgoing, match)) if self.outgoing else index

    @staticmethod
    def _majority_index(group: frozenset[Member], match: Mapping[Member, int]) -> int:
        if not group:
            return 0
        stored = sorted([match.get(member, 0) for member in group])
        return stored[(len(stored) - 1) // 2]

    def changed_to(self, voters: Iterable[Member], learners: Iterable[Member],
                   removed: Iterable[Member] = ()) -> Configuration:
        """Return the entry that begins a change: joint where the voters differ."""
        voters, learners = frozenset(voters), frozenset(learners)
        outgoing = self.voters if voters != self.voters else frozenset()
        remembered = sorted(self.removed)[:MAX_REMOVED - 1] if removed else self.removed
        return Configuration(voters, outgoing, learners - voters, frozenset((*remembered, *removed)))

    def settled(self) -> Configuration:
        """Return the entry that ends a joint configuration."""
        return Configuration(self.voters, frozenset(), self.learners, self.removed)

    def encode(self) -> bytes:
        """Return the same bytes for the same configuration."""
        return msgpack.packb([sorted(group) for group in (
            self.voters, self.outgoing, self.learners, self.removed)])

    @staticmethod
    def decode(data: bytes) -> Configuration:
        """Read what `encode` wrote."""
        groups = msgpack.unpackb(data)
        return Configuration(*(frozenset(Member(*member) for member in group) for group in groups))
