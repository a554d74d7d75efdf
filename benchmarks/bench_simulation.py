# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The simulated world: how much faster than real time it runs, with and without the lidar, one thread."""
from __future__ import annotations

from collections.abc import Callable
import time

from harness import Results
from muster.simulation.world import World, WorldConfig

STEP = 0.05        # s of simulated time, 20 Hz
SECONDS = 2.0
ROBOTS = (1, 3)


def main() -> None:
    """Measure all of it."""
    results = Results('simulation')
    for count in ROBOTS:
        names = [f'robot_{number + 1}' for number in range(count)]
        robots = f'{count} robot' + 's' * (count > 1)
        for lidar in (False, True):
            rate = steps_per_second(World(WorldConfig(), names, seed=1), lidar)
            what = f'{robots}, {"with 36-beam lidar" if lidar else "without lidar"}'
            results.add(f'world, {what}', rate, 'steps/s')
            results.add(f'world at {1 / STEP:.0f} Hz, {what}', rate * STEP, 'x real time')
    world = World(WorldConfig(beams=360), ['robot_1'], seed=1)
    results.add('lidar scan, 360 beams', 1e6 / per_second(lambda: world.scan('robot_1')), 'µs')
    results.finish()


def steps_per_second(world: World, lidar: bool) -> float:
    """Return how many steps a second a world makes whose robots all drive in curves."""
    def step() -> None:
        for robot in world.robots:
            world.command(robot, 0.4, 0.5)
        world.step(STEP)
        if lidar:
            for robot in world.robots:
                world.scan(robot)
    return per_second(step)


def per_second(work: Callable[[], object]) -> float:
    """Return how often `work` runs in a second of processor time: others on the machine do not count."""
    begun, done = time.process_time(), 0
    while (elapsed := time.process_time() - begun) < SECONDS:
        for _ in range(100):
            work()
        done += 100
    return done / elapsed


if __name__ == '__main__':
    main()
