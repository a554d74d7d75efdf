# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A supervised head that learns to classify in one task after another and remembers the earlier ones."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from muster.learning.agents.base import generator_from, hyperparameter, Hyperparameters
from muster.learning.continual.elastic import ElasticWeights, fisher_diagonal
from muster.learning.continual.reservoir import TaskReservoirs
from muster.learning.continual.transfer import TransferMatrix
from muster.learning.networks import Adam, check_vector, MLP
import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float32]
type Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ClassifierParameters(Hyperparameters):
    """Hyper-parameters of a classifier that learns one task after another."""

    hidden: tuple[int, ...] = hyperparameter((100,), 'Sizes of the hidden layers.', 1, 4096, live=False)
    learning_rate: float = hyperparameter(1e-3, 'Step size of Adam.', 0.0, 1.0)
    rehearsal: int = hyperparameter(
        300, 'Samples kept to rehearse earlier tasks, of all tasks together.', 1, 100_000, live=False)
    rehearsal_batch: int = hyperparameter(
        32, 'Samples of earlier tasks added to each minibatch; 0 rehearses nothing.', 0, 4096)
    elastic_strength: float = hyperparameter(
        0.0, 'Strength of elastic weight consolidation; 0 leaves it out.', 0.0, 1e9)
    elastic_decay: float = hyperparameter(
        1.0, 'Factor on the importance of earlier tasks at each consolidation.', 0.0, 1.0)


class ContinualClassifier:
    """
    A softmax classifier on an MLP, trained with minibatches of the present task and of rehearsed ones.

    Rehearsal by reservoirs is experience replay (Rolnick et al. 2019; Chaudhry et al. 2019, On tiny
    episodic memories); elastic weight consolidation may be added or used alone.
    """

    kind = 'classifier'

    def __init__(self, inputs: int, classes: int, parameters: ClassifierParameters | None = None,
                 seed: int | None = None) -> None:
        """Make one that knows nothing; raises ValueError unless there are inputs and at least 2 classes."""
        if inputs < 1 or classes < 2:
            raise ValueError(f'a classifier needs inputs and 2 classes, not {inputs} and {classes}')
        self.parameters = parameters or ClassifierParameters()
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self.network = MLP([inputs, *self.parameters.hidden, classes], self.generator)
        self.optimiser = Adam(self.network.theta.size)
        self.reservoirs = TaskReservoirs(self.parameters.rehearsal, inputs + 1)
        self.elastic = ElasticWeights(self.network.theta.size)
        self.transfer = TransferMatrix()
        self._inputs, self._classes = inputs, classes
        self._row: Floats = np.zeros(inputs + 1, np.float32)

    def begin_task(self, task: str) -> None:
        """Consolidate the present task; what is learned from now on belongs to `task`."""
        if task != self.reservoirs.task:
            self.reservoirs.check(task)
            self.consolidate()
            self.reservoirs.begin(task)

    def fit(self, task: str, x: Floats, y: Labels, epochs: int, batch: int = 32) -> None:
        """Learn a task: samples float32[n, inputs] with labels int64[n], in a new order in each epoch."""
        self.begin_task(task)
        for _ in range(epochs):
            order = self.generator.permutation(len(x))
            for first in range(0, len(order), batch):
                chosen = order[first:first + batch]
                self.learn(x[chosen], y[chosen], remember=False)
        # Not before, so that until now all of the memory was there for earlier tasks.
        self._remember(*self._checked(x, y))

    def learn(self, x: Floats, y: Labels, remember: bool = True) -> float:
        """
        Take one step on a minibatch float32[b, inputs], int64[b] of the present task; return the loss.

        `remember` offers its samples to the rehearsal memory: once is enough for each. Raises ValueError
        and learns nothing where a sample is not finite or of another shape, or a label unknown.
        """
        x, y = self._checked(x, y)
        rows = self.reservoirs.draw(self.parameters.rehearsal_batch, self.generator)
        rehearsed = self.reservoirs.rows[rows]
        inputs = np.concatenate([x, rehearsed[:, :-1]])
        labels = np.concatenate([y, rehearsed[:, -1].astype(np.int64)])
        chances = self._chances(inputs)
        every = np.arange(len(labels))
        loss = -float(np.log(chances[every, labels] + 1e-12).mean())
        chances[every, labels] -= 1.0
        gradient = self.network.backward(chances / np.float32(len(labels)))
        if self.parameters.elastic_strength > 0.0:
            self.elastic.add_gradient(self.network.theta, self.parameters.elastic_strength, gradient)
        self.optimiser.step(self.network.theta, gradient, self.parameters.learning_rate)
        if remember:
            self._remember(x, y)
        return loss

    def _checked(self, x: Floats, y: Labels) -> tuple[Floats, Labels]:
        x, y = np.asarray(x, np.float32), np.asarray(y)
        if x.ndim != 2 or x.shape[1] != self._inputs or not len(x) or not np.isfinite(x).all():
            raise ValueError(f'samples must be finite, of shape (at least 1, {self._inputs}), not {x.shape}')
        if y.shape != (len(x),) or y.dtype.kind not in 'iu' or y.min() < 0 or y.max() >= self._classes:
            raise ValueError(f'labels must be whole numbers within 0..{self._classes - 1}, one per sample')
        return x, y.astype(np.int64, copy=False)

    def _remember(self, x: Floats, y: Labels) -> None:
        for sample, label in zip(x, y, strict=True):
            self._row[:-1], self._row[-1] = sample, label
            self.reservoirs.add(self._row, self.generator)

    def consolidate(self) -> None:
        """Weigh the parameters by what is remembered of the present task."""
        rows = self.reservoirs.of(self.reservoirs.task)
        if not len(rows) or self.parameters.elastic_strength == 0.0:
            return
        x = self.reservoirs.rows[rows, :-1]
        chances = self._chances(x)
        # One answer drawn for each sample, by inversion of the cumulated chances.
        drawn = (chances.cumsum(1) < self.generator.random((len(x), 1))).sum(1).clip(max=self._classes - 1)
        chances[np.arange(len(x)), drawn] -= 1.0
        self.elastic.consolidate(self.network.theta, fisher_diagonal(self.network, x, -chances),
                                 self.parameters.elastic_decay)

    def _chances(self, x: Floats) -> Floats:
        """Return the softmax of the outputs, float32[n, classes]."""
        outputs = self.network.forward(x)
        chances = np.exp(outputs - outputs.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        return chances

    def predict(self, x: Floats) -> Labels:
        """Return the likeliest label int64[n] of each sample float32[n, inputs]."""
        return self.network.forward(np.asarray(x, np.float32)).argmax(1)

    def evaluate(self, sets: Mapping[str, tuple[Floats, Labels]]) -> dict[str, float]:
        """Return the accuracy on each task's samples, and enter them in the accuracy matrix."""
        scores = {task: float((self.predict(x) == y).mean()) for task, (x, y) in sets.items()}
        self.transfer.record(self.reservoirs.task, scores)
        return scores

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of everything that is needed to go on, as JSON values and arrays."""
        reservoirs, rows = self.reservoirs.export()
        optimiser, moments = self.optimiser.export()
        return ({'parameters': asdict(self.parameters), 'reservoirs': reservoirs, 'optimiser': optimiser,
                 'transfer': self.transfer.export(), 'generator': self.generator.bit_generator.state},
                {'theta': self.network.theta.copy()} | rows | moments | self.elastic.export())

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        try:
            parameters = ClassifierParameters.restored(document['parameters'])
            for name in ('hidden', 'rehearsal'):
                if getattr(parameters, name) != (mine := getattr(self.parameters, name)):
                    raise ValueError(f'{name} is {getattr(parameters, name)} there and {mine} here')
            made = ContinualClassifier(self._inputs, self._classes, parameters)
            check_vector(arrays['theta'], made.network.theta, 'the weights of the classifier')
            made.network.theta[:] = arrays['theta']
            made.optimiser.restore(document['optimiser'], arrays)
            made.reservoirs.restore(document['reservoirs'], arrays)
            made.elastic.restore(arrays)
            made.transfer = TransferMatrix.restored(document['transfer'])
            made.generator = generator_from(document['generator'])
        except (KeyError, TypeError) as error:
            raise ValueError(f'an entry is missing or of the wrong type: {error}') from error
        self.__dict__.update(made.__dict__)
