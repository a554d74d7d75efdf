# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The learning node as a process: its topics, services, safety and files, over DDS."""
from collections.abc import Iterator
from pathlib import Path
import signal
from types import SimpleNamespace

from learning_robot import moves, Robot, SHIPPED
from muster.ros import qos
from muster_interfaces.msg import Episode, ErrorCode, LearningStatus
from muster_interfaces.srv import ActivateModel, SaveModel, SetLearningMode
from processes import Fleet, wait_until
import pytest
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

pytestmark = pytest.mark.processes


@pytest.fixture
def robot(fleet: Fleet) -> Iterator[Robot]:
    robot = Robot(fleet)
    robot.moving()
    yield robot


def test_sensors_become_commands_and_silence_or_pause_the_safe_action(robot: Robot) -> None:
    status = robot.status(lambda s: s.updates > 3 and not s.safe, 'learning')
    assert status.agent == 'q_learning' and status.mode == LearningStatus.MIXED
    assert len(status.specification) == 16
    assert 0.0 <= status.oldest_observation_s < 0.5 and status.states >= 1
    robot.feeding = False
    robot.standing()
    status = robot.status(lambda s: s.safe, 'a status that says safe')
    assert "on 'scan' is" in status.safe_reason
    assert any(episode.end == Episode.TRUNCATED for episode in robot.episodes)
    robot.feeding = True
    robot.moving()
    assert robot.call(SetBool, 'pause', data=True).success
    robot.standing()
    assert robot.status(lambda s: s.paused, 'paused').safe_reason == 'paused'
    assert robot.call(SetBool, 'pause', data=False).success
    robot.moving()
    robot.end.publish(Bool(data=True))
    robot.fresh(robot.episodes, lambda e: e.end == Episode.TERMINAL and e.steps > 0, 'a terminal episode')


def test_an_emergency_stop_outlives_sigkill_until_it_is_rearmed(robot: Robot) -> None:
    robot.stop.publish(Bool(data=True))
    robot.standing()
    record = robot.home / 'emergency_stop'
    wait_until(record.exists, 5.0, 'the record of the stop')
    refused = robot.call(Trigger, 'rearm')
    assert not refused.success and 'still engaged' in refused.message
    robot.process.send(signal.SIGKILL)
    robot.process.wait()
    robot.start()
    robot.standing()
    status = robot.status(lambda s: s.safe, 'a status that says safe')
    assert 'emergency stop' in status.safe_reason and 'rearm' in status.safe_reason
    robot.stop.publish(Bool(data=False))
    robot.standing()  # releasing the button alone moves nothing
    assert robot.call(Trigger, 'rearm').success
    robot.moving()
    assert not record.exists()


def test_modes_models_parameters_and_bad_requests(robot: Robot) -> None:
    assert robot.call(SetLearningMode, 'set_mode', mode=LearningStatus.EXPLORATION).success
    robot.status(lambda s: s.mode == LearningStatus.EXPLORATION and s.updates > 10, 'exploring')
    robot.fresh(robot.actions, lambda a: a.exploratory and a.index >= 0 and len(a.values) == 6, 'exploring')
    refused = robot.call(SetLearningMode, 'set_mode', mode=9)
    assert refused.error_code == ErrorCode.INVALID and '1 (exploration)' in refused.message

    saved = robot.call(SaveModel, 'save_model', name='first')
    assert saved.success and saved.path.endswith('robot_1/models/v000001.npz')
    updates = robot.status(lambda s: True, 'a status').updates
    for name, code, text in (('../evil', ErrorCode.INVALID, 'is not a model name'),
                             ('none', ErrorCode.NOT_FOUND, "no model 'none'")):
        refused = robot.call(ActivateModel, 'activate_model', name=name)
        assert not refused.success and refused.error_code == code and text in refused.message
    garbage = Path(saved.path).with_name('garbage.model')
    garbage.write_bytes(b'garbage')
    refused = robot.call(ActivateModel, 'activate_model', name='garbage')
    assert refused.error_code == ErrorCode.STORAGE and str(garbage) in refused.message
    assert robot.status(lambda s: not s.safe, 'acting still').updates >= updates

    assert robot.call(Trigger, 'reset').success
    assert robot.call(SetLearningMode, 'set_mode', mode=LearningStatus.EXPLOITATION).success
    robot.status(lambda s: s.mode == LearningStatus.EXPLOITATION and s.updates < updates, 'a fresh agent')
    assert robot.call(ActivateModel, 'activate_model', name='first').success
    robot.status(lambda s: s.updates >= 10, 'the saved agent')

    for name, value, text in (('epsilon', 1.5, 'out of range'),
                              ('max_states', 5, 'is fixed once the agent is made'),
                              ('epsilom', 0.5, "did you mean 'epsilon'?")):
        result = robot.set_parameter(name, value)
        assert not result.successful and text in result.reason
    assert robot.set_parameter('epsilon', 0.125).successful
    robot.status(lambda s: s.epsilon == 0.125, 'the new exploration rate')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_safe_command_last(robot: Robot, number: signal.Signals) -> None:
    robot.status(lambda s: s.updates > 3, 'learning')
    robot.moving()
    robot.process.send(number)
    assert robot.process.wait() == 0, robot.process.text
    wait_until(lambda: not moves(robot.commands[-1]), 5.0, 'the safe command')
    assert (robot.home / 'models' / 'v000001.npz').exists()
    assert 'Traceback' not in robot.process.text


def test_what_cannot_work_is_refused_and_the_node_stays(fleet: Fleet) -> None:
    changed = fleet.folder / 'changed.yaml'
    changed.write_text(SHIPPED.read_text().replace('bins: [0.4, 0.8]', 'bins: [0.4, 0.9]'))
    robot = Robot(fleet, initial_model='none')
    processes = SimpleNamespace(
        missing=robot.process,
        unknown=fleet.start_node('muster.learning.node', 'b', {'learning_rat': 0.5}),
        typo=fleet.start_node('muster.learning.node', 'c', {'specification': 'no_such.yaml'}))
    for process, text in ((processes.missing, "there is no model 'none'"),
                          (processes.unknown, "did you mean 'learning_rate'?"),
                          (processes.typo, 'no_such.yaml: cannot be read')):
        wait_until(lambda process=process, text=text: text in process.text, 20.0, text)
        assert process.alive
        process.send(signal.SIGTERM)
        assert process.wait() == 0
    robot.start()
    robot.moving()
    assert robot.call(SaveModel, 'save_model').success
    robot.process.send(signal.SIGTERM)
    assert robot.process.wait() == 0
    robot.start(specification=str(changed))
    robot.moving()
    refused = robot.call(ActivateModel, 'activate_model')
    assert refused.error_code == ErrorCode.INVALID
    assert 'observation[ahead].bins[1]: 0.8 in the model, 0.9 here' in refused.message
    robot.moving()


def test_it_learns_in_the_world_node_on_simulated_time(fleet: Fleet) -> None:
    fleet.environment['MUSTER_HOME'] = str(fleet.folder / 'home')
    episodes = fleet.probe.listen(Episode, '/robot_1/learning/episodes', qos.EVENTS)
    statuses = fleet.probe.listen(LearningStatus, '/robot_1/learning/status', qos.STATUS)
    fleet.start_node('muster.simulation.node', 'simulation', {'real_time_factor': 5.0, 'publish_clock': True})
    fleet.start_node('muster.learning.node', 'robot_1', {
        'use_sim_time': True, 'mode': 'exploration', 'seed': 1})
    ended = wait_until(lambda: next((e for e in episodes if e.end == Episode.TERMINAL), None), 90.0,
                       'an episode that the world ended, by a collision most likely')
    assert ended.mode == LearningStatus.EXPLORATION and ended.episode_return != 0.0 and ended.steps > 0
    wait_until(lambda: any(s.episodes > 0 and s.updates > 0 for s in statuses), 30.0, 'its status')
