# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The launch files with the real `ros2 launch`."""
from collections.abc import Callable, Iterator
import contextlib
from importlib.util import find_spec
import os
from pathlib import Path
import shutil
import signal
import subprocess

from lifecycle_msgs.srv import GetState
from muster.bringup import NODES
from muster_interfaces.srv import GetClusterStatus
from processes import Fleet, Process, wait_until
import psutil
import pytest


def launch_is_installed() -> bool:
    """Look for the library itself: the folder `launch` alone is importable as a namespace package."""
    with contextlib.suppress(ModuleNotFoundError):
        return find_spec('launch.actions') is not None and shutil.which('ros2') is not None
    return False


pytestmark = [pytest.mark.processes, pytest.mark.skipif(
    not launch_is_installed(), reason='the packages launch and ros2launch are not installed: they come '
    'with a ROS 2 distribution, not from PyPI')]
#: Patience [s] for what comes at once on an idle machine.
READY = 60.0
Start = Callable[..., Process]


@pytest.fixture
def launch(fleet: Fleet) -> Iterator[Start]:
    """Give a function that starts a launch file; whatever it started is dead afterwards."""
    started: list[psutil.Process] = []

    def start(file: str, *arguments: str) -> Process:
        process = Process(['ros2', 'launch', 'muster', file, f'data:={fleet.folder}/data', *arguments],
                          fleet.folder / 'launch.txt', fleet.environment)
        fleet.processes['launch'] = process
        started.append(psutil.Process(process.pid))
        return process
    yield start
    for root in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in root.children(recursive=True):
                child.kill()


def active(fleet: Fleet, name: str) -> bool:
    """Ask once; a killed node stays discovered for a while, and nobody answers for it."""
    answer = fleet.probe.client(GetState, f'{name}/get_state', READY).call_async(GetState.Request())
    with contextlib.suppress(AssertionError):
        wait_until(answer.done, 1.0, 'answer')
    return bool(answer.done() and answer.result().current_state.label == 'active')


def wait_active(fleet: Fleet, *names: str) -> None:
    for name in names:
        wait_until(lambda name=name: active(fleet, name), READY, f'{name} active')


def interrupt(process: Process) -> None:
    """Press Ctrl-C: the terminal sends SIGINT to the whole group; then nothing may be left."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(READY) == 0, process.text
    assert not [child for child in children if child.is_running()]
    assert 'Traceback' not in process.text
    assert 'process has died' not in process.text.split('user interrupted')[1]


def executables(process: Process) -> dict[str, psutil.Process]:
    found = {}
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.Error, IndexError):
            found[Path(child.cmdline()[1]).name] = child
    return found


def test_a_robot_comes_up_and_a_killed_node_comes_back(fleet: Fleet, launch: Start) -> None:
    process = launch('bringup.launch.py', 'namespace:=robot_1')
    wait_active(fleet, *(f'/robot_1/{node}' for node in NODES))
    before = executables(process)
    assert set(before) == {f'{node}_node' for node in NODES}
    before['hardware_node'].kill()
    wait_until(lambda: executables(process).get('hardware_node', before['hardware_node'])
               != before['hardware_node'], READY, 'hardware respawned')
    wait_active(fleet, '/robot_1/hardware')
    after = executables(process)
    assert all(after[f'{node}_node'] == before[f'{node}_node'] for node in ('cluster', 'learning'))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(READY) == 0, process.text
    assert not [child for child in after.values() if child.is_running()]


def test_one_process_can_hold_all_nodes(fleet: Fleet, launch: Start) -> None:
    process = launch('bringup.launch.py', 'namespace:=robot_1', 'composed:=true')
    wait_active(fleet, *(f'/robot_1/{node}' for node in NODES))
    assert set(executables(process)) == {'composed_node'}
    assert (fleet.folder / 'data' / 'robot_1' / 'cluster').is_dir()
    interrupt(process)


def test_nodes_can_be_chosen_and_wait_for_the_operator(fleet: Fleet, launch: Start) -> None:
    process = launch('bringup.launch.py', 'namespace:=robot_1', 'nodes:=hardware', 'autostart:=false')
    answer = fleet.probe.call(GetState, '/robot_1/hardware/get_state', READY)
    assert answer.current_state.label == 'unconfigured'
    assert set(executables(process)) == {'hardware_node'}
    interrupt(process)


def test_a_fleet_founds_one_cluster(fleet: Fleet, launch: Start) -> None:
    process = launch('fleet.launch.py', 'robots:=2', 'nodes:=cluster')
    wait_active(fleet, '/world', '/robot_1/cluster', '/robot_2/cluster')

    def members() -> bool:
        states = [fleet.probe.call(GetClusterStatus, f'/{robot}/cluster/get_status', READY).status
                  for robot in ('robot_1', 'robot_2')]
        return len({s.cluster_id for s in states}) == 1 and all(
            s.leader and {m.id for m in s.members} == {'robot_1', 'robot_2'} for s in states)
    wait_until(members, READY, 'one cluster of two')
    interrupt(process)


@pytest.mark.parametrize('file', ['bringup.launch.py', 'fleet.launch.py', 'monitor.launch.py'])
def test_the_arguments_can_be_shown(file: str, fleet: Fleet) -> None:
    done = subprocess.run(['ros2', 'launch', 'muster', file, '--show-args'], env=fleet.environment,
                          capture_output=True, text=True, timeout=READY)
    assert done.returncode == 0, done.stderr
    assert 'No description given' not in done.stdout
    assert '(default: ' in done.stdout
