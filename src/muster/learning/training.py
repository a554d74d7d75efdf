# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Off-line training: the node's own control cycle in a simulated environment, on virtual time."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from muster.learning.agents.base import Agent, Discrete, LearningMode
from muster.learning.agents.dqn import DQN, DQNParameters
from muster.learning.agents.onnx_policy import OnnxParameters, OnnxPolicy
from muster.learning.agents.ppo import PPO, PPOParameters
from muster.learning.agents.q_learning import QLearning, QLearningParameters
from muster.learning.cycle import ControlCycle, Decision, End, EpisodeRecord
from muster.learning.discretiser import Discretiser, TileCoder
from muster.learning.specification import Specification, SpecificationError


class Environment(Protocol):
    """
    A world for one robot, that speaks in messages like the real one.

    Messages are pairs of topic and anything with the attributes of the message type; topics are
    those of the specification.
    """

    def command(self) -> Any:
        """Return an empty command message."""

    def reset(self) -> Iterable[tuple[str, Any]]:
        """Begin an episode and return the first messages."""

    def step(self, command: Any, seconds: float) -> Iterable[tuple[str, Any]]:
        """Obey `command` for `seconds` and return the messages sent meanwhile, in order."""


@dataclass(frozen=True)
class Training:
    """What came out: the trained agent, and every ended episode in order."""

    agent: Agent[Any]
    episodes: list[EpisodeRecord]
    steps: int

    @property
    def returns(self) -> list[float]:
        """Return the sum of rewards of each episode."""
        return [episode.total for episode in self.episodes]


def make_agent(specification: Specification, seed: int | None = None) -> Agent[Any]:
    """Make the agent that a specification describes; it knows nothing yet, unless trained elsewhere."""
    parameters = specification.hyperparameters
    if isinstance(parameters, OnnxParameters):
        try:
            return OnnxPolicy(specification.action.space, specification.elements,
                              Path(specification.policy_file), parameters)
        except ValueError as error:
            raise SpecificationError(f'{specification.file}: agent.model: {error}') from error
    if isinstance(parameters, PPOParameters):
        return PPO(specification.action.space, specification.elements, parameters, seed)
    space = specification.action.space
    assert isinstance(space, Discrete)
    if isinstance(parameters, DQNParameters):
        return DQN(space, specification.elements, parameters, seed)
    assert isinstance(parameters, QLearningParameters)
    edges = [term.bins or () for term in specification.observation for _ in range(term.size)]
    encode = TileCoder(edges, parameters.tilings) if parameters.tilings > 1 else Discretiser(edges)
    return QLearning(space, parameters, seed, encode)


def train(specification: Specification, environment: Environment, steps: int, seed: int | None = None,
          agent: Agent[Any] | None = None, mode: LearningMode = LearningMode.MIXED) -> Training:
    """
    Run `steps` control cycles of a specification in an environment, as fast as the machine can.

    Goes on with `agent`, if given. With mode EXPLOITATION it evaluates; EXPLORATION acts at random.
    """
    agent = agent or make_agent(specification, seed)
    cycle = ControlCycle(specification, agent, mode)
    episodes = [decision.ended for decision in rollout(cycle, environment, steps) if decision.ended]
    return Training(agent, episodes, steps)


def rollout(cycle: ControlCycle[Any], environment: Environment, steps: int) -> Iterator[Decision]:
    """Run up to `steps` control cycles on virtual time, with all learning that is due, and yield each."""
    period = 1.0 / cycle.specification.rate
    messages = environment.reset()
    for number in range(steps):
        now = number * period
        for topic, message in messages:
            cycle.receive(topic, message, now)
        decision = cycle.step(now, now)
        command = cycle.write(decision, environment.command())
        cycle.learn()
        yield decision
        if decision.ended and decision.ended.end is End.TIME_LIMIT:
            cycle.make_safe('a new episode begins elsewhere')
            messages = environment.reset()
        else:
            messages = environment.step(command, period)
