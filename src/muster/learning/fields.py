# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Paths to values inside messages, as `ranges[0:36:6]` or `pose.pose.orientation:yaw`.

A path is a chain of field names joined by dots. One name may carry an index `[3]` or a slice
`[start:stop:step]`. A measure at the end turns a composite into one number: `:yaw` of a
quaternion, `:norm` and `:bearing` of anything with x and y (and z), in the message's units and rad.
Paths are compiled once; they work on ROS messages and on anything with the same attributes.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import importlib
import math
import re
from typing import Any

_STEP = re.compile(r'([A-Za-z][A-Za-z0-9_]*)(?:\[(\d+|\d*:\d*(?::\d+)?)\])?')
_PATH = re.compile(r'(.+?)(?::([a-z]+))?')
_TYPE = re.compile(r'([a-z][a-z0-9_]*)/(?:msg/)?([A-Za-z][A-Za-z0-9]*)')
_ARRAY = re.compile(r'sequence<(.+?)(?:, *\d+)?>|(.+)\[(\d+)\]')
_NUMBERS = {'boolean', 'octet', 'byte', 'char', 'float', 'double',
            *(f'{sign}int{bits}' for sign in ('', 'u') for bits in (8, 16, 32, 64))}


class FieldError(Exception):
    """A path that is malformed, or that a message does not have."""


def yaw(q: Any) -> float:
    """Return the rotation about z of a unit quaternion, rad, -pi..pi (REP 103)."""
    return math.atan2(2.0 * (q.w * q.z + q.x * q.y), 1.0 - 2.0 * (q.y * q.y + q.z * q.z))


def norm(v: Any) -> float:
    """Return the length of a vector or the distance of a point."""
    return math.hypot(v.x, v.y, getattr(v, 'z', 0.0))


def bearing(v: Any) -> float:
    """Return the direction of a vector or point in the x-y plane, rad, -pi..pi."""
    return math.atan2(v.y, v.x)


#: Name of a measure → the function and the fields that it needs.
MEASURES: dict[str, tuple[Callable[[Any], float], tuple[str, ...]]] = {
    'yaw': (yaw, ('x', 'y', 'z', 'w')), 'norm': (norm, ('x', 'y')), 'bearing': (bearing, ('x', 'y'))}


@dataclass(frozen=True)
class Step:
    """One name of a path and what it takes of an array: an index, a slice or all (None)."""

    name: str
    subscript: int | slice | None


@dataclass(frozen=True)
class FieldPath:
    """A parsed path; `text` is what the operator wrote."""

    text: str
    steps: tuple[Step, ...]
    measure: str

    @property
    def size(self) -> int | None:
        """Return how many values it reads; None when that depends on the message."""
        for step in self.steps:
            if isinstance(step.subscript, slice):
                if step.subscript.stop is None:
                    return None
                return len(range(*step.subscript.indices(step.subscript.stop)))
        return 1

    def reader(self) -> Callable[[Any], Any]:
        """Return a function from a message to a number or an array of numbers."""
        return _reader(self.steps, self.measure)


def parse_path(text: str) -> FieldPath:
    """Parse a path; raises FieldError."""
    match = _PATH.fullmatch(text)
    body, measure = (match[1], match[2] or '') if match else (text, '')
    if measure and measure not in MEASURES:
        raise FieldError(f"unknown measure ':{measure}' in '{text}': use one of :{', :'.join(MEASURES)}")
    steps = []
    for part in body.split('.'):
        step = _STEP.fullmatch(part)
        if step is None:
            raise FieldError(f"'{text}' is not a field path: write names joined by dots, with an index "
                             "or a slice, as 'ranges[0:36:6]'")
        steps.append(Step(step[1], _subscript(step[2], text)))
    if sum(isinstance(step.subscript, slice) for step in steps) > 1:
        raise FieldError(f"'{text}' has more than one slice: use one")
    return FieldPath(text, tuple(steps), measure)


def _subscript(text: str | None, path: str) -> int | slice | None:
    if text is None:
        return None
    if ':' not in text:
        return int(text)
    start, stop, step = ([int(part) if part else None for part in text.split(':')] + [None])[:3]
    if step == 0 or (stop is not None and stop <= (start or 0)):
        raise FieldError(f"the slice of '{path}' is empty: stop must be above start, step above 0")
    return slice(start, stop, step)


def _reader(steps: tuple[Step, ...], measure: str) -> Callable[[Any], Any]:
    if not steps:
        return MEASURES[measure][0] if measure else lambda value: value
    name, subscript = steps[0].name, steps[0].subscript
    rest = _reader(steps[1:], measure)
    last = len(steps) == 1 and not measure
    if subscript is None:
        return lambda value: rest(getattr(value, name))
    if isinstance(subscript, int):
        return lambda value: rest(getattr(value, name)[subscript])
    if last:
        return lambda value: getattr(value, name)[subscript]
    return lambda value: [rest(item) for item in getattr(value, name)[subscript]]


def message_class(type_name: str) -> type:
    """Return the class of a type such as `sensor_msgs/msg/LaserScan`; raises FieldError."""
    match = _TYPE.fullmatch(type_name)
    if match is None:
        raise FieldError(f"'{type_name}' is not a message type: write it as sensor_msgs/msg/LaserScan")
    try:
        found: type = getattr(importlib.import_module(f'{match[1]}.msg'), match[2])
    except (ImportError, AttributeError) as error:
        raise FieldError(f"message type '{type_name}' is not installed: install its package, or correct "
                         'the name') from error
    return found


def check_path(path: FieldPath, kind: type) -> bool:
    """
    Check a path against a message class; return whether it reads an array.

    Raises FieldError naming the fields that the message does have.
    """
    array = False
    last = len(path.steps) - 1
    current: Any = kind
    for position, step in enumerate(path.steps):
        fields: dict[str, str] = current.get_fields_and_field_types()
        if step.name not in fields:
            raise FieldError(f"'{path.text}': {current.__name__} has no field '{step.name}'; "
                             f"it has {', '.join(fields)}")
        element = fields[step.name]
        match = _ARRAY.fullmatch(element)
        if match:
            element = match[1] or match[2]
            if step.subscript is None and (position != last or path.measure):
                raise FieldError(f"'{path.text}': '{step.name}' is an array: say which elements, as "
                                 f"'{step.name}[0]'")
            array |= not isinstance(step.subscript, int)
        elif step.subscript is not None:
            raise FieldError(f"'{path.text}': '{step.name}' is not an array: remove the brackets")
        if position == last and not path.measure:
            if element not in _NUMBERS:
                raise FieldError(f"'{path.text}' is a {element}, not a number: name one of its fields")
        elif '/' not in element:
            raise FieldError(f"'{path.text}': '{step.name}' is a {element} and has no fields")
        else:
            current = message_class(element)
    if path.measure:
        missing = set(MEASURES[path.measure][1]) - set(current.get_fields_and_field_types())
        if missing:
            raise FieldError(f"'{path.text}': {current.__name__} has no {', '.join(sorted(missing))}, "
                             'which the measure needs')
    return array


def writer(path: FieldPath) -> Callable[[Any, float], None]:
    """Return a function that writes a number into a message, in the type of the field."""
    parents, last = path.steps[:-1], path.steps[-1]
    if path.measure or any(isinstance(step.subscript, slice) for step in path.steps):
        raise FieldError(f"'{path.text}' cannot be written: name a single field")
    parent = _reader(parents, '')
    name, index = last.name, last.subscript

    def write(message: Any, value: float) -> None:
        owner = parent(message)
        container, key = (owner, name) if index is None else (getattr(owner, name), index)
        old = getattr(container, name) if index is None else container[key]
        new = bool(value) if isinstance(old, bool) else round(value) if isinstance(old, int) else value
        if index is None:
            setattr(container, name, new)
        else:
            container[key] = new
    return write
