# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The saved models of one robot: a folder of checkpoint files, bound to their specification."""
from __future__ import annotations

from pathlib import Path
import re
from typing import Any

from muster.learning.agents.base import Agent
from muster.learning.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from muster.learning.specification import difference, digest

NAME = re.compile(r'[A-Za-z0-9_-]{1,64}')
SUFFIX = '.model'
MAXIMUM_MODELS = 100


class ModelError(Exception):
    """
    A model that cannot be saved or used; the message says why and what to do.

    `storage` tells that the file was the cause, not the request.
    """

    storage = False


class ModelFileError(ModelError):
    """A model file that could not be written or read."""

    storage = True


class ModelNotFoundError(ModelError):
    """There is no model of that name."""


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


class ModelFolder:
    """Models by name; every error is a ModelError that names the file."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`; it is made when something is saved."""
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the file of a model; refuses names that could leave the folder."""
        if not NAME.fullmatch(name):
            raise ModelError(f'{name[:80]!r} is not a model name: use 1..64 letters, digits, _ and -')
        return self.folder / f'{name}{SUFFIX}'

    def save(self, name: str, checkpoint: Checkpoint) -> Path:
        """Write a model durably and return its file; blocks on the disk."""
        path = self.path(name)
        if not path.exists() and len(list(self.folder.glob(f'*{SUFFIX}'))) >= MAXIMUM_MODELS:
            raise ModelError(f'{self.folder} holds {MAXIMUM_MODELS} models: remove some, or save under an '
                             'existing name')
        try:
            save_checkpoint(path, checkpoint)
        except CheckpointError as error:
            raise ModelFileError(str(error)) from error
        return path

    def load(self, name: str) -> Checkpoint:
        """Read a model; blocks on the disk."""
        path = self.path(name)
        if not path.exists():
            raise ModelNotFoundError(f"there is no model '{name}' in {self.folder}: save one first")
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            raise ModelFileError(str(error)) from error
