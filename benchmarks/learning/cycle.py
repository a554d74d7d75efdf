# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Tabular updates, the control cycle with all its checks, off-line training; one thread.

The peer of the table is the bare algorithm, written here in a dozen lines without any check.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import time

from ament_index_python.packages import get_package_share_directory
from harness import percentile, Results
from muster.learning.agent import ReinforcementLearningAgent
from muster.learning.agents.base import Discrete, Transition
from muster.learning.agents.q_learning import QLearning
from muster.learning.cycle import ControlCycle
from muster.learning.specification import load_specification, Specification
from muster.learning.training import make_agent, train
from muster.simulation.environment import WorldEnvironment
from muster.simulation.world import World, WorldConfig
import numpy as np

STATES, ACTIONS, TRANSITIONS = 500, 6, 20_000   # the size of Taxi
SECONDS = 2.0
CYCLES, TRAINING_STEPS = 4_000, 10_000
BEAMS_SEED = 1


def measure(results: Results) -> None:
    """Add all rows."""
    transitions = random_transitions()
    bare = per_second(bare_q_learning(transitions), TRANSITIONS)
    learner = QLearning(Discrete(ACTIONS), seed=0)
    results.add('Q-learning, improve (the update alone)', per_second(
        lambda: [learner.improve(t) for t in transitions], TRANSITIONS), 'updates/s',
        peer='bare dict of lists', peer_value=bare)
    results.add('Q-learning, observe and learn (checked, with statistics)', per_second(
        lambda: [(learner.observe(t), learner.learn()) for t in transitions], TRANSITIONS), 'updates/s',
        peer='bare dict of lists', peer_value=bare)
    agent = ReinforcementLearningAgent('benchmark', list(range(ACTIONS)), seed=0)
    results.add('ReinforcementLearningAgent.update (any state, with replay)', per_second(
        lambda: [agent.update(t.state, t.action, t.reward, t.next_state, t.terminated) for t in transitions],
        TRANSITIONS), 'updates/s', peer='bare dict of lists', peer_value=bare)
    share = Path(get_package_share_directory('muster'))
    specification = load_specification(share / 'config' / 'learning' / 'goal_seeking.yaml')
    cycles = cycle_times(specification)
    results.add('control cycle with all checks, learning on, p50', percentile(cycles, 50), 'µs')
    results.add('control cycle with all checks, learning on, p99', percentile(cycles, 99), 'µs')
    steps, rate = training_rate(specification), specification.rate
    results.add('off-line training in the simulated world', steps, 'steps/s')
    results.add(f'off-line training at {rate:g} Hz', steps / rate, 'x real time', at_least=100)


def random_transitions() -> list[Transition[int]]:
    """Return transitions between random states, all of plain Python values."""
    generator = np.random.default_rng(0)
    rows = zip(*(generator.integers(high, size=TRANSITIONS).tolist() for high in (STATES, ACTIONS, STATES)),
               generator.normal(size=TRANSITIONS).tolist(), strict=True)
    return [Transition(state, action, reward, following, False) for state, action, following, reward in rows]


def bare_q_learning(transitions: list[Transition[int]]) -> Callable[[], None]:
    """Return the textbook update over a dict of lists, without checks or statistics."""
    table = {state: [0.0] * ACTIONS for state in range(STATES)}
    rows = [(t.state, t.action, t.reward, t.next_state) for t in transitions]

    def work() -> None:
        for state, action, reward, following in rows:
            values = table[state]
            values[action] += 0.2 * (reward + 0.95 * max(table[following]) - values[action])
    return work


def per_second(work: Callable[[], object], each: int) -> float:
    """Return how many of the `each` things that `work` does are done in a second of processor time."""
    begun, done = time.process_time(), 0
    while (elapsed := time.process_time() - begun) < SECONDS:
        work()
        done += each
    return done / elapsed


def cycle_times(specification: Specification) -> list[float]:
    """Return µs from the arrival of a cycle's messages to the written command, in the simulated world."""
    environment = WorldEnvironment(World(WorldConfig(), ['robot'], BEAMS_SEED), 'robot')
    cycle = ControlCycle(specification, make_agent(specification, BEAMS_SEED))
    period, messages, samples = 1.0 / specification.rate, environment.reset(), []
    for number in range(CYCLES):
        now = number * period
        begun = time.perf_counter()
        for topic, message in messages:
            cycle.receive(topic, message, now)
        command = cycle.write(cycle.step(now, now), environment.command())
        cycle.learn()
        samples.append(1e6 * (time.perf_counter() - begun))
        messages = environment.step(command, period)
    return samples


def training_rate(specification: Specification) -> float:
    """Return steps of training in a second of processor time."""
    environment = WorldEnvironment(World(WorldConfig(), ['robot'], BEAMS_SEED), 'robot')
    begun = time.process_time()
    train(specification, environment, TRAINING_STEPS, BEAMS_SEED)
    return TRAINING_STEPS / (time.process_time() - begun)
