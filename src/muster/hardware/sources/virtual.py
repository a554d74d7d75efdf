# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The devices of a simulated robot, as its world publishes them: checked, never trusted."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from muster.hardware.assembly import clean
from muster.hardware.device_data import WORD
from muster.hardware.devices import Device, Report, Status, UNKNOWN

MAX_DEVICES = 256
MAX_ITEMS = 64      # nodes, capabilities, properties of one device
MAX_TEXT = 256      # characters

SOURCE = 'virtual_devices'


class SnapshotError(ValueError):
    """A snapshot is refused as a whole; the message names the device, the field and the bound."""


def snapshot(devices: Iterable[Device]) -> Report:
    """Return a complete report of all devices of a snapshot; SnapshotError where one is wrong."""
    present: dict[str, Device] = {}
    for device in devices:
        if len(present) >= MAX_DEVICES:
            raise SnapshotError(f'more than {MAX_DEVICES} devices')
        _check(device)
        if device.id in present:
            raise SnapshotError(f"device '{device.id}' is given twice")
        if device.status != Status.DISCONNECTED:
            present[device.id] = replace(
                device, simulated=True, bus=device.bus or 'virtual', type=device.type or UNKNOWN,
                fallback_id=f'virtual-{device.id}')
    return Report(SOURCE, present, f'snapshot on {SOURCE}')


def nobody() -> Report:
    """Return the report that there is no world any more."""
    return Report(SOURCE, {}, f'the publisher of {SOURCE} is gone')


def _check(device: Device) -> None:
    if not device.id or len(device.id) > MAX_TEXT or clean(device.id) != device.id or '/' in device.id:
        raise SnapshotError(f"the id '{clean(device.id, 40)}' must be 1..200 printable characters without /")
    where = f"device '{clean(device.id, 40)}':"
    texts = {'name': device.name, 'path': device.path, 'serial': device.serial,
             'vendor_id': device.vendor_id, 'product_id': device.product_id}
    lists = {'nodes': device.nodes, 'capabilities': device.capabilities, 'properties': device.properties,
             'offers': device.offers, 'candidates': device.candidates}
    for field, items in lists.items():
        if len(items) > MAX_ITEMS:
            raise SnapshotError(f'{where} {field} has more than {MAX_ITEMS} items')
    listed = [*device.nodes, *device.candidates, *(text for pair in device.properties for text in pair)]
    for field, text in [*texts.items(), *(('nodes, candidates or properties', text) for text in listed)]:
        if len(text) > MAX_TEXT or not text.isprintable():
            raise SnapshotError(f'{where} {field} must be up to {MAX_TEXT} printable characters')
    for field, word in [('type', device.type), ('bus', device.bus),
                        *(('capabilities', capability) for capability in device.capabilities)]:
        if not WORD.fullmatch(word) and (word or field == 'capabilities'):
            raise SnapshotError(f'{where} {field} must be lower-case letters, digits and underscores')
    if not 0.0 <= device.confidence <= 1.0:
        raise SnapshotError(f'{where} confidence must be within 0..1')
