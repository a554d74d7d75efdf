# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Processor time of short calls."""
from __future__ import annotations

from collections.abc import Callable
import time

import numpy as np

ROUNDS, BLOCK = 7, 20


def microseconds(work: Callable[[], object], seconds: float = 0.3) -> float:
    """Return the processor time of one call, the median of several rounds of `seconds`."""
    times = []
    for _ in range(ROUNDS):
        begun, done = time.process_time(), 0
        while (elapsed := time.process_time() - begun) < seconds:
            for _ in range(BLOCK):
                work()
            done += BLOCK
        times.append(1e6 * elapsed / done)
    return float(np.median(times))
