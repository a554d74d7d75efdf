# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
How much a sequence of tasks is remembered: the accuracy matrix and what follows from it.

R[i, j] is the score on task j after the i-th stage of learning (Lopez-Paz & Ranzato 2017, Gradient
Episodic Memory, section 2). Scores are accuracies, or whatever else is better when larger.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from muster.learning.agents.base import finite
from muster.learning.continual.reservoir import check_task, MAXIMUM_TASKS
import numpy as np
from numpy.typing import NDArray

MAXIMUM_STAGES = 256


class TransferMatrix:
    """Scores on every task after each stage; the oldest of more than 256 stages are forgotten."""

    def __init__(self) -> None:
        """Begin with no stage."""
        self.stages: deque[tuple[str, dict[str, float]]] = deque(maxlen=MAXIMUM_STAGES)
        """What was learned in each stage, and the scores measured after it."""

    def record(self, learned: str, scores: Mapping[str, float]) -> None:
        """
        Append a stage in which the task `learned` was learned, with the scores after it.

        Tasks not measured yet may be missing; raises ValueError if a score is not finite.
        """
        if learned not in scores or len(scores) > MAXIMUM_TASKS:
            raise ValueError(f"the scores must hold that of the learned task '{learned}', and at most "
                             f'{MAXIMUM_TASKS}')
        self.stages.append((check_task(learned),
                            {check_task(task): finite(score) for task, score in scores.items()}))

    @property
    def tasks(self) -> list[str]:
        """Return the tasks in the order in which they were first learned."""
        return list(dict.fromkeys(learned for learned, _ in self.stages))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Return R float64[stages, tasks], NaN where nothing was measured."""
        tasks = self.tasks
        return np.array([[scores.get(task, np.nan) for task in tasks] for _, scores in self.stages],
                        np.float64).reshape(len(self.stages), len(tasks))

    @property
    def average(self) -> float:
        """Return the mean of the last scores on the tasks learned (their equation 2); 0 before any."""
        return float(np.mean(self._last())) if self.stages else 0.0

    @property
    def backward_transfer(self) -> float:
        """
        Return how much later tasks changed the score on earlier ones, on average (their equation 3).

        Compared is the last score with that right after the task was (last) learned; 0 with one task.
        """
        matrix, tasks, last = self.matrix, self.tasks, self._last()
        learned = {task: stage for stage, (task, _) in enumerate(self.stages)}
        return _mean([last[n] - matrix[learned[task], n] for n, task in enumerate(tasks)
                      if self._earlier(task)])

    @property
    def forgetting(self) -> float:
        """
        Return how far the last scores on earlier tasks are below their best, on average.

        Chaudhry et al. 2018 (Riemannian Walk), section 3.2: the best of all stages before the last.
        """
        matrix, last = self.matrix, self._last()
        return _mean([np.nanmax(matrix[:-1, n]) - last[n] for n, task in enumerate(self.tasks)
                      if self._earlier(task)])

    def _earlier(self, task: str) -> bool:
        return task != self.stages[-1][0]

    def _last(self) -> NDArray[np.float64]:
        """Return the latest score on each task."""
        return np.array([next(scores[task] for _, scores in reversed(self.stages) if task in scores)
                         for task in self.tasks])

    def export(self) -> list[Any]:
        """Return all of it as JSON values."""
        return [[learned, dict(scores)] for learned, scores in self.stages]

    @classmethod
    def restored(cls, document: Any) -> TransferMatrix:
        """Rebuild from `export()`; raises ValueError on anything else."""
        transfer = cls()
        try:
            for learned, scores in document:
                transfer.record(learned, dict(scores))
        except TypeError as error:
            raise ValueError(f'the accuracy matrix is unsound: {error}') from error
        return transfer


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0
