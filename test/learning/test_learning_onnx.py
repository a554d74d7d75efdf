# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Policies trained elsewhere: what fits acts like any agent, anything else is refused with a reason."""
from pathlib import Path
import sys
from typing import Any

from muster.learning.agents.base import Continuous, Discrete, LearningMode, Transition
from muster.learning.agents.dqn import DQN, DQNParameters
from muster.learning.agents.onnx_policy import OnnxParameters, OnnxPolicy
from muster.learning.agents.ppo import PPO, PPOParameters
from muster.learning.agents.q_learning import QLearning
from muster.learning.checkpoint import load_checkpoint, save_checkpoint
from muster.learning.cycle import ControlCycle
from muster.learning.models import ModelError, restore, snapshot
from muster.learning.networks import MLP
from muster.learning.onnx_file import export_policy, perceptron
from muster.learning.specification import load_specification, SpecificationError
from muster.learning.training import make_agent
import numpy as np
import pytest

GENERATOR = np.random.default_rng(1)
EXPLOIT = LearningMode.EXPLOITATION
ARM = Continuous((-1.0, 0.0), (1.0, 0.5))


def linear(weights: Any, biases: Any, **options: Any) -> bytes:
    return perceptron([(np.array(weights), np.array(biases))], **options)


def observation(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# Acting ---------------------------------------------------------------------------------------
@pytest.mark.parametrize('activation', ['relu', 'tanh'])
def test_an_exported_network_gives_what_the_network_gives(activation: str) -> None:
    network = MLP((5, 64, 64, 3), GENERATOR, activation)
    network.theta[:] = GENERATOR.normal(0.0, 0.3, network.theta.size)
    mean, deviation = GENERATOR.normal(size=5), GENERATOR.uniform(0.5, 2.0, 5)
    high = np.full(3, 0.8)
    layers = network.layers
    plain = OnnxPolicy(Continuous((-9e9,) * 3, (9e9,) * 3), 5, perceptron(layers, activation))
    whole = OnnxPolicy(Continuous((-0.8,) * 3, (0.8,) * 3), 5, perceptron(
        layers, activation, mean=mean, deviation=deviation, clip=2.0, squash='tanh', low=-high, high=high))
    for _ in range(20):
        seen = GENERATOR.normal(0.0, 3.0, 5).astype(np.float32)
        np.testing.assert_allclose(plain.act(seen, EXPLOIT).action, network.forward_one(seen), rtol=1e-4,
                                   atol=1e-5)
        normal = np.clip((seen - mean) / deviation, -2.0, 2.0).astype(np.float32)
        np.testing.assert_allclose(whole.act(seen, EXPLOIT).action,
                                   0.8 * np.tanh(network.forward_one(normal)), rtol=1e-4, atol=1e-5)


def ppo(actions: Any, normalise: bool) -> PPO:
    return PPO(actions, 3, PPOParameters(rollout=64, batch=16, normalise_observations=normalise), 1)


def dqn(duelling: bool) -> DQN:
    return DQN(Discrete(4), 3, DQNParameters(duelling=duelling, learning_starts=32, batch=16), 1)


@pytest.mark.parametrize('agent', [ppo(Discrete(4), True), ppo(Discrete(4), False), ppo(ARM, True),
                                   ppo(ARM, False), dqn(True), dqn(False)])
def test_an_exported_agent_acts_as_it_did(agent: Any) -> None:
    for _ in range(200):
        state, following = (GENERATOR.normal(5.0, 3.0, 3).astype(np.float32) for _ in range(2))
        action = agent.act(state, LearningMode.MIXED).action
        agent.observe(Transition(state, action, float(np.sum(action)), following, False))
        while agent.learn() is not None:
            pass
    exported = OnnxPolicy(agent.actions, 3, export_policy(agent))
    for _ in range(50):
        state = GENERATOR.normal(5.0, 3.0, 3).astype(np.float32)
        np.testing.assert_allclose(exported.act(state, EXPLOIT).action, agent.act(state, EXPLOIT).action,
                                   rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='no network'):
        export_policy(QLearning(Discrete(2)))


def test_named_actions_are_the_highest_value_and_it_never_explores_or_learns() -> None:
    agent = OnnxPolicy(Discrete(2), 2, linear([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]))
    for mode in LearningMode:
        assert agent.act(observation(2.0, 1.0), mode).action == 0
        choice = agent.act(observation(1.0, 2.0), mode)
        assert (choice.action, choice.exploratory) == (1, False)
    agent.observe(Transition(observation(1.0, 2.0), 1, 0.5, observation(2.0, 1.0), False))
    assert agent.learn() is None and agent.statistics.total_reward == 0.5


def test_continuous_actions_stay_in_their_ranges() -> None:
    model = linear([[1.0, 1.0]], [0.0, 0.0])
    agent = OnnxPolicy(ARM, 1, model)
    np.testing.assert_array_equal(agent.act(observation(0.25), EXPLOIT).action, observation(0.25, 0.25))
    np.testing.assert_array_equal(agent.act(observation(-7.0), EXPLOIT).action, observation(-1.0, 0.0))
    squashed = OnnxPolicy(ARM, 1, model, OnnxParameters(squashed=True))
    for given, scaled in ((-1.0, (-1.0, 0.0)), (0.0, (0.0, 0.25)), (3.0, (1.0, 0.5))):
        np.testing.assert_array_equal(squashed.act(observation(given), EXPLOIT).action, observation(*scaled))


@pytest.mark.parametrize('broken', [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_an_error(broken: float) -> None:
    agent = OnnxPolicy(Discrete(2), 1, linear([[1.0, 1.0]], [0.0, broken]))
    with pytest.raises(FloatingPointError, match='returned'):
        agent.act(observation(0.0), EXPLOIT)


# Refused --------------------------------------------------------------------------------------
@pytest.mark.parametrize(('actions', 'elements', 'reason'), [
    (Discrete(2), 4, r'takes .*, but the observation makes \[1, 4\]'),
    (Discrete(3), 3, 'there are 3 actions'), (Continuous((0.0,), (1.0,)), 3, 'there are 1 actions')])
def test_a_model_of_another_shape_is_refused(
        tmp_path: Path, actions: Any, elements: int, reason: str) -> None:
    path = tmp_path / 'policy.onnx'
    path.write_bytes(linear(np.zeros((3, 2)), np.zeros(2)))
    with pytest.raises(ValueError, match=rf'policy\.onnx: .*{reason}'):
        OnnxPolicy(actions, elements, path)


def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sound = tmp_path / 'policy.onnx', linear(np.zeros((3, 2)), np.zeros(2))
    for content in (b'', b'garbage', *(sound[:length] for length in range(1, len(sound), 7))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r'policy\.onnx: is not a sound ONNX model'):
            OnnxPolicy(Discrete(2), 3, path)
    with pytest.raises(ValueError, match=r'none\.onnx: cannot be read'):
        OnnxPolicy(Discrete(2), 3, tmp_path / 'none.onnx')
    monkeypatch.setattr('muster.learning.agents.onnx_policy.MAXIMUM_BYTES', 100)
    path.write_bytes(sound)
    with pytest.raises(ValueError, match='larger than 100 bytes'):
        OnnxPolicy(Discrete(2), 3, path)


def test_a_model_reads_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from muster.learning import onnx_file
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'secret').write_bytes(bytes(24))
    plain = onnx_file._tensor

    def elsewhere(name: str, values: np.ndarray) -> bytes:
        """Let a constant's values lie in another file: external_data [13], data_location [14]."""
        entry = onnx_file._bytes(1, b'location') + onnx_file._bytes(2, b'secret')
        whole = plain(name, values)
        return whole[:-len(onnx_file._bytes(9, values.tobytes()))] \
            + onnx_file._bytes(13, entry) + onnx_file._number(14, 1)
    monkeypatch.setattr(onnx_file, '_tensor', elsewhere)
    model = linear(np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(ValueError, match='is not a sound ONNX model'):
        OnnxPolicy(Discrete(2), 3, model)


def test_without_the_package_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ValueError, match='python -m pip install onnxruntime'):
        OnnxPolicy(Discrete(2), 3, linear(np.zeros((3, 2)), np.zeros(2)))


@pytest.mark.parametrize('options', [{'activation': 'sigmoid'}, {'squash': 'sigmoid'}])
def test_an_unknown_function_is_not_exported(options: dict) -> None:
    with pytest.raises(ValueError, match='must be'):
        linear([[1.0]], [0.0], **options)


# In a specification, and saved ----------------------------------------------------------------
SPECIFICATION = """
rate: 10
observation:
  - {name: ahead, topic: scan, type: sensor_msgs/msg/LaserScan, field: 'ranges[0:3]'}
action:
  topic: cmd_vel
  actions: {stop: {linear.x: 0.0}, go: {linear.x: 0.2}}
reward: {topic: reward, type: std_msgs/msg/Float64}
agent: {kind: onnx, model: policy.onnx}
"""


def test_a_specification_names_the_model_beside_it(tmp_path: Path) -> None:
    path = tmp_path / 'robot.yaml'
    path.write_text(SPECIFICATION)
    with pytest.raises(SpecificationError, match=r'agent\.model: .*policy\.onnx: cannot be read'):
        make_agent(load_specification(path))
    (tmp_path / 'policy.onnx').write_bytes(linear(np.zeros((4, 2)), np.zeros(2)))
    with pytest.raises(SpecificationError, match=r'agent\.model: .*the observation makes \[1, 3\]'):
        make_agent(load_specification(path))
    (tmp_path / 'policy.onnx').write_bytes(linear(np.zeros((3, 2)), [0.0, np.nan]))
    specification = load_specification(path)
    agent = make_agent(specification)
    assert agent.kind == 'onnx'
    cycle = ControlCycle(specification, agent)
    assert cycle.step(0.0, 0.0).name == 'safe'


def test_it_is_saved_with_its_model_and_restored(tmp_path: Path) -> None:
    agent = OnnxPolicy(Discrete(2), 2, linear([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]))
    agent.observe(Transition(observation(1.0, 2.0), 1, 0.5, observation(2.0, 1.0), False))
    save_checkpoint(tmp_path / 'a.npz', snapshot(agent, {}))
    other = OnnxPolicy(Discrete(2), 2, linear(np.zeros((2, 2)), np.zeros(2)))
    assert other.act(observation(1.0, 2.0), EXPLOIT).action == 0
    restore(load_checkpoint(tmp_path / 'a.npz'), other, {})
    assert other.act(observation(1.0, 2.0), EXPLOIT).action == 1 and other.statistics.steps == 1
    checkpoint = snapshot(agent, {})
    for model in (np.zeros(3, np.uint8), np.zeros((2, 2), np.uint8), np.zeros(3)):
        checkpoint.arrays['model'] = model
        with pytest.raises(ModelError, match='unsound'):
            restore(checkpoint, other, {})
    assert other.act(observation(1.0, 2.0), EXPLOIT).action == 1
