# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a leader knows of one follower, and how much it may send to it."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from muster.cluster.raft.types import Snapshot

#: Appends on their way to one follower whose acknowledgements take long. More of them cost more than
#: they win, as each carries up to 32 KiB, and the inboxes hold 64 messages of all members together.
MAX_IN_FLIGHT = 4


@dataclass
class Progress:
    """
    Replication to one follower.

    While `probing`, one message at a time looks for the point where the logs agree; afterwards
    appends go ahead of what is acknowledged (`next` ahead of `match`), up to `window` messages:
    what is proposed while one is under way goes together in the next (as Nagle's algorithm, RFC 896,
    does it), until its acknowledgement takes so long that the leader widens the window. While
    `snapshot` is set its chunks go instead, one at a time. A learner that follows the broadcast
    (`listening`) is sent nothing of its own, and a `spare` follower gets its entries in lots.
    """

    next: int
    match: int = 0
    probing: bool = True
    paused: bool = False                    # a probe or chunk is on its way; the next heartbeat repeats it
    told_commit: int = 0                    # the commit index that it was last sent
    told_stored: int = 0                    # up to where it knows that the leader has it on disk
    awaits: int = 0                         # it wants to hear at once when this entry is committed
    heard: int = 0                          # time of its last message, nanoseconds
    round: int = 0                          # the last round that it answered
    listening: bool = False
    snapshot: Snapshot | None = None
    offset: int = 0                         # bytes of the snapshot that it has
    window: int = 1                         # messages that may be under way
    spare: bool = False                     # a quorum was reached without it, and nobody waits there
    lot: int = 0                            # the last entry that a spare one may get now
    in_flight: deque[int] = field(default_factory=deque)  # last index of each message

    @property
    def may_send(self) -> bool:
        """Return whether another append with entries may go now."""
        return not self.paused if self.probing else len(self.in_flight) < self.window

    def allowed(self, last_index: int) -> int:
        """Return the last entry that may be sent now, of those up to `last_index`."""
        return min(last_index, self.lot) if self.spare else last_index

    def held(self, last_index: int) -> bool:
        """Return whether entries wait for the next lot."""
        return self.spare and self.lot < last_index

    def waits(self, last_index: int) -> bool:
        """Return whether entries wait for an acknowledgement, which a wider window would send now."""
        return self.next <= self.allowed(last_index) and self.window < MAX_IN_FLIGHT and \
            not self.listening and not self.probing and self.snapshot is None

    def sent(self, last_index: int) -> None:
        """Note that entries up to `last_index` went out."""
        if self.probing:
            self.paused = True
        else:
            self.next = last_index + 1
            self.in_flight.append(last_index)

    def accepted(self, index: int) -> bool:
        """Note an acknowledgement; return whether it told anything new."""
        news = index > self.match
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        self.probing = self.paused = False
        if self.snapshot is not None and self.match >= self.snapshot.index:
            self.snapshot = None
        while self.in_flight and self.in_flight[0] <= index:
            self.in_flight.popleft()
        self.window = max(1, len(self.in_flight))
        return news

    def refused(self, hint: int) -> bool:
        """Note a refusal and go back; return False where it is late and says nothing."""
        if hint < self.match or hint + 1 >= self.next:
            return False
        self.next = max(self.match, hint) + 1
        self.probe()
        return True

    def probe(self) -> None:
        """Look anew for the point where the logs agree."""
        self.probing, self.paused, self.listening = True, False, False
        self.in_flight.clear()
