# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The transport's loop against the real rclpy and rcl: it notices when the calls it is made of change."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import threading
from typing import Any

from muster.cluster import arrivals
from muster.cluster.arrivals import Events
from muster.cluster.loop import Loop, MOST
from muster.ros.qos import SERVICES
from processes import Fleet, wait_until
import pytest
import rclpy
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from std_msgs.msg import Int32
from std_srvs.srv import SetBool

pytestmark = pytest.mark.processes
#: More than one round of the loop takes.
DEPTH = 2 * MOST
#: A round of the loop lasts no longer than this without anything to do, nanoseconds.
PATIENCE = 10**9


class Owner:
    """A loop with a topic, a service that answers when it is told to, and a count of its rounds."""

    def __init__(self, domain: int, events: bool) -> None:
        """Make the node; the loop is not started."""
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node('owner', context=self.context)
        self.numbers: list[int] = []
        self.requests: list[tuple[Any, Any, Any]] = []
        self.failures: list[Exception] = []
        self.breaks = False
        self.loop = Loop(self.node, self.settle, self.failures.append, events)
        self.listen()
        self.loop.serve(SetBool, 'later', lambda *request: self.requests.append(request), SERVICES)

    def listen(self) -> None:
        """Subscribe to the numbers."""
        self.subscription = self.loop.listen(
            Int32, 'numbers', lambda m: self.numbers.append(deserialize_message(m, Int32).data), DEPTH)

    def settle(self) -> int:
        """Fail when told to."""
        if self.breaks:
            raise RuntimeError('told to break')
        return PATIENCE

    def close(self) -> None:
        """End everything."""
        self.loop.stop()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture(params=['events', 'events, eager', 'wait set'])
def owner(fleet: Fleet, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    """Give a running loop in the probe's domain."""
    monkeypatch.setattr(arrivals, 'STEADY', 0)   # an eager one polls from the first
    owner = Owner(int(fleet.environment['ROS_DOMAIN_ID']), request.param != 'wait set')
    owner.loop.eager = request.param == 'events, eager'
    owner.loop.start()
    try:
        yield owner
    finally:
        owner.close()


@contextmanager
def paused(owner: Owner) -> Iterator[None]:
    """Keep the loop's thread busy."""
    go_on = threading.Event()
    owner.loop.call_soon(lambda: go_on.wait(20) or None)
    try:
        yield
    finally:
        go_on.set()


def test_messages_come_in_order_and_all(fleet: Fleet, owner: Owner) -> None:
    publisher = fleet.probe.publisher(Int32, 'numbers', DEPTH)
    with paused(owner):  # so that more than one round takes have come when it goes on
        for number in range(DEPTH):
            publisher.publish(Int32(data=number))
    wait_until(lambda: len(owner.numbers) == DEPTH, 20, 'all numbers')
    assert owner.numbers == list(range(DEPTH))


def test_requests_are_answered_later_each_to_its_client(fleet: Fleet, owner: Owner) -> None:
    client = fleet.probe.client(SetBool, 'later')
    futures = [client.call_async(SetBool.Request(data=data)) for data in (True, False)]
    wait_until(lambda: len(owner.requests) == 2, 20, 'both requests')
    assert not any(future.done() for future in futures)

    def answer_backwards() -> None:
        for request, response, reply in reversed(owner.requests):
            response.message = str(request.data)
            reply(response)

    owner.loop.call(answer_backwards, 20)
    assert [fleet.probe.result(f, 20, 'answer').message for f in futures] == ['True', 'False']


def test_a_topic_can_be_left_and_listened_to_again(fleet: Fleet, owner: Owner) -> None:
    publisher = fleet.probe.publisher(Int32, 'numbers', DEPTH)
    owner.loop.call(lambda: owner.loop.leave(owner.subscription), 20)
    wait_until(lambda: publisher.get_subscription_count() == 0, 20, 'the end of the subscription')
    owner.loop.call(owner.listen, 20)
    wait_until(lambda: publisher.get_subscription_count() == 1, 20, 'the new subscription')
    publisher.publish(Int32(data=7))
    wait_until(lambda: owner.numbers, 20, 'the number')
    assert owner.numbers == [7]


def test_a_client_of_the_loop_gets_each_answer_where_it_belongs(owner: Owner) -> None:
    caller = owner.loop.call(lambda: owner.loop.client(SetBool, 'later', SERVICES), 20)
    wait_until(lambda: caller.ready, 20, 'the service')
    answers: list[tuple[str, str]] = []
    caller.call(SetBool.Request(data=True), lambda a: answers.append(('first', a.message)))
    forgotten = caller.call(SetBool.Request(data=True), lambda a: answers.append(('never', a.message)))
    caller.call(SetBool.Request(data=False), lambda a: answers.append(('last', a.message)))
    wait_until(lambda: len(owner.requests) == 3, 20, 'the requests')
    caller.forget(forgotten)

    def answer_all() -> None:
        for request, response, reply in owner.requests:
            response.message = str(request.data)
            reply(response)

    owner.loop.call(answer_all, 20)
    wait_until(lambda: len(answers) == 2, 20, 'the answers')
    assert answers == [('first', 'True'), ('last', 'False')]
    owner.loop.call(lambda: owner.loop.drop(caller), 20)
    wait_until(lambda: owner.node.count_clients('later') == 0, 20, 'the end of the client')


def test_answers_for_others_do_not_hide_the_own_one(owner: Owner) -> None:
    """The middleware brings every client the answers to all clients of a service."""
    callers = [owner.loop.call(lambda: owner.loop.client(SetBool, 'later', SERVICES), 20) for _ in range(3)]
    wait_until(lambda: all(caller.ready for caller in callers), 20, 'the service')
    answers: list[tuple[int, str]] = []
    for number, caller in enumerate(callers):
        for data in (True, False):
            caller.call(SetBool.Request(data=data), lambda a, n=number: answers.append((n, a.message)))
    wait_until(lambda: len(owner.requests) == 6, 20, 'the requests')

    def answer_all() -> None:
        for request, response, reply in owner.requests:
            response.message = str(request.data)
            reply(response)

    owner.loop.call(answer_all, 20)
    wait_until(lambda: len(answers) == 6, 20, 'the answers')
    assert sorted(answers) == [(n, message) for n in range(3) for message in ('False', 'True')]


def test_here_the_middleware_reports_what_arrives(fleet: Fleet) -> None:
    owner = Owner(int(fleet.environment['ROS_DOMAIN_ID']), events=True)
    try:
        assert isinstance(owner.loop._arrivals, Events)
    finally:
        owner.close()


def test_it_polls_under_steady_load_only(monkeypatch: pytest.MonkeyPatch) -> None:
    polls: list[None] = []
    monkeypatch.setattr(arrivals.os, 'sched_yield', lambda: polls.append(None))
    monkeypatch.setattr(arrivals, 'PAUSE', 60_000_000_000)
    events = Events()

    def wait(eager: bool) -> bool:
        polls.clear()
        events.wake()
        assert events.wait(PATIENCE, eager) == []
        return bool(polls)

    try:
        assert not any(wait(eager=True) for _ in range(arrivals.STEADY))
        assert wait(eager=True) and not wait(eager=False) and wait(eager=True)
        monkeypatch.setattr(arrivals, 'PAUSE', 0)   # so long is every wait
        wait(eager=True)
        assert not wait(eager=True)
    finally:
        events.close()


def test_calls_run_on_the_loop_and_bring_back_what_they_did(owner: Owner) -> None:
    assert owner.loop.call(lambda: threading.current_thread().name, 20) == 'cluster transport'
    with pytest.raises(ZeroDivisionError):
        owner.loop.call(lambda: 1 // 0, 20)
    assert owner.loop.call(lambda: 'alive', 20) == 'alive'


def test_an_error_inside_ends_the_loop_and_is_told(owner: Owner) -> None:
    owner.breaks = True
    owner.loop.call_soon(lambda: None)
    wait_until(lambda: owner.failures, 20, 'the failure')
    assert str(owner.failures[0]) == 'told to break'
    wait_until(lambda: not owner.loop._thread.is_alive(), 20, 'the end of the thread')
    with pytest.raises(TimeoutError, match='has ended'):
        owner.loop.call(lambda: None, 20)
