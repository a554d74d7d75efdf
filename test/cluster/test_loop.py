# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The transport's loop against the real rclpy: it notices when the calls it is made of change."""
from __future__ import annotations

from collections.abc import Iterator
import threading
from typing import Any

from muster.cluster.loop import Loop
from muster.ros.qos import SERVICES
from processes import Fleet, wait_until
import pytest
import rclpy
from rclpy.node import Node
from std_msgs.msg import Int32
from std_srvs.srv import SetBool

pytestmark = pytest.mark.processes
#: A round of the loop lasts no longer than this without anything to do, nanoseconds.
PATIENCE = 10**9


class Owner:
    """A loop with a topic, a service that answers when it is told to, and a count of its rounds."""

    def __init__(self, domain: int) -> None:
        """Make the node; the loop is not started."""
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node('owner', context=self.context)
        self.numbers: list[int] = []
        self.requests: list[tuple[Any, Any, Any]] = []
        self.failures: list[Exception] = []
        self.breaks = False
        self.node.create_subscription(Int32, 'numbers', lambda m: self.numbers.append(m.data), 100)
        self.loop = Loop(self.node, self.settle, self.failures.append)
        self.loop.serve(SetBool, 'later', lambda *request: self.requests.append(request), SERVICES)

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


@pytest.fixture
def owner(fleet: Fleet) -> Iterator[Owner]:
    """Give a running loop in the probe's domain."""
    owner = Owner(int(fleet.environment['ROS_DOMAIN_ID']))
    owner.loop.start()
    try:
        yield owner
    finally:
        owner.close()


def test_messages_come_in_order_and_all(fleet: Fleet, owner: Owner) -> None:
    publisher = fleet.probe.publisher(Int32, 'numbers', 100)
    for number in range(100):
        publisher.publish(Int32(data=number))
    wait_until(lambda: len(owner.numbers) == 100, 20, 'all numbers')
    assert owner.numbers == list(range(100))


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
