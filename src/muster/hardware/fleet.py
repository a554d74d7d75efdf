# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The devices of the other robots, heard from their latched `hardware/devices` when somebody asks."""
from __future__ import annotations

from functools import partial
from typing import Any

from muster.hardware import messages
from muster.hardware.devices import Device
from muster.ros import qos
from muster_interfaces.msg import DeviceArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

SUFFIX, TYPE = '/hardware/devices', 'muster_interfaces/msg/DeviceArray'
#: Robots that are listened to, and devices that are taken from each.
MAX_ROBOTS, MAX_DEVICES = 256, 4096
#: How long (seconds) the first answer of a robot that was just found is waited for.
PATIENCE = 1.0


class Fleet:
    """Listens to a robot from the first time on that somebody asks; all on the executor's thread."""

    def __init__(self, node: Node) -> None:
        """Hear nobody yet."""
        self._node = node
        self._own = node.get_namespace().rstrip('/') + SUFFIX
        self._subscriptions: dict[str, Any] = {}
        self._heard: dict[str, DeviceArray] = {}
        self._waiting: list[Future] = []

    async def devices(self) -> list[tuple[str, Device]]:
        """Return (robot, device) of every other robot that is there and answers within PATIENCE."""
        self._look()
        if self._subscriptions.keys() - self._heard.keys():
            await self._all_heard()
        return [(array.robot, device) for array in self._heard.values() for device in _devices(array)]

    def close(self) -> None:
        """Listen to nobody any more."""
        for topic in list(self._subscriptions):
            self._leave(topic)
        for future in self._waiting:
            future.set_result(None)
        self._waiting.clear()

    def _look(self) -> None:
        there = [name for name, kinds in self._node.get_topic_names_and_types()
                 if name.endswith(SUFFIX) and TYPE in kinds and name != self._own
                 and self._node.count_publishers(name)]
        for topic in self._subscriptions.keys() - set(there):
            self._leave(topic)
        for topic in there[:MAX_ROBOTS]:
            if topic not in self._subscriptions:
                self._subscriptions[topic] = self._node.create_subscription(
                    DeviceArray, topic, partial(self._take, topic), qos.STATUS)

    def _leave(self, topic: str) -> None:
        self._node.destroy_subscription(self._subscriptions.pop(topic))
        self._heard.pop(topic, None)

    def _take(self, topic: str, message: DeviceArray) -> None:
        if topic not in self._subscriptions:
            return
        self._heard[topic] = message
        if not self._subscriptions.keys() - self._heard.keys():
            for future in self._waiting:
                future.set_result(None)
            self._waiting.clear()

    async def _all_heard(self) -> None:
        future = Future(executor=self._node.executor)
        self._waiting.append(future)

        def give_up() -> None:
            timer.cancel()
            if future in self._waiting:
                self._waiting.remove(future)
                future.set_result(None)

        timer = self._node.create_timer(PATIENCE, give_up, clock=Clock(clock_type=ClockType.STEADY_TIME))
        try:
            await future
        finally:
            self._node.destroy_timer(timer)


def _devices(array: DeviceArray) -> list[Device]:
    found = []
    for message in array.devices[:MAX_DEVICES]:
        try:
            found.append(messages.device(message))
        except ValueError:
            continue   # of a version that knows more than this one
    return found
