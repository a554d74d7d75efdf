# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Which members should vote: the policy that a leader follows, one change at a time."""
from __future__ import annotations

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import Member

MAX_VOTERS = 5


def admitted(configuration: Configuration, newcomer: Member) -> frozenset[Member] | None:
    """
    Return the learners with a newcomer among them, or None where it is a member already.

    An earlier incarnation of the same robot that was a learner is replaced at once; one that is
    a voter stays until the newcomer has caught up.
    """
    if newcomer in configuration.members:
        return None
    return frozenset({m for m in configuration.learners if m.id != newcomer.id} | {newcomer})


def next_voters(configuration: Configuration, caught_up: frozenset[Member]) -> frozenset[Member] | None:
    """
    Return the voters as they should be, or None where they are.

    A voter whose robot came back under a new incarnation (its disk was lost) is replaced by it;
    otherwise the voters grow in pairs to the largest odd number that is at most MAX_VOTERS, since
    an even number survives no more failures than the odd one below it.
    """
    ready = configuration.learners & caught_up
    voters = {m.id: m for m in configuration.voters}
    for member in sorted(ready):
        if member.id in voters:
            return configuration.voters - {voters[member.id]} | {member}
    present = len(voters)
    wanted = min(MAX_VOTERS, present + len(ready))
    wanted -= 1 - wanted % 2
    if wanted <= present:
        return None
    return configuration.voters | frozenset(sorted(ready)[:wanted - present])
