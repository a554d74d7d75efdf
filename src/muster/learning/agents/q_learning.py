# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tabular Q-learning with an epsilon-greedy policy (Watkins 1989; Sutton & Barto 2018, section 6.5)."""
from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any

from muster.learning.agents.base import (
    Agent, Choice, count, Discrete, finite, generator_from, hyperparameter, Hyperparameters,
    LearningMode, Statistics, Transition, Value)
from muster.learning.states import freeze
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class QLearningParameters(Hyperparameters):
    """Hyper-parameters of tabular Q-learning."""

    learning_rate: float = hyperparameter(
        0.2, 'Step size: the part of each temporal-difference error that is learned.', 0.0, 1.0)
    discount: float = hyperparameter(
        0.95, 'Worth of a reward one step later, relative to now.', 0.0, 1.0)
    epsilon: float = hyperparameter(
        0.3, 'Exploration rate at the start: probability of a random action in mode mixed. '
        'A new value restarts its schedule.', 0.0, 1.0)
    epsilon_min: float = hyperparameter(
        0.05, 'Exploration rate that decay never goes below.', 0.0, 1.0)
    epsilon_decay: float = hyperparameter(
        0.99, 'Factor on the exploration rate after each episode.', 0.0, 1.0)
    initial_value: float = hyperparameter(
        0.0, 'Value of actions never tried; a high one makes the agent try everything.', -1e6, 1e6)
    max_states: int = hyperparameter(
        200_000, 'States kept in the table; beyond it new states are acted on but not learned.',
        1, 10_000_000, live=False)


class QLearning(Agent[Hashable]):
    """A table of action values, one row for each state seen."""

    kind = 'q_learning'
    actions: Discrete
    parameters: QLearningParameters

    def __init__(self, actions: Discrete, parameters: QLearningParameters | None = None,
                 seed: int | None = None, encode: Callable[[Any], Hashable] = freeze) -> None:
        """
        Make an agent that knows nothing.

        `encode` maps an observation to a state made of numbers, texts and tuples.
        """
        self.actions = actions
        self.parameters = parameters or QLearningParameters()
        self._encode = encode
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self.table: dict[Hashable, list[float]] = {}
        self.statistics = Statistics()
        self._epsilon = self.parameters.epsilon
        self._due: Transition[Hashable] | None = None

    def encode(self, observation: Any) -> Hashable:
        """Return the agent's state for an observation."""
        return self._encode(observation)

    @property
    def epsilon(self) -> float:
        """Return the present exploration rate, 0..1."""
        return self._epsilon

    @property
    def states(self) -> int:
        """Return how many states have a row in the table."""
        return len(self.table)

    def configure(self, **hyperparameters: Value) -> None:
        """Change hyper-parameters from now on; a new `epsilon` restarts its schedule."""
        before = self.parameters.epsilon
        super().configure(**hyperparameters)
        if self.parameters.epsilon != before:
            self._epsilon = self.parameters.epsilon

    def values(self, state: Hashable) -> list[float]:
        """Return the value of each action in a state."""
        return self.table.get(state) or [self.parameters.initial_value] * self.actions.n

    def act(self, state: Hashable, mode: LearningMode) -> Choice:
        """
        Choose an action; ties among best actions are drawn in mode mixed.

        In mode exploitation the choice is a function of the table alone (the first of the best).
        """
        if mode is LearningMode.EXPLORATION or (
                mode is LearningMode.MIXED and self.generator.random() < self._epsilon):
            return Choice(int(self.generator.integers(self.actions.n)), True)
        values = self.values(state)
        best = max(values)
        index = values.index(best)
        if mode is LearningMode.MIXED and values.count(best) > 1:
            ties = [i for i, value in enumerate(values) if value == best]
            index = ties[int(self.generator.integers(len(ties)))]
        return Choice(index, False)

    def observe(self, transition: Transition[Hashable]) -> None:
        """Make a transition due to be learned; one that still was is learned first."""
        if not isinstance(transition.action, int) or not 0 <= transition.action < self.actions.n:
            raise ValueError(f'action {transition.action} does not exist: 0..{self.actions.n - 1}')
        reward = finite(transition.reward)
        self.learn()
        self._due = transition
        self.statistics.observed(reward)

    def learn(self) -> float | None:
        """Learn the transition that is due and return the size of its error."""
        if self._due is None:
            return None
        error = abs(self.improve(self._due))
        self._due = None
        self.statistics.learned(error)
        return error

    def improve(self, transition: Transition[Hashable]) -> float:
        """Move Q(s, a) towards r + discount * max Q(s', .) and return the error before the move."""
        assert isinstance(transition.action, int)
        target = transition.reward
        if not transition.terminated:
            target += self.parameters.discount * max(self.values(transition.next_state))
        row = self.table.get(transition.state)
        if row is None:
            row = self.values(transition.state)
            if len(self.table) < self.parameters.max_states:
                self.table[transition.state] = row
        error = target - row[transition.action]
        row[transition.action] += self.parameters.learning_rate * error
        return error

    def decay(self) -> None:
        """Lower the exploration rate by its factor, down to its minimum."""
        lowered = self._epsilon * self.parameters.epsilon_decay
        self._epsilon = max(lowered, min(self._epsilon, self.parameters.epsilon_min))

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of the table, the schedule, the statistics and the generator's state."""
        due = self._due
        document = {'actions': self.actions.n, 'states': list(self.table), 'epsilon': self._epsilon,
                    'parameters': asdict(self.parameters), 'statistics': self.statistics.export(),
                    'generator': self.generator.bit_generator.state,
                    'due': due and [due.state, due.action, due.reward, due.next_state, due.terminated]}
        values = np.array(list(self.table.values()), np.float64).reshape(len(self.table), self.actions.n)
        return document, {'values': values}

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        try:
            if document['actions'] != self.actions.n:
                raise ValueError(f"it has {document['actions']} actions, this agent {self.actions.n}")
            parameters = QLearningParameters.restored(document['parameters'])
            states, values = [freeze(state) for state in document['states']], arrays['values']
            if values.dtype != np.float64 or values.shape != (len(states), self.actions.n) \
                    or not np.isfinite(values).all() or len(set(states)) != len(states):
                raise ValueError('the table of action values is unsound')
            epsilon = finite(document['epsilon'])
            if not 0.0 <= epsilon <= 1.0:
                raise ValueError(f'the exploration rate {epsilon} is not within 0..1')
            statistics = Statistics.restored(document['statistics'])
            generator = generator_from(document['generator'])
            due = document['due'] and restored_transition(document['due'], self.actions.n)
        except (KeyError, TypeError) as error:
            raise ValueError(f'an entry is missing or of the wrong type: {error}') from error
        self.parameters, self.statistics, self.generator = parameters, statistics, generator
        self._due = due
        self.table, self._epsilon = dict(zip(states, values.tolist(), strict=True)), epsilon


def restored_transition(entries: Any, actions: int) -> Transition[Hashable]:
    """Rebuild a transition from [state, action, reward, next state, terminated]; raises ValueError."""
    state, action, reward, next_state, terminated = entries
    if count(action) >= actions:
        raise ValueError(f'action {action} does not exist')
    return Transition(freeze(state), action, finite(reward), freeze(next_state), bool(terminated))
