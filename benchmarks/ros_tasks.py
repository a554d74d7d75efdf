# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tasks over ROS: three cluster nodes, a real worker beside each, and a client that submits."""
from __future__ import annotations

import time
from typing import Any

import fleet
from muster.ros.qos import EVENTS
from muster_interfaces.msg import ClusterStatus, TaskInfo
from muster_interfaces.srv import GetClusterStatus, GetTask, SubmitTask
import task_worker

#: Tasks that are submitted and have not ended, and what each robot executes at once.
IN_FLIGHT, CAPACITY = 24, 8
#: How long (seconds) until the workers are known; and until a task whose end was not heard is asked for.
READY, SILENCE = 60.0, 2.0


class Submitter:
    """Keeps a number of tasks under way through one member, and notes when each ended."""

    def __init__(self, cluster: fleet.MusterCluster, member: str) -> None:
        """Listen for the ends of tasks."""
        self._client = cluster.client
        self._submit = self._client.client(SubmitTask, f'/{member}/cluster/submit_task')
        self._get = self._client.client(GetTask, f'/{member}/cluster/get_task')
        self._under_way: dict[str, float] = {}   # and since when nothing was heard of it
        self._early: set[str] = set()            # ended before its submission was answered
        self._going_on, self._begun = True, time.perf_counter()
        self.ends: list[float] = []
        self._client.listen(TaskInfo, f'/{member}/cluster/tasks', self._heard, EVENTS)

    def run(self, seconds: float) -> list[float]:
        """Submit for so many seconds; return when each task ended that did in this time."""
        self._begun = time.perf_counter()
        for _ in range(IN_FLIGHT):
            self._next()
        while (elapsed := time.perf_counter() - self._begun) < seconds:
            self._client.spin(min(0.5, seconds - elapsed))
            self._ask_for_the_silent()
        self._going_on = False
        return self.ends

    def _next(self) -> None:
        if self._going_on:
            self._submit.call(SubmitTask.Request(type=task_worker.Nothing.task_type), self._submitted)

    def _submitted(self, answer: Any) -> None:
        assert answer.success, answer.message
        if answer.task_id in self._early:
            self._early.remove(answer.task_id)
            self._ended()
        else:
            self._under_way[answer.task_id] = time.perf_counter()

    def _heard(self, task: TaskInfo) -> None:
        if task.status == TaskInfo.SUCCEEDED:
            if self._under_way.pop(task.task_id, None) is None:
                self._early.add(task.task_id)
            else:
                self._ended()

    def _ended(self) -> None:
        self.ends.append(time.perf_counter() - self._begun)
        self._next()

    def _ask_for_the_silent(self) -> None:
        """Ask for tasks whose end may have been missed: the topic keeps a bounded number of messages."""
        now = time.perf_counter()
        for id in [id for id, since in self._under_way.items() if now - since > SILENCE]:
            self._under_way[id] = now
            self._get.call(GetTask.Request(task_id=id), self._told)

    def _told(self, answer: Any) -> None:
        if answer.success and answer.task.task_id in self._under_way:
            self._heard(answer.task)


def tasks_over_ros(seconds: float) -> tuple[list[float], float]:
    """Return when, in seconds, each task ended that three robots placed and executed."""
    with fleet.muster_cluster(task_capacity=CAPACITY) as cluster:
        leader = cluster.settle()
        for member in fleet.MEMBERS:
            cluster.run(task_worker.__file__, '--ros-args', '-r', f'__ns:=/{member}', name=f'{member}.worker')

        def known() -> bool:
            status: ClusterStatus = cluster.client.call(
                GetClusterStatus, f'/{leader}/cluster/get_status').status
            return all(f'task:{task_worker.Nothing.task_type}' in m.capabilities for m in status.members)

        cluster.client.spin_until(known, READY, 'the workers are known')
        submitter = Submitter(cluster, leader)
        cluster.client.spin(1.0)     # the topic is discovered
        return submitter.run(seconds), seconds
