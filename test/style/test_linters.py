# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The linters of `make lint`, so that `make test` and `colcon test` run them, too."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [name for name in ('src/muster', 'launch', 'test', 'benchmarks', 'examples')
           if (ROOT / name).is_dir()]
HEADER = ['# Copyright 2026 Muster maintainers', '# SPDX-License-Identifier: Apache-2.0']


def sources(*suffixes: str) -> Iterator[Path]:
    """Yield the files of the project that have one of the suffixes."""
    for folder in (*FOLDERS, 'src/muster_interfaces', 'workspace', 'config', '.ci'):
        yield from (path for path in (ROOT / folder).rglob('*')
                    if path.suffix in suffixes and '__pycache__' not in path.parts)
    yield from (path for path in ROOT.iterdir() if path.suffix in suffixes)


def run(tool: str, *arguments: str) -> None:
    """
    Run the main program of a Python tool at the root; fail with what it found.

    In a process of its own: flake8 forks workers, and a fork of a process that has spun ROS nodes
    may hang or crash.
    """
    pytest.importorskip(tool, reason=f'{tool} is not part of this ROS 2 distribution')
    ran = subprocess.run([sys.executable, '-m', tool, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_ruff() -> None:
    run('ruff', 'check', '--no-cache', '.')


@pytest.mark.timeout(300)
def test_mypy() -> None:
    run('mypy')


def test_flake8() -> None:
    run('ament_flake8.main', '--config', 'workspace/flake8.ini', *FOLDERS)


def test_pep257() -> None:
    run('ament_pep257.main', *FOLDERS)


def test_every_source_names_copyright_and_licence() -> None:
    found = list(sources('.py', '.sh'))
    assert len(found) > 50
    for path in (*found, ROOT / '.ci' / 'run'):
        lines = [line for line in path.read_text().splitlines() if not line.startswith('#!')]
        assert lines[:2] == HEADER, path


def test_every_shell_script_is_bash() -> None:
    for path in (*sources('.sh'), ROOT / '.ci' / 'run'):
        assert subprocess.run(['bash', '-n', str(path)]).returncode == 0, path
