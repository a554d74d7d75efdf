# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What a member keeps on disk: who it is, and the write-ahead log of its consensus.

    <data directory>/identity        JSON: member, incarnation, cluster id
    <data directory>/wal-<n>.log     records, n counting from 1

A record is a header [length u32, type u8, CRC-32 of length and type u32], the payload and the
CRC-32 of the payload. The header has a checksum of its own so that a damaged length is never
taken for a record that was cut off by a crash.
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
from muster.cluster.raft.types import BLANK, Entry, HardState, Kind, Member

FORMAT = 1
_HEADER = struct.Struct('<IBI')
_CHECKSUM = struct.Struct('<I')
_PREAMBLE, _HARD_STATE, _ENTRY = 1, 2, 3
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
        self.entries: list[Entry] = []
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
        for number, segment in enumerate(segments, 1):
            if segment != self._segment(number):
                raise self._gone(number)
            self._read_segment(segment, first=number == 1, last=number == len(segments))
        self._number = len(segments)
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
        for segment in segments:
            segment.unlink()
        return []

    # Reading -----------------------------------------------------------------------------------
    def _segment(self, number: int) -> Path:
        return self._directory / f'wal-{number:08d}.log'

    def _gone(self, number: int) -> StorageError:
        return StorageError(f"'{self._directory}' belongs to cluster {self.cluster_id} but of its log "
                            f"'{self._segment(number).name}' is gone. {_REMEDY}")

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
            version, cluster_id, incarnation = row
            if (version, cluster_id, incarnation) != (FORMAT, self.cluster_id, self.me.incarnation):
                raise StorageError(f"'{path}' belongs to another member or cluster ({cluster_id}, "
                                   f'incarnation {incarnation:x}). {_REMEDY}')
        elif kind == _HARD_STATE:
            term, *vote = row
            self.hard_state = HardState(term, Member(*vote) if vote else None)
        elif kind == _ENTRY:
            index, term, elapsed, number, data = row
            if not 1 <= index <= len(self.entries) + 1:
                raise StorageError(f"'{path}' lacks entries before index {index}. {_REMEDY}")
            del self.entries[index - 1:]  # an entry that replaces others cut them off
            self.entries.append(Entry(index, term, elapsed, Kind(number), data))
        else:
            raise StorageError(f"'{path}' has records of type {kind}, written by a later version: update")

    # Writing -----------------------------------------------------------------------------------
    def write(self, records: list[Record]) -> None:
        """Append records and sync them, all or nothing; raise OSError or SyncFailed."""
        joining = next((record.cluster_id for record in records if record.cluster_id), '')
        if joining:
            self.cluster_id = joining
            self._begin_segment()
        data = b''.join(_encode(record) for record in records)
        if data:
            if self._size > SEGMENT_BYTES:
                self._begin_segment()
            self._append(data)
        if joining:
            # Last: a founder whose identity named a cluster without its first entry would wait for ever.
            self._write_identity(self.me, joining)

    def _begin_segment(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._number += 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        self._file = os.open(self._segment(self._number), flags, 0o600)
        self._size = 0
        self._append(_record(_PREAMBLE, [FORMAT, self.cluster_id, self.me.incarnation]))
        _sync_directory(self._directory)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view):]
        except OSError:
            os.ftruncate(self._file, self._size)  # half a record would look damaged to the next one
            raise
        try:
            os.fdatasync(self._file)
        except OSError as error:
            raise SyncFailed(str(error)) from error
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


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
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
