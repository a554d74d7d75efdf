# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The shipped specification in the simulated world: it learns, reproducibly and fast."""
from pathlib import Path

from muster.learning.agents.base import LearningMode
from muster.learning.specification import load_specification
from muster.learning.training import train, Training
from muster.simulation.environment import WorldEnvironment
from muster.simulation.world import World, WorldConfig
import numpy as np
import pytest

SPECIFICATION = load_specification(Path(__file__).parents[2] / 'config' / 'learning' / 'goal_seeking.yaml')


def world(seed: int) -> WorldEnvironment:
    return WorldEnvironment(World(WorldConfig(), ['robot_1'], seed), 'robot_1')


def outcome(training: Training, environment: WorldEnvironment) -> tuple[float, float]:
    """Return the mean return, and the part of all ends by goal or collision that was a goal."""
    return float(np.mean(training.returns)), environment.goals / (environment.goals + environment.collisions)


@pytest.mark.parametrize('seed', [1, 2, 3])
def test_goal_seeking_improves_clearly_over_chance(seed: int) -> None:
    environment = world(seed)
    by_chance = train(SPECIFICATION, environment, 3000, seed, mode=LearningMode.EXPLORATION)
    random = outcome(by_chance, environment)
    trained = train(SPECIFICATION, world(seed), 20_000, seed)
    environment = world(seed + 100)  # other obstacles than it was trained among
    learned = outcome(train(SPECIFICATION, environment, 3000, agent=trained.agent,
                            mode=LearningMode.EXPLOITATION), environment)
    third = len(trained.returns) // 3
    assert np.mean(trained.returns[-third:]) > random[0] + 8.0
    assert learned[0] > random[0] + 4.0 and learned[1] > random[1] + 0.2


def test_the_same_seed_gives_the_same_run_bit_for_bit() -> None:
    first, second = (train(SPECIFICATION, world(7), 1500, 7) for _ in range(2))
    assert first.returns == second.returns
    assert first.agent.export()[0] == second.agent.export()[0]
    assert (first.agent.export()[1]['values'] == second.agent.export()[1]['values']).all()
    assert train(SPECIFICATION, world(7), 1500, 8).agent.export()[0] != first.agent.export()[0]


def test_the_environment_sends_what_the_specification_reads() -> None:
    environment = world(1)
    sent = dict(environment.reset()) | dict(environment.step(environment.command(), 0.1))
    topics = {source.topic for source in SPECIFICATION.sources}
    assert topics - {'episode_end'} <= set(sent)
    assert len(sent['scan'].ranges) == 36
    rewards = [topic for topic, _ in environment.step(environment.command(), 0.1) if topic == 'reward']
    assert len(rewards) == 2  # 20 steps of the world a second


@pytest.mark.parametrize('continuous', [False, True])
def test_ppo_learns_by_the_same_specification(tmp_path: Path, continuous: bool) -> None:
    text = Path(SPECIFICATION.file).read_text()
    text = text[:text.index('agent:')] + 'agent: {kind: ppo, rollout: 256, batch: 64, hidden: [32, 32]}\n'
    if continuous:
        actions = text[text.index('  actions:'):text.index('  safe_action:')]
        text = text.replace(actions, '  continuous: {linear.x: [0.0, 0.4], angular.z: [-1.2, 1.2]}\n')
    (tmp_path / 'ppo.yaml').write_text(text)
    specification = load_specification(tmp_path / 'ppo.yaml')
    trained = train(specification, world(1), 1000, 1)
    assert trained.agent.statistics.updates >= 3 * 10 * 4
    again = train(specification, world(1), 1000, 1)
    assert (again.agent.export()[1]['theta'] == trained.agent.export()[1]['theta']).all()
