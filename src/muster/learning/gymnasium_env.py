# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Any agent in Gymnasium environments: trained and evaluated, in one or in several at once.

Gymnasium is optional: only `make` imports it.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from muster.learning.agents.base import Actions, Agent, Choice, Continuous, Discrete, LearningMode, Transition
import numpy as np
from numpy.typing import NDArray

#: Is told the number of steps done and the return of an episode that just ended; False ends training.
type Progress = Callable[[int, float], bool | None]


@runtime_checkable
class BatchedAgent(Protocol):
    """An agent that can act in several environments at once, such as PPO."""

    environments: int

    def act_batch(self, states: NDArray[np.float32], mode: LearningMode) -> NDArray[Any]:
        """Choose an action for each row of states."""

    def observe_batch(self, states: NDArray[np.float32], actions: NDArray[Any], rewards: NDArray[np.float64],
                      next_states: NDArray[np.float32], terminated: NDArray[np.bool_],
                      truncated: NDArray[np.bool_]) -> None:
        """Remember what the actions led to, row by row."""


class GymnasiumError(Exception):
    """An environment that cannot be made or that an agent cannot act in; the message says why."""


def make(name: str, **options: Any) -> Any:
    """Make a registered Gymnasium environment with its time limit; raises GymnasiumError."""
    try:
        gymnasium = import_module('gymnasium')
    except ImportError as error:
        raise GymnasiumError('Gymnasium is not installed: pip install gymnasium') from error
    try:
        return gymnasium.make(name, disable_env_checker=True, **options)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise GymnasiumError(f'{name}: {error}') from error


def actions_of(environment: Any) -> Actions:
    """Return what an agent for this environment may do; raises GymnasiumError on other spaces."""
    space = environment.action_space
    if hasattr(space, 'n'):
        return Discrete(int(space.n))
    low, high = getattr(space, 'low', None), getattr(space, 'high', None)
    if low is None or high is None or low.ndim != 1 or not (np.isfinite(low) & np.isfinite(high)).all():
        raise GymnasiumError(f'the action space {space} is neither discrete nor a vector within bounds')
    return Continuous(tuple(low.tolist()), tuple(high.tolist()))


def elements_of(environment: Any) -> int:
    """Return the length of a flat observation, 1 for a numbered state; raises GymnasiumError."""
    space = environment.observation_space
    if space.shape is None:
        raise GymnasiumError(f'the observation space {space} is not a vector or a number')
    return int(np.prod(space.shape))


def _vector(observation: Any) -> NDArray[np.float32]:
    return np.asarray(observation, np.float32).reshape(-1)


@dataclass(frozen=True)
class Run:
    """What came out of a training: the episodes' returns in the order of their ends, and the steps."""

    returns: list[float]
    steps: int


def train(agent: Agent[Any], environments: Any | Sequence[Any], steps: int, seed: int | None = None,
          mode: LearningMode = LearningMode.MIXED, progress: Progress | None = None) -> Run:
    """
    Train for `steps` steps in all, learning all that is due after each.

    Several environments need a BatchedAgent made for as many. Environment i is seeded once with
    `seed` + i, so that seed and agent determine the run. A step's time-out is a truncation.
    """
    if not isinstance(environments, Sequence):
        environments = [environments]
    if len(environments) > 1 or getattr(agent, 'environments', 1) > 1:
        return _train_batched(agent, environments, steps, seed, mode, progress)
    environment, returns, total = environments[0], [], 0.0
    state = agent.encode(_vector(environment.reset(seed=seed)[0]))
    for step in range(1, steps + 1):
        action = agent.act(state, mode).action
        observation, reward, terminated, truncated, _ = environment.step(action)
        following = agent.encode(_vector(observation))
        agent.observe(Transition(state, action, float(reward), following, bool(terminated),
                                 bool(truncated) and not terminated))
        while agent.learn() is not None:
            pass
        state, total = following, total + float(reward)
        if terminated or truncated:
            returns.append(total)
            if _ended(agent, total, step, progress):
                return Run(returns, step)
            state, total = agent.encode(_vector(environment.reset()[0])), 0.0
    agent.interrupt()
    return Run(returns, steps)


def _train_batched(agent: Agent[Any], environments: Sequence[Any], steps: int, seed: int | None,
                   mode: LearningMode, progress: Progress | None) -> Run:
    n = len(environments)
    if not isinstance(agent, BatchedAgent) or agent.environments != n:
        raise GymnasiumError(f"an agent of kind '{agent.kind}' made for {getattr(agent, 'environments', 1)} "
                             f'environments cannot be trained in {n} at once')
    states = np.stack([_vector(environment.reset(seed=None if seed is None else seed + i)[0])
                       for i, environment in enumerate(environments)])
    following, rewards, totals = states.copy(), np.zeros(n), np.zeros(n)
    terminated, truncated = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    returns: list[float] = []
    for step in range(n, steps + 1, n):
        actions = agent.act_batch(states, mode)
        # A list of plain numbers is what discrete spaces check fastest; vectors stay vectors.
        for i, action in enumerate(actions.tolist() if actions.ndim == 1 else actions):
            environment = environments[i]
            following[i], rewards[i], terminated[i], truncated[i], _ = environment.step(action)
        truncated &= ~terminated
        agent.observe_batch(states, actions, rewards, following, terminated, truncated)
        while agent.learn() is not None:
            pass
        totals += rewards
        states[:] = following
        for i in np.flatnonzero(terminated | truncated).tolist():
            returns.append(float(totals[i]))
            if _ended(agent, returns[-1], step, progress):
                return Run(returns, step)
            states[i], totals[i] = environments[i].reset()[0], 0.0
    agent.interrupt()
    return Run(returns, steps // n * n)


def _ended(agent: Agent[Any], total: float, step: int, progress: Progress | None) -> bool:
    """Count an ended episode; return whether training is to end."""
    agent.record_episode(total)
    agent.decay()
    return progress is not None and progress(step, total) is False


def evaluate(agent: Agent[Any], environment: Any, episodes: int, seed: int | None = None) -> list[float]:
    """Return the return of each of `episodes` episodes of the greedy policy, which learns nothing."""
    returns = []
    for episode in range(episodes):
        observation, _ = environment.reset(seed=seed if episode == 0 else None)
        total, done = 0.0, False
        while not done:
            choice: Choice = agent.act(agent.encode(_vector(observation)), LearningMode.EXPLOITATION)
            observation, reward, terminated, truncated, _ = environment.step(choice.action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


def exact_score(agent: Agent[Any], environment: Any, horizon: int) -> float:
    """
    Return the exact expected return of the greedy policy in so many steps, by dynamic programming.

    Only for worlds of numbered states whose model Gymnasium publishes as `P`, such as FrozenLake.
    """
    model = environment.unwrapped.P
    policy = [agent.act(agent.encode(_vector(state)), LearningMode.EXPLOITATION).action
              for state in range(len(model))]
    values = np.zeros(len(model))
    for _ in range(horizon):
        values = np.array([sum(chance * (reward + (0.0 if ended else values[following]))
                               for chance, following, reward, ended in model[state][action])
                           for state, action in enumerate(policy)])
    return float(np.asarray(environment.unwrapped.initial_state_distrib) @ values)
