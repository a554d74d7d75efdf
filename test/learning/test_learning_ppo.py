# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""PPO: advantages in closed form, hand-made gradients, known problems, and going on bit for bit."""
from itertools import pairwise
import json
from typing import Any

from muster.learning.agents.base import Actions, Agent, Continuous, Discrete, LearningMode, Transition
from muster.learning.agents.ppo import PPO, PPOParameters
from muster.learning.gymnasium_env import actions_of, evaluate, make, train
from muster.learning.policies import Categorical, Gaussian, Policy
from muster.learning.rollout import advantages
import numpy as np
import pytest

SMALL = PPOParameters(rollout=64, batch=16, epochs=3, hidden=(16,), learning_rate=3e-3)
CAR = Continuous((-1.0, 0.0), (2.0, 0.5))


def test_advantages_are_the_sum_of_the_definition() -> None:
    generator = np.random.default_rng(1)
    steps, environments, discount, trace = 30, 3, 0.9, 0.8
    rewards, values, next_values = generator.normal(size=(3, steps, environments)).astype(np.float32)
    terminated = generator.random((steps, environments)) < 0.1
    ended = terminated | (generator.random((steps, environments)) < 0.1)
    errors = rewards + discount * np.where(terminated, 0.0, next_values) - values
    expected = np.zeros((steps, environments))
    for e in range(environments):
        for start in range(steps):  # Schulman et al. 2016, equation 16, written out
            for k in range(steps - start):
                expected[start, e] += (discount * trace)**k * errors[start + k, e]
                if ended[start + k, e]:
                    break
    found = advantages(rewards, values, next_values, terminated, ended, discount, trace)
    assert found == pytest.approx(expected, abs=1e-5)


def test_lambda_one_gives_the_return_and_lambda_zero_the_error() -> None:
    rewards, values = np.ones((4, 1), np.float32), np.full((4, 1), 5.0, np.float32)
    no, end = np.zeros((4, 1), np.bool_), np.array([[False]] * 3 + [[True]])
    whole = advantages(rewards, values, values, end, end, 0.5, 1.0)
    assert whole[:, 0] + 5.0 == pytest.approx([1.875, 1.75, 1.5, 1.0])  # nothing follows an end
    timed_out = advantages(rewards, values, values, no, end, 0.5, 1.0)
    assert timed_out[:, 0] + 5.0 == pytest.approx([2.1875, 2.375, 2.75, 3.5])  # but a time-out
    assert advantages(rewards, values, values, no, no, 0.5, 0.0)[:, 0] == pytest.approx([-1.5] * 4)


@pytest.mark.parametrize('policy', [Categorical(Discrete(4)), Gaussian(CAR)], ids=['discrete', 'continuous'])
def test_gradients_are_those_of_finite_differences(policy: Policy) -> None:
    generator = np.random.default_rng(2)
    outputs = generator.normal(size=(5, policy.outputs))
    spread = generator.normal(-0.5, 0.3, policy.spreads)
    actions, _ = policy.sample(outputs, spread, generator)  # type: ignore[arg-type]
    weights = generator.normal(size=5)

    def loss(outputs: Any, spread: Any) -> float:
        logs, randomness, _ = policy.evaluate(outputs, spread, actions)
        entropy = spread.sum() if policy.spreads else randomness * np.log(4)
        return float(weights @ logs + 0.7 * entropy)
    by_outputs, by_spread = policy.evaluate(outputs, spread, actions)[2](weights, 0.7)  # type: ignore
    for values, found in ((outputs, by_outputs), (spread, by_spread)):
        for place in np.ndindex(values.shape):
            kept, change = values[place], 1e-5
            values[place] = kept + change
            above = loss(outputs, spread)
            values[place] = kept - change
            difference = (above - loss(outputs, spread)) / (2 * change)
            values[place] = kept
            assert found[place] == pytest.approx(difference, abs=1e-6)


def test_samples_have_the_probabilities_they_claim() -> None:
    generator = np.random.default_rng(3)
    outputs = np.tile(np.array([[0.0, 1.0, -1.0]], np.float32), (20_000, 1))
    actions, logs = Categorical(Discrete(3)).sample(outputs, np.zeros(0, np.float32), generator)
    probabilities = np.exp(outputs[0]) / np.exp(outputs[0]).sum()
    assert np.bincount(actions) / 20_000 == pytest.approx(probabilities, abs=0.02)
    assert np.exp(logs) == pytest.approx(probabilities[actions], rel=1e-5)
    gaussian, spread = Gaussian(CAR), np.log(np.array([0.5, 0.1], np.float32))
    outputs = np.tile(np.array([[0.5, -9.0]], np.float32), (20_000, 1))
    drawn, _ = gaussian.sample(outputs, spread, generator)
    assert drawn.mean(axis=0) == pytest.approx([np.tanh(0.5), -1.0], abs=0.02)
    assert drawn.std(axis=0) == pytest.approx([0.5, 0.1], rel=0.05)
    commands = gaussian.to_commands(drawn)
    assert commands.min(axis=0).tolist() == [-1.0, 0.0] and commands.max(axis=0)[0] == 2.0
    assert gaussian.from_commands(gaussian.to_commands(drawn * 0.1)) == pytest.approx(drawn * 0.1, abs=1e-6)


def play(agent: PPO, begin: int, end: int) -> list[Any]:
    """Act in a world whose rows are fixed; learn at most two units a step, as a control cycle may."""
    rows = np.random.default_rng(7).normal(size=(end + 1, agent.elements)).astype(np.float32)
    done = []
    for step in range(begin, end):
        action = agent.act(rows[step], LearningMode.MIXED).action
        reward = float(rows[step, 0] * np.sum(action))
        agent.observe(Transition(rows[step], action, reward, rows[step + 1],
                                 step % 17 == 16, step % 23 == 22))
        done.append(np.array(action).tolist())
        for _ in range(2):
            agent.learn()
    return done


@pytest.mark.parametrize('actions', [Discrete(3), CAR], ids=['discrete', 'continuous'])
@pytest.mark.parametrize('cut', [10, 64, 70, 150])  # in a rollout, at its end, amid its work, later
def test_n_plus_m_steps_equal_n_save_load_m_bit_for_bit(actions: Actions, cut: int) -> None:
    whole, first = PPO(actions, 3, SMALL, seed=4), PPO(actions, 3, SMALL, seed=4)
    expected = play(whole, 0, 300)
    begun = play(first, 0, cut)
    document, arrays = first.export()
    second = PPO(actions, 3, SMALL, seed=9)
    second.restore(json.loads(json.dumps(document)), arrays)
    assert begun + play(second, cut, 300) == expected
    assert json.dumps(second.export()[0]) == json.dumps(whole.export()[0])
    ours, theirs = second.export()[1], whole.export()[1]
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


def test_a_choice_not_yet_observed_survives_too() -> None:
    first = PPO(CAR, 3, SMALL, seed=4)
    state = np.ones(3, np.float32)
    chosen = first.act(state, LearningMode.MIXED).action
    second = PPO(CAR, 3, SMALL)
    second.restore(*first.export())
    for agent in (first, second):
        agent.observe(Transition(state, chosen, 1.0, state, False))
    assert (first.export()[1]['collected_actions'] == second.export()[1]['collected_actions']).all()


def test_it_goes_on_in_another_number_of_environments_without_the_rollouts() -> None:
    trained = PPO(Discrete(3), 3, SMALL, seed=4)
    play(trained, 0, 100)
    several = PPO(Discrete(3), 3, SMALL, environments=4)
    several.restore(*trained.export())
    states = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    best = [trained.act(state, LearningMode.EXPLOITATION).action for state in states]
    assert several.act_batch(states, LearningMode.EXPLOITATION).tolist() == best
    assert several.learn() is None


@pytest.mark.parametrize('changed', [
    {'elements': 4}, {'actions': {'n': 4}}, {'statistics': {}}, {'generator': 3},
    {'parameters': {'clip': 7.0}}, {'work_done': -1}, {'randomness': 'x'}, {'environments': None}])
def test_an_unsound_document_is_refused_and_changes_nothing(changed: dict[str, Any]) -> None:
    source, agent = PPO(Discrete(3), 3, SMALL, seed=4), PPO(Discrete(3), 3, SMALL, seed=5)
    play(source, 0, 70)
    play(agent, 0, 30)
    before = json.dumps(agent.export()[0])
    document, arrays = source.export()
    with pytest.raises(ValueError):
        agent.restore(document | changed, arrays)
    for name, array in arrays.items():
        if array.size:
            wrong = array * np.float32(np.nan) if array.dtype == np.float32 else array[..., :-1]
            with pytest.raises(ValueError):
                agent.restore(document, arrays | {name: wrong})
    assert json.dumps(agent.export()[0]) == before
    agent.restore(document, arrays)


def test_bad_transitions_are_refused_and_change_nothing() -> None:
    agent, state = PPO(Discrete(3), 2, SMALL, seed=1), np.zeros(2, np.float32)
    for action, reward in ((3, 0.0), (-1, 0.0), (0, float('nan')), (np.zeros(2, np.float32), 0.0)):
        with pytest.raises(ValueError):
            agent.observe(Transition(state, action, reward, state, False))
    assert agent.statistics.steps == 0
    with pytest.raises(ValueError, match='2 environments'):
        PPO(Discrete(3), 2, SMALL, environments=2).observe(Transition(state, 1, 0.0, state, False))
    with pytest.raises(ValueError, match='hidden is fixed'):
        agent.configure(hidden=(8,))
    with pytest.raises(ValueError, match='low < high'):
        PPO(Continuous((0.0,), (0.0,)), 2, SMALL)


def test_work_never_piles_up() -> None:
    agent = PPO(Discrete(2), 3, SMALL, seed=1)
    rows = np.random.default_rng(7).normal(size=(400, 3)).astype(np.float32)
    for state, following in pairwise(rows):  # many rollouts, nobody learns
        agent.observe(Transition(state, agent.act(state, LearningMode.MIXED).action, 1.0, following, False))
    units = 0
    while agent.learn() is not None:
        units += 1
    assert units == 1 + 3 * 4  # the preparation, then epochs x minibatches of the latest alone


def test_an_interruption_cuts_the_sequence() -> None:
    agent, state = PPO(Discrete(2), 1, SMALL, seed=1), np.zeros(1, np.float32)
    for step in range(5):
        agent.observe(Transition(state, agent.act(state, LearningMode.MIXED).action, 0.0, state, False))
        if step == 2:
            agent.interrupt()
    arrays = agent.export()[1]
    assert arrays['collected_ended'][:, 0].tolist() == [False, False, True, False, False]
    assert not arrays['collected_terminated'].any()


def test_stored_probabilities_are_those_of_the_moment_of_acting() -> None:
    agent = PPO(Discrete(3), 3, SMALL, seed=4)
    play(agent, 0, 64)
    rows = np.random.default_rng(8).normal(size=(30, 3)).astype(np.float32)
    for state in rows:  # the policy changes between acting and the end of this rollout
        action = agent.act(state, LearningMode.MIXED).action
        assert isinstance(action, int)
        outputs = agent._actor.forward(agent._seen(state[None]))[0]
        log = float(outputs[action] - np.log(np.exp(outputs).sum()))
        agent.learn()
        agent.observe(Transition(state, action, 0.0, state, False))
        stored = agent.export()[1]['collected_log_probabilities'][-1, 0]
        assert stored == pytest.approx(log, abs=1e-5)
    uniform = agent.act(rows[0], LearningMode.EXPLORATION).action
    agent.observe(Transition(rows[0], uniform, 0.0, rows[1], False))
    assert agent.export()[1]['collected_log_probabilities'][-1, 0] == pytest.approx(-np.log(3))


def identity(agent: PPO, target: Any, steps: int, seed: int) -> float:
    """Reward an action for being what the state says; return the mean reward of the greedy policy after."""
    generator = np.random.default_rng(seed)
    draw = (lambda: generator.integers(2, size=1)) if isinstance(agent.actions, Discrete) \
        else (lambda: generator.uniform(-1.0, 1.0, 1))
    state = draw().astype(np.float32)
    for _ in range(steps):
        action = agent.act(state, LearningMode.MIXED).action
        following = draw().astype(np.float32)
        agent.observe(Transition(state, action, target(state[0], action), following, False))
        while agent.learn() is not None:
            pass
        state = following
    states = [draw().astype(np.float32) for _ in range(100)]
    return float(np.mean([target(s[0], agent.act(s, LearningMode.EXPLOITATION).action) for s in states]))


@pytest.mark.parametrize('seed', [1, 2])
def test_identity_with_discrete_and_continuous_actions(seed: int) -> None:
    parameters = PPOParameters(rollout=128, batch=32, epochs=8, hidden=(16,), learning_rate=5e-3,
                               discount=0.1)
    discrete = PPO(Discrete(2), 1, parameters, seed)
    assert identity(discrete, lambda state, action: float(action == state), 1500, seed) == 1.0
    assert discrete.epsilon < 0.2
    continuous = PPO(Continuous((-2.0,), (2.0,)), 1, parameters, seed)
    assert identity(continuous, lambda state, action: -abs(float(action[0] - state)), 4000, seed) > -0.25


def test_cart_pole_is_learned_in_several_environments_at_once() -> None:
    environments = [make('CartPole-v1') for _ in range(8)]
    agent = PPO(actions_of(environments[0]), 4, PPOParameters(
        rollout=256, batch=256, epochs=20, learning_rate=1e-3, discount=0.98, trace=0.8), 1, environments=8)
    train(agent, environments, 15_000, 1)
    assert np.mean(evaluate(agent, environments[0], 10, 100)) > 200.0


def test_same_seed_same_run_and_another_seed_another() -> None:
    def outcome(seed: int) -> tuple[list[float], Any]:
        environments = [make('Pendulum-v1') for _ in range(2)]
        agent = PPO(actions_of(environments[0]), 3, SMALL, seed, environments=2)
        return train(agent, environments, 900, seed).returns, agent.theta.tolist()
    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)


def test_it_is_an_agent_like_the_others() -> None:
    agent: Agent[Any] = PPO(Discrete(2), 2, SMALL)
    agent.decay()
    agent.begin_task('another')
    agent.configure(learning_rate=0.01)
    assert (agent.states, agent.kind) == (0, 'ppo') and agent.learn() is None
    assert agent.parameters.learning_rate == 0.01  # type: ignore[attr-defined]
