# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Paths to values inside messages, as `ranges[0:36:6]`, `pose.pose.orientation:yaw`, `position[elbow]`.

A path is a chain of field names joined by dots. A name may carry an index `[3]`, a slice
`[start:stop:step]`, or names `[shoulder, elbow]`: these are looked up in the array of names that
stands beside the values or further out in the message (`name` of JointState, `joint_names` of
JointTrajectory), so that the order of joints may be another in every message. A measure at the end
turns a composite into one number: `:yaw` of a quaternion, `:norm` and `:bearing` of anything with x
and y (and z), in the message's units and rad. Paths are compiled once; they work on ROS messages
and on anything with the same attributes.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import importlib
import math
import re
from typing import Any

import numpy as np

_STEP = re.compile(r'([A-Za-z][A-Za-z0-9_]*)(?:\[([^\[\]]{1,255})\])?(?:\.(?=.)|$)', re.DOTALL)
_PATH = re.compile(r'(.+?)(?::([a-z]+))?', re.DOTALL)
_INDEX = re.compile(r'\d{1,6}')
_SLICE = re.compile(r'(\d{0,6}):(\d{0,6})(?::(\d{1,6}))?')
_ELEMENT_NAME = re.compile(r'[A-Za-z_][A-Za-z0-9_./-]*')
_TYPE = re.compile(r'([a-z][a-z0-9_]*)/(?:msg/)?([A-Za-z][A-Za-z0-9]*)')
_ARRAY = re.compile(r'sequence<(.+?)(?:, *(\d+))?>|(.+)\[(\d+)\]')
#: Fields that name the elements of the arrays beside or below them.
NAME_ARRAYS = ('name', 'names', 'joint_names')
#: Types of numbers → lowest and highest value (octets are bytes in Python, not numbers).
NUMBERS: dict[str, tuple[float, float]] = {
    'boolean': (0, 1), 'char': (0, 255), 'float': (-3.4e38, 3.4e38), 'double': (-1.7e308, 1.7e308),
    **{f'int{bits}': (-2**(bits - 1), 2**(bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f'uint{bits}': (0, 2**bits - 1) for bits in (8, 16, 32, 64)}}


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
class Names:
    """A subscript that takes the elements of these names, in this order."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One name of a path and what it takes of an array: an index, a slice, names or all (None)."""

    name: str
    subscript: int | slice | Names | None

    @property
    def several(self) -> bool:
        """Return whether the subscript takes a list of elements."""
        return isinstance(self.subscript, slice) \
            or (isinstance(self.subscript, Names) and len(self.subscript.names) > 1)


@dataclass(frozen=True)
class FieldPath:
    """A parsed path; `text` is what the operator wrote."""

    text: str
    steps: tuple[Step, ...]
    measure: str

    @property
    def several(self) -> bool:
        """Return whether it takes a list of elements by a slice or by names."""
        return any(step.several for step in self.steps)

    @property
    def array(self) -> int:
        """Return the position of the step whose array `length` is about: the sliced, else the last."""
        return next((place for place, step in enumerate(self.steps) if step.several), len(self.steps) - 1)

    def size(self, length: int | None = None) -> int | None:
        """Return how many values it reads of an array of `length`; None when that is not known."""
        subscript = self.steps[self.array].subscript
        if isinstance(subscript, Names):
            return len(subscript.names)
        if isinstance(subscript, int):
            return 1
        if subscript is None:
            return 1 if length is None or self.measure else length
        end = subscript.stop if subscript.stop is not None else length
        return None if end is None else len(range(*subscript.indices(end)))

    @property
    def joints(self) -> tuple[str, ...]:
        """Return the names that it takes elements by."""
        return next((s.subscript.names for s in self.steps if isinstance(s.subscript, Names)), ())

    def reader(self) -> Callable[[Any], Any]:
        """
        Return a function from a message to a number or an array of numbers.

        The function raises IndexError beyond the end of an array and FieldError on a name that the
        message does not have.
        """
        return _reader(self.steps, self.measure)

    def array_reader(self) -> Callable[[Any], Any]:
        """Return a function from a message to the whole array that is sliced or taken."""
        steps = self.steps[:self.array + 1]
        return _reader((*steps[:-1], Step(steps[-1].name, None)), '')


def parse_path(text: str) -> FieldPath:
    """Parse a path; raises FieldError."""
    match = _PATH.fullmatch(text)
    body, measure = (match[1], match[2] or '') if match else (text, '')
    if measure and measure not in MEASURES:
        raise FieldError(f"unknown measure ':{measure}' in '{text}': use one of :{', :'.join(MEASURES)}")
    steps: list[Step] = []
    position = 0
    while position < len(body) or not steps:
        step = _STEP.match(body, position)
        if step is None:
            raise FieldError(f"'{text}' is not a field path: write names joined by dots, with an index, a "
                             "slice or names, as 'ranges[0:36:6]' or 'position[elbow]'")
        steps.append(Step(step[1], _subscript(step[2], text)))
        position = step.end()
    if sum(step.several for step in steps) > 1:
        raise FieldError(f"'{text}' takes more than one list: use one slice or one list of names")
    named = [place for place, step in enumerate(steps) if isinstance(step.subscript, Names)]
    if (named and any(step.several for step in steps[:named[-1]])) or len(named) > 1:
        raise FieldError(f"'{text}': names cannot stand behind a slice or other names")
    return FieldPath(text, tuple(steps), measure)


def _subscript(text: str | None, path: str) -> int | slice | Names | None:
    if text is None:
        return None
    if _INDEX.fullmatch(text):
        return int(text)
    match = _SLICE.fullmatch(text)
    if match is None:
        names = tuple(name.strip() for name in text.split(','))
        if not all(_ELEMENT_NAME.fullmatch(name) for name in names) or len(set(names)) != len(names):
            raise FieldError(f"'[{text}]' in '{path}' is no subscript: write an index up to 999999, a slice "
                             'as 0:36:6, or different names as shoulder, elbow')
        return Names(names)
    start, stop, step = (int(part) if part else None for part in match.groups())
    if step == 0 or (stop is not None and stop <= (start or 0)):
        raise FieldError(f"the slice of '{path}' is empty: stop must be above start, step above 0")
    return slice(start, stop, step)


def _reader(steps: tuple[Step, ...], measure: str) -> Callable[[Any], Any]:
    for place, step in enumerate(steps):
        if isinstance(step.subscript, Names):
            rest = _reader(steps[place + 1:], measure)
            return _ByName(steps[:place], step.name, step.subscript.names, rest)
    if not steps:
        return MEASURES[measure][0] if measure else lambda value: value
    name, subscript = steps[0].name, steps[0].subscript
    last = len(steps) == 1 and not measure
    rest = _reader(steps[1:], measure)
    if subscript is None:
        return (lambda value: getattr(value, name)) if last else lambda value: rest(getattr(value, name))
    if last:
        return lambda value: getattr(value, name)[subscript]
    if isinstance(subscript, int):
        return lambda value: rest(getattr(value, name)[subscript])
    return lambda value: [rest(item) for item in getattr(value, name)[subscript]]


class _ByName:
    """Reads the elements of an array by their names; looked up again only when the names change."""

    def __init__(self, parents: tuple[Step, ...], name: str, wanted: tuple[str, ...],
                 rest: Callable[[Any], Any]) -> None:
        self._array = _reader((*parents, Step(name, None)), '')
        self._owners = [_reader(parents[:depth], '') for depth in range(len(parents), -1, -1)]
        self._wanted, self._rest = wanted, rest
        self._names: Callable[[Any], Sequence[str]] | None = None
        self._known: list[str] | None = None
        self._places: list[int] = []

    def __call__(self, message: Any) -> Any:
        names = (self._names or self._find_names(message))(message)
        if names != self._known:
            self._resolve(list(names))
        array = self._array(message)
        if len(self._places) == 1:
            return self._rest(array[self._places[0]])
        return [self._rest(array[place]) for place in self._places]

    def _find_names(self, message: Any) -> Callable[[Any], Sequence[str]]:
        for owner in self._owners:
            for name in NAME_ARRAYS:
                if isinstance(getattr(owner(message), name, None), list | tuple):
                    self._names = names = lambda m, owner=owner, name=name: getattr(owner(m), name)
                    return names
        raise FieldError('the message has no names')

    def _resolve(self, names: list[str]) -> None:
        self._known = None  # an incomplete message is looked at again, not mistaken for a known one
        missing = [name for name in self._wanted if name not in names]
        if missing:
            known = ', '.join(names[:20]) or 'no names'
            raise FieldError(f"the message has no '{missing[0]}'; it has {known}")
        self._places = [names.index(name) for name in self._wanted]
        self._known = names


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
    if not hasattr(found, 'get_fields_and_field_types'):
        raise FieldError(f"'{type_name}' is not a message type: correct the name")
    return found


@dataclass(frozen=True)
class FieldType:
    """What a path leads to: a type of numbers, and whether there is an array of them."""

    element: str
    array: bool


def check_path(path: FieldPath, kind: type) -> FieldType:
    """
    Check a path against a message class and return what it leads to.

    Raises FieldError naming the fields that the message does have.
    """
    array, element = False, ''
    owners: list[Any] = [kind]
    for place, step in enumerate(path.steps):
        fields: dict[str, str] = owners[-1].get_fields_and_field_types()
        last = place == len(path.steps) - 1
        if step.name not in fields:
            raise FieldError(f"'{path.text}': {owners[-1].__name__} has no field '{step.name}'; "
                             f"it has {', '.join(fields)}")
        element, several = _element(path, step, fields[step.name], owners, last)
        array |= several
        if not last or path.measure:
            if '/' not in element:
                raise FieldError(f"'{path.text}': '{step.name}' is a {element} and has no fields")
            owners.append(message_class(element))
    if path.measure:
        element = 'double'
        missing = set(MEASURES[path.measure][1]) - set(owners[-1].get_fields_and_field_types())
        if missing:
            raise FieldError(f"'{path.text}': {owners[-1].__name__} has no {', '.join(sorted(missing))}, "
                             'which the measure needs')
    if element not in NUMBERS:
        raise FieldError(f"'{path.text}' is a {element}, not a number: name one of its fields")
    return FieldType(element, array)


def _element(path: FieldPath, step: Step, declared: str, owners: list[Any],
             last: bool) -> tuple[str, bool]:
    """Return the type that a step leads to, and whether to several of them; raises FieldError."""
    match = _ARRAY.fullmatch(declared)
    if match is None:
        if step.subscript is not None:
            raise FieldError(f"'{path.text}': '{step.name}' is not an array: remove the brackets")
        return declared, False
    if step.subscript is None and (not last or path.measure):
        raise FieldError(f"'{path.text}': '{step.name}' is an array: say which elements, as "
                         f"'{step.name}[0]'")
    if isinstance(step.subscript, Names) and not any(
            owner.get_fields_and_field_types().get(name) == 'sequence<string>'
            for owner in owners for name in NAME_ARRAYS):
        raise FieldError(f"'{path.text}': {owners[0].__name__} has no array {' or '.join(NAME_ARRAYS)} to "
                         f"look names up in: use an index, as '{step.name}[0]'")
    most = int(match[2] or match[4] or 0)
    highest = step.subscript.stop or 0 if isinstance(step.subscript, slice) else step.subscript
    if most and isinstance(highest, int) and highest > most - isinstance(step.subscript, int):
        raise FieldError(f"'{path.text}': '{step.name}' has at most {most} entries, 0..{most - 1}")
    return match[1] or match[3], step.subscript is None or step.several


def writer(path: FieldPath, joints: Sequence[str] = ()) -> Callable[[Any, float], None]:
    """
    Return a function that writes a number into a message, in the type of the field.

    A name of an element stands for its place in `joints`. Raises FieldError on a path that is not
    of a single field.
    """
    if path.measure or path.several:
        raise FieldError(f"'{path.text}' cannot be written: name a single field")
    steps = _by_place(path, joints)
    parent, name, index = _reader(steps[:-1], ''), steps[-1].name, steps[-1].subscript

    def write(message: Any, value: float) -> None:
        owner = parent(message)
        old = getattr(owner, name)
        if index is None:
            setattr(owner, name, _as(old, value))
        else:
            old[index] = _as(old[index], value)
    return write


def _as(old: Any, value: float) -> float:
    """Return a value in the type of the one that it replaces."""
    if isinstance(old, float):
        return value
    return bool(value) if isinstance(old, bool | np.bool_) \
        else round(value) if isinstance(old, int | np.integer) else value


def _by_place(path: FieldPath, joints: Sequence[str]) -> tuple[Step, ...]:
    return tuple(Step(step.name, joints.index(step.subscript.names[0]))
                 if isinstance(step.subscript, Names) and joints else step for step in path.steps)


def make_room(message: Any, path: FieldPath, joints: Sequence[str] = ()) -> None:
    """
    Lengthen the arrays of a message until a path can be written, and fill in the names of elements.

    An array indexed by name gets one entry for each of `joints`.
    """
    owners = [message]
    for step, placed in zip(path.steps, _by_place(path, joints), strict=True):
        value, index = getattr(owners[-1], step.name), placed.subscript
        if isinstance(index, int):
            named = isinstance(step.subscript, Names)
            while len(value) < (len(joints) if named else index + 1):
                value.append(_new_element(owners[-1], step.name))
            if named:
                owner, name = next((owner, name) for owner in reversed(owners) for name in NAME_ARRAYS
                                   if hasattr(owner, name))
                setattr(owner, name, list(joints))
            value = value[index]
        owners.append(value)


def _new_element(owner: Any, name: str) -> Any:
    match = _ARRAY.fullmatch(owner.get_fields_and_field_types()[name])
    element = match[1] if match else ''
    return message_class(element)() if '/' in element else element == 'boolean' and False
