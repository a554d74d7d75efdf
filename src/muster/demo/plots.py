# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The pictures of the demo: the failover as a timeline, and the learning curve."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from muster.demo.observer import Observer, Seen
from muster_interfaces.msg import ClusterStatus
import numpy as np

COLOURS = {ClusterStatus.FOLLOWER: '#9ecae1', ClusterStatus.CANDIDATE: '#fdae6b',
           ClusterStatus.LEADER: '#31a354', ClusterStatus.WAITING: '#d9d9d9'}
NAMES = {ClusterStatus.FOLLOWER: 'follower', ClusterStatus.CANDIDATE: 'candidate',
         ClusterStatus.LEADER: 'leader', ClusterStatus.WAITING: 'no cluster'}
#: A node says its status every second; a longer silence means that it does not run.
SILENCE = 1.6


def timeline(observer: Observer, figures: dict[str, Any], path: Path) -> None:
    """Draw each robot's role over time around the death of the leader."""
    killed = figures['failover_killed_at']
    before, after = 2.0, figures['caught_up_s'] + 2.0
    figure = _figure(8, 3.2)
    axes = figure.add_subplot()
    for row, robot in enumerate(reversed(observer.robots)):
        dies = killed if robot == figures['killed'] else None
        for begin, end, role in _stretches(observer.cluster[robot], dies):
            begin, end = max(begin - killed, -before), min(end - killed, after)
            if begin < end:
                axes.barh(row, end - begin, left=begin, height=0.6, color=COLOURS[role])
    axes.set_yticks(range(len(observer.robots)), list(reversed(observer.robots)))
    leader, lock = figures['next_leader_ms'], figures['next_lock_ms']
    for seconds, text, height in (
            (0.0, 'SIGKILL', 0.98), (leader / 1e3, f'leader {leader:.0f} ms', 0.88),
            (lock / 1e3, f'lock {lock:.0f} ms', 0.78), (figures['caught_up_s'], 'caught up', 0.98)):
        axes.axvline(seconds, color='#333333', linewidth=1, linestyle='--')
        axes.text(seconds, height, f' {text}', transform=axes.get_xaxis_transform(), va='top', fontsize=8)
    axes.set(xlim=(-before, after), ylim=(-1.1, len(observer.robots) + 0.6), xlabel='seconds since the kill',
             title='Failover')
    _legend(axes)
    figure.savefig(path, dpi=110)


def _stretches(seen: list[Seen], dies: float | None) -> list[tuple[float, float, int]]:
    """Return (begin, end, role) of every stretch in which a robot told its role."""
    found = []
    for number, this in enumerate(seen):
        following = seen[number + 1].at if number + 1 < len(seen) else this.at + SILENCE
        end = min(following, this.at + SILENCE)
        if dies is not None and this.at < dies < end:
            end = dies
        found.append((this.at, end, this.message.role))
    return found


def _legend(axes: Axes) -> None:
    for role, name in NAMES.items():
        axes.barh(0, 0, color=COLOURS[role], label=name)
    axes.legend(loc='lower right', fontsize=8, ncols=4)


def learning_curve(training: dict[str, Any], path: Path, window: int = 25) -> None:
    """Draw the return of each training episode and what the comparison gave."""
    returns = np.asarray(training['returns'])
    figure = _figure(8, 3.6)
    axes = figure.add_subplot()
    axes.plot(returns, '.', markersize=2, color='#9ecae1', label='one episode')
    if len(returns) >= window:
        mean = np.convolve(returns, np.ones(window) / window, 'valid')
        axes.plot(np.arange(window - 1, len(returns)), mean, color='#08519c', label=f'mean of {window}')
    for key, colour in (('random', '#cb181d'), ('trained', '#31a354')):
        value = training[key]['mean_return']
        axes.axhline(value, color=colour, linestyle='--', label=f'{key}, in other worlds: {value:.1f}')
    axes.set(xlabel='training episode', ylabel='return',
             title=f"Q-learning, {training['steps']} steps in {training['cpu_seconds']:.0f} s of CPU time "
                   f"({training['times_real_time']:.0f} x real time)")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure
