# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
One model out of several of the same task, weighted by how good each is and how well it knows each entry.

Every entry (the value of an action in a state, a parameter of a network) becomes the mean over models

    merged = sum_i w_i c_i x_i / sum_i w_i c_i

with the model's weight w_i and its certainty c_i of that entry. For tables, c is how often the entry was
updated, or, where that was not counted, whether it ever was: robots that learned in different parts of
a world have, merged, a table of all of it. For parameters, c is their importance (the diagonal of the
Fisher information: Matena & Raffel 2022, "Merging models with Fisher-weighted averaging"), or 1, which is
federated averaging (McMahan et al. 2017): sound among models that were trained on from a common one.
"""
from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from muster.learning.checkpoint import Checkpoint
from muster.learning.states import freeze
import numpy as np
from numpy.typing import NDArray

#: Arrays of a model of parameters that hold the importance of others.
IMPORTANCE = 'importance/'
PARAMETERS = 'parameters'


def weights_of(scores: Sequence[float]) -> NDArray[np.float64]:
    """
    Return weights that add up to 1: the softmax of the standard scores, whatever the unit of scores.

    A model one standard deviation above the mean counts e = 2.7 times one at the mean.
    """
    values = np.asarray(scores, np.float64)
    spread = values.std()
    raised = np.exp((values - values.max()) / spread) if spread > 0.0 else np.ones(len(values))
    return raised / raised.sum()


def mergeable(kind: str) -> bool:
    """Return whether models of a kind can be merged."""
    return kind in _MERGE


def merge(models: Sequence[Checkpoint], weights: NDArray[np.float64]) -> Checkpoint:
    """
    Merge models of one kind and layout; all but the merged entries is that of the heaviest.

    `weights` has one entry per model, not negative, not all zero. Raises ValueError where the models
    do not fit together.
    """
    kinds = {str(model.document.get('kind')) for model in models}
    if len(kinds) != 1 or not mergeable(*kinds):
        raise ValueError(f"models of kind {', '.join(sorted(kinds))} cannot be merged")
    order = np.argsort(-weights, kind='stable').tolist()
    return _MERGE[kinds.pop()]([models[i] for i in order], weights[order])


def _merge_tables(models: Sequence[Checkpoint], weights: NDArray[np.float64]) -> Checkpoint:
    """Merge tables of action values: rows of estimates, then, if counted, of updates of each."""
    layouts = {_layout(model) for model in models}
    if len(layouts) != 1:
        raise ValueError('tables of different actions or layouts (double, step_power, tilings) cannot be '
                         f'merged: {sorted(layouts)}')
    n, double, counted, _ = layouts.pop()
    width, base = n * (1 + double), models[0]
    states = [[freeze(state) for state in model.document['agent']['states']] for model in models]
    rows = {state: row for row, state in enumerate(dict.fromkeys(s for own in states for s in own))}
    total, certainty, updates = (np.zeros((len(rows), width)) for _ in range(3))
    for model, own, weight in zip(models, states, weights, strict=True):
        values, at = model.arrays['values'], [rows[state] for state in own]
        estimates = values[:, :width]
        initial = model.document['agent']['parameters']['initial_value']
        certain = values[:, width:] if counted else (estimates != initial).astype(np.float64)
        total[at] += weight * certain * estimates
        certainty[at] += weight * certain
        updates[at] += certain
    unknown = base.document['agent']['parameters']['initial_value']
    merged = np.divide(total, certainty, out=np.full_like(total, unknown), where=certainty > 0.0)
    agent = {**base.document['agent'], 'states': list(rows), 'due': None}
    return Checkpoint({**base.document, 'agent': agent},
                      {'values': np.hstack([merged, updates]) if counted else merged})


def action_values(model: Checkpoint) -> dict[Hashable, list[float]]:
    """Return the table of a model of kind q_learning: state → value of each action."""
    agent = model.document['agent']
    shape = (len(agent['states']), 1 + bool(agent['parameters'].get('double')), agent['actions'])
    estimates = model.arrays['values'][:, :shape[1] * shape[2]].reshape(shape)
    return dict(zip(map(freeze, agent['states']), estimates.mean(axis=1).tolist(), strict=True))


def _layout(model: Checkpoint) -> tuple[Any, ...]:
    agent = model.document['agent']
    parameters = agent['parameters']
    # Named actions, where the agent has names, are part of the meaning.
    named = model.document.get('meaning', {}).get('actions')
    return (agent['actions'], bool(parameters.get('double')), parameters.get('step_power', 0.0) > 0.0,
            f"{parameters.get('tilings', 1)} {named}")


def _merge_parameters(models: Sequence[Checkpoint], weights: NDArray[np.float64]) -> Checkpoint:
    names = [name for name in models[0].arrays if not name.startswith(IMPORTANCE)]
    merged: dict[str, NDArray[Any]] = {}
    for name in names:
        if any(name not in model.arrays or model.arrays[name].shape != models[0].arrays[name].shape
               for model in models):
            raise ValueError(f"the models differ in the parameter '{name}' or its shape")
        values = np.stack([model.arrays[name] for model in models])
        certain = np.stack([weight * _importance(model, name)
                            for model, weight in zip(models, weights, strict=True)])
        certainty = certain.sum(axis=0)
        weighted = (certain * values).sum(axis=0) / np.where(certainty > 0.0, certainty, 1.0)
        # What is important to none is averaged plainly.
        plain = np.average(values, axis=0, weights=weights)
        merged[name] = np.where(certainty > 0.0, weighted, plain).astype(values.dtype)
        merged[IMPORTANCE + name] = certainty
    return Checkpoint(models[0].document, merged)


def _importance(model: Checkpoint, name: str) -> NDArray[np.float64]:
    given = model.arrays.get(IMPORTANCE + name)
    return np.ones(model.arrays[name].shape) if given is None else given


_MERGE: dict[str, Callable[[Sequence[Checkpoint], NDArray[np.float64]], Checkpoint]] = {
    'q_learning': _merge_tables, PARAMETERS: _merge_parameters}
