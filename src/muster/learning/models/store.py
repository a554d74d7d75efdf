# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The models of one robot on disk.

    index.json      the manifests of all versions: one file, so that every change is all or nothing
    v000007.npz     the file of version 7 (checkpoint.py), its manifest inside too
    trained.npz     any model file put here by hand is loaded by its name (also .json, and .model of 0.1)

A save writes the model's file aside, syncs and renames it, then does the same with the index: killed at
any moment it leaves the old state, or the new version. An index that was lost is made anew from the model
files, without evaluations and roles. Processes take turns by a lock on `.lock`.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, UTC
import fcntl
import hashlib
import json
import os
from pathlib import Path
import re
import time
from typing import Any

from muster.durable import make_folder, PARTIAL, read_bounded, sync_folder, write_durably
from muster.learning.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from muster.learning.models.errors import ModelError, ModelFileError, ModelNotFoundError
from muster.learning.models.versions import (
    checked_metrics, described, Index, NAME, Policy, Verdict, Version)

INDEX = 'index.json'
#: Files that are loaded by their name, in this order.
SUFFIXES = ('.npz', '.json', '.model')
MAXIMUM_INDEX = 64 * 2**20
#: Seconds that another process may hold the store.
PATIENCE = 10.0
_FILE = re.compile(r'v([0-9]{6,18})\.npz')


class ModelStore:
    """
    Versions of models in a folder; every error is a ModelError that names the file.

    Blocks on the disk. Models are selected by number, by name (the newest of that name), as 'latest' or
    as 'champion'.
    """

    def __init__(self, folder: Path, policy: Policy | None = None) -> None:
        """Use `folder`; it is made when something is saved."""
        self.folder = folder
        self.policy = policy or Policy()

    def path(self, version: Version) -> Path:
        """Return the file of a version."""
        return self.folder / f'v{version.number:06}.npz'

    def versions(self) -> list[Version]:
        """Return all versions, oldest first."""
        with self._reading() as index:
            return index.versions

    def find(self, selector: int | str) -> Version:
        """Return the manifest of a version; ModelNotFoundError."""
        with self._reading() as index:
            return index.find(selector)

    def load(self, selector: int | str) -> Checkpoint:
        """Read a model, checked against its manifest."""
        with self._reading() as index:
            try:
                version = index.find(selector)
            except ModelNotFoundError as error:
                return self._load_by_hand(str(selector), error)
            return self._load(self.path(version), version.sha256)

    def _load_by_hand(self, name: str, error: ModelNotFoundError) -> Checkpoint:
        if not NAME.fullmatch(name):
            raise ModelError(f'{name[:80]!r} is not a model name: use 1..64 letters, digits, _ and -')
        for path in (self.folder / f'{name}{suffix}' for suffix in SUFFIXES):
            if path.name != INDEX and os.path.lexists(path):
                return self._load(path, None)
        raise ModelNotFoundError(f'{self.folder}: {error}') from error

    def _load(self, path: Path, sha256: str | None) -> Checkpoint:
        try:
            return load_checkpoint(path, sha256, follow=False)
        except CheckpointError as error:
            raise ModelFileError(str(error)) from error

    def save(self, checkpoint: Checkpoint, metrics: dict[str, float] | None = None, name: str = '',
             parent: int | None = None) -> Version:
        """
        Write a new version durably and return its manifest; older ones go as the policy says.

        `parent`: the version it was trained on from. Where it fails, everything is as it was.
        """
        try:
            manifest: dict[str, Any] = {
                'name': name, 'parent': parent, 'metrics': checked_metrics(metrics or {}),
                'created': datetime.now(UTC).isoformat(timespec='seconds')}
        except ValueError as error:
            raise ModelError(f'the model was not saved: {error}') from error
        with self._changing() as index:
            index.check_name(name)
            number = index.next
            path = self.folder / f'v{number:06}.npz'
            saved = Checkpoint({**checkpoint.document, 'manifest': manifest}, checkpoint.arrays)
            try:
                version = described(number, saved.document, save_checkpoint(path, saved),
                                    path.stat().st_size)
                index.add(version)
                removed = index.trim()
                self._write(index)
            except BaseException as error:
                path.unlink(missing_ok=True)
                if isinstance(error, CheckpointError):
                    raise ModelFileError(str(error)) from error
                raise
            self._unlink(removed)
            return version

    def evaluate(self, selector: int | str, returns: Sequence[float]) -> Version:
        """Record the returns of evaluation episodes (without exploration) and return the manifest."""
        with self._changing() as index:
            version = index.evaluate(selector, returns)
            self._write(index)
            return version

    def promote(self, selector: int | str) -> Verdict:
        """Make a version champion if it is surely better (`Index.promote`), and say why or why not."""
        with self._changing() as index:
            verdict = index.promote(selector)
            if verdict.promoted:
                removed = index.trim()
                self._write(index)
                self._unlink(removed)
            return verdict

    def rollback(self) -> Version:
        """Reject the champion and return its predecessor, which is champion again."""
        with self._changing() as index:
            champion = index.rollback()
            self._write(index)
            return champion

    def remove(self, selector: int | str) -> Version:
        """Remove a version that is not the champion."""
        with self._changing() as index:
            version = index.remove(selector)
            self._write(index)
            self._unlink([version])
            return version

    # The folder -------------------------------------------------------------------------------
    @contextmanager
    def _reading(self) -> Iterator[Index]:
        if not self.folder.is_dir():
            yield Index(self.policy)
            return
        with self._lock(os.O_RDONLY, fcntl.LOCK_SH):
            yield self._read()

    @contextmanager
    def _changing(self) -> Iterator[Index]:
        try:
            make_folder(self.folder)
            with self._lock(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX):
                index = self._read()
                self._clean(index)
                yield index
        except OSError as error:
            raise ModelFileError(f'{self.folder}: could not be changed: {error.strerror or error}') from error

    @contextmanager
    def _lock(self, flags: int, kind: int) -> Iterator[None]:
        """Hold the store; where a reader finds no lock yet, nobody has written, and it goes on."""
        path = self.folder / '.lock'
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except FileNotFoundError:
            yield
            return
        except OSError as error:
            raise ModelFileError(f'{path}: cannot be opened: {error.strerror}') from error
        try:
            given_up = time.monotonic() + PATIENCE
            while not _locked(descriptor, kind):
                if time.monotonic() > given_up:
                    raise ModelFileError(f'{self.folder}: is in use by another process: repeat later')
                time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> Index:
        path = self.folder / INDEX
        try:
            content = read_bounded(path, MAXIMUM_INDEX, follow=False)
            return Index.restored(json.loads(content), self.policy)
        except FileNotFoundError:
            return self._recovered(Index(self.policy))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ModelFileError(f'{path}: is damaged: {error}. Restore it from a copy, or remove it: it is '
                                 'made anew from the model files, without evaluations and roles') from error
        except OSError as error:
            raise ModelFileError(f'{path}: cannot be read: {error.strerror}') from error

    def _recovered(self, index: Index) -> Index:
        """Add the model files that are newer than the index: it was lost, or not yet written."""
        for number, path in self._files():
            if number >= index.next:
                checkpoint = self._load(path, None)
                content = path.read_bytes()
                index.add(described(number, checkpoint.document, hashlib.sha256(content).hexdigest(),
                                    len(content)))
        return index

    def _files(self) -> list[tuple[int, Path]]:
        found = ((_FILE.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(match[1]), path) for match, path in found if match)

    def _clean(self, index: Index) -> None:
        """Finish what was interrupted: remove what was written aside and what retention took out."""
        for path in self.folder.glob(f'.*{PARTIAL}'):
            path.unlink()
        before = index.next
        if self._recovered(index).next != before:
            removed = index.trim()
            self._write(index)
            self._unlink(removed)
        known = {version.number for version in index.versions}
        for number, path in self._files():
            if number not in known and number < index.next:
                path.unlink()

    def _write(self, index: Index) -> None:
        text = json.dumps(index.export(), indent=1)
        try:
            write_durably(self.folder / INDEX, [text.encode()])
        except OSError as error:
            raise ModelFileError(f'{self.folder / INDEX}: could not be written, everything is as it was: '
                                 f'{error.strerror}') from error

    def _unlink(self, removed: list[Version]) -> None:
        for version in removed:
            self.path(version).unlink(missing_ok=True)
        if removed:
            sync_folder(self.folder)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
