# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A task of the fleet as its submitter sees it."""
from __future__ import annotations

from collections.abc import Callable
import json
import threading
import time
from typing import Any

from muster.cluster.client.errors import FleetError, RequestRefused, TaskFailed
from muster.cluster.state.commands import Code
from muster_interfaces.msg import TaskInfo
from muster_interfaces.srv import CancelTask, GetTask

#: How often a task that is waited for is looked at: at first, and at most, seconds.
LOOK_FIRST, LOOK_MOST = 0.02, 0.5
#: A robot may learn so much later than another that a task was submitted, seconds.
UNKNOWN_TIMEOUT = 5.0
ENDED = frozenset((TaskInfo.SUCCEEDED, TaskInfo.FAILED, TaskInfo.CANCELED))


class Task:
    """One task, made with `Fleet.submit` or `Fleet.task`; its methods ask the fleet and wait."""

    def __init__(self, ask: Callable[..., Any], task_id: str) -> None:
        """Stand for a task; `ask` sends a request through any robot."""
        self._ask = ask
        self.id = task_id
        self._ended: TaskInfo | None = None

    def info(self) -> TaskInfo:
        """Return all that is known of it; raise RequestRefused where it is not known, or not any more."""
        if self._ended is not None:
            return self._ended
        info = self._ask('get_task', GetTask.Request(task_id=self.id), changes=False).task
        if info.status in ENDED:
            self._ended = info
        return info

    @property
    def done(self) -> bool:
        """Return whether it has ended."""
        return self.info().status in ENDED

    def wait(self, timeout: float | None = None) -> Task:
        """Return itself when it has ended, however; raise TimeoutError after `timeout` seconds."""
        began, pause = time.monotonic(), LOOK_FIRST
        alarm = threading.Event()
        while True:
            try:
                if self.done:
                    return self
            except RequestRefused as error:
                if error.code != Code.NOT_FOUND or time.monotonic() - began > UNKNOWN_TIMEOUT:
                    raise
            if timeout is not None and time.monotonic() - began >= timeout:
                raise TimeoutError(f"task '{self.id}' has not ended within {timeout:g} s")
            alarm.wait(pause if timeout is None else
                       max(0.0, min(pause, began + timeout - time.monotonic())))
            pause = min(LOOK_MOST, pause * 1.5)

    def cancel(self) -> None:
        """Ask for its end; it ends as soon as its worker has stopped. Nothing happens where it has ended."""
        if self._ended is None:
            self._ask('cancel_task', CancelTask.Request(task_id=self.id))

    @property
    def result(self) -> Any:
        """
        Return what its worker answered, from JSON, None where that was nothing.

        Raise TaskFailed where it ended otherwise, FleetError where it has not ended yet.
        """
        info = self.info()
        if info.status == TaskInfo.SUCCEEDED:
            return json.loads(info.result) if info.result else None
        if info.status in ENDED:
            raise TaskFailed(f"task '{self.id}' "
                             + ('was canceled' if info.status == TaskInfo.CANCELED else 'failed')
                             + (f': {info.message}' if info.message else ''))
        raise FleetError(f"task '{self.id}' has not ended yet: wait for it")
