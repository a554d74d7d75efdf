# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Deep Q-learning (Mnih et al. 2015) with the improvements that pay on small networks.

Double estimates (van Hasselt et al. 2016), a duelling head (Wang et al. 2016), returns over several
steps and prioritized replay (Schaul et al. 2016), as put together by Hessel et al. 2018 (Rainbow).
"""
from __future__ import annotations

from dataclasses import asdict, dataclass
import math
from typing import Any

from muster.learning.agents.base import (
    Agent, Choice, count, Discrete, finite, generator_from, hyperparameter, LearningMode,
    Statistics, Transition, Value)
from muster.learning.continual.memory import ContinualParameters, TaskMemory
from muster.learning.continual.transfer import TransferMatrix
from muster.learning.drift import DriftResponse, EpsilonDriftParameters
from muster.learning.n_step import NStepWindow
from muster.learning.networks import Adam, check_vector, clip_norm, huber_gradient, MLP
from muster.learning.prioritized_replay import PrioritizedReplay
from muster.learning.replay import Batch, MAXIMUM_CAPACITY, Replay
from muster.learning.schedules import Linear
import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float32]
_STEPS = 1_000_000_000
#: Random actions last as the zeta distribution says: most one step, few very long (Dabney et al. 2021).
_HOLD_EXPONENT = 2.0


@dataclass(frozen=True)
class DQNParameters(EpsilonDriftParameters, ContinualParameters):
    """Hyper-parameters of deep Q-learning; steps are transitions, updates are minibatches."""

    hidden: tuple[int, ...] = hyperparameter(
        (64, 64), 'Sizes of the hidden layers.', 1, 1024, live=False)
    learning_rate: float = hyperparameter(
        1e-3, 'Step size of Adam (Kingma & Ba 2015).', 0.0, 1.0)
    learning_rate_end: float = hyperparameter(
        1e-3, 'Step size that is reached after schedule_steps.', 0.0, 1.0)
    discount: float = hyperparameter(
        0.99, 'Worth of a reward one step later, relative to now.', 0.0, 1.0)
    discount_end: float = hyperparameter(
        0.99, 'Discount that is reached after schedule_steps; learning is steadier when it grows '
        '(Francois-Lavet et al. 2015).', 0.0, 1.0)
    schedule_steps: int = hyperparameter(
        0, 'Steps in which learning rate and discount change linearly; 0: they stay.', 0, _STEPS)
    epsilon: float = hyperparameter(
        1.0, 'Exploration rate at the start: probability of a random action in mode mixed. '
        'A new value restarts its schedule.', 0.0, 1.0)
    epsilon_min: float = hyperparameter(
        0.05, 'Exploration rate that is reached after epsilon_steps.', 0.0, 1.0)
    epsilon_steps: int = hyperparameter(
        10_000, 'Steps in which the exploration rate falls linearly (Mnih et al. 2015).', 0, _STEPS)
    epsilon_hold: int = hyperparameter(
        1, 'A random action goes on for 1 to so many steps, seldom for many; what one step never reaches is '
        'found that way (Dabney et al. 2021).', 1, 10_000)
    capacity: int = hyperparameter(
        100_000, 'Transitions kept for replay (Lin 1992).', 1, MAXIMUM_CAPACITY, live=False)
    batch: int = hyperparameter(
        64, 'Transitions of a minibatch.', 1, 4096)
    learning_starts: int = hyperparameter(
        1000, 'Steps before the first update.', 1, _STEPS)
    train_interval: int = hyperparameter(
        1, 'Steps from one training to the next; updates not done by then are dropped.', 1, 1_000_000)
    train_updates: int = hyperparameter(
        1, 'Updates of each training.', 1, 100_000)
    target_interval: int = hyperparameter(
        250, 'Updates from one renewal of the target network to the next (Mnih et al. 2015).', 1, _STEPS)
    target_rate: float = hyperparameter(
        1.0, 'Part of the network that goes into the target network at each renewal; 1 copies it '
        '(Lillicrap et al. 2016: little, but after every update).', 0.0, 1.0)
    double: bool = hyperparameter(
        True, 'The network chooses the next action, the target network values it: no overestimation '
        '(van Hasselt et al. 2016).')
    duelling: bool = hyperparameter(
        False, 'Learn the value of a state apart from the advantages of its actions (Wang et al. 2016; here '
        'both are linear in the last hidden layer).', live=False)
    n_step: int = hyperparameter(
        1, 'Rewards of so many steps before the estimate of what follows (Sutton & Barto 2018, section '
        '7.1; 3 in Hessel et al. 2018).', 1, 100, live=False)
    prioritized: bool = hyperparameter(
        False, 'Replay more often what surprised more (Schaul et al. 2016).', live=False)
    priority_exponent: float = hyperparameter(
        0.6, 'How much more often: 0 not at all (their alpha).', 0.0, 1.0, live=False)
    priority_correction: float = hyperparameter(
        0.4, 'How far the bias of that is corrected at the start (their beta).', 0.0, 1.0)
    priority_steps: int = hyperparameter(
        100_000, 'Steps in which the correction grows to 1.', 0, _STEPS)
    huber: float = hyperparameter(
        1.0, 'Errors beyond this count linearly, not squared (Huber 1964; the clipping of Mnih et al. 2015).',
        1e-6, 1e6)
    gradient_norm: float = hyperparameter(
        10.0, 'Gradients are scaled to at most this norm (Pascanu et al. 2013; 10 in Wang et al. 2016).',
        1e-6, 1e6)


class DQN(Agent[Floats]):
    """A network of action values over vectors, learned from replayed transitions."""

    kind = 'dqn'
    actions: Discrete
    parameters: DQNParameters

    def __init__(self, actions: Discrete, observations: int, parameters: DQNParameters | None = None,
                 seed: int | None = None) -> None:
        """Make an agent that knows nothing, for vectors of `observations` elements."""
        self.actions, self.observations = actions, observations
        self.parameters = chosen = parameters or DQNParameters()
        self.generator = np.random.Generator(np.random.PCG64(seed))
        outputs = actions.n + chosen.duelling
        sizes = (observations, *chosen.hidden, outputs)
        self.network, self._target = MLP(sizes, self.generator), MLP(sizes, self.generator)
        self._target.theta[:] = self.network.theta
        self._optimiser = Adam(self.network.theta.size)
        self._forget_transitions()
        self.statistics = Statistics()
        self.memory = TaskMemory([self.network], chosen, self._agreement)
        """What keeps earlier tasks from being forgotten."""
        self._drift = DriftResponse()
        self._due = 0
        self._explores_since = 0
        self._held, self._holds = 0, 0  # a random action, and for how many steps yet
        self._powers: tuple[float, Floats] = (-1.0, np.zeros(0, np.float32))  # of which discount
        self._task_since = 0
        self._places: NDArray[np.intp] = np.zeros(0, np.intp)  # of the rows of a batch
        self._gradient = np.zeros_like(self.network.theta)
        self._duel = _duelling_matrix(actions.n) if chosen.duelling else None
        self._schedule()

    def _forget_transitions(self) -> None:
        chosen = self.parameters
        self._replay = PrioritizedReplay(chosen.capacity, self.observations, chosen.priority_exponent) \
            if chosen.prioritized else Replay(chosen.capacity, self.observations)
        self._window = NStepWindow(chosen.n_step, self._replay.add)

    def _schedule(self) -> None:
        chosen = self.parameters
        self._learning_rate = Linear(chosen.learning_rate, chosen.learning_rate_end, chosen.schedule_steps)
        self._discount = Linear(chosen.discount, chosen.discount_end, chosen.schedule_steps)
        self._exploration = Linear(chosen.epsilon, chosen.epsilon_min, chosen.epsilon_steps)
        self._correction = Linear(chosen.priority_correction, 1.0, chosen.priority_steps)

    def configure(self, **hyperparameters: Value) -> None:
        """Change hyper-parameters from now on; a new `epsilon` restarts its schedule."""
        before = self.parameters.epsilon
        super().configure(**hyperparameters)
        if self.parameters.epsilon != before:
            self._explores_since = self.statistics.steps
        self.memory.parameters = self.parameters
        self._schedule()

    @property
    def epsilon(self) -> float:
        """Return the present exploration rate, 0..1."""
        step = self.statistics.steps
        usual = self._exploration(step - self._explores_since)
        return self._drift.exploration(step, usual, self.parameters.drift_epsilon, self.parameters)

    @property
    def adapting(self) -> bool:
        """Return whether exploration is raised because of a drift."""
        return self._drift.active(self.statistics.steps, self.parameters)

    @property
    def states(self) -> int:
        """Return 0: states are not counted."""
        return 0

    def encode(self, observation: NDArray[Any]) -> Floats:
        """Return a copy of an observation as float32; raises ValueError on a wrong shape or NaN."""
        state = np.array(observation, np.float32)
        # Infinity and NaN survive the product: a single test for all elements.
        if state.shape != (self.observations,) or not math.isfinite(state.dot(state)):
            raise ValueError(f'an observation has {self.observations} finite values, not {state!r}'[:200])
        return state

    def values(self, state: Floats) -> Floats:
        """Return the value of each action [n] in a state."""
        outputs = self.network.forward_one(state)
        return outputs.copy() if self._duel is None else outputs @ self._duel

    def act(self, state: Floats, mode: LearningMode) -> Choice:
        """Choose an action: the best, or at random with the exploration rate in mode mixed."""
        if mode is not LearningMode.EXPLOITATION and self._explores(mode):
            return Choice(self._held, True)
        outputs = self.network.forward_one(state)
        # The value of the state itself, first in a duelling head, makes no difference here.
        return Choice(int((outputs if self._duel is None else outputs[1:]).argmax()), False)

    def _explores(self, mode: LearningMode) -> bool:
        """Draw whether to explore now; a random action is held for a while."""
        if self._holds:
            self._holds -= 1
            return True
        if mode is LearningMode.MIXED and self.generator.random() >= self.epsilon:
            return False
        self._held = int(self.generator.random() * self.actions.n)
        hold = self.parameters.epsilon_hold
        if hold > 1:
            self._holds = min(int(self.generator.zipf(_HOLD_EXPONENT)), hold) - 1
        return True

    def observe(self, transition: Transition[Floats]) -> None:
        """Remember a transition; makes a training due at its interval."""
        action, statistics, chosen = transition.action, self.statistics, self.parameters
        if not isinstance(action, int) or not 0 <= action < self.actions.n:
            raise ValueError(f'action {action} does not exist: 0..{self.actions.n - 1}')
        reward = finite(transition.reward)
        self._window.push(transition, self._discount(statistics.steps))
        if transition.terminated or transition.truncated:
            self._holds = 0
        self.memory.remember(transition.state, self.generator)
        statistics.observed(reward)
        if statistics.steps - self._task_since >= chosen.learning_starts \
                and statistics.steps % chosen.train_interval == 0:
            self._due = chosen.train_updates

    def interrupt(self) -> None:
        """End returns over several steps here."""
        self._window.cut()
        self._holds = 0

    def begin_task(self, task: str) -> None:
        """
        Hold on to the present task and let experience belong to `task`; a new one restarts exploration.

        Transitions of the task before are replayed no more: what was learned from them is rehearsed.
        """
        if task == self.task:
            return
        new = self.memory.begin_task(task, self.generator)
        self.task, self._task_since, self._due, self._holds = task, self.statistics.steps, 0, 0
        self._forget_transitions()
        if new:
            self._explores_since = self.statistics.steps

    def consolidate(self) -> None:
        """Hold on to what was learned of the present task."""
        self.memory.consolidate(self.generator)

    @property
    def transfer(self) -> TransferMatrix:
        """Return the share of the states of each task in which it still chooses as at its end."""
        return self.memory.transfer

    def _agreement(self, now: Floats, once: Floats) -> float:
        first = self._duel is not None  # the value of the state itself makes no difference to the choice
        return float((now[:, first:].argmax(1) == once[:, first:].argmax(1)).mean())

    def decay(self) -> None:
        """Do nothing: schedules go by steps, not by episodes."""

    def record_episode(self, episode_return: float) -> None:
        """Count an episode; where returns have fallen, explore and learn more for a while."""
        super().record_episode(episode_return)
        if self._drift.episode(episode_return, self.statistics.steps, self.parameters):
            self.statistics.drifts += 1

    def learn(self) -> float | None:
        """Learn one minibatch if it is due and return its mean absolute error."""
        if not self._due or not len(self._replay):
            return None
        self._due -= 1
        error = self._update()
        self.statistics.learned(error)
        if self.statistics.updates % self.parameters.target_interval == 0:
            self._renew_target()
        return error

    def _update(self) -> float:
        chosen, step, replay = self.parameters, self.statistics.steps, self._replay
        if isinstance(replay, PrioritizedReplay):
            batch = replay.sample(chosen.batch, self.generator, self._correction(step))
        else:
            batch = replay.sample(chosen.batch, self.generator)
        expected, values = self._values(batch)
        target = expected * self._discounts(step).take(batch.steps)
        target += batch.rewards
        taken = batch.actions
        taken += self._first(chosen.batch)
        errors = values.take(taken)
        errors -= target
        slope = huber_gradient(errors, chosen.huber, out=target)
        slope *= np.float32(1.0 / chosen.batch)
        if batch.weights is not None:
            slope *= batch.weights
        by_value = np.zeros((chosen.batch, self.actions.n), np.float32)
        by_value.reshape(-1)[taken] = slope
        self._step(self.network.backward(by_value if self._duel is None else by_value @ self._duel.T))
        np.abs(errors, out=errors)
        if isinstance(replay, PrioritizedReplay):
            replay.update(batch.positions, errors)
        return float(np.add.reduce(errors)) / chosen.batch

    def _values(self, batch: Batch) -> tuple[Floats, Floats]:
        """Return what is expected [batch] of the next states, and the values [batch, n] of the states."""
        size = self.parameters.batch
        following = self._mixed(self._target.forward(batch.next_states))
        if not self.parameters.double:
            return following.max(axis=1), self._mixed(self.network.forward(batch.states))
        # Both go through the network at once; `backward` is for the states, the first half.
        both = self.network.inputs(2 * size)
        both[:size], both[size:] = batch.states, batch.next_states
        values = self._mixed(self.network.forward(both))
        best = values[size:].argmax(axis=1)
        best += self._first(size)
        return following.take(best), values[:size]

    def _first(self, rows: int) -> NDArray[np.intp]:
        """Return the place [rows] of each row's first action in values [rows, n] laid end to end."""
        if len(self._places) != rows:
            self._places = np.arange(0, rows * self.actions.n, self.actions.n)
        return self._places

    def _mixed(self, outputs: Floats) -> Floats:
        return outputs if self._duel is None else outputs @ self._duel

    def _discounts(self, step: int) -> Floats:
        """Return the discount of what follows after 0 (nothing follows), 1, 2 … n steps."""
        discount = self._discount(step)
        if discount != self._powers[0]:
            powers = np.float32(discount) ** np.arange(self.parameters.n_step + 1, dtype=np.float32)
            powers[0] = 0.0
            self._powers = discount, powers
        return self._powers[1]

    def _step(self, gradient: Floats) -> None:
        chosen, step = self.parameters, self.statistics.steps
        self._gradient[:] = gradient  # the rehearsal goes through the same network
        gradient = self._gradient
        self.memory.add_gradient(gradient, self.generator)
        clip_norm(gradient, chosen.gradient_norm)
        rate = self._drift.learning_rate(step, self._learning_rate(step), chosen)
        self._optimiser.step(self.network.theta, gradient, rate)

    def _renew_target(self) -> None:
        rate, target = self.parameters.target_rate, self._target.theta
        if rate == 1.0:
            target[:] = self.network.theta
        else:
            target += np.float32(rate) * (self.network.theta - target)

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of networks, optimiser, replay, schedules, statistics and the generator's state."""
        optimiser, moments = self._optimiser.export()
        replay, rows = self._replay.export()
        memory, kept = self.memory.export()
        document = {
            'observations': self.observations, 'actions': self.actions.n,
            'parameters': asdict(self.parameters), 'statistics': self.statistics.export(),
            'generator': self.generator.bit_generator.state, 'optimiser': optimiser, 'replay': replay,
            'window': self._window.export(), 'drift': self._drift.export(), 'due': self._due,
            'explores_since': self._explores_since, 'held': [self._held, self._holds],
            'task_since': self._task_since, 'memory': memory}
        return document, {'theta': self.network.theta.copy(), 'target': self._target.theta.copy(),
                          **moments, **rows, **{f'memory_{name}': array for name, array in kept.items()}}

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        try:
            shape = document['observations'], document['actions']
            if shape != (self.observations, self.actions.n):
                raise ValueError(f'it has {shape[0]} observations and {shape[1]} actions, this agent '
                                 f'{self.observations} and {self.actions.n}')
            fresh = DQN(self.actions, self.observations, DQNParameters.restored(document['parameters']), 0)
            fresh._take(document, arrays)
        except (KeyError, TypeError) as error:
            raise ValueError(f'an entry is missing or of the wrong type: {error}') from error
        vars(self).update(vars(fresh))

    def _take(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        for network, name in ((self.network, 'theta'), (self._target, 'target')):
            check_vector(arrays[name], network.theta, 'the weights')
            network.theta[:] = arrays[name]
        self._optimiser.restore(document['optimiser'], arrays)
        self._replay.restore(document['replay'], arrays)
        if (arrays['rows'][:, -3] >= self.actions.n).any() \
                or (arrays['rows'][:, -1] > self.parameters.n_step).any():
            raise ValueError('an action or a number of steps in the replay buffer does not exist')
        self._window.restore(document['window'], self.observations, self.actions.n)
        self._drift = DriftResponse.restored(document['drift'])
        self.statistics = Statistics.restored(document['statistics'])
        self.generator = generator_from(document['generator'])
        self._due = min(count(document['due']), self.parameters.train_updates)
        self._explores_since = min(count(document['explores_since']), self.statistics.steps)
        held, holds = map(count, document['held'])
        if held >= self.actions.n:
            raise ValueError('an action that is held does not exist')
        self._held, self._holds = held, min(holds, self.parameters.epsilon_hold)
        self._task_since = min(count(document['task_since']), self.statistics.steps)
        kept = {name.removeprefix('memory_'): array for name, array in arrays.items()
                if name.startswith('memory_')}
        self.memory.restore(document['memory'], kept)
        self.task = self.memory.task


def _duelling_matrix(actions: int) -> Floats:
    """Return the [1 + n, n] that makes V + A_i - mean(A) of V, A_1 … A_n (Wang et al., equation 9)."""
    matrix = np.ones((1 + actions, actions), np.float32)
    matrix[1:] = np.eye(actions) - 1.0 / actions
    return matrix
