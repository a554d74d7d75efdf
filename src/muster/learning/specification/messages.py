# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Checks a specification against the message classes that are installed."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from muster.learning.document import SpecificationError
from muster.learning.fields import check_path, FieldError, message_class, NUMBERS, parse_path
from muster.learning.specification.action import JOINT_TRAJECTORY
from muster.learning.specification.parts import ActionSpecification, Source, Specification, Term


def check_messages(specification: Specification) -> dict[str, type]:
    """
    Check every field path against its message class; return the class of every type used.

    Raises SpecificationError naming the term, the field and what the message has instead.
    """
    classes: dict[str, type] = {}
    for term in specification.observation:
        with _told_of(specification, f"observation term '{term.name}'"):
            classes.setdefault(term.source.type, message_class(term.source.type))
            _check_term(term, classes[term.source.type])
    for where, source in (('reward', specification.reward), ('episode', specification.episode_end)):
        if isinstance(source, Source):
            with _told_of(specification, where):
                classes.setdefault(source.type, message_class(source.type))
                _check_single(source.field, classes[source.type])
    with _told_of(specification, 'action'):
        classes.setdefault(specification.action.type, message_class(specification.action.type))
        _check_action(specification.action, classes[specification.action.type])
    return classes


@contextmanager
def _told_of(specification: Specification, where: str) -> Iterator[None]:
    """Say where a path stands that does not fit."""
    try:
        yield
    except FieldError as error:
        raise SpecificationError(f'{specification.file}: {where}: {error}') from error


def _check_term(term: Term, kind: type) -> None:
    path = parse_path(term.source.field)
    found = check_path(path, kind)
    if found.array and not path.several and term.length is None and term.reduce == 'none':
        raise FieldError(f"'{path.text}' is an array: name one element, as '{path.text}[0]', or add one of "
                         "the keys 'length' and 'reduce'")
    if term.length is not None and not found.array:
        raise FieldError(f"'{path.text}' is not an array: remove the key 'length'")
    if term.stamp == 'header' and not _has_header(kind):
        raise FieldError(f"{kind.__name__} has no header with a stamp: use 'stamp: arrival'")


def _check_single(text: str, kind: type) -> str:
    """Return the type of the single number that a path leads to."""
    found = check_path(parse_path(text), kind)
    if found.array:
        raise FieldError(f"'{text}' is an array: name one element, as '{text.split('[')[0]}[0]'")
    return found.element


def _check_action(action: ActionSpecification, kind: type) -> None:
    rows = [*action.values, *([action.safe] if action.safe is not None else []),
            *zip(*action.ranges, strict=True)]
    for place, text in enumerate(action.fields):
        element = _check_single(text, kind)
        low, high = NUMBERS[element]
        for row in rows:
            if place < len(row) and not low <= row[place] <= high:
                raise FieldError(f"'{text}' is a {element} and cannot be {row[place]:g}: it takes "
                                 f'{low:g}..{high:g}')
    if action.frame_id and not _has_header(kind):
        raise FieldError(f"{kind.__name__} has no header: remove the key 'frame_id'")
    if action.type == JOINT_TRAJECTORY and not all(text.startswith('points[0].') for text in action.fields):
        raise FieldError('commands of a JointTrajectory are in its first point: write them as '
                         "'points[0].positions[elbow]'")


def _has_header(kind: type) -> bool:
    fields: dict[str, str] = kind.get_fields_and_field_types()  # type: ignore[attr-defined]
    return fields.get('header') == 'std_msgs/Header'
