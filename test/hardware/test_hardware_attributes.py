# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Typed attributes of capabilities, from what the kernel tells of devices of each kind."""
from __future__ import annotations

from collections.abc import Callable
import errno
import os
from pathlib import Path
import threading
import time

from camera import Camera, METADATA, Stepwise, WEBCAM
from hypothesis import given, strategies as st
from kernel import below, RULES, usb
from muster.hardware import attributes
from muster.hardware.assembly import assemble, ATTRIBUTES, groups
from muster.hardware.capabilities import Offer, Requirement
from muster.hardware.devices import Device
from muster.hardware.evidence import Record, VideoMode
from muster.hardware.sources import v4l2
from muster.hardware.sources.v4l2 import Cameras
import pytest


def one(*records: Record) -> Device:
    """Return the device that records belong to."""
    known = {record.path: record for record in records}
    (key, members), = groups(known).items()
    return assemble(key, members, known, RULES)


def offered(subsystem: str, name: str = 'x0', device_type: str = '', **told: str) -> list[str]:
    """Return what a record offers, as people write it."""
    record = Record(f'/devices/platform/{name}', subsystem, device_type,
                    attributes={key.replace('__', '/'): value for key, value in told.items()})
    return [str(offer) for offer in attributes.offers([record])]


# Input ----------------------------------------------------------------------------------------
# Bitmaps as `grep -r . /sys/class/input/*/capabilities` shows them of such devices.
XBOX = {'capabilities__key': '7cdb000000000000 0 0 0 0', 'capabilities__abs': '3003f'}
KEYBOARD = {'capabilities__key': '1000000000007 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe'}
MOUSE = {'capabilities__key': '1f0000 0 0 0 0', 'capabilities__rel': '1943'}
TOUCHPAD = {'capabilities__key': 'e520 10000 0 0 0 0', 'capabilities__abs': '2e0800000000003',
            'properties': '5'}
SCREEN = {'capabilities__key': '400 0 0 0 0 0', 'capabilities__abs': '260800000000003', 'properties': '2'}


@pytest.mark.parametrize(('told', 'expected'), [
    (XBOX, ['joystick{axes=8, buttons=11}']), (MOUSE, ['mouse{axes=4, buttons=5}']),
    (TOUCHPAD, ['touchpad{axes=2, buttons=7}']), (SCREEN, ['touchscreen{axes=2, buttons=1}']),
    ({'capabilities__abs': '3f', 'properties': '40'}, ['imu{axes=6, buttons=0}']),
    ({'capabilities__abs': '7', 'properties': '40'}, ['accelerometer{axes=3, buttons=0}']),
    ({'capabilities__key': '10000000000000 0'}, ['events{axes=0, buttons=1}']),
    ({'capabilities__key': '0', 'capabilities__rel': 'nonsense'}, []), ({}, [])])
def test_input_devices_tell_their_kind_buttons_and_axes(told: dict[str, str], expected: list[str]) -> None:
    assert offered('input', 'input3', **told) == expected


def test_a_keyboard_has_a_hundred_keys() -> None:
    offer, = offered('input', 'input3', **KEYBOARD)
    assert offer.startswith('keyboard{') and int(offer.rpartition('=')[2][:-1]) > 100


@given(st.integers(0, (1 << 768) - 1), st.sampled_from([32, 64]))
def test_a_bitmap_is_read_as_the_kernel_prints_it(value: int, bits: int) -> None:
    words = []      # drivers/input/input.c: words without leading zeros, leading empty words left out
    while value >> len(words) * bits:
        words.append(f'{value >> len(words) * bits & (1 << bits) - 1:x}')
    assert attributes.bitmap(' '.join(reversed(words)) or '0', bits) == value


# Sound ----------------------------------------------------------------------------------------
STREAM = """Maker USB Headset at usb-0000:00:14.0-1, full speed : USB Audio

Playback:
  Status: Stop
  Interface 1
    Altset 1
    Format: S16_LE
    Channels: 2
    Endpoint: 0x01 (1 OUT) (ADAPTIVE)
    Rates: 44100, 48000

Capture:
  Status: Stop
  Interface 2
    Altset 1
    Format: S16_LE
    Channels: 1
    Rates: 8000 - 48000 (continuous)
"""


def test_usb_sound_tells_channels_and_rates_of_each_direction() -> None:
    assert offered('sound', 'pcmC1D0p', stream=STREAM) == [
        'audio_playback{channels=2, sample_rate=44100|48000}']
    assert offered('sound', 'pcmC1D0c', stream=STREAM) == [
        'audio_capture{channels=1, sample_rate=8000|11025|16000|22050|32000|44100|48000}']
    assert offered('sound', 'controlC1', stream=STREAM) == offered('sound', 'pcmC1D0p') == []


# Others ---------------------------------------------------------------------------------------
def test_a_uart_tells_the_rates_its_clock_gives() -> None:
    assert offered('tty', 'ttyS0', uartclk='1843200') == [
        'serial{baud=1200|2400|4800|9600|19200|38400|57600|115200}']
    assert '|921600' in offered('tty', 'ttyS1', uartclk='14745600')[0]
    assert offered('tty', 'ttyS0', uartclk='0') == offered('tty', 'ttyUSB0') == []


def test_a_disk_tells_its_size_and_whether_it_turns() -> None:
    assert offered('block', 'sda', 'disk', size='2048', removable='0', queue__rotational='1') == [
        'block_storage{capacity=1048576, removable=false, rotational=true}']
    assert offered('block', 'sda', 'disk', size='many') == []
    assert offered('block', 'sda1', 'partition', size='1') == []


def test_an_interface_tells_speed_and_address() -> None:
    assert offered('net', 'eth0', type='1', speed='1000', address='02:00:00:00:00:01') == [
        'ip{mac=02:00:00:00:00:01, speed=1000000000, wireless=false}']
    assert offered('net', 'wlan0', 'wlan', type='1', speed='-1', address='00:00:00:00:00:00') == [
        'ip{wireless=true}']
    assert offered('net', 'can0', type='280', speed='1') == []


def test_every_attribute_that_is_used_is_read_from_sysfs() -> None:
    used = {'input': ('capabilities/key', 'capabilities/rel', 'capabilities/abs', 'properties'),
            'tty': ('uartclk',), 'block': ('size', 'removable', 'queue/rotational'),
            'net': ('type', 'speed', 'address')}
    assert all(name in ATTRIBUTES[subsystem] for subsystem, names in used.items() for name in names)


@given(st.sampled_from(['input', 'sound', 'tty', 'block', 'net']),
       st.dictionaries(st.sampled_from(sorted({'stream'}.union(*ATTRIBUTES.values()))), st.text(max_size=40)))
def test_whatever_sysfs_says_nothing_is_raised(subsystem: str, told: dict[str, str]) -> None:
    record = Record('/devices/platform/pcmC0D0c', subsystem, 'disk', attributes={'type': '1', **told})
    assert len(attributes.offers([record])) <= attributes.MAX_OFFERS


def test_what_the_kernel_tells_is_believed_and_what_it_omits_is_kept() -> None:
    claimed = [Offer.of('joystick', axes=6, range=2.0), Offer.of('hid')]
    told = [Offer.of('joystick', axes=8, buttons=11)]
    assert [str(offer) for offer in attributes.refine(claimed, told)] == [
        'joystick{axes=8, buttons=11, range=2}', 'hid']


# Cameras --------------------------------------------------------------------------------------
@pytest.fixture
def camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Camera], str]:
    """Return a function that makes a node whose driver is a camera of the test."""
    def plug(driver: Camera) -> str:
        node = tmp_path / 'video0'
        node.touch()

        def ioctl(file: int, request: int, buffer: bytearray) -> int:
            buffer[:] = driver.answer(request, bytes(buffer))
            return 0
        monkeypatch.setattr(v4l2.fcntl, 'ioctl', ioctl)
        return str(node)
    return plug


def nothing(doing: str) -> None:
    """Take the name of a step."""


def test_a_camera_tells_every_format_size_and_rate(camera) -> None:
    assert v4l2.read(camera(Camera()), nothing) == (
        VideoMode('YUYV', 640, 480, (15.0, 30.0)), VideoMode('YUYV', 1280, 720, (10.0,)),
        VideoMode('MJPG', 1280, 720, (29.97, 30.0)), VideoMode('MJPG', 1920, 1080, (30.0,)))


def test_a_node_of_metadata_has_no_modes(camera) -> None:
    assert v4l2.read(camera(Camera(capabilities=METADATA)), nothing) == ()


def test_a_camera_that_takes_any_size_offers_the_usual_ones_and_its_largest(camera) -> None:
    modes = v4l2.read(camera(Stepwise({b'pRAA': {}})), nothing)
    assert {(1280, 720), (1920, 1080), (4056, 3040)} <= {(mode.width, mode.height) for mode in modes}
    assert all(mode.fps[0] == 1.0 and mode.fps[-1] == 60.0 and 30.0 in mode.fps for mode in modes)


def test_an_endless_camera_is_bounded(camera) -> None:
    sizes = {(16 * n, 9 * n): [(1, rate) for rate in range(1, 99)] for n in range(1, 99)}
    modes = v4l2.read(camera(Camera({b'F%03d' % n: sizes for n in range(99)})), nothing)
    assert len(modes) == v4l2.MAX_MODES and all(len(mode.fps) == v4l2.MAX_RATES for mode in modes)


def test_a_camera_that_fails_raises_and_its_node_is_closed(camera) -> None:
    class Broken(Camera):
        def answer(self, request: int, question: bytes) -> bytes:
            raise OSError(errno.EIO, 'unplugged')
    before = len(os.listdir('/proc/self/fd'))
    with pytest.raises(OSError, match='unplugged'):
        v4l2.read(camera(Broken()), nothing)
    assert len(os.listdir('/proc/self/fd')) == before


def test_a_camera_is_asked_once_while_it_is_plugged_in(camera) -> None:
    driver, cameras = Camera(), Cameras()
    node, path = camera(driver), '/kernel'      # any place in sysfs that is there
    first, asked = cameras.modes(path, node), driver.asked
    assert len(first) == 4 and cameras.modes(path, node) == first and driver.asked == asked
    assert cameras.modes('/no/such/place', node) == () and driver.asked == asked


def test_a_camera_that_hangs_costs_its_deadline_once(camera) -> None:
    free, asked = threading.Event(), []

    class Hung(Camera):
        def answer(self, request: int, question: bytes) -> bytes:
            asked.append(request)
            free.wait(20)
            return super().answer(request, question)
    node, cameras = camera(Hung()), Cameras()
    assert cameras.modes('/kernel', node) == cameras.modes('/kernel', node) == () and len(asked) == 1
    records = {'/kernel': Record('/kernel', 'video4linux', node=node)}
    assert cameras.hangs('/kernel') and f'no answer from {node}' in cameras.problem(records)
    free.set()
    deadline = time.monotonic() + 20
    while not cameras.modes('/kernel', node):
        assert time.monotonic() < deadline
    assert not cameras.hangs('/kernel') and cameras.problem(records) == ''


def test_a_camera_without_permission_is_listed_without_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(v4l2.os, 'open', refused)
    cameras = Cameras()
    assert cameras.modes('/kernel', '/dev/video0') == () and cameras.problem({}) == ''
    records = {'/kernel': Record('/kernel', 'video4linux', node='/dev/video0')}
    assert cameras.problem(records) == (
        "no permission for /dev/video0: add the user to the group 'video', or install the rules of "
        'config/udev')


def test_a_camera_is_chosen_by_width_and_rate() -> None:
    records = usb('1-1', '046d', '082d', '0e0100', '0e0200')
    modes = tuple(VideoMode(code.decode(), *size, tuple(sorted(bottom / top for top, bottom in intervals)))
                  for code, sizes in WEBCAM.items() for size, intervals in sizes.items())
    node = below(records[3], 'video4linux/video0', 'video4linux', '/dev/video0')
    device = one(*records[2:], Record(node.path, 'video4linux', node='/dev/video0', modes=modes))
    assert device.type == 'camera' and 'video_capture' in device.capabilities
    assert not Requirement.parse('video_capture{width>=1280, fps>=30}').missing(device.every_offer)
    wanted = Requirement.parse('video_capture{pixel_format=YUYV, width>=1280, height>=720, fps>=30}')
    assert wanted.missing(device.every_offer).endswith(': fps is 10 or 15 or 29.97 or 30')
