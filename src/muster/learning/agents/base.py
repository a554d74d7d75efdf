# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What every kind of agent offers to the control cycle and to the model store."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
import math
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray


class LearningMode(IntEnum):
    """How an agent acts and whether it learns; the numbers of muster_interfaces/LearningStatus."""

    EXPLORATION = 1
    """Random actions, learns."""
    EXPLOITATION = 2
    """Best known actions, learns nothing."""
    MIXED = 3
    """Mostly the best known action, sometimes a random one; learns."""

    @property
    def learns(self) -> bool:
        """Return whether experience changes the agent in this mode."""
        return self is not LearningMode.EXPLOITATION


@dataclass(frozen=True)
class Choice:
    """The number of the chosen action, and whether it was drawn at random."""

    index: int
    exploratory: bool


@dataclass(frozen=True, slots=True)
class Transition[State]:
    """One step of experience; `done` means that the task ended, not that time was up."""

    state: State
    action: int
    reward: float
    next_state: State
    done: bool


def hyperparameter(default: float, description: str, minimum: float, maximum: float) -> Any:
    """Declare a field of a hyper-parameter dataclass with its meaning and range (inclusive)."""
    return field(default=default, metadata={
        'description': description, 'minimum': minimum, 'maximum': maximum})


@dataclass(frozen=True)
class Hyperparameters:
    """Base of the described hyper-parameters of an agent; values are checked on construction."""

    def __post_init__(self) -> None:
        """Refuse values out of range with a ValueError that names them."""
        for item in fields(self):
            value, low, high = getattr(self, item.name), item.metadata['minimum'], item.metadata['maximum']
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ValueError(f'{item.name} must be within {low}..{high}, not {value!r}')

    def changed(self, **values: float) -> Self:
        """Return a copy with other values."""
        return replace(self, **values)


@dataclass
class Statistics:
    """What an agent has been through since it was made; saved with it."""

    updates: int = 0
    episodes: int = 0
    total_reward: float = 0.0
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=20))
    td_errors: deque[float] = field(default_factory=lambda: deque(maxlen=100))

    @property
    def average_reward(self) -> float:
        """Return the mean reward of an update; 0 before the first."""
        return self.total_reward / self.updates if self.updates else 0.0

    def export(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {'updates': self.updates, 'episodes': self.episodes, 'total_reward': self.total_reward,
                'returns': list(self.returns), 'td_errors': list(self.td_errors)}

    @classmethod
    def restored(cls, document: dict[str, Any]) -> Statistics:
        """Rebuild from `export()`; raises ValueError, TypeError or KeyError on anything else."""
        statistics = cls(updates=count(document['updates']), episodes=count(document['episodes']),
                         total_reward=finite(document['total_reward']))
        statistics.returns.extend(finite(value) for value in document['returns'])
        statistics.td_errors.extend(finite(value) for value in document['td_errors'])
        return statistics


def count(value: Any) -> int:
    """Return a whole number >= 0; raises ValueError."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f'{value!r} is not a count')
    return value


def finite(value: Any) -> float:
    """Return a finite number; raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f'{value!r} is not a finite number')
    return float(value)


class Agent[State](ABC):
    """
    Chooses among `actions` discrete actions and learns from transitions.

    `encode` turns an observation into the state that the agent works on; all else takes states.
    Randomness comes from the agent's own seeded generator, whose state is saved with it.
    """

    kind: ClassVar[str]
    statistics: Statistics

    @abstractmethod
    def encode(self, observation: Any) -> State:
        """Return the agent's state for an observation."""

    @abstractmethod
    def act(self, state: State, mode: LearningMode) -> Choice:
        """Choose an action."""

    @abstractmethod
    def learn(self, transition: Transition[State]) -> float:
        """Learn from one transition and return its temporal-difference error."""

    @abstractmethod
    def decay(self) -> None:
        """Advance the schedules by one episode."""

    @property
    @abstractmethod
    def epsilon(self) -> float:
        """Return the present exploration rate, 0..1."""

    @property
    @abstractmethod
    def states(self) -> int:
        """Return how many states it has seen; 0 where that has no meaning."""

    @abstractmethod
    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of everything that is needed to go on, as JSON values and arrays."""

    @abstractmethod
    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""

    def record_episode(self, episode_return: float) -> None:
        """Count an episode that ended with this sum of rewards."""
        self.statistics.episodes += 1
        self.statistics.returns.append(episode_return)


def generator_from(document: Any) -> np.random.Generator:
    """Rebuild a PCG64 generator from its saved state; raises ValueError."""
    generator = np.random.Generator(np.random.PCG64(0))
    try:
        generator.bit_generator.state = document
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(f'the state of the random generator is unsound: {error}') from error
    return generator
