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
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import BLANK, Entry, HardState, Kind, Member, Snapshot
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


class Written:
    """A writer, and what it reported."""

    def __init__(self, storage: Storage) -> None:
        """Start it."""
        self.batches: list[tuple[list[object], Exception | None]] = []
        self.disk: list[OSError | None] = []
        self._reported = threading.Semaphore(0)
        self.writer = Writer(storage, self._done, self._stalled)

    def _done(self, tags: list[object], error: Exception | None) -> None:
        self.batches.append((tags, error))
        self._reported.release()

    def _stalled(self, error: OSError | None) -> None:
        self.disk.append(error)
        self._reported.release()

    @property
    def tags(self) -> list[object]:
        """Return what is durable."""
        return [tag for tags, _ in self.batches for tag in tags]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until what was reported meets a condition."""
        while not condition():
            assert self._reported.acquire(timeout=20)


def test_the_writer_syncs_what_waits_at_once_and_waits_for_a_full_disk(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = joined(tmp_path)
    written = Written(storage)
    for index in range(1, 21):
        written.writer.submit(Record('', None, [entry(index)]), index)
    written.wait(lambda: len(written.tags) == 20)
    assert written.tags == list(range(1, 21)) and not written.disk

    def refuse(*_: Any) -> int:
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'write', refuse)
    written.writer.submit(Record('', None, [entry(21)]), 21)
    written.wait(lambda: len(written.disk) == 1)
    written.writer.submit(Record('', None, [entry(22)]), 22)
    assert len(written.tags) == 20               # what waits is not acknowledged
    monkeypatch.undo()
    written.wait(lambda: len(written.tags) == 22)
    assert isinstance(written.disk[0], OSError) and written.disk[1:] == [None]
    written.writer.close()
    storage.close()
    assert len(contents(tmp_path)[3]) == 22


def test_the_writer_can_be_closed_while_the_disk_is_full(tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    storage = joined(tmp_path)
    written = Written(storage)

    def refuse(*_: Any) -> int:
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'write', refuse)
    written.writer.submit(Record('', None, [entry(1)]), 1)
    written.wait(lambda: len(written.disk) == 1)
    written.writer.close()
    monkeypatch.undo()
    storage.close()
    assert written.tags == [] and contents(tmp_path)[3] == []


def test_the_writer_ends_at_a_failed_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = joined(tmp_path)
    written = Written(storage)

    def refuse(_: int) -> None:
        raise OSError(5, 'Input/output error')
    monkeypatch.setattr(os, 'fdatasync', refuse)
    written.writer.submit(Record('', None, [entry(1)]), 1)
    written.wait(lambda: len(written.batches) == 1)
    assert written.batches[0][0] == [] and isinstance(written.batches[0][1], SyncFailed)
    monkeypatch.undo()
    written.writer.submit(Record('', None, [entry(1)]), 2)
    written.writer.close()
    storage.close()
    assert written.tags == []                    # nothing is written after it


# Snapshots --------------------------------------------------------------------------------------
VOTERS = Configuration(frozenset({Member('a', 7)})).encode()
STATE = bytes(range(256)) * 300


def with_snapshot(directory: Path, last: int = 9, base: int = 6) -> tuple[Storage, Record]:
    """Return a directory whose log was compacted up to `base`, and the record that did it."""
    storage = joined(directory)
    entries = [entry(i) for i in range(1, last + 1)]
    storage.write([Record('', HardState(4, Member('a', 7)), entries)])
    record = Record('', HardState(4, Member('a', 7)), [], Snapshot(base, 1, VOTERS, STATE), entries[base:])
    storage.write([record])
    return storage, record


def test_a_snapshot_stands_for_the_log_before_it(tmp_path: Path) -> None:
    storage, record = with_snapshot(tmp_path)
    storage.write([Record('', None, [entry(10)])])
    storage.close()
    again = opened(tmp_path)
    again.close()
    assert again.snapshot == record.snapshot and again.hard_state == HardState(4, Member('a', 7))
    assert again.entries == [entry(i) for i in (7, 8, 9, 10)]
    assert not wal(tmp_path).exists() and wal(tmp_path, 2).exists()


def test_a_later_snapshot_replaces_an_earlier_one(tmp_path: Path) -> None:
    storage, _ = with_snapshot(tmp_path)
    storage.write([Record('', HardState(5, None), [entry(10)], Snapshot(8, 1, VOTERS, b'later'), [entry(9)])])
    storage.close()
    again = opened(tmp_path)
    again.close()
    assert again.snapshot == Snapshot(8, 1, VOTERS, b'later') and again.entries == [entry(9), entry(10)]
    assert len(list(tmp_path.glob('snapshot-*'))) == 1


def test_a_snapshot_replaces_a_log_that_does_not_lead_to_it(tmp_path: Path) -> None:
    """A follower takes over the leader's state; its own entries were never committed."""
    storage = joined(tmp_path)
    storage.write([Record('', HardState(2, None), [entry(i) for i in range(1, 30)])])
    storage.write([Record('', HardState(3, None), [], Snapshot(20, 3, VOTERS, STATE), [])])
    storage.write([Record('', None, [entry(21, 3)])])
    storage.close()
    assert contents(tmp_path)[3] == [entry(21, 3)]


def test_a_crash_at_any_step_of_a_snapshot_leaves_the_old_log_or_the_new(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each call that changes the disk the process dies; what is there must be whole."""
    for replaces in (False, True):
        outcomes = set()
        for step in range(40):
            folder = tmp_path / f'{replaces}-{step}'
            storage = joined(folder)
            entries = [entry(i) for i in range(1, 10)]
            storage.write([Record('', HardState(2, None), entries)])
            term, tail = (3, []) if replaces else (1, entries[6:])
            record = Record('', HardState(3, None), [], Snapshot(6, term, VOTERS, STATE), tail)
            died = dies_at(step, monkeypatch, lambda s=storage, r=record: s.write([r]))
            storage.close()
            again = opened(folder)
            again.close()
            outcomes.add(again.snapshot is not None)
            if again.snapshot is None:
                assert again.hard_state == HardState(2, None) and again.entries == entries
            else:
                assert again.snapshot == record.snapshot and again.entries == tail
                assert again.hard_state.term in (2, 3)
            if not died:
                break
        assert not died and outcomes == {False, True}


class Died(BaseException):
    """The process ends here."""


def dies_at(step: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> bool:
    """Do some work until its n-th call that changes the disk; return whether it came so far."""
    count = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count > step:
                raise Died
            return call(*arguments)
        return wrapper
    with monkeypatch.context() as patch:
        patch.setattr(os, 'write', counted(os.write))
        patch.setattr(os, 'open', counted(os.open))
        patch.setattr(Path, 'rename', counted(Path.rename))
        patch.setattr(Path, 'unlink', counted(Path.unlink))
        try:
            work()
        except Died:
            return True
    return False


def test_a_full_disk_in_a_snapshot_can_be_tried_again(tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(40):
        storage = joined(tmp_path / str(step))
        entries = [entry(i) for i in range(1, 10)]
        storage.write([Record('', HardState(2, None), entries)])
        record = Record('', HardState(3, None), [], Snapshot(6, 1, VOTERS, STATE), entries[6:])
        count = 0

        def full(call: Callable[..., Any], step: int = step) -> Callable[..., Any]:
            def wrapper(*arguments: Any) -> Any:
                nonlocal count
                count += 1
                if count > step:
                    raise OSError(28, 'No space left on device')
                return call(*arguments)
            return wrapper
        with monkeypatch.context() as patch:
            patch.setattr(os, 'write', full(os.write))
            patch.setattr(os, 'open', full(os.open))
            try:
                storage.write([record])
                done = True
            except OSError:
                done = False
        storage.write([record, Record('', None, [entry(10)])])
        storage.close()
        again = opened(tmp_path / str(step))
        again.close()
        assert again.snapshot == record.snapshot and again.hard_state == HardState(3, None)
        assert again.entries == [*entries[6:], entry(10)]
        if done:
            return
    raise AssertionError('the disk was full at every step')


@pytest.mark.parametrize('damage', ['cut', 'flip the head', 'flip the data', 'of another member'])
def test_a_damaged_snapshot_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    storage, _ = with_snapshot(tmp_path)
    storage.close()
    path = next(tmp_path.glob('snapshot-*'))
    data = bytearray(path.read_bytes())
    if damage == 'cut':
        del data[-5:]
    elif damage == 'of another member':
        other, _ = with_snapshot(tmp_path / 'other')
        other.close()
        (tmp_path / 'identity').write_bytes(
            (tmp_path / 'identity').read_bytes().replace(b'"incarnation": "7"', b'"incarnation": "8"'))
    else:
        data[12 if damage == 'flip the head' else -12] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=path.name):
        opened(tmp_path)


def test_a_log_that_does_not_reach_its_snapshot_is_refused(tmp_path: Path) -> None:
    storage, _ = with_snapshot(tmp_path)
    storage.close()
    next(tmp_path.glob('snapshot-*')).unlink()
    with pytest.raises(StorageError, match=r'is gone|lacks entries'):
        opened(tmp_path)
