# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The file of a model: one JSON document and named arrays; nothing in it can be executed.

The native format is NumPy's `.npz`, read without pickle: a zip archive of stored (not compressed, so
that nothing can expand) members `model.json` and `<array>.npy`, whose comment ends in the SHA-256 of the
whole file with 64 zeros in its own place. `np.load(file, allow_pickle=False)` and `unzip` open it too.
A path that ends in `.json` is written as JSON (`portable.py`), for people and other programs. Files of
version 1, a header line before raw arrays, are still read.
"""
from __future__ import annotations

from dataclasses import dataclass, field
import hashlib
import io
import json
import math
import os
from pathlib import Path
import re
from typing import Any, BinaryIO
import zipfile

from muster.durable import read_bounded, replacing
from muster.learning.portable import from_json, NAME, to_json, TYPES
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

VERSION = 2
MAXIMUM_BYTES = 512 * 1024 * 1024
#: A JSON text takes up to some twenty times its length in memory.
MAXIMUM_DOCUMENT = 128 * 1024 * 1024
MAXIMUM_ARRAYS = 1024
#: The table of contents of the archive; 1024 entries with names of 128 characters take 200 KiB.
MAXIMUM_DIRECTORY = 512 * 1024
DOCUMENT = 'model.json'
_COMMENT = b'muster-model %d sha256 ' % VERSION
_BLANK = b'0' * 64
_MAGIC_1 = b'muster-checkpoint '
_HEADER = re.compile(rb"\{'descr': '([<|][biuf][1248])', 'fortran_order': False, "
                     rb"'shape': \(((?:\d{1,18}(?:, ?|(?=\))))*)\), \} *\n")
_STORED_AT = (1980, 1, 1, 0, 0, 0)  # equal content makes equal files


class CheckpointError(Exception):
    """A model file that cannot be read or written; the message names it and says why."""


@dataclass(frozen=True)
class Checkpoint:
    """What a model file holds: a JSON document and named arrays."""

    document: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


# Writing --------------------------------------------------------------------------------------
def save_checkpoint(path: Path, checkpoint: Checkpoint) -> str:
    """
    Write a model file durably; return its SHA-256 in hexadecimal.

    Raises CheckpointError and leaves an old file as it was.
    """
    size = sum(array.nbytes for array in checkpoint.arrays.values())
    if size > MAXIMUM_BYTES or len(checkpoint.arrays) > MAXIMUM_ARRAYS:
        raise CheckpointError(f'{path}: the model is larger than {MAXIMUM_BYTES} bytes or {MAXIMUM_ARRAYS} '
                              'arrays and was not saved')
    write = _write_json if path.suffix == '.json' else _write_npz
    try:
        with replacing(path) as file:
            checksum = write(file, checkpoint)
            if file.seek(0, io.SEEK_END) > MAXIMUM_BYTES:
                raise CheckpointError(f'{path}: the model is larger than {MAXIMUM_BYTES} bytes and was not '
                                      'saved')
    except OSError as error:
        raise CheckpointError(f'{path}: could not be written, the old file is unchanged: '
                              f'{error.strerror or error}') from error
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f'{path}: the model cannot be stored: {error}') from error
    return checksum


def _write_json(file: BinaryIO, checkpoint: Checkpoint) -> str:
    text = to_json(checkpoint.document, checkpoint.arrays).encode()
    if len(text) > MAXIMUM_DOCUMENT:
        raise ValueError(f'it makes more than {MAXIMUM_DOCUMENT} bytes of JSON: save it as .npz')
    file.write(text)
    return hashlib.sha256(text).hexdigest()


def _write_npz(file: BinaryIO, checkpoint: Checkpoint) -> str:
    text = json.dumps(checkpoint.document, separators=(',', ':'))
    if len(text) > MAXIMUM_DOCUMENT:  # JSON is ASCII here
        raise ValueError(f'its document is longer than {MAXIMUM_DOCUMENT} bytes')
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
        archive.comment = _COMMENT + _BLANK
        archive.writestr(zipfile.ZipInfo(DOCUMENT, _STORED_AT), text)
        for name, array in checkpoint.arrays.items():
            if not NAME.fullmatch(name) or array.dtype.name not in TYPES:
                raise ValueError(f'array {name!r} has an unknown type ({array.dtype}) or a bad name')
            little = np.ascontiguousarray(array, array.dtype.newbyteorder('<')).reshape(array.shape)
            with archive.open(zipfile.ZipInfo(f'{name}.npy', _STORED_AT), 'w') as member:
                npy.write_array(member, little, version=(1, 0), allow_pickle=False)
    file.seek(0)
    inner, outer = _checksums(file)
    file.seek(-len(_BLANK), io.SEEK_END)
    file.write(inner.encode())
    return outer


def _checksums(file: BinaryIO) -> tuple[str, str]:
    """Return the SHA-256 with zeros in its own place, which the file ends in, and the one of the file."""
    checksum, rest = hashlib.sha256(), os.fstat(file.fileno()).st_size - len(_BLANK)
    while rest:
        block = file.read(min(rest, 1 << 20))
        checksum.update(block)
        rest -= len(block)
    return _finish(checksum)


def _finish(checksum: Any) -> tuple[str, str]:
    whole = checksum.copy()
    checksum.update(_BLANK)
    inner = checksum.hexdigest()
    whole.update(inner.encode())
    return inner, whole.hexdigest()


# Reading --------------------------------------------------------------------------------------
def load_checkpoint(path: Path, sha256: str | None = None, follow: bool = True) -> Checkpoint:
    """
    Read a model file of at most 512 MiB; raises CheckpointError on anything unsound.

    With `sha256`, it must be the very file of that checksum. Unless `follow`, the path must not be a
    symbolic link.
    """
    try:
        content = read_bounded(path, MAXIMUM_BYTES, follow)
        if content.startswith(_MAGIC_1):
            checkpoint, found = _version_1(content), ''
        elif content[:1] == b'{':
            if len(content) > MAXIMUM_DOCUMENT:
                raise ValueError(f'is longer than {MAXIMUM_DOCUMENT} bytes of JSON')
            checkpoint, found = Checkpoint(*from_json(content)), ''
        elif content.startswith(b'PK'):
            checkpoint, found = _version_2(content)
        else:
            raise ValueError('is not a Muster model file')
    except OSError as error:
        link = ' (a symbolic link, which is not followed here)' if path.is_symlink() else ''
        raise CheckpointError(f'{path}: cannot be read: {error.strerror}{link}') from error
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError, RuntimeError, EOFError,
            zipfile.BadZipFile) as error:  # RuntimeError: encrypted, nested too deeply, not implemented
        raise CheckpointError(f'{path}: {error}') from error
    if sha256 is not None and sha256 != (found or hashlib.sha256(content).hexdigest()):
        raise CheckpointError(f'{path}: is not the file that was saved (another checksum): restore it from '
                              'a copy')
    return checkpoint


def _version_2(content: bytes) -> tuple[Checkpoint, str]:
    """Read the archive; return the model and the file's SHA-256."""
    tail = len(_COMMENT) + len(_BLANK)
    end = content[-22 - tail:-tail]  # the record that ends a zip archive, before its comment
    if end[:4] != b'PK\5\6' or not re.fullmatch(rb'muster-model \d+ sha256 [0-9a-f]{64}', content[-tail:]):
        raise ValueError('is not a Muster model file, or is incomplete: restore it from a copy')
    if not content[-tail:].startswith(_COMMENT):
        version = content[-tail:].split()[1].decode()
        raise ValueError(f'has format version {version}, this Muster reads up to version {VERSION}')
    inner, outer = _finish(hashlib.sha256(memoryview(content)[:-len(_BLANK)]))
    if content[-len(_BLANK):] != inner.encode():
        raise ValueError('is damaged (wrong checksum): restore it from a copy')
    # A checksum proves no good will: everything is bounded before it is believed.
    directory = int.from_bytes(end[12:16], 'little')
    if directory > MAXIMUM_DIRECTORY or b'PK\6\7' in content[-42 - tail:-22 - tail]:
        raise ValueError('has too long a table of contents')
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if len(members) > MAXIMUM_ARRAYS + 1 or len({m.filename for m in members}) != len(members):
            raise ValueError(f'has more than {MAXIMUM_ARRAYS} arrays, or two of one name')
        if any(m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members) \
                or sum(m.file_size for m in members) > len(content):
            raise ValueError('has compressed or overlapping members: only stored ones are read')
        if archive.getinfo(DOCUMENT).file_size > MAXIMUM_DOCUMENT:
            raise ValueError(f'has a document longer than {MAXIMUM_DOCUMENT} bytes')
        document = json.loads(archive.read(DOCUMENT))
        arrays = {member.filename.removesuffix('.npy'): _array(member.filename, archive.read(member))
                  for member in members if member.filename != DOCUMENT}
    if not isinstance(document, dict):
        raise ValueError('its content is unsound: the document is not a mapping')
    return Checkpoint(document, arrays), outer


def _array(name: str, content: bytes) -> NDArray[Any]:
    """
    Read one `.npy` member (NEP 1, version 1.0), whose length its header must tell exactly.

    The header is a Python literal; it is matched, not evaluated.
    """
    size = 10 + int.from_bytes(content[8:10], 'little')
    header = _HEADER.fullmatch(content[10:size])
    if not name.endswith('.npy') or not NAME.fullmatch(name.removesuffix('.npy')) \
            or content[:8] != b'\x93NUMPY\1\0' or header is None:
        raise ValueError(f'its content is unsound: member {name[:80]!r} is no plain array')
    dtype, shape = np.dtype(header[1].decode()), tuple(int(n) for n in re.findall(rb'\d+', header[2]))
    if dtype.name not in TYPES or len(shape) > 8 or math.prod(shape) * dtype.itemsize != len(content) - size:
        raise ValueError(f"its content is unsound: array '{name}' has an unknown type, or is not as long as "
                         f'its shape {shape} says')
    return np.frombuffer(content, dtype, math.prod(shape), size).reshape(shape).copy()


def _version_1(content: bytes) -> Checkpoint:
    """Read `magic 1`, SHA-256, a JSON header and the raw arrays (Muster 0.1)."""
    first, _, rest = content.partition(b'\n')
    if first != _MAGIC_1 + b'1':
        version = first[len(_MAGIC_1):][:20].decode(errors='replace')
        raise ValueError(f'has format version {version}, this Muster reads up to version {VERSION}')
    checksum, _, body = rest.partition(b'\n')
    if checksum != hashlib.sha256(body).hexdigest().encode():
        raise ValueError('is damaged or incomplete (wrong checksum): restore it from a copy')
    header, _, data = body.partition(b'\n')
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    described = json.loads(header)
    for name, kind, shape in described['arrays']:
        if kind not in TYPES or not isinstance(name, str) or len(shape) > 8 \
                or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f'its content is unsound: array {name!r} has an unknown type or shape')
        count, size = math.prod(shape), np.dtype(kind).itemsize
        if count * size > len(data) - offset:
            raise ValueError(f"its content is unsound: array '{name}' is longer than the file")
        values = np.frombuffer(data, np.dtype(kind).newbyteorder('<'), count, offset)
        arrays[name] = values.astype(kind).reshape(shape)
        offset += count * size
    if offset != len(data) or not isinstance(described['document'], dict):
        raise ValueError('its content is unsound: longer than its arrays, or the document is no mapping')
    return Checkpoint(described['document'], arrays)
