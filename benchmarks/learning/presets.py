# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Hyper-parameters that solve Gymnasium's classic environments, found by measurement.

They began as those of rl-baselines3-zoo (hyperparams/ppo.yml, dqn.yml), which were found for
another implementation.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """How to learn an environment: the agent, its environments at once and its steps in all."""

    environment: str
    kind: str
    steps: int
    environments: int
    parameters: dict[str, Any]


#: Not normalised: a pole that stands still makes every deviation look large, and its policy unstable.
CARTPOLE = Preset('CartPole-v1', 'ppo', 100_000, 8, {
    'learning_rate': 1e-3, 'discount': 0.99, 'trace': 0.9, 'rollout': 256, 'batch': 256, 'epochs': 20,
    'anneal_steps': 100_000, 'anneal_to': 0.0, 'normalise_observations': False, 'normalise_rewards': False})
#: A duelling head tells small differences of action from the large value of balancing; errors up to 10
#: count in full, since a fall is rare and its error large; a small memory shows what happens now.
CARTPOLE_DQN = Preset('CartPole-v1', 'dqn', 50_000, 1, {
    'hidden': (64, 64), 'duelling': True, 'n_step': 8, 'discount': 0.985, 'discount_end': 0.985,
    'huber': 10.0, 'learning_rate': 4e-3, 'learning_rate_end': 7e-4, 'schedule_steps': 25_000, 'batch': 64,
    'capacity': 10_000, 'train_interval': 4, 'train_updates': 2, 'target_interval': 1, 'target_rate': 0.02,
    'epsilon_min': 0.05, 'epsilon_steps': 8_000})
ACROBOT = Preset('Acrobot-v1', 'ppo', 200_000, 8, {
    'learning_rate': 1.5e-3, 'discount': 0.98, 'trace': 0.9, 'rollout': 2048, 'batch': 128, 'epochs': 10,
    'anneal_steps': 200_000, 'anneal_to': 0.0})
#: The flag is reached by pushing one way for long, which single random steps never do; a large memory keeps
#: the first times it was, and errors of a hundred steps count in full.
MOUNTAIN_CAR = Preset('MountainCar-v0', 'dqn', 120_000, 1, {
    'n_step': 5, 'discount': 0.99, 'discount_end': 0.99, 'huber': 10.0, 'learning_rate': 4e-3,
    'learning_rate_end': 4e-4, 'schedule_steps': 120_000, 'batch': 128, 'capacity': 100_000,
    'train_interval': 16, 'train_updates': 8, 'target_interval': 300, 'epsilon_hold': 100,
    'epsilon_min': 0.07, 'epsilon_steps': 24_000})
PENDULUM = Preset('Pendulum-v1', 'ppo', 100_000, 4, {
    'learning_rate': 2e-3, 'discount': 0.97, 'trace': 0.95, 'rollout': 1024, 'batch': 128, 'epochs': 15,
    'anneal_steps': 100_000})
LUNAR_LANDER = Preset('LunarLander-v3', 'ppo', 500_000, 16, {
    'learning_rate': 1e-3, 'discount': 0.999, 'trace': 0.98, 'rollout': 4096, 'batch': 256, 'epochs': 6,
    'entropy': 0.005, 'anneal_steps': 500_000, 'anneal_to': 0.0})
