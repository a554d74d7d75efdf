# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What a member keeps on disk: who it is, and the write-ahead log of its consensus.

    <data directory>/identity        JSON: member, incarnation, cluster id
    <data directory>/wal-<n>.log     records, n counting up
    <data directory>/snapshot-<i>    the state after entry i, which the segments continue

A snapshot is written aside, synced and renamed; then a new segment begins with the hard state and the
entries behind it, and only when that is on disk the older segments and snapshots are deleted. A
is a header [length u32, type u8, CRC-32 of length and type u32], the payload and the CRC-32 of the
payload. The header has a checksum of its own so that a damaged length is never taken for a record
that was cut off by a crash.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
import fcntl
import json
import os
from pathlib import Path
import struct
from typing import Any
import zlib

import msgpack

from muster.cluster.member import Record
from muster.cluster.raft.types import BLANK, Entry, HardState, Kind, Member, Snapshot

FORMAT = 1
_HEADER = struct.Struct('<IBI')
_CHECKSUM = struct.Struct('<I')
_PREAMBLE, _HARD_STATE, _ENTRY, _SNAPSHOT = 1, 2, 3, 4
#: A record holds one entry; a command has a few KiB at most.
MAX_RECORD = 1 << 20
#: A segment that has grown beyond this is followed by the next one.
SEGMENT_BYTES = 16 << 20


class StorageError(Exception):
    """The data directory cannot be used; the message says what and where, and the remedy."""


class SyncFailed(Exception):
    """
    The disk did not confirm what was written.

    What the kernel then holds in memory says nothing about the disk, so neither repeating the
    sync nor reading back helps (Rebello et al., "Can Applications Recover from fsync Failures?",
    USENIX ATC 2020): the process must end and begin again from the disk.
    """


class Storage:
    """The data directory of one member, locked while it is open."""

    def __init__(self, directory: Path, member_id: str, new_incarnation: Callable[[], int]) -> None:
        """Open or make the directory and read all that is in it; raise StorageError."""
        self._directory = directory
        self.hard_state: HardState = BLANK
        self.snapshot: Snapshot | None = None
        self.entries: list[Entry] = []         # those behind the snapshot
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _exclusive(directory)
            try:
                self._open(member_id, new_incarnation)
            except BaseException:
                os.close(self._lock)  # or this process could not open it again when it is repaired
                raise
        except OSError as error:
            raise StorageError(f"the data directory '{directory}' cannot be used: {error}") from error

    def _open(self, member_id: str, new_incarnation: Callable[[], int]) -> None:
        self.me, self.cluster_id = self._read_identity(member_id, new_incarnation)
        segments = sorted(self._directory.glob('wal-*.log'))
        if segments and not self.cluster_id:
            segments = self._undo_join(segments)
        if self.cluster_id and not segments:
            raise self._gone(1)
        self._read_snapshot()
        first = _number(segments[0]) if segments and self.snapshot else 1
        for number, segment in enumerate(segments, first):
            if segment != self._segment(number):
                raise self._gone(number)
            self._read_segment(segment, first=number == 1, last=segment == segments[-1])
        self._number = first + len(segments) - 1
        self._file = os.open(segments[-1], os.O_WRONLY | os.O_APPEND) if segments else -1
        self._size = os.fstat(self._file).st_size if segments else 0

    # Identity ----------------------------------------------------------------------------------
    def _read_identity(self, member_id: str, new_incarnation: Callable[[], int]) -> tuple[Member, str]:
        path = self._directory / 'identity'
        if not path.exists():
            me = Member(member_id, new_incarnation())
            self._write_identity(me, '')
            return me, ''
        try:
            content = json.loads(path.read_bytes()[:4096])
            version, name, incarnation, cluster_id = (
                content[key] for key in ('format', 'member', 'incarnation', 'cluster_id'))
            me = Member(str(name), int(incarnation, 16))
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"'{path}' is damaged ({error}). {_REMEDY}") from error
        if version != FORMAT:
            raise StorageError(f"'{path}' has format {version}, this version reads {FORMAT}: update it")
        if name != member_id:
            raise StorageError(f"'{self._directory}' belongs to member '{name}', not to '{member_id}': "
                               'give each robot a data directory of its own')
        return me, str(cluster_id)

    def _write_identity(self, me: Member, cluster_id: str) -> None:
        """Replace the file as a whole: written aside, synced, renamed."""
        path = self._directory / 'identity'
        aside = path.with_suffix('.new')
        content = {'format': FORMAT, 'member': me.id, 'incarnation': f'{me.incarnation:x}',
                   'cluster_id': cluster_id}
        with aside.open('w') as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        _sync_directory(self._directory)

    def _undo_join(self, segments: list[Path]) -> list[Path]:
        """
        Remove the log of a cluster that this member was about to join when it died.

        The identity names the cluster before anything is acknowledged, so nothing is lost; a log
        of another incarnation is no such left-over.
        """
        for segment in segments:
            for kind, payload, _ in _records(segment, segment.read_bytes()):
                if kind == _PREAMBLE and msgpack.unpackb(payload)[2] != self.me.incarnation:
                    raise StorageError(f"'{segment}' is of another incarnation: the file 'identity' was "
                                       f'replaced. {_REMEDY}')
        for left in (*self._directory.glob('snapshot-*'), *segments):
            left.unlink()
        return []

    # Reading -----------------------------------------------------------------------------------
    def _segment(self, number: int) -> Path:
        return self._directory / f'wal-{number:08d}.log'

    def _gone(self, number: int) -> StorageError:
        return StorageError(f"'{self._directory}' belongs to cluster {self.cluster_id} but of its log "
                            f"'{self._segment(number).name}' is gone. {_REMEDY}")

    def _read_snapshot(self) -> None:
        """Read the newest snapshot; an older one is left over from a crash before it was deleted."""
        for left in self._directory.glob('snapshot-*.new'):
            left.unlink()
        found = sorted(self._directory.glob('snapshot-*'))
        if found:
            self.snapshot = self._decode_snapshot(found[-1], found[-1].read_bytes())
        # Entries behind a snapshot continue it only where the log held its last entry, or where the
        # segment was begun behind it: a crash can leave the segments of a log that the snapshot replaced.
        self._continues = self.snapshot is None

    def _decode_snapshot(self, path: Path, data: bytes) -> Snapshot:
        kind, payload, end = next(_records(path, data), (0, b'', 0))
        if kind != _SNAPSHOT:
            raise StorageError(f"'{path}' is damaged at offset 0: it is no snapshot. {_REMEDY}")
        version, cluster_id, incarnation, index, term, configuration, size, checksum = \
            msgpack.unpackb(payload)
        if (version, cluster_id, incarnation) != (FORMAT, self.cluster_id, self.me.incarnation):
            raise self._foreign(path, cluster_id, incarnation)
        if len(data) - end != size or zlib.crc32(memoryview(data)[end:]) != checksum:
            raise StorageError(f"'{path}' is damaged behind offset {end}: its {len(data) - end} bytes have "
                               f'a wrong checksum or are not {size}. {_REMEDY}')
        return Snapshot(index, term, configuration, data[end:])

    def _foreign(self, path: Path, cluster_id: str, incarnation: int) -> StorageError:
        return StorageError(f"'{path}' belongs to another member or cluster ({cluster_id}, "
                            f'incarnation {incarnation:x}). {_REMEDY}')

    def _read_segment(self, path: Path, *, first: bool, last: bool) -> None:
        data = path.read_bytes()
        end = 0
        for kind, payload, end in _records(path, data):  # noqa: B007 (its last value is used)
            self._replay(path, kind, msgpack.unpackb(payload))
        if first and not end:
            raise self._gone(1)  # it was complete before the identity named the cluster
        if end == len(data):
            return
        if not last:
            raise StorageError(f"'{path}' ends in the middle of a record at offset {end}, and a later "
                               f'segment follows. {_REMEDY}')
        # A crash while writing: nothing of this record was ever acknowledged.
        with path.open('r+b') as file:
            file.truncate(end)
            os.fsync(file.fileno())

    def _replay(self, path: Path, kind: int, row: list[Any]) -> None:
        if kind == _PREAMBLE:
            version, cluster_id, incarnation, base = row
            if (version, cluster_id, incarnation) != (FORMAT, self.cluster_id, self.me.incarnation):
                raise self._foreign(path, cluster_id, incarnation)
            if self.snapshot and base == self.snapshot.index:
                self.entries, self._continues = [], True
        elif kind == _HARD_STATE:
            term, *vote = row
            self.hard_state = HardState(term, Member(*vote) if vote else None)
        elif kind == _ENTRY:
            index, term, elapsed, number, data = row
            self._replay_entry(path, Entry(index, term, elapsed, Kind(number), data))
        else:
            raise StorageError(f"'{path}' has records of type {kind}, written by a later version: update")

    def _replay_entry(self, path: Path, entry: Entry) -> None:
        """Take over an entry; one that replaces others cuts off all behind it."""
        base = self.snapshot.index if self.snapshot else 0
        if entry.index <= base:
            self.entries.clear()
            if entry.index == base and self.snapshot:
                self._continues = entry.term == self.snapshot.term
        elif self._continues:
            if entry.index > base + len(self.entries) + 1:
                raise StorageError(f"'{path}' lacks entries before index {entry.index}. {_REMEDY}")
            del self.entries[entry.index - base - 1:]
            self.entries.append(entry)

    # Writing -----------------------------------------------------------------------------------
    def write(self, records: list[Record]) -> None:
        """
        Append records and sync them; raise SyncFailed, or OSError where some may be missing.

        After an OSError the same records may be written again: repeating them changes nothing.
        """
        joining = next((record.cluster_id for record in records if record.cluster_id), '')
        if joining:
            self.cluster_id = joining
            self._begin_segment()
        data = b''
        for record in records:
            if record.snapshot is not None:
                self._append(data)
                data = b''
                self._write_snapshot(record.snapshot, record)
            data += _encode(record)
        self._append(data)
        if joining:
            # Last: a founder whose identity named a cluster without its first entry would wait for ever.
            self._write_identity(self.me, joining)

    def _write_snapshot(self, snapshot: Snapshot, record: Record) -> None:
        """Let a snapshot stand for the log up to there."""
        head = _record(_SNAPSHOT, [
            FORMAT, self.cluster_id, self.me.incarnation, snapshot.index, snapshot.term,
            snapshot.configuration, len(snapshot.data), zlib.crc32(snapshot.data)])
        path = self._directory / f'snapshot-{snapshot.index:016d}'
        aside = path.with_name(path.name + '.new')
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(handle, head)
            _write_all(handle, snapshot.data)
            _sync(handle)
        finally:
            os.close(handle)
        aside.rename(path)
        _sync_directory(self._directory)
        self.snapshot = snapshot
        self._begin_segment(_encode(Record(hard_state=record.hard_state, entries=record.tail)))
        for old in self._directory.glob('wal-*.log'):
            if _number(old) < self._number:
                old.unlink()
        for old in self._directory.glob('snapshot-*'):
            if old < path:
                old.unlink()

    def _begin_segment(self, data: bytes = b'') -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._number += 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        self._file = os.open(self._segment(self._number), flags, 0o600)
        self._size = 0
        base = self.snapshot.index if self.snapshot else 0
        try:
            self._append(_record(_PREAMBLE, [FORMAT, self.cluster_id, self.me.incarnation, base]) + data)
        except OSError:
            os.close(self._file)
            self._file = -1
            self._segment(self._number).unlink()
            self._number -= 1
            raise
        _sync_directory(self._directory)

    def _append(self, data: bytes) -> None:
        if not data:
            return
        if self._size > SEGMENT_BYTES or self._file < 0:
            self._begin_segment()
        try:
            _write_all(self._file, data)
        except OSError:
            os.ftruncate(self._file, self._size)  # half a record would look damaged to the next one
            raise
        _sync(self._file, os.fdatasync)
        self._size += len(data)

    def close(self) -> None:
        """Close the files and give the directory free."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        os.close(self._lock)


_REMEDY = ('This member must not take part with wrong data: move the directory away, and it rejoins '
           'as a new incarnation')


def _exclusive(directory: Path) -> int:
    """Lock the directory for this process, for as long as it lives."""
    handle = os.open(directory / 'lock', os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StorageError(f"the data directory '{directory}' is used by another process: stop it, or "
                           'give this robot another `data_directory`') from None
    return handle


def _number(segment: Path) -> int:
    """Return the number in a segment's name; 0 where there is none."""
    digits = segment.stem.removeprefix('wal-')
    return int(digits) if digits.isdecimal() else 0


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view):]


def _sync(handle: int, sync: Callable[[int], None] = os.fsync) -> None:
    try:
        sync(handle)
    except OSError as error:
        raise SyncFailed(str(error)) from error


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        _sync(handle)
    finally:
        os.close(handle)


def _record(kind: int, row: list[Any]) -> bytes:
    payload = msgpack.packb(row)
    head = struct.pack('<IB', len(payload), kind)
    return head + _CHECKSUM.pack(zlib.crc32(head)) + payload + _CHECKSUM.pack(zlib.crc32(payload))


def _encode(record: Record) -> bytes:
    parts = []
    if record.hard_state:
        parts.append(_record(_HARD_STATE, [record.hard_state.term, *(record.hard_state.vote or ())]))
    parts += [_record(_ENTRY, [e.index, e.term, e.elapsed, int(e.kind), e.data]) for e in record.entries]
    return b''.join(parts)


def _records(path: Path, data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield (type, payload, offset behind it) of every whole record; raise StorageError at a damaged one."""
    start = 0
    while start + _HEADER.size <= len(data):
        length, kind, checksum = _HEADER.unpack_from(data, start)
        body = start + _HEADER.size
        if zlib.crc32(data[start:body - _CHECKSUM.size]) != checksum or length > MAX_RECORD:
            raise StorageError(f"'{path}' is damaged at offset {start}: a header with a wrong "
                               f'checksum. {_REMEDY}')
        end = body + length + _CHECKSUM.size
        if end > len(data):
            return
        payload = data[body:body + length]
        if zlib.crc32(payload) != _CHECKSUM.unpack_from(data, body + length)[0]:
            raise StorageError(f"'{path}' is damaged at offset {body}: a record with a wrong "
                               f'checksum. {_REMEDY}')
        yield kind, payload, end
        start = end
