# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The client library against real members, which die, pause and come back."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
import signal
import sys
import threading

from muster.cluster.client import (
    Fleet,
    FleetUnavailable,
    Lock,
    LockLost,
    LockTimeout,
    OutcomeUnknown,
    RequestRefused,
)
from muster_interfaces.msg import ClusterEvent
from processes import Fleet as Processes, Process, wait_until
import pytest
from robots import check_history, Robots

pytestmark = pytest.mark.processes
EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
#: Patience [s] with a busy machine.
READY = 60.0


@pytest.fixture
def robots(fleet: Processes) -> Robots:
    """Give three members that have a leader."""
    started = Robots(fleet)
    started.start()
    started.leader()
    return started


@pytest.fixture
def client(fleet: Processes) -> Iterator[Callable[..., Fleet]]:
    """Give a function that makes clients; all are closed afterwards."""
    made: list[Fleet] = []

    def make(robot: str = 'r1', **arguments: object) -> Fleet:
        domain = int(fleet.environment['ROS_DOMAIN_ID'])
        made.append(Fleet(robot, domain_id=domain, patience=READY, **arguments))  # type: ignore[arg-type]
        return made[-1]
    yield make
    for each in made:
        each.close()


def test_a_lock_is_renewed_while_it_is_held_and_free_afterwards(
        robots: Robots, client: Callable[..., Fleet]) -> None:
    mine, other = client('r1', owner='me'), client('r2')
    with mine.lock('dock', lease=1.0) as lock:
        assert lock.held and lock.token > 0 and 0 < lock.remaining <= 1
        with pytest.raises(LockTimeout):          # twice the lease: it was renewed meanwhile
            other.lock('dock', timeout=2.0).acquire()
        assert [(info.owner, info.fencing_token) for info in mine.locks('do')] == [('me', lock.token)]
        with pytest.raises(LockTimeout):
            mine.lock('dock', timeout=0.0).acquire()       # not re-entrant
    assert not lock.held and not lock.lost and lock.token == 0
    with pytest.raises(LockLost, match='acquire it first'):
        lock.check()
    second = other.lock('dock', timeout=5.0).acquire()
    assert second.token > 0 and second.held
    second.release()
    second.release()
    with lock:                                             # it may be taken again
        assert lock.held


def test_a_wait_ends_with_the_lock_or_by_cancelling(robots: Robots, client: Callable[..., Fleet]) -> None:
    mine, other = client('r1'), client('r2')
    first = mine.lock('dock', lease=0.5).acquire()
    waiting = other.lock('dock', lease=5.0).acquire_async()
    given_up = other.lock('dock', lease=5.0).acquire_async()
    wait_until(lambda: len(mine.locks()[0].waiters) == 2, READY, 'both wait')
    assert given_up.cancel()
    wait_until(lambda: len(mine.locks()[0].waiters) == 1, READY, 'one has given up')
    assert not waiting.done()
    first.release()
    granted = waiting.result(READY)
    assert granted.held and granted.remaining > 4.0, 'renewed before it is used'


def test_a_client_survives_the_death_of_the_robot_that_it_talks_to(
        robots: Robots, client: Callable[..., Fleet]) -> None:
    mine, other = client('r1'), client('r2')
    lost: list[Lock] = []
    with mine.lock('dock', lease=5.0, on_lost=lost.append) as lock:
        waiting = mine.lock('gate', lease=5.0)
        holder = other.lock('gate', lease=5.0).acquire()
        wanted = waiting.acquire_async()
        wait_until(lambda: len(other.locks('gate')[0].waiters) == 1, READY, 'it waits through r1')
        robots.kill('r1')
        with pytest.raises(LockTimeout):
            other.lock('dock', timeout=6.0).acquire()      # longer than the lease
        holder.release()
        assert wanted.result(READY).held                   # served by another robot now
        assert lock.held and not lost
        assert mine.submit('nothing').info().type == 'nothing'
    check_history(robots.events('r2'))


def test_a_lock_that_cannot_be_renewed_is_lost_before_anybody_else_gets_it(
        robots: Robots, client: Callable[..., Fleet]) -> None:
    lost = threading.Event()
    mine, other = client('r1'), client('r2')
    held_at_the_grant: list[bool] = []
    lock = mine.lock('dock', lease=3.0, on_lost=lambda _: lost.set()).acquire()
    wanted = other.lock('dock', lease=60.0).acquire_async()

    def granted(future: Future[Lock]) -> None:
        held_at_the_grant.append(lock.held)
    wanted.add_done_callback(granted)
    for name in robots.names:
        robots.process(name).send(signal.SIGSTOP)
    assert lost.wait(READY)
    assert not lock.held and lock.lost
    with pytest.raises(LockLost, match='not held any more'):
        lock.check()
    for name in robots.names:
        robots.process(name).send(signal.SIGCONT)
    taken = wanted.result(READY)
    assert taken.held and held_at_the_grant == [False]
    taken.release()
    with pytest.raises(LockLost), lock:
        pass_on = lock.token
        mine.ask('release_lock', release(lock, pass_on))   # somebody gives it back behind its back
        wait_until(lambda: lock.lost, READY, 'the next renewal finds out')


def release(lock: Lock, token: int) -> object:
    """Return a request that gives a lock back."""
    from muster_interfaces.srv import ReleaseLock
    return ReleaseLock.Request(name=lock.name, fencing_token=token)


def test_without_a_majority_the_client_says_what_happened(
        robots: Robots, fleet: Processes, client: Callable[..., Fleet]) -> None:
    domain = int(fleet.environment['ROS_DOMAIN_ID'])
    mine = client('r1')
    wait_until(lambda: mine.status().member == 'r1', READY, 'the own robot is found')
    robots.kill('r2', 'r3')
    with Fleet('r1', domain_id=domain, patience=3.0) as hasty:
        with pytest.raises((FleetUnavailable, OutcomeUnknown)):
            hasty.register('map')
        assert hasty.find() == []
    with pytest.raises(FleetUnavailable, match='closed'):
        hasty.status()
    with Fleet('r9', domain_id=domain, patience=1.0) as stranger, \
            pytest.raises(FleetUnavailable, match="no cluster with a robot 'r9' was found"):
        stranger.status()
    robots.start('r2')
    mine.register('map')                                    # as soon as it can be done


def test_a_callback_is_told_that_it_must_not_wait(robots: Robots, client: Callable[..., Fleet]) -> None:
    mine = client('r1')
    errors: list[Exception] = []
    done = threading.Event()

    def callback(future: Future[Lock]) -> None:
        with suppress(ZeroDivisionError):
            try:
                future.result().release()
            except RuntimeError as error:
                errors.append(error)
        done.set()
    mine.lock('dock').acquire_async().add_done_callback(callback)
    assert done.wait(READY) and 'must not wait' in str(errors[0])
    with pytest.raises(ValueError, match='lease must be within'):
        mine.lock('dock', lease=0.01)
    with pytest.raises(RequestRefused, match="there is no task 'x'"):
        mine.task('x').cancel()


def test_the_example_of_a_lock_runs(robots: Robots, fleet: Processes) -> None:
    processes = []
    for name in ('r1', 'r2'):
        command = [sys.executable, str(EXAMPLES / 'lock_dock.py'), '--robot', name, '--seconds', '0.5']
        process = Process(command, fleet.folder / f'{name}.example', fleet.environment)
        fleet.processes[f'{name}.example'] = process
        processes.append(process)
    tokens = set()
    for process in processes:
        assert process.wait(READY) == 0, process.text
        first, last = process.text.splitlines()
        assert first.startswith('dock_3 is ours with token ') and last == 'dock_3 is free again'
        tokens.add(int(first.split()[-1]))
    assert len(tokens) == 2
    check_history(robots.events('r3'))
    assert ClusterEvent.LOCK_EXPIRED not in {event.type for event in robots.events('r3')}
