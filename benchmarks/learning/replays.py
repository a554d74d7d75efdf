# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Replay memories beside those of Stable-Baselines3 and, by priority, of tianshou: µs per operation."""
from __future__ import annotations

from functools import partial
from typing import Any

from learning.peer import ask, Missing
from learning.timing import microseconds
from muster.learning.prioritized_replay import PrioritizedReplay
from muster.learning.replay import Replay
import numpy as np

ELEMENTS, UPDATED = 8, 64
UNIFORM, PRIORITIZED = 100_000, 1_000_000
TARGETS = {'add': 1 / 4, 'sample_32': 1 / 4, 'sample_256': 1 / 3}


def measure(results: Any, seconds: float) -> None:
    """Add uniform and prioritized memories, full."""
    plan = {'elements': ELEMENTS, 'seconds': seconds}
    _report(results, 'replay', uniform(seconds), 'SB3', 'sb3.py', plan | {'capacity': UNIFORM}, TARGETS)
    _report(results, 'prioritized replay of 1e6', prioritized(seconds), 'tianshou', 'tianshou_replay.py',
            plan | {'capacity': PRIORITIZED}, {})


def _report(results: Any, name: str, own: dict[str, float], peer: str, script: str, plan: dict[str, Any],
            targets: dict[str, float]) -> None:
    try:
        theirs, remark = ask(script, 'replay', plan), ''
    except Missing as error:
        theirs, remark = {}, str(error)
    for operation, value in own.items():
        results.add(f'{name}, {operation.replace("_", " ")}', value, 'µs', peer=peer if theirs else None,
                    peer_value=theirs.get(operation), peer_at_most=round(targets.get(operation, 2.0), 3),
                    remark=remark)


def uniform(seconds: float) -> dict[str, float]:
    """Return µs of each operation of a full memory."""
    memory, generator = Replay(UNIFORM, ELEMENTS), np.random.default_rng(1)
    state = np.zeros(ELEMENTS, np.float32)
    add = partial(memory.add, state, 1, 1.0, state, 1)
    for _ in range(UNIFORM):
        add()
    return {'add': microseconds(add, seconds), **samples(memory, generator, seconds)}


def prioritized(seconds: float) -> dict[str, float]:
    """Return µs of each operation of a full memory with different priorities."""
    memory, generator = PrioritizedReplay(PRIORITIZED, ELEMENTS), np.random.default_rng(1)
    state = np.zeros(ELEMENTS, np.float32)
    add = partial(memory.add, state, 1, 1.0, state, 1)
    for _ in range(PRIORITIZED):
        add()
    errors = generator.random(PRIORITIZED).astype(np.float32)
    for first in range(0, PRIORITIZED, 10_000):
        memory.update(np.arange(first, first + 10_000), errors[first:first + 10_000])
    rows, some = generator.integers(PRIORITIZED, size=UPDATED), errors[:UPDATED]
    return {'add': microseconds(add, seconds), **samples(memory, generator, seconds),
            f'update_{UPDATED}': microseconds(partial(memory.update, rows, some), seconds)}


def samples(memory: Replay, generator: np.random.Generator, seconds: float) -> dict[str, float]:
    """Return µs of drawing batches."""
    return {f'sample_{size}': microseconds(partial(memory.sample, size, generator), seconds)
            for size in (32, 256)}
