# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The client library of the cluster.

`FencingGuard` and the errors need no ROS; `Fleet`, `Lock` and `Task` are loaded when first asked for.
"""
from __future__ import annotations

from importlib import import_module
from typing import Any, TYPE_CHECKING

from muster.cluster.client.errors import (
    FleetError,
    FleetUnavailable,
    LockLost,
    LockTimeout,
    OutcomeUnknown,
    RequestRefused,
    StaleToken,
    TaskFailed,
)
from muster.cluster.client.guard import FencingGuard

if TYPE_CHECKING:
    from muster.cluster.client.fleet import Fleet, Service
    from muster.cluster.client.lock import Lock
    from muster.cluster.client.task import Task

__all__ = ['FencingGuard', 'Fleet', 'FleetError', 'FleetUnavailable', 'Lock', 'LockLost', 'LockTimeout',
           'OutcomeUnknown', 'RequestRefused', 'Service', 'StaleToken', 'Task', 'TaskFailed']
_WITH_ROS = {'Fleet': 'fleet', 'Service': 'fleet', 'Lock': 'lock', 'Task': 'task'}


def __getattr__(name: str) -> Any:
    """Load what needs ROS."""
    if name not in _WITH_ROS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f'{__name__}.{_WITH_ROS[name]}'), name)
