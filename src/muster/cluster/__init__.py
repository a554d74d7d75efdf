# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The cluster: consensus, replicated state and storage without ROS, and the node around them."""
from __future__ import annotations

from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from muster.cluster.coordinator import create_cluster_coordinator

__all__ = ['create_cluster_coordinator']


def __getattr__(name: str) -> Any:
    """Load what needs ROS when it is first asked for."""
    if name != 'create_cluster_coordinator':
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from muster.cluster.coordinator import create_cluster_coordinator
    return create_cluster_coordinator
