# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the demo shows: a live view in a terminal, plain lines for machines."""
from __future__ import annotations

from collections import deque
import time
from typing import Any

from muster.demo.claims import Claim, Summary
from muster.demo.observer import Observer
from muster_interfaces.msg import ClusterStatus, LearningStatus
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

ROLES = {ClusterStatus.FOLLOWER: 'follower', ClusterStatus.CANDIDATE: '[yellow]candidate[/]',
         ClusterStatus.LEADER: '[bold green]LEADER[/]', ClusterStatus.WAITING: 'no cluster'}
MODES = {LearningStatus.EXPLORATION: 'exploration', LearningStatus.EXPLOITATION: 'exploitation',
         LearningStatus.MIXED: 'mixed'}
#: A robot that says nothing for so long is shown as silent, seconds.
SILENT = 2.5


class Screen:
    """Shows the story; a context manager around the demo."""

    def __init__(self, summary: Summary, headless: bool) -> None:
        """Show live in a terminal, else print lines."""
        self.console = Console()
        self._summary, self._begun = summary, time.monotonic()
        self._lines: deque[str] = deque(maxlen=12)
        self._observer: Observer | None = None
        self._live = None if headless or not self.console.is_terminal else \
            Live(console=self.console, get_renderable=self._view, refresh_per_second=8,
                 transient=True)  # the table of claims is printed at the end

    def __enter__(self) -> Screen:
        """Begin to show."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        """Clear the view."""
        if self._live:
            self._live.stop()

    def watch(self, observer: Observer) -> None:
        """Show what an observer sees."""
        self._observer = observer

    def say(self, text: str) -> None:
        """Tell what happens."""
        line = f'{time.monotonic() - self._begun:6.1f} s  {text}'
        self._lines.append(line)
        if not self._live:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _view(self) -> Group:
        parts: list[Any] = [self._fleet()] if self._observer else []
        story = Panel('\n'.join(escape(line) for line in self._lines) or '...', title='what happens')
        return Group(*parts, story, claims_table(self._summary.claims))

    def _fleet(self) -> Table:
        table = Table(title='Muster: three robots', expand=True)
        for column in ('robot', 'cluster', 'term', 'applied', 'locks', 'learning', 'mean return', 'devices'):
            table.add_column(column)
        observer = self._observer
        assert observer is not None
        for robot in observer.robots:
            table.add_row(robot, *_cluster_cells(observer, robot), *_learning_cells(observer, robot),
                          _last(observer.devices[robot], lambda m: str(len(m.devices))))
        return table


def _last(seen: list[Any], show: Any) -> str:
    return show(seen[-1].message) if seen else '-'


def _cluster_cells(observer: Observer, robot: str) -> list[str]:
    seen = observer.cluster[robot]
    if not seen or time.monotonic() - seen[-1].at > SILENT:
        return ['[bold red]silent[/]', '-', '-', '-']
    status = seen[-1].message
    return [ROLES[status.role], str(status.term), str(status.applied_index), str(status.locks)]


def _learning_cells(observer: Observer, robot: str) -> list[str]:
    seen = observer.learning[robot]
    if not seen:
        return ['-', '-']
    status = seen[-1].message
    mode = f'safe: {escape(status.safe_reason)}' if status.safe else MODES.get(status.mode, '?')
    return [mode, f'{status.mean_reward:.1f}']


def claims_table(claims: list[Claim]) -> Table:
    """Return the table of what was claimed and seen."""
    table = Table(title='claims', expand=True)
    for column in ('', 'act', 'claim', 'measured'):
        table.add_column(column)
    for claim in claims:
        mark = '[bold green]holds[/]' if claim.holds else '[bold red]FAILS[/]'
        table.add_row(mark, claim.act, escape(claim.statement), escape(claim.measured))
    return table
