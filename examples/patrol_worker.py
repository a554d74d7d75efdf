# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
A worker in ten lines: a robot that patrols a list of points, as a task of the fleet.

    python examples/patrol_worker.py --ros-args -r __ns:=/robot_1
    muster submit patrol '{"points": ["gate", "dock"], "seconds": 2}' --robot robot_2 --wait
"""
from typing import Any

from muster.cluster.worker import Work, Worker


class Patrol(Worker):
    """Visits points; a real one would drive there."""

    task_type = 'patrol'

    def execute(self, task: Work) -> Any:
        """Visit one point after the other; `sleep` and `report` end it when the task is canceled."""
        points = task.payload['points']
        for number, point in enumerate(points):
            task.report(number / len(points), f'on the way to {point}')
            task.sleep(task.payload.get('seconds', 1.0))
        return {'visited': points, 'by': self.node.get_namespace()}


if __name__ == '__main__':
    Patrol.main()
