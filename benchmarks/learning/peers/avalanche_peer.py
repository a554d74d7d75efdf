# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The peer's side of the continual learning benchmark, in the peers' own environment.

    avalanche_peer.py digits OUT.npz      the images float32[n, 64] within 0..1 and labels of scikit-learn
    avalanche_peer.py learn JOB.npz OUT.json

A job holds `settings` (JSON: layers, epochs, batch, learning_rate, methods, seed) and for each task n
the arrays train_x_n, train_y_n, test_x_n, test_y_n. The answer is the accuracy matrix of each method:
the accuracy on every task after each task.
"""
from __future__ import annotations

import json
from pathlib import Path
import sys
import time

import numpy as np


def digits(path: Path) -> None:
    """Write the data set."""
    from sklearn.datasets import load_digits
    data = load_digits()
    np.savez(path, x=(data.data / 16).astype(np.float32), y=data.target.astype(np.int64))


def learn(job_path: Path, answer_path: Path) -> None:
    """Let each method learn the job's sequence of tasks."""
    job = np.load(job_path)
    settings = json.loads(str(job['settings']))
    answer = {name: one_method(job, settings, **options) for name, options in settings['methods'].items()}
    answer_path.write_text(json.dumps(answer))


def one_method(job, settings, rehearsal=0, elastic=0.0):
    """Return the accuracy matrix and the seconds of processor time of a method."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset, AvalancheDataset
    from avalanche.benchmarks.utils.data_attribute import TensorDataAttribute
    from avalanche.training.plugins import EWCPlugin, ReplayPlugin
    from avalanche.training.supervised import Naive
    import torch
    torch.set_num_threads(1)
    torch.manual_seed(settings['seed'])
    np.random.seed(settings['seed'])

    def dataset(part, task):
        x, y = torch.from_numpy(job[f'{part}_x_{task}']), torch.from_numpy(job[f'{part}_y_{task}'])
        tensors = torch.utils.data.TensorDataset(x, y)
        return as_classification_dataset(AvalancheDataset(
            [tensors], data_attributes=[TensorDataAttribute(y, name='targets', use_in_getitem=False)]))

    tasks = range(settings['tasks'])
    stream = benchmark_from_datasets(train=[dataset('train', task) for task in tasks])
    inputs, hidden, outputs = settings['layers']
    model = torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.ReLU(),
                                torch.nn.Linear(hidden, outputs))
    plugins = [ReplayPlugin(mem_size=rehearsal)] if rehearsal else []
    plugins += [EWCPlugin(ewc_lambda=elastic)] if elastic else []
    strategy = Naive(
        model=model, optimizer=torch.optim.Adam(model.parameters(), lr=settings['learning_rate']),
        criterion=torch.nn.CrossEntropyLoss(), train_mb_size=settings['batch'],
        train_epochs=settings['epochs'], plugins=plugins, evaluator=None)
    matrix, begun = [], time.process_time()
    for experience in stream.train_stream:
        strategy.train(experience)
        with torch.no_grad():
            matrix.append([float((model(torch.from_numpy(job[f'test_x_{task}'])).argmax(1).numpy()
                                  == job[f'test_y_{task}']).mean()) for task in tasks])
    return {'matrix': matrix, 'seconds': time.process_time() - begun}


if __name__ == '__main__':
    {'digits': lambda path: digits(Path(path)),
     'learn': lambda job, answer: learn(Path(job), Path(answer))}[sys.argv[1]](*sys.argv[2:])
