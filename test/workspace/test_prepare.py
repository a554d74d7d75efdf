# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The set-up does what changed and no more, and names in one line what it misses.

Most tests put a stand-in for Python on the PATH, which records what it is asked to do: what the
set-up decides is under test here, not pip and colcon. The real ones run before every test run.
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
import shutil
import subprocess

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ('bash', 'cat', 'cp', 'dirname', 'find', 'grep', 'mkdir', 'nproc', 'rm', 'sha256sum', 'sort', 'tail',
         'uname', 'xargs')
#: How a step of the set-up calls Python, and what it is called here; a build is called by its package.
STEPS = {'-m venv': 'environment', '-m uv': 'packages', 'workspace/repair': 'repair', '-m colcon': ''}
STAND_IN = r"""#!/usr/bin/env bash
case "$*" in
  *'import rclpy'*) [ -z "${WITHOUT_RCLPY:-}" ] ;;
  *'print(sys.executable)'*) echo "$0" ;;
  -c*) ;;
  --version) echo Python 3.12.0 ;;
  *) echo "$*" >> "$RECORD"
     case "$*" in
       '-m venv'*) mkdir -p .venv/bin; cp "$0" .venv/bin/python
                   echo 'VIRTUAL_ENV=$PWD/.venv PATH=$PWD/.venv/bin:$PATH' > .venv/bin/activate ;;
       "-m ${UNREACHABLE:-none} "*) echo "$UNREACHABLE: no route to host" >&2; exit 1 ;;
       '-m colcon'*) [ ! -e broken ] || { echo boom; exit 1; }
                     [[ $* =~ select\ ([a-z_]+) ]] && mkdir -p "install/${BASH_REMATCH[1]}" ;;
     esac ;;
esac
"""


class Clone:
    """A copy of all that the set-up reads, with a PATH of its own."""

    def __init__(self, folder: Path) -> None:
        """Copy it to `folder`/clone."""
        self.root, self.tools, self.record = folder / 'clone', folder / 'bin', folder / 'record'
        for name in ('workspace', 'src/muster_interfaces', 'resource', 'launch', 'config'):
            shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns('__pycache__'))
        for name in ('setup.py', 'setup.cfg', 'package.xml'):
            shutil.copy(ROOT / name, self.root / name)
        self.tools.mkdir()
        for name in TOOLS:
            self.link(name)

    def link(self, name: str, to: str = '') -> None:
        """Put a tool of this machine on the PATH."""
        target = shutil.which(to or name)
        assert target, name
        (self.tools / name).symlink_to(target)

    def stand_in(self, name: str) -> None:
        """Put the recording Python on the PATH as `name`, and a compiler that is never called."""
        for path, text in ((self.tools / name, STAND_IN), (self.tools / 'c++', '#!/bin/sh\n')):
            path.write_text(text)
            path.chmod(0o755)

    def prepare(self, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the set-up, with nothing of this machine's Python and ROS in the environment."""
        given = {'PATH': str(self.tools), 'HOME': str(self.root.parent), 'RECORD': str(self.record)}
        return subprocess.run([str(self.root / 'workspace' / 'prepare.sh')], capture_output=True, text=True,
                              env={**given, **(environment or {})}, timeout=60)

    def steps(self, environment: Mapping[str, str] | None = None) -> list[str]:
        """Run the set-up successfully; return in short what it did."""
        self.record.write_text('')
        ran = self.prepare(environment)
        assert ran.returncode == 0, ran.stderr
        return [package or word for line in self.record.read_text().splitlines()
                for start, word in STEPS.items() if line.startswith(start)
                for package in [line.partition('--packages-select ')[2].partition(' ')[0]]]

    def change(self, name: str) -> None:
        """Append a line to one file."""
        with (self.root / name).open('a') as file:
            file.write('# changed\n')


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def one_line(ran: subprocess.CompletedProcess[str]) -> str:
    """Return the only line that a refused set-up wrote to its standard error."""
    assert ran.returncode == 1
    line, = ran.stderr.splitlines()
    return line


EVERYTHING = ['environment', 'packages', 'repair', 'muster_interfaces', 'muster']


def test_only_what_changed_is_done_again(clone: Clone) -> None:
    clone.stand_in('python3.12')
    assert clone.steps() == EVERYTHING
    assert clone.steps() == []
    for file, expected in (
            ('src/muster_interfaces/msg/Action.msg', ['muster_interfaces']),
            ('src/muster_interfaces/package.xml', ['muster_interfaces']),
            ('config/robot.yaml', ['muster']), ('setup.py', ['muster']),
            ('workspace/requirements.txt', ['packages', 'repair']),
            ('workspace/ros-wheels.txt', ['packages', 'repair', 'muster_interfaces'])):
        clone.change(file)
        assert clone.steps() == expected, file
        assert clone.steps() == [], file


def test_a_new_interface_is_built(clone: Clone) -> None:
    clone.stand_in('python3.12')
    clone.steps()
    (clone.root / 'src/muster_interfaces/msg/New.msg').write_text('bool new\n')
    assert clone.steps() == ['muster_interfaces']


@pytest.mark.parametrize(('removed', 'expected'), [
    ('.venv', EVERYTHING), ('install', ['muster_interfaces', 'muster']), ('install/muster', ['muster'])])
def test_what_was_removed_by_hand_is_made_again(clone: Clone, removed: str, expected: list[str]) -> None:
    clone.stand_in('python3.12')
    clone.steps()
    shutil.rmtree(clone.root / removed)
    assert clone.steps() == expected


def test_a_clone_that_was_moved_is_made_anew(clone: Clone) -> None:
    clone.stand_in('python3.12')
    clone.steps()
    clone.root = clone.root.rename(clone.root.with_name('elsewhere'))
    assert clone.steps() == EVERYTHING


def test_an_environment_whose_python_is_gone_is_made_anew(clone: Clone) -> None:
    clone.stand_in('python3.12')
    clone.steps()
    (clone.root / '.venv/bin/python').unlink()
    assert clone.steps() == EVERYTHING


def test_a_failed_build_is_shown_and_tried_again(clone: Clone) -> None:
    clone.stand_in('python3.12')
    (clone.root / 'broken').touch()
    ran = clone.prepare()
    assert ran.returncode == 1
    assert ran.stderr.startswith('boom\n')
    assert 'colcon could not build muster_interfaces: see log/build-muster_interfaces.txt' in ran.stderr
    (clone.root / 'broken').unlink()
    assert clone.steps() == ['muster_interfaces', 'muster']


def test_a_sourced_distribution_is_used(clone: Clone) -> None:
    clone.stand_in('python3')
    sourced = {'ROS_DISTRO': 'jazzy'}
    assert clone.steps(sourced) == ['environment', 'packages', 'muster_interfaces', 'muster']
    assert clone.steps(sourced) == []
    record = clone.record.with_name('before')
    shutil.rmtree(clone.root / '.venv')
    assert clone.prepare({**sourced, 'RECORD': str(record)}).returncode == 0
    assert '--system-site-packages' in record.read_text()
    assert 'ros-wheels.txt' not in record.read_text()


def test_another_source_of_ros_makes_everything_anew(clone: Clone) -> None:
    clone.stand_in('python3.12')
    clone.stand_in('python3')
    clone.steps()
    assert 'environment' in clone.steps({'ROS_DISTRO': 'jazzy'})


def test_a_distribution_that_is_not_sourced_is_named(clone: Clone) -> None:
    clone.stand_in('python3')
    line = one_line(clone.prepare({'ROS_DISTRO': 'jazzy', 'WITHOUT_RCLPY': '1'}))
    assert 'source /opt/ros/jazzy/setup.bash' in line


def test_a_missing_compiler_is_named(clone: Clone) -> None:
    assert 'apt install g++' in one_line(clone.prepare())
    assert not (clone.root / '.venv').exists()


def test_a_missing_python_is_named(clone: Clone) -> None:
    clone.link('c++', 'true')
    clone.link('python3.12', 'false')  # as a pyenv shim without its Python
    assert 'Python 3.12' in (line := one_line(clone.prepare()))
    assert 'apt install python3.12-venv' in line


@pytest.mark.parametrize('tool', ['pip', 'uv'])
def test_a_missing_network_is_named(clone: Clone, tool: str) -> None:
    clone.stand_in('python3.12')
    line = one_line(clone.prepare({'UNREACHABLE': tool}))
    assert 'is the network (PyPI) reachable?' in line
    assert (clone.root / 'log/install.txt').read_text() == f'{tool}: no route to host\n'
    assert clone.steps() == ['packages', 'repair', 'muster_interfaces', 'muster']
