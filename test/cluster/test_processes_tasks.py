# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tasks of real robots while the member that places them dies."""
from __future__ import annotations

from muster_interfaces.msg import TaskInfo
import pytest
from robots import NAMES
from test_tasks import READY, Tasks, tasks as tasks  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


def test_tasks_outlive_the_leader_that_placed_them(tasks: Tasks) -> None:  # noqa: F811
    """What runs elsewhere goes on, what waited is placed, what ran there moves; nothing is lost."""
    for name in NAMES:
        tasks.worker(name)
    submitted = [tasks.patrol(20, lease=3.0, cancel_grace=1.0) for _ in range(8)]
    for task in submitted[:3]:
        tasks.begun(task)
    dispatcher = tasks.robots.leader()
    tasks.robots.kill(dispatcher)
    successor = tasks.robots.leader(*(name for name in NAMES if name != dispatcher))
    late = tasks.patrol(2)                   # and the next one is placed by the successor
    assert late.wait(READY).info().status == TaskInfo.SUCCEEDED
    for task in submitted:
        assert task.wait(READY).info().status == TaskInfo.SUCCEEDED
        assert task.info().robot != dispatcher or task.info().attempts == 1
    assert tasks.robots.leader(*(name for name in NAMES if name != dispatcher)) == successor
