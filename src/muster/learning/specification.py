# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The specification file: which sensors become the observation, and what the actions command.

It is read strictly (`document.py`), checked against the message classes before anything runs, and
its meaning is stored in every model: a model never acts through another specification.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, fields
import hashlib
from itertools import pairwise
import json
from pathlib import Path
import re
from typing import Any

from muster.learning.agents.base import Hyperparameters
from muster.learning.agents.q_learning import QLearningParameters
from muster.learning.document import read_document, Section, SpecificationError
from muster.learning.fields import check_path, FieldError, message_class, parse_path, writer

TWIST = 'geometry_msgs/msg/Twist'
TWIST_FIELDS = tuple(f'{part}.{axis}' for part in ('linear', 'angular') for axis in 'xyz')
MAXIMUM_ELEMENTS = 4096
#: Kinds of agents → their hyper-parameters.
AGENTS: dict[str, type[Hyperparameters]] = {'q_learning': QLearningParameters}
_NAME = re.compile(r'[a-z][a-z0-9_]{0,63}')
_TOPIC = re.compile(r'/?[A-Za-z_~][A-Za-z0-9_/]*')


@dataclass(frozen=True)
class Source:
    """A value that arrives on a topic."""

    topic: str
    type: str
    field: str


@dataclass(frozen=True)
class Term:
    """
    One term of the observation.

    A message's values go through: missing values, `clip` (in the message's units), `reduce`,
    then value * `scale` + `offset`. `bins` are inner edges on the result.
    """

    name: str
    source: Source
    size: int
    length: int | None
    reduce: str
    scale: float
    offset: float
    clip: tuple[float, float] | None
    nan_policy: str
    max_age: float
    required: bool
    on_stale: str
    default: float
    bins: tuple[float, ...] | None


@dataclass(frozen=True)
class ActionSpecification:
    """
    Named actions as values of message fields.

    `values[i]` are what action i writes into `fields`, in the units of the message; `limits` are
    (lowest, highest) of each field, `rate_limits` the largest change per second.
    """

    topic: str
    type: str
    fields: tuple[str, ...]
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    safe: tuple[float, ...]
    limits: tuple[tuple[float, float] | None, ...]
    rate_limits: tuple[float | None, ...]


@dataclass(frozen=True)
class Specification:
    """All of a specification file; `rate` is in cycles per second, times are in seconds."""

    file: str
    rate: float
    observation: tuple[Term, ...]
    action: ActionSpecification
    reward: Source
    reward_max_age: float
    episode_end: Source | None
    time_limit: float | None
    agent: str
    hyperparameters: Hyperparameters

    @property
    def sources(self) -> list[Source]:
        """Return everything that is read, term by term, then reward and end of episode."""
        ends = [self.episode_end] if self.episode_end else []
        return [*(term.source for term in self.observation), self.reward, *ends]

    @property
    def elements(self) -> int:
        """Return the length of the observation vector."""
        return sum(term.size for term in self.observation)

    @property
    def meaning(self) -> dict[str, Any]:
        """Return what a model depends on, as JSON values: all but the tolerated age of a term."""
        terms = [{key: value for key, value in asdict(term).items() if key != 'max_age'}
                 for term in self.observation]
        plain: dict[str, Any] = json.loads(json.dumps(
            {'observation': terms, 'action': asdict(self.action)}))
        return plain

    @property
    def digest(self) -> str:
        """Return the canonical hash of observation and action specification (16 hex digits)."""
        return digest(self.meaning)


def digest(meaning: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a canonical JSON text."""
    text = json.dumps(meaning, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(saved: Any, own: Any, path: str = '') -> str:
    """Return where two meanings first differ, with both values; empty if they are equal."""
    if isinstance(saved, dict) and isinstance(own, dict):
        for key in sorted({*saved, *own}):
            found = difference(saved.get(key), own.get(key), f'{path}.{key}'.strip('.'))
            if found:
                return found
        return ''
    if isinstance(saved, list) and isinstance(own, list) and len(saved) == len(own):
        for index, pair in enumerate(zip(saved, own, strict=True)):
            named = pair[1].get('name', index) if isinstance(pair[1], dict) else index
            found = difference(*pair, f'{path}[{named}]')
            if found:
                return found
        return ''
    return '' if saved == own else f'{path}: {_short(saved)} in the model, {_short(own)} here'


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = [item.get('name') for item in value]
    text = json.dumps(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


def load_specification(path: Path) -> Specification:
    """Read and check a specification file; raises SpecificationError."""
    top = read_document(path)
    rate = top.number('rate', minimum=0.1, maximum=200.0)
    agent_kind, hyperparameters = _agent(top.section('agent'))
    terms: list[Term] = []
    for section in top.sections('observation', 64):
        term = _term(section, agent_kind)
        if term.name in [other.name for other in terms]:
            raise section.error(f"the name '{term.name}' is given twice: rename one")
        terms.append(term)
    if sum(term.size for term in terms) > MAXIMUM_ELEMENTS:
        raise top.error(f'has more than {MAXIMUM_ELEMENTS} values: use fewer', key='observation')
    action = _action(top.section('action'))
    reward = top.section('reward')
    reward_source, reward_max_age = _source(reward, 'data'), reward.number('max_age', 1.0, 0.01, 3600.0)
    reward.close()
    end, time_limit = _episode(top.optional_section('episode'))
    top.close()
    specification = Specification(str(path), rate, tuple(terms), action, reward_source, reward_max_age,
                                  end, time_limit, agent_kind, hyperparameters)
    types: dict[str, str] = {}
    for source in specification.sources:
        if types.setdefault(source.topic, source.type) != source.type:
            raise top.error(f"topic '{source.topic}' is given two types, {types[source.topic]} and "
                            f'{source.type}: correct one')
    return specification


def _agent(section: Section) -> tuple[str, Hyperparameters]:
    kind = section.text('kind', choices=tuple(AGENTS))
    values: dict[str, float] = {}
    for item in fields(AGENTS[kind]):
        default: Any = item.default
        value = section.number(item.name, default, item.metadata['minimum'], item.metadata['maximum'])
        values[item.name] = type(default)(value)
    section.close()
    return kind, AGENTS[kind](**values)


def _source(section: Section, field: str | None = None) -> Source:
    topic = section.text('topic')
    if not _TOPIC.fullmatch(topic):
        raise section.error(f"'{topic}' is not a topic name: letters, digits, '_' and '/'", key='topic')
    kind, path = section.text('type'), section.text('field', field) if field else section.text('field')
    try:
        parse_path(path)
    except FieldError as error:
        raise section.error(str(error), key='field') from error
    return Source(topic, kind, path)


def _term(section: Section, agent: str) -> Term:
    name = section.text('name')
    if not _NAME.fullmatch(name):
        raise section.error(f"'{name}' is not a name: a-z, 0-9 and '_', beginning with a letter", key='name')
    source, reduce = _source(section), section.text('reduce', 'none', ('none', 'min', 'mean', 'max'))
    length = section.number('length', None, 1, 1_000_000)
    clip = section.numbers('clip', 2)
    nan_policy = section.text('nan_policy', 'reject', ('reject', 'clip_low', 'clip_high'))
    required = section.flag('required', True)
    on_stale = section.text('on_stale', 'safe' if required else 'default', ('safe', 'hold', 'default'))
    bins = section.numbers('bins')
    max_age, default = section.number('max_age', 0.5, 0.01, 3600.0), section.number('default', 0.0)
    scale, offset = section.number('scale', 1.0), section.number('offset', 0.0)
    section.close()
    if clip and clip[0] >= clip[1]:
        raise section.error('must be [lowest, highest]', key='clip')
    if nan_policy != 'reject' and clip is None:
        raise section.error(f"'{nan_policy}' needs the key 'clip': add it", key='nan_policy')
    if required != (on_stale == 'safe'):
        raise section.error("'safe' goes with required: true; 'hold' and 'default' with required: false",
                            key='on_stale')
    if bins and any(low >= high for low, high in pairwise(bins)):
        raise section.error('bin edges must ascend', key='bins')
    if bins is None and agent == 'q_learning':
        raise section.error("key 'bins' is missing: a q_learning agent needs the edges of its bins")
    size = parse_path(source.field).size if reduce == 'none' else 1
    if size is None:
        raise section.error("an open slice needs its end, or the key 'reduce'", key='field')
    return Term(name, source, size, None if length is None else int(length), reduce, scale, offset,
                (clip[0], clip[1]) if clip else None, nan_policy, max_age, required, on_stale, default, bins)


def _action(section: Section) -> ActionSpecification:
    topic, kind = section.text('topic'), section.text('type', TWIST)
    if not _TOPIC.fullmatch(topic):
        raise section.error(f"'{topic}' is not a topic name: letters, digits, '_' and '/'", key='topic')
    table = section.section('actions')
    actions = {name: _values(table, name) for name in table.remaining()}
    if not 1 <= len(actions) <= 256 or not all(_NAME.fullmatch(n) and n != 'safe' for n in actions):
        raise table.error("must be 1..256 actions, named with a-z, 0-9 and '_' and not 'safe'")
    safe = _values(section, 'safe_action', required=kind != TWIST)
    paths = tuple(dict.fromkeys(path for row in (*actions.values(), safe) for path in row))
    missing = [path for path in paths if path not in safe]
    if kind == TWIST:  # a Twist of zeros stands still
        paths = tuple(dict.fromkeys((*paths, *TWIST_FIELDS)))
        safe = {path: safe.get(path, 0.0) for path in paths}
    elif missing:
        raise section.error(f"must give every field a value: add {', '.join(missing)}", key='safe_action')
    limits, rates = _limits(section, paths), _rate_limits(section, paths)
    section.close()
    for name, row in (*actions.items(), ('safe_action', safe)):
        for path, value in row.items():
            low, high = limits.get(path, (value, value))
            if not low <= value <= high:
                raise section.error(f'{name}: {path} = {value:g} is outside its limits [{low:g}, {high:g}]: '
                                    'correct one of them')
    return ActionSpecification(
        topic, kind, paths, tuple(actions),
        tuple(tuple(row.get(path, safe[path]) for path in paths) for row in actions.values()),
        tuple(safe[path] for path in paths), tuple(limits.get(path) for path in paths),
        tuple(rates.get(path) for path in paths))


def _values(parent: Section, key: str, required: bool = True) -> dict[str, float]:
    section = parent.section(key) if required else parent.optional_section(key)
    if section is None:
        return {}
    values = {}
    for path in section.remaining():
        try:
            writer(parse_path(path))
        except FieldError as error:
            raise section.error(str(error), key=path) from error
        values[path] = section.number(path)
    return values


def _limits(parent: Section, paths: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    section = parent.optional_section('limits')
    found: dict[str, tuple[float, float]] = {}
    if section is None:
        return found
    for path in paths:
        pair = section.numbers(path, 2)
        if pair:
            if pair[0] > pair[1]:
                raise section.error('must be [lowest, highest]', key=path)
            found[path] = (pair[0], pair[1])
    section.close()
    return found


def _rate_limits(parent: Section, paths: tuple[str, ...]) -> dict[str, float]:
    section = parent.optional_section('rate_limits')
    found: dict[str, float] = {}
    if section is None:
        return found
    for path in paths:
        value = section.number(path, None, 1e-6, 1e9)
        if value is not None:
            found[path] = value
    section.close()
    return found


def _episode(section: Section | None) -> tuple[Source | None, float | None]:
    if section is None:
        return None, None
    source = _source(section, 'data') if 'topic' in section.remaining() else None
    time_limit = section.number('time_limit', None, 0.1, 86400.0)
    section.close()
    return source, time_limit


def check_messages(specification: Specification) -> dict[str, type]:
    """
    Check every field path against its message class; return the class of every type used.

    Raises SpecificationError naming the term, the field and what the message has instead.
    """
    classes: dict[str, type] = {}

    def check(where: str, type_name: str, path: str, single: bool) -> None:
        try:
            kind = classes.setdefault(type_name, message_class(type_name))
            if check_path(parse_path(path), kind) and single:
                raise FieldError(f"'{path}' is an array: name one element, as '{path.split('[')[0]}[0]'")
        except FieldError as error:
            raise SpecificationError(f'{specification.file}: {where}: {error}') from error

    for term in specification.observation:
        # A slice has a size of its own; an array without one must be reduced to a single value.
        single = term.reduce == 'none' and ':' not in term.source.field
        check(f"observation term '{term.name}'", term.source.type, term.source.field, single)
    check('reward', specification.reward.type, specification.reward.field, True)
    if specification.episode_end:
        check('episode', specification.episode_end.type, specification.episode_end.field, True)
    for path in specification.action.fields:
        check('action', specification.action.type, path, True)
    return classes


__all__ = ['ActionSpecification', 'check_messages', 'difference', 'digest', 'load_specification', 'Source',
           'Specification', 'SpecificationError', 'Term']
