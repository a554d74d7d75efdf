# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Off-line training: fresh worlds, how policies are judged, and the command `muster train`."""
from __future__ import annotations

from itertools import count, islice
from pathlib import Path
import signal
from typing import Any

from muster.cli import main
from muster.learning.agents.base import LearningMode
from muster.learning.models import ModelStore, restore
from muster.learning.specification import load_specification
from muster.learning.training import make_agent, train
from muster.offline.curve import Curve, sparkline
from muster.offline.trials import judge
from muster.simulation.environment import WorldEnvironment, worlds
import pytest

FILE = Path(__file__).parents[2] / 'config' / 'learning' / 'goal_seeking.yaml'
SPECIFICATION = load_specification(FILE)


def test_every_episode_takes_place_in_a_world_of_its_own() -> None:
    supply = worlds('robot', 5)
    environment = WorldEnvironment(next(supply), 'robot', supply)
    first = environment.world
    training = train(SPECIFICATION, environment, 1500, 1, mode=LearningMode.EXPLORATION)
    assert len(training.episodes) > 3
    assert environment.world is not first
    expected = next(islice(worlds('robot', 5), len(training.episodes), None))
    assert (environment.world.obstacles == expected.obstacles).all()


def test_a_policy_is_judged_the_same_twice_and_learns_nothing() -> None:
    agent = train(SPECIFICATION, WorldEnvironment(next(worlds('robot', 1)), 'robot'), 3000, 1).agent
    before = agent.export()[1]['values'].copy()
    first, second = (judge(SPECIFICATION, agent, 6) for _ in range(2))
    assert first == second and len(first.trials) == 6
    assert (agent.export()[1]['values'] == before).all()
    for trial in first.trials:
        assert not (trial.goal and trial.collision)
        assert 0.0 < trial.seconds <= 60.0
        assert trial.goal or trial.collision or trial.seconds == 60.0


def command(folder: Path, *more: str) -> list[str]:
    return ['train', '--config', str(FILE), '--models', str(folder / 'models'), *more]


def test_the_command_saves_a_model_that_the_node_can_load(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('muster.offline.command.CHECK_STARTS', 3)
    picture = tmp_path / 'curve.png'
    assert main(command(tmp_path, '--steps', '3000', '--checks', '1', '--evaluate', '5', '--name', 'first',
                        '--epsilon', '0.3', '--plot', str(picture))) == 0
    told = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    assert 'version 1 (first)' in told and 'x real time' in told and '5 starts' in told
    assert picture.read_bytes().startswith(b'\x89PNG')
    version = ModelStore(tmp_path / 'models').find('first')
    assert len(version.returns) == 5 and version.metrics['steps'] == 3000
    assert 0.0 <= version.metrics['success'] <= 1.0
    agent = make_agent(SPECIFICATION)
    restore(ModelStore(tmp_path / 'models').load('first'), agent, SPECIFICATION.meaning)
    assert agent.states > 10


def test_the_command_is_reproducible(tmp_path: Path) -> None:
    for name in ('one', 'two'):
        assert main(command(tmp_path, '--steps', '800', '--checks', '0', '--evaluate', '0',
                            '--name', name)) == 0
    one, two = (ModelStore(tmp_path / 'models').load(name) for name in ('one', 'two'))
    assert one.document['agent'] == two.document['agent']
    assert all((one.arrays[name] == two.arrays[name]).all() for name in one.arrays)


def test_ctrl_c_saves_what_was_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = WorldEnvironment.step, count(1)
    before = signal.getsignal(signal.SIGINT)

    def interrupted(self: WorldEnvironment, *arguments: Any) -> Any:
        if next(steps) == 500:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(WorldEnvironment, 'step', interrupted)
    assert main(command(tmp_path, '--steps', '100000000', '--evaluate', '0')) == 0
    version = ModelStore(tmp_path / 'models').find('trained')
    assert 490 <= version.metrics['steps'] <= 510
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(('arguments', 'told'), [
    (['--learning-rate', '5'], 'q_learning: learning_rate must be'),
    (['--learning-rate', 'fast'], "argument --learning-rate: invalid float value: 'fast'"),
    (['--no-such-thing', '1'], 'unrecognized arguments: --no-such-thing 1'),
    (['--name', '../up'], 'model name'),
])
def test_what_cannot_be_trained_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                  arguments: list[str], told: str) -> None:
    assert main(command(tmp_path, '--steps', '20', '--checks', '0', '--evaluate', '0', *arguments)) == 1
    error = capsys.readouterr().err
    assert told in error and error.count('\n') == 1
    assert not list(tmp_path.rglob('*.npz'))


BALANCE = """\
rate: 50.0
observation:
  - {name: cart, topic: cart, type: std_msgs/msg/Float64MultiArray, field: 'data[0:4]', length: 4,
     max_age: 0.1}
action:
  topic: push
  type: std_msgs/msg/Float64
  actions: {left: {data: -1.0}, right: {data: 1.0}}
  safe_action: {data: 0.0}
reward: {topic: reward, type: std_msgs/msg/Float32}
agent: {kind: dqn, hidden: [16], learning_starts: 100}
"""


def test_a_gymnasium_environment_stands_for_the_robot(tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / 'balance.yaml'
    file.write_text(BALANCE)
    arguments = ['train', '--config', str(file), '--models', str(tmp_path / 'models'), '--steps', '400',
                 '--evaluate', '3', '--environment']
    assert main([*arguments, 'CartPole-v1']) == 0
    assert '3 episodes without exploration' in ' '.join(capsys.readouterr().out.split())
    version = ModelStore(tmp_path / 'models').find('trained')
    assert len(version.returns) == 3 and version.metrics['steps'] == 400
    specification = load_specification(file)
    restore(ModelStore(tmp_path / 'models').load('trained'), make_agent(specification), specification.meaning)
    for other, told in (('Acrobot-v1', 'observes 6 elements'), ('Nothing-v0', 'Nothing'),
                        ('no_such_module:Nothing-v0', 'no_such_module')):
        assert main([*arguments, other]) == 1
        error = capsys.readouterr().err
        assert told in error and error.count('\n') == 1


@pytest.mark.parametrize(('old', 'new', 'told'), [
    ('topic: odom', 'topic: wheels', "does not send 'wheels'"),
    ('topic: cmd_vel', 'topic: motors', "on 'motors'"),
])
def test_what_the_simulated_world_has_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                     old: str, new: str, told: str) -> None:
    file = tmp_path / 'other.yaml'
    file.write_text(FILE.read_text().replace(old, new))
    assert main(['train', '--config', str(file), '--models', str(tmp_path)]) == 1
    assert told in capsys.readouterr().err


def test_the_hyperparameters_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['train', '--config', 'goal_seeking.yaml', '--list', '--epsilon', '0.25']) == 0
    told = capsys.readouterr().out
    assert '--learning-rate' in told and '0.25' in told


def test_the_curve_as_text() -> None:
    assert sparkline([]) == '' and sparkline([1.0]) == '▄'
    assert sparkline([0.0, 1.0]) == '▁█'
    assert len(sparkline(list(range(1000)), 30)) == 30
    assert Curve([(1, 2.0), (5, 4.0)]).recent() == 3.0
