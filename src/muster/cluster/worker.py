# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The base of workers in Python: what a robot can do, as a task of the fleet.

    class Drive(Worker):
        task_type = 'drive_to'

        def execute(self, task):
            task.report(0.5, 'half way')
            return {'metres': drive(task.payload['x'], task.payload['y'])}

    if __name__ == '__main__':
        Drive.main()

Started in a robot's namespace (`--ros-args -r __ns:=/robot_1`) it serves `tasks/drive_to`, and the
robot's cluster node finds it there. A worker in another language is any server of that action.
"""
from __future__ import annotations

import json
import signal
import sys
import threading
import time
from typing import Any

from muster.ros import interfaces as interfaces  # noqa: F401 (first: it explains missing types)
from muster.ros.durations import nanoseconds
from muster.ros.middleware import avoid_shared_memory
from muster.ros.qos import SERVICES
from muster_interfaces.action import ExecuteTask
import rclpy
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

#: How long the action server keeps an ended goal, seconds: its result is asked for from the beginning,
#: and whatever it keeps is part of every status message.
RESULT_TIMEOUT = 1
#: How long a worker that is to end waits for what it executes, seconds.
END_TIMEOUT = 5.0


class Canceled(Exception):
    """Raise it in `execute` to say that the task was stopped, as was asked."""


class Work:
    """One attempt at a task, as `Worker.execute` sees it; its methods may be called from any thread."""

    def __init__(self, goal: Any, payload: Any) -> None:
        """Wrap a goal whose payload was read."""
        self._goal = goal
        self._deadline = time.monotonic() + nanoseconds(goal.request.deadline) / 1e9 \
            if nanoseconds(goal.request.deadline) else None
        self._stop = threading.Event()
        #: What was submitted, from JSON.
        self.payload = payload

    @property
    def id(self) -> str:
        """Return the id of the task, the same for every attempt."""
        return str(self._goal.request.task_id)

    @property
    def token(self) -> int:
        """Return the fencing token of the attempt, for resources that refuse older ones."""
        return int(self._goal.request.fencing_token)

    @property
    def cancelled(self) -> bool:
        """Return whether it is to stop: it was canceled, or another robot may begin it soon."""
        return self._stop.is_set()

    @property
    def remaining(self) -> float | None:
        """Return the seconds that are left for the task, None where it has no deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Wait; raise Canceled as soon as it is to stop."""
        if self._stop.wait(seconds):
            raise Canceled

    def report(self, progress: float, note: str = '') -> None:
        """Tell how far it is, 0..1, and a word about it; raise Canceled where it is to stop."""
        if self.cancelled:
            raise Canceled
        self._goal.publish_feedback(ExecuteTask.Feedback(progress=float(progress), note=str(note)))

    def stop(self) -> None:
        """Ask for its end."""
        self._stop.set()


class Worker:
    """Executes tasks of one type, each in a thread of its own."""

    #: The type of the tasks: letters, digits and underscores.
    task_type = ''
    #: How many it executes at once; more are refused, and tried elsewhere.
    capacity = 4

    def __init__(self, node: Node) -> None:
        """Serve `tasks/<task_type>` in the namespace of `node`, on its executor."""
        if not self.task_type:
            raise ValueError(f"{type(self).__name__} must say which tasks it executes: task_type = '...'")
        self.node = node
        self._works: dict[bytes, Work] = {}
        self._lock = threading.Lock()
        self._open = True
        self._idle = threading.Event()
        self._idle.set()
        self._server = ActionServer(
            node, ExecuteTask, f'tasks/{self.task_type}', execute_callback=self._unused,
            goal_callback=self._decide, handle_accepted_callback=self._begin, cancel_callback=self._cancel,
            goal_service_qos_profile=SERVICES, result_service_qos_profile=SERVICES,
            result_timeout=RESULT_TIMEOUT)

    def execute(self, task: Work) -> Any:
        """
        Do the work and return its result, anything that JSON can say.

        It runs in a thread and may block. Look at `task.cancelled`, or use `task.sleep` and
        `task.report`, which raise Canceled. Any other exception is a failure: its text is kept, and
        another robot may try.
        """
        raise NotImplementedError

    def stop(self, timeout: float) -> bool:
        """Take nothing more, stop what runs, and return whether that ended within `timeout` seconds."""
        with self._lock:
            self._open = False
            for work in self._works.values():
                work.stop()
        return self._idle.wait(timeout)

    def close(self) -> None:
        """Give everything back, after the executor has ended."""
        self._server.destroy()

    # On the executor ---------------------------------------------------------------------------
    def _decide(self, request: Any) -> GoalResponse:
        with self._lock:
            fits = self._open and len(self._works) < self.capacity
        return GoalResponse.ACCEPT if fits else GoalResponse.REJECT

    def _begin(self, goal: Any) -> None:
        try:
            payload = json.loads(goal.request.payload or '{}')
        except ValueError as error:
            self._end(goal, 'abort', False, '', f'the payload is not JSON: {error}')
            return
        work = Work(goal, payload)
        with self._lock:
            self._works[bytes(goal.goal_id.uuid)] = work
            self._idle.clear()
        # A daemon: work that never ends must not keep the process from ending.
        threading.Thread(target=self._run, args=(goal, work), name=work.id, daemon=True).start()

    def _cancel(self, goal: Any) -> CancelResponse:
        work = self._works.get(bytes(goal.goal_id.uuid))
        if work is None:
            return CancelResponse.REJECT       # it has just ended
        work.stop()
        return CancelResponse.ACCEPT

    def _unused(self, goal: Any) -> Any:
        raise AssertionError('every goal is ended with a callback of its own')

    # On a thread of its own -------------------------------------------------------------------
    def _run(self, goal: Any, work: Work) -> None:
        step, success, result, message = 'abort', False, '', ''
        self.node.get_logger().debug(f'{work.id} begins, token {work.token}')
        try:
            answer = self.execute(work)
            result = '' if answer is None else json.dumps(answer, allow_nan=False)
            step, success = 'succeed', True
        except Canceled:
            step, message = 'canceled', 'stopped as asked'
            self.node.get_logger().info(f'{work.id}: {message}')
        except Exception as error:  # the work of others may fail in any way
            message = f'{type(error).__name__}: {error}'
            self.node.get_logger().error(f'{work.id}: {message}')
        self._end(goal, step, success, result, message)

    def _end(self, goal: Any, step: str, success: bool, result: str, message: str) -> None:
        """Let the executor end a goal: only there no cancel can come in between."""
        def end(handle: Any) -> Any:
            getattr(handle, 'abort' if step == 'canceled' and not handle.is_cancel_requested else step)()
            with self._lock:
                self._works.pop(bytes(goal.goal_id.uuid), None)
                if not self._works:
                    self._idle.set()
            return ExecuteTask.Result(success=success, result=result, message=message)

        self.node.executor.create_task(goal.execute, end)

    # As a program ------------------------------------------------------------------------------
    @classmethod
    def main(cls, args: list[str] | None = None) -> None:
        """Run one worker until SIGINT or SIGTERM; exit 0."""
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        avoid_shared_memory(whole_process=True)
        try:
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:
            sys.exit(f'{cls.__name__}: the ROS arguments were refused: {error}')
        node = Node(f'{cls.task_type}_worker', enable_rosout=True, start_parameter_services=False)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        worker = cls(node)
        thread = threading.Thread(target=executor.spin, name='worker executor')
        thread.start()
        stop.wait()
        if worker.stop(END_TIMEOUT):
            flushed = threading.Event()     # the last results are on their way
            executor.create_task(flushed.set)
            flushed.wait(END_TIMEOUT)
        executor.shutdown(timeout_sec=END_TIMEOUT)
        thread.join()
        worker.close()
        node.destroy_node()
        rclpy.try_shutdown()
