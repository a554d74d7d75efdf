# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Agents in Gymnasium environments: seeding, the ends of episodes, several at once."""
from typing import Any

from muster.learning.agents.base import Agent, Choice, Continuous, Discrete, LearningMode, Transition
from muster.learning.agents.q_learning import QLearning
from muster.learning.gymnasium_env import actions_of, elements_of, evaluate, GymnasiumError, make, train
import numpy as np
import pytest


class Recorder(QLearning):
    """Remembers what it observed, and acts always alike."""

    environments = 2

    def __init__(self) -> None:
        super().__init__(Discrete(2))
        self.seen: list[Transition[Any]] = []
        self.batches: list[Any] = []
        self.interrupts = 0

    def act(self, state: Any, mode: LearningMode) -> Choice:
        return Choice(1, False)

    def observe(self, transition: Transition[Any]) -> None:
        self.seen.append(transition)

    def act_batch(self, states: Any, mode: LearningMode) -> Any:
        return np.ones(len(states), np.int64)

    def observe_batch(self, *transitions: Any) -> None:
        self.batches.append([part.copy() for part in transitions])

    def interrupt(self) -> None:
        self.interrupts += 1


class Single(Recorder):
    """The same for one environment."""

    environments = 1


def test_an_end_is_an_end_and_a_time_out_only_a_truncation() -> None:
    agent = Single()
    run = train(agent, make('CartPole-v1', max_episode_steps=5), 12, 3)
    assert [t.truncated for t in agent.seen] == [(n % 5) == 4 for n in range(12)]
    assert not any(t.terminated for t in agent.seen)
    assert run.returns == [5.0, 5.0] and agent.statistics.episodes == 2 and agent.interrupts == 1
    for one, other in zip(agent.seen, agent.seen[1:], strict=False):  # a sequence goes on where it was
        assert (one.next_state == other.state) != one.truncated
    agent = Single()
    train(agent, make('CartPole-v1'), 40, 3)
    ends = [n for n, t in enumerate(agent.seen) if t.terminated]
    assert ends and not any(t.truncated for t in agent.seen)  # pushed to one side the pole falls


def test_several_environments_run_as_each_does_alone() -> None:
    together = Recorder()
    run = train(together, [make('CartPole-v1', max_episode_steps=7) for _ in range(2)], 60, 5)
    assert run.steps == 60 and together.interrupts == 1
    for i in range(2):
        alone = Single()
        train(alone, make('CartPole-v1', max_episode_steps=7), 30, 5 + i)
        states, _, rewards, following, terminated, truncated = (
            [batch[part][i] for batch in together.batches] for part in range(6))
        assert [tuple(map(float, s)) for s in states] == [t.state for t in alone.seen]
        assert [tuple(map(float, s)) for s in following] == [t.next_state for t in alone.seen]
        assert rewards == [t.reward for t in alone.seen]
        assert terminated == [t.terminated for t in alone.seen]
        assert truncated == [t.truncated for t in alone.seen]


def test_same_seed_same_run_and_another_seed_another() -> None:
    def returns(seed: int) -> list[float]:
        environment = make('FrozenLake-v1')
        return train(QLearning(actions_of(environment), seed=seed), environment, 2000, seed).returns
    assert returns(1) == returns(1)
    assert returns(1) != returns(2)


def test_progress_is_told_and_may_end_the_training() -> None:
    told: list[tuple[int, float]] = []

    def progress(steps: int, total: float) -> bool:
        told.append((steps, total))
        return len(told) < 3
    run = train(Single(), make('CartPole-v1', max_episode_steps=4), 1000, 1, progress=progress)
    assert told == [(4, 4.0), (8, 4.0), (12, 4.0)] and run.steps == 12


def test_evaluation_learns_nothing_and_is_reproducible() -> None:
    agent: Agent[Any] = QLearning(Discrete(2), seed=1)
    before = agent.export()[0]
    environment = make('CartPole-v1')
    assert evaluate(agent, environment, 5, 1) == evaluate(agent, environment, 5, 1)
    assert agent.export()[0] == before


def test_spaces_are_understood_or_refused() -> None:
    assert actions_of(make('Pendulum-v1')) == Continuous((-2.0,), (2.0,))
    assert (elements_of(make('Pendulum-v1')), elements_of(make('FrozenLake-v1'))) == (3, 1)
    with pytest.raises(GymnasiumError, match='not a vector or a number'):
        elements_of(make('Blackjack-v1'))
    with pytest.raises(GymnasiumError, match='NoSuchWorld'):
        make('NoSuchWorld-v0')
    with pytest.raises(GymnasiumError, match='no_such'):
        make('CartPole-v1', no_such=1)
    with pytest.raises(GymnasiumError, match='cannot be trained in 2'):
        train(QLearning(Discrete(2)), [make('CartPole-v1'), make('CartPole-v1')], 10)
