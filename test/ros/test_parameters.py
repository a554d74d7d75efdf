# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Parameters are described, checked, and refused by name; what is wrong changes nothing."""
from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

from muster.ros.parameters import ParameterSpec
import pytest
from rclpy.parameter import Parameter
from sample import PARAMETERS, Sample

Make = Callable[..., Sample]


def given(*assignments: str) -> list[str]:
    """Return command-line arguments that set parameters."""
    return [word for assignment in assignments for word in ('-p', assignment)]


@pytest.mark.parametrize(('assignment', 'words'), [
    ('rat:=1.0', "unknown parameter 'rat'; did you mean 'rate'?"),
    ('zzz:=1.0', "unknown parameter 'zzz'; 'ros2 param list' shows the known ones"),
    ('rate:=fast', "parameter 'rate' must be of type double, not 'fast'"),
    ('rate:=0.01', "parameter 'rate' must be within 0.1..100.0, not 0.01"),
    ('rate:=.nan', "parameter 'rate' must be within"),
    ('rate:=.inf', "parameter 'rate' must be within"),
    ('count:=10', "parameter 'count' must be within 1..9, not 10"),
    ('count:=2.0', "parameter 'count' must be of type integer"),
    ('count:=true', "parameter 'count' must be of type integer"),
    ('mode:=lazy', "parameter 'mode' must be one of idle, busy, not 'lazy'"),
    ('even:=3', "parameter 'even': must be even"),
    ('names:=[1, 2]', "parameter 'names' must be of type string_array"),
])
def test_a_bad_override_is_named_and_the_default_stays(make: Make, assignment: str, words: str) -> None:
    node = make(*given(assignment))
    problem, = node.parameters.problems.values()
    assert words in problem
    for spec in PARAMETERS:
        assert node.get_parameter(spec.name).value == spec.default
    node.start()
    assert not node.is_active
    assert 'configure' not in node.steps
    assert words in node.failure


def test_every_bad_override_is_named_at_once(make: Make) -> None:
    node = make(*given('rat:=1.0', 'count:=10', 'mode:=lazy'))
    assert sorted(node.parameters.problems) == ['count', 'mode', 'rat']


def test_good_overrides_are_taken(make: Make) -> None:
    node = make(*given('rate:=5', 'count:=4', 'names:=[a, b]', 'fixed:=b', 'use_sim_time:=false',
                       'qos_overrides./words.publisher.depth:=3'))
    assert node.parameters.problems == {}
    values = [node.parameters[name] for name in ('rate', 'count', 'names', 'fixed')]
    assert values == [5.0, 4, ['a', 'b'], 'b']
    assert isinstance(values[0], float), 'a whole number is good for a double'


def test_the_empty_list_is_handed_out_empty(make: Make) -> None:
    assert make(*given("names:=['']")).parameters['names'] == []
    assert make().parameters['names'] == []


@pytest.mark.parametrize(('name', 'value', 'words'), [
    ('rat', 1.0, "did you mean 'rate'?"), ('rate', 1000.0, 'rate'), ('rate', math.nan, 'rate'),
    ('rate', 'fast', "expected 'Type.DOUBLE'"), ('count', 0, 'count'),
    ('mode', 'lazy', 'must be one of idle, busy'), ('even', 5, 'must be even'),
    ('fixed', 'b', 'read-only'), ('rate', None, 'cannot be undeclared'),
])
def test_a_bad_value_set_live_is_refused(make: Make, name: str, value: Any, words: str) -> None:
    node = make()
    before = {spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS}
    result, = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful
    assert words in result.reason
    assert {spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS} == before
    assert node.changes == []


def test_one_bad_value_of_several_changes_nothing(make: Make) -> None:
    node = make()
    result = node.set_parameters_atomically([Parameter('rate', value=1.0), Parameter('count', value=99)])
    assert not result.successful
    assert node.parameters['rate'] == 10.0
    assert node.changes == []


def test_a_good_value_set_live_is_applied_once(make: Make) -> None:
    node = make()
    result, = node.set_parameters([Parameter('names', value=[''])])
    assert result.successful
    result, = node.set_parameters([Parameter('rate', value=5)])
    assert result.successful
    assert type(node.parameters['rate']) is float, 'a whole number is good for a double'
    assert node.changes == [{'names': []}, {'rate': 5.0}]


def test_a_bad_override_can_be_corrected_live(make: Make) -> None:
    node = make(*given('count:=10'))
    node.start()
    assert not node.is_active
    node.set_parameters([Parameter('count', value=5)])
    node.start()
    assert node.is_active


def test_an_error_while_applying_leaves_the_node_alive(make: Make) -> None:
    node = make()
    node.broken['parameters_changed'] = ValueError('boom')
    result, = node.set_parameters([Parameter('rate', value=1.0)])
    assert result.successful
    assert node.failure == 'rate could not be applied: ValueError: boom'


@pytest.mark.parametrize('spec', PARAMETERS, ids=lambda spec: spec.name)
def test_parameters_describe_themselves(make: Make, spec: ParameterSpec) -> None:
    described = make().describe_parameter(spec.name)
    assert described.description == spec.description
    assert described.read_only == spec.read_only
    bounds = [*described.floating_point_range, *described.integer_range]
    assert [(b.from_value, b.to_value) for b in bounds] == \
        ([(spec.minimum, spec.maximum)] if spec.minimum is not None else [])
    assert (', '.join(spec.choices) in described.additional_constraints) == (spec.choices != ()) or \
        not spec.choices
