# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Described and validated ROS parameters, declared from a table."""
from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
import difflib
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

#: Parameters that rclpy itself declares or reads; they are never 'unknown'.
BUILT_IN = ('use_sim_time', 'start_type_description_service')
BUILT_IN_PREFIXES = ('qos_overrides.',)


@dataclass(frozen=True)
class ParameterSpec:
    """
    One parameter: its default fixes its type.

    `minimum` and `maximum` bound numbers (inclusive); `choices` lists allowed values; `check`
    returns what is wrong with a value, or an empty string. Read-only parameters are fixed when the
    node starts; the others may be set live. ROS has no typed empty list, so the empty list of
    strings is written `['']`, here and in YAML; `Parameters` hands out `[]` for it.

    `fixed` says why a value cannot be set live, though it may be given at the start. A `deferred`
    parameter is declared later, when its node knows the default (`Parameters.declare`).
    """

    name: str
    default: Any
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str] | None = None
    read_only: bool = False
    fixed: str = ''
    deferred: bool = False

    @property
    def type(self) -> Parameter.Type:
        """Return the ROS type that the default stands for."""
        return Parameter.Type.from_parameter_value(self.default)

    def descriptor(self) -> ParameterDescriptor:
        """Return the descriptor that `ros2 param describe` shows."""
        described = ParameterDescriptor(
            name=self.name, description=self.description, read_only=self.read_only,
            additional_constraints='one of: ' + ', '.join(self.choices) if self.choices else self.fixed)
        if self.minimum is not None and self.maximum is not None:
            if self.type == Parameter.Type.DOUBLE:
                described.floating_point_range = [FloatingPointRange(
                    from_value=float(self.minimum), to_value=float(self.maximum))]
            elif self.type == Parameter.Type.INTEGER:
                described.integer_range = [IntegerRange(
                    from_value=int(self.minimum), to_value=int(self.maximum), step=1)]
        return described

    def converted(self, value: Any) -> Any:
        """Return a whole number as the double that is meant: YAML and people write 1.0 as 1."""
        return float(value) if self.type == Parameter.Type.DOUBLE and type(value) is int else value

    def problem(self, value: Any) -> str:
        """Return what is wrong with a value, naming parameter and remedy, or an empty string."""
        if Parameter.Type.from_parameter_value(value) != self.type:
            return f"parameter '{self.name}' must be of type {self.type.name.lower()}, not {value!r}"
        if self.choices and value not in self.choices:
            return f"parameter '{self.name}' must be one of {', '.join(self.choices)}, not '{value}'"
        for bound, broken in ((self.minimum, lambda b: value < b), (self.maximum, lambda b: value > b)):
            if bound is not None and (value != value or broken(bound)):
                return f"parameter '{self.name}' must be within {self.minimum}..{self.maximum}, not {value}"
        reason = self.check(value) if self.check else ''
        return f"parameter '{self.name}': {reason}" if reason else ''


class Parameters:
    """
    The declared parameters of a node that was made to take every override it is given.

    The node must be constructed with `allow_undeclared_parameters=True` and
    `automatically_declare_parameters_from_overrides=True`: only so are keys visible that nobody
    declares, and a mistyped key of a configuration file can be refused by name. `problems` holds
    what is wrong with the overrides; a node with problems must not be configured.
    """

    def __init__(self, node: Node, specs: Sequence[ParameterSpec],
                 on_change: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Declare `specs` on `node`; `on_change(changed)` runs after values were set live."""
        self._node = node
        self._specs = {spec.name: spec for spec in specs if not spec.deferred}
        self._deferred = {spec.name for spec in specs if spec.deferred}
        self._on_change = on_change
        self.problems: dict[str, str] = {}
        self._given = {name: p.value for name, p in node.get_parameters_by_prefix('').items()}
        known = {*self._specs, *self._deferred, *BUILT_IN}
        for name in self._given:
            if name not in known and not name.startswith(BUILT_IN_PREFIXES):
                self.problems[name] = self._unknown(name)
        for spec in self._specs.values():
            self._declare(spec)
        node.add_pre_set_parameters_callback(self._convert)
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._apply)

    def __getitem__(self, name: str) -> Any:
        """Return the present value."""
        return _plain(self._node.get_parameter(name).value)

    def declare(self, specs: Sequence[ParameterSpec]) -> list[str]:
        """
        Declare the deferred parameters that there are now, anew where they were declared before.

        Values that were given at the start or set live stay. Returns what is wrong with them; one
        that is not among `specs` is as good as unknown.
        """
        for name in self._deferred & set(self._specs):
            del self._specs[name]
            self._node.undeclare_parameter(name)
        self._specs |= {spec.name: spec for spec in specs}
        given = dict(self._given)
        for spec in specs:
            self.problems.pop(spec.name, None)
            self._declare(spec)
        self._given = given  # to declare a default is not to give it
        known = ', '.join(spec.name for spec in specs)
        return [self.problems.pop(spec.name) for spec in specs if spec.name in self.problems] \
            + [f"parameter '{name}' has no meaning here: known are {known}"
               for name in sorted(self._deferred & set(self._given) - set(self._specs))]

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, {*self._specs, *self._deferred}, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "; 'ros2 param list' shows the known ones"
        return f"unknown parameter '{name}'{hint}"

    def _declare(self, spec: ParameterSpec) -> None:
        value = spec.default
        if self._node.has_parameter(spec.name):
            self._node.undeclare_parameter(spec.name)
        if spec.name in self._given:
            value = spec.converted(self._given[spec.name])
            reason = spec.problem(value)
            if reason:
                self.problems[spec.name] = reason
                value = spec.default
        self._node.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True)

    def _convert(self, parameters: list[Parameter]) -> list[Parameter]:
        return [Parameter(p.name, value=self._specs[p.name].converted(p.value))
                if p.name in self._specs else p for p in parameters]

    def _validate(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            spec = self._specs.get(parameter.name)
            if spec is None:
                if parameter.name in BUILT_IN or parameter.name.startswith(BUILT_IN_PREFIXES):
                    continue
                return SetParametersResult(successful=False, reason=self._unknown(parameter.name))
            reason = spec.problem(parameter.value)
            if spec.fixed and not reason and self._node.has_parameter(spec.name) \
                    and _plain(parameter.value) != self[spec.name]:
                reason = f"parameter '{spec.name}' {spec.fixed}"
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _apply(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            self.problems.pop(parameter.name, None)
            if parameter.name in self._deferred:
                self._given[parameter.name] = parameter.value
        if self._on_change:
            self._on_change({p.name: _plain(p.value) for p in parameters if p.name in self._specs})


def _plain(value: Any) -> Any:
    """Return arrays as lists, and none for the list of one empty string."""
    value = list(value) if isinstance(value, array | tuple) else value
    return [] if value == [''] else value
