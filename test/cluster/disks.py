# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What simulated robots have on disk."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgpack

from muster.cluster import storage
from muster.cluster.member import Effects, Record
from muster.cluster.raft.types import BLANK, Entry, HardState, Member, Snapshot


class Tail(NamedTuple):
    """The log behind a snapshot, written into a new segment that replaces all older ones."""

    hard_state: HardState
    entries: tuple[Entry, ...]


#: One thing that a record writes.
Part = str | HardState | Entry | Snapshot | Tail


@dataclass
class Disk:
    """What is durable for one incarnation, and the writes on their way there."""

    me: Member
    cluster_id: str = ''
    hard_state: HardState = BLANK
    snapshot: Snapshot | None = None
    entries: list[Entry] = field(default_factory=list)    # behind the snapshot
    queue: deque[Effects] = field(default_factory=deque)
    intact: bool = True       # it was not lost
    full: bool = False        # it takes nothing

    @property
    def base(self) -> int:
        """Return the index that the snapshot stands for, 0 where there is none."""
        return self.snapshot.index if self.snapshot else 0

    @property
    def last_index(self) -> int:
        """Return the index of the last durable entry."""
        return self.base + len(self.entries)

    @property
    def last_term(self) -> int:
        """Return the term of the last durable entry."""
        return self.entries[-1].term if self.entries else self.snapshot.term if self.snapshot else 0

    def had(self, index: int, term: int) -> bool:
        """Return whether an entry is durable, or was when the disk was lost; a snapshot stands for many."""
        position = index - self.base - 1
        return position < 0 or (position < len(self.entries) and self.entries[position].term == term)

    def write(self, record: Record) -> None:
        """Make a record durable."""
        self._apply(parts(record))

    def write_in_part(self, random: Random, records: list[Record]) -> None:
        """Write some of what was to be written, and fail."""
        some = [part for record in records for part in parts(record)]
        self._apply(some[:random.randint(0, len(some))] if self.cluster_id else [])

    def crash(self, random: Random) -> str:
        """Lose what is on its way, but for any prefix of it; return what happened in words."""
        records = [effects.record for effects in self.queue]
        if self.cluster_id and not self.full and all(record.snapshot is None for record in records):
            self.queue.clear()
            return self._tear(b''.join(map(storage._encode, records)), random)
        some = [part for record in records for part in parts(record)]
        kept = 0 if self.full else random.randint(0, len(some))
        if not self.cluster_id and some:
            # The identity is written last: a cluster is joined with the whole first record or not at all.
            kept = 0 if self.full else random.choice((0, max(kept, len(parts(self.queue[0].record)))))
        self._apply(some[:kept])
        self.queue.clear()
        return f'{kept} of {len(some)} unfinished writes are kept'

    def _tear(self, data: bytes, random: Random) -> str:
        """Cut what was being written at any byte, and read the log as the real one is read after a crash."""
        kept = data[:random.randint(0, len(data))]
        reader = storage.Storage.__new__(storage.Storage)
        reader.me, reader.cluster_id, reader._continues = self.me, self.cluster_id, True
        reader.hard_state, reader.snapshot, reader.entries = self.hard_state, self.snapshot, self.entries
        where = Path('the last segment')
        for kind, payload, _ in storage._records(where, kept):
            reader._replay(where, kind, msgpack.unpackb(payload))
        self.hard_state, self.entries = reader.hard_state, reader.entries
        return f'{len(kept)} of {len(data)} unfinished bytes are kept'

    def _apply(self, some: list[Part]) -> None:
        for part in some:
            if isinstance(part, str):
                self.cluster_id = part
            elif isinstance(part, HardState):
                self.hard_state = part
            elif isinstance(part, Snapshot):
                # What is in the segments continues it where they hold its last entry.
                continues = part.index >= self.base and self.had(part.index, part.term)
                self.entries = self.entries[part.index - self.base:] if continues else []
                self.snapshot = part
            elif isinstance(part, Tail):
                self.hard_state, self.entries = part.hard_state, list(part.entries)
            else:
                del self.entries[max(0, part.index - self.base - 1):]
                if part.index > self.base:
                    self.entries.append(part)


def parts(record: Record) -> list[Part]:
    """Return what one record writes, in its order."""
    some: list[Part] = [record.cluster_id] if record.cluster_id else []
    if record.snapshot is not None:
        assert record.hard_state is not None
        some += [record.snapshot, Tail(record.hard_state, tuple(record.tail))]
    if record.hard_state is not None:
        some.append(record.hard_state)
    return some + record.entries
