# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The file of a model: plain JSON and raw arrays behind a checksum; nothing in it can be executed.

    muster-checkpoint 1
    <SHA-256 of all that follows, hexadecimal>
    {"document": {...}, "arrays": [["name", "float64", [rows, columns]], ...]}
    <the arrays' bytes, little-endian, in that order>
"""
from __future__ import annotations

from dataclasses import dataclass, field
import hashlib
import json
import math
import os
from pathlib import Path
import stat
from typing import Any

from muster.learning.durable import write_durably
import numpy as np
from numpy.typing import NDArray

MAGIC = b'muster-checkpoint '
VERSION = 1
MAXIMUM_BYTES = 256 * 1024 * 1024
_TYPES = ('bool', 'uint8', 'int32', 'int64', 'float32', 'float64')


class CheckpointError(Exception):
    """A model file that cannot be read or written; the message names it and says why."""


@dataclass(frozen=True)
class Checkpoint:
    """What a model file holds: a JSON document and named arrays."""

    document: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a model file durably; raises CheckpointError and leaves the old file as it was."""
    arrays = [(name, np.ascontiguousarray(array)) for name, array in checkpoint.arrays.items()]
    header = json.dumps({'document': checkpoint.document, 'arrays': [
        [name, array.dtype.name, list(array.shape)] for name, array in arrays]}, separators=(',', ':'))
    parts = [header.encode() + b'\n']
    parts += [array.astype(array.dtype.newbyteorder('<'), copy=False).tobytes() for _, array in arrays]
    if sum(map(len, parts)) > MAXIMUM_BYTES:
        raise CheckpointError(f'{path}: the model is larger than {MAXIMUM_BYTES} bytes and was not saved')
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    try:
        write_durably(path, [MAGIC + b'%d\n' % VERSION, checksum.hexdigest().encode() + b'\n', *parts])
    except OSError as error:
        raise CheckpointError(f'{path}: could not be written, the old file is unchanged: '
                              f'{error.strerror}') from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a model file of at most 256 MiB; raises CheckpointError on anything unsound."""
    content = _read(path)
    first, _, rest = content.partition(b'\n')
    if not first.startswith(MAGIC):
        raise CheckpointError(f'{path}: is not a Muster model file')
    if first != MAGIC + b'%d' % VERSION:
        version = first[len(MAGIC):][:20].decode(errors='replace')
        raise CheckpointError(f'{path}: has format version {version}, this Muster reads version {VERSION}')
    checksum, _, body = rest.partition(b'\n')
    if checksum != hashlib.sha256(body).hexdigest().encode():
        raise CheckpointError(f'{path}: is damaged or incomplete (wrong checksum): restore it from a copy')
    header, _, data = body.partition(b'\n')
    try:
        described = json.loads(header)
        document = described['document']
        if not isinstance(document, dict):
            raise ValueError('the document is not a mapping')
        return Checkpoint(document, _arrays(described['arrays'], data))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f'{path}: its content is unsound: {error}') from error


def _read(path: Path) -> bytes:
    try:
        # Not blocking: opening a named pipe would wait for a writer for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), 'rb') as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f'{path}: is not a regular file')
            if status.st_size > MAXIMUM_BYTES + 4096:
                raise CheckpointError(f'{path}: is larger than {MAXIMUM_BYTES} bytes')
            return file.read(MAXIMUM_BYTES + 4096)
    except OSError as error:
        raise CheckpointError(f'{path}: cannot be read: {error.strerror}') from error


def _arrays(descriptions: Any, data: bytes) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, kind, shape in descriptions:
        if kind not in _TYPES or not isinstance(name, str) or len(shape) > 8 \
                or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f'array {name!r} has an unknown type or shape')
        count, size = math.prod(shape), np.dtype(kind).itemsize
        if count * size > len(data) - offset:
            raise ValueError(f"array '{name}' is longer than the file")
        values = np.frombuffer(data, np.dtype(kind).newbyteorder('<'), count, offset)
        arrays[name] = values.astype(kind).reshape(shape)
        offset += count * size
    if offset != len(data):
        raise ValueError('the file is longer than its arrays')
    return arrays
