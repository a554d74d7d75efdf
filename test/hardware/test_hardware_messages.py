# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Devices as messages, whatever a world publishes, and the documentation of the parameters."""
from pathlib import Path

from hypothesis import given, settings, strategies as st
from muster.hardware import messages
from muster.hardware.devices import Change, Device, DeviceEvent, Report, Status
from muster.hardware.node import PARAMETERS
from muster.hardware.registry import Registry
from muster.hardware.sources import virtual
from muster_interfaces.msg import Device as DeviceMessage, DeviceEvent as DeviceEventMessage
from rclpy.serialization import deserialize_message, serialize_message

TEXT = st.one_of(st.text(max_size=20), st.sampled_from(['lidar', 'a' * 257, '../etc', 'x\ny', '\0', '�']))
WORD = st.sampled_from(['', 'lidar', 'gps', 'not a word'])
TEXTS = st.lists(TEXT, max_size=4).map(tuple)
DEVICES = st.builds(
    Device, id=TEXT, name=TEXT, bus=WORD, type=WORD, status=st.sampled_from(Status), path=TEXT, nodes=TEXTS,
    confidence=st.floats(0, 1, width=32) | st.floats(width=32), vendor_id=TEXT, product_id=TEXT, serial=TEXT,
    capabilities=st.lists(WORD, max_size=2).map(tuple),
    properties=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple))


def test_constants_are_those_of_the_messages() -> None:
    assert all(getattr(DeviceMessage, status.name) == status for status in Status)
    assert all(getattr(DeviceEventMessage, change.name) == change for change in Change)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(DEVICES, max_size=4))
def test_any_snapshot_is_refused_as_a_whole_or_can_be_published(devices: list[Device]) -> None:
    sent = [serialize_message(messages.device_message(device)) for device in devices]
    try:
        report = virtual.snapshot(messages.device(deserialize_message(s, DeviceMessage)) for s in sent)
    except virtual.SnapshotError:
        return
    for event in Registry().apply(report, 0.0, 1_500_000_000):
        published = deserialize_message(serialize_message(messages.event_message(event)), DeviceEventMessage)
        assert published.device.simulated
        assert (published.stamp.sec, published.stamp.nanosec) == (1, 500_000_000)


def test_a_device_survives_the_way_there_and_back() -> None:
    device = Device(
        id='a', name='b', bus='usb', type='camera', status=Status.ERROR, confidence=0.5, path='/p',
        nodes=('/dev/x',), vendor_id='0001', product_id='0002', serial='s', capabilities=('c',),
        properties=(('k', 'v'),))
    assert messages.device(messages.device_message(device)) == device


def test_an_event_carries_the_device_after_the_change() -> None:
    (event, _) = Registry().apply(Report('test', {'k': Device(id='a', name='b', bus='usb')}, 'why'), 0.0, 5)
    assert isinstance(event, DeviceEvent)
    sent = messages.event_message(event)
    assert (sent.sequence, sent.type, sent.reason, sent.device.id) == (1, Change.DISCOVERED, 'why', 'a')


def test_every_parameter_is_documented_with_its_default() -> None:
    text = (Path(__file__).parents[2] / 'docs' / 'hardware.md').read_text()
    for spec in PARAMETERS:
        default = f'`{spec.default}`' if isinstance(spec.default, list) else spec.default
        assert f'| `{spec.name}` | {default} |' in text
