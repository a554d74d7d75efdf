# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The services of the fleet's tasks."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Time
from muster.cluster.loop import Reply
from muster.cluster.services.desk import Desk, limited, refuse, Row
from muster.cluster.state.commands import (
    Answer,
    CancelTask,
    check_name,
    check_text,
    Code,
    Invalid,
    MAX_NAME,
    SECOND,
    SubmitTask,
)
from muster.cluster.state.tasks import Task, TaskState
from muster.ros.durations import duration, nanoseconds
from muster_interfaces.msg import TaskInfo
from muster_interfaces.srv import (
    CancelTask as CancelTaskService,
    GetTask,
    ListTasks,
    SubmitTask as SubmitTaskService,
)

#: Of an attempt at a task, where its submitter does not say.
DEFAULT_ATTEMPTS, DEFAULT_LEASE = 3, 10 * SECOND


class TaskServices:
    """Submit, cancel, show and list tasks."""

    def __init__(self, desk: Desk, grace: Callable[[], int]) -> None:
        """Serve through `desk`; `grace()` is the default of cancel_grace, in nanoseconds."""
        self._desk, self._grace = desk, grace
        self.rows: tuple[Row, ...] = (
            ('submit_task', SubmitTaskService, self._submit),
            ('cancel_task', CancelTaskService, self._cancel),
            ('get_task', GetTask, self._get), ('list_tasks', ListTasks, self._list))

    def _submit(self, request: Any, response: Any, reply: Reply) -> None:
        def fill(answer: Answer) -> None:
            response.task_id = answer.task_id

        operation = SubmitTask(
            request.type, request.payload or '{}', tuple(request.required_capabilities), request.priority,
            nanoseconds(request.deadline), request.max_attempts or DEFAULT_ATTEMPTS,
            nanoseconds(request.lease) or DEFAULT_LEASE, nanoseconds(request.cancel_grace) or self._grace())
        self._desk.submit(operation, request.request_id, response, reply, fill)

    def _cancel(self, request: Any, response: Any, reply: Reply) -> None:
        self._desk.submit(CancelTask(request.task_id), request.request_id, response, reply)

    def _get(self, request: Any, response: Any, reply: Reply) -> None:
        check_name('task_id', request.task_id)
        machine = self._desk.machine
        task = machine.tasks.get(request.task_id)
        if task is None:
            refuse(response, Code.NOT_FOUND, f"task '{request.task_id}' is not known here: it was never "
                   'submitted, its end is long ago, or this robot has not heard of it yet', reply)
            return
        response.task = task_message(task, machine.time, self._desk.stamp())
        response.success = True
        reply(response)

    def _list(self, request: Any, response: Any, reply: Reply) -> None:
        check_text('type', request.type, MAX_NAME)
        check_text('robot', request.robot, MAX_NAME)
        if request.status not in (0, *TaskState):
            raise Invalid(f'status must be 0 or one of the constants of TaskInfo, not {request.status}')
        machine, stamp = self._desk.machine, self._desk.stamp()
        found, response.total = machine.tasks.listed(request.type, request.robot, request.status,
                                                     limited(request.limit))
        response.tasks = [task_message(task, machine.time, stamp, whole=False) for task in found]
        response.success = True
        reply(response)


def task_message(task: Task, cluster_time: int, stamp: Time, *, whole: bool = True) -> TaskInfo:
    """Return the message of a task; without payload and result, which may be long, unless `whole`."""
    return TaskInfo(
        stamp=stamp, task_id=task.id, type=task.type, payload=task.payload if whole else '',
        required_capabilities=list(task.required), priority=task.priority, status=int(task.state),
        cancel_requested=task.cancel_requested, robot=task.robot,
        fencing_token=task.token if task.state == TaskState.RUNNING else 0, attempts=task.attempts,
        max_attempts=task.max_attempts, progress=task.progress, note=task.note,
        deadline=duration(max(1, task.deadline - cluster_time) if task.deadline else 0),
        result=task.result if whole else '', message=task.message)
