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


def next_voters(configuration: Configuration, ready: frozenset[Member], alive: frozenset[Member],
                lost: frozenset[Member] = frozenset()) -> frozenset[Member] | None:
    """
    Return the voters as they should be, or None where they are.

    `ready` are learners that have caught up, `alive` the voters that are not dead, `lost` those that
    have been dead for long. In this order, one change at a time:

    1. A voter whose robot came back under a new incarnation (its disk was lost) is replaced by it.
    2. A lost voter is swapped for a ready learner.
    3. Voters grow to the largest odd number of living members that is at most MAX_VOTERS, since an
       even number survives no more failures than the odd one below it. They never shrink by themselves.
    """
    voters = {m.id: m for m in configuration.voters}
    candidates = sorted(ready & configuration.learners)
    for member in candidates:
        if member.id in voters:
            return configuration.voters - {voters[member.id]} | {member}
    if lost & configuration.voters and candidates:
        return configuration.voters - {min(lost & configuration.voters)} | {candidates[0]}
    present = len(voters)
    wanted = min(MAX_VOTERS, len(alive & configuration.voters) + len(candidates))
    wanted -= 1 - wanted % 2
    if not present < wanted <= present + len(candidates):
        return None
    return configuration.voters | frozenset(candidates[:wanted - present])


def incarnations(configuration: Configuration, member_id: str) -> frozenset[Member]:
    """Return all that a robot is in the cluster; raise ValueError where nobody could vote without it."""
    found = frozenset(m for m in configuration.members if m.id == member_id)
    if not configuration.voters - found:
        raise ValueError(f"'{member_id}' is the only voter: let another robot join and vote first")
    return found
