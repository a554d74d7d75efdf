# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""N + M steps are N steps, a save, a load by a new process and M steps, bit for bit, for every agent."""
from collections.abc import Callable
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from muster.learning.agents.base import Agent, Continuous, Discrete, LearningMode, Transition
from muster.learning.agents.dqn import DQN, DQNParameters
from muster.learning.agents.ppo import PPO, PPOParameters
from muster.learning.agents.q_learning import QLearning, QLearningParameters
from muster.learning.checkpoint import load_checkpoint, save_checkpoint
from muster.learning.discretiser import Discretiser, TileCoder
from muster.learning.models import ModelStore, restore, snapshot
import numpy as np
import pytest

ELEMENTS, ACTIONS = 3, 4
EDGES = [(-0.5, 0.0, 0.5)] * ELEMENTS
ROLLOUT = {'rollout': 64, 'batch': 16, 'epochs': 3, 'hidden': (16,)}


def table(encode: Any = None, **parameters: Any) -> Agent[Any]:
    return QLearning(Discrete(ACTIONS), QLearningParameters(**parameters), 1, encode or Discretiser(EDGES))


def ppo(actions: Any, **parameters: Any) -> Agent[Any]:
    return PPO(actions, ELEMENTS, PPOParameters(**ROLLOUT, **parameters), 1)


def dqn(**parameters: Any) -> Agent[Any]:
    chosen = DQNParameters(hidden=(16,), capacity=150, batch=16, learning_starts=30, target_interval=20,
                           epsilon_steps=200, schedule_steps=300, **parameters)
    return DQN(Discrete(ACTIONS), ELEMENTS, chosen, 1)


AGENTS: dict[str, Callable[[], Agent[Any]]] = {
    'q_learning': table,
    'q_learning double, counted': lambda: table(double=True, step_power=0.7),
    'q_learning tiles': lambda: table(TileCoder(EDGES, 4), tilings=4),
    'dqn': lambda: dqn(n_step=3),
    'dqn that holds actions': lambda: dqn(epsilon_hold=20),
    'dqn prioritized, duelling': lambda: dqn(prioritized=True, duelling=True, drift_threshold=5.0),
    'ppo discrete': lambda: ppo(Discrete(ACTIONS), anneal_steps=400),
    'ppo continuous': lambda: ppo(Continuous((-1.0, 0.0), (1.0, 2.0)), entropy=0.01),
}


def run(agent: Agent[Any], begin: int, end: int) -> list[Any]:
    """Act and learn in a world that is a function of the step and the action; return the actions."""
    chosen = []
    for step in range(begin, end):
        state = seen(step)
        action = agent.act(agent.encode(state), LearningMode.MIXED).action
        chosen.append(np.asarray(action).tolist())
        following, push = seen(step + 1), float(np.sum(action))
        agent.observe(Transition(agent.encode(state), action, push * float(state[0]),
                                 agent.encode(following), step % 23 == 22, step % 37 == 36))
        if step % 23 == 22:
            agent.record_episode(push)
            agent.decay()
        for _ in range(2):  # now and then some work is left over
            agent.learn()
        if step % 41 == 40:
            agent.interrupt()
    return chosen


def seen(step: int) -> np.ndarray:
    """Return what is observed at a step."""
    return np.random.default_rng([7, step]).uniform(-1.0, 1.0, ELEMENTS).astype(np.float32)


def resumed(name: str, path: Path, begin: int, end: int) -> None:
    """Go on from a file and save at the end; run in a process of its own."""
    agent = AGENTS[name]()
    agent.generator.random(5)  # type: ignore[attr-defined]  # what is loaded counts, not what is there
    restore(load_checkpoint(path), agent, {})
    run(agent, begin, end)
    save_checkpoint(path, snapshot(agent, {}))


@pytest.mark.parametrize('suffix', ['.npz', '.json'])
@pytest.mark.parametrize('name', AGENTS)
@pytest.mark.parametrize('cut', [0, 100, 263])
def test_n_plus_m_steps_are_n_a_save_a_load_and_m(tmp_path: Path, name: str, cut: int, suffix: str) -> None:
    whole, first, second = (AGENTS[name]() for _ in range(3))
    actions = run(whole, 0, 400)
    save_checkpoint(tmp_path / f'whole{suffix}', snapshot(whole, {}))
    begun = run(first, 0, cut)
    save_checkpoint(tmp_path / f'part{suffix}', snapshot(first, {}))
    restore(load_checkpoint(tmp_path / f'part{suffix}'), second, {})
    assert begun + run(second, cut, 400) == actions
    save_checkpoint(tmp_path / f'part{suffix}', snapshot(second, {}))
    assert (tmp_path / f'part{suffix}').read_bytes() == (tmp_path / f'whole{suffix}').read_bytes()


def test_it_goes_on_in_another_process(tmp_path: Path) -> None:
    cut, end = 150, 300
    for number, name in enumerate(AGENTS):
        whole, first = AGENTS[name](), AGENTS[name]()
        run(whole, 0, end)
        run(first, 0, cut)
        save_checkpoint(tmp_path / f'whole{number}.npz', snapshot(whole, {}))
        save_checkpoint(tmp_path / f'part{number}.npz', snapshot(first, {}))
    code = ('import sys; from pathlib import Path\n'
            'from learning.test_learning_resume import AGENTS, resumed\n'
            'for number, name in enumerate(AGENTS):\n'
            f'    resumed(name, Path(sys.argv[1]) / f"part{{number}}.npz", {cut}, {end})\n')
    done = subprocess.run([sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True,
                          timeout=100, env={**os.environ, 'PYTHONPATH': os.pathsep.join(
                              [str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH', '')])})
    assert done.returncode == 0, done.stderr
    for number in range(len(AGENTS)):
        assert (tmp_path / f'part{number}.npz').read_bytes() == (tmp_path / f'whole{number}.npz').read_bytes()


@pytest.mark.parametrize('name', AGENTS)
def test_a_version_of_the_store_goes_on_like_the_agent_it_was_saved_from(tmp_path: Path, name: str) -> None:
    store, agent, other = ModelStore(tmp_path), AGENTS[name](), AGENTS[name]()
    run(agent, 0, 120)
    version = store.save(snapshot(agent, {}))
    assert version.kind == agent.kind and version.hyperparameters['discount'] == agent.parameters.discount
    restore(store.load('latest'), other, {})
    assert run(other, 120, 250) == run(agent, 120, 250)
    assert repr(other.export()) == repr(agent.export())
