# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the launch files name exists: read, not run, so that it holds without `launch` installed."""
import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

from muster.bringup import add_arguments, founders, NODES
from muster.preflight import tables
from muster.ros.parameters import BUILT_IN
import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
TREES = {path.name: ast.parse(path.read_text()) for path in FILES}
WORLD = (ROOT / 'src' / 'muster' / 'simulation' / 'node.py').read_text()
each_file = pytest.mark.parametrize('name', TREES)


def calls(name: str, function: str) -> Iterator[ast.Call]:
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
            yield node


def strings(node: ast.AST) -> set[str]:
    """Return every string below a node; of an f-string over `name` one for each of the nodes."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            found.add(part.value)
        elif isinstance(part, ast.JoinedStr):
            found |= {eval_name(part, value) for value in NODES}
    return found


def eval_name(joined: ast.JoinedStr, value: str) -> str:
    return ''.join(part.value if isinstance(part, ast.Constant) else value for part in joined.values)


def declared(name: str) -> dict[str, ast.Call]:
    return {call.args[0].value: call for call in calls(name, 'DeclareLaunchArgument')}


def entry_points() -> dict[str, str]:
    rows = [text for text in strings(ast.parse((ROOT / 'setup.py').read_text())) if ' = muster.' in text]
    return dict(row.split(' = ') for row in rows)


def test_every_launch_file_is_read() -> None:
    assert list(TREES) == ['bringup.launch.py', 'fleet.launch.py', 'monitor.launch.py']


@each_file
def test_executables_are_installed_and_have_a_main(name: str) -> None:
    points = entry_points()
    named = {text for text in strings(TREES[name]) if text.endswith('_node') and ' ' not in text}
    expected = {'bringup.launch.py': {'composed_node', *(f'{node}_node' for node in NODES)},
                'fleet.launch.py': {'world_node'}, 'monitor.launch.py': set()}
    assert named - {'_node'} == expected[name]
    for executable in expected[name]:
        module, function = points[executable].split(':')
        source = ROOT / 'src' / Path(*module.split('.')).with_suffix('.py')
        assert any(isinstance(node, ast.FunctionDef) and node.name == function
                   for node in ast.parse(source.read_text()).body), source


@each_file
def test_files_exist(name: str) -> None:
    there = {path.name for folder in ('launch', 'config') for path in (ROOT / folder).rglob('*')}
    for text in strings(TREES[name]):
        if ' ' not in text and text.endswith(('.launch.py', '.rviz')):
            assert text in there
    assert 'robot.yaml' in there


@each_file
def test_arguments_are_described_and_none_is_dead_or_missing(name: str) -> None:
    known = declared(name)
    for argument, call in known.items():
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        assert 'default_value' in options and 'description' in options, argument
    used = {node.slice.value for node in ast.walk(TREES[name])
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)}
    used |= {call.args[0].value for call in calls(name, 'LaunchConfiguration')}
    if name == 'fleet.launch.py':
        used |= handed_on()
    assert used == set(known)


def handed_on() -> set[str]:
    """Return the arguments that the fleet passes to each robot by their own name."""
    assignment, = (node for node in ast.walk(TREES['fleet.launch.py']) if isinstance(node, ast.Assign)
                   and isinstance(node.targets[0], ast.Name) and node.targets[0].id == 'handed_on')
    return strings(assignment.value)


def test_the_fleet_passes_only_arguments_of_the_bringup() -> None:
    include, = calls('fleet.launch.py', 'IncludeLaunchDescription')
    passed = {key.value for node in ast.walk(include) if isinstance(node, ast.Dict)
              for key in node.keys if key is not None}
    assert passed | handed_on() <= set(declared('bringup.launch.py'))


@each_file
def test_parameters_are_declared_by_the_node(name: str) -> None:
    table = tables()
    for text in {key.value for node in ast.walk(TREES[name]) if isinstance(node, ast.Dict)
                 for key in node.keys if key is not None and 'parameters' in ast.unparse(TREES[name])}:
        if name == 'bringup.launch.py':
            assert text in BUILT_IN or all(text in table[node] for node in NODES), text
        elif text not in ('namespace', 'members'):
            assert f"ParameterSpec('{text}'" in WORLD
    for section in founders(['a']).items():
        assert set(section[1]['ros__parameters']) <= set(table[section[0].rsplit('/', 1)[-1]])


def test_every_argument_is_documented() -> None:
    page = (ROOT / 'docs' / 'bringup.md').read_text()
    for argument in declared('bringup.launch.py'):
        assert f'| `{argument}` |' in page
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for action in parser._actions[1:]:
        assert f' `{action.option_strings[0]}` |' in page
