# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Files that a crash at any moment leaves either as they were or as they should be."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import stat
from typing import BinaryIO

#: What is written aside is named `.<name>.partial`; one found later was interrupted.
PARTIAL = '.partial'


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """
    Replace a file: written aside, synced, renamed, the folder synced; readable by its owner only.

    Yields the new file, empty, for writing and reading. When the block raises, or with OSError, the
    old file is untouched and nothing is left aside.
    """
    make_folder(path.parent)
    aside = path.with_name(f'.{path.name}{PARTIAL}')
    descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, 'w+b') as file:
            os.fchmod(file.fileno(), 0o600)  # also where an interrupted write left the file
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_durably(path: Path, parts: Iterable[bytes]) -> None:
    """Replace a file with these bytes, as `replacing` does; raises OSError."""
    with replacing(path) as file:
        file.writelines(parts)


def read_bounded(path: Path, maximum: int, follow: bool = True) -> bytes:
    """
    Read a regular file of at most `maximum` bytes; raises OSError, or ValueError on anything else.

    Unless `follow`, the path must not be a symbolic link.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    # Not blocking: opening a named pipe would wait for a writer for ever.
    with open(os.open(path, flags | os.O_NONBLOCK), 'rb') as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError('is not a regular file')
        if status.st_size > maximum:
            raise ValueError(f'is larger than {maximum} bytes')
        return file.read(maximum)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, their names durable; new ones belong to the owner alone."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make renamed and removed names of a folder durable; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
