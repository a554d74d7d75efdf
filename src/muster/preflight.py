# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Check a robot's name and parameter file against the nodes' own tables before anything is started.

Every problem is named with its file and line. The nodes check their parameters themselves as well;
here a mistake is found before three processes run into it.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
import difflib
from importlib import import_module
from pathlib import Path
import sys
from typing import Any

from muster.bringup import NODES
from muster.ros import interfaces as interfaces  # noqa: F401  first: it explains missing types
from muster.ros.node import COMMON_PARAMETERS, NAME
from muster.ros.parameters import BUILT_IN, BUILT_IN_PREFIXES, ParameterSpec
import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
#: Sections of these nodes may be there, too, but are not checked here.
OTHER_NODES = ('world',)
Tables = Mapping[str, Mapping[str, ParameterSpec]]


class Problem(Exception):
    """What is wrong in a line of a parameter file."""

    def __init__(self, node: Any, message: str) -> None:
        """Keep the line (from 1) where `node`, anything with a start mark, begins."""
        super().__init__(message)
        self.line = node.start_mark.line + 1


def tables() -> Tables:
    """Return the declared parameters of each node, by node and name."""
    return {node: {spec.name: spec for spec in
                   (*COMMON_PARAMETERS, *import_module(f'muster.{node}.node').PARAMETERS)}
            for node in NODES}


def problems(text: str, known: Tables) -> list[tuple[int, str]]:
    """Return (line, message) for everything that is wrong in the text of a parameter file."""
    found: list[tuple[int, str]] = []
    try:
        _check_shape(text)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return []
        for section in _sections(root, ''):
            found += _section_problems(loader, *section, known)
    except Problem as problem:
        found.append((problem.line, str(problem)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        found.append((mark.line + 1 if mark else 1, f'not YAML: {error.problem or error.context}'))
    except yaml.YAMLError as error:
        found.append((1, f'not YAML: {" ".join(str(error).split())}'))
    return found


def _check_shape(text: str) -> None:
    """Refuse what ROS does not read, and depth that would exhaust the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise Problem(event, f'nested deeper than {MAX_DEPTH} levels')
        if isinstance(event, yaml.AliasEvent):
            raise Problem(event, 'ROS parameter files have no anchors and aliases')


def _items(node: yaml.Node, what: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Yield (key, key node, value node) of a mapping; refuse a key that is there twice."""
    if not isinstance(node, yaml.MappingNode):
        raise Problem(node, f'{what} must be a mapping')
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise Problem(key, 'a key must be a word')
        if key.value in seen:
            raise Problem(key, f"key '{key.value}' is there twice")
        seen.add(key.value)
        yield key.value, key, value


def _sections(node: yaml.Node, path: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Yield (path of the node, its key, its parameters) of every section, also of nested ones."""
    for name, key, value in _items(node, path or 'a parameter file'):
        below = f'{path}/{name}' if path else name
        children = {n: v for n, _, v in _items(value, f"'{below}'")}
        if 'ros__parameters' in children:
            if len(children) > 1:
                raise Problem(key, f"'{below}' has keys beside 'ros__parameters'")
            yield below, key, children['ros__parameters']
        else:
            yield from _sections(value, below)


def _section_problems(loader: yaml.SafeLoader, path: str, key: yaml.Node, parameters: yaml.Node,
                      known: Tables) -> Iterator[tuple[int, str]]:
    node = path.rsplit('/', 1)[-1]
    if node in OTHER_NODES:
        return
    # A wildcard section reaches every node, and each refuses what it does not know.
    targets = list(known) if node in ('*', '**') else [node]
    if node not in known and targets == [node]:
        yield key.start_mark.line + 1, f"unknown node '{node}'{_nearest(node, known)}"
        return
    for name, value in _flat(parameters, ''):
        for target in targets:
            reason = _value_problem(loader, name, value, known[target])
            if reason:
                yield value.start_mark.line + 1, f'{target}: {reason}'
                break


def _flat(node: yaml.Node, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    for name, _, value in _items(node, prefix or "'ros__parameters'"):
        full = f'{prefix}.{name}' if prefix else name
        if isinstance(value, yaml.MappingNode):
            yield from _flat(value, full)
        else:
            yield full, value


def _value_problem(loader: yaml.SafeLoader, name: str, node: yaml.Node,
                   table: Mapping[str, ParameterSpec]) -> str:
    if name in BUILT_IN or name.startswith(BUILT_IN_PREFIXES):
        return ''
    if name not in table:
        return f"unknown parameter '{name}'{_nearest(name, table)}"
    value = loader.construct_object(node, deep=True)
    if value == []:
        return f"parameter '{name}': ROS has no empty list, write ['']"
    if isinstance(table[name].default, float) and type(value) is int:
        value = float(value)
    try:
        return table[name].problem(value)
    except TypeError:
        return f"parameter '{name}': {value!r} is no value of ROS; is it to be quoted?"


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f'; known: {", ".join(sorted(known))}'


def check(robot: str, params: Path, known: Tables) -> list[str]:
    """Return a line for each thing that is wrong, an empty list where all is well."""
    if not NAME.fullmatch(robot):
        return [f"'{robot}' is no robot name: use letters, digits and underscores, beginning with a "
                'letter, at most 64']
    try:
        with params.open('rb') as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        return [f"parameter file '{params}' cannot be read: {getattr(error, 'strerror', None) or error}"]
    if len(content) > MAX_BYTES:
        return [f"parameter file '{params}' is longer than {MAX_BYTES} bytes"]
    return [f'{params}:{line}: {message}' for line, message in problems(text, known)]


def main() -> int:
    """Check `ROBOT FILE` of the command line; return 2 where something is wrong."""
    robot, params = sys.argv[1:]
    wrong = check(robot, Path(params), tables())
    for line in wrong:
        print(f'muster: {line}', file=sys.stderr)
    return 2 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
