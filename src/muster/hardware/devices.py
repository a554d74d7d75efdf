# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a device is, what happens to it, and what a source reports."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from muster.hardware.capabilities import Offer

UNKNOWN = 'unknown'


class Status(IntEnum):
    """Where a device is in its life; the numbers are those of muster_interfaces/msg/Device."""

    DISCOVERED = 1    # there, but not known what it is, and nothing drives it
    IDENTIFIED = 2    # its type is known, but nothing drives it yet
    CONNECTED = 3     # usable: it has a driver or a device node
    DEGRADED = 4
    ERROR = 5
    DISCONNECTED = 6  # gone; listed for a while with what was last known of it


class Change(IntEnum):
    """What an event tells; the numbers are those of muster_interfaces/msg/DeviceEvent."""

    DISCOVERED = 1
    CONNECTED = 2
    CHANGED = 3
    ERROR = 4
    DISCONNECTED = 5


@dataclass(frozen=True, slots=True)
class Device:
    """
    One physical (or simulated) device with all its nodes, as a source sees it.

    `id` is the identity the source proposes (from the serial number where there is one);
    `fallback_id` (from the position) is taken where another present device holds that identity.
    `capabilities` are names; `offers` tell their attributes, where these are known, one for each way
    in which the device has a capability. `candidates` is what it may be, the likeliest first, where
    that is not certain. Confidence is within 0..1; stamps are nanoseconds of ROS time and do not
    count in comparisons.
    """

    id: str
    name: str
    bus: str
    type: str = UNKNOWN
    status: Status = Status.CONNECTED
    confidence: float = 0.0
    simulated: bool = False
    path: str = ''
    nodes: tuple[str, ...] = ()
    vendor_id: str = ''
    product_id: str = ''
    serial: str = ''
    capabilities: tuple[str, ...] = ()
    offers: tuple[Offer, ...] = ()
    candidates: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()
    fallback_id: str = ''
    first_seen: int = field(default=0, compare=False)
    last_changed: int = field(default=0, compare=False)

    @property
    def every_offer(self) -> tuple[Offer, ...]:
        """Return its offers, and one without attributes for each capability that has none."""
        detailed = {offer.capability for offer in self.offers}
        return (*self.offers, *(Offer(name) for name in self.capabilities if name not in detailed))


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """One change of one device; `device` is as it is after the change, `stamp` ROS time in ns."""

    sequence: int
    kind: Change
    reason: str
    device: Device
    stamp: int


@dataclass(frozen=True, slots=True)
class Report:
    """
    What a source tells: all its devices (`complete`), or only what changed.

    `present` maps the source's own keys (a sysfs path, the id of a virtual device) to devices.
    In a complete report every other key of the source is gone; else the keys in `gone` are.
    `problem` says what keeps the source from working fully and the remedy; empty = all is well.
    `scan` is the number of the last requested scan that this report answers.
    """

    source: str
    present: Mapping[str, Device]
    reason: str
    complete: bool = True
    gone: tuple[str, ...] = ()
    problem: str = ''
    scan: int = 0
