# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Hyper-parameters as ROS parameters: the described dataclasses of the agents are their only source."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import Field, fields, replace
from typing import Any

from muster.learning.agents.base import Hyperparameters, Value
from muster.ros.parameters import ParameterSpec

FIXED = 'is fixed once the agent is made: give it in the specification or the parameter file, and restart'


def specs(parameters: Hyperparameters) -> list[ParameterSpec]:
    """Return one parameter for each hyper-parameter, whose default is its present value."""
    return [_spec(item, getattr(parameters, item.name)) for item in fields(parameters)]


def all_specs(kinds: Iterable[type[Hyperparameters]]) -> tuple[ParameterSpec, ...]:
    """
    Return the parameters of all kinds of agents, to be declared when the kind is known.

    Where kinds share a name, what any of them allows is allowed here.
    """
    found: dict[str, ParameterSpec] = {}
    for kind in kinds:
        for item in fields(kind):
            spec = replace(_spec(item, item.default), deferred=True)
            known = found.get(spec.name, spec)
            if known.minimum is not None and spec.minimum is not None:
                assert known.maximum is not None
                assert spec.maximum is not None
                spec = replace(known, minimum=min(known.minimum, spec.minimum),
                               maximum=max(known.maximum, spec.maximum))
            found[spec.name] = spec
    return tuple(found.values())


def values(parameters: Hyperparameters, given: Callable[[str], Any],
           live: bool = False) -> dict[str, Value]:
    """Return the values that `given` has by name; only those that may change, if `live`."""
    return {item.name: _value(given(item.name)) for item in fields(parameters)
            if item.metadata['live'] or not live}


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _spec(item: Field[Any], default: Any) -> ParameterSpec:
    data, several = item.metadata, isinstance(default, tuple)
    bounded = not several and not isinstance(default, bool)
    return ParameterSpec(
        item.name, list(default) if several else default, data['description'],
        minimum=data['minimum'] if bounded else None, maximum=data['maximum'] if bounded else None,
        check=_sizes(data['minimum'], data['maximum']) if several else None,
        fixed='' if data['live'] else FIXED)


def _sizes(low: float, high: float) -> Callable[[Any], str]:
    def check(given: Any) -> str:
        return '' if all(low <= entry <= high for entry in given) else \
            f'every entry must be within {low:g}..{high:g}, not {list(given)}'
    return check
