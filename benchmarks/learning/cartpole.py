# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
CartPole-v1 with DQN and PPO beside Stable-Baselines3: steps per processor second, and seconds to the level.

The level counts as reached at the third evaluation in a row (of ten greedy episodes each, every 2,500
steps, off the clock) with a mean of 475 or more. Networks are 64 x 64. Speed is compared with the
hyper-parameters of rl-baselines3-zoo on both sides; the time to the level also with those that were
found for Muster (presets.py), against the peer's published ones.
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
from learning.presets import CARTPOLE_DQN
from muster.learning.agents.dqn import DQN, DQNParameters
from muster.learning.agents.ppo import PPO, PPOParameters
from muster.learning.gymnasium_env import actions_of, elements_of, evaluate, make, train

ENVIRONMENTS = 8
STEPS = {'dqn': 50_000, 'ppo': 100_000}
TARGETS = {'dqn': 5.0, 'ppo': 2.0}
LEVEL = {'every': 2_500, 'episodes': 10, 'level': 475, 'in_a_row': 3}
#: The peer's runs take minutes: it gets fewer seeds.
PEER_SEEDS = 3
#: Of which at least so many must reach the level: else the middle half holds runs that were cut short.
PART_REACHED = 0.75
#: Theirs counts steps between two copies to the target network, and learns in blocks of 128 updates:
#: the target stays as it was after the last block. Ours counts updates.
PUBLISHED_DQN = DQNParameters(
    hidden=(64, 64), learning_rate=2.3e-3, learning_rate_end=2.3e-3, batch=64, capacity=100_000,
    learning_starts=1_000, discount=0.99, discount_end=0.99, target_interval=128, train_interval=256,
    train_updates=128, epsilon_steps=8_000, epsilon_min=0.04)
PUBLISHED_PPO = PPOParameters(
    hidden=(64, 64), learning_rate=1e-3, discount=0.98, trace=0.8, rollout=256, batch=256, epochs=20,
    anneal_steps=100_000, anneal_to=0.0)
#: Of each agent; the last are those whose time to the level is judged.
PARAMETERS: dict[str, dict[str, Any]] = {
    'dqn': {'published': PUBLISHED_DQN, 'own': DQNParameters(**CARTPOLE_DQN.parameters)},
    'ppo': {'published': PUBLISHED_PPO}}

type Runs = list[dict[str, Any]]


def measure(results: Any, seeds: int) -> None:
    """Add steps per processor second and seconds to the level, of both agents."""
    for kind in PARAMETERS:
        with results.part(f'{kind.upper()} on CartPole-v1'):
            compare(results, kind, seeds)


def compare(results: Any, kind: str, seeds: int) -> None:
    """Add the rows of an agent."""
    few, (*_, judged) = min(seeds, PEER_SEEDS), PARAMETERS[kind]
    theirs, remark = peer_runs(kind, few)
    peer = f'SB3, {few} seeds' if theirs else None
    for which in PARAMETERS[kind]:
        count = seeds if which == judged else few
        ours = side_by_side(partial(own, 'cartpole', plan | {'parameters': which})
                            for plan in plans(kind, count))
        name = f'{kind.upper()} on CartPole-v1, {which} hyper-parameters, {count} seeds'
        if which == 'published':
            results.add(name, speed(ours), 'steps/CPU s', peer=peer, peer_at_least=TARGETS[kind],
                        peer_value=speed(theirs) if theirs else None, remark=remark)
        results.add(f'{name}, until ≥ 475 three times, IQM', seconds(ours), 'CPU s', peer=peer,
                    peer_value=interquartile_mean([run['seconds'] for run in theirs]) if theirs else None,
                    peer_at_most=1 / TARGETS[kind] if which == judged else None,
                    remark='; '.join(spread(*side) for side in (('ours', ours), ('SB3', theirs)) if side[1]))


def peer_runs(kind: str, seeds: int) -> tuple[Runs, str]:
    """Return the peer's runs, or none and why."""
    try:
        return side_by_side(partial(ask, 'sb3.py', 'cartpole', plan) for plan in plans(kind, seeds)), ''
    except Missing as error:
        return [], str(error)


def plans(kind: str, seeds: int) -> Runs:
    """Return what each run of an agent is to do."""
    return [LEVEL | {'agent': kind, 'seed': seed, 'steps': STEPS[kind]} for seed in range(1, seeds + 1)]


def speed(runs: Runs) -> float:
    """Return steps per processor second."""
    return float(sum(run['steps'] for run in runs) / sum(run['seconds'] for run in runs))


def seconds(runs: Runs) -> float | None:
    """Return the interquartile mean of the seconds to the level, None if too few got there."""
    if sum(run['reached'] for run in runs) < PART_REACHED * len(runs):
        return None
    return interquartile_mean([run['seconds'] for run in runs])


def spread(who: str, runs: Runs) -> str:
    """Return in words how long the runs took, one that did not reach the level counting in full."""
    reached = sum(run['reached'] for run in runs)
    return f'{who} {told([run["seconds"] for run in runs])} s, {reached} of {len(runs)} reached it'


def one(plan: dict[str, Any]) -> dict[str, Any]:
    """Learn once: processor seconds and steps until the level, or the end of the steps."""
    several = ENVIRONMENTS if plan['agent'] == 'ppo' else 1
    environments = [make('CartPole-v1') for _ in range(several)]
    actions, elements, seed = actions_of(environments[0]), elements_of(environments[0]), plan['seed']
    parameters = PARAMETERS[plan['agent']][plan['parameters']]
    agent: Any = PPO(actions, elements, parameters, seed, several) if several > 1 else \
        DQN(actions, elements, parameters, seed)
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
