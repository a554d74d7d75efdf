# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Models on disk: versions with manifests, champion and challengers, rollback; bound to a specification."""
from muster.learning.models.binding import restore, snapshot
from muster.learning.models.errors import ModelError, ModelFileError, ModelNotFoundError
from muster.learning.models.store import ModelStore
from muster.learning.models.versions import Policy, Verdict, Version

__all__ = ['ModelError', 'ModelFileError', 'ModelNotFoundError', 'ModelStore', 'Policy', 'restore',
           'snapshot', 'Verdict', 'Version']
