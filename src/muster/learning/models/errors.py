# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a model."""
from __future__ import annotations


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
    """There is no model of that name or number."""
