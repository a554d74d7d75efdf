# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Devices and events as ROS messages, and back."""
from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import KeyValue
from muster.hardware.devices import Device, DeviceEvent, Status
from muster.ros.interfaces import ErrorCode  # before the messages: it explains missing ones
from muster_interfaces.msg import Device as DeviceMessage, DeviceEvent as DeviceEventMessage


def time_message(nanoseconds: int) -> Time:
    """Return a stamp."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)


def device_message(device: Device) -> DeviceMessage:
    """Return the message of a device."""
    return DeviceMessage(
        id=device.id, name=device.name, type=device.type, bus=device.bus, status=int(device.status),
        confidence=device.confidence, simulated=device.simulated, path=device.path, nodes=list(device.nodes),
        vendor_id=device.vendor_id, product_id=device.product_id, serial=device.serial,
        capabilities=list(device.capabilities), first_seen=time_message(device.first_seen),
        last_changed=time_message(device.last_changed),
        properties=[KeyValue(key=key, value=value) for key, value in device.properties])


def event_message(event: DeviceEvent) -> DeviceEventMessage:
    """Return the message of an event."""
    return DeviceEventMessage(stamp=time_message(event.stamp), sequence=event.sequence, type=int(event.kind),
                              reason=event.reason, device=device_message(event.device))


def device(message: DeviceMessage) -> Device:
    """
    Return the device of a message, as its publisher sees it; nothing is checked but the status.

    Status 0 (not set) means connected. ValueError for a number that is no status.
    """
    return Device(
        id=message.id, name=message.name, bus=message.bus, type=message.type,
        status=Status(message.status or Status.CONNECTED), confidence=message.confidence, path=message.path,
        nodes=tuple(message.nodes), vendor_id=message.vendor_id, product_id=message.product_id,
        serial=message.serial, capabilities=tuple(message.capabilities),
        properties=tuple((item.key, item.value) for item in message.properties))


def inactive_text(node: str) -> str:
    """Return what a node that is not active answers, and the remedy."""
    return f"the node is not active: 'ros2 lifecycle set {node} activate'"


def inactive(response: Any, node: str) -> Any:
    """Return the response of a node that is not active."""
    response.success, response.error_code, response.message = False, ErrorCode.INACTIVE, inactive_text(node)
    return response
