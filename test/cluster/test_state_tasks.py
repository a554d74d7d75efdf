# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tasks of the replicated state: placement, attempts, cancellation, results."""
from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings, strategies as st
from muster.cluster.state import placement as placement_module, tasks as tasks_module
from muster.cluster.state.commands import (
    Answer,
    CancelTask,
    Code,
    FinishTask,
    Health,
    Outcome,
    ReportTasks,
    SetCapabilities,
    SubmitTask,
)
from muster.cluster.state.placement import Line
from muster.cluster.state.tasks import LIFETIME, Task, TaskState
import pytest
from state_fleet import Fleet, SECOND

LEASE, GRACE = 10 * SECOND, 5 * SECOND


def fleet_of(*robots: str, capacity: int = 1) -> Fleet:
    """Return a fleet whose robots can sweep."""
    fleet = Fleet(*robots)
    for robot in robots:
        fleet.can(robot, 'task:sweep', capacity=capacity)
    return fleet


def submit(fleet: Fleet, type_: str = 'sweep', required: tuple[str, ...] = (), priority: int = 0,
           deadline: int = 0) -> Task:
    """Submit a task and return it."""
    answer = fleet.do(SubmitTask(type_, '{"room": 1}', required, priority, deadline, 3, LEASE, GRACE))
    task = fleet.machine.tasks.get(answer.task_id)
    assert answer.code == Code.OK and task is not None
    return task


def finish(fleet: Fleet, task: Task, outcome: Outcome = Outcome.SUCCEEDED, token: int = 0,
           result: str = '', message: str = '') -> Answer:
    """Say how the present attempt ended."""
    return fleet.do(FinishTask(task.id, token or task.token, outcome, result, message))


def report(fleet: Fleet, *tasks: Task, elapsed: int = 0) -> Answer:
    """Renew the leases of attempts."""
    return fleet.do(ReportTasks(tuple((t.id, t.token, 0.25, 'sweeping') for t in tasks)), elapsed=elapsed)


def assigned(fleet: Fleet, robot: str) -> list[str]:
    """Return the ids of what a robot should be executing."""
    return [task.id for task in fleet.machine.tasks.assigned_to(robot)]


def test_a_task_is_submitted_placed_and_done() -> None:
    fleet = fleet_of('r1')
    task = submit(fleet)
    index = fleet.machine.applied
    assert fleet.happened == ['TASK_SUBMITTED', 'TASK_ASSIGNED']
    assert (task.id, task.robot, task.token, task.attempts) == (f'sweep-{index}', 'r1', index, 1)
    [_, event] = fleet.last.events
    assert (event.subject, event.member, event.token) == (task.id, 'r1', index)
    assert assigned(fleet, 'r1') == [task.id] and task.payload == '{"room": 1}'
    assert report(fleet, task).code == Code.OK
    assert (task.progress, task.note) == (0.25, 'sweeping')
    assert finish(fleet, task, result='{"dust": 3}', message='clean').code == Code.OK
    assert fleet.happened == ['TASK_FINISHED']
    assert (task.state, task.result, task.message) == (TaskState.SUCCEEDED, '{"dust": 3}', 'clean')
    assert assigned(fleet, 'r1') == [] and fleet.machine.members['r1'].running == 0
    assert fleet.machine.clock_interval() is None     # that results are kept needs no clock
    assert finish(fleet, task).code == Code.OK        # told twice
    assert fleet.happened == []


# A line of tasks ------------------------------------------------------------------------------------
@dataclass(eq=False)
class Waits:
    """A task as a line sees it."""

    index: int
    priority: int
    line: Line | None = None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(('new', 'new', 'back', 'pop', 'leave')), st.integers(0, 300)),
                max_size=400))
def test_a_line_is_in_order_whoever_comes_back_and_leaves(steps: list[tuple[str, int]]) -> None:
    line = Line(('sweep', (), ''))
    waiting: list[Waits] = []
    taken: list[Waits] = []
    for index, (step, number) in enumerate(steps):
        if step == 'new' or (step == 'back' and not taken):
            waiting.append(Waits(index, number % 3))
            line.add(waiting[-1])
        elif step == 'back':                  # an attempt has failed: it waits again in its old place
            waiting.append(taken.pop(number % len(taken)))
            line.add(waiting[-1])
        elif waiting and step == 'leave':
            line.leave(waiting.pop(number % len(waiting)))
        elif waiting:
            first = min(waiting, key=lambda task: (-task.priority, task.index))
            assert line.head() == (-first.priority, first.index)
            assert line.pop() is first
            waiting.remove(first)
            taken.append(first)
        assert line.size == len(waiting)


# Placement --------------------------------------------------------------------------------------
def test_a_task_goes_to_the_least_loaded_robot_that_can_do_it() -> None:
    fleet = Fleet('a', 'b', 'c', 'd')
    fleet.can('a', 'task:sweep', capacity=4)
    fleet.can('b', 'task:sweep', 'wide', capacity=2)
    fleet.can('c', 'wide', capacity=9)                # sweeps not
    fleet.can('d', 'task:sweep', 'wide', capacity=2)
    fleet.health('d', Health.SUSPECT)
    assert [submit(fleet).robot for _ in range(6)] == ['a', 'b', 'a', 'a', 'b', 'a']
    wide = submit(fleet, required=('wide',))
    assert wide.state == TaskState.WAITING            # b is full, d is suspect
    fleet.health('d', Health.ALIVE)
    assert (wide.state, wide.robot) == (TaskState.RUNNING, 'd')


def test_the_most_urgent_goes_first_and_then_the_oldest() -> None:
    fleet = fleet_of('r1')
    first = submit(fleet)
    waiting = [submit(fleet, priority=priority) for priority in (0, 7, 255, 7)]
    order = []
    running = first
    for _ in waiting:
        finish(fleet, running)
        [running] = [t for t in waiting if t.state == TaskState.RUNNING]
        order.append(waiting.index(running))
    assert order == [2, 1, 3, 0]


def test_urgency_counts_across_different_needs() -> None:
    fleet = Fleet('r1')
    tasks = [submit(fleet, *needs) for needs in (('lift', (), 1), ('sweep', (), 9), ('sweep', ('wide',), 5))]
    fleet.can('r1', 'task:sweep', 'task:lift', 'wide', capacity=2)
    assert [t.state for t in tasks] == [TaskState.WAITING, TaskState.RUNNING, TaskState.RUNNING]
    assert [t.token for t in tasks[1:]] == [fleet.machine.applied] * 2     # one entry, two attempts
    assert fleet.happened == ['CAPABILITIES_CHANGED', 'TASK_ASSIGNED', 'TASK_ASSIGNED']


def test_more_capacity_takes_what_waits_and_less_takes_nothing_away() -> None:
    fleet = fleet_of('r1')
    tasks = [submit(fleet) for _ in range(3)]
    fleet.do(SetCapabilities('r1', (), (), 2))
    assert [t.state for t in tasks] == [TaskState.RUNNING, TaskState.RUNNING, TaskState.WAITING]
    fleet.do(SetCapabilities('r1', (), ('task:sweep',), 1))
    assert len(assigned(fleet, 'r1')) == 2
    finish(fleet, tasks[0])
    assert tasks[2].state == TaskState.WAITING


def test_a_task_that_was_canceled_in_line_is_passed_over() -> None:
    fleet = fleet_of('r1')
    tasks = [submit(fleet) for _ in range(200)]
    for task in tasks[1:-1]:
        assert fleet.do(CancelTask(task.id)).code == Code.OK
    finish(fleet, tasks[0])
    assert tasks[-1].state == TaskState.RUNNING
    assert {t.state for t in tasks[1:-1]} == {TaskState.CANCELED}


# Attempts ---------------------------------------------------------------------------------------
def test_what_failed_is_tried_elsewhere_and_only_so_often() -> None:
    fleet = fleet_of('r1', 'r2')
    task = submit(fleet)
    assert task.robot == 'r1'
    finish(fleet, task, Outcome.FAILED, message='slipped')
    assert fleet.happened == ['TASK_RETURNED', 'TASK_ASSIGNED'] and task.message == 'slipped'
    assert (task.robot, task.attempts) == ('r2', 2) and task.token == fleet.machine.applied
    finish(fleet, task, Outcome.REJECTED)
    assert (task.robot, task.attempts) == ('r1', 3)
    finish(fleet, task, Outcome.FAILED, result='{"at": 2}', message='slipped again')
    assert fleet.happened == ['TASK_FINISHED']
    assert (task.state, task.result) == (TaskState.FAILED, '{"at": 2}') and 'slipped again' in task.message


def test_a_robot_is_given_again_what_it_failed_at_only_if_no_other_can_do_it() -> None:
    fleet = fleet_of('r1', 'r2')
    other, task = submit(fleet), submit(fleet)
    assert (other.robot, task.robot) == ('r1', 'r2')
    finish(fleet, task, Outcome.FAILED)
    assert task.state == TaskState.WAITING            # r1 is busy, and r2 has failed
    fleet.health('r1', Health.DEAD)
    assert (task.state, task.robot) == (TaskState.RUNNING, 'r2')


def test_a_stale_attempt_is_fenced() -> None:
    fleet = fleet_of('r1', 'r2')
    task = submit(fleet)
    old = task.token
    fleet.wait(LEASE)
    assert fleet.wait(GRACE) == ['TASK_RETURNED', 'TASK_ASSIGNED']
    assert task.robot == 'r2' and task.token > old
    for outcome in Outcome:
        assert finish(fleet, task, outcome, token=old).code == Code.WRONG_TOKEN
    answer = fleet.do(ReportTasks(((task.id, old, 1.0, ''),)))
    assert answer.code == Code.WRONG_TOKEN and task.id in answer.message
    assert (task.state, task.robot, task.progress) == (TaskState.RUNNING, 'r2', 0)
    assert fleet.do(FinishTask('sweep-99', 1, 1, '', '')).code == Code.NOT_FOUND


def test_reports_keep_an_attempt_alive_and_its_silence_ends_it() -> None:
    fleet = fleet_of('r1')
    task = submit(fleet)
    for _ in range(5):
        assert report(fleet, task, elapsed=LEASE - 1).code == Code.OK
    assert fleet.machine.clock_interval() is not None
    version = fleet.machine.tasks.version('r1')
    assert fleet.wait(LEASE) == [] and assigned(fleet, 'r1') == []     # it must stop now
    assert fleet.machine.tasks.version('r1') > version
    assert report(fleet, task).code == Code.WRONG_TOKEN                # a lease that ended stays so
    assert task.state == TaskState.RUNNING and fleet.machine.members['r1'].running == 1
    assert fleet.wait(GRACE) == ['TASK_RETURNED', 'TASK_ASSIGNED']     # there is no other robot
    assert task.attempts == 2 and 'did not report' in task.message


def test_what_was_done_in_the_grace_counts() -> None:
    fleet = fleet_of('r1', 'r2')
    task = submit(fleet)
    fleet.wait(LEASE + GRACE - 1)
    assert finish(fleet, task).code == Code.OK and task.state == TaskState.SUCCEEDED


def test_one_report_tells_which_attempts_are_over_and_renews_the_others() -> None:
    fleet = fleet_of('r1', capacity=2)
    one, two = submit(fleet), submit(fleet)
    finish(fleet, one)
    answer = report(fleet, one, two, elapsed=SECOND)
    assert answer.code == Code.WRONG_TOKEN and one.id in answer.message and two.id not in answer.message
    assert two.lease_end == fleet.machine.time + LEASE


def test_the_tasks_of_a_dead_robot_move_once_after_lease_and_grace() -> None:
    fleet = fleet_of('r1', 'r2', capacity=3)
    tasks = [submit(fleet) for _ in range(4)]
    moving = [t for t in tasks if t.robot == 'r1']
    assert len(moving) == 2
    fleet.health('r1', Health.DEAD)
    assert assigned(fleet, 'r1')                       # until its leases end
    happened: list[str] = []
    for second in range(20):
        for task in fleet.machine.tasks.assigned_to('r2'):
            report(fleet, task)
        happened += fleet.wait(SECOND)
        if second < 14:
            assert not happened
    assert happened == ['TASK_RETURNED'] * 2 + ['TASK_ASSIGNED']      # one has no slot yet
    finish(fleet, fleet.machine.tasks.assigned_to('r2')[0])
    assert fleet.happened == ['TASK_FINISHED', 'TASK_ASSIGNED']
    assert [(t.robot, t.attempts) for t in moving] == [('r2', 2)] * 2


def test_the_attempts_of_a_removed_robot_end_with_their_leases() -> None:
    fleet = fleet_of('r1', 'r2')
    task = submit(fleet)
    fleet.configure(['r2'])
    assert task.state == TaskState.RUNNING
    fleet.configure(['r1', 'r2'])
    assert fleet.machine.members['r1'].running == 1    # what it began counts when it comes back
    fleet.configure(['r2'])
    fleet.wait(LEASE + GRACE)
    assert (task.robot, task.attempts) == ('r2', 2)


# Ends -------------------------------------------------------------------------------------------
def test_canceling_a_running_task_asks_and_then_waits_for_the_robot() -> None:
    fleet = fleet_of('r1')
    task = submit(fleet)
    version = fleet.machine.tasks.version('r1')
    assert fleet.do(CancelTask(task.id)).code == Code.OK
    assert fleet.happened == ['TASK_CANCEL_REQUESTED'] and task.state == TaskState.RUNNING
    assert fleet.machine.tasks.version('r1') > version
    [attempt] = fleet.machine.tasks.assigned_to('r1')
    assert attempt.cancel_requested
    assert fleet.do(CancelTask(task.id)).code == Code.OK and fleet.happened == []
    finish(fleet, task, Outcome.CANCELED)
    assert task.state == TaskState.CANCELED and fleet.happened == ['TASK_FINISHED']
    assert fleet.do(CancelTask(task.id)).code == Code.OK
    assert fleet.do(CancelTask('sweep-0')).code == Code.NOT_FOUND


def test_a_canceled_task_ends_in_bounded_time_though_its_robot_reports_on() -> None:
    fleet = fleet_of('r1')
    task = submit(fleet)
    fleet.do(CancelTask(task.id))
    for _ in range(14):
        report(fleet, task, elapsed=SECOND)
    assert fleet.wait(SECOND) == ['TASK_FINISHED'] and task.state == TaskState.CANCELED


def test_a_canceled_task_that_succeeds_all_the_same_has_succeeded() -> None:
    fleet = fleet_of('r1')
    task = submit(fleet)
    fleet.do(CancelTask(task.id))
    finish(fleet, task)
    assert task.state == TaskState.SUCCEEDED
    answer = fleet.do(CancelTask(task.id))
    assert answer.code == Code.NOT_FOUND and 'succeeded already' in answer.message


def test_a_robot_that_stops_without_being_asked_gives_the_task_back() -> None:
    fleet = fleet_of('r1', 'r2')
    task = submit(fleet)
    finish(fleet, task, Outcome.CANCELED)
    assert (task.robot, task.attempts) == ('r2', 2)


def test_deadlines_end_what_waits_and_stop_what_runs() -> None:
    fleet = fleet_of('r1')
    running, waiting = (submit(fleet, deadline=3 * SECOND) for _ in range(2))
    assert fleet.machine.clock_interval() == SECOND
    assert fleet.wait(3 * SECOND) == ['TASK_CANCEL_REQUESTED', 'TASK_FINISHED']
    assert waiting.state == TaskState.FAILED and 'deadline' in waiting.message
    assert running.state == TaskState.RUNNING and running.cancel_requested
    finish(fleet, running, Outcome.CANCELED)
    assert running.state == TaskState.FAILED and 'deadline' in running.message


def test_a_long_step_of_time_does_all_that_was_due_in_it() -> None:
    fleet = fleet_of('r1')
    task = submit(fleet, deadline=60 * SECOND)
    assert fleet.wait(3600 * SECOND) == ['TASK_CANCEL_REQUESTED', 'TASK_FINISHED']
    assert (task.state, task.attempts) == (TaskState.FAILED, 1)


def test_results_are_kept_for_a_bounded_time_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, 'MAX_FINISHED', 10)
    monkeypatch.setattr(tasks_module, 'MAX_RESULTS', 60)
    fleet = fleet_of('r1')
    tasks = [submit(fleet) for _ in range(25)]
    for task in tasks:
        finish(fleet, task)
        assert task.payload == ''
    table = fleet.machine.tasks
    assert len(table) == 10 and table.get(tasks[0].id) is None and table.get(tasks[-1].id) is tasks[-1]
    big = submit(fleet)
    finish(fleet, big, result='"' + 'x' * 57 + '"')
    assert len(table) == 10
    finish(fleet, last := submit(fleet), result='[1]')
    assert len(table) == 1 and table.get(last.id) is last
    fleet.wait(LIFETIME)
    assert len(table) == 0 and (table._results, table._payloads) == (0, 0)


def test_tasks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, 'MAX_TASKS', 5)
    monkeypatch.setattr(placement_module, 'MAX_LINES', 3)
    fleet = Fleet('r1')
    codes = [fleet.do(SubmitTask(f't{i}', '{}')).code for i in range(4)]
    assert codes == [Code.OK] * 3 + [Code.BUSY]
    codes = [fleet.do(SubmitTask('t0', '{}')).code for _ in range(3)]
    assert codes == [Code.OK] * 2 + [Code.BUSY]
    monkeypatch.setattr(tasks_module, 'MAX_TASKS', 9)
    monkeypatch.setattr(tasks_module, 'MAX_PAYLOADS', 12)
    assert [fleet.do(SubmitTask('t0', '{}')).code for _ in range(2)] == [Code.OK, Code.BUSY]


def test_a_retried_submission_is_one_task() -> None:
    fleet = fleet_of('r1')
    operation = SubmitTask('sweep', '{}')
    answers = [fleet.do(operation, ('@r1', 1)) for _ in range(3)]
    assert len({answer.task_id for answer in answers}) == 1 and len(fleet.machine.tasks) == 1


def test_tasks_are_listed_youngest_first() -> None:
    fleet = fleet_of('r1')
    fleet.can('r1', 'task:lift')
    tasks = [submit(fleet, type_) for type_ in ('sweep', 'lift', 'sweep')]
    listed = fleet.machine.tasks.listed
    assert listed() == (tasks[::-1], 3) and listed(limit=1) == (tasks[2:], 3)
    assert listed(type='sweep')[0] == [tasks[2], tasks[0]]
    assert listed(robot='r1') == (tasks[:1], 1) == listed(state=TaskState.RUNNING)
