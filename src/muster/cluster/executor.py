# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The ROS shell of a robot's attempts at tasks: finds its workers, and sends them goals.

It runs on the public node's thread, for goals must not delay an election; what it tells the cluster
goes over to the engine's thread, and what it hears comes back.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
import hashlib
from typing import Any

from action_msgs.msg import GoalStatus
from muster.cluster.engine import Engine, now
from muster.cluster.execution import Assignment, Execution, Key, MILLISECOND, WORKER_GRACE
from muster.cluster.state.commands import (
    Answer,
    FinishTask,
    Health,
    MAX_CAPABILITIES,
    Operation,
    Outcome,
    SECOND,
    SetCapabilities,
)
from muster.cluster.state.members import Robot
from muster.ros.durations import duration
from muster.ros.node import ManagedNode
from muster.ros.qos import SERVICES
from muster.ros.servers import is_action_served
from muster_interfaces.action import ExecuteTask
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from unique_identifier_msgs.msg import UUID

#: How long the cluster may take to confirm what it is told, before it is told again.
PATIENCE = 5 * SECOND
#: Begins the capability that stands for a worker.
TASK = 'task:'
#: A topic of the action that a worker serves: there are fewer topics than services to look through.
FEEDBACK, FEEDBACK_TYPE = '/_action/feedback', 'muster_interfaces/action/ExecuteTask_FeedbackMessage'


def announcement(robot: Robot, wanted: frozenset[str], capacity: int) -> SetCapabilities | None:
    """
    Return what makes a robot be known as it is, None where it is.

    Capabilities that stand for workers are this robot's own affair; others that somebody else added stay.
    """
    add = sorted(wanted - robot.capabilities)[:MAX_CAPABILITIES]
    remove = sorted(name for name in robot.capabilities
                    if name.startswith(TASK) and name not in wanted)[:MAX_CAPABILITIES]
    if robot.health == Health.DEAD or not (add or remove or capacity != robot.capacity):
        return None
    return SetCapabilities(robot.id, tuple(add), tuple(remove), capacity)


def goal_id(key: Key) -> UUID:
    """
    Return the id of an attempt's goal, the same whenever it is sent.

    A node that was restarted sends the goals of its attempts again: a worker that still executes
    one refuses it, and it is not executed twice at a time.
    """
    digest = hashlib.blake2b(f'{key[1]}:{key[0]}'.encode(), digest_size=16).digest()
    return UUID(uuid=list(digest))


class Executor:
    """Executes what the cluster assigns to this robot, through action servers in its namespace."""

    def __init__(self, node: ManagedNode, engine: Engine, capabilities: tuple[str, ...],
                 capacity: int) -> None:
        """Prepare, on the public node's thread; `begin` begins."""
        self._node, self._engine = node, engine
        self._configured, self._capacity = frozenset(capabilities), capacity
        self._core = Execution()
        self._prefix = f'{node.get_namespace().rstrip("/")}/tasks/'   # of the workers' actions
        self._clients: dict[str, ActionClient] = {}
        self._handles: dict[Key, Any] = {}
        self._seen: dict[str, int] = {}              # types of workers, and when they were seen last
        self._active = False
        self._work: deque[Callable[[], None]] = deque()
        self._timer = node.create_timer(3600.0, self._step, autostart=False,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        # On the engine's thread:
        self._version, self._assigned = -1, False
        self._wanted = self._configured
        self._announcing = False

    # Life, on the public node's thread ----------------------------------------------------------
    def begin(self) -> None:
        """Look for workers and execute, while the member takes part."""
        self._destroy_clients()       # a client refuses to be told of one goal twice
        self._active = True
        self._engine.loop.call_soon(self._begin)
        self._step()

    def end(self) -> None:
        """Cancel every goal: nobody renews the leases any more."""
        self._active = False
        self._timer.cancel()
        self._core.abandon()
        self._carry_out()

    def close(self) -> None:
        """Give everything back."""
        self.end()
        self._node.destroy_timer(self._timer)
        self._destroy_clients()

    def _destroy_clients(self) -> None:
        for client in self._clients.values():
            client.destroy()
        self._clients.clear()
        self._handles.clear()

    # On the engine's thread ---------------------------------------------------------------------
    def _begin(self) -> None:
        self._version = -1
        self._announcing = False
        self.notice()
        self.look()

    def notice(self) -> None:
        """Look whether the applied state assigns something else than before; cheap where it does not."""
        member = self._engine.member
        if member is None:
            return
        machine, robot = member.machine, self._engine.member_id
        version = machine.tasks.version(robot)
        if version == self._version:
            return
        self._version = version
        assignments = [
            Assignment(t.id, t.token, t.type, t.payload, t.lease,
                       max(1, t.deadline - machine.time) if t.deadline else 0, t.cancel_requested)
            for t in machine.tasks.assigned_to(robot)]
        self._assigned = bool(assignments)
        self._post(lambda: self._core.assigned(assignments, now()))

    def look(self) -> None:
        """
        See in the ROS graph which workers there are; once a second.

        While there is none, and no task for one, the public node's thread sleeps: to wake it costs more
        than to look.
        """
        topics = self._node.get_topic_names_and_types()
        there = {name[len(self._prefix):-len(FEEDBACK)] for name, kinds in topics
                 if name.startswith(self._prefix) and name.endswith(FEEDBACK) and FEEDBACK_TYPE in kinds}
        if there or self._seen or self._assigned:
            self._post(lambda: self._attend(there, now()))
        else:
            self._tell()

    def _tell(self) -> None:
        """Tell the cluster what this robot can do, where it does not know."""
        self.notice()
        member = self._engine.member
        known = member.machine.members.get(self._engine.member_id) if member else None
        if member is None or known is None or known.incarnation != member.me.incarnation or self._announcing:
            return
        operation = announcement(known, self._wanted, self._capacity)
        if operation is not None:
            self._announcing = True
            self._submit(operation, self._announced)

    def _announced(self, _: Answer) -> None:
        self._announcing = False      # what was not confirmed shows at the next look

    def _submit(self, operation: Operation, answered: Callable[[Answer], None]) -> None:
        if self._engine.member is not None:
            self._engine.submit(operation, None, PATIENCE, answered)

    def _tell_finish(self, finish: FinishTask) -> None:
        def answered(answer: Answer) -> None:
            self.notice()
            self._post(lambda: self._core.finish_answered((finish.task_id, finish.token), answer, now()))
        self._submit(finish, answered)

    def _tell_report(self, report: Operation) -> None:
        def answered(answer: Answer) -> None:
            self.notice()     # what the report did not renew is not assigned any more
            self._post(lambda: self._core.report_answered(answer.code, now()))
        self._submit(report, answered)

    def _post(self, work: Callable[[], None]) -> None:
        """Run something on the public node's thread."""
        self._work.append(work)
        if len(self._work) == 1:
            self._node.run_soon(self._step)

    # On the public node's thread ----------------------------------------------------------------
    def _step(self) -> None:
        """Do what came and what is due, and set the timer for what will be."""
        while self._work:
            work = self._work.popleft()
            if self._active:
                work()
        if not self._active:
            return
        time_now = now()
        due = self._core.next_deadline()
        if due is not None and time_now >= due:
            self._core.advance(time_now)
        self._carry_out()
        due = self._core.next_deadline()
        if due is None:
            self._timer.cancel()
        else:
            self._timer.timer_period_ns = max(MILLISECOND, due - now())
            self._timer.reset()

    def _attend(self, there: set[str], time_now: int) -> None:
        """Tell the core and the cluster of the workers that are there."""
        for kind in there:
            self._seen[kind] = time_now
            if kind not in self._clients:
                self._clients[kind] = ActionClient(self._node, ExecuteTask, f'tasks/{kind}',
                                                   goal_service_qos_profile=SERVICES,
                                                   result_service_qos_profile=SERVICES,
                                                   cancel_service_qos_profile=SERVICES)
        for kind in [k for k, seen in self._seen.items() if time_now - seen > WORKER_GRACE]:
            del self._seen[kind]
        ready = frozenset(kind for kind in there
                          if is_action_served(self._node, self._clients[kind], self._prefix + kind))
        self._core.workers(ready, time_now)
        wanted = self._configured | {TASK + kind for kind in self._seen if kind in ready or kind not in there}

        def announce() -> None:
            self._wanted = wanted
            self._tell()
        self._engine.loop.call_soon(announce)

    def _carry_out(self) -> None:
        while True:
            effects = self._core.take_effects()
            for goal in effects.goals:
                self._send(goal)
            for key in effects.cancels:
                if key in self._handles:
                    self._handles[key].cancel_goal_async()
            for finish in effects.finishes:
                self._engine.loop.call_soon(partial(self._tell_finish, finish))
            if effects.report is not None:
                self._engine.loop.call_soon(partial(self._tell_report, effects.report))
            if not effects.goals:
                return

    # Goals --------------------------------------------------------------------------------------
    def _send(self, goal: Assignment) -> None:
        key = goal.key
        future = self._clients[goal.type].send_goal_async(
            ExecuteTask.Goal(task_id=goal.task_id, fencing_token=goal.token, type=goal.type,
                             payload=goal.payload, deadline=duration(goal.deadline)),
            feedback_callback=lambda message: self._core.feedback(
                key, message.feedback.progress, message.feedback.note),
            goal_uuid=goal_id(key))
        future.add_done_callback(lambda done: self._on_accepted(key, done.result()))

    def _on_accepted(self, key: Key, handle: Any) -> None:
        if handle.accepted:
            self._handles[key] = handle
            self._core.accepted(key, now())
            handle.get_result_async().add_done_callback(lambda done: self._on_result(key, done.result()))
        else:
            handle.cancel_goal_async()     # where it runs since before a restart of this node
            self._core.ended(key, Outcome.REJECTED, '', 'its worker refused it', now())
        self._step()

    def _on_result(self, key: Key, response: Any) -> None:
        self._handles.pop(key, None)
        result = response.result
        if response.status == GoalStatus.STATUS_SUCCEEDED and result.success:
            outcome = Outcome.SUCCEEDED
        elif response.status == GoalStatus.STATUS_CANCELED:
            outcome = Outcome.CANCELED
        else:
            outcome = Outcome.FAILED
        self._core.ended(key, outcome, result.result, result.message, now())
        self._step()
