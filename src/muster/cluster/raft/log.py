# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The replicated log of one member, in memory; the write-ahead log makes it durable."""
from __future__ import annotations

from collections.abc import Sequence

from muster.cluster.raft.types import Entry


class Log:
    """
    A gapless sequence of entries behind a base, the last entry that was compacted away.

    A new log has the base 0 with term 0. All up to the base is committed.
    """

    def __init__(self, entries: Sequence[Entry] = (), base: int = 0, base_term: int = 0) -> None:
        """Take over entries that are durable already."""
        self.base, self.base_term = base, base_term
        self._entries = list(entries)
        assert all(e.index == i for i, e in enumerate(self._entries, base + 1)), 'the log has a gap'

    @property
    def last_index(self) -> int:
        """Return the index of the last entry, that of the base where there is none."""
        return self.base + len(self._entries)

    @property
    def last_term(self) -> int:
        """Return the term of the last entry, that of the base where there is none."""
        return self._entries[-1].term if self._entries else self.base_term

    def term(self, index: int) -> int:
        """Return the term of an entry; -1 where the log does not hold it."""
        if index == self.base:
            return self.base_term
        position = index - self.base - 1
        return self._entries[position].term if 0 <= position < len(self._entries) else -1

    def slice(self, first: int, last: int, max_bytes: int | None = None) -> tuple[Entry, ...]:
        """Return the entries first..last, at least one, and then up to `max_bytes` of data."""
        assert first > self.base, f'entry {first} was compacted away, the base is {self.base}'
        start, stop = first - self.base - 1, last - self.base
        if max_bytes is None:
            return tuple(self._entries[start:stop])
        size = 0
        for position in range(start, min(stop, len(self._entries))):
            size += len(self._entries[position].data) + 32
            if size > max_bytes and position > start:
                return tuple(self._entries[start:position])
        return tuple(self._entries[start:stop])

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
            if entry.index > self.base and self.term(entry.index) != entry.term:
                del self._entries[entry.index - self.base - 1:]
                self._entries.extend(entries[position:])
                return entries[position:]
        return ()

    def compact(self, base: int) -> None:
        """Drop the entries up to `base`, which a snapshot stands for."""
        assert self.base <= base <= self.last_index
        self.base, self.base_term, kept = base, self.term(base), self._entries[base - self.base:]
        self._entries = kept

    def reset(self, base: int, base_term: int) -> None:
        """
        Begin behind a snapshot that the leader sent.

        Entries behind it stay only where the log holds the snapshot's last entry: what a log
        holds behind a different one is not the leader's (Raft paper, figure 13, 6 and 7).
        """
        if self.term(base) == base_term:
            self.compact(base)
        else:
            self.base, self.base_term, self._entries = base, base_term, []

    def conflict_hint(self, index: int) -> int:
        """Return the highest index that may still match; the whole conflicting term is skipped."""
        if index > self.last_index:
            return self.last_index
        term = self.term(index)
        while index > self.base and self.term(index) == term:
            index -= 1
        return index

    def at_least(self, last_index: int, last_term: int) -> bool:
        """Return whether a log with that end is at least as up to date (Raft paper, 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)
