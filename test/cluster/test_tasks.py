# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tasks over real processes: placed, executed by workers, canceled, and moved when a robot dies."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import signal
import subprocess
import sys

from muster.cluster.client import Fleet, Task, TaskFailed
from muster.cluster.executor import announcement, goal_id
from muster.cluster.state.commands import Health
from muster.cluster.state.members import Robot
from muster.ros.qos import EVENTS
from muster_interfaces.msg import TaskInfo
from processes import Fleet as Processes, Process, wait_until
import pytest
from robots import Robots

WORKER = Path(__file__).resolve().parents[2] / 'examples' / 'patrol_worker.py'
#: Patience [s] with a busy machine.
READY = 60.0


# Capabilities -----------------------------------------------------------------------------------
def robot(*capabilities: str) -> Robot:
    made = Robot('r1', 7, 0)
    made.capabilities = frozenset(capabilities)
    return made


def test_a_robot_announces_what_the_cluster_does_not_know() -> None:
    operation = announcement(robot('arm', 'task:old'), frozenset({'map', 'task:new'}), 4)
    assert operation is not None
    assert (operation.robot, operation.add, operation.remove) == ('r1', ('map', 'task:new'), ('task:old',))
    operation.check()
    assert announcement(robot('arm', 'map'), frozenset({'map'}), 4) is None, 'somebody else added the arm'
    operation = announcement(robot(), frozenset(), 2)
    assert operation is not None and operation.capacity == 2


def test_a_robot_that_is_declared_dead_waits_and_many_workers_are_announced_in_parts() -> None:
    dead = robot()
    dead.health = Health.DEAD
    assert announcement(dead, frozenset({'map'}), 4) is None
    wanted, known = frozenset(f'task:t{i}' for i in range(150)), robot()
    for _ in range(3):
        operation = announcement(known, wanted, 4)
        assert operation is not None
        operation.check()
        known.capabilities |= set(operation.add)
    assert announcement(known, wanted, 4) is None


def test_an_attempt_has_one_goal_however_often_it_is_sent() -> None:
    ids = [bytes(goal_id(key).uuid) for key in (('a-1', 2), ('a-1', 3), ('b-1', 2), ('a-1', 2))]
    assert ids[0] == ids[3] and len(set(ids)) == 3 and {len(i) for i in ids} == {16}


# Over DDS ---------------------------------------------------------------------------------------
class Tasks:
    """Three robots, workers for some of them, and a client."""

    def __init__(self, processes: Processes) -> None:
        """Start the robots."""
        self.processes, self.robots = processes, Robots(processes)
        self.robots.start()
        self.fleet = Fleet('r1', domain_id=int(processes.environment['ROS_DOMAIN_ID']), patience=READY)
        self.robots.leader()

    def worker(self, robot: str) -> Process:
        """Start the example's worker on a robot and wait until the cluster knows."""
        command = [sys.executable, str(WORKER), '--ros-args', '-r', f'__ns:=/{robot}']
        process = Process(command, self.processes.folder / f'{robot}.worker.txt', self.processes.environment)
        self.processes.processes[f'{robot}.worker'] = process
        wait_until(lambda: self.can_patrol(robot), READY, f'the worker of {robot} is known')
        return process

    def can_patrol(self, robot: str) -> bool:
        """Return whether the cluster knows a worker of a robot."""
        return any(m.id == robot and 'task:patrol' in m.capabilities for m in self.fleet.status().members)

    def patrol(self, points: int, seconds: float = 0.1, **arguments: float) -> Task:
        """Submit a task of so many steps."""
        return self.fleet.submit('patrol', {'points': [f'p{i}' for i in range(points)], 'seconds': seconds},
                                 **arguments)

    def begun(self, task: Task) -> str:
        """Wait until a worker has told of its progress, and return its robot."""
        wait_until(lambda: task.info().progress > 0, READY, 'it makes progress')
        return str(task.info().robot)


@pytest.fixture
def tasks(fleet: Processes) -> Iterator[Tasks]:
    """Give three robots and a client."""
    made = Tasks(fleet)
    yield made
    made.fleet.close()


@pytest.mark.processes
def test_a_task_runs_on_the_robot_that_can_and_tells_how_far_it_is(tasks: Tasks) -> None:
    seen = tasks.processes.probe.listen(TaskInfo, '/r3/cluster/tasks', EVENTS)
    early = tasks.patrol(2)                       # waits for a robot that can
    assert early.info().status == TaskInfo.WAITING and not early.done
    tasks.worker('r2')
    assert early.wait(READY).result == {'visited': ['p0', 'p1'], 'by': '/r2'}
    info = early.info()
    assert (info.robot, info.fencing_token) == ('r2', 0)    # a worker that has just come may miss a goal
    wait_until(lambda: [m.status for m in seen if m.task_id == early.id and m.status > 2], READY, 'the end')
    statuses = [m.status for m in seen if m.task_id == early.id]
    assert statuses[-1] == TaskInfo.SUCCEEDED and TaskInfo.RUNNING in statuses

    long = tasks.patrol(1000)
    assert tasks.begun(long) == 'r2' and long.info().note.startswith('on the way to p')
    assert tasks.fleet.tasks('patrol', 'r2', TaskInfo.RUNNING)[0].task_id == long.id
    with pytest.raises(TimeoutError):
        long.wait(0.1)
    tasks.fleet.task(long.id).cancel()
    assert long.wait(READY).info().status == TaskInfo.CANCELED
    with pytest.raises(TaskFailed, match='was canceled'):
        _ = long.result

    broken = tasks.fleet.submit('patrol', {}, max_attempts=2).wait(READY)
    with pytest.raises(TaskFailed, match="KeyError: 'points'"):
        _ = broken.result
    assert broken.info().attempts == 2
    with pytest.raises(TaskFailed, match='deadline'):
        _ = tasks.fleet.submit('fly', deadline=0.2).wait(READY).result


@pytest.mark.processes
def test_the_tasks_of_a_worker_that_dies_or_ends_move_to_another(tasks: Tasks) -> None:
    for name in ('r2', 'r3'):
        tasks.worker(name)
    task = tasks.patrol(1000, lease=120.0)
    assert tasks.begun(task) == 'r2'
    tasks.processes.processes['r2.worker'].send(signal.SIGKILL)
    wait_until(lambda: task.info().robot == 'r3', READY, 'it moved, long before its lease has ended')
    tasks.worker('r2')
    assert tasks.begun(task) == 'r3'
    last = tasks.processes.processes['r3.worker']
    last.send(signal.SIGTERM)                     # in the middle of it: it stops, and says so
    assert last.wait(READY) == 0 and 'Traceback' not in last.text
    wait_until(lambda: task.info().robot == 'r2', READY, 'it moved again')
    assert task.info().attempts == 3
    wait_until(lambda: not tasks.can_patrol('r3'), READY, 'the capability is gone')


@pytest.mark.processes
def test_the_task_of_a_robot_that_dies_moves_after_its_lease(tasks: Tasks) -> None:
    for name in ('r2', 'r3'):
        tasks.worker(name)
    task = tasks.patrol(40, lease=2.0, cancel_grace=1.0)
    assert tasks.begun(task) == 'r2'
    token = task.info().fencing_token
    tasks.processes.processes['r2.worker'].send(signal.SIGKILL)
    tasks.robots.kill('r2')
    wait_until(lambda: task.info().robot == 'r3', READY, 'it moved')
    assert task.info().fencing_token > token
    assert task.wait(READY).result['by'] == '/r3'


@pytest.mark.processes
def test_a_robot_that_is_cut_off_stops_its_worker_before_another_begins(tasks: Tasks) -> None:
    worker = tasks.worker('r2')
    task = tasks.patrol(1000, lease=3.0, cancel_grace=5.0, max_attempts=1)
    assert tasks.begun(task) == 'r2'
    others = [name for name in tasks.robots.names if name != 'r2']
    for name in others:
        tasks.robots.process(name).send(signal.SIGSTOP)
    wait_until(lambda: 'stopped as asked' in worker.text, READY, 'the worker was canceled')
    for name in others:
        tasks.robots.process(name).send(signal.SIGCONT)
    with pytest.raises(TaskFailed, match='lease'):
        _ = task.wait(READY).result


@pytest.mark.processes
def test_a_node_that_restarts_does_not_begin_a_task_twice(tasks: Tasks) -> None:
    worker = tasks.worker('r2')
    task = tasks.patrol(100, lease=30.0)
    assert tasks.begun(task) == 'r2'
    tasks.robots.kill('r2')
    tasks.robots.start('r2')
    assert task.wait(READY).result['by'] == '/r2'
    assert task.info().attempts == 2, 'the second was not begun while the first went on'
    assert worker.text.count('stopped as asked') == 1


@pytest.mark.processes
def test_many_tasks_are_executed_a_few_at_a_time(tasks: Tasks) -> None:
    tasks.worker('r2')
    tasks.worker('r3')
    submitted = [tasks.patrol(1, 0.0) for _ in range(60)]
    results = [task.wait(READY).result['by'] for task in submitted]
    assert set(results) == {'/r2', '/r3'}
    assert {task.info().attempts for task in submitted} == {1}


def test_a_worker_without_a_type_is_refused() -> None:
    done = subprocess.run([sys.executable, '-c', 'from muster.cluster.worker import Worker\nWorker(None)'],
                          capture_output=True, text=True, timeout=READY)
    assert "Worker must say which tasks it executes: task_type = '...'" in done.stderr
