# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
A model as JSON text, for people and for programs without NumPy.

    {"format": "muster-model", "version": 2, "sha256": "…", "document": {…},
     "arrays": {"values": {"type": "float64", "shape": [2, 3], "values": [0.5, …]}}}

Values are flat in C order and exact: the shortest decimals that read back as the same bits. What JSON
has no number for is text: "nan", "inf", "-inf". `sha256` is the one of the canonical text (sorted keys,
no spaces) of document and arrays; remove the key to load a file that was changed by hand.
"""
from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT, VERSION = 'muster-model', 2
_KEYS = {'format', 'version', 'sha256', 'document', 'arrays'}
#: The types of arrays, and their names: segments of letters, digits, '_', '.', '-', joined by '/'.
TYPES = ('bool', 'uint8', 'int8', 'int32', 'int64', 'float32', 'float64')
NAME = re.compile(r'(?=.{1,128}\Z)[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*')


def to_json(document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    """Return a model as text; raises ValueError or TypeError on what cannot be stored."""
    described = {name: _described(name, array) for name, array in arrays.items()}
    return json.dumps({'format': FORMAT, 'version': VERSION, 'sha256': _checksum(document, described),
                       'document': document, 'arrays': described})


def from_json(text: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return document and arrays of `to_json`; raises ValueError, TypeError or KeyError."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'is not sound JSON, or is incomplete: {error}') from error
    if content.get('format') != FORMAT:
        raise ValueError('is not a Muster model file')
    if content['version'] != VERSION:
        raise ValueError(f"has format version {content['version']!r}, this Muster reads version {VERSION}")
    document, described = content['document'], content['arrays']
    if not isinstance(document, dict) or not isinstance(described, dict) or not set(content) <= _KEYS:
        raise ValueError('its content is unsound: document and arrays must be mappings, and nothing else')
    if content.get('sha256', '') not in ('', _checksum(document, described)):
        raise ValueError("is damaged (wrong checksum): restore it from a copy, or remove the key 'sha256' if "
                         'it was changed on purpose')
    return document, {name: _array(name, entry) for name, entry in described.items()}


def _checksum(document: Any, arrays: Any) -> str:
    text = json.dumps([document, arrays], sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def _described(name: str, array: NDArray[Any]) -> dict[str, Any]:
    if not NAME.fullmatch(name) or array.dtype.name not in TYPES:
        raise ValueError(f'array {name!r} has an unknown type ({array.dtype}) or a bad name')
    # tolist() gives Python floats, which hold every float32 exactly.
    values = [value if not isinstance(value, float) or math.isfinite(value) else str(value)
              for value in array.ravel().tolist()]
    return {'type': array.dtype.name, 'shape': list(array.shape), 'values': values}


def _array(name: str, entry: Any) -> NDArray[Any]:
    kind, shape, values = entry['type'], entry['shape'], entry['values']
    if not NAME.fullmatch(name) or kind not in TYPES or not isinstance(values, list) \
            or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8 \
            or math.prod(shape) != len(values):
        raise ValueError(f'its content is unsound: array {name[:80]!r} has a bad name, type or shape')
    wanted: tuple[type, ...] = {'b': (bool,), 'f': (int, float, str)}.get(np.dtype(kind).kind, (int,))
    if not all(type(value) in wanted for value in values):
        raise ValueError(f"its content is unsound: array '{name}' has values that are no {kind}")
    if str in wanted:
        values = [_SPECIAL[value] if isinstance(value, str) else value for value in values]
    return np.array(values, kind).reshape(shape)


_SPECIAL = {'nan': math.nan, 'inf': math.inf, '-inf': -math.inf}
