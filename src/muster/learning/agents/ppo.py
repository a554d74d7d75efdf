# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Proximal policy optimisation (Schulman et al. 2017) in one or several environments at once."""
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from muster.learning.agents.base import (
    Actions, Agent, Choice, Continuous, count, Discrete, finite, generator_from, hyperparameter,
    LearningMode, Statistics, Transition, Value)
from muster.learning.continual.memory import ContinualParameters, TaskMemory
from muster.learning.continual.transfer import TransferMatrix
from muster.learning.drift import DriftParameters, DriftResponse
from muster.learning.networks import Adam, check_vector, clip_norm, MLP
from muster.learning.normaliser import ObservationNormaliser, RewardNormaliser, RunningMoments
from muster.learning.policies import Categorical, Gaussian, Policy, SPREAD_BOUNDS
from muster.learning.rollout import advantages, Rollout
import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PPOParameters(DriftParameters, ContinualParameters):
    """Hyper-parameters of PPO; the defaults are those of the paper's table 3, which suit most tasks."""

    learning_rate: float = hyperparameter(3e-4, 'Step size of the optimiser Adam.', 0.0, 1.0)
    discount: float = hyperparameter(0.99, 'Worth of a reward one step later, relative to now.', 0.0, 1.0)
    trace: float = hyperparameter(
        0.95, 'Lambda of the advantages: 0 trusts the values of states, 1 the rewards that came.', 0.0, 1.0)
    rollout: int = hyperparameter(
        2048, 'Steps that are collected, in all environments together, before they are learned from.',
        8, 65_536, live=False)
    batch: int = hyperparameter(64, 'Steps that a single update learns from.', 1, 65_536)
    epochs: int = hyperparameter(10, 'How often each step is learned from.', 1, 100)
    clip: float = hyperparameter(
        0.2, 'How far an update may move the probability of an action, relative to what it was.', 0.01, 1.0)
    entropy: float = hyperparameter(
        0.0, 'Weight of the entropy in the objective: it keeps the policy from settling early.', 0.0, 1.0)
    drift_entropy: float = hyperparameter(
        0.02, 'Weight of the entropy right after a drift; falls back linearly over drift_steps.', 0.0, 1.0)
    value_weight: float = hyperparameter(0.5, "Weight of the values' squared error in the loss.", 0.0, 10.0)
    max_gradient: float = hyperparameter(0.5, 'The norm to which a larger gradient is scaled.', 1e-3, 1e6)
    anneal_steps: int = hyperparameter(
        0, 'Steps over which learning rate and clip fall, linearly; 0: they do not.', 0, 1_000_000_000)
    anneal_to: float = hyperparameter(0.1, 'What they fall to, relative to the start.', 0.0, 1.0)
    hidden: tuple[int, ...] = hyperparameter(
        (64, 64), 'Sizes of the hidden layers of both networks.', 1, 1024, live=False)
    normalise_observations: bool = hyperparameter(
        True, 'Scale observations by their running mean and variance.', live=False)
    normalise_rewards: bool = hyperparameter(
        True, 'Scale rewards by the running deviation of the discounted return.', live=False)


@dataclass
class _Acted:
    """What the policy saw and drew last, until it is known what it led to; a row per environment."""

    inputs: Floats
    actions: NDArray[Any]
    log_probabilities: Floats
    commands: NDArray[Any]


@dataclass
class _Work:
    """A full rollout that is being learned from: flat, a row per step."""

    inputs: Floats
    actions: NDArray[Any]
    log_probabilities: Floats
    advantages: Floats
    targets: Floats
    order: NDArray[np.int64]
    done: int = 0
    """Minibatches learned so far."""


class PPO(Agent[Floats]):
    """
    A network for the policy and one for the values of states, of tanh units.

    Continuous actions are drawn from a normal distribution around a mean that depends on the state
    and lies within the bounds, and are clipped to them. Mode mixed draws from the policy, mode
    exploration uniformly, mode exploitation takes the most probable action.

    A step is stored with what the policy saw and the log-probability at the time, so importance
    ratios are exact while the last rollout's minibatches are worked off between steps of the next.
    If that fills before they are, the rest of them is dropped: work never piles up.
    """

    kind = 'ppo'
    parameters: PPOParameters

    def __init__(self, actions: Actions, elements: int, parameters: PPOParameters | None = None,
                 seed: int | None = None, environments: int = 1) -> None:
        """Make an agent for observations of `elements` values, acting in several `environments`."""
        self.actions, self.elements, self.environments = actions, elements, environments
        self.parameters = parameters or PPOParameters()
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self.statistics = Statistics()
        self.policy: Policy = Gaussian(actions) if isinstance(actions, Continuous) else Categorical(actions)
        hidden = self.parameters.hidden
        # A small last layer: at first the policy is the same everywhere, and near the middle.
        self._actor = MLP((elements, *hidden, self.policy.outputs), self.generator, 'tanh', 0.01)
        self._critic = MLP((elements, *hidden, 1), self.generator, 'tanh')
        self._join()
        self.optimiser = Adam(len(self.theta), epsilon=1e-5)
        self.observations = ObservationNormaliser(elements)
        self.rewards = RewardNormaliser(environments)
        steps = max(1, self.parameters.rollout // environments)
        self._collected = Rollout(steps, environments, elements, self.policy.shape, self.policy.type)
        self._full = Rollout(steps, environments, elements, self.policy.shape, self.policy.type)
        self._acted: _Acted | None = None
        self._work: _Work | None = None
        self._randomness = 1.0
        self._drift = DriftResponse()
        self.memory = TaskMemory([self._actor, self._critic], self.parameters, self._agreement, self._seen)
        """What keeps earlier tasks from being forgotten."""
        self._total = np.zeros_like(self.gradient)

    def _join(self) -> None:
        """Keep the parameters of all in one vector: actor, critic, spread."""
        actor, critic = len(self._actor.theta), len(self._critic.theta)
        both = actor + critic
        self.theta = np.zeros(both + self.policy.spreads, np.float32)
        self.gradient = np.zeros_like(self.theta)
        self._actor.share(self.theta[:actor], self.gradient[:actor])
        self._critic.share(self.theta[actor:both], self.gradient[actor:both])
        self._spread, self._spread_gradient = self.theta[both:], self.gradient[both:]

    @property
    def actor(self) -> MLP:
        """Return the network of the policy, which takes normalised observations."""
        return self._actor

    @property
    def epsilon(self) -> float:
        """Return how random the policy was when it last learned, 0..1."""
        return self._randomness

    @property
    def adapting(self) -> bool:
        """Return whether exploration is raised because of a drift."""
        return self._drift.active(self.statistics.steps, self.parameters)

    @property
    def states(self) -> int:
        """Return 0: it does not count states."""
        return 0

    def encode(self, observation: Floats) -> Floats:
        """Return the observation itself."""
        return observation

    def decay(self) -> None:
        """Do nothing: its schedules go by steps."""

    def record_episode(self, episode_return: float) -> None:
        """Count an episode; where returns have fallen, explore and learn more for a while."""
        super().record_episode(episode_return)
        if self._drift.episode(episode_return, self.statistics.steps, self.parameters):
            self.statistics.drifts += 1

    def _seen(self, states: Floats) -> Floats:
        return self.observations(states) if self.parameters.normalise_observations else states

    def act(self, state: Floats, mode: LearningMode) -> Choice:
        """Choose an action for a state of shape (elements,)."""
        inputs = self._seen(state)
        outputs = self._actor.forward_one(inputs)[None]
        if mode is LearningMode.EXPLOITATION:
            return Choice(self._plain(self.policy.to_commands(self.policy.best(outputs))[0]), False)
        commands = self._draw(inputs[None], outputs, mode)
        best = self.policy.best(outputs)[0]
        return Choice(self._plain(commands[0]), bool(np.any(self._last().actions[0] != best)))

    def act_batch(self, states: Floats, mode: LearningMode) -> NDArray[Any]:
        """Choose an action for each row of states (environments, elements); return them as rows."""
        inputs = self._seen(states)
        outputs = self._actor.forward(inputs)
        if mode is LearningMode.EXPLOITATION:
            return self.policy.to_commands(self.policy.best(outputs))
        return self._draw(inputs, outputs, mode)

    def _draw(self, inputs: Floats, outputs: Floats, mode: LearningMode) -> NDArray[Any]:
        if mode is LearningMode.EXPLORATION:
            actions, logs = self.policy.uniform(len(inputs), self.generator)
        else:
            actions, logs = self.policy.sample(outputs, self._spread, self.generator)
        commands = self.policy.to_commands(actions)
        self._acted = _Acted(inputs.copy(), actions, logs, commands)
        return commands

    def _last(self) -> _Acted:
        assert self._acted is not None
        return self._acted

    def _plain(self, action: Any) -> int | Floats:
        return int(action) if isinstance(self.actions, Discrete) else action

    def observe(self, transition: Transition[Floats]) -> None:
        """Remember a transition; only for an agent made for one environment."""
        action = np.asarray(transition.action, self.policy.type)
        if action.shape != self.policy.shape:
            raise ValueError(f'{transition.action!r} is no action of this agent: {self.actions}')
        self.observe_batch(transition.state[None], action[None], np.array([finite(transition.reward)]),
                           transition.next_state[None], np.array([transition.terminated]),
                           np.array([transition.truncated]))

    def observe_batch(self, states: Floats, actions: NDArray[Any], rewards: NDArray[Any],
                      next_states: Floats, terminated: NDArray[np.bool_],
                      truncated: NDArray[np.bool_]) -> None:
        """Remember a transition of every environment; raises ValueError on unsound ones."""
        if len(actions) != self.environments:
            raise ValueError(f'{len(actions)} transitions for an agent of {self.environments} environments')
        if isinstance(self.actions, Discrete) and not (0 <= actions.min() <= actions.max() < self.actions.n):
            raise ValueError(f'{actions.tolist()} are not actions: 0..{self.actions.n - 1}')
        if not np.isfinite(rewards).all() or not np.isfinite(actions).all():
            raise ValueError(f'the rewards {rewards.tolist()} or the actions are not finite')
        acted = self._acted
        if acted is None or not np.array_equal(acted.commands, actions):
            acted = self._foreign(states, actions)
        self._collected.add(acted.inputs, acted.actions, acted.log_probabilities, rewards, next_states,
                            terminated, truncated)
        self._acted = None
        for state in states:
            self.memory.remember(state, self.generator)
        self.statistics.steps += len(rewards)
        self.statistics.total_reward += float(rewards.sum())
        if self._collected.full:
            self._collected, self._full = self._full, self._collected
            self._collected.filled, self._work = 0, None

    def _foreign(self, states: Floats, commands: NDArray[Any]) -> _Acted:
        """Return actions that were not drawn here, or not last, with their present probabilities."""
        inputs, actions = self._seen(states), self.policy.from_commands(commands)
        logs, _, _ = self.policy.evaluate(self._actor.forward(inputs), self._spread, actions)
        return _Acted(inputs, actions, logs, commands)

    def interrupt(self) -> None:
        """Cut the sequences here."""
        self._collected.cut()
        self._acted = None

    def begin_task(self, task: str) -> None:
        """
        Hold on to the present task and let experience belong to `task` from now on.

        What was collected in the task before is dropped: what was learned from it is rehearsed.
        """
        if task == self.task:
            return
        self.memory.begin_task(task, self.generator)
        self.task, self._acted, self._work = task, None, None
        self._collected.filled = self._full.filled = 0

    def consolidate(self) -> None:
        """Hold on to what was learned of the present task."""
        self.memory.consolidate(self.generator)

    @property
    def transfer(self) -> TransferMatrix:
        """Return the share of the states of each task in which it acts as at its end, within a tenth."""
        return self.memory.transfer

    def _agreement(self, now: Floats, once: Floats) -> float:
        # Bounded actions are within -1..1 here; numbered ones differ by at least 1.
        apart = np.abs(self.policy.best(now) - self.policy.best(once)).reshape(len(now), -1)
        return float((apart.max(axis=1) < 0.2).mean())

    def configure(self, **hyperparameters: Value) -> None:
        """Change hyper-parameters from now on."""
        super().configure(**hyperparameters)
        self.memory.parameters = self.parameters

    def learn(self) -> float | None:
        """Prepare a full rollout, or learn from a minibatch; return the mean error of the values."""
        if not self._full.filled:
            return None
        if self._work is None:
            self._work = self._prepared()
            error = float(np.abs(self._work.advantages).mean())
            self._work.advantages -= self._work.advantages.mean()
            self._work.advantages /= self._work.advantages.std() + np.float32(1e-8)
            return error
        work, rows = self._work, len(self._work.targets)
        batch = min(self.parameters.batch, rows)
        batches = rows // batch
        if work.done % batches == 0:
            work.order = self.generator.permutation(rows)
        start = work.done % batches * batch
        error = self._update(work, work.order[start:start + batch])
        self.statistics.learned(error)
        work.done += 1
        if work.done >= batches * self.parameters.epochs:
            self._work, self._full.filled = None, 0
        return error

    def _prepared(self) -> _Work:
        """Return the full rollout with advantages and the values to learn."""
        full, parameters = self._full, self.parameters
        rows = full.rewards.size
        rewards: NDArray[Any] = full.rewards
        if parameters.normalise_rewards:
            rewards = self.rewards(rewards, full.ended, parameters.discount)
        following = full.next_states.reshape(rows, -1)
        inputs = full.states.reshape(rows, -1)
        values = self._critic.forward(inputs).reshape(rewards.shape).copy()
        next_values = self._critic.forward(self._seen(following)).reshape(rewards.shape)
        estimates = advantages(rewards, values, next_values, full.terminated, full.ended,
                               parameters.discount, parameters.trace)
        if parameters.normalise_observations:
            self.observations.update(following)
        return _Work(inputs, full.actions.reshape(rows, *self.policy.shape),
                     full.log_probabilities.reshape(rows), estimates.reshape(rows),
                     (estimates + values).reshape(rows), np.arange(rows))

    def _update(self, work: _Work, rows: NDArray[np.int64]) -> float:
        """Take a step along the gradient of the clipped objective (equations 7 and 9)."""
        parameters, inputs, scale = self.parameters, work.inputs[rows], np.float32(1.0 / len(rows))
        annealed, step = self._annealed(), self.statistics.steps
        entropy = self._drift.exploration(step, parameters.entropy, parameters.drift_entropy, parameters)
        outputs = self._actor.forward(inputs)
        logs, self._randomness, backward = self.policy.evaluate(outputs, self._spread, work.actions[rows])
        advantage, clip = work.advantages[rows], parameters.clip * annealed
        ratio = np.exp(np.clip(logs - work.log_probabilities[rows], -20.0, 20.0))
        inside = np.where(advantage > 0.0, ratio < 1.0 + clip, ratio > 1.0 - clip)
        by_outputs, by_spread = backward(-scale * advantage * ratio * inside, -entropy)
        self._actor.backward(by_outputs)
        self._spread_gradient[:] = by_spread
        errors = self._critic.forward(inputs)[:, 0] - work.targets[rows]
        self._critic.backward((np.float32(parameters.value_weight) * scale * errors)[:, None])
        total = self._total  # not in place: the rehearsal goes through the same networks
        total[:] = self.gradient
        self.memory.add_gradient(total, self.generator)
        clip_norm(total, parameters.max_gradient)
        rate = self._drift.learning_rate(step, parameters.learning_rate * annealed, parameters)
        self.optimiser.step(self.theta, total, rate)
        np.clip(self._spread, *SPREAD_BOUNDS, out=self._spread)
        return float(np.abs(errors).mean())

    def _annealed(self) -> float:
        """Return the factor on learning rate and clip."""
        if not self.parameters.anneal_steps:
            return 1.0
        done = min(1.0, self.statistics.steps / self.parameters.anneal_steps)
        return 1.0 + done * (self.parameters.anneal_to - 1.0)

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of all of it, the rollouts and what is left to learn of them included."""
        optimiser, moments = self.optimiser.export()
        arrays = {'theta': self.theta.copy(), **{f'optimiser_{name}': v for name, v in moments.items()},
                  **self.observations.moments.export('observations_'),
                  **self.rewards.moments.export('returns_'), 'returns': self.rewards.returns.copy(),
                  **self._collected.export('collected_'), **self._full.export('full_')}
        for prefix, held in (('acted_', self._acted), ('work_', self._work)):
            if held is not None:
                arrays |= {prefix + name: value.copy() for name, value in vars(held).items()
                           if isinstance(value, np.ndarray)}
        document = {'elements': self.elements, 'environments': self.environments,
                    'actions': asdict(self.actions), 'parameters': asdict(self.parameters),
                    'optimiser': optimiser, 'randomness': self._randomness, 'drift': self._drift.export(),
                    'work_done': None if self._work is None else self._work.done,
                    'statistics': self.statistics.export(), 'generator': self.generator.bit_generator.state}
        document['memory'], kept = self.memory.export()
        arrays |= {f'memory_{name}': array for name, array in kept.items()}
        return document, arrays

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """
        Take over what `export` returned; raises ValueError and changes nothing if it is unsound.

        If it acted in another number of environments, the rollouts are not taken over.
        """
        try:
            if document['elements'] != self.elements \
                    or _actions(document['actions']) != _actions(asdict(self.actions)):
                raise ValueError(f"it is for {document['elements']} elements and actions "
                                 f"{document['actions']}, this agent for {self.elements} and {self.actions}")
            fresh = PPO(self.actions, self.elements, PPOParameters.restored(document['parameters']),
                        environments=self.environments)
            fresh._restore(document, arrays)
        except (KeyError, TypeError) as error:
            raise ValueError(f'an entry is missing or of the wrong type: {error}') from error
        vars(self).update(vars(fresh))

    def _restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        check_vector(arrays['theta'], self.theta, 'the parameters')
        self.theta[:] = arrays['theta']
        self.optimiser.restore(document['optimiser'], _part(arrays, 'optimiser_'))
        self.observations.adopt(RunningMoments.restored(arrays, 'observations_', self.elements))
        self.rewards.moments = RunningMoments.restored(arrays, 'returns_', 1)
        self.statistics = Statistics.restored(document['statistics'])
        self.generator = generator_from(document['generator'])
        self._randomness = finite(document['randomness'])
        self._drift = DriftResponse.restored(document['drift'])
        self.memory.restore(document['memory'], _part(arrays, 'memory_'))
        self.task = self.memory.task
        if count(document['environments']) != self.environments:
            return
        check_vector(arrays['returns'], self.rewards.returns, 'the discounted returns')
        self.rewards.returns[:] = arrays['returns']
        self._collected.restore(arrays, 'collected_')
        self._full.restore(arrays, 'full_')
        if self._collected.full or self._full.filled not in (0, len(self._full.rewards)):
            raise ValueError('the rollouts are not as full as they can be')
        self._restore_acted(_part(arrays, 'acted_'))
        self._restore_work(document['work_done'], _part(arrays, 'work_'))

    def _restore_acted(self, arrays: dict[str, NDArray[Any]]) -> None:
        if not arrays:
            return
        rollout, acted = self._collected, _Acted(**arrays)
        for name, array, like in (('inputs', acted.inputs, rollout.states[0]),
                                  ('actions', acted.actions, rollout.actions[0]),
                                  ('log-probabilities', acted.log_probabilities, rollout.rewards[0]),
                                  ('commands', acted.commands, rollout.actions[0])):
            check_vector(array, like, f'the last {name}')
        self._acted = acted

    def _restore_work(self, done: Any, arrays: dict[str, NDArray[Any]]) -> None:
        if done is None:
            return
        full = self._full
        rows = full.rewards.size
        plain = {'inputs': full.states.reshape(rows, -1), 'log_probabilities': full.rewards.reshape(rows),
                 'actions': full.actions.reshape(rows, *self.policy.shape)}
        work = _Work(**arrays, done=count(done))
        flat = plain['log_probabilities']
        for name, array, like in (
                ('inputs', work.inputs, plain['inputs']), ('actions', work.actions, plain['actions']),
                ('log-probabilities', work.log_probabilities, flat), ('advantages', work.advantages, flat),
                ('targets', work.targets, flat)):
            check_vector(array, like, f'the {name} to learn from')
        if not full.filled or not np.array_equal(np.sort(work.order), np.arange(rows)):
            raise ValueError('the order of what is to be learned is unsound')
        self._work = work


def _part(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _actions(document: Any) -> list[tuple[str, Any]]:
    """Return described actions in one form, also after JSON."""
    return sorted((name, tuple(value) if isinstance(value, list) else value)
                  for name, value in document.items())
