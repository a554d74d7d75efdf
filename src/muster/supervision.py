# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
When to start, restart and end a group of processes: decisions only, no process and no clock.

A process that ends unasked is started again after a delay that doubles with every early death and
is forgotten once it has lived `healthy_after`. The end of the group is asked for politely first
(SIGINT, as `ros2 launch` and Ctrl-C do), then with SIGTERM, and SIGKILL is the bound.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from signal import SIGINT, SIGKILL, Signals, SIGTERM


@dataclass(frozen=True)
class Policy:
    """Times in seconds, each > 0; `stages` are the signals of the end and the patience after each."""

    first_delay: float = 1.0
    longest_delay: float = 30.0
    healthy_after: float = 30.0
    stages: tuple[tuple[Signals, float], ...] = ((SIGINT, 5.0), (SIGTERM, 5.0), (SIGKILL, 5.0))

    def delay(self, deaths: int) -> float:
        """Return the delay after so many early deaths in a row (>= 1)."""
        return min(self.first_delay * 2.0 ** min(deaths - 1, 30), self.longest_delay)


@dataclass(frozen=True)
class Child:
    """One process: alive since `time`, or to be started at `time`."""

    alive: bool = False
    time: float = 0.0
    deaths: int = 0


@dataclass(frozen=True)
class Start:
    """Effect: start this process."""

    name: str


@dataclass(frozen=True)
class Send:
    """Effect: send a signal to the group of this process."""

    name: str
    number: Signals


class Supervisor:
    """The group. `now` is any clock that never goes back, in seconds."""

    def __init__(self, names: Iterable[str], now: float, policy: Policy | None = None) -> None:
        """Let every process be due at once."""
        self._policy = policy or Policy()
        self._children = {name: Child(time=now) for name in names}
        self._stage = -1  # index of the last stage of the end that was entered
        self._escalate = float('inf')

    @property
    def stopping(self) -> bool:
        """Return whether the end was asked for."""
        return self._stage >= 0

    @property
    def finished(self) -> bool:
        """Return whether the end was asked for and no process is left."""
        return self.stopping and not any(child.alive for child in self._children.values())

    def next_deadline(self) -> float:
        """Return when `advance` has something to do; infinity where only an event can change it."""
        if self.stopping:
            return self._escalate
        return min((c.time for c in self._children.values() if not c.alive), default=float('inf'))

    def advance(self, now: float) -> list[Start | Send]:
        """Return what is due; started processes count as alive from `now`."""
        if self.stopping:
            return self.stop(now) if now >= self._escalate else []
        due = [name for name, child in self._children.items() if not child.alive and now >= child.time]
        for name in due:
            self._children[name] = replace(self._children[name], alive=True, time=now)
        return [Start(name) for name in due]

    def exited(self, name: str, now: float) -> float | None:
        """Note that a process ended; return the delay to its restart, None when it stays down."""
        child = self._children[name]
        if self.stopping:
            self._children[name] = replace(child, alive=False)
            return None
        healthy = now - child.time >= self._policy.healthy_after
        deaths = 1 if healthy else child.deaths + 1
        delay = self._policy.delay(deaths)
        self._children[name] = Child(alive=False, time=now + delay, deaths=deaths)
        return delay

    def stop(self, now: float) -> list[Start | Send]:
        """Begin the end of the group; asked again, go on to the next, harder signal."""
        self._stage = min(self._stage + 1, len(self._policy.stages) - 1)
        number, patience = self._policy.stages[self._stage]
        self._escalate = now + patience
        return [Send(name, number) for name, child in self._children.items() if child.alive]
