# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The simulated world: success of a trained policy, also through the ROS topics, and the node at 50 Hz.

A start succeeds when the goal is reached within the time limit and without a collision, see
`muster.offline.trials`. Through the topics it is the same with the world node and the learning node as
processes, on simulated time, in worlds that were not learned in either.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import tempfile
import time
from typing import Any, cast

from ament_index_python.packages import get_package_share_directory
from harness import DISK, percentile, Results
from muster.cli import main as muster
from muster.learning.models import ModelStore, restore
from muster.learning.specification import load_specification
from muster.learning.training import make_agent
from muster.offline.trials import judge, UNSEEN
from muster.ros import qos
from muster_interfaces.msg import Action, Episode
from processes import Fleet, reserved_domain, wait_until
from std_msgs.msg import Float32

ROBOT = 'robot_1'
FILE = 'goal_seeking_dqn.yaml'
#: Simulated seconds in a second, of the runs through the topics.
FACTOR = 5.0
#: A reward of the world above the first is a goal's, one below the second a collision's.
GOAL, COLLISION = 5.0, -3.0
RATE = 50.0
WARM_UP = 10.0
PATIENCE = 60.0


def measure(results: Results, steps: int, starts: int, worlds: int, seconds: float) -> None:
    """Train once by `muster train`, then drive from `starts` starts, and at 50 Hz for some seconds."""
    with tempfile.TemporaryDirectory(prefix='muster-benchmark-', dir=DISK) as folder:
        store = Path(folder) / 'models'
        begun = time.process_time()
        muster(['train', '--config', FILE, '--steps', str(steps), '--models', str(store),
                '--evaluate', '0'])
        taken = time.process_time() - begun
        file = Path(get_package_share_directory('muster')) / 'config' / 'learning' / FILE
        specification = load_specification(file)
        agent = make_agent(specification, 1)
        restore(ModelStore(store).load('trained'), agent, specification.meaning)
        verdict = judge(specification, agent, starts)
        results.add(f'2-D world, success in {starts} unseen starts', 100 * verdict.success, '%',
                    at_least=95)
        results.add('2-D world, mean time to the goal', verdict.seconds, 's')
        results.add(f'2-D world, training of {steps:,} steps with its checks', taken, 'CPU s')
        told = [through_topics(Path(folder), store, UNSEEN // 4 + seed, starts // worlds)
                for seed in range(worlds)]
        driven, goals, cut = (sum(part) for part in zip(*told, strict=True))
        results.add(f'2-D world through ROS topics, success in {driven} unseen starts', 100 * goals / driven,
                    '%', at_least=95, remark=f'{cut} interruptions by late cycles')
    at_50_hz(results, file, seconds)


def through_topics(folder: Path, store: Path, seed: int, starts: int) -> tuple[int, int, int]:
    """
    Let the node drive in the world of a seed; return the number of starts, of goals, and of interruptions.

    A start goes on after an interruption: a late cycle that made the node stand still for a moment.
    """
    world = {'publish_clock': True, 'real_time_factor': FACTOR, 'robots': f'[{ROBOT}]', 'seed': seed}
    node = {'use_sim_time': True, 'mode': 'exploitation', 'specification': FILE, 'initial_model': 'trained',
            'model_directory': store, 'save_on_deactivate': False}
    with _fleet(folder, world, node) as fleet:
        rewards = fleet.probe.listen(Float32, f'/{ROBOT}/reward', qos.EVENTS)
        episodes = fleet.probe.listen(Episode, f'/{ROBOT}/learning/episodes', qos.EVENTS)

        def count() -> tuple[int, int, int] | None:
            goals = sum(message.data > GOAL for message in rewards)
            ended = goals + sum(message.data < COLLISION for message in rewards) \
                + sum(message.end == Episode.TIME_LIMIT for message in episodes)
            cut = sum(message.end == Episode.TRUNCATED for message in episodes)
            return (ended, goals, cut) if ended >= starts else None
        patience = PATIENCE + starts * 60.0 / FACTOR
        what = f'the end of {starts} starts in the world of seed {seed}'
        return cast(tuple[int, int, int], wait_until(count, patience, what))


def at_50_hz(results: Results, file: Path, seconds: float) -> None:
    """Learn live at 50 Hz, and add how late the commands went out."""
    with tempfile.TemporaryDirectory(prefix='muster-benchmark-', dir=DISK) as folder:
        specification = Path(folder) / 'fast.yaml'
        specification.write_text(file.read_text().replace('rate: 10.0', f'rate: {RATE}'))
        world = {'robots': f'[{ROBOT}]', 'rate': RATE, 'seed': 3}
        node = {'mode': 'mixed', 'specification': specification, 'save_on_deactivate': False, 'seed': 1}
        with _fleet(Path(folder), world, node) as fleet:
            actions = fleet.probe.listen(Action, f'/{ROBOT}/learning/action', qos.SENSORS)
            wait_until(lambda: any(a.index >= 0 for a in actions), PATIENCE, 'the first action')
            time.sleep(WARM_UP)
            first = len(actions)
            time.sleep(seconds)
            heard = actions[first:]
    late = lateness([a.stamp.sec + a.stamp.nanosec * 1e-9 for a in heard])
    missed = sum(delay > 1.0 / RATE for delay in late) + sum(a.index < 0 for a in heard)
    name, p99 = f'node at {RATE:g} Hz while learning', percentile(late, 99)
    results.add(f'{name}, lateness p99', None if p99 is None else 1e3 * p99, 'ms', at_most=5)
    results.add(f'{name}, missed deadlines of {len(late)}', float(missed), '', at_most=0)


def lateness(stamps: list[float]) -> list[float]:
    """Return how long after its turn each cycle acted, s; turns are a period apart, the earliest on time."""
    past = [stamp - round((stamp - stamps[0]) * RATE) / RATE for stamp in stamps]
    return [delay - min(past) for delay in past]


@contextmanager
def _fleet(folder: Path, world: dict[str, Any], node: dict[str, Any]) -> Iterator[Fleet]:
    """Run the world and the learning node of one robot."""
    with reserved_domain() as domain:
        fleet = Fleet(folder, domain)
        fleet.environment |= {'MUSTER_HOME': str(folder / 'home')}
        try:
            arguments = [text for name, value in world.items() for text in ('-p', f'{name}:={_text(value)}')]
            fleet.start('world', 'muster.simulation.node', '--ros-args', *arguments)
            fleet.start_node('muster.learning.node', ROBOT, node)
            yield fleet
        finally:
            fleet.close()


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
