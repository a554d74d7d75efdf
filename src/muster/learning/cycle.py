# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The control cycle: observe what the last action led to, act, learn; or make safe.

Plain Python that is told the time, so that the node, off-line training and tests run the very same.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from muster.learning.action import Commander
from muster.learning.agents.base import Agent, LearningMode, Transition
from muster.learning.observation import Observer, Reward, Sample, scalar_reader
from muster.learning.specification import Specification
import numpy as np
from numpy.typing import NDArray

#: A cycle that comes more than so many periods after the last one is late.
LATE_PERIODS = 3.0


class End(IntEnum):
    """How an episode ended; the numbers of muster_interfaces/Episode."""

    TERMINAL = 1
    TIME_LIMIT = 2
    TRUNCATED = 3


@dataclass(frozen=True)
class EpisodeRecord:
    """An ended episode: `total` is the sum of its rewards."""

    number: int
    steps: int
    total: float
    end: End
    mode: LearningMode


@dataclass(frozen=True)
class Decision:
    """What one cycle decided: the command values in the units of the message, and why."""

    values: NDArray[np.float64]
    index: int
    name: str
    exploratory: bool
    safe_reason: str
    ended: EpisodeRecord | None


class ControlCycle[State]:
    """
    One robot's loop from sensors to actions at the fixed rate of its specification.

    Whatever cannot be trusted (a stale, missing or broken sensor, a late cycle, a clock that
    stepped back, an entry of `holds`) gives the safe action within the cycle; the transition is
    dropped and the episode truncated.
    """

    def __init__(self, specification: Specification, agent: Agent[State],
                 mode: LearningMode = LearningMode.MIXED) -> None:
        """Begin outside of any episode."""
        self.specification, self.agent = specification, agent
        self._mode = mode
        self.holds: dict[str, str] = {}
        """Reasons to stay safe, by who gives them, as 'pause' or 'emergency stop'."""
        self.cycles = 0
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=20)
        self.learning_problem = ''
        """Why the last transition was not learned; empty if it was."""
        self.sample = Sample(np.zeros(specification.elements, np.float32), 'no cycle yet', -1.0)
        self._observer = Observer(specification.observation)
        self._commander = Commander(specification.action, specification.rate)
        self._reward = Reward(specification.reward.field, specification.reward_max_age)
        self._end = scalar_reader(specification.episode_end.field) if specification.episode_end else None
        self._terminal = False
        self._last: tuple[State, int] | None = None
        self._now: float | None = None
        self._clock = 0.0
        self._steps, self._total = 0, 0.0
        self._most_steps = round((specification.time_limit or 0.0) * specification.rate)

    @property
    def mode(self) -> LearningMode:
        """Return how the agent acts."""
        return self._mode

    def begin(self) -> None:
        """Start anew after a pause of the whole loop: it makes no cycle late."""
        self._now, self.cycles = None, 0

    def change_mode(self, mode: LearningMode) -> EpisodeRecord | None:
        """Act otherwise from the next cycle on; the present episode is truncated and returned."""
        ended = self._finish(End.TRUNCATED)
        self._mode = mode
        return ended

    def receive(self, topic: str, message: Any, now: float) -> None:
        """Take a message that arrived at `now` (seconds; a topic may serve several purposes)."""
        specification = self.specification
        if topic in self._observer.topics:
            self._observer.receive(topic, message, now)
        if topic == specification.reward.topic:
            self._reward.receive(message, now)
        if self._end is not None and specification.episode_end and topic == specification.episode_end.topic:
            self._terminal |= abs(self._end(message)) > 0.0  # NaN ends nothing

    def step(self, now: float, clock: float) -> Decision:
        """
        Run one cycle at `now` (seconds, never steps back); `clock` is the time of stamps.

        Raises nothing that depends on the messages.
        """
        self.cycles += 1
        problem = self._timing(now, clock)
        self.sample = self._observer.sample(now, clock)
        reward, self.learning_problem = self._reward.take(now)
        terminal, self._terminal = self._terminal, False
        problem = next(iter(self.holds.values()), '') or problem or self.sample.problem
        if problem:
            return self.make_safe(problem)
        state = self.agent.encode(self.sample.values)
        ended = self._observe(state, reward, terminal)
        choice = self.agent.act(state, self._mode)
        assert isinstance(choice.action, int)
        self._last = state, choice.action
        return Decision(self._commander.command(choice.action), choice.action,
                        self.specification.action.names[choice.action], choice.exploratory, '', ended)

    def learn(self, more: Callable[[], bool] = lambda: True) -> None:
        """Work off what is due to be learned: one unit, and another as long as there may be `more`."""
        if self._mode.learns:
            while self.agent.learn() is not None and more():
                pass

    def make_safe(self, reason: str) -> Decision:
        """Decide for the safe action, drop the transition and truncate the episode."""
        return Decision(self._commander.safe(), -1, 'safe', False, reason, self._finish(End.TRUNCATED))

    def write(self, decision: Decision, message: Any) -> Any:
        """Write the decision's command into a message and return it."""
        return self._commander.write(decision.values, message)

    def _timing(self, now: float, clock: float) -> str:
        elapsed, back = now - (self._now if self._now is not None else now), self._clock - clock
        self._now, self._clock = now, clock
        if back > 0.0:
            self._observer.forget()  # what was stamped before is of another time
            return f'the clock stepped back by {back:.3f} s'
        if elapsed > LATE_PERIODS / self.specification.rate:
            return f'the cycle came {elapsed:.3f} s after the last one'
        return ''

    def _observe(self, state: State, reward: float, terminal: bool) -> EpisodeRecord | None:
        if self._last is None:
            return None
        self._steps += 1
        self._total += reward
        time_up = bool(self._most_steps) and self._steps >= self._most_steps and not terminal
        if self.learning_problem:
            self.agent.interrupt()
        elif self._mode.learns:
            self.agent.observe(Transition(*self._last, reward, state, terminal, time_up))
        if terminal:
            return self._finish(End.TERMINAL)
        return self._finish(End.TIME_LIMIT) if time_up else None

    def _finish(self, end: End) -> EpisodeRecord | None:
        steps, total = self._steps, self._total
        self._last, self._steps, self._total = None, 0, 0.0
        if end is End.TRUNCATED:
            self.agent.interrupt()
        if steps == 0:
            return None
        self.episodes += 1
        if end is not End.TRUNCATED:
            self.returns.append(total)
            self.agent.record_episode(total)
            if self._mode.learns:
                self.agent.decay()
        return EpisodeRecord(self.episodes, steps, total, end, self._mode)
