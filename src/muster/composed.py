# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Run several nodes of one robot in one process: `composed_node cluster hardware --ros-args ...`."""
from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
import sys

from muster.bringup import NODES, parse_nodes
from muster.ros.main import run
from muster.ros.node import ManagedNode


def factory(name: str) -> Callable[[], ManagedNode]:
    """Return the class of a node; a node that is not asked for is not imported."""
    made: Callable[[], ManagedNode] = getattr(import_module(f'muster.{name}.node'),
                                              f'{name.capitalize()}Node')
    return made


def main(args: list[str] | None = None) -> None:
    """Run the nodes that are named before `--ros-args`, all where none is."""
    given = sys.argv[1:] if args is None else args
    split = given.index('--ros-args') if '--ros-args' in given else len(given)
    try:
        names = parse_nodes(' '.join(given[:split] or NODES))
    except ValueError as error:
        sys.exit(f'composed_node: {error}')
    run(*map(factory, names), args=given[split:])


if __name__ == '__main__':
    main()
