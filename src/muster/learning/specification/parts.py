# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a specification says, as plain values, and the hash that binds a model to it."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
import hashlib
import json
from typing import Any

from muster.learning.agents.base import Actions, Continuous, Discrete, Hyperparameters


@dataclass(frozen=True)
class Source:
    """A value that arrives on a topic."""

    topic: str
    type: str
    field: str


@dataclass(frozen=True)
class Formula:
    """A value that is computed from the observation, as `expression.py` describes."""

    text: str


@dataclass(frozen=True)
class Term:
    """
    One term of the observation.

    A message's values go through: missing values, `valid` (broken beyond it) and `clip`, both in the
    message's units, `reduce`, then value * `scale` + `offset`. `bins` are inner edges on the result.
    """

    name: str
    source: Source
    size: int
    length: int | None
    reduce: str
    scale: float
    offset: float
    valid: tuple[float, float] | None
    clip: tuple[float, float] | None
    nan_policy: str
    max_age: float
    stamp: str
    required: bool
    on_stale: str
    default: float
    bins: tuple[float, ...] | None


@dataclass(frozen=True)
class ActionSpecification:
    """
    What the agent commands: named actions, or numbers within ranges.

    `values[i]` are what the action `names[i]` writes into `fields`; a continuous action has no names
    and writes its numbers, within `ranges`, into the first fields, and `safe` into the others. All in
    the units of the message. `limits` are (lowest, highest) of each field, `rate_limits` the largest
    change per second. `safe` is None where the last command is held; `measured` then names the
    term of each field that says where it stands before the first.
    """

    topic: str
    type: str
    fields: tuple[str, ...]
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    ranges: tuple[tuple[float, float], ...]
    safe: tuple[float, ...] | None
    measured: tuple[str, ...]
    limits: tuple[tuple[float, float] | None, ...]
    rate_limits: tuple[float | None, ...]
    joints: tuple[str, ...]
    frame_id: str
    time_from_start: float | None

    @property
    def space(self) -> Actions:
        """Return what an agent chooses from."""
        if self.ranges:
            low, high = zip(*self.ranges, strict=True)
            return Continuous(low, high)
        return Discrete(len(self.names))


@dataclass(frozen=True)
class Specification:
    """
    All of a specification file; `rate` is in cycles per second, times are in seconds.

    `learning_budget` is the part of each period that may be spent on learning; `policy_file` is the
    file of a policy trained elsewhere, empty for agents that learn.
    """

    file: str
    rate: float
    observation: tuple[Term, ...]
    action: ActionSpecification
    reward: Source | Formula
    reward_max_age: float
    episode_end: Source | Formula | None
    time_limit: float | None
    agent: str
    hyperparameters: Hyperparameters
    policy_file: str
    learning_budget: float

    @property
    def sources(self) -> list[Source]:
        """Return everything that is read, term by term, then reward and end of episode."""
        told = (*(term.source for term in self.observation), self.reward, self.episode_end)
        return [source for source in told if isinstance(source, Source)]

    @property
    def places(self) -> dict[str, slice]:
        """Return where the values of each term stand in the observation."""
        return places_of(self.observation)

    @property
    def elements(self) -> int:
        """Return the length of the observation vector."""
        return sum(term.size for term in self.observation)

    @property
    def meaning(self) -> dict[str, Any]:
        """Return what a model depends on, as JSON values: all but how old a term may be."""
        terms = [{key: value for key, value in asdict(term).items() if key not in ('max_age', 'stamp')}
                 for term in self.observation]
        plain: dict[str, Any] = json.loads(json.dumps(
            {'observation': terms, 'action': asdict(self.action)}))
        return plain

    @property
    def digest(self) -> str:
        """Return the canonical hash of observation and action specification (16 hex digits)."""
        return digest(self.meaning)


def places_of(terms: Sequence[Term]) -> dict[str, slice]:
    """Return where the values of each term stand in an observation of these terms."""
    places, start = {}, 0
    for term in terms:
        places[term.name] = slice(start, start + term.size)
        start += term.size
    return places


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
