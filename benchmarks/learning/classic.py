# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The published levels of Gymnasium's classic environments, by the greedy policy at the end of training.

`python -m learning.classic JSON` is one run: it prints the mean return of 100 episodes and what they cost.
"""
from __future__ import annotations

from functools import partial
import json
import sys
import time
from typing import Any

from learning import presets
from learning.intervals import interquartile_mean, told
from learning.peer import own, side_by_side
from muster.learning.agents.dqn import DQN, DQNParameters
from muster.learning.agents.ppo import PPO, PPOParameters
from muster.learning.gymnasium_env import actions_of, elements_of, evaluate, GymnasiumError, make, train

EPISODES = 100
#: Published levels: the environments' own thresholds, and the tables of rl-baselines3-zoo.
LEVELS = {'CartPole-v1': 500.0, 'Acrobot-v1': -80.0, 'MountainCar-v0': -110.0, 'Pendulum-v1': -200.0,
          'LunarLander-v3': 200.0}
PRESETS = {preset.environment: preset for preset in (
    presets.CARTPOLE, presets.ACROBOT, presets.MOUNTAIN_CAR, presets.PENDULUM, presets.LUNAR_LANDER)}


def measure(results: Any, seeds: int) -> None:
    """Add the interquartile mean over the seeds for each environment that is installed."""
    for name, preset in PRESETS.items():
        with results.part(name):
            label = f'{preset.kind.upper()} on {name}, {preset.steps:,} steps, {seeds} seeds, IQM'
            try:
                make(name)
            except GymnasiumError as error:
                results.add(label, None, 'return', remark=f'not measured: {error}'[:120])
                continue
            runs = side_by_side(partial(own, 'classic', {'environment': name, 'seed': seed})
                                for seed in range(1, seeds + 1))
            returns = [run['return'] for run in runs]
            results.add(label, interquartile_mean(returns), 'return', at_least=LEVELS[name],
                        remark=f'95 % interval {told(returns)}, lowest {min(returns):.4g}, '
                               f'{sum(run["seconds"] for run in runs) / len(runs):.0f} CPU s each')


def one(plan: dict[str, Any]) -> dict[str, float]:
    """Learn once; return the mean return of the greedy policy and the processor seconds of learning."""
    preset, seed = PRESETS[plan['environment']], plan['seed']
    environments = [make(preset.environment) for _ in range(preset.environments)]
    elements, actions = elements_of(environments[0]), actions_of(environments[0])
    agent: Any = PPO(actions, elements, PPOParameters(**preset.parameters), seed, preset.environments) \
        if preset.kind == 'ppo' else DQN(actions, elements, DQNParameters(**preset.parameters), seed)
    begun = time.process_time()
    train(agent, environments, preset.steps, seed)
    seconds = time.process_time() - begun
    returns = evaluate(agent, environments[0], EPISODES, 1_000_000 + seed)
    return {'return': sum(returns) / EPISODES, 'seconds': seconds}


if __name__ == '__main__':
    print(json.dumps(one(json.loads(sys.argv[1]))))
