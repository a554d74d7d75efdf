# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What an agent keeps of its tasks, so that the networks that it goes on to train do not forget them.

Of each task a uniform sample of observations is kept, and when the task ends, what the networks answered
to them. Later the answers are rehearsed: the policy and value cloning of CLEAR (Rolnick et al. 2019,
section 3), which works alike for action values, policies and state values, and unlike rehearsed
transitions neither bootstraps nor needs importance weights.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from muster.learning.agents.base import count, hyperparameter, Hyperparameters
from muster.learning.continual.elastic import ElasticWeights, fisher_diagonal
from muster.learning.continual.reservoir import TaskReservoirs
from muster.learning.continual.transfer import TransferMatrix
from muster.learning.networks import MLP
import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float32]
#: Rows in one pass through a network while it consolidates, and samples of the Fisher information.
CHUNK, FISHER_SAMPLES = 256, 256


@dataclass(frozen=True)
class ContinualParameters(Hyperparameters):
    """Hyper-parameters of an agent that learns one task after another."""

    rehearsal: int = hyperparameter(
        1000, 'Observations kept to rehearse earlier tasks, of all tasks together.', 1, 100_000, live=False)
    rehearsal_batch: int = hyperparameter(
        64, 'Observations of earlier tasks rehearsed in each update; 0 rehearses nothing.', 0, 4096)
    rehearsal_weight: float = hyperparameter(
        1.0, 'Weight of the rehearsal loss beside that of the present task.', 0.0, 1000.0)
    elastic_strength: float = hyperparameter(
        0.0, 'Strength of elastic weight consolidation; 0 leaves it out.', 0.0, 1e9)
    elastic_decay: float = hyperparameter(
        0.95, 'Factor on the importance of earlier tasks at each consolidation.', 0.0, 1.0)
    consolidate_every: int = hyperparameter(
        0, 'Updates after which the present task is consolidated; 0: when another begins, and on request.',
        0, 1_000_000_000)


class TaskMemory:
    """The rehearsal memory and elastic weights of some networks that all see the same observations."""

    def __init__(self, networks: Sequence[MLP], parameters: ContinualParameters,
                 agreement: Callable[[Floats, Floats], float],
                 prepare: Callable[[Floats], Floats] = lambda observations: observations) -> None:
        """
        Keep nothing yet of `networks`, which all take the same inputs.

        `prepare` turns observations float32[n, inputs] into what the networks take, such as normalised
        ones. `agreement` tells how much the answers of the first network float32[n, outputs] are those of
        once, as a score of at most 1.
        """
        self.parameters = parameters
        self._networks = networks
        self._prepare, self._agreement = prepare, agreement
        self._inputs = networks[0].sizes[0]
        self._outputs = [network.sizes[-1] for network in networks]
        self._splits = np.cumsum(self._outputs)[:-1]
        self._row: Floats = np.zeros(self._inputs + sum(self._outputs), np.float32)
        self._ends = np.cumsum([network.theta.size for network in networks])
        self.reservoirs = TaskReservoirs(parameters.rehearsal, self._row.size)
        self.elastic = [ElasticWeights(network.theta.size) for network in networks]
        self.transfer = TransferMatrix()
        """How far the networks answer, after each consolidation, as they did at the end of each task."""
        self._updates = 0                   # since the last consolidation

    @property
    def task(self) -> str:
        """Return the present task."""
        return self.reservoirs.task

    def begin_task(self, task: str, generator: np.random.Generator) -> bool:
        """
        Consolidate the present task and let what is remembered belong to `task`; return whether it is new.

        Raises ValueError and changes nothing if there are too many tasks.
        """
        if task == self.task:
            return False
        self.reservoirs.check(task)
        self.consolidate(generator)
        self.reservoirs.begin(task)
        return task not in self.reservoirs.seen

    def remember(self, observation: Floats, generator: np.random.Generator) -> None:
        """Offer an observation float32[inputs] of the present task."""
        self._row[:self._inputs] = observation
        self.reservoirs.add(self._row, generator)

    def consolidate(self, generator: np.random.Generator) -> None:
        """Keep the networks' present answers, and what they need for them, for the present task."""
        rows = self.reservoirs.of(self.task)
        self._updates = 0
        if not len(rows):
            return
        for chunk in _chunks(rows):
            self.reservoirs.rows[chunk, self._inputs:] = np.hstack(self._answers(chunk))
        if self.parameters.elastic_strength > 0.0:
            self._weigh(rows[generator.permutation(len(rows))[:FISHER_SAMPLES]], generator)
        self.transfer.record(self.task, {task: self.agreement(task) for task in self.reservoirs.seen})

    def _weigh(self, rows: NDArray[np.intp], generator: np.random.Generator) -> None:
        """Consolidate the weights, the outputs being means of Gaussians of variance 1."""
        inputs = self._prepare(self.reservoirs.rows[rows, :self._inputs])
        for network, width, elastic in zip(self._networks, self._outputs, self.elastic, strict=True):
            noise = generator.standard_normal((len(rows), width), np.float32)
            elastic.consolidate(network.theta, fisher_diagonal(network, inputs, noise),
                                self.parameters.elastic_decay)

    def add_gradient(self, gradient: Floats, generator: np.random.Generator) -> None:
        """
        Add to the gradient of the present task what holds on to the others; to be called in each update.

        `gradient` begins with the parameters of each network, one after another, and must not be where
        their `backward` writes. Added are the gradients of rehearsal_weight * Huber loss of the answers,
        its mean over the batch, and of the elastic penalty.
        """
        parameters = self.parameters
        self._updates += 1
        if self._updates == parameters.consolidate_every:
            self.consolidate(generator)
        rows = self.reservoirs.draw(parameters.rehearsal_batch, generator)
        if len(rows):
            self._rehearse(rows, gradient)
        if parameters.elastic_strength > 0.0:
            parts = self._parts(gradient)
            for network, elastic, part in zip(self._networks, self.elastic, parts, strict=True):
                elastic.add_gradient(network.theta, parameters.elastic_strength, part)

    def _rehearse(self, rows: NDArray[np.intp], gradient: Floats) -> None:
        scale = np.float32(self.parameters.rehearsal_weight / len(rows))
        answers = np.hsplit(self.reservoirs.rows[rows, self._inputs:], self._splits)
        for network, now, once, part in zip(
                self._networks, self._answers(rows), answers, self._parts(gradient), strict=True):
            part += network.backward(scale * np.clip(now - once, -1.0, 1.0))

    def _parts(self, gradient: Floats) -> list[Floats]:
        """Return each network's part of a vector."""
        return np.split(gradient, self._ends)[:len(self._networks)]

    def agreement(self, task: str) -> float:
        """Return how much the first network's answers are those at the end of a task; 1 without any."""
        rows = self.reservoirs.of(task)
        if not len(rows):
            return 1.0
        once = self.reservoirs.rows[rows, self._inputs:self._inputs + self._outputs[0]]
        now = np.concatenate([self._answers(chunk)[0].copy() for chunk in _chunks(rows)])
        return self._agreement(now, once)

    def _answers(self, rows: NDArray[np.intp]) -> list[Floats]:
        inputs = self._prepare(self.reservoirs.rows[rows, :self._inputs])
        return [network.forward(inputs) for network in self._networks]

    def export(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a copy of all of it as JSON values and arrays; the networks are not part of it."""
        document, arrays = self.reservoirs.export()
        for number, elastic in enumerate(self.elastic):
            arrays |= {f'{name}_{number}': array for name, array in elastic.export().items()}
        return {'reservoirs': document, 'transfer': self.transfer.export(), 'updates': self._updates}, arrays

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `export` returned; raises ValueError and changes nothing if it is unsound."""
        reservoirs = TaskReservoirs(self.parameters.rehearsal, self._row.size)
        elastics = [ElasticWeights(network.theta.size) for network in self._networks]
        try:
            reservoirs.restore(document['reservoirs'], arrays)
            for number, elastic in enumerate(elastics):
                elastic.restore({name: arrays[f'{name}_{number}'] for name in elastic.export()})
            transfer, updates = TransferMatrix.restored(document['transfer']), count(document['updates'])
        except (KeyError, TypeError) as error:
            raise ValueError(f'an entry of the task memory is missing or wrong: {error}') from error
        self.reservoirs, self.elastic, self.transfer, self._updates = reservoirs, elastics, transfer, updates


def _chunks(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    return np.array_split(rows, -(-len(rows) // CHUNK))
