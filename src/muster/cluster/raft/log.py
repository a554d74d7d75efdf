# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The replicated log of one member, in memory; the write-ahead log makes it durable."""
from __future__ import annotations

from collections.abc import Sequence

from muster.cluster.raft.types import Entry


class Log:
    """A gapless sequence of entries; index 0 with term 0 stands before the first."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        """Take over entries that are durable already."""
        self._entries = list(entries)
        assert all(e.index == i for i, e in enumerate(self._entries, 1)), 'the log has a gap'

    @property
    def last_index(self) -> int:
        """Return the index of the last entry, 0 where there is none."""
        return len(self._entries)

    @property
    def last_term(self) -> int:
        """Return the term of the last entry, 0 where there is none."""
        return self._entries[-1].term if self._entries else 0

    def term(self, index: int) -> int:
        """Return the term of an entry; -1 where the log does not reach so far."""
        if index == 0:
            return 0
        return self._entries[index - 1].term if index <= len(self._entries) else -1

    def slice(self, first: int, last: int, max_bytes: int | None = None) -> tuple[Entry, ...]:
        """Return the entries first..last, at least one, and then up to `max_bytes` of data."""
        found = self._entries[first - 1:last]
        if max_bytes is None:
            return tuple(found)
        size = 0
        for count, entry in enumerate(found):
            size += len(entry.data) + 32
            if size > max_bytes and count:
                return tuple(found[:count])
        return tuple(found)

    def append(self, entry: Entry) -> None:
        """Append the next entry."""
        assert entry.index == self.last_index + 1
        self._entries.append(entry)

    def merge(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """
        Take over a leader's entries and return those that are new.

        What conflicts is cut off first; what is there already is skipped, so that a late or
        repeated message never shortens the log (Raft paper, figure 2, AppendEntries 3 and 4).
        """
        for position, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                del self._entries[entry.index - 1:]
                self._entries.extend(entries[position:])
                return entries[position:]
        return ()

    def conflict_hint(self, index: int) -> int:
        """Return the highest index that may still match; the whole conflicting term is skipped."""
        if index > self.last_index:
            return self.last_index
        term = self.term(index)
        while index > 0 and self.term(index) == term:
            index -= 1
        return index

    def at_least(self, last_index: int, last_term: int) -> bool:
        """Return whether a log with that end is at least as up to date (Raft paper, 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)
