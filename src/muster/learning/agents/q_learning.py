# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Tabular Q-learning with an epsilon-greedy policy (Watkins 1989; Sutton & Barto 2018, section 6.5).

Also double (van Hasselt 2010), with step sizes that fall with the visits of a state and action
(Even-Dar & Mansour 2003), and over tiles in place of states (Sutton & Barto 2018, section 9.5.4).
"""
from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any

from muster.learning.agents.base import (
    Agent, Choice, count, Discrete, finite, generator_from, hyperparameter, LearningMode,
    Statistics, Transition, Value)
from muster.learning.drift import DriftResponse, EpsilonDriftParameters
from muster.learning.states import freeze
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class QLearningParameters(EpsilonDriftParameters):
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
    double: bool = hyperparameter(
        False, 'Learn two tables, each valuing what the other prefers: no over-estimation from noise.',
        live=False)
    step_power: float = hyperparameter(
        0.0, 'The step size falls with the visits of a state and action to this power; 0: it does not.',
        0.0, 1.0, live=False)
    learning_rate_min: float = hyperparameter(
        0.0, 'Step size that falling with the visits never goes below.', 0.0, 1.0)
    tilings: int = hyperparameter(
        1, 'Displaced grids laid over the bins of continuous sensors; more than 1 generalise to neighbours.',
        1, 64, live=False)


class QLearning(Agent[Hashable]):
    """
    A table of action values, one row for each state seen.

    A row holds a value of each action; if double, then one of each by the second estimator; with
    falling step sizes, then how often each of these was updated. With several tilings a state is a tuple of
    tiles, each tile has a row, and values are means over a state's tiles.
    """

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
        self._drift = DriftResponse()
        self._due: Transition[Hashable] | None = None
        self._arrange()

    def _arrange(self) -> None:
        """Lay out the rows of the table as the hyper-parameters have it."""
        parameters, n = self.parameters, self.actions.n
        self._estimates = 2 * n if parameters.double else n
        self._visits = self._estimates if parameters.step_power > 0.0 else 0
        self._plain = self._estimates + self._visits == n and parameters.tilings == 1

    def encode(self, observation: Any) -> Hashable:
        """Return the agent's state for an observation."""
        return self._encode(observation)

    @property
    def epsilon(self) -> float:
        """Return the present exploration rate, 0..1."""
        if self._drift.since is None:
            return self._epsilon
        parameters = self.parameters
        return self._drift.exploration(
            self.statistics.steps, self._epsilon, parameters.drift_epsilon, parameters)

    @property
    def adapting(self) -> bool:
        """Return whether exploration is raised because of a drift."""
        return self._drift.active(self.statistics.steps, self.parameters)

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

    def _rows(self, state: Hashable) -> list[list[float]]:
        """Return the rows of a state; those of what was never seen are not in the table."""
        parts: Any = (state,) if self.parameters.tilings == 1 else state
        return [self.table.get(part) or self._unseen() for part in parts]

    def _unseen(self) -> list[float]:
        return [self.parameters.initial_value] * self._estimates + [0.0] * self._visits

    def values(self, state: Hashable) -> list[float]:
        """Return the value of each action in a state."""
        if self._plain:
            return self.table.get(state) or [self.parameters.initial_value] * self.actions.n
        rows = self._rows(state)
        first = _means(rows, 0, self.actions.n)
        if not self.parameters.double:
            return first
        second = _means(rows, self.actions.n, self.actions.n)
        return [0.5 * (one + other) for one, other in zip(first, second, strict=True)]

    def act(self, state: Hashable, mode: LearningMode) -> Choice:
        """
        Choose an action; ties among best actions are drawn in mode mixed.

        In mode exploitation the choice is a function of the table alone (the first of the best).
        """
        if mode is LearningMode.EXPLORATION or (
                mode is LearningMode.MIXED and self.generator.random() < self.epsilon):
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
        action = transition.action
        assert isinstance(action, int)
        own = self.actions.n if self.parameters.double and self.generator.random() < 0.5 else 0
        target = transition.reward
        if not transition.terminated:
            target += self.parameters.discount * self._following(transition.next_state, own)
        rows = self._stored(transition.state)
        step_size = self.parameters.learning_rate
        if self._drift.since is not None:
            step_size = min(1.0, self._drift.learning_rate(self.statistics.steps, step_size, self.parameters))
        error = target - sum([row[own + action] for row in rows]) / len(rows)
        for row in rows:
            rate = step_size
            if self._visits:
                visited = self._estimates + own + action
                row[visited] += 1.0
                rate = max(self.parameters.learning_rate_min,
                           rate / row[visited] ** self.parameters.step_power)
            row[own + action] += rate * error
        return error

    def _following(self, state: Hashable, own: int) -> float:
        """Return the value of the best action; the estimator at `own` says which is, the other its value."""
        if self._plain:
            return max(self.values(state))
        rows, n = self._rows(state), self.actions.n
        values = _means(rows, own, n)
        if not self.parameters.double:
            return max(values)
        return _means(rows, n - own, n)[values.index(max(values))]

    def _stored(self, state: Hashable) -> list[list[float]]:
        """Return the rows of a state; those of a new one enter the table as long as it has room."""
        parts: Any = (state,) if self.parameters.tilings == 1 else state
        rows = []
        for part in parts:
            row = self.table.get(part)
            if row is None:
                row = self._unseen()
                if len(self.table) < self.parameters.max_states:
                    self.table[part] = row
            rows.append(row)
        return rows

    def decay(self) -> None:
        """Lower the exploration rate by its factor, down to its minimum."""
        lowered = self._epsilon * self.parameters.epsilon_decay
        self._epsilon = max(lowered, min(self._epsilon, self.parameters.epsilon_min))

    def record_episode(self, episode_return: float) -> None:
        """Count an episode; where returns have fallen, explore and learn more for a while."""
        super().record_episode(episode_return)
        if self._drift.episode(episode_return, self.statistics.steps, self.parameters):
            self.statistics.drifts += 1

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of the table, the schedule, the statistics and the generator's state."""
        due = self._due
        document = {'actions': self.actions.n, 'states': list(self.table), 'epsilon': self._epsilon,
                    'parameters': asdict(self.parameters), 'statistics': self.statistics.export(),
                    'generator': self.generator.bit_generator.state, 'drift': self._drift.export(),
                    'due': due and [due.state, due.action, due.reward, due.next_state, due.terminated]}
        width = self._estimates + self._visits
        values = np.array(list(self.table.values()), np.float64).reshape(len(self.table), width)
        return document, {'values': values}

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        try:
            if document['actions'] != self.actions.n:
                raise ValueError(f"it has {document['actions']} actions, this agent {self.actions.n}")
            parameters = QLearningParameters.restored(document['parameters'])
            states, values = [freeze(state) for state in document['states']], arrays['values']
            if parameters.tilings != self.parameters.tilings:
                raise ValueError(f'it has {parameters.tilings} tilings, this agent {self.parameters.tilings}')
            width = self.actions.n * (1 + parameters.double) * (1 + (parameters.step_power > 0.0))
            if values.dtype != np.float64 or values.shape != (len(states), width) \
                    or not np.isfinite(values).all() or len(set(states)) != len(states):
                raise ValueError('the table of action values is unsound')
            epsilon = finite(document['epsilon'])
            if not 0.0 <= epsilon <= 1.0:
                raise ValueError(f'the exploration rate {epsilon} is not within 0..1')
            statistics = Statistics.restored(document['statistics'])
            generator = generator_from(document['generator'])
            drift = DriftResponse.restored(document['drift'])
            due = document['due'] and restored_transition(document['due'], self.actions.n)
            if due and parameters.tilings > 1 and not all(
                    isinstance(state, tuple) and state for state in (due.state, due.next_state)):
                raise ValueError('the transition that is due is not made of tiles')
        except (KeyError, TypeError) as error:
            raise ValueError(f'an entry is missing or of the wrong type: {error}') from error
        self.parameters, self.statistics, self.generator = parameters, statistics, generator
        self._due, self._drift = due, drift
        self.table, self._epsilon = dict(zip(states, values.tolist(), strict=True)), epsilon
        self._arrange()


def _means(rows: list[list[float]], start: int, n: int) -> list[float]:
    """Return the means over rows of their entries from `start` on."""
    if len(rows) == 1:
        return rows[0][start:start + n]
    return [sum(column) / len(rows) for column in list(zip(*rows, strict=True))[start:start + n]]


def restored_transition(entries: Any, actions: int) -> Transition[Hashable]:
    """Rebuild a transition from [state, action, reward, next state, terminated]; raises ValueError."""
    state, action, reward, next_state, terminated = entries
    if count(action) >= actions:
        raise ValueError(f'action {action} does not exist')
    return Transition(freeze(state), action, finite(reward), freeze(next_state), bool(terminated))
