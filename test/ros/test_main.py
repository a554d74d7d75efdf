# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Every executable ends cleanly on a signal, and says in one line why it does not start."""
from __future__ import annotations

import os
from pathlib import Path
import signal

from lifecycle_msgs.srv import GetState
from processes import Fleet, Process, wait_until
import pytest

pytestmark = pytest.mark.processes
EXECUTABLES = ('muster.cluster.node', 'muster.learning.node', 'muster.hardware.node',
               'muster.simulation.node', 'muster.composed')
COMMANDS = (('muster.cli', 'status'), ('muster.cli', 'up'), ('muster.demo', '--headless'))
#: Many processes start at once here, on machines that may be slow.
PATIENCE = 90.0

#: Two nodes in a process, one of which breaks and then cannot be stopped.
BREAKING = """
from muster.ros.main import run
from sample import Sample

class Breaking(Sample):
    def activate(self):
        self.run_soon(self.fail)

    def fail(self):
        raise ValueError('what came first')

    def stop(self):
        raise RuntimeError('it does not stop')

class Other(Sample):
    def stop(self):
        super().stop()
        print('the other one has stopped', flush=True)

run(Other, Breaking)
"""


def last_lines(process: Process) -> list[str]:
    """Return what a process printed until its end, without what the ROS library itself logs."""
    assert process.wait(PATIENCE) == 1, process.text
    return [line for line in process.text.splitlines() if not line.startswith(('[WARN]', '[ERROR]'))]


def sample(fleet: Fleet, name: str, *arguments: str) -> Process:
    """Start the sample node."""
    fleet.environment['PYTHONPATH'] = f'{Path(__file__).parent}:{os.environ.get("PYTHONPATH", "")}'
    return fleet.start(name, 'sample', *arguments)


@pytest.mark.timeout(180)
def test_every_executable_ends_with_zero_on_both_signals(fleet: Fleet) -> None:
    fleet.environment |= {'HOME': str(fleet.folder), 'XDG_STATE_HOME': ''}
    running = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        space = f'/{number.name.lower()}'
        arguments = ['--ros-args', '-r', f'__ns:={space}']
        running[number] = [fleet.start(f'composed{number}', 'muster.composed', *arguments),
                           fleet.start(f'world{number}', 'muster.simulation.node', *arguments)]
        for node in ('cluster', 'learning', 'hardware', 'world'):
            wait_until(lambda name=f'{space}/{node}/get_state':  # type: ignore[misc]
                       fleet.probe.call(GetState, name, PATIENCE).current_state.label == 'active',
                       PATIENCE, f'{node} active')
    for number, processes in running.items():
        for process in processes:
            process.send(number)
    for process in (process for processes in running.values() for process in processes):
        assert process.wait(PATIENCE) == 0, process.text
        assert 'Traceback' not in process.text


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_node_spins_ends_it_with_zero(fleet: Fleet, number: int) -> None:
    process = sample(fleet, 'sample', '--ros-args', '-p', f'signal:={int(number)}')
    assert process.wait(PATIENCE) == 0, process.text
    assert 'Traceback' not in process.text


def test_a_node_that_breaks_is_told_and_the_others_are_stopped(fleet: Fleet) -> None:
    (fleet.folder / 'breaking.py').write_text(BREAKING)
    fleet.environment['PYTHONPATH'] = os.pathsep.join(
        [str(fleet.folder), str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')])
    lines = last_lines(fleet.start('breaking', 'breaking'))
    assert 'the other one has stopped' in lines
    assert lines[-1] == 'ValueError: what came first'


@pytest.mark.timeout(180)
def test_arguments_that_are_refused_are_named_in_one_line(fleet: Fleet) -> None:
    refused = {'1': (('-r', '__ns:=/1x'), '__ns:=/1x'), '2': (('-r', '__node:=bad-name'), 'bad-name'),
               '3': (('-p', 'x'), "'-p x'"), '4': (('--params-file', '/no.yaml'), '/no.yaml'),
               '5': (('-p', 'diagnostics_topic:=a b'), "'a b'"), '6': (('--log-level', 'loud'), 'loud')}
    for name, (arguments, _) in refused.items():
        sample(fleet, name, '--ros-args', *arguments)
    sample(fleet, 'plain', '--rate', '5')
    for name, (_, words) in refused.items():
        line, = last_lines(fleet.processes[name])
        assert line.startswith('muster: ')
        assert words in line
    assert last_lines(fleet.processes['plain']) == [
        'muster: unknown arguments: --rate 5; ROS arguments stand behind --ros-args']


@pytest.mark.timeout(180)
def test_without_the_message_types_every_executable_says_how_to_build_them(fleet: Fleet) -> None:
    (fleet.folder / 'hidden' / 'muster_interfaces' / 'msg').mkdir(parents=True)
    (fleet.folder / 'hidden' / 'muster_interfaces' / '__init__.py').touch()
    fleet.environment['PYTHONPATH'] = f'{fleet.folder}/hidden:{os.environ.get("PYTHONPATH", "")}'
    started = [fleet.start(f'{module} {" ".join(arguments)}', module, *arguments)
               for module, *arguments in (*((module,) for module in EXECUTABLES), *COMMANDS)]
    for process in started:
        line, = last_lines(process)
        assert "'make shell'" in line
        assert "'colcon build --packages-up-to muster'" in line
