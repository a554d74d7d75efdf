# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The operator's commands against real nodes."""
from pathlib import Path
import subprocess
import sys

from builtin_interfaces.msg import Duration
from muster import cli
from muster_interfaces.msg import ClusterEvent, ClusterStatus
from muster_interfaces.srv import AcquireLock, GetClusterStatus
from processes import Fleet, wait_until
import pytest

#: Patience [s] for what comes at once on an idle machine.
READY = 60.0


def muster(fleet: Fleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-m', 'muster.cli', *arguments], capture_output=True, text=True,
                          timeout=READY, env={**fleet.environment, 'COLUMNS': '200'})


@pytest.mark.processes
def test_a_robot_answers_its_operator(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start_node('muster.cluster.node', 'robot_1',
                     {'bootstrap': 'alone', 'data_directory': str(tmp_path / 'cluster')})
    fleet.start_node('muster.hardware.node', 'robot_1')
    wait_until(lambda: fleet.probe.call(GetClusterStatus, '/robot_1/cluster/get_status', READY).status.role
               == ClusterStatus.LEADER, READY, 'a leader')
    name = 'dock[bold]'  # what people write is shown, not interpreted
    answer = fleet.probe.call(AcquireLock, '/robot_1/cluster/acquire_lock', name=name, owner='loader',
                              lease=Duration(sec=60))
    assert answer.success
    asked = ('--robot', 'robot_1', '--timeout', '30')
    for command, words in ((['status'], ['robot_1 (leader)', 'voter', 'alive', '0 of 4', 'locks 1']),
                           (['members'], ['robot_1 (leader)', 'alive', '1 members']),
                           (['services'], ['0 of 0']),
                           (['submit', 'sweep', '{"room": 1}', '--priority', '9'], ['sweep-']),
                           (['tasks', '--type', 'sweep', '--status', 'waiting'],
                            ['sweep-', 'waiting', '0 of 3', '1 of 1']),
                           (['locks'], [name, 'loader', str(answer.fencing_token), '1 of 1']),
                           (['locks', '--prefix', 'x'], ['0 of 0']),
                           (['events'], ['leader elected', name, 'continue with --since']),
                           (['devices'], ['status', 'devices'])):
        done = muster(fleet, *command, *asked)
        assert done.returncode == 0, done.stderr
        for word in words:
            assert word in ' '.join(done.stdout.split()), (command, done.stdout)
    for command, words in ((['submit', 'sweep', '{'], 'payload is not JSON'),
                           (['tasks', '--cancel', 'sweep-1'], "there is no task 'sweep-1'"),
                           (['members', '--remove', 'robot_9'], "'robot_9'"),
                           (['submit', 'sweep', '--deadline', '0.2', '--wait'], 'failed: its deadline')):
        done = muster(fleet, *command, *asked)
        assert done.returncode == 1 and words in done.stderr, done
        assert len(done.stderr.splitlines()) == 1
    done = muster(fleet, 'status', '--robot', 'robot_2', '--timeout', '5')
    assert (done.returncode, done.stdout) == (1, '')
    line, = done.stderr.splitlines()
    assert line == 'muster: /robot_2/cluster/get_status was not found within 5 s; robots seen: robot_1'


@pytest.mark.processes
def test_nobody_there_is_said(fleet: Fleet) -> None:
    done = muster(fleet, 'locks', '--robot', 'robot_1', '--timeout', '1')
    assert done.returncode == 1
    assert 'no robot seen: is it running' in done.stderr


@pytest.mark.parametrize(('arguments', 'words'), [
    (['fly'], "invalid choice: 'fly'"),
    ([], 'required: command'),
    (['locks', '--limit', '0'], "'0' is not within 1..1000"),
    (['events', '--since', '-1'], "'-1' is not within 0..18446744073709551615"),
    (['status', '--timeout', 'nan'], "'nan' is not within 0.1..3600"),
    (['status', 'now'], 'unknown argument: now'),
    (['tasks', '--status', 'asleep'], "invalid choice: 'asleep'"),
    (['submit', '--robot', 'r'], 'required: type'),
    (['submit', 'a', '--priority', '256'], "'256' is not within 0..255"),
    (['locks', '--prefix', '\udcff'], 'not UTF-8'),
])
def test_bad_arguments_are_refused_in_one_line(arguments: list[str], words: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        cli.main(arguments)
    assert refused.value.code == 2
    line, = capsys.readouterr().err.splitlines()
    assert words in line


def test_bad_robot_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['status', '--robot', 'a b']) == 1
    assert "'a b' is no robot name" in capsys.readouterr().err


@pytest.mark.parametrize('command', ['up', 'status', 'members', 'locks', 'services', 'tasks', 'submit',
                                     'devices', 'events'])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as shown:
        cli.main([command, '--help'])
    assert not shown.value.code
    assert f'example: muster {command} --' in ' '.join(capsys.readouterr().out.split())


def test_constants_are_named_for_people() -> None:
    assert cli.constants(ClusterEvent)[ClusterEvent.LEADER_ELECTED] == 'leader elected'
    assert cli.constants(ClusterStatus)[ClusterStatus.WAITING] == 'waiting'


@pytest.mark.processes
def test_a_robot_s_models_are_listed_saved_and_activated(fleet: Fleet) -> None:
    fleet.environment['MUSTER_HOME'] = str(fleet.folder / 'home')
    fleet.start_node('muster.learning.node', 'robot_1')
    asked = ('models', '--robot', 'robot_1', '--timeout', '30')
    for arguments, words in ((['--save', 'monday'], ['1 (active)', 'monday', 'challenger', '1 of 1']),
                             (['--save'], ['2 (active)', '2 of 2']),
                             (['--activate', 'monday'], ['1 (active)']),
                             (['--activate', '2', '--name', 'monday'], ['1 of 1'])):
        done = muster(fleet, *asked, *arguments)
        assert done.returncode == 0, done.stderr
        assert all(word in ' '.join(done.stdout.split()) for word in words), (arguments, done.stdout)
    for arguments, words in ((['--activate', '9'], "no model '9'"),
                             (['--save', '../x'], 'is not a model name'),
                             (['--rollback'], 'there is no champion yet')):
        done = muster(fleet, *asked, *arguments)
        assert done.returncode == 1 and words in done.stderr
        assert len(done.stderr.splitlines()) == 1
