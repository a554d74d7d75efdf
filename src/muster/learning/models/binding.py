# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Between an agent and a model file: nothing acts by what was learned for something else."""
from __future__ import annotations

from typing import Any

from muster.learning.agents.base import Agent
from muster.learning.checkpoint import Checkpoint
from muster.learning.models.errors import ModelError
from muster.learning.specification import difference, digest


def snapshot(agent: Agent[Any], meaning: dict[str, Any]) -> Checkpoint:
    """Copy an agent together with the meaning of the specification that it was trained for."""
    document, arrays = agent.export()
    return Checkpoint({'kind': agent.kind, 'meaning': meaning, 'digest': digest(meaning),
                       'agent': document}, arrays)


def restore(checkpoint: Checkpoint, agent: Agent[Any], meaning: dict[str, Any]) -> None:
    """
    Make an agent continue from a checkpoint; raises ModelError and leaves the agent as it was.

    A model of another kind, or trained for other observations or actions, is refused, saying what
    differs first.
    """
    document = checkpoint.document
    if document.get('kind') != agent.kind:
        raise ModelError(f"the model is of kind {document.get('kind')!r}, this agent is '{agent.kind}'")
    found = difference(document.get('meaning'), meaning)
    if found:
        raise ModelError(f"the model was trained for another specification (hash {document.get('digest')}, "
                         f'here {digest(meaning)}): {found}')
    try:
        if not isinstance(document.get('agent'), dict):
            raise ValueError('the agent is missing')
        agent.restore(document['agent'], checkpoint.arrays)
    except ValueError as error:
        raise ModelError(f'the model is unsound: {error}') from error
