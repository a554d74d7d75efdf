# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Stable-Baselines3 under the benchmark's load: `sb3.py PART JSON`, run by the peers' own Python.

Prints one JSON document. One thread, processor time; hyper-parameters for CartPole are those of
rl-baselines3-zoo with the networks of 64 x 64 that Muster gets too.
"""
from __future__ import annotations

import json
import sys
import time
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
import torch

NETWORK = {'net_arch': [64, 64]}
CARTPOLE_DQN = {
    'learning_rate': 2.3e-3, 'batch_size': 64, 'buffer_size': 100_000, 'learning_starts': 1_000,
    'gamma': 0.99, 'target_update_interval': 10, 'train_freq': 256, 'gradient_steps': 128,
    'exploration_fraction': 0.16, 'exploration_final_eps': 0.04}
CARTPOLE_PPO = {'n_steps': 32, 'batch_size': 256, 'gae_lambda': 0.8, 'gamma': 0.98, 'n_epochs': 20,
                'ent_coef': 0.0}
ENVIRONMENTS = 8


class Level(BaseCallback):
    """Evaluates every so many steps, off the clock, until the level is reached so many times in a row."""

    def __init__(self, plan: dict[str, Any], seed: int) -> None:
        """Begin the clock."""
        super().__init__()
        self._plan, self._seed = plan, seed
        self._next, self._row = plan['every'], 0
        self.seconds = 0.0
        self.reached = False
        self._begun = time.process_time()

    def _on_step(self) -> bool:
        if self.num_timesteps < self._next:
            return True
        self._next += self._plan['every']
        self.seconds += time.process_time() - self._begun
        mean = evaluate(self.model, self._plan['episodes'], self._seed)
        self._row = self._row + 1 if mean >= self._plan['level'] else 0
        self.reached = self._row >= self._plan['in_a_row']
        self._begun = time.process_time()
        return not self.reached


def evaluate(model: Any, episodes: int, seed: int) -> float:
    """Return the mean return of the deterministic policy."""
    environment, total = gymnasium.make('CartPole-v1'), 0.0
    for number in range(episodes):
        observation, _ = environment.reset(seed=1_000_000 + 1_000 * seed + number)
        ended = False
        while not ended:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = environment.step(int(action))
            total, ended = total + float(reward), terminated or truncated
    return total / episodes


def cartpole(plan: dict[str, Any]) -> dict[str, Any]:
    """Learn CartPole once: processor seconds and steps until the level, or the end of the steps."""
    seed = plan['seed']
    if plan['agent'] == 'dqn':
        model: Any = DQN('MlpPolicy', gymnasium.make('CartPole-v1'), policy_kwargs=NETWORK, seed=seed,
                         device='cpu', **CARTPOLE_DQN)
    else:
        model = PPO('MlpPolicy', make_vec_env('CartPole-v1', ENVIRONMENTS, seed=seed), policy_kwargs=NETWORK,
                    seed=seed, device='cpu', learning_rate=lambda left: 1e-3 * left,
                    clip_range=lambda left: 0.2 * left, **CARTPOLE_PPO)
    level = Level(plan, seed)
    model.learn(plan['steps'], callback=level)
    return {'seconds': level.seconds, 'steps': model.num_timesteps, 'reached': level.reached}


def _dqn(plan: dict[str, Any]) -> Any:
    model = DQN('MlpPolicy', gymnasium.make('CartPole-v1'), policy_kwargs=NETWORK, seed=1, device='cpu',
                learning_starts=1_000, batch_size=64, target_update_interval=10_000)
    model.learn(plan.get('filled', 2_000))
    return model


def predict(plan: dict[str, Any]) -> dict[str, Any]:
    """Return µs of one deterministic action of a network of 64 x 64."""
    model = _dqn(plan)
    observation = np.array([0.01, -0.02, 0.03, 0.04], np.float32)
    return {'microseconds': microseconds(lambda: model.predict(observation, deterministic=True), plan)}


def update(plan: dict[str, Any]) -> dict[str, Any]:
    """Return µs of one gradient step on a batch of 64."""
    model = _dqn(plan)
    return {'microseconds': microseconds(lambda: model.train(gradient_steps=1, batch_size=64), plan)}


def replay(plan: dict[str, Any]) -> dict[str, Any]:
    """Return µs of adding to and sampling from the uniform replay buffer."""
    size = plan['capacity']
    space = gymnasium.spaces.Box(-1, 1, (plan['elements'],), np.float32)
    buffer = ReplayBuffer(size, space, gymnasium.spaces.Discrete(4), device='cpu')
    row = np.zeros((1, plan['elements']), np.float32)
    action, reward, done = np.array([1]), np.array([1.0], np.float32), np.array([False])

    def add() -> None:
        buffer.add(row, row, action, reward, done, [{}])

    for _ in range(size):
        add()
    return {'add': microseconds(add, plan), 'sample_32': microseconds(lambda: buffer.sample(32), plan),
            'sample_256': microseconds(lambda: buffer.sample(256), plan)}


def microseconds(work: Any, plan: dict[str, Any]) -> float:
    """Return the processor time of one call, the median of several rounds."""
    rounds, times = plan.get('rounds', 7), []
    for _ in range(rounds):
        begun, done = time.process_time(), 0
        while (elapsed := time.process_time() - begun) < plan.get('seconds', 0.3):
            for _ in range(20):
                work()
            done += 20
        times.append(1e6 * elapsed / done)
    return float(np.median(times))


PARTS = {'cartpole': cartpole, 'predict': predict, 'update': update, 'replay': replay}

if __name__ == '__main__':
    torch.set_num_threads(1)
    print(json.dumps(PARTS[sys.argv[1]](json.loads(sys.argv[2]))))
