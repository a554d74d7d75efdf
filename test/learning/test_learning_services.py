# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Every service of the learning node and its action `Train`, well and badly used, over DDS."""
from __future__ import annotations

from collections.abc import Iterator
import hashlib
from pathlib import Path
from typing import Any
import zlib

from action_msgs.msg import GoalStatus
from learning_robot import NODE, Robot, SHIPPED
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from muster.learning.onnx_file import export_policy
from muster.learning.specification import load_specification
from muster.learning.training import make_agent
from muster_interfaces.action import Train
from muster_interfaces.msg import ErrorCode, LearningStatus, ModelInfo
from muster_interfaces.srv import (
    ActivateModel, Consolidate, GetModelChunk, ListModels, RollbackModel, SaveModel, SetLearningMode)
from processes import Fleet, wait_until
import pytest
from rcl_interfaces.srv import DescribeParameters
from rclpy.action import ActionClient
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

pytestmark = pytest.mark.processes


class Trainer:
    """A client of the action."""

    def __init__(self, robot: Robot) -> None:
        """Wait for the server."""
        self._probe = robot.probe
        self._client = ActionClient(robot.probe.node, Train, f'{NODE}/train')
        wait_until(self._client.server_is_ready, 20.0, 'the action server')

    def begin(self, **goal: Any) -> tuple[Any, list[Any]]:
        """Send a goal; return its handle and the list of its feedback."""
        told: list[Any] = []
        handle = self._probe.asked(lambda: self._client.send_goal_async(
            Train.Goal(**goal), lambda sent: told.append(sent.feedback)), 20.0, 'the goal')
        assert handle.accepted
        return handle, told

    def end(self, handle: Any) -> tuple[int, Any]:
        """Wait for the end; return status and result."""
        answer = self._probe.asked(handle.get_result_async, 60.0, 'the result')
        return answer.status, answer.result

    def cancel(self, handle: Any) -> None:
        self._probe.asked(handle.cancel_goal_async, 20.0, 'the cancel')

    def refused(self, **goal: Any) -> str:
        """Return why a goal is refused as invalid."""
        status, result = self.end(self.begin(**goal)[0])
        assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
        assert result.error_code == ErrorCode.INVALID
        return str(result.message)


@pytest.fixture
def robot(fleet: Fleet) -> Iterator[Robot]:
    """Give a robot of 50 cycles a second, whose episodes last 5 of them."""
    quick = fleet.folder / 'quick.yaml'
    quick.write_text(SHIPPED.read_text().replace('rate: 10.0', 'rate: 50.0').replace(
        'time_limit: 60.0', 'time_limit: 0.1'))
    robot = Robot(fleet, specification=str(quick))
    robot.moving()
    yield robot


def test_training_evaluates_saves_promotes_and_a_rollback_goes_back(robot: Robot) -> None:
    trainer = Trainer(robot)
    handle, told = trainer.begin(episodes=3, evaluation_episodes=20, save_as='first')
    status, first = trainer.end(handle)
    assert status == GoalStatus.STATUS_SUCCEEDED and first.success, first.message
    assert first.episodes == 3 and first.steps >= 10 and len(first.evaluation) == 20
    assert first.version == 1 and first.promoted and 'first champion' in first.message
    assert first.mean_evaluation == pytest.approx(sum(first.evaluation) / 20) and first.mean_return > 0.0
    progress = [feedback.progress for feedback in told]
    assert progress == sorted(progress) and told[-1].evaluated >= 19
    assert robot.status(lambda s: s.mode == LearningStatus.MIXED, 'as before').model == 'first'

    handle, _ = trainer.begin(evaluation_episodes=3)  # of the version that it acts by
    _, again = trainer.end(handle)
    assert not again.promoted and (again.version == 1) == ('champion already' in again.message)

    robot.reward = 5.0
    _, second = trainer.end(trainer.begin(steps=20, evaluation_episodes=20, save_as='second')[0])
    assert second.promoted and 'is better' in second.message and second.steps == 20
    listed = robot.call(ListModels, 'list_models')
    roles = {model.version: model.role for model in listed.models}
    assert roles[second.version] == ModelInfo.CHAMPION and roles[1] == ModelInfo.PREDECESSOR
    back = robot.call(RollbackModel, 'rollback_model')
    assert back.success and (back.version, back.name) == (1, 'first')
    status = robot.status(lambda s: s.model_version == 1, 'acting by the first')
    assert status.model == 'first' and not status.safe
    refused = robot.call(RollbackModel, 'rollback_model')
    assert refused.error_code == ErrorCode.INVALID and 'no predecessor' in refused.message


def test_training_is_canceled_preempted_stopped_and_refused(robot: Robot) -> None:
    trainer = Trainer(robot)
    handle, told = trainer.begin(steps=1_000_000, explore=True, task='dock')
    wait_until(lambda: told and told[-1].steps, 20.0, 'feedback')
    status = robot.status(lambda s: s.mode == LearningStatus.EXPLORATION, 'training')
    assert status.task == 'dock' and told[-1].epsilon == pytest.approx(status.epsilon)
    assert 'once the training is over' in robot.call(SetLearningMode, 'set_mode', mode=3).message
    trainer.cancel(handle)
    status, result = trainer.end(handle)
    assert status == GoalStatus.STATUS_CANCELED and not result.success and result.message == 'canceled'
    assert result.steps >= told[-1].steps and result.version == 0
    updates = robot.status(lambda s: s.mode == LearningStatus.MIXED, 'as before').updates
    robot.status(lambda s: s.updates > updates and not s.safe, 'it goes on learning')

    long, _ = trainer.begin(episodes=1_000_000)
    short, _ = trainer.begin(steps=5)
    assert trainer.end(long)[1].message == 'preempted by a new goal'
    assert trainer.end(short)[0] == GoalStatus.STATUS_SUCCEEDED
    long, _ = trainer.begin(episodes=1_000_000)
    assert robot.call(Trigger, 'reset').success
    assert trainer.end(long)[1].message == 'the agent was reset'

    assert 'nothing to do' in trainer.refused()
    assert 'not both' in trainer.refused(steps=1, episodes=1)
    assert 'is not a model name' in trainer.refused(steps=1, save_as='../x')
    assert 'is not the name of a task' in trainer.refused(steps=1, task='x' * 65)
    long, _ = trainer.begin(episodes=1_000_000)
    robot.stop.publish(Bool(data=True))
    assert 'emergency stop' in trainer.end(long)[1].message
    robot.standing()
    assert 'cannot train: emergency stop' in trainer.refused(steps=1)
    robot.stop.publish(Bool(data=False))
    wait_until(lambda: robot.call(Trigger, 'rearm').success, 10.0, 'armed')
    robot.moving()


def test_a_model_is_copied_in_pieces(robot: Robot, tmp_path: Path) -> None:
    saved = robot.call(SaveModel, 'save_model', name='first')
    assert saved.success and saved.version == 1
    whole = b''
    while True:
        answer = robot.call(GetModelChunk, 'get_model_chunk', version=1, offset=len(whole), length=1000)
        assert answer.success and zlib.crc32(bytes(answer.data)) == answer.crc32
        if not answer.data:
            break
        whole += bytes(answer.data)
    assert len(whole) == answer.size and hashlib.sha256(whole).hexdigest() == answer.sha256
    assert whole == Path(saved.path).read_bytes()
    for fields, code, words in (
            ({'version': 9}, ErrorCode.NOT_FOUND, "no model '9'"),
            ({'version': 1, 'length': 65537}, ErrorCode.INVALID, 'length must be within 0..65536'),
            ({'version': 1, 'offset': 2**63}, ErrorCode.INVALID, 'beyond the end')):
        refused = robot.call(GetModelChunk, 'get_model_chunk', **fields)
        assert not refused.success and refused.error_code == code and words in refused.message
    listed = robot.call(ListModels, 'list_models')
    (model,) = listed.models
    assert (listed.total, listed.active, model.version, model.name) == (1, 1, 1, 'first')
    assert model.agent == 'q_learning' and model.size == len(whole)
    assert '"learning_rate"' in model.hyperparameters
    assert robot.call(ListModels, 'list_models', name='other').total == 0
    assert robot.call(ListModels, 'list_models', limit=5000).error_code == ErrorCode.INVALID


def test_tasks_hyperparameters_and_an_inactive_node(robot: Robot) -> None:
    refused = robot.call(Consolidate, 'consolidate')
    assert refused.error_code == ErrorCode.INVALID and 'nothing to consolidate' in refused.message
    assert robot.call(Consolidate, 'consolidate', task='x' * 65).error_code == ErrorCode.INVALID
    assert robot.call(Consolidate, 'consolidate', task='dock').success
    robot.status(lambda s: s.task == 'dock', 'the task')
    assert robot.set_parameter('task', 'patrol').successful
    robot.status(lambda s: s.task == 'patrol' and not s.safe, 'another task')

    described = robot.call(DescribeParameters, 'describe_parameters', names=['learning_rate', 'max_states'])
    rate, states = described.descriptors
    assert rate.floating_point_range[0].to_value == 1.0 and rate.description
    assert 'fixed once the agent is made' in states.additional_constraints
    result = robot.set_parameter('max_states', 7)
    assert not result.successful and 'restart' in result.reason
    assert robot.set_parameter('epsilon_decay', 1.0).successful
    assert robot.set_parameter('epsilon', 0.25).successful
    robot.status(lambda s: s.epsilon == 0.25, 'the new exploration rate')

    assert robot.call(ChangeState, 'change_state',
                      transition=Transition(id=Transition.TRANSITION_DEACTIVATE)).success
    for kind, name in ((SetLearningMode, 'set_mode'), (SaveModel, 'save_model'),
                       (ActivateModel, 'activate_model'), (ListModels, 'list_models'),
                       (RollbackModel, 'rollback_model'), (GetModelChunk, 'get_model_chunk'),
                       (Consolidate, 'consolidate')):
        answer = robot.call(kind, name)
        assert (answer.success, answer.error_code) == (False, ErrorCode.INACTIVE), name
    for kind, name in ((SetBool, 'pause'), (Trigger, 'reset'), (Trigger, 'rearm')):
        assert 'is not active' in robot.call(kind, name).message
    trainer = Trainer(robot)
    assert trainer.end(trainer.begin(steps=1)[0])[1].error_code == ErrorCode.INACTIVE


def test_a_deep_agent_is_tuned_learns_tasks_in_turn_and_goes_on(fleet: Fleet) -> None:
    robot = Robot(fleet, specification='goal_seeking_dqn.yaml', learning_starts=16, batch=16)
    robot.moving()
    status = robot.status(lambda s: s.updates > 5 and not s.safe, 'learning')
    assert status.agent == 'dqn' and 0.0 < status.learning_ms < 100.0 and not status.tasks
    result = robot.set_parameter('n_step', 5)
    assert not result.successful and 'is fixed once the agent is made' in result.reason
    assert robot.set_parameter('batch', 32).successful
    result = robot.set_parameter('max_states', 5)
    assert not result.successful and "unknown parameter 'max_states'" in result.reason

    held = robot.call(Consolidate, 'consolidate', task='second')
    assert held.success and held.consolidated == '' and held.score == 1.0, held.message
    status = robot.status(lambda s: s.tasks and s.task == 'second', 'the second task')
    assert list(status.tasks) == [''] and list(status.scores) == [1.0]
    saved = robot.call(SaveModel, 'save_model', name='deep')
    assert saved.success, saved.message
    assert robot.call(Trigger, 'reset').success
    robot.status(lambda s: not s.tasks and s.task == '', 'a fresh agent')
    assert robot.call(ActivateModel, 'activate_model', version=saved.version).version == saved.version
    status = robot.status(lambda s: s.model == 'deep' and not s.safe, 'the saved agent')
    assert status.task == 'second' and list(status.tasks) == [''] and status.updates > 5


def test_a_policy_trained_elsewhere_acts_by_the_same_rules(fleet: Fleet) -> None:
    pytest.importorskip('onnxruntime', reason='onnxruntime is an optional dependency')
    shipped = SHIPPED.with_name('goal_seeking_dqn.yaml')
    specification = load_specification(shipped)
    agent = make_agent(specification, 1)
    (fleet.folder / 'policy.onnx').write_bytes(export_policy(agent))
    text = shipped.read_text()
    (fleet.folder / 'onnx.yaml').write_text(
        text[:text.index('agent:')] + 'agent: {kind: onnx, model: policy.onnx}\n')
    robot = Robot(fleet, specification=str(fleet.folder / 'onnx.yaml'))
    robot.moving()
    action = robot.fresh(robot.actions, lambda a: a.name != 'safe', 'an action')
    assert action.name in specification.action.names and not action.exploratory
    assert robot.status(lambda s: s.agent == 'onnx', 'its kind').updates == 0
    robot.spoil = {'scan': lambda _: None}
    robot.standing()
    robot.spoil = {}
    robot.moving()
    assert robot.call(SaveModel, 'save_model', name='foreign').success
    assert robot.call(ActivateModel, 'activate_model', name='foreign').success
    robot.moving()
