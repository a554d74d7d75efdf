# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The action `Train`: some steps or episodes of training on the robot, then evaluation, then a verdict."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from muster.learning.agents.base import LearningMode
from muster.learning.control import boot_time, Control
from muster.learning.cycle import Decision
from muster.learning.model_keeper import check_model_name, ModelKeeper
from muster.learning.models import ModelError
from muster.learning.session import Plan, Session
from muster.ros import qos
from muster.ros.interfaces import ErrorCode
from muster_interfaces.action import Train
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

#: A result is kept for so many seconds, for a client that asks late.
RESULT_TIMEOUT = 10
#: Feedback comes after each episode, and at least so often while cycles run, in seconds.
FEEDBACK_PERIOD = 1.0
DONE = 'done'


@dataclass
class Run:
    """A goal that is being worked on: how it `ended` is empty until it has."""

    goal: Any
    session: Session
    finished: Future
    task_before: str
    ended: str = ''
    told: float = 0.0


class TrainingAction:
    """Serves `~/train`, one goal at a time; a new one preempts the one before."""

    def __init__(self, node: LifecycleNode, control: Control, keeper: ModelKeeper,
                 begin_task: Callable[[str], None], ends: tuple[str, ...]) -> None:
        """Serve on the executor of `node`; a run ends where a hold of `ends` begins, and waits for others."""
        self._node, self._control, self._keeper = node, control, keeper
        self._begin_task, self._ends = begin_task, ends
        self._run: Run | None = None
        self._mode = control.cycle.mode
        self._server = ActionServer(
            node, Train, '~/train', execute_callback=self._execute, callback_group=ReentrantCallbackGroup(),
            goal_callback=lambda _: GoalResponse.ACCEPT,  # what is refused is told why in the result
            handle_accepted_callback=self._accept, cancel_callback=lambda _: CancelResponse.ACCEPT,
            goal_service_qos_profile=qos.SERVICES, result_service_qos_profile=qos.SERVICES,
            result_timeout=RESULT_TIMEOUT)
        control.watcher = self._watch

    @property
    def running(self) -> bool:
        """Return whether a goal is being worked on."""
        return self._run is not None

    def close(self) -> None:
        """Serve no more."""
        self.end('the node was cleaned up')
        self._server.destroy()

    def change_mode(self, mode: LearningMode) -> None:
        """Take the mode to act in, now or when the training is over."""
        self._mode = mode
        if self._run is None:
            self._control.change_mode(mode)

    def end(self, why: str) -> None:
        """End the present run, if there is one; it keeps what was learned."""
        run, self._run = self._run, None
        if run is None:
            return
        run.ended = why
        self._control.change_mode(self._mode)
        if not run.session.plan.trains:
            self._begin_task(run.task_before)
        run.finished.set_result(None)

    def look(self) -> None:
        """Notice a cancel also while no cycle runs."""
        if self._run is not None and self._run.goal.is_cancel_requested:
            self.end('canceled')

    # On the executor ---------------------------------------------------------------------------
    def _accept(self, goal: Any) -> None:
        if not self._node.is_active:
            name = self._node.get_fully_qualified_name()
            self._refuse(goal, ErrorCode.INACTIVE, f'{name} is not active: activate it first')
            return
        request, before = goal.request, self._control.agent.task
        try:
            plan = Plan(request.steps, request.episodes, request.evaluation_episodes,
                        LearningMode.EXPLORATION if request.explore else LearningMode.MIXED)
            check_model_name(request.save_as)
            if self._held:
                raise ValueError(f'cannot train: {self._held}')
            self._begin_task(request.task or before)
        except (ValueError, ModelError) as error:
            self._refuse(goal, ErrorCode.INVALID, str(error))
            return
        self.end('preempted by a new goal')
        run = self._run = Run(goal, Session(plan), Future(executor=self._node.executor), before)
        self._control.change_mode(run.session.mode)
        goal.execute(partial(self._execute, run))

    def _refuse(self, goal: Any, code: int, message: str) -> None:
        def refuse(handle: Any) -> Any:
            handle.abort()
            return Train.Result(success=False, error_code=code, message=message)
        goal.execute(refuse)

    @property
    def _held(self) -> str:
        """Return why there can be no training now."""
        holds = self._control.cycle.holds
        return next((reason for name, reason in holds.items() if name in self._ends), '')

    def _watch(self, decision: Decision) -> None:
        run = self._run
        if run is None:
            return
        session = run.session
        session.take(decision)
        if run.goal.is_cancel_requested:
            self.end('canceled')
        elif self._held:
            self.end(self._held)
        elif session.done:
            self.end(DONE)
        else:
            self._control.change_mode(session.mode)
        now = boot_time()
        if decision.ended or session.done or now - run.told >= FEEDBACK_PERIOD:
            run.told = now
            run.goal.publish_feedback(Train.Feedback(
                progress=session.progress, steps=session.steps, episodes=session.episodes,
                evaluated=len(session.evaluation), mean_return=fmean(session.recent or [0.0]),
                epsilon=self._control.agent.epsilon, note=decision.safe_reason))

    async def _execute(self, run: Run, goal: Any) -> Any:
        await run.finished
        session = run.session
        result = Train.Result(
            success=run.ended == DONE, message=run.ended, steps=session.steps, episodes=session.episodes,
            mean_return=fmean(session.returns or [0.0]), evaluation=session.evaluation,
            mean_evaluation=session.mean_evaluation)
        if result.success:
            await self._judge(result, session, goal.request.save_as)
        if result.success:
            goal.succeed()
        elif goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return result

    async def _judge(self, result: Any, session: Session, name: str) -> None:
        """Save the outcome under `name`, if there is one, and make it the champion if it has earned it."""
        agent, keeper = self._control.agent, self._keeper
        # An evaluation alone tells of the version that the robot acts by, as long as it is as saved.
        version = None if session.plan.trains else keeper.unchanged(agent)
        if version is None and name:
            version = await keeper.save(result, agent, name)
            result.success = version is not None
        if version is None:
            return
        result.version, result.message = version.number, version.label
        if session.evaluation:
            verdict = await keeper.on_disk(result, keeper.judge, version.number, session.evaluation)
            result.success = verdict is not None
            if verdict is not None:
                result.promoted, result.message = verdict.promoted, verdict.reason
