# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Devices and events as ROS messages, and back."""
from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import KeyValue
from muster.hardware.capabilities import ATTRIBUTES, Offer
from muster.hardware.devices import Device, DeviceEvent, Status
from muster.hardware.registry import Past
from muster.ros.interfaces import ErrorCode  # before the messages: it explains missing ones
from muster_interfaces.msg import (
    Attribute,
    Device as DeviceMessage,
    DeviceEvent as DeviceEventMessage,
    DevicePast,
    Offer as OfferMessage,
)


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
        capabilities=list(device.capabilities), offers=[offer_message(offer) for offer in device.offers],
        candidates=list(device.candidates), first_seen=time_message(device.first_seen),
        last_changed=time_message(device.last_changed),
        properties=[KeyValue(key=key, value=value) for key, value in device.properties])


def offer_message(offer: Offer) -> OfferMessage:
    """Return the message of an offer."""
    attributes = []
    for name, value in offer.attributes:
        values = value if isinstance(value, tuple) else (value,)
        kind = ATTRIBUTES[name]
        if kind.type is float:
            attributes.append(Attribute(name=name, type=Attribute.NUMBER, unit=kind.unit,
                                        numbers=[float(one) for one in values]))
        else:
            type_ = Attribute.FLAG if kind.type is bool else Attribute.TEXT
            attributes.append(Attribute(name=name, type=type_, texts=[
                str(one).lower() if kind.type is bool else str(one) for one in values]))
    return OfferMessage(capability=offer.capability, attributes=attributes)


def offer(message: OfferMessage) -> Offer:
    """Return the offer of a message; CapabilityError (a ValueError) where it is unsound."""
    attributes = {}
    for item in message.attributes:
        values = {Attribute.NUMBER: tuple(item.numbers),
                  Attribute.FLAG: tuple({'true': True, 'false': False}.get(t, t) for t in item.texts),
                  }.get(item.type, tuple(item.texts))
        attributes[item.name] = values[0] if len(values) == 1 else values
    return Offer.of(message.capability, **attributes)


def past_message(past: Past) -> DevicePast:
    """Return the message of one event of a device's past."""
    return DevicePast(stamp=time_message(past.stamp), type=int(past.kind), status=int(past.status),
                      reason=past.reason)


def event_message(event: DeviceEvent) -> DeviceEventMessage:
    """Return the message of an event."""
    return DeviceEventMessage(stamp=time_message(event.stamp), sequence=event.sequence, type=int(event.kind),
                              reason=event.reason, device=device_message(event.device))


def device(message: DeviceMessage) -> Device:
    """
    Return the device of a message, as its publisher sees it; nothing is checked but the status.

    Status 0 (not set) means connected. ValueError for a number that is no status or an unsound offer.
    """
    return Device(
        id=message.id, name=message.name, bus=message.bus, type=message.type,
        status=Status(message.status or Status.CONNECTED), confidence=message.confidence, path=message.path,
        nodes=tuple(message.nodes), vendor_id=message.vendor_id, product_id=message.product_id,
        serial=message.serial, capabilities=tuple(message.capabilities),
        offers=tuple(map(offer, message.offers)), candidates=tuple(message.candidates),
        properties=tuple((item.key, item.value) for item in message.properties))


def no_device(identity: str) -> str:
    """Return what is said of an id that nobody has."""
    return f"no device '{identity[:200]}'; list_devices shows all ids"


def inactive_text(node: str) -> str:
    """Return what a node that is not active answers, and the remedy."""
    return f"the node is not active: 'ros2 lifecycle set {node} activate'"


def inactive(response: Any, node: str) -> Any:
    """Return the response of a node that is not active."""
    response.success, response.error_code, response.message = False, ErrorCode.INACTIVE, inactive_text(node)
    return response
