# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The README is true: every command is understood by what it names, and every name exists.

Names and types are compared with the graph of the running nodes. A command that no check here
knows fails: nothing is skipped.
"""
from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
import re
import shlex
from typing import Any

from processes import Graph
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()
DOCUMENTS = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
#: What is the system's, not ours: nothing in the repository could contradict it.
FOREIGN = (r'git clone .+ src/muster', r'source install/setup\.bash', r'cd \S+')
COLCON = {'colcon build', 'colcon build --symlink-install', 'colcon build --base-paths src src/muster/src',
          'colcon test --packages-select muster', 'colcon test-result --verbose'}


def commands(text: str) -> list[str]:
    """Return the commands of every fenced bash block, without prompts, comments and continuations."""
    blocks = re.findall(r'^```bash\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
    lines = (line.strip() for block in blocks for line in block.replace('\\\n', ' ').splitlines())
    return [line for line in lines if line and not line.startswith('#')]


def rows(section: str) -> list[list[str]]:
    """Return the cells of the table below a heading."""
    body = README.partition(f'### {section}\n')[2].partition('\n#')[0]
    found = [[cell.strip() for cell in line.strip('|').split('|')]
             for line in body.splitlines() if line.startswith('|')]
    assert len(found) > 2, f'no table below {section}'
    return found[2:]


def words(cell: str) -> list[str]:
    """Return what stands in code style, each with the folder of the one before."""
    found: list[str] = []
    for word in re.findall(r'`([\w/]+)`', cell):
        folder = found[-1].rpartition('/')[0] if found else ''
        found.append(f'{folder}/{word}' if folder and '/' not in word else word)
    return found


def of_robot_1(name: str) -> str:
    """Return the name that the one robot under test has for it."""
    return re.sub(r'^/robot_\d+/', '/robot_1/', name)


def fill(message: Any, values: dict[str, Any]) -> None:
    """Set fields; the generated classes refuse unknown names and wrong types."""
    for name, value in values.items():
        assert hasattr(message, name), f"no field '{name}'"
        if isinstance(value, dict):
            fill(getattr(message, name), value)
        else:
            setattr(message, name, value)


def declared_arguments(path: Path) -> set[str]:
    """Return the arguments of a launch file, which may be read where `launch` is not installed."""
    return {call.args[0].value for call in ast.walk(ast.parse(path.read_text()))
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
            and call.func.id == 'DeclareLaunchArgument' and isinstance(call.args[0], ast.Constant)}


# One check for each kind of command -------------------------------------------------------------
def check_make(arguments: list[str], graph: Graph) -> None:
    targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    named = [word for word in arguments if '=' not in word]
    assert named
    assert set(named) <= targets
    assert all(word.startswith('ARGS=') for word in arguments if word not in named)


def check_muster(arguments: list[str], graph: Graph) -> None:
    from muster import cli
    cli.parser().parse_args(arguments)


def check_launch(arguments: list[str], graph: Graph) -> None:
    package, name, *given = arguments
    path = ROOT / 'launch' / name
    assert package == 'muster'
    assert path.is_file()
    assert {word.partition(':=')[0] for word in given} <= declared_arguments(path)


def check_service(arguments: list[str], graph: Graph) -> None:
    verb, name, kind, *content = arguments
    assert verb == 'call'
    assert graph.services[of_robot_1(name)] == [kind]
    package, _, stem = kind.split('/')
    request = getattr(import_module(f'{package}.srv'), stem).Request()
    fill(request, yaml.safe_load(content[0]) if content else {})


def check_action(arguments: list[str], graph: Graph) -> None:
    verb, name, kind, content = (word for word in arguments if not word.startswith('--'))
    assert verb == 'send_goal'
    package, _, stem = kind.split('/')
    assert graph.services[f'{of_robot_1(name)}/_action/send_goal'] == [f'{kind}_SendGoal']
    fill(getattr(import_module(f'{package}.action'), stem).Goal(), yaml.safe_load(content))


def check_topic(arguments: list[str], graph: Graph) -> None:
    verb, *names = (word for word in arguments if not word.startswith('-'))
    assert verb in ('echo', 'hz', 'info')
    assert {of_robot_1(name) for name in names} <= graph.published


def check_lifecycle(arguments: list[str], graph: Graph) -> None:
    verb, node, *transition = arguments
    assert (verb, len(transition)) in (('get', 0), ('set', 1))
    assert set(transition) <= {'configure', 'activate', 'deactivate', 'cleanup', 'shutdown'}
    assert f'{of_robot_1(node)}/get_state' in graph.services


def check_param(arguments: list[str], graph: Graph) -> None:
    from muster.preflight import tables
    verb, node, *rest = arguments
    assert verb in ('list', 'describe', 'get', 'set')
    assert f'{of_robot_1(node)}/get_parameters' in graph.services
    assert set(rest[:1]) <= set(tables()[node.rpartition('/')[2]])


def check_node(arguments: list[str], graph: Graph) -> None:
    assert arguments == ['list']


CHECKS = {'make': check_make, 'muster': check_muster, 'ros2 action': check_action,
          'ros2 launch': check_launch, 'ros2 lifecycle': check_lifecycle, 'ros2 node': check_node,
          'ros2 param': check_param, 'ros2 service': check_service, 'ros2 topic': check_topic}


@pytest.mark.processes
@pytest.mark.timeout(180)
@pytest.mark.parametrize('command', commands(README + (ROOT / 'CONTRIBUTING.md').read_text()))
def test_the_command_is_understood(command: str, graph: Graph) -> None:
    if command in COLCON or any(re.fullmatch(pattern, command) for pattern in FOREIGN):
        return
    parts = shlex.split(command, comments=True)
    length = 2 if parts[0] == 'ros2' else 1
    check = CHECKS.get(' '.join(parts[:length]))
    assert check, f'no check knows this command: {command}'
    check(parts[length:], graph)


@pytest.mark.processes
def test_the_services_and_topics_of_the_tables_are_there(graph: Graph) -> None:
    services = [name for row in rows('Services') for name in words(row[0])]
    assert [name for name in services if f'/robot_1/{name}' not in graph.services] == []
    actions = [name for row in rows('Actions') for name in words(row[0])]
    assert [name for name in actions if f'/robot_1/{name}/_action/send_goal' not in graph.services] == []
    topics = [name for row in rows('Topics') for name in words(row[0])]
    assert [name for name in topics if not {name, f'/robot_1/{name}'} & set(graph.topics)] == []


def test_the_parameters_of_the_table_are_there_with_these_defaults() -> None:
    from muster.preflight import tables
    known, node = tables(), ''
    shipped = yaml.safe_load((ROOT / 'config' / 'robot.yaml').read_text())
    for first, names, defaults, _ in rows('Parameters'):
        node = first or node
        for name, default in zip(words(names), defaults.split(', '), strict=False):
            table = known['cluster' if node == 'all' else node]
            assert name in table
            value = shipped.get(f'/**/{node}', {}).get('ros__parameters', {}).get(name, table[name].default)
            assert str(value).lower() == default, name


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r'\]\(([^)#\s]+)', path.read_text()):
        if not re.match(r'[a-z]+:', target):
            assert (path.parent / target).exists(), target
