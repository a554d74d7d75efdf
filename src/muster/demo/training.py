# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The off-line part of learning: the robots' own specification, trained in the same world.

A process of its own (`python -m muster.demo.training OUT`), so that it does not disturb the fleet.
Writes the model `trained` and, as JSON, the returns of training and of the comparison.
"""
from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
import statistics
import sys
import time
from typing import Any

from ament_index_python.packages import get_package_share_directory
from muster.learning.agents.base import LearningMode
from muster.learning.checkpoint import save_checkpoint
from muster.learning.models import snapshot
from muster.learning.specification import load_specification
from muster.learning.training import make_agent, train
from muster.simulation.environment import WorldEnvironment
from muster.simulation.world import World, WorldConfig

#: Worlds (obstacles and places by seed): some to learn in, others to be judged in.
TRAINING_SEEDS, COMPARED_SEEDS = range(1, 13), range(101, 105)
#: Steps in each of them.
TRAINING_STEPS, COMPARED_STEPS = 6_000, 6_000
NICENESS = 5


def compare(specification: Any, agent: Any, mode: LearningMode) -> dict[str, Any]:
    """Return how an agent, or one that knows nothing, does in worlds that it has not learned in."""
    returns: list[float] = []
    goals = collisions = 0
    for seed in COMPARED_SEEDS:
        environment = WorldEnvironment(World(WorldConfig(), ['robot'], seed), 'robot')
        returns += train(specification, environment, COMPARED_STEPS, seed, agent, mode).returns
        goals, collisions = goals + environment.goals, collisions + environment.collisions
    spread = statistics.stdev(returns) / len(returns) ** 0.5
    return {'episodes': len(returns), 'mean_return': statistics.fmean(returns), 'standard_error': spread,
            'goals': goals, 'collisions': collisions}


def _step_back() -> None:
    """Leave the processor to the robots: among processes, and among sessions (sched(7), autogroup)."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # where the kernel does not share among sessions
        Path('/proc/self/autogroup').write_text(str(NICENESS))


def main(output: Path) -> None:
    """Train, compare with acting at random, and write both."""
    _step_back()
    share = Path(get_package_share_directory('muster'))
    specification = load_specification(share / 'config' / 'learning' / 'goal_seeking.yaml')
    begun = time.process_time()
    agent = make_agent(specification, TRAINING_SEEDS[0])
    returns: list[float] = []
    for seed in TRAINING_SEEDS:
        world = World(WorldConfig(), ['robot'], seed)
        returns += train(specification, WorldEnvironment(world, 'robot'), TRAINING_STEPS, seed, agent).returns
    seconds = time.process_time() - begun
    steps = TRAINING_STEPS * len(TRAINING_SEEDS)
    save_checkpoint(output / 'trained.npz', snapshot(agent, specification.meaning))
    result = {
        'steps': steps, 'cpu_seconds': seconds, 'times_real_time': steps / specification.rate / seconds,
        'returns': returns,
        'random': compare(specification, None, LearningMode.EXPLORATION),
        'trained': compare(specification, agent, LearningMode.EXPLOITATION)}
    (output / 'training.json').write_text(json.dumps(result))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
