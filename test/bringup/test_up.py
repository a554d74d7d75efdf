# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""`muster up` with real processes: they come up, come back, and leave nothing behind."""
import contextlib
from pathlib import Path
import re
import signal
from typing import Any

from lifecycle_msgs.srv import GetState
from muster import bringup
from muster.bringup import founders, NODES, parse_nodes
from muster.preflight import check, tables
from processes import Fleet, Process, wait_until
import psutil
import pytest
import yaml

#: Patience [s] for what comes at once on an idle machine.
READY = 60.0
CONFIG = Path(__file__).parents[2] / 'config' / 'robot.yaml'


def up(fleet: Fleet, *arguments: str) -> Process:
    return fleet.start('up', 'muster.cli', 'up', '--robot', 'robot_1', '--data', str(fleet.folder / 'data'),
                       *arguments)


def children(process: Process) -> dict[str, psutil.Process]:
    """Return the node processes of a supervisor, by the last module of their command."""
    found = {}
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.Error):  # it ended in this moment
            if match := re.search(r'-m muster\.(\w+)(?:\.node)? ', ' '.join(child.cmdline())):
                found[match[1]] = child
    return found


def active(fleet: Fleet, node: str) -> bool:
    """Ask once; a killed node stays discovered for a while, and nobody answers for it."""
    answer = fleet.probe.client(GetState, f'/robot_1/{node}/get_state', READY).call_async(GetState.Request())
    with contextlib.suppress(AssertionError):
        wait_until(answer.done, 1.0, 'answer')
    return bool(answer.done() and answer.result().current_state.label == 'active')


def all_active(fleet: Fleet) -> None:
    for node in NODES:
        wait_until(lambda node=node: active(fleet, node), READY, f'{node} active')


def gone(processes: dict[str, psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes.values())


@pytest.mark.processes
def test_a_killed_node_comes_back_and_the_others_never_notice(fleet: Fleet) -> None:
    process = up(fleet)
    all_active(fleet)
    before = children(process)
    assert set(before) == set(NODES)
    assert len({child.pid for child in before.values()}) == 3
    before['hardware'].kill()
    wait_until(lambda: children(process).get('hardware', before['hardware']) != before['hardware'], READY,
               f'hardware started again: {process.text}')
    wait_until(lambda: active(fleet, 'hardware'), READY, 'hardware active again')
    after = children(process)
    assert {n: after[n] for n in ('cluster', 'learning')} == {n: before[n] for n in ('cluster', 'learning')}
    assert 'hardware killed by SIGKILL; it starts again in 1 s' in process.text

    process.send(signal.SIGINT)
    assert process.wait(READY) == 0, process.text
    assert gone(after)
    assert 'Traceback' not in process.text
    assert (fleet.folder / 'data' / 'robot_1' / 'cluster').is_dir()


@pytest.mark.processes
def test_a_node_survives_impatience(fleet: Fleet) -> None:
    node = fleet.start_node('muster.hardware.node', 'robot_1')
    wait_until(lambda: active(fleet, 'hardware'), READY, 'hardware active')

    def interrupted() -> bool:
        node.send(signal.SIGINT)
        return not node.alive
    wait_until(interrupted, READY, 'the node ended')
    assert node.wait(READY) == 0, node.text


@pytest.mark.processes
def test_a_robot_can_be_ended_before_it_is_up(fleet: Fleet) -> None:
    process = up(fleet)
    wait_until(lambda: len(children(process)) == 3, READY, 'three processes')
    process.send(signal.SIGINT)
    assert process.wait(READY) == 0
    assert 'Traceback' not in process.text


@pytest.mark.processes
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_one_process_for_all_nodes_ends_with_its_supervisor(fleet: Fleet, number: signal.Signals) -> None:
    process = up(fleet, '--composed')
    all_active(fleet)
    found = children(process)
    assert set(found) == {'composed'}
    process.send(number)
    assert process.wait(READY) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_until(lambda: gone(found), READY, 'the nodes ended, too')
    assert 'Traceback' not in process.text


@pytest.mark.processes
def test_the_end_is_bounded_for_a_node_that_hangs(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    process = up(fleet, '--nodes', 'hardware')
    wait_until(lambda: active(fleet, 'hardware'), READY, 'hardware active')
    found = children(process)
    found['hardware'].suspend()
    for _ in range(3):  # asked again and again, it goes on to SIGKILL without the usual patience
        seen = process.text.count('ending')
        process.send(signal.SIGINT)
        wait_until(lambda seen=seen: process.text.count('ending') > seen or not process.alive, 10,
                   'the request was seen')
    assert process.wait(READY) == 0
    assert gone(found)
    assert 'hardware killed by SIGKILL' in process.text


@pytest.mark.processes
@pytest.mark.parametrize(('arguments', 'words'), [
    (['--robot', '1 robot'], "'1 robot' is no robot name"),
    (['--params', '{wrong}'], "{wrong}:3: hardware: unknown parameter 'scan_intervall'; "
                              "did you mean 'scan_interval'?"),
    (['--params', '/no/such/file.yaml'], "'/no/such/file.yaml' cannot be read: No such file"),
    (['--nodes', 'cluster,wheels'], "unknown node 'wheels'"),
    (['--domain', '233'], "'233' is not within 0..232"),
    (['--colour'], 'unknown argument: --colour'),
])
def test_bad_arguments_are_refused_in_one_line(fleet: Fleet, arguments: list[str], words: str) -> None:
    wrong = fleet.folder / 'wrong.yaml'
    wrong.write_text('/**/hardware:\n  ros__parameters:\n    scan_intervall: 5.0\n')
    process = up(fleet, *(argument.format(wrong=wrong) for argument in arguments))
    assert process.wait(READY) == 2
    line, = process.text.splitlines()
    assert words.format(wrong=wrong) in line


def test_the_configuration_file_has_no_dead_key() -> None:
    known = tables()
    assert check('robot_1', CONFIG, known) == []
    content = yaml.safe_load(CONFIG.read_text())
    assert set(content) == {f'/**/{node}' for node in NODES}
    for node in NODES:  # what the file says is what holds without it, but for what it says on purpose
        for name, value in content[f'/**/{node}']['ros__parameters'].items():
            assert value == known[node][name].default, f'{node}.{name}'


def test_founders_are_parameters_of_the_nodes(tmp_path: Path) -> None:
    path = tmp_path / 'founders.yaml'
    path.write_text(yaml.safe_dump(founders(['robot_1', 'robot_2'])))
    assert check('robot_1', path, tables()) == []


def test_nodes_are_chosen_by_name() -> None:
    assert parse_nodes('hardware, cluster hardware') == ('hardware', 'cluster')
    for text in ('', ' , ', 'cluster wheels'):
        with pytest.raises(ValueError, match='choose from'):
            parse_nodes(text)


@pytest.mark.parametrize(('host', 'robot'), [
    ('vm', 'vm'), ('robot-7.local', 'robot_7'), ('7', 'robot_7'), ('a' * 64, 'a' * 57), ('ß', 'robot__')])
def test_a_robot_is_called_as_its_machine(host: str, robot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bringup.socket, 'gethostname', lambda: host)
    assert bringup.default_robot() == robot
    known: Any = {}
    assert check(robot, CONFIG, known) != [] and 'name' not in check(robot, CONFIG, known)[0]
