# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The cluster's services: ROS requests to operations of the core, and its answers back."""
from __future__ import annotations

from collections.abc import Callable

from builtin_interfaces.msg import Time
from muster.cluster.engine import Engine
from muster.cluster.services.desk import Desk
from muster.cluster.services.locks import LockServices
from muster.cluster.services.membership import MembershipServices
from muster.cluster.services.registry import RegistryServices
from muster.cluster.services.status import event_message as event_message, StatusServices  # noqa: F401
from muster.cluster.services.tasks import task_message as task_message, TaskServices  # noqa: F401
from muster.ros.qos import SERVICES
from muster_interfaces.msg import ClusterStatus


class Services:
    """The services of one engine, under the name of the public node."""

    def __init__(self, engine: Engine, prefix: str, cluster: str, patience: Callable[[], int],
                 grace: Callable[[], int], stamp: Callable[[], Time]) -> None:
        """
        Create them.

        `patience()` is how long a confirmation is waited for, `grace()` the default of cancel_grace,
        in nanoseconds.
        """
        desk = Desk(engine, patience, stamp)
        self._status = StatusServices(desk, cluster)
        for group in (LockServices(desk), RegistryServices(desk), TaskServices(desk, grace),
                      MembershipServices(desk), self._status):
            for name, kind, server in group.rows:
                engine.loop.serve(kind, f'{prefix}/{name}', desk.guarded(server), SERVICES)

    def status(self) -> ClusterStatus:
        """Return the cluster as this member sees it; call it on the engine's thread."""
        return self._status.status()
