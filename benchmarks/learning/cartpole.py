# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
CartPole-v1 with DQN and PPO beside Stable-Baselines3: processor seconds until the level is kept.

The level counts as reached at the third evaluation in a row (of ten greedy episodes each, every 2,500
steps, off the clock) with a mean of 475 or more. Networks of 64 x 64 and the hyper-parameters of
rl-baselines3-zoo on both sides; a run that never gets there counts with all of its seconds.
`python -m learning.cartpole JSON` is one run of Muster's side.
"""
from __future__ import annotations

from functools import partial
import json
import sys
import time
from typing import Any

from learning.intervals import interquartile_mean, told
from learning.peer import ask, Missing, own, side_by_side
from muster.learning.agents.dqn import DQN, DQNParameters
from muster.learning.agents.ppo import PPO, PPOParameters
from muster.learning.gymnasium_env import actions_of, elements_of, evaluate, make, train

ENVIRONMENTS = 8
STEPS = {'dqn': 50_000, 'ppo': 100_000}
TARGETS = {'dqn': 5.0, 'ppo': 2.0}
LEVEL = {'every': 2_500, 'episodes': 10, 'level': 475, 'in_a_row': 3}
#: Theirs counts steps between two copies to the target network, and learns in blocks of 128 updates:
#: the target stays as it was after the last block. Ours counts updates.
DQN_PARAMETERS = DQNParameters(
    hidden=(64, 64), learning_rate=2.3e-3, learning_rate_end=2.3e-3, batch=64, capacity=100_000,
    learning_starts=1_000, discount=0.99, discount_end=0.99, target_interval=128, train_interval=256,
    train_updates=128, epsilon_steps=8_000, epsilon_min=0.04)
PPO_PARAMETERS = PPOParameters(
    hidden=(64, 64), learning_rate=1e-3, discount=0.98, trace=0.8, rollout=256, batch=256, epochs=20,
    anneal_steps=100_000, anneal_to=0.0)


def measure(results: Any, seeds: int) -> None:
    """Add steps per processor second and seconds to the level, of both agents."""
    for kind in ('dqn', 'ppo'):
        plans = [LEVEL | {'agent': kind, 'seed': seed, 'steps': STEPS[kind]} for seed in range(1, seeds + 1)]
        ours = side_by_side(partial(own, 'cartpole', plan) for plan in plans)
        try:
            theirs, remark = side_by_side(partial(ask, 'sb3.py', 'cartpole', plan) for plan in plans), ''
        except Missing as error:
            theirs, remark = [], str(error)
        name, target = kind.upper(), TARGETS[kind]
        peer = 'SB3' if theirs else None
        results.add(f'{name} on CartPole-v1, {seeds} seeds', _speed(ours), 'steps/CPU s', peer=peer,
                    peer_value=_speed(theirs), peer_at_least=target, remark=remark)
        results.add(f'{name} on CartPole-v1 until ≥ 475 three times, IQM', _seconds(ours), 'CPU s', peer=peer,
                    peer_value=_seconds(theirs), peer_at_most=1 / target,
                    remark='; '.join(_spread(who, runs) for who, runs in (('ours', ours), ('SB3', theirs))
                                     if runs))


def _speed(runs: list[dict[str, Any]]) -> float | None:
    return sum(run['steps'] for run in runs) / sum(run['seconds'] for run in runs) if runs else None


def _seconds(runs: list[dict[str, Any]]) -> float | None:
    return interquartile_mean([run['seconds'] for run in runs]) if runs else None


def _spread(who: str, runs: list[dict[str, Any]]) -> str:
    reached = sum(run['reached'] for run in runs)
    return f'{who} {told([run["seconds"] for run in runs])} s, {reached} of {len(runs)} reached it'


def one(plan: dict[str, Any]) -> dict[str, Any]:
    """Learn once: processor seconds and steps until the level, or the end of the steps."""
    several = ENVIRONMENTS if plan['agent'] == 'ppo' else 1
    environments = [make('CartPole-v1') for _ in range(several)]
    actions, elements, seed = actions_of(environments[0]), elements_of(environments[0]), plan['seed']
    agent: Any = PPO(actions, elements, PPO_PARAMETERS, seed, several) if several > 1 else \
        DQN(actions, elements, DQN_PARAMETERS, seed)
    judge, state = make('CartPole-v1'), {'next': plan['every'], 'row': 0, 'steps': plan['steps'], 'off': 0.0}

    def progress(step: int, _: float) -> bool:
        if step < state['next']:
            return True
        begun = time.process_time()
        state['next'] += plan['every']
        mean = sum(evaluate(agent, judge, plan['episodes'], seed=1_000_000 + seed)) / plan['episodes']
        state['row'] = state['row'] + 1 if mean >= plan['level'] else 0
        state['off'] += time.process_time() - begun
        state['steps'] = step
        return state['row'] < plan['in_a_row']

    begun = time.process_time()
    run = train(agent, environments, plan['steps'], seed, progress=progress)
    return {'seconds': time.process_time() - begun - state['off'], 'steps': run.steps,
            'reached': state['row'] >= plan['in_a_row']}


if __name__ == '__main__':
    print(json.dumps(one(json.loads(sys.argv[1]))))
