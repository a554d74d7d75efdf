# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Hyper-parameters that change as learning goes on."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Linear:
    """From `start` to `end` in `steps` equal steps, then constant; with 0 steps `start` for ever."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        """Return the value after `step` >= 0 steps."""
        if self.steps == 0:
            return self.start
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * (step / self.steps)
