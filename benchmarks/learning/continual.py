# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Continual learning: five tasks of handwritten digits beside Avalanche, and three worlds in turn.

Both sides get the same samples in the same split, networks of the same sizes, and as many epochs; the
images come from the peer's environment, which has scikit-learn, and so does its accuracy matrix.
"""
from __future__ import annotations

from dataclasses import dataclass
import json
import os
from pathlib import Path
import subprocess
import tempfile
import time
from typing import Any

from harness import Results
from learning.peer import ONE_THREAD, PATIENCE
from learning.worlds import ELEMENTS, GOALS, in_turn
from matplotlib.figure import Figure
from muster.learning.agents.base import Discrete
from muster.learning.agents.dqn import DQN, DQNParameters
from muster.learning.continual.classifier import ClassifierParameters, ContinualClassifier
from muster.learning.continual.transfer import TransferMatrix
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
PEER = ROOT / '.peers' / 'continual' / 'bin' / 'python'
IMAGE = ROOT / 'docs' / 'images' / 'continual.png'
TASKS = [str(number) for number in range(5)]
SETTINGS = {'layers': [64, 100, 10], 'epochs': 20, 'batch': 32, 'learning_rate': 1e-3, 'tasks': len(TASKS)}
#: Of the digits: the peer takes minutes for each.
MAXIMUM_SEEDS = 3
#: The options of either side. The two strengths of elastic weights are not comparable: Avalanche squares
#: the gradients of minibatches, not of samples, and its penalty has no half. Muster's is the best of five
#: on the permuted digits, the peer's was not searched for: these rows are shown, and not judged.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'naive': ({'rehearsal_batch': 0}, {}),
    'elastic weights': ({'rehearsal_batch': 0, 'elastic_strength': 30.0}, {'elastic': 100.0}),
    '300 kept': ({'rehearsal': 300}, {'rehearsal': 300}),
    '100 kept': ({'rehearsal': 100}, {'rehearsal': 100}),
    '300 kept and elastic weights': ({'rehearsal': 300, 'elastic_strength': 1.0},
                                     {'rehearsal': 300, 'elastic': 1.0})}
WORLD_SETTINGS: dict[str, Any] = {'learning_starts': 200, 'epsilon_steps': 2000, 'train_interval': 2,
                                  'discount': 0.95, 'target_interval': 100}
WORLD_METHODS: dict[str, dict[str, Any]] = {
    'naive': {'rehearsal_batch': 0}, '1000 kept': {}, '300 kept': {'rehearsal': 300}}
WORLD_STEPS, EPISODES = 4000, 50
JUDGED = '300 kept'
#: How far accuracy and backward transfer may be below the peer's.
MARGIN = 0.01

type Job = dict[str, NDArray[Any]]


@dataclass
class Measured:
    """What a method reached: an accuracy matrix for each seed, and processor seconds for each."""

    transfers: list[TransferMatrix]
    seconds: list[float]

    @property
    def accuracy(self) -> float:
        """Return the mean accuracy on all tasks after the last."""
        return float(np.mean([transfer.average for transfer in self.transfers]))

    @property
    def backward_transfer(self) -> float:
        """Return what earlier tasks lost."""
        return float(np.mean([transfer.backward_transfer for transfer in self.transfers]))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Return the mean accuracy matrix."""
        return np.mean([transfer.matrix for transfer in self.transfers], axis=0)


def measure(results: Results, seeds: int) -> None:
    """Measure digits with at most 3 seeds, worlds with all of them."""
    worlds(results, seeds)
    sequences(results, range(min(seeds, MAXIMUM_SEEDS)))


def worlds(results: Results, seeds: int) -> None:
    """Measure what DQN keeps of the first of three worlds after the third."""
    for name, options in WORLD_METHODS.items():
        kept, first = [], []
        for seed in range(seeds):
            matrix = in_turn(lambda seed, options=options: DQN(
                Discrete(4), ELEMENTS, DQNParameters(**WORLD_SETTINGS, **options), seed),
                seed, WORLD_STEPS, EPISODES).matrix
            first.append(matrix[0, 0])
            kept.append(matrix[-1, 0])
        share = float(np.mean(kept) / np.mean(first))
        results.add(f'{len(GOALS)} worlds in turn, {name}, part of the return in the first that is left',
                    share, '', at_least=None if 'naive' in name else 0.9,
                    remark=f'{np.mean(kept):.2f} to {np.mean(first):.2f}, mean of {seeds} seeds')


def sequences(results: Results, seeds: range) -> None:
    """Measure every method on both sequences of digits, and draw their accuracy matrices."""
    if not PEER.exists():
        for sequence in ('permuted', 'split'):
            results.add(f'{sequence} digits, {JUDGED}, accuracy', None, '',
                        remark='no scikit-learn and no peer: make peers')
        return
    with tempfile.TemporaryDirectory() as folder:
        images, labels = digits(Path(folder))
        drawn = {}
        for sequence in ('permuted', 'split'):
            jobs = [job(sequence, images, labels, seed) for seed in seeds]
            theirs = peers(jobs, Path(folder))
            ours = {name: learned(jobs, options) for name, (options, _) in METHODS.items()}
            for name in METHODS:
                report(results, f'{sequence} digits, {name}', ours[name], theirs[name], name == JUDGED)
            drawn[sequence] = {name: ours[name].matrix for name in ('naive', 'elastic weights', JUDGED)}
    draw(drawn)


def digits(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the images float32[1797, 64] within 0..1 and labels of scikit-learn's digits."""
    path = folder / 'digits.npz'
    call('digits', path)
    with np.load(path) as data:
        return data['x'], data['y']


def call(*arguments: object) -> None:
    """Run the peer's side; its warnings stay its own."""
    script = Path(__file__).parent / 'peers' / 'avalanche_peer.py'
    subprocess.run([PEER, '-W', 'ignore', script, *map(str, arguments)], check=True, capture_output=True,
                   env=os.environ | ONE_THREAD, timeout=PATIENCE)


def job(sequence: str, images: NDArray[np.float32], labels: NDArray[np.int64], seed: int) -> Job:
    """
    Return a sequence of tasks; a fifth of the samples is for testing.

    permuted: all ten digits in each task, the pixels in an order of its own, except in the first.
    split: two digits in each task, named by the same ten outputs (class-incremental).
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(images))
    parts = {'test': order[:len(order) // 5], 'train': order[len(order) // 5:]}
    settings: dict[str, Any] = {**SETTINGS, 'seed': seed, 'methods': {
        name: options for name, (_, options) in METHODS.items()}}
    arrays: Job = {'settings': np.array(json.dumps(settings))}
    for number, task in enumerate(TASKS):
        pixels = random.permutation(images.shape[1]) if number else np.arange(images.shape[1])
        for part, rows in parts.items():
            if sequence == 'split':
                chosen = rows[labels[rows] // 2 == number]
                arrays[f'{part}_x_{task}'], arrays[f'{part}_y_{task}'] = images[chosen], labels[chosen]
            else:
                arrays[f'{part}_x_{task}'], arrays[f'{part}_y_{task}'] = images[rows][:, pixels], labels[rows]
    return arrays


def learned(jobs: list[Job], options: dict[str, Any]) -> Measured:
    """Learn the jobs with Muster's classifier."""
    measured = Measured([], [])
    inputs, *hidden, outputs = SETTINGS['layers']
    for seed, arrays in enumerate(jobs):
        classifier = ContinualClassifier(inputs, outputs, ClassifierParameters(
            hidden=tuple(hidden), learning_rate=SETTINGS['learning_rate'], **options), seed)
        sets = {task: (arrays[f'test_x_{task}'], arrays[f'test_y_{task}']) for task in TASKS}
        begun = time.process_time()
        for task in TASKS:
            classifier.fit(task, arrays[f'train_x_{task}'], arrays[f'train_y_{task}'], SETTINGS['epochs'],
                           SETTINGS['batch'])
            classifier.evaluate(sets)
        measured.seconds.append(time.process_time() - begun)
        measured.transfers.append(classifier.transfer)
    return measured


def peers(jobs: list[Job], folder: Path) -> dict[str, Measured]:
    """Let the peer learn the jobs."""
    measured = {name: Measured([], []) for name in METHODS}
    for arrays in jobs:
        path, answer = folder / 'job.npz', folder / 'answer.json'
        np.savez(path, **arrays)
        call('learn', path, answer)
        for name, reached in json.loads(answer.read_text()).items():
            transfer = TransferMatrix()
            for task, row in zip(TASKS, reached['matrix'], strict=True):
                transfer.record(task, dict(zip(TASKS, row, strict=True)))
            measured[name].transfers.append(transfer)
            measured[name].seconds.append(reached['seconds'])
    return measured


def report(results: Results, name: str, ours: Measured, theirs: Measured, judged: bool) -> None:
    """Add the figures of one method; a margin from the peer's is a bound on the value."""
    for what in ('accuracy', 'backward_transfer'):
        value, peer = getattr(ours, what), getattr(theirs, what)
        results.add(f'{name}, {what.replace("_", " ")}', value, '', peer='Avalanche', peer_value=peer,
                    at_least=round(peer - MARGIN, 3) if judged else None)
    if judged:
        results.add(f'{name}, processor time for five tasks', float(np.mean(ours.seconds)), 's',
                    peer='Avalanche', peer_value=float(np.mean(theirs.seconds)))


def draw(matrices: dict[str, dict[str, NDArray[np.float64]]]) -> None:
    """Draw the accuracy on each task (column) after each task (row), of each sequence and method."""
    names = list(next(iter(matrices.values())))
    figure = Figure(figsize=(2.6 * len(names), 2.7 * len(matrices)), layout='constrained')
    axes = figure.subplots(len(matrices), len(names), squeeze=False)
    for row, (sequence, methods) in zip(axes, matrices.items(), strict=True):
        for axis, (name, matrix) in zip(row, methods.items(), strict=True):
            shown = axis.imshow(matrix, vmin=0, vmax=1, cmap='viridis')
            for (after, task), accuracy in np.ndenumerate(matrix):
                axis.text(task, after, f'{accuracy:.2f}', ha='center', va='center', fontsize=7,
                          color='white' if accuracy < 0.6 else 'black')
            axis.set(title=f'{sequence}: {name}', xticks=range(len(TASKS)), yticks=range(len(TASKS)),
                     xticklabels=range(1, 1 + len(TASKS)), yticklabels=range(1, 1 + len(TASKS)))
            axis.title.set_fontsize(9)
    for axis in axes[-1]:
        axis.set_xlabel('accuracy on task')
    for axis in axes[:, 0]:
        axis.set_ylabel('after learning task')
    figure.colorbar(shown, ax=axes, shrink=0.6)
    figure.savefig(IMAGE, dpi=110)
