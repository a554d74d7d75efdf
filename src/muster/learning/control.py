# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The control cycle on a robot: its decisions become commands, and what happened becomes topics."""
from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from muster.learning.agents.base import Agent, LearningMode
from muster.learning.continual.reservoir import check_task
from muster.learning.cycle import ControlCycle, Decision, EpisodeRecord
from muster.learning.specification import Specification
import muster.ros.interfaces  # noqa: F401  # before the messages: it explains missing ones
from muster_interfaces.msg import Action, Episode
import numpy as np
from rclpy.node import Node

#: The beginning of the reason for a safe action that the agent itself is to blame for; what then holds
#: the robot, and for how many seconds, until the agent is tried again.
AGENT_FAILED, AGENT, RETRY = 'the agent failed', 'agent', 1.0


def boot_time() -> float:
    """Return seconds since the machine started, suspended or not: it never steps back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Control:
    """Runs cycles, publishes what they decide, and lets nothing but a whole agent act."""

    def __init__(self, node: Node, specification: Specification, agent: Agent[Any], mode: LearningMode,
                 publishers: tuple[Any, Any, Any], command: Any) -> None:
        """
        Begin with `agent` in `mode`.

        `publishers` are those of the command, of Action and of Episode; `command` is an empty message
        of the command's type.
        """
        self._node = node
        self.cycle: ControlCycle[Any] = ControlCycle(specification, agent, mode, boot_time)
        self.command, self._actions, self._episodes = publishers
        self._message = command
        self.watcher: Callable[[Decision], None] = lambda decision: None
        """Told every decision of a cycle once it is carried out."""
        self.decision: Decision | None = None
        self._failed = 0.0
        self.cycled = 0.0
        """When the last cycle began, on `boot_time`."""

    @property
    def agent(self) -> Agent[Any]:
        """Return the agent that acts."""
        return self.cycle.agent

    @property
    def safe_reason(self) -> str:
        """Return why the last action was the safe one; empty if it was not."""
        return self.decision.safe_reason if self.decision else 'no cycle yet'

    def begin(self) -> None:
        """Start anew after a pause of the whole loop."""
        self.cycle.begin()
        self.cycled = boot_time()

    def receive(self, topic: str, message: Any) -> None:
        """Take a sensor's message."""
        self.cycle.receive(topic, message, boot_time())

    def run(self) -> None:
        """Run one cycle: sense, act, learn."""
        self.cycled = boot_time()
        if AGENT in self.cycle.holds and self.cycled - self._failed >= RETRY:
            del self.cycle.holds[AGENT]
        decision = self.cycle.step(self.cycled, self._node.get_clock().now().nanoseconds * 1e-9)
        self.carry_out(decision)
        self.cycle.learn()
        if decision.safe_reason.startswith(AGENT_FAILED) and AGENT not in self.cycle.holds:
            self.cycle.holds[AGENT], self._failed = decision.safe_reason, self.cycled
        self.watcher(decision)

    def make_safe(self, reason: str) -> None:
        """Publish the safe action now, not only in the next cycle."""
        self.carry_out(self.cycle.make_safe(reason))

    def carry_out(self, decision: Decision) -> None:
        """Publish the command, then all that tells of it."""
        stamp = self._node.get_clock().now().to_msg()
        command = self.cycle.write(decision, self._message, stamp)
        if command is not None:
            self.command.publish(command)
        self._actions.publish(Action(
            stamp=stamp, name=decision.name, index=decision.index, exploratory=decision.exploratory,
            values=decision.values.astype(np.float32)))
        self._tell(decision.ended)
        before, self.decision = self.decision, decision
        # Ages count up inside the reason: only a change between safe and not safe is news.
        if before is None or bool(before.safe_reason) != bool(decision.safe_reason):
            self._node.get_logger().info(f'safe action: {decision.safe_reason}' if decision.safe_reason
                                         else f'acting in mode {self.cycle.mode.name.lower()}')

    def change_mode(self, mode: LearningMode) -> None:
        """Act otherwise from the next cycle on, if `mode` is another; the episode is truncated."""
        if mode is not self.cycle.mode:
            self._tell(self.cycle.change_mode(mode))

    def replace(self, agent: Agent[Any]) -> None:
        """Act by another agent from the next cycle on; the episode is truncated."""
        self._tell(self.cycle.change_mode(self.cycle.mode))
        self.cycle.agent = agent

    def begin_task(self, task: str) -> None:
        """Let experience belong to `task` from now on; raises ValueError where there is no room for it."""
        if check_task(task) != self.agent.task:
            self._tell(self.cycle.change_mode(self.cycle.mode))
            self.agent.begin_task(task)

    def _tell(self, ended: EpisodeRecord | None) -> None:
        if ended:
            self._episodes.publish(Episode(
                stamp=self._node.get_clock().now().to_msg(), number=ended.number, steps=ended.steps,
                episode_return=ended.total, end=int(ended.end), mode=int(ended.mode), task=self.agent.task))
