# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Real processes, killed, stopped and restarted at random, while clients use locks as documented."""
from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
import os
from random import Random
import signal
import threading
import time
from typing import Any

from builtin_interfaces.msg import Duration
import linearizability
from linearizability import Call
from muster.cluster.state.commands import Acquire, Answer, Code, Release, Renew
from muster.ros.qos import EVENTS
from muster_interfaces.msg import ClusterEvent, ErrorCode
from muster_interfaces.srv import AcquireLock, GetClusterStatus, OpenSession, ReleaseLock, RenewLock
from network import Network, network
from processes import Fleet, wait_until
import pytest
from robots import check_history, comparable, NAMES, Robots

pytestmark = pytest.mark.processes
SECOND = 1_000_000_000
CLIENTS = 6
#: Locks are given up for others after so many seconds: long histories are hard to explain.
PERIOD = 10
#: How long a client waits for an answer, and how often it repeats a request, seconds.
PATIENCE, TRIES = 2.5, 12


@dataclass
class History:
    """What all clients saw, on one clock."""

    calls: list[Call] = field(default_factory=list)
    views: dict[str, list[tuple[int, int, int]]] = field(default_factory=lambda: defaultdict(list))
    reads: list[tuple[int, int]] = field(default_factory=list)       # when it began, and what it had applied

    def acknowledged(self, operation: type) -> list[Call]:
        """Return the calls that were answered with OK."""
        return [call for call in self.calls if isinstance(call.operation, operation)
                and call.answer is not None and call.answer.code == Code.OK]


class Contender(threading.Thread):
    """A program that takes locks with request ids and repeats what got no answer, at any robot."""

    def __init__(self, robots: Robots, history: History, name: str, stop: threading.Event) -> None:
        """Prepare; `start` begins."""
        super().__init__(name=name)
        self._robots, self._history, self._stop_asked = robots, history, stop
        self._random = Random(name)
        self._session, self._sequence = '', 0
        self._began = time.monotonic_ns()
        self.error: Exception | None = None

    def run(self) -> None:
        """Take, renew and give back locks."""
        try:
            while not self._stop_asked.is_set():
                self._read() if self._random.random() < 0.1 else self._use_a_lock()
                self._stop_asked.wait(self._random.random() * 0.1)
        except Exception as error:
            self.error = error

    def _use_a_lock(self) -> None:
        period = (time.monotonic_ns() - self._began) // (PERIOD * SECOND)
        name = f'{self._random.choice("ab")}{period}'
        lease = self._random.randrange(SECOND // 2, 2 * SECOND)
        wait = self._random.choice((0, self._random.randrange(SECOND)))
        sent = time.monotonic_ns()
        token = self._ask(Acquire(name, self.name, lease, wait), 'acquire_lock', AcquireLock, name=name,
                          lease=_duration(lease), wait_timeout=_duration(wait)).token
        if wait and token:       # when it was granted is not known
            sent = time.monotonic_ns()
            token *= self._ask(Renew(name, token, 0), 'renew_lock', RenewLock, name=name,
                               fencing_token=token).code == Code.OK
        if not token:
            return
        answered, until = time.monotonic_ns(), sent + lease * 99 // 100
        self._stop_asked.wait(self._random.random() * 0.05)
        gives_back = self._random.random() < 0.8
        if gives_back:
            until = min(until, time.monotonic_ns())
        if answered < until:     # else its lease was over when it heard of it, as after many repetitions
            self._history.views[name].append((answered, until, token))
        if gives_back:
            self._ask(Release(name, token), 'release_lock', ReleaseLock, name=name, fencing_token=token)

    def _ask(self, operation: Any, service: str, kind: type, **fields: Any) -> Answer:
        """Ask until there is an answer, with one request id."""
        if not self._session:
            opened = self._call('open_session', OpenSession)
            if opened is None or not opened.success:
                return Answer(Code.NO_QUORUM)
            self._session, self._sequence = opened.session, 0
        self._sequence += 1
        request = self._session, self._sequence
        for _ in range(TRIES):
            call = Call(self.name, operation, time.monotonic_ns(), request)
            response = self._call(service, kind, request_id=f'{request[0]}:{request[1]}', **fields)
            if response is not None and response.error_code in (ErrorCode.INACTIVE, ErrorCode.STORAGE):
                continue     # it has just been started, or takes nothing: nothing was done
            self._history.calls.append(call)
            if response is None:
                continue
            answer = Answer(Code(response.error_code), response.message,
                            getattr(response, 'fencing_token', 0))
            call.returns(answer, time.monotonic_ns())
            if answer.code == Code.SESSION_EXPIRED:
                self._session = ''
            if answer.code not in (Code.OUTCOME_UNKNOWN, Code.NO_QUORUM, Code.BUSY):
                return answer
        return Answer(Code.OUTCOME_UNKNOWN)

    def _read(self) -> None:
        began = time.monotonic_ns()
        response = self._call('get_status', GetClusterStatus, linearizable=True)
        if response is not None and response.success:
            self._history.reads.append((began, response.status.applied_index))

    def _call(self, service: str, kind: type, **fields: Any) -> Any:
        """Call a service of any robot; return None where no answer comes."""
        name = self._random.choice(NAMES)
        client = self._robots.fleet.probe.client(kind, f'/{name}/cluster/{service}')
        done = threading.Event()
        future = client.call_async(kind.Request(**fields))
        future.add_done_callback(lambda _: done.set())
        if done.wait(PATIENCE):
            return future.result()
        client.remove_pending_request(future)
        return None


def _duration(nanoseconds: int) -> Duration:
    return Duration(sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND)


class Chaos:
    """What befalls the robots."""

    def __init__(self, robots: Robots, seed: int, wires: Network | None) -> None:
        """Do nothing yet; with `wires` robots can also be unplugged."""
        self._robots, self._random, self._wires = robots, Random(seed), wires
        self.done: list[str] = []

    def strike(self, stop: threading.Event) -> None:
        """Do one evil thing to some robots and undo it again."""
        random, robots = self._random, self._robots
        leaders = [name for name in NAMES if robots.status(name).leader == name]
        victims = random.sample(NAMES, random.choice((1, 1, 1, 2, 3)))
        if leaders and random.random() < 0.5:
            victims = leaders[:1]
        faults = [self._kill, self._kill, self._pause, *([self._unplug] if self._wires else [])]
        fault = random.choice(faults)
        self.done.append(f'{fault.__name__} {victims}')
        fault(victims, stop)
        stop.wait(random.random() * 3)

    def _kill(self, victims: list[str], stop: threading.Event) -> None:
        self._robots.kill(*victims)
        stop.wait(self._random.random() * 2)
        self._robots.start(*victims)

    def _pause(self, victims: list[str], stop: threading.Event) -> None:
        self._signal(victims, signal.SIGSTOP)
        try:
            stop.wait(self._random.random() * 2)
        finally:
            self._signal(victims, signal.SIGCONT)

    def _unplug(self, victims: list[str], stop: threading.Event) -> None:
        assert self._wires is not None
        self._wires.cut(*victims)
        stop.wait(self._random.random() * 3)
        self._wires.join(*victims)

    def _signal(self, names: list[str], number: signal.Signals) -> None:
        for name in names:
            self._robots.process(name).send(number)


def random_faults(fleet: Fleet, seconds: float, wires: Network | None = None) -> None:
    """Let clients and faults rage for a while, and then check all that was promised."""
    robots = Robots(fleet)
    heard = {name: fleet.probe.listen(ClusterEvent, f'/{name}/cluster/events', EVENTS) for name in NAMES}
    robots.start()
    robots.leader()
    for name in NAMES:
        for kind, service in ((AcquireLock, 'acquire_lock'), (RenewLock, 'renew_lock'),
                              (ReleaseLock, 'release_lock'), (GetClusterStatus, 'get_status'),
                              (OpenSession, 'open_session')):
            fleet.probe.client(kind, f'/{name}/cluster/{service}')
    history, stop, chaos = History(), threading.Event(), Chaos(robots, int(seconds), wires)
    clients = [Contender(robots, history, f'client{i}', stop) for i in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            chaos.strike(stop)
        before = len(history.acknowledged(Acquire))
        wait_until(lambda: any(client.error for client in clients) or
                   len(history.acknowledged(Acquire)) > before + CLIENTS, 60, 'clients are served again')
    except AssertionError:
        print('\n'.join([*chaos.done, *map(str, history.calls[-2 * CLIENTS:]),
                         *(f'{robots.status(name)} {robots.process(name).text}' for name in NAMES)]))
        raise
    finally:
        stop.set()
        for client in clients:
            client.join(PATIENCE * TRIES + 10)
    for client in clients:
        assert not client.is_alive() and client.error is None, f'{client.name}: {client.error!r}'
    check_clients(history)
    check_members(robots, heard, history)
    print(f'{seconds:g} s, {len(chaos.done)} faults, {len(history.calls)} calls, '
          f'{len(history.acknowledged(Acquire))} grants, {len(history.reads)} linearizable reads: all hold')


def check_clients(history: History) -> None:
    """Check what the clients saw: one holder at a time in their own views, growing tokens, one order."""
    for name, views in history.views.items():
        views.sort()
        for (_, until, token), (since, _, following) in pairwise(views):
            assert until <= since and token < following, \
                f"'{name}': {token} until {until} and {following} since {since}"
    granted = sorted((call.returned, call.answer.token) for call in history.acknowledged(Acquire)
                     if call.answer)
    for began, applied in history.reads:
        known = max((token for returned, token in granted if returned < began), default=0)
        assert applied >= known, f'a read saw the log up to {applied} when {known} was acknowledged'
    linearizability.check(history.calls)


def check_members(robots: Robots, heard: dict[str, list[ClusterEvent]], history: History) -> None:
    """Check that all members tell one history, with everything in it that was acknowledged."""
    def level() -> bool:
        told = [comparable(robots.events(name)) for name in NAMES]
        return told.count(told[0]) == len(NAMES)
    wait_until(level, 60, 'all members tell the same events')
    union: dict[tuple[int, int], Any] = {}
    events = [event for name in NAMES for event in (*heard[name], *robots.events(name))]
    for event in events:
        if event.type != ClusterEvent.GAP:
            number = event.revision, event.ordinal
            told = union.setdefault(number, event)
            assert comparable([told]) == comparable([event]), f'two events have the number {number}'
    ordered = [union[number] for number in sorted(union)]
    check_history(ordered)
    noted = {(event.type, event.subject, event.fencing_token) for event in ordered}
    for operation, kind in ((Acquire, ClusterEvent.LOCK_ACQUIRED), (Release, ClusterEvent.LOCK_RELEASED)):
        for call in history.acknowledged(operation):
            token = getattr(call.operation, 'token', 0) or (call.answer.token if call.answer else 0)
            assert (kind, call.operation.name, token) in noted, f'{call} was lost'


@pytest.mark.timeout(180)
def test_twenty_seconds_of_random_faults(fleet: Fleet) -> None:
    random_faults(fleet, 20)


@pytest.mark.own_process
@pytest.mark.timeout(180)
def test_twenty_seconds_of_random_faults_and_partitions(fleet: Fleet) -> None:
    with network(fleet, NAMES) as wires:
        random_faults(fleet, 20, wires)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_five_minutes_of_random_faults(fleet: Fleet) -> None:
    random_faults(fleet, float(os.environ.get('CHAOS_SECONDS', 300)))
