# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Files that a crash at any moment leaves either as they were or as they should be."""
from __future__ import annotations

from collections.abc import Iterable
import os
from pathlib import Path


def write_durably(path: Path, parts: Iterable[bytes]) -> None:
    """
    Replace a file: written aside, synced, renamed, the folder synced; readable by its owner only.

    Raises OSError; the old file is then untouched and nothing is left aside.
    """
    _make_folder(path.parent)
    aside = path.with_name(f'.{path.name}.partial')
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            os.fchmod(file.fileno(), 0o600)  # also where an interrupted write left the file
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, their names durable; new ones belong to the owner alone."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make renamed and removed names of a folder durable; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
