# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""States of tabular agents: anything made of plain values, in one hashable and storable form."""
from __future__ import annotations

from collections.abc import Hashable
import math
from typing import Any

import numpy as np

MAXIMUM_DEPTH = 8
MAXIMUM_LENGTH = 4096


def freeze(value: Any, depth: int = 0) -> Hashable:
    """
    Return a hashable equal for equal states: dicts by sorted key, lists and arrays as tuples.

    The result survives JSON (whose lists freeze to the same tuples). Raises ValueError on anything
    that is not a finite number, text, bool or None, or a list, tuple, array or dict of such, of at
    most 4096 entries and 8 levels.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return freeze(value.tolist(), depth)
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError(f'{value} cannot be part of a state')
        return value
    if depth >= MAXIMUM_DEPTH:
        raise ValueError(f'a state is nested more than {MAXIMUM_DEPTH} levels')
    if isinstance(value, list | tuple | dict) and len(value) <= MAXIMUM_LENGTH:
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise ValueError('the keys of a state must be text')
            return tuple((key, freeze(value[key], depth + 1)) for key in sorted(value))
        return tuple(freeze(item, depth + 1) for item in value)
    raise ValueError(f'a {type(value).__name__} cannot be part of a state: use numbers, texts, lists '
                     f'and dicts of at most {MAXIMUM_LENGTH} entries')
