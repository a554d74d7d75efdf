# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Reads the actions: named commands or continuous ranges, onto the fields of any message."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from muster.learning.document import Section
from muster.learning.fields import FieldError, FieldPath, parse_path, writer
from muster.learning.specification.observation import LARGEST, NAME, read_topic
from muster.learning.specification.parts import ActionSpecification, Term

TWIST = 'geometry_msgs/msg/Twist'
TWIST_STAMPED = 'geometry_msgs/msg/TwistStamped'
JOINT_TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'
_VELOCITY = tuple(f'{part}.{axis}' for part in ('linear', 'angular') for axis in 'xyz')
#: Types whose zeros stand still, so that the safe action may be left out → all their fields.
STANDING = {TWIST: _VELOCITY, TWIST_STAMPED: tuple(f'twist.{name}' for name in _VELOCITY)}
MAXIMUM_ACTIONS = 256
MAXIMUM_FIELDS = 256
MAXIMUM_INDEX = 1023


@dataclass
class _Commands:
    """What the policy commands: named rows of values, or a range for each field."""

    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


def read_action(section: Section, rate: float, terms: Sequence[Term]) -> ActionSpecification:
    """Read the section; `rate` is in cycles per second."""
    topic, kind = read_topic(section), section.text('type', TWIST)
    commands = _read_commands(section)
    hold = section.is_text('safe_action') and section.text('safe_action', choices=('hold',)) == 'hold'
    safe = {} if hold else _values(section, 'safe_action', required=kind not in STANDING)
    rows: list[Mapping[str, object]] = [commands.ranges, *commands.rows.values(), safe]
    paths = tuple(dict.fromkeys(path for row in rows for path in row))
    if kind in STANDING and not hold:
        paths = tuple(dict.fromkeys((*paths, *STANDING[kind])))
        safe = {path: safe.get(path, 0.0) for path in paths}
    _check_complete(section, commands, safe, hold, paths)
    limits = {**commands.ranges, **_by_field(section, 'limits', paths, _pair)}
    rates = _by_field(section, 'rate_limits', paths, lambda s, path: s.number(path, None, 1e-6, LARGEST))
    measured = _read_measured(section, hold, paths, terms)
    frame_id = section.text('frame_id', '')
    seconds = section.number('time_from_start', 1.0 / rate, 0.001, 60.0) if kind == JOINT_TRAJECTORY else None
    section.close()
    for name, row in (*commands.rows.items(), ('safe_action', safe)):
        _check_limits(section, name, row, limits)
    joints = tuple(dict.fromkeys(name for path in paths for name in parse_path(path).joints))
    return ActionSpecification(
        topic, kind, paths, tuple(commands.rows),
        tuple(tuple(row[path] if path in row else safe[path] for path in paths)
              for row in commands.rows.values()),
        tuple(commands.ranges.values()), None if hold else tuple(safe[path] for path in paths), measured,
        tuple(limits.get(path) for path in paths), tuple(rates.get(path) for path in paths), joints, frame_id,
        seconds)


def _read_commands(section: Section) -> _Commands:
    keys = section.remaining()
    if ('actions' in keys) == ('continuous' in keys):
        raise section.error("needs one of the keys 'actions' (named commands) and 'continuous' (a range for "
                            'each field)')
    if 'actions' in keys:
        table = section.section('actions')
        rows = {name: _values(table, name) for name in table.remaining()}
        if not 1 <= len(rows) <= MAXIMUM_ACTIONS or not all(NAME.fullmatch(n) and n != 'safe' for n in rows):
            raise table.error(f"must be 1..{MAXIMUM_ACTIONS} actions, named with a-z, 0-9 and '_' and not "
                              "'safe'")
        return _Commands(rows=rows)
    table = section.section('continuous')
    ranges = {}
    for path in _paths(table):
        low, high = table.numbers(path, 2, LARGEST) or (0.0, 0.0)
        if low >= high:
            raise table.error('must be [lowest, highest]', key=path)
        ranges[path] = (low, high)
    if not ranges:
        raise table.error('needs at least one field, as linear.x: [0.0, 0.5]')
    return _Commands(ranges=ranges)


def _check_complete(section: Section, commands: _Commands, safe: dict[str, float], hold: bool,
                    paths: tuple[str, ...]) -> None:
    if len(paths) > MAXIMUM_FIELDS:
        raise section.error(f'commands more than {MAXIMUM_FIELDS} fields: use fewer')
    if not paths:
        raise section.error('commands no field: name one, as linear.x')
    missing = [path for path in paths if path not in safe]
    if missing and not hold:
        raise section.error(f"must give every field a value: add {', '.join(missing)}", key='safe_action')
    for name, row in commands.rows.items():
        lacking = [path for path in paths if path not in row]
        if hold and lacking:
            raise section.error('with safe_action: hold every action must give every field: add '
                                f"{lacking[0]} to '{name}'", key='actions')


def _paths(section: Section) -> list[str]:
    """Return the keys of a section, all of which must be paths that can be written."""
    for text in section.remaining():
        try:
            path = parse_path(text)
            writer(path)
            _check_index(path)
        except FieldError as error:
            raise section.error(str(error), key=text) from error
    return section.remaining()


def _check_index(path: FieldPath) -> None:
    if any(isinstance(step.subscript, int) and step.subscript > MAXIMUM_INDEX for step in path.steps):
        raise FieldError(f"'{path.text}': the index of a command is at most {MAXIMUM_INDEX}")


def _values(parent: Section, key: str, required: bool = True) -> dict[str, float]:
    section = parent.section(key) if required else parent.optional_section(key)
    if section is None:
        return {}
    return {path: section.number(path, minimum=-LARGEST, maximum=LARGEST) for path in _paths(section)}


def _by_field(parent: Section, key: str, paths: tuple[str, ...],
              read: Callable[[Section, str], Any]) -> dict[str, Any]:
    """Read a section that says something of some of the commanded fields."""
    section = parent.optional_section(key)
    if section is None:
        return {}
    found = {path: read(section, path) for path in paths}
    section.close()
    return {path: value for path, value in found.items() if value is not None}


def _pair(section: Section, path: str) -> tuple[float, float] | None:
    pair = section.numbers(path, 2, LARGEST)
    if pair and pair[0] > pair[1]:
        raise section.error('must be [lowest, highest]', key=path)
    return (pair[0], pair[1]) if pair else None


def _check_limits(section: Section, name: str, row: dict[str, float],
                  limits: dict[str, tuple[float, float]]) -> None:
    for path, value in row.items():
        low, high = limits.get(path, (value, value))
        if not low <= value <= high:
            raise section.error(f'{name}: {path} = {value:g} is outside its limits [{low:g}, {high:g}]: '
                                'correct one of them')


def _read_measured(section: Section, hold: bool, paths: tuple[str, ...],
                   terms: Sequence[Term]) -> tuple[str, ...]:
    if not hold:
        return ()
    names = [term.name for term in terms if term.size == 1 and term.required]
    found = _by_field(section, 'measured', paths, lambda s, path: s.text(path, choices=tuple(names))
                      if path in s.remaining() else None)
    missing = [path for path in paths if path not in found]
    if missing:
        raise section.error("'hold' must know where each field stands before the first command: add the key "
                            f"'measured' with the observation term of {missing[0]}", key='safe_action')
    return tuple(found[path] for path in paths)
