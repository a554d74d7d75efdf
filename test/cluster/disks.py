# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What simulated robots have on disk."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from muster.cluster.member import Effects, Record
from muster.cluster.raft.types import BLANK, Entry, HardState, Member

#: One thing that a record writes.
Part = str | HardState | Entry


@dataclass
class Disk:
    """What is durable for one incarnation, and the writes on their way there."""

    me: Member
    cluster_id: str = ''
    hard_state: HardState = BLANK
    entries: list[Entry] = field(default_factory=list)
    queue: deque[Effects] = field(default_factory=deque)
    intact: bool = True

    @property
    def last_index(self) -> int:
        """Return the index of the last durable entry."""
        return len(self.entries)

    def term(self, index: int) -> int:
        """Return the term of a durable entry; -1 where there is none."""
        if index == 0:
            return 0
        return self.entries[index - 1].term if index <= len(self.entries) else -1

    def had(self, entry: Entry) -> bool:
        """Return whether an entry is durable, or was when the disk was lost."""
        return self.term(entry.index) == entry.term

    def write(self, record: Record) -> None:
        """Make a record durable."""
        self._apply(parts(record))

    def _apply(self, some: list[Part]) -> None:
        for part in some:
            if isinstance(part, str):
                self.cluster_id = part
            elif isinstance(part, HardState):
                self.hard_state = part
            else:
                del self.entries[part.index - 1:]
                self.entries.append(part)

    def crash(self, random: Random) -> str:
        """Lose what is on its way, but for any prefix of it; return what happened in words."""
        some = [part for effects in self.queue for part in parts(effects.record)]
        kept = random.randint(0, len(some))
        if not self.cluster_id and some:
            # The identity is written last: a cluster is joined with the whole first record or not at all.
            kept = random.choice((0, max(kept, len(parts(self.queue[0].record)))))
        self._apply(some[:kept])
        self.queue.clear()
        return f'{kept} of {len(some)} unfinished writes are kept'


def parts(record: Record) -> list[Part]:
    """Return what one record writes, in its order."""
    return [part for part in (record.cluster_id, record.hard_state) if part] + record.entries
