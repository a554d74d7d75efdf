# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Reads the terms of the observation."""
from __future__ import annotations

from itertools import pairwise
import re

from muster.learning.discretiser import uniform
from muster.learning.document import Section
from muster.learning.fields import FieldError, parse_path
from muster.learning.specification.parts import Source, Term

MAXIMUM_TERMS = 64
MAXIMUM_ELEMENTS = 4096
#: Numbers of a term are within this, so that float32 holds what is made of them.
LARGEST = 1e9
NAME = re.compile(r'[a-z][a-z0-9_]{0,63}')
_TOPIC = re.compile(r'(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')


def read_observation(top: Section, agent: str) -> tuple[Term, ...]:
    """Read the list of terms for a kind of agent."""
    terms: list[Term] = []
    for section in top.sections('observation', MAXIMUM_TERMS):
        term = _read_term(section, agent)
        if term.name in [other.name for other in terms]:
            raise section.error(f"the name '{term.name}' is given twice: rename one")
        terms.append(term)
    if sum(term.size for term in terms) > MAXIMUM_ELEMENTS:
        raise top.error(f'has more than {MAXIMUM_ELEMENTS} values: use fewer', key='observation')
    return tuple(terms)


def read_topic(section: Section) -> str:
    """Read the name of a topic."""
    topic = section.text('topic')
    if not _TOPIC.fullmatch(topic):
        raise section.error(f"'{topic}' is not a topic name: letters, digits, '_' and '/'", key='topic')
    return topic


def read_source(section: Section, field: str | None = None) -> Source:
    """Read topic, type and field, which is `field` unless the file says otherwise."""
    topic = read_topic(section)
    kind, path = section.text('type'), section.text('field', field) if field else section.text('field')
    try:
        parse_path(path)
    except FieldError as error:
        raise section.error(str(error), key='field') from error
    return Source(topic, kind, path)


def _read_term(section: Section, agent: str) -> Term:
    name = section.text('name')
    if not NAME.fullmatch(name):
        raise section.error(f"'{name}' is not a name: a-z, 0-9 and '_', beginning with a letter", key='name')
    source, reduce = read_source(section), section.text('reduce', 'none', ('none', 'min', 'mean', 'max'))
    length = section.integer('length', None, 1, 1_000_000)
    valid, clip = _range(section, 'valid'), _range(section, 'clip')
    nan_policy = section.text('nan_policy', 'reject', ('reject', 'clip_low', 'clip_high'))
    required = section.flag('required', True)
    on_stale = section.text('on_stale', 'safe' if required else 'default', ('safe', 'hold', 'default'))
    max_age, stamp = section.number('max_age', 0.5, 0.01, 3600.0), section.text(
        'stamp', 'auto', ('auto', 'header', 'arrival'))
    default, scale, offset = (section.number(key, value, -LARGEST, LARGEST) for key, value in (
        ('default', 0.0), ('scale', 1.0), ('offset', 0.0)))
    if scale == 0.0:
        raise section.error('0 would make every value the same: give another, or remove it', key='scale')
    if nan_policy != 'reject' and clip is None:
        raise section.error(f"'{nan_policy}' needs the key 'clip': add it", key='nan_policy')
    if required != (on_stale == 'safe'):
        raise section.error("'safe' goes with required: true; 'hold' and 'default' with required: false",
                            key='on_stale')
    bins = _read_bins(section, clip, scale, offset)
    section.close()
    if bins is None and agent == 'q_learning':
        raise section.error("key 'bins' is missing: a q_learning agent needs the edges of its bins, or how "
                            'many there are')
    size = parse_path(source.field).size(length) if reduce == 'none' else 1
    if size is None:
        raise section.error("an open slice needs its end, or one of the keys 'length' and 'reduce'",
                            key='field')
    if size == 0:
        raise section.error("the slice begins beyond the key 'length': correct one of them", key='field')
    return Term(name, source, size, length, reduce, scale, offset, valid, clip, nan_policy, max_age, stamp,
                required, on_stale, default, bins)


def _range(section: Section, key: str) -> tuple[float, float] | None:
    pair = section.numbers(key, 2, LARGEST)
    if pair and pair[0] >= pair[1]:
        raise section.error('must be [lowest, highest]', key=key)
    return (pair[0], pair[1]) if pair else None


def _read_bins(section: Section, clip: tuple[float, float] | None, scale: float,
               offset: float) -> tuple[float, ...] | None:
    """Read the inner edges of bins, or how many bins divide the range of `clip` evenly."""
    if section.is_list('bins'):
        edges = section.numbers('bins', None, LARGEST)
        if edges and any(low >= high for low, high in pairwise(edges)):
            raise section.error('bin edges must ascend', key='bins')
        return edges
    count = section.integer('bins', None, 2, 256)
    if count is None:
        return None
    if clip is None:
        raise section.error("a number of bins divides the range of the key 'clip': add it, or give a list "
                            'of edges', key='bins')
    low, high = sorted(edge * scale + offset for edge in clip)
    return tuple(uniform(low, high, count))
