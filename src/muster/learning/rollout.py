# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What an on-policy agent has just been through, in several environments, and its advantages."""
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def advantages(rewards: NDArray[Any], values: NDArray[Any], next_values: NDArray[Any],
               terminated: NDArray[np.bool_], ended: NDArray[np.bool_], discount: float,
               trace: float) -> NDArray[np.float32]:
    """
    Return generalised advantage estimates; all arrays have the shape (steps, environments).

    `next_values` are the values of the states that the steps led to, `terminated` where the task
    ended there, `ended` where the sequence did (also by time-out or interruption); `trace` is
    lambda (Schulman et al. 2016, equations 11 and 16).
    """
    result = rewards + discount * np.where(terminated, 0.0, next_values) - values
    flow = np.where(ended, 0.0, discount * trace)
    for column in range(result.shape[1]):  # plain numbers: faster than vectors as short as this
        advantage, estimates = 0.0, []
        for error, factor in zip(result[::-1, column].tolist(), flow[::-1, column].tolist(), strict=True):
            advantage = error + factor * advantage
            estimates.append(advantage)
        result[::-1, column] = estimates
    return result.astype(np.float32)


class Rollout:
    """
    `steps` transitions from each of several environments, side by side; one row a step.

    `states` are as the policy saw them, `next_states` as the environment gave them.
    """

    def __init__(self, steps: int, environments: int, elements: int, action: tuple[int, ...],
                 action_type: type[np.generic]) -> None:
        """Be empty; `action` is the shape of one action."""
        rows = (steps, environments)
        self.filled = 0
        self.states = np.zeros((*rows, elements), np.float32)
        self.next_states = np.zeros((*rows, elements), np.float32)
        self.actions = np.zeros((*rows, *action), action_type)
        self.log_probabilities = np.zeros(rows, np.float32)
        self.rewards = np.zeros(rows, np.float32)
        self.terminated = np.zeros(rows, np.bool_)
        self.ended = np.zeros(rows, np.bool_)

    @property
    def full(self) -> bool:
        """Return whether there is room for no more."""
        return self.filled == len(self.rewards)

    def add(self, states: NDArray[Any], actions: NDArray[Any], log_probabilities: NDArray[Any],
            rewards: NDArray[Any], next_states: NDArray[Any], terminated: NDArray[np.bool_],
            truncated: NDArray[np.bool_]) -> None:
        """Add one step of every environment; the rollout must not be full."""
        row = self.filled
        self.states[row], self.next_states[row] = states, next_states
        self.actions[row], self.log_probabilities[row] = actions, log_probabilities
        self.rewards[row], self.terminated[row] = rewards, terminated
        np.logical_or(terminated, truncated, out=self.ended[row])
        self.filled += 1

    def cut(self) -> None:
        """End every sequence after the last step: what follows is of another."""
        if self.filled:
            self.ended[self.filled - 1] = True

    def _fields(self) -> dict[str, NDArray[Any]]:
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def export(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return a copy of the filled rows as arrays whose names begin with `prefix`."""
        return {prefix + name: value[:self.filled].copy() for name, value in self._fields().items()}

    def restore(self, arrays: dict[str, NDArray[Any]], prefix: str) -> None:
        """Take over what `export` returned; raises ValueError and may then be half restored."""
        filled = len(arrays.get(prefix + 'rewards', ()))
        if filled > len(self.rewards):
            raise ValueError(f"'{prefix}*' is longer than a rollout of this agent")
        for name, own in self._fields().items():
            value = arrays.get(prefix + name)
            if value is None or value.dtype != own.dtype or value.shape != own[:filled].shape \
                    or not np.isfinite(value).all():
                raise ValueError(f"'{prefix}{name}' is missing or unsound")
            own[:filled] = value
        self.filled = filled
