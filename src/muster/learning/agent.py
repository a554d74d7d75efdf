# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A learning agent for Python programs: any states, any named actions, no ROS needed."""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from muster.learning.agents.base import count, Discrete, finite, LearningMode, Statistics, Transition, Value
from muster.learning.agents.q_learning import QLearning, QLearningParameters, restored_transition
from muster.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from muster.learning.models import ModelError, restore, snapshot
from muster.learning.replay import UniformReplay
from muster.learning.states import freeze
import numpy as np


class ReinforcementLearningAgent[Action: Hashable]:
    """
    Tabular Q-learning over states of plain values (dicts too), with experience replay.

    Every update is learned at once and remembered for `train_from_replay`. With a `seed`, the same
    calls give the same run; `save` and `load` continue it bit for bit.
    """

    def __init__(self, agent_id: str, actions: Sequence[Action], *, seed: int | None = None,
                 replay_capacity: int = 10_000, **hyperparameters: Value) -> None:
        """
        Make an agent that knows nothing.

        `actions`: 1..256 different numbers, texts, or tuples of them. `hyperparameters`: fields of
        QLearningParameters, as `learning_rate=0.1`. Raises ValueError.
        """
        if not 1 <= len(agent_id) <= 255:
            raise ValueError('agent_id must have 1..255 characters')
        self.agent_id = agent_id
        self.actions = list(actions)
        self._numbers = {freeze(action): number for number, action in enumerate(self.actions)}
        if not 1 <= len(self._numbers) == len(self.actions) <= 256:
            raise ValueError('actions must be 1..256 different values')
        parameters = QLearningParameters().changed(**hyperparameters)
        self._learner = QLearning(Discrete(len(self.actions)), parameters, seed)
        self._replay: UniformReplay[Hashable] = UniformReplay(replay_capacity)
        self._episode_return = 0.0

    @property
    def policy(self) -> Statistics:
        """Return the record of the policy: `average_reward` per update, `updates`, `episodes` …."""
        return self._learner.statistics

    @property
    def epsilon(self) -> float:
        """Return the present exploration rate, 0..1."""
        return self._learner.epsilon

    def select_action(self, state: Any, mode: LearningMode = LearningMode.MIXED) -> Action:
        """Return the action to take; raises ValueError on a state that is not made of plain values."""
        number = self._learner.act(freeze(state), mode).action
        assert isinstance(number, int)
        return self.actions[number]

    def update(self, state: Any, action: Action, reward: float, next_state: Any, done: bool) -> float:
        """
        Learn that `action` in `state` gave `reward` and led to `next_state`.

        Returns the size of the temporal-difference error. `done` means the task ended there. Raises
        ValueError and learns nothing on an unknown action, a reward that is not finite or an unsound
        state.
        """
        number = self._numbers.get(freeze(action))
        if number is None:
            raise ValueError(f'unknown action {action!r}: the actions are {self.actions}')
        transition = Transition(freeze(state), number, reward, freeze(next_state), bool(done))
        self._learner.observe(transition)
        error = self._learner.learn() or 0.0
        self._replay.add(transition)
        self._episode_return += reward
        if done:
            self._learner.record_episode(self._episode_return)
            self._episode_return = 0.0
        return error

    def decay_epsilon(self) -> None:
        """Lower the exploration rate by one step of its schedule, as after an episode."""
        self._learner.decay()

    def train_from_replay(self, batch_size: int = 32, num_batches: int = 10) -> float:
        """
        Learn again from remembered transitions; return the mean absolute TD error (0 if none).

        `batch_size` and `num_batches` within 1..100000. Replayed rewards do not count as new.
        """
        if not 1 <= batch_size <= 100_000 or not 1 <= num_batches <= 100_000:
            raise ValueError('batch_size and num_batches must be within 1..100000')
        if not len(self._replay):
            return 0.0
        errors = [abs(self._learner.improve(transition)) for _ in range(num_batches)
                  for transition in self._replay.sample(batch_size, self._learner.generator)]
        return float(np.mean(errors))

    def get_policy_stats(self) -> dict[str, Any]:
        """Return what the agent has been through, by name."""
        statistics = self._learner.statistics
        return {'agent_id': self.agent_id, 'actions': len(self.actions), 'states': self._learner.states,
                'epsilon': self._learner.epsilon, 'updates': statistics.updates,
                'episodes': statistics.episodes, 'average_reward': statistics.average_reward,
                'mean_return': float(np.mean(statistics.returns)) if statistics.returns else 0.0,
                'mean_td_error': float(np.mean(statistics.td_errors)) if statistics.td_errors else 0.0,
                'replay': len(self._replay)}

    def checkpoint(self) -> Checkpoint:
        """Return a copy of everything, with which `restore` continues bit for bit."""
        checkpoint = snapshot(self._learner, self._meaning)
        remembered = {'capacity': self._replay.capacity, 'transitions': [
            [t.state, t.action, t.reward, t.next_state, t.terminated] for t in self._replay]}
        return Checkpoint({**checkpoint.document, 'replay': remembered,
                           'episode_return': self._episode_return}, checkpoint.arrays)

    def restore(self, checkpoint: Checkpoint) -> None:
        """
        Continue from what `checkpoint` returned.

        Raises ModelError, leaving the agent unchanged, on an unsound one or one with other actions.
        """
        learner = QLearning(Discrete(len(self.actions)), self._learner.parameters)
        restore(checkpoint, learner, self._meaning)
        try:
            remembered = checkpoint.document['replay']
            replay: UniformReplay[Hashable] = UniformReplay(count(remembered['capacity']))
            for entries in remembered['transitions']:
                replay.add(restored_transition(entries, len(self.actions)))
            episode_return = finite(checkpoint.document['episode_return'])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f'the remembered transitions are unsound: {error}') from error
        self._learner, self._replay, self._episode_return = learner, replay, episode_return

    def save(self, path: str | Path) -> None:
        """Write everything to a file; raises CheckpointError and leaves an old file as it was."""
        save_checkpoint(Path(path), self.checkpoint())

    def load(self, path: str | Path) -> None:
        """
        Continue from a file bit for bit.

        Raises CheckpointError on an unsound file and ModelError on one with other actions; the agent
        is then unchanged.
        """
        self.restore(load_checkpoint(Path(path)))

    @property
    def _meaning(self) -> dict[str, Any]:
        return {'actions': [_plain(freeze(action)) for action in self.actions]}


def _plain(value: Any) -> Any:
    """Return tuples as lists, as JSON gives them back."""
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
