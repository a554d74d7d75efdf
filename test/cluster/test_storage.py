# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The write-ahead log: what was acknowledged comes back, and what is damaged is refused by name."""
from __future__ import annotations

from collections.abc import Callable
import json
import os
from pathlib import Path
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import Any

from hypothesis import given, settings, strategies as st
from muster.cluster import storage as storage_module
from muster.cluster.member import Record
from muster.cluster.raft.types import BLANK, Entry, HardState, Kind, Member
from muster.cluster.storage import Storage, StorageError, SyncFailed
from muster.cluster.writer import Writer
import pytest

CLUSTER = '0123456789abcdef'


def opened(directory: Path, incarnation: int = 7) -> Storage:
    """Open a data directory of member `a`."""
    return Storage(directory, 'a', lambda: incarnation)


def entry(index: int, term: int = 1, data: bytes = b'x') -> Entry:
    """Return an entry."""
    return Entry(index, term, index * 10, Kind.COMMAND, data)


def joined(directory: Path) -> Storage:
    """Return the open directory of a member that has just joined."""
    storage = opened(directory)
    storage.write([Record(CLUSTER)])
    return storage


def contents(directory: Path) -> tuple[Member, str, HardState, list[Entry]]:
    """Open a directory, and return what it holds."""
    storage = opened(directory, 99)
    storage.close()
    return storage.me, storage.cluster_id, storage.hard_state, storage.entries


def wal(directory: Path, number: int = 1) -> Path:
    """Return the path of a segment."""
    return directory / f'wal-{number:08d}.log'


class Model:
    """What a log must hold after some writes."""

    def __init__(self) -> None:
        """Begin empty."""
        self.hard_state = BLANK
        self.entries: list[Entry] = []

    def take(self, record: Record) -> None:
        """Apply a record."""
        self.hard_state = record.hard_state or self.hard_state
        for new in record.entries:
            del self.entries[new.index - 1:]
            self.entries.append(new)


@st.composite
def histories(draw: Any) -> list[Record]:
    """Draw the records of a member: terms grow, entries continue or replace the log's end."""
    records, length, term = [], 0, 1
    for _ in range(draw(st.integers(1, 6))):
        state = None
        if draw(st.booleans()):
            term += 1
            state = HardState(term, draw(st.sampled_from((None, Member('b', 5)))))
        first = draw(st.integers(1, length + 1))
        count = draw(st.integers(0, 3))
        new = [entry(first + i, term, draw(st.binary(max_size=20))) for i in range(count)]
        length = first + count - 1 if count else length
        records.append(Record('', state, new))
    return records


@settings(max_examples=15, deadline=None)
@given(histories())
def test_a_torn_tail_loses_only_what_was_not_acknowledged(records: list[Record]) -> None:
    """Cut at every byte: the records whose end is there come back, each part of a record in its order."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / 'a'
        storage = joined(directory)
        preamble = wal(directory).stat().st_size
        model, parts = Model(), [(preamble, BLANK, [])]
        for record in records:
            for part in [Record('', record.hard_state)] + [Record('', None, [e]) for e in record.entries]:
                storage.write([part])
                model.take(part)
                parts.append((wal(directory).stat().st_size, model.hard_state, list(model.entries)))
        storage.close()
        data = wal(directory).read_bytes()
        for size in range(preamble, len(data) + 1):
            wal(directory).write_bytes(data[:size])
            expected = [p for p in parts if p[0] <= size][-1]
            assert contents(directory)[2:] == (expected[1], expected[2])
            assert wal(directory).stat().st_size == expected[0]
            if size % 16 == 0:      # and it goes on from there
                again = opened(directory)
                again.write([Record('', HardState(50, None))])
                again.close()
                assert contents(directory)[2:] == (HardState(50, None), expected[2])


def test_every_flipped_byte_is_refused_with_file_and_offset(tmp_path: Path) -> None:
    storage = joined(tmp_path)
    storage.write([Record('', HardState(3, Member('b', 5)), [entry(1, 3), entry(2, 3, b'y' * 40)])])
    storage.close()
    data = wal(tmp_path).read_bytes()
    for offset in range(len(data)):
        for mask in (1, 0x80):
            damaged = bytearray(data)
            damaged[offset] ^= mask
            wal(tmp_path).write_bytes(damaged)
            with pytest.raises(StorageError, match='damaged at offset') as caught:
                opened(tmp_path)
            assert str(wal(tmp_path)) in str(caught.value) and 'move the directory away' in str(caught.value)
            assert wal(tmp_path).read_bytes() == bytes(damaged)
    wal(tmp_path).write_bytes(data)
    assert contents(tmp_path)[3] == [entry(1, 3), entry(2, 3, b'y' * 40)]


def test_a_repaired_directory_can_be_opened_by_the_same_process(tmp_path: Path) -> None:
    joined(tmp_path).close()
    data = wal(tmp_path).read_bytes()
    wal(tmp_path).write_bytes(b'\xff' * len(data))
    with pytest.raises(StorageError, match='damaged'):
        opened(tmp_path)
    wal(tmp_path).write_bytes(data)
    assert contents(tmp_path)[1] == CLUSTER


def test_segments_rotate_and_all_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, 'SEGMENT_BYTES', 200)
    storage = joined(tmp_path)
    for index in range(1, 41):
        storage.write([Record('', None, [entry(index, 1, b'z' * 30)])])
    storage.close()
    assert len(list(tmp_path.glob('wal-*'))) > 5
    assert contents(tmp_path)[3] == [entry(i, 1, b'z' * 30) for i in range(1, 41)]
    storage = opened(tmp_path)
    storage.write([Record('', None, [entry(20, 2)])])      # replaces entries of earlier segments
    storage.close()
    assert contents(tmp_path)[3][-2:] == [entry(19, 1, b'z' * 30), entry(20, 2)]


@pytest.mark.parametrize('missing', [1, 2, 3])
def test_a_segment_that_is_gone_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          missing: int) -> None:
    """Also where what it held was replaced later: the votes in it are gone too."""
    monkeypatch.setattr(storage_module, 'SEGMENT_BYTES', 50)
    storage = joined(tmp_path)
    for term in range(2, 8):
        storage.write([Record('', HardState(term, None), [entry(1, term, b'z' * 30)])])
    storage.close()
    assert len(list(tmp_path.glob('wal-*'))) > 4
    wal(tmp_path, missing).unlink()
    with pytest.raises(StorageError, match=f'wal-{missing:08d}'):
        opened(tmp_path)


def test_a_torn_record_before_the_last_segment_is_damage(tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, 'SEGMENT_BYTES', 50)
    storage = joined(tmp_path)
    for index in range(1, 5):
        storage.write([Record('', None, [entry(index)])])
    storage.close()
    wal(tmp_path, 1).write_bytes(wal(tmp_path, 1).read_bytes()[:-1])
    with pytest.raises(StorageError, match='in the middle of a record at offset'):
        opened(tmp_path)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    storage = joined(tmp_path)
    program = ('import sys; from pathlib import Path; from muster.cluster.storage import *\n'
               'try: Storage(Path(sys.argv[1]), "a", lambda: 1)\n'
               'except StorageError as error: print(error)')
    output = subprocess.run([sys.executable, '-c', program, str(tmp_path)], capture_output=True,
                            text=True, timeout=60, check=True).stdout
    assert 'used by another process' in output and str(tmp_path) in output
    storage.close()
    assert contents(tmp_path)[1] == CLUSTER


# Identity ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(('content', 'names'), [
    (b'', 'is damaged'), (b'{', 'is damaged'), (b'[]', 'is damaged'), (b'\xff\xfe', 'is damaged'),
    (b'{"format": 1}', 'is damaged'),
    (b'{"format": 1, "member": "a", "incarnation": "zz", "cluster_id": ""}', 'is damaged'),
    (b'{"format": 1, "member": "a", "incarnation": 7, "cluster_id": ""}', 'is damaged'),
    (b'{"format": 2, "member": "a", "incarnation": "7", "cluster_id": ""}', 'format 2'),
    (b'{"format": 1, "member": "b", "incarnation": "7", "cluster_id": ""}', "member 'b'")])
def test_a_wrong_identity_is_refused(tmp_path: Path, content: bytes, names: str) -> None:
    joined(tmp_path).close()
    (tmp_path / 'identity').write_bytes(content)
    with pytest.raises(StorageError, match=names):
        opened(tmp_path)


def test_the_incarnation_is_drawn_once(tmp_path: Path) -> None:
    first = opened(tmp_path, 1)
    first.close()
    assert contents(tmp_path)[0] == Member('a', 1)


@pytest.mark.parametrize('how', ['deleted', 'emptied', 'torn'])
def test_a_log_that_is_gone_is_missed(tmp_path: Path, how: str) -> None:
    """A member that forgot its votes must not come back as the one who gave them."""
    joined(tmp_path).close()
    if how == 'deleted':
        wal(tmp_path).unlink()
    else:
        wal(tmp_path).write_bytes(wal(tmp_path).read_bytes()[:5 if how == 'torn' else 0])
    with pytest.raises(StorageError, match='is gone'):
        opened(tmp_path)


def test_a_replaced_identity_does_not_delete_the_log(tmp_path: Path) -> None:
    joined(tmp_path).close()
    (tmp_path / 'identity').unlink()
    with pytest.raises(StorageError, match='another incarnation'):
        opened(tmp_path, 8)
    assert wal(tmp_path).exists()


def test_a_log_of_another_cluster_is_refused(tmp_path: Path) -> None:
    joined(tmp_path).close()
    identity = json.loads((tmp_path / 'identity').read_text())
    (tmp_path / 'identity').write_text(json.dumps({**identity, 'cluster_id': 'f' * 16}))
    with pytest.raises(StorageError, match='belongs to another member or cluster'):
        opened(tmp_path)


def test_a_crash_between_any_two_steps_of_joining_leaves_empty_or_joined(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is copied before every system call that changes it, and each copy is opened."""
    directory = tmp_path / 'a'
    storage = opened(directory)
    copies: list[Path] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            copies.append(tmp_path / f'copy{len(copies)}')
            shutil.copytree(directory, copies[-1])
            return function(*arguments, **named)
        return call
    for name in ('open', 'write', 'fsync', 'fdatasync'):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    monkeypatch.setattr(Path, 'rename', watched(Path.rename))
    storage.write([Record(CLUSTER, HardState(1, None), [entry(1)])])
    monkeypatch.undo()
    storage.close()
    assert len(copies) > 8
    seen = []
    for copy in copies:
        state = contents(copy)
        seen.append(state[1:])
        assert contents(copy) == state       # opening it again changes nothing
        assert state[0] == Member('a', 7)
    assert seen[0] == ('', BLANK, []) and seen[-1] == (CLUSTER, HardState(1, None), [entry(1)])
    # A founder that knew its cluster and not the first entry of it would wait for ever.
    assert all(state in (seen[0], seen[-1]) for state in seen)


# Disks that refuse ------------------------------------------------------------------------------
def test_a_full_disk_leaves_the_log_readable(tmp_path: Path) -> None:
    """The limit of the file size refuses a write half-way, as a full disk does."""
    storage = joined(tmp_path)
    storage.write([Record('', None, [entry(1)])])
    size = wal(tmp_path).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))      # Python ignores SIGXFSZ
    try:
        with pytest.raises(OSError):
            storage.write([Record('', None, [entry(2, 1, b'y' * 500)])])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert wal(tmp_path).stat().st_size == size
    storage.write([Record('', None, [entry(2)])])
    storage.close()
    assert contents(tmp_path)[3] == [entry(1), entry(2)]


def test_a_failed_sync_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = joined(tmp_path)

    def refuse(_: int) -> None:
        raise OSError(5, 'Input/output error')
    monkeypatch.setattr(os, 'fdatasync', refuse)
    with pytest.raises(SyncFailed, match='Input/output error'):
        storage.write([Record('', None, [entry(1)])])
    storage.close()


def test_the_writer_syncs_what_waits_at_once_and_stops_at_an_error(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    storage = joined(tmp_path)
    batches: list[tuple[list[object], Exception | None]] = []
    reported = threading.Semaphore(0)

    def done(tags: list[object], error: Exception | None) -> None:
        batches.append((tags, error))
        reported.release()
    writer = Writer(storage, done)
    for index in range(1, 21):
        writer.submit(Record('', None, [entry(index)]), index)
    while sum(len(tags) for tags, _ in batches) < 20:
        assert reported.acquire(timeout=20)
    assert [tag for tags, _ in batches for tag in tags] == list(range(1, 21))

    def refuse(*_: Any) -> int:
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'write', refuse)
    writer.submit(Record('', None, [entry(21)]), 21)
    assert reported.acquire(timeout=20)
    assert batches[-1][0] == [] and isinstance(batches[-1][1], OSError)
    monkeypatch.undo()
    writer.submit(Record('', None, [entry(21)]), 22)
    writer.close()
    storage.close()
    assert len(contents(tmp_path)[3]) == 20      # nothing was written after the error
