# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What every kind of agent offers to the control cycle and to the model store."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
import math
from typing import Any, ClassVar, Self, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from muster.learning.continual.transfer import TransferMatrix


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
class Discrete:
    """Actions that are numbered 0..n-1."""

    n: int


@dataclass(frozen=True)
class Continuous:
    """Actions that are vectors within bounds, in the units of the message fields."""

    low: tuple[float, ...]
    high: tuple[float, ...]


type Actions = Discrete | Continuous


@dataclass(slots=True)
class Choice:
    """The chosen action (a number, or a float32 vector), and whether it was drawn at random."""

    action: int | NDArray[np.float32]
    exploratory: bool


@dataclass(slots=True)
class Transition[State]:
    """
    One step of experience.

    `terminated`: the task ended, so nothing follows `next_state`. `truncated`: time was up; what
    would have followed counts (it bootstraps), but the sequence ends there (Pardo et al. 2018,
    "Time limits in reinforcement learning").
    """

    state: State
    action: int | NDArray[np.float32]
    reward: float
    next_state: State
    terminated: bool
    truncated: bool = False


type Value = int | float | bool | tuple[int, ...]
"""A hyper-parameter's value; tuples are sizes of layers."""
#: A tuple of sizes has 1..so many entries.
MAXIMUM_SIZES = 8


def hyperparameter(default: Value, description: str, minimum: float = 0.0, maximum: float = 1.0, *,
                   live: bool = True) -> Any:
    """
    Declare a field of a hyper-parameter dataclass with its meaning and range (inclusive).

    The type of `default` is that of all values; the range is of each entry of a tuple and has no
    meaning for a bool. `live` says whether it may change after construction.
    """
    return field(default=default, metadata={
        'description': description, 'minimum': minimum, 'maximum': maximum, 'live': live})


def _sound(value: Any, default: Any, low: float, high: float) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, tuple) and 1 <= len(value) <= MAXIMUM_SIZES \
            and all(_sound(entry, 0, low, high) for entry in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, int if isinstance(default, int) else int | float) and low <= value <= high


@dataclass(frozen=True)
class Hyperparameters:
    """Base of the described hyper-parameters of an agent; values are checked on construction."""

    def __post_init__(self) -> None:
        """Refuse values of another type or out of range with a ValueError that names them."""
        for item in fields(self):
            value, default = getattr(self, item.name), item.default
            low, high = item.metadata['minimum'], item.metadata['maximum']
            if not _sound(value, default, low, high):
                raise ValueError(f'{item.name} must be {_expected(default, low, high)}, not {value!r}')

    def changed(self, **values: Value) -> Self:
        """Return a copy with other values; raises ValueError naming what is unknown or out of range."""
        known = [item.name for item in fields(self)]
        for name in values:
            if name not in known:
                raise ValueError(f"unknown hyper-parameter '{name}': known are {', '.join(known)}")
        return replace(self, **values)

    @classmethod
    def restored(cls, document: Any) -> Self:
        """Rebuild from `dataclasses.asdict`, also after JSON; raises ValueError."""
        if not isinstance(document, dict):
            raise ValueError('the hyper-parameters are not a mapping')
        return cls().changed(**{name: tuple(value) if isinstance(value, list) else value
                                for name, value in document.items()})


def _expected(default: Any, low: float, high: float) -> str:
    if isinstance(default, bool):
        return 'true or false'
    if isinstance(default, tuple):
        return f'1..{MAXIMUM_SIZES} whole numbers within {low:g}..{high:g}'
    return f"{'a whole number ' if isinstance(default, int) else ''}within {low:g}..{high:g}"


@dataclass
class Statistics:
    """What an agent has been through since it was made; saved with it."""

    steps: int = 0
    """Transitions observed."""
    updates: int = 0
    """Units of learning done."""
    episodes: int = 0
    total_reward: float = 0.0
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=20))
    td_errors: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    drifts: int = 0
    """Times that the world was found to have changed, so that exploration and learning rate rose."""

    @property
    def average_reward(self) -> float:
        """Return the mean reward of a step; 0 before the first."""
        return self.total_reward / self.steps if self.steps else 0.0

    def observed(self, reward: float) -> None:
        """Count a transition."""
        self.steps += 1
        self.total_reward += reward

    def learned(self, error: float) -> None:
        """Count a unit of learning and keep the size of its error."""
        self.updates += 1
        self.td_errors.append(error)

    def export(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {'steps': self.steps, 'updates': self.updates, 'episodes': self.episodes,
                'total_reward': self.total_reward, 'returns': list(self.returns),
                'td_errors': list(self.td_errors), 'drifts': self.drifts}

    @classmethod
    def restored(cls, document: dict[str, Any]) -> Statistics:
        """Rebuild from `export()`; raises ValueError, TypeError or KeyError on anything else."""
        statistics = cls(count(document['steps']), count(document['updates']), count(document['episodes']),
                         total_reward=finite(document['total_reward']), drifts=count(document['drifts']))
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
    Chooses actions and learns from transitions.

    `encode` turns an observation into the state that the agent works on; all else takes states.
    A loop calls `act`, `observe` and then `learn` as often as its time allows, or until it returns
    None. Randomness comes from the agent's own seeded generator, whose state is saved with it.
    """

    kind: ClassVar[str]
    actions: Actions
    parameters: Hyperparameters
    statistics: Statistics

    @abstractmethod
    def encode(self, observation: NDArray[np.float32]) -> State:
        """Return the agent's state for an observation of shape (elements,)."""

    @abstractmethod
    def act(self, state: State, mode: LearningMode) -> Choice:
        """Choose an action; in mode exploitation a function of what was learned alone."""

    @abstractmethod
    def observe(self, transition: Transition[State]) -> None:
        """
        Remember a transition, in bounded time; learning work may become due.

        Raises ValueError and changes nothing on an unknown action or a reward that is not finite.
        """

    @abstractmethod
    def learn(self) -> float | None:
        """
        Do one bounded unit of the work that is due (one update, one minibatch).

        Returns its mean absolute temporal-difference error, or its loss; None if nothing was due.
        """

    def interrupt(self) -> None:  # noqa: B027 - most agents have nothing to cut
        """Take note that the sequence broke (a sensor gap, another mode): nothing bootstraps across."""

    @abstractmethod
    def decay(self) -> None:
        """Advance the schedules by one episode."""

    task: str = ''
    """What experience belongs to; '' is the only task there is."""

    def begin_task(self, task: str) -> None:
        """Let experience belong to `task` from now on; raises ValueError where there is no room for it."""
        self.interrupt()
        self.task = task

    def consolidate(self) -> None:
        """
        Hold on to what was learned of the present task; another task does so by itself.

        Raises ValueError where the agent cannot.
        """
        raise ValueError(f"an agent of kind '{self.kind}' has nothing to consolidate")

    @property
    def transfer(self) -> TransferMatrix | None:
        """Return how much of each task is remembered; None where the agent does not know."""
        return None

    def configure(self, **hyperparameters: Value) -> None:
        """
        Change hyper-parameters from now on.

        Raises ValueError and changes nothing where a name is unknown or fixed after construction,
        or a value out of range.
        """
        changed = self.parameters.changed(**hyperparameters)
        for item in fields(changed):
            if not item.metadata['live'] \
                    and getattr(changed, item.name) != getattr(self.parameters, item.name):
                raise ValueError(f'{item.name} is fixed once the agent is made: make a new one with it')
        self.parameters = changed

    @property
    @abstractmethod
    def epsilon(self) -> float:
        """Return the present exploration rate, 0..1."""

    @property
    def adapting(self) -> bool:
        """Return whether exploration is raised because of a drift."""
        return False

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
