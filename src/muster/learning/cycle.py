# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The control cycle: observe, act, learn from what the last action led to; or make safe.

Plain Python that is told the time, so that the node, off-line training and tests run the very same.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from muster.learning.action import Commander, CONTINUOUS, SAFE
from muster.learning.agents.base import Agent, LearningMode, Transition
from muster.learning.observation import Observer, Sample
from muster.learning.reward import EpisodeEnd, make_reward
from muster.learning.specification import Formula, Specification
from muster.learning.timing import Budget, CycleStatistics
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


@dataclass(frozen=True, slots=True)
class Decision:
    """
    What one cycle decided: the command values in the units of the message, and why.

    `index` is the number of a named action, -1 for the safe action and for a continuous one.
    `values` are NaN where nothing may be commanded yet.
    """

    values: NDArray[np.float64]
    index: int
    name: str
    exploratory: bool
    safe_reason: str
    ended: EpisodeRecord | None


class ControlCycle[State]:
    """
    One robot's loop from sensors to actions at the fixed rate of its specification.

    Each cycle is a `step`, whose command the shell sends, and then `learn`, so that no command
    waits for learning. Whatever cannot be trusted (a stale, missing or broken sensor, a late cycle, a
    clock that stepped back, an agent that fails, an entry of `holds`) gives the safe action within
    the cycle; the transition is dropped and the episode truncated.
    """

    def __init__(self, specification: Specification, agent: Agent[State],
                 mode: LearningMode = LearningMode.MIXED, timer: Callable[[], float] | None = None) -> None:
        """
        Begin outside of any episode.

        `timer` is the clock that `step` is given as `now`; with it cycles are measured and learning
        keeps its budget. Without one, all learning that is due is done in every cycle.
        """
        self.specification, self.agent = specification, agent
        self._mode = mode
        self._timer = timer
        self.holds: dict[str, str] = {}
        """Reasons to stay safe, by who gives them, as 'pause' or 'emergency stop'."""
        self.cycles = 0
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=20)
        self.statistics = CycleStatistics()
        self.learning_problem = ''
        """Why the last transition was not learned; empty if it was."""
        self.sample = Sample(np.zeros(specification.elements, np.float32), 'no cycle yet', -1.0)
        self._observer = Observer(specification.observation)
        self._commander = Commander(specification)
        places = specification.places
        self._reward = make_reward(specification.reward, specification.reward_max_age, places)
        self._end = EpisodeEnd(specification.episode_end, places)
        self._computes = isinstance(specification.reward, Formula) \
            or isinstance(specification.episode_end, Formula)
        self._values: list[float] = []
        self._last: tuple[State, int | NDArray[np.float32]] | None = None
        self._failure = ''
        self._now: float | None = None
        self._clock = 0.0
        self._steps, self._total = 0, 0.0
        self._most_steps = round((specification.time_limit or 0.0) * specification.rate)
        self._budget = Budget()

    @property
    def mode(self) -> LearningMode:
        """Return how the agent acts."""
        return self._mode

    def begin(self) -> None:
        """Start anew after a pause of the whole loop: it makes no cycle late."""
        self._now, self.cycles, self.statistics = None, 0, CycleStatistics()
        self._commander.begin()

    def change_mode(self, mode: LearningMode) -> EpisodeRecord | None:
        """Act otherwise from the next cycle on; the present episode is truncated and returned."""
        ended = self._finish(End.TRUNCATED)
        self._mode = mode
        return ended

    def receive(self, topic: str, message: Any, now: float) -> None:
        """Take a message that arrived at `now` (seconds; a topic may serve several purposes)."""
        if topic in self._observer.topics:
            self._observer.receive(topic, message, now)
        if topic == self._reward.topic:
            self._reward.receive(message, now)
        if topic == self._end.topic:
            self._end.receive(message)

    def step(self, now: float, clock: float) -> Decision:
        """
        Decide at `now` (seconds, never steps back); `clock` is the time of stamps.

        Raises nothing that depends on the messages or on the agent.
        """
        self.cycles += 1
        problem = self._timing(now, clock)
        self.sample = sample = self._observer.sample(now, clock)
        before = self._values
        if self._computes:
            self._values = sample.values.tolist()
        reward, self.learning_problem = self._reward.take(now, self._values, before or self._values)
        terminal = self._end.take(self._values, before or self._values)
        problem = next(iter(self.holds.values()), '') or problem or sample.problem or self._failure
        self._failure = ''
        if problem:
            return self._safe_step(problem)
        ended = None
        try:
            state = self.agent.encode(sample.values)
            ended = self._experience(state, reward, terminal)
            choice = self.agent.act(state, self._mode)
            values = self._commander.command(choice.action, sample.values)
        except Exception as error:  # whatever an agent does wrong, the robot must be safe
            return self._safe_step(_failed(error), ended)
        self._last = state, choice.action
        index = choice.action if isinstance(choice.action, int) else -1
        name = self.specification.action.names[index] if index >= 0 else CONTINUOUS
        return Decision(values, index, name, choice.exploratory, '', ended)

    def _safe_step(self, reason: str, ended: EpisodeRecord | None = None) -> Decision:
        self.statistics.safe += 1
        return self.make_safe(reason, ended)

    def make_safe(self, reason: str, ended: EpisodeRecord | None = None) -> Decision:
        """
        Decide for the safe action, drop the transition and truncate the episode.

        `ended` is an episode that ended already.
        """
        return Decision(self._commander.safe(), -1, SAFE, False, reason, self._finish(End.TRUNCATED) or ended)

    def write(self, decision: Decision, message: Any, stamp: Any = None) -> Any:
        """
        Write the decision's command, and the stamp, into a message and return it.

        Returns None where nothing may be commanded yet: an arm whose position is not known.
        """
        return self._commander.write(decision.values, message, stamp)

    def learn(self) -> int:
        """
        Close the cycle after its command went out: measure it, and learn within the budget.

        Returns how many units of learning were done. A failure makes the next cycle safe.
        """
        begun = self._measure()
        if not self._mode.learns or self.holds:
            return 0
        units = 0
        try:
            while self._fits(begun) and self.agent.learn() is not None:
                units += 1
                if self._timer is not None:
                    ended = self._timer()
                    self._budget.took(ended - begun)
                    self.statistics.learning.add(ended - begun)
                    begun = ended
        except Exception as error:
            self._failure = _failed(error)
        self.statistics.units += units
        return units

    def _fits(self, begun: float) -> bool:
        if self._timer is None or self._now is None:
            return True
        deadline = self._now + self.specification.learning_budget / self.specification.rate
        return self._budget.fits(deadline - begun)

    def _measure(self) -> float:
        """Measure the cycle whose command has just gone out; return the time."""
        if self._timer is None or self._now is None:
            return 0.0
        time = self._timer()
        self.statistics.time.add(time - self._now)
        if self.sample.oldest >= 0.0:
            self.statistics.staleness.add(self.sample.oldest)
            self.statistics.latency.add(self.sample.oldest + time - self._now)
        return time

    def _timing(self, now: float, clock: float) -> str:
        period, back = 1.0 / self.specification.rate, self._clock - clock
        elapsed = period if self._now is None else now - self._now
        self._now, self._clock = now, clock
        self.statistics.jitter.add(abs(elapsed - period))
        self.statistics.late += elapsed >= 2.0 * period
        if back > 0.0:
            self._observer.forget()  # what was stamped before is of another time
            return f'the clock stepped back by {back:.3f} s'
        if elapsed > LATE_PERIODS * period:
            return f'the cycle came {elapsed:.3f} s after the last one'
        return ''

    def _experience(self, state: State, reward: float, terminal: bool) -> EpisodeRecord | None:
        """Give the agent what the last action led to; return the episode if it ended."""
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
        steps, total, was_acting = self._steps, self._total, self._last is not None
        self._last, self._steps, self._total = None, 0, 0.0
        if end is End.TRUNCATED and was_acting:
            try:
                self.agent.interrupt()
            except Exception as error:
                self._failure = _failed(error)
        if steps == 0:
            return None
        self.episodes += 1
        if end is not End.TRUNCATED:
            self.returns.append(total)
            self.agent.record_episode(total)
            if self._mode.learns:
                self.agent.decay()
        return EpisodeRecord(self.episodes, steps, total, end, self._mode)


def _failed(error: Exception) -> str:
    return f'the agent failed: {type(error).__name__}: {str(error)[:200]}'
