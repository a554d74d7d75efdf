# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Tianshou's prioritized replay: `tianshou_replay.py replay JSON`, run by the peers' own Python.

Prints one JSON document of µs per operation, processor time of one thread.
"""
from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from sb3 import microseconds
from tianshou.data import Batch, PrioritizedReplayBuffer
import torch

BATCH = 64


def replay(plan: dict[str, Any]) -> dict[str, Any]:
    """Return µs of adding, sampling and updating priorities of a full prioritized buffer."""
    size, row = plan['capacity'], np.zeros(plan['elements'], np.float32)
    buffer = PrioritizedReplayBuffer(size, alpha=0.6, beta=0.4)
    transition = Batch(obs=row, act=1, rew=1.0, terminated=False, truncated=False, obs_next=row, info={})

    def add() -> None:
        buffer.add(transition)

    add()
    buffer._size = size  # as if all had been added: what the rows hold costs nothing, the tree's depth does
    generator = np.random.default_rng(1)
    priorities = generator.random(size)
    for first in range(0, size, 10_000):
        buffer.update_weight(np.arange(first, min(size, first + 10_000)), priorities[first:first + 10_000])
    indices, errors = generator.integers(size, size=BATCH), generator.random(BATCH)
    return {'add': microseconds(add, plan), 'sample_32': microseconds(lambda: buffer.sample(32), plan),
            'sample_256': microseconds(lambda: buffer.sample(256), plan),
            f'update_{BATCH}': microseconds(lambda: buffer.update_weight(indices, errors), plan)}


if __name__ == '__main__':
    torch.set_num_threads(1)
    print(json.dumps(replay(json.loads(sys.argv[2]))))
