# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""For Python programs: models over time, the best of each for every task, and their knowledge in one."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import time
from typing import Any

from muster.learning.agent import ReinforcementLearningAgent
from muster.learning.agents.base import Agent, count, finite
from muster.learning.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from muster.learning.consolidation import (
    action_values, IMPORTANCE, merge, mergeable, PARAMETERS, weights_of)
from muster.learning.models import snapshot
from muster.learning.models.comparison import compare
from muster.learning.portable import NAME
import numpy as np

KIND = 'continual_learning_system'
MAXIMUM_MODELS, MAXIMUM_TASKS = 256, 64
#: The newest entries that are kept of a model's history.
MAXIMUM_HISTORY = 1000
MAXIMUM_SCORES = 1000

type Model = ReinforcementLearningAgent[Any] | Agent[Any] | Mapping[str, Any]
"""An agent, which goes on learning, or named parameters (numbers and arrays), which are copied."""


@dataclass
class _Best:
    """The best that a model was at a task: its scores then, and a copy of it."""

    version: int
    scores: list[float]
    copy: Checkpoint | None

    @property
    def score(self) -> float:
        return float(np.mean(self.scores))


@dataclass
class _Record:
    """What is known about a model; `task` is the one that its scores are of, unless said otherwise."""

    task: str
    version: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    bests: dict[str, _Best] = field(default_factory=dict)
    live: ReinforcementLearningAgent[Any] | Agent[Any] | Checkpoint | None = None


class ContinualLearningSystem:
    """
    Keeps, for every model and task, the best that it ever was, and merges what models know.

    A score is compared with the best so far, never with the last one. `save` and `load` keep all but
    the registered agents themselves.
    """

    def __init__(self, system_id: str, *, clock: Callable[[], float] = time.time) -> None:
        """Make a system without models; `clock` gives the time of history entries, in Unix seconds."""
        if not 1 <= len(system_id) <= 255:
            raise ValueError('system_id must have 1..255 characters')
        self.system_id = system_id
        self._clock = clock
        self._models: dict[str, _Record] = {}
        self._consolidated: dict[str, tuple[dict[str, Any], Checkpoint]] = {}

    def register_model(self, model_id: str, model: Model | None = None, *, task: str = '',
                       score: float | Sequence[float] | None = None,
                       importance: Mapping[str, Any] | None = None) -> int:
        """
        Register a model, or another version of it, and return the version's number, from 1.

        `model`: an agent; named parameters, with, if known, the `importance` of each (same shapes,
        >= 0, as the diagonal of the Fisher information); or None, where only scores are kept.
        Raises ValueError and changes nothing on anything unsound.
        """
        for text, what in ((model_id, 'model_id'), (task or '-', 'task')):
            if not isinstance(text, str) or not 1 <= len(text) <= 255:
                raise ValueError(f'{what} must have 1..255 characters')
        if model_id not in self._models and len(self._models) >= MAXIMUM_MODELS:
            raise ValueError(f'there are {MAXIMUM_MODELS} models already')
        live = _parameters(model, importance) if isinstance(model, Mapping) else model
        scores = None if score is None else _scores(score)
        record = self._models.setdefault(model_id, _Record(task))
        record.version, record.task, record.live = record.version + 1, task, live
        if scores is not None:
            self.update_model_performance(model_id, scores)
        return record.version

    def update_model_performance(self, model_id: str, score: float | Sequence[float],
                                 task: str | None = None) -> bool:
        """
        Record how good the model is now, at its task or another; return whether it is the best so far.

        `score`: a number, more is better; or the returns of evaluation episodes: then it is the best
        only if the 95 % bootstrap interval of the difference of means is above zero. A copy of the
        best is kept. Raises KeyError on an unknown model, ValueError on an unsound score.
        """
        record, scores = self._record(model_id), _scores(score)
        task = record.task if task is None else task
        if task not in record.bests and len(record.bests) >= MAXIMUM_TASKS:
            raise ValueError(f'the model has been scored at {MAXIMUM_TASKS} tasks already')
        best = record.bests.get(task)
        better = best is None or _better(scores, best.scores)
        if better:
            best = record.bests[task] = _Best(record.version, scores, _copy(record.live))
        assert best is not None
        mean = float(np.mean(scores))
        record.history.append({
            'version': record.version, 'task': task, 'score': mean, 'episodes': len(scores), 'best': better,
            'best_score': best.score, 'best_version': best.version,
            'forgotten': max(0.0, best.score - mean), 'time': self._clock()})
        del record.history[:-MAXIMUM_HISTORY]
        return better

    def get_model_history(self, model_id: str) -> list[dict[str, Any]]:
        """
        Return the newest 1000 scores of a model, oldest first.

        Each has `version`, `task`, `score` (the mean), `episodes`, `best` (whether it became the best
        at that task), `best_score`, `best_version`, `forgotten` (how far below the best it is) and
        `time`. Raises KeyError.
        """
        return [dict(entry) for entry in self._record(model_id).history]

    def get_best_model(self, model_id: str, task: str | None = None) -> Checkpoint:
        """
        Return a copy of the best that a model was at a task (its own); KeyError if none is kept.

        `ReinforcementLearningAgent.restore` and, for other agents, `models.restore` with the meaning
        `{}` go on from it; parameters are its `arrays`.
        """
        record = self._record(model_id)
        best = record.bests.get(record.task if task is None else task)
        if best is None or best.copy is None:
            raise KeyError(f"no best of model '{model_id}' is kept: register it with a model, and score it")
        return best.copy

    def consolidate_knowledge(self, model_ids: Sequence[str] | None = None, *, task: str = '',
                              weights: Mapping[str, float] | None = None) -> dict[str, Any]:
        """
        Bring together what the models (all) know about a task, and return what was done.

        Tables of action values and parameters are merged (consolidation.py) from the best of each
        model, weighted by score, or by `weights` (model id → number >= 0). Models of other kinds, or
        of different ones, are not averaged, as that would destroy them: the best of them is taken.
        Raises KeyError on an unknown model, ValueError where nothing is known or nothing fits.
        """
        chosen = list(self._models) if model_ids is None else list(dict.fromkeys(model_ids))
        bests = {model_id: best for model_id in chosen
                 if (best := self._record(model_id).bests.get(task)) is not None and best.copy is not None}
        if not bests:
            raise ValueError(f"no model has been scored at task '{task}': register models and call "
                             'update_model_performance')
        shares = _shares(bests, weights)
        copies = [best.copy for best in bests.values() if best.copy is not None]
        kinds = {str(copy.document.get('kind')) for copy in copies}
        top = max(bests, key=lambda model_id: bests[model_id].score)
        merged = len(kinds) == 1 and mergeable(*kinds)
        result = merge(copies, shares) if merged else copies[list(bests).index(top)]
        told = {'task': task, 'method': 'merged' if merged else 'best', 'kind': result.document.get('kind'),
                'models': list(bests), 'weights': dict(zip(bests, shares.tolist(), strict=True)),
                'best_model': top, 'best_score': bests[top].score, 'time': self._clock()}
        self._consolidated[task] = told, result
        return dict(told)

    def get_consolidated_knowledge(self, task: str = '') -> dict[str, Any]:
        """
        Return what `consolidate_knowledge` said, with the knowledge itself.

        `checkpoint` can be given to `ReinforcementLearningAgent.restore`; for tables `values` maps
        states (dicts as tuples of sorted pairs) to the values of actions, for parameters `parameters`
        maps names to arrays. Empty if nothing was consolidated for this task.
        """
        if task not in self._consolidated:
            return {}
        told, result = self._consolidated[task]
        knowledge = {**told, 'checkpoint': result}
        if told['kind'] == PARAMETERS:
            knowledge['parameters'] = {name: array.copy() for name, array in result.arrays.items()
                                       if not name.startswith(IMPORTANCE)}
        if told['kind'] == 'q_learning':
            knowledge['values'] = action_values(result)
        return knowledge

    # Saving -----------------------------------------------------------------------------------
    def save(self, path: str | Path) -> None:
        """Write everything to a file (.npz or .json); CheckpointError leaves an old one as it was."""
        copies: list[Checkpoint] = []

        def kept(copy: Checkpoint | None) -> int | None:
            if copy is None:
                return None
            copies.append(copy)
            return len(copies) - 1
        document: dict[str, Any] = {
            'kind': KIND, 'system_id': self.system_id,
            'models': [[model_id, {'task': record.task, 'version': record.version, 'history': record.history,
                                   'bests': [[task, best.version, best.scores, kept(best.copy)]
                                             for task, best in record.bests.items()]}]
                       for model_id, record in self._models.items()],
            'consolidated': [[told, kept(result)] for told, result in self._consolidated.values()]}
        document['copies'] = [copy.document for copy in copies]
        save_checkpoint(Path(path), Checkpoint(document, {
            f'{number}/{name}': array for number, copy in enumerate(copies)
            for name, array in copy.arrays.items()}))

    def load(self, path: str | Path) -> None:
        """
        Take over what was saved; registered agents of the same ids stay registered.

        Raises CheckpointError and changes nothing on an unsound file.
        """
        checkpoint = load_checkpoint(Path(path))
        document = checkpoint.document
        if document.get('kind') != KIND:
            raise CheckpointError(f"{path}: is of kind {document.get('kind')!r}, not a saved system")
        try:
            copies = [Checkpoint(_mapping(kept), {}) for kept in document['copies']]
            for name, array in checkpoint.arrays.items():
                number, _, own = name.partition('/')
                copies[count(int(number))].arrays[own] = array
            models = {str(model_id): _restored(entry, copies) for model_id, entry in document['models']}
            consolidated = {str(told['task']): (_mapping(told), copies[count(number)])
                            for told, number in document['consolidated']}
            system_id = str(document['system_id'])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f'{path}: its content is unsound: {error}') from error
        for model_id, record in models.items():
            if model_id in self._models:
                record.live = self._models[model_id].live
        self.system_id, self._models, self._consolidated = system_id, models, consolidated

    def _record(self, model_id: str) -> _Record:
        if model_id not in self._models:
            raise KeyError(f"there is no model '{model_id}': register it first")
        return self._models[model_id]


def _scores(score: float | Sequence[float]) -> list[float]:
    values = [score] if isinstance(score, int | float | np.number) else list(score)
    if not 1 <= len(values) <= MAXIMUM_SCORES:
        raise ValueError(f'a score is a number, or 1..{MAXIMUM_SCORES} returns')
    return [finite(value.item() if isinstance(value, np.generic) else value) for value in values]


def _better(scores: list[float], best: list[float]) -> bool:
    if min(len(scores), len(best)) == 1:
        return float(np.mean(scores)) > float(np.mean(best))
    return compare(scores, best).better


def _copy(model: ReinforcementLearningAgent[Any] | Agent[Any] | Checkpoint | None) -> Checkpoint | None:
    if isinstance(model, ReinforcementLearningAgent):
        return model.checkpoint()
    return snapshot(model, {}) if isinstance(model, Agent) else model


def _parameters(values: Mapping[str, Any], importance: Mapping[str, Any] | None) -> Checkpoint:
    arrays: dict[str, np.ndarray] = {}
    for name, value in values.items():
        array = np.array(value)
        if not isinstance(name, str) or not NAME.fullmatch(name) or array.dtype.kind not in 'iuf' \
                or not np.isfinite(array).all():
            raise ValueError(f'parameter {name!r} must be finite numbers, named with letters, digits, '
                             '_, . or -')
        arrays[name] = array if array.dtype == np.float32 else array.astype(np.float64)
    for name, value in (importance or {}).items():
        certain = np.array(value, np.float64)
        if name not in arrays or certain.shape != arrays[name].shape or not (certain >= 0.0).all():
            raise ValueError(f'importance {name!r} must be numbers >= 0 of the shape of its parameter')
        arrays[IMPORTANCE + name] = certain
    return Checkpoint({'kind': PARAMETERS}, arrays)


def _shares(bests: Mapping[str, _Best], weights: Mapping[str, float] | None) -> np.ndarray:
    if weights is None:
        return weights_of([best.score for best in bests.values()])
    values = np.array([finite(weights.get(model_id, 0.0)) for model_id in bests])
    if (values < 0.0).any() or not values.any():
        raise ValueError('weights must be numbers >= 0, one of them above 0')
    return values / values.sum()


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'{str(value)[:80]!r} is not a mapping')
    return value


def _restored(entry: dict[str, Any], copies: list[Checkpoint]) -> _Record:
    bests = {str(task): _Best(count(version), _scores(scores),
                              None if number is None else copies[count(number)])
             for task, version, scores, number in entry['bests']}
    history = [_mapping(told) for told in entry['history']]
    return _Record(str(entry['task']), count(entry['version']), history, bests)
