# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The values that the consensus core works with."""
from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Member(NamedTuple):
    """
    One incarnation of a robot in the cluster.

    A member whose disk was lost comes back under a new random incarnation and is somebody else
    to the consensus: its votes and acknowledgements count only after it was taken in again.
    """

    id: str
    incarnation: int

    def __str__(self) -> str:
        """Return the form used in logs, as `robot_1#2f`."""
        return f'{self.id}#{self.incarnation & 0xff:02x}'


class Kind(IntEnum):
    """What an entry of the log is."""

    NOOP = 1           # the first entry of a term; its data is the leader's id
    CONFIGURATION = 2  # an encoded Configuration, in force as soon as it is appended
    COMMAND = 3        # opaque to the consensus
    CLOCK = 4          # carries nothing but elapsed time


class Entry(NamedTuple):
    """One entry of the replicated log."""

    index: int    # type: ignore[assignment]  # from 1; nobody looks for a value in an entry
    term: int     # term of the leader that appended it
    elapsed: int  # nanoseconds since the previous entry that this leader stamped in this term
    kind: Kind
    data: bytes


class HardState(NamedTuple):
    """What must be durable before a member answers for it (thesis, figure 3.1)."""

    term: int
    vote: Member | None


#: What a member begins with.
BLANK = HardState(0, None)


class Role(IntEnum):
    """The role of a member in its term."""

    FOLLOWER = 1
    CANDIDATE = 2
    LEADER = 3


class VoteRequest(NamedTuple):
    """RequestVote; with `pre` it only asks whether an election could be won (thesis 9.6)."""

    term: int
    last_index: int
    last_term: int
    pre: bool
    transfer: bool  # ordered by the present leader: leases do not refuse it (thesis 3.10)


class Vote(NamedTuple):
    """The answer to a VoteRequest; a granted pre-vote carries the term asked for."""

    term: int
    granted: bool
    pre: bool


class Append(NamedTuple):
    """
    AppendEntries; without entries it is the heartbeat, and a probe at the same time.

    A `round` above 0 asks for an answer that repeats it: the leader leads still when a quorum
    has answered a round (thesis 6.4). With round 0 only entries and refusals are answered.
    `stored` is how far the leader's own log is durable: a follower whose disk is all that lacks to
    a quorum need not wait to be told of the commitment.
    """

    term: int
    previous_index: int
    previous_term: int
    commit: int
    entries: tuple[Entry, ...]
    round: int = 0
    stored: int = 0


@dataclass(frozen=True, slots=True)
class AppendReply:
    """
    The answer to an Append, and the report of a learner that follows the broadcast.

    `index` is the last index known to match, or on refusal the highest that still may.
    """

    term: int
    accepted: bool
    index: int
    round: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after the entry `index`, in place of the log up to there."""

    index: int
    term: int             # of that entry
    configuration: bytes  # in force there, encoded
    data: bytes           # opaque to the consensus


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """InstallSnapshot: a part of a snapshot for a follower that lags behind the log (paper, section 7)."""

    term: int
    index: int
    snapshot_term: int
    configuration: bytes
    size: int             # bytes of the whole
    offset: int           # of this part
    data: bytes


@dataclass(frozen=True, slots=True)
class SnapshotReply:
    """How many bytes of which snapshot a follower has; the end of it is answered by an AppendReply."""

    term: int
    index: int
    offset: int


class TimeoutNow(NamedTuple):
    """The leader hands over: the receiver starts an election at once (thesis 3.10)."""

    term: int


Message = VoteRequest | Vote | Append | AppendReply | SnapshotChunk | SnapshotReply | TimeoutNow


class Envelope(NamedTuple):
    """A message of the core and whom it goes to."""

    to: Member
    message: Message


class Refused(Exception):
    """The core did not accept a proposal; nothing was appended."""
