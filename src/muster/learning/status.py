# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the learning node tells of itself: the latched status, and the diagnostics."""
from __future__ import annotations

from collections.abc import Collection
from statistics import fmean
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from muster.learning.control import AGENT_FAILED, Control
from muster.learning.emergency_stop import EmergencyStop
from muster.learning.models import Version
from muster.ros.node import diagnostic
from muster_interfaces.msg import LearningStatus
import numpy as np

STOP, PAUSE = 'emergency stop', 'pause'


def status_message(control: Control, model: Version | None, stamp: Any) -> LearningStatus:
    """Return everything about acting and learning in one flat message."""
    cycle, agent, times = control.cycle, control.agent, control.cycle.statistics
    reason = control.safe_reason
    return LearningStatus(
        stamp=stamp, mode=int(cycle.mode), paused=PAUSE in cycle.holds, safe=bool(reason), safe_reason=reason,
        agent=agent.kind, cycles=cycle.cycles, updates=agent.statistics.updates,
        episodes=agent.statistics.episodes, states=agent.states, epsilon=agent.epsilon,
        mean_reward=_mean(cycle.returns), mean_td_error=_mean(agent.statistics.td_errors),
        cycle_ms=1e3 * times.time.mean, oldest_observation_s=cycle.sample.oldest,
        specification=cycle.specification.digest, learning_problem=cycle.learning_problem,
        model=model.name if model else '', model_version=model.number if model else 0,
        learning_ms=1e3 * times.learning.mean, jitter_ms=1e3 * times.jitter.mean,
        worst_jitter_ms=1e3 * times.jitter.maximum, late_cycles=times.late,
        action_latency_ms=1e3 * times.latency.mean, drifted=agent.adapting, drifts=agent.statistics.drifts,
        **_continual(control))


def _continual(control: Control) -> dict[str, Any]:
    agent = control.agent
    told: dict[str, Any] = {'task': agent.task}
    if agent.transfer is not None:
        told |= {'tasks': agent.transfer.tasks, 'backward_transfer': agent.transfer.backward_transfer,
                 'forgetting': agent.transfer.forgetting,
                 'scores': agent.transfer.matrix.astype(np.float32).ravel()}
    return told


def concerns(control: Control, stop: EmergencyStop, name: str, robot: str) -> list[DiagnosticStatus]:
    """Return whether it acts, whether it learns, and whether it keeps its rate."""
    cycle, statistics, times = control.cycle, control.agent.statistics, control.cycle.statistics
    reason = control.safe_reason
    severe = STOP in cycle.holds or reason.startswith(AGENT_FAILED)
    level = DiagnosticStatus.ERROR if severe else DiagnosticStatus.WARN if reason else DiagnosticStatus.OK
    problem = stop.failure or (cycle.learning_problem if not reason and cycle.mode.learns else '')
    late = f'{times.late} late cycles' if times.late else ''
    return [
        diagnostic(level, f'{name}: control', f'safe action: {reason}' if reason else 'acting', robot,
                   cycles=cycle.cycles, safe_cycles=times.safe,
                   oldest_observation_s=f'{cycle.sample.oldest:.2f}',
                   action_latency_ms=f'{1e3 * times.latency.mean:.2f}'),
        diagnostic(DiagnosticStatus.WARN if problem else DiagnosticStatus.OK, f'{name}: learning',
                   problem or cycle.mode.name.lower(), robot, updates=statistics.updates,
                   episodes=statistics.episodes, epsilon=f'{control.agent.epsilon:.3f}',
                   task=control.agent.task),
        diagnostic(DiagnosticStatus.OK, f'{name}: timing', late or 'in time', robot,
                   cycle_ms=f'{1e3 * times.time.mean:.2f}', learning_ms=f'{1e3 * times.learning.mean:.2f}',
                   jitter_ms=f'{1e3 * times.jitter.mean:.2f}',
                   worst_jitter_ms=f'{1e3 * times.jitter.maximum:.2f}', late_cycles=times.late)]


def _mean(values: Collection[float]) -> float:
    return fmean(values) if values else 0.0
