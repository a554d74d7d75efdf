# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Reads a whole specification file; everything but the message classes is checked here."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from muster.learning.agents.base import Hyperparameters
from muster.learning.agents.dqn import DQNParameters
from muster.learning.agents.onnx_policy import OnnxParameters
from muster.learning.agents.ppo import PPOParameters
from muster.learning.agents.q_learning import QLearningParameters
from muster.learning.document import read_document, Section
from muster.learning.expression import Expression, ExpressionError
from muster.learning.specification.action import read_action
from muster.learning.specification.observation import read_observation, read_source
from muster.learning.specification.parts import (
    ActionSpecification, Formula, places_of, Source, Specification)

#: Kinds of agents → their hyper-parameters.
AGENTS: dict[str, type[Hyperparameters]] = {
    'q_learning': QLearningParameters, 'dqn': DQNParameters, 'ppo': PPOParameters, 'onnx': OnnxParameters}
#: Kinds that choose among named actions only.
DISCRETE_KINDS = ('q_learning', 'dqn')
#: The kind that a policy trained elsewhere has.
FOREIGN_KIND = 'onnx'


def load_specification(path: Path) -> Specification:
    """Read and check a specification file; raises SpecificationError."""
    top = read_document(path)
    rate = top.number('rate', minimum=0.1, maximum=200.0)
    agent = top.section('agent')
    kind, hyperparameters, policy_file = _read_agent(agent, path.parent)
    terms = read_observation(top, kind)
    action = read_action(top.section('action'), rate, terms)
    _match(agent, kind, action)
    places = places_of(terms)
    reward = top.section('reward')
    told, max_age = _told(reward, places), reward.number('max_age', 1.0, 0.01, 3600.0)
    reward.close()
    end, time_limit = _read_episode(top.optional_section('episode'), places)
    budget = _read_learning(top.optional_section('learning'))
    top.close()
    specification = Specification(str(path), rate, terms, action, told, max_age, end, time_limit, kind,
                                  hyperparameters, policy_file, budget)
    types = {action.topic: action.type}
    for source in specification.sources:
        if types.setdefault(source.topic, source.type) != source.type:
            raise top.error(f"topic '{source.topic}' is given two types, {types[source.topic]} and "
                            f'{source.type}: correct one')
    return specification


def _read_agent(section: Section, folder: Path) -> tuple[str, Hyperparameters, str]:
    kind = section.text('kind', choices=tuple(AGENTS))
    policy_file = str(folder / Path(section.text('model')).expanduser()) if kind == FOREIGN_KIND else ''
    values = {item.name: _hyperparameter(section, item.name, item.default, item.metadata)
              for item in fields(AGENTS[kind])}
    section.close()
    try:
        return kind, AGENTS[kind](**values), policy_file
    except ValueError as error:
        raise section.error(str(error)) from error


def _hyperparameter(section: Section, key: str, default: Any, metadata: Mapping[str, Any]) -> Any:
    low, high = metadata['minimum'], metadata['maximum']
    if isinstance(default, bool):
        return section.flag(key, default)
    if isinstance(default, int):
        return section.integer(key, default, low, high)
    if isinstance(default, tuple):
        return section.integers(key, default, low, high)
    return section.number(key, default, low, high)


def _match(section: Section, kind: str, action: ActionSpecification) -> None:
    if action.ranges and kind in DISCRETE_KINDS:
        others = [other for other in AGENTS if other not in DISCRETE_KINDS]
        raise section.error(f"'{kind}' chooses among named actions: give `actions` instead of `continuous`"
                            + (f", or use {' or '.join(others)}" if others else ''), key='kind')


def _told(section: Section, places: Mapping[str, slice]) -> Source | Formula:
    """Read what is told by a topic or by an expression."""
    keys = section.remaining()
    if ('topic' in keys) == ('expression' in keys):
        raise section.error("needs one of the keys 'topic' and 'expression'")
    if 'topic' in keys:
        return read_source(section, 'data')
    text = ' '.join(section.text('expression', longest=500).split('\n'))
    try:
        Expression(text, places)
    except ExpressionError as error:
        raise section.error(str(error), key='expression') from error
    return Formula(text)


def _read_episode(section: Section | None,
                  places: Mapping[str, slice]) -> tuple[Source | Formula | None, float | None]:
    if section is None:
        return None, None
    keys = section.remaining()
    end = _told(section, places) if 'topic' in keys or 'expression' in keys else None
    time_limit = section.number('time_limit', None, 0.1, 86400.0)
    section.close()
    return end, time_limit


def _read_learning(section: Section | None) -> float:
    budget = 0.5
    if section is not None:
        budget = section.number('budget', budget, 0.01, 0.9)
        section.close()
    return budget
