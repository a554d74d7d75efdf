# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The Python API, with a source that the test plugs into, and with this machine's kernel."""
import os
from pathlib import Path
import queue
import threading
from typing import Any

from muster.hardware import HardwareAutoDiscoverySystem, HardwareType
from muster.hardware.capabilities import CapabilityError, Offer
from muster.hardware.devices import Device, Report
from muster.hardware.sources.worker import pause
from processes import wait_until
import pytest

CAMERA = Device(id='usb-camera', name='camera', bus='usb', type='camera', capabilities=('video_capture',),
                fallback_id='usb-1', offers=(Offer.of('video_capture', width=1280, fps=30),))


class Port:
    """A source whose devices the test plugs in and out."""

    name = 'port'

    def __init__(self) -> None:
        """Begin empty."""
        self._plugged: dict[str, Device] = {}
        self._changes: queue.SimpleQueue[dict[str, Device]] = queue.SimpleQueue()
        self._told = os.eventfd(0, os.EFD_NONBLOCK)

    def plug(self, *devices: Device) -> None:
        """Let these devices be there, and no others."""
        self._changes.put({device.id: device for device in devices})
        os.eventfd_write(self._told, 1)

    def scan(self, reason: str) -> Report:
        """Return what is plugged in."""
        return Report(self.name, dict(self._plugged), reason)

    def wait(self, timeout: float, wake: int) -> Report | None:
        """Return what the test has changed."""
        pause(min(timeout, 0.01), wake)
        if self._changes.empty():
            return None
        self._plugged = self._changes.get()
        return self.scan('plugged')

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def port() -> Port:
    """Give a source without devices."""
    return Port()


def test_a_program_hears_of_every_change_until_it_stops(port: Port) -> None:
    system = HardwareAutoDiscoverySystem('bench', 3600.0, sources=[port], grace=0.0)
    told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for name in ('device_discovered', 'device_connected', 'device_disconnected'):
        system.on_event(name, told.put)
    system.start()
    assert system.registry.get_device_count() == 0
    port.plug(CAMERA)
    first, second = told.get(timeout=10), told.get(timeout=10)
    assert [first['event'], second['event']] == ['device_discovered', 'device_connected']
    assert (second['device'].id, second['reason'], second['sequence']) == ('usb-camera', 'plugged', 2)
    assert system.registry.get_devices_by_type(HardwareType.CAMERA) == [second['device']]
    assert system.registry.get_devices_by_capability('video_capture{width>=1280}') == [second['device']]
    assert system.registry.get_devices_by_capability('video_capture{width>=1920}') == []
    assert system.registry.get_device('usb-camera') == second['device']
    assert system.negotiate_capabilities('usb-camera', ['video_capture{fps>=30}'])
    assert not system.negotiate_capabilities('usb-camera', ['video_capture', 'imu'])
    assert not system.negotiate_capabilities('nothing', [])
    port.plug()
    assert told.get(timeout=10)['event'] == 'device_disconnected'
    assert system.registry.get_device_count() == 0
    assert not system.negotiate_capabilities('usb-camera', ['video_capture'])
    system.stop()
    port.plug(CAMERA)
    assert told.empty()
    status = system.get_system_status()
    assert (status['running'], status['device_count'], status['events']) == (False, 0, 3)
    assert status['statuses'] == {'disconnected': 1}


def test_it_can_be_started_again(port: Port) -> None:
    system = HardwareAutoDiscoverySystem('bench', 3600.0, sources=[port])
    connected: list[dict[str, Any]] = []
    system.on_event('device_connected', connected.append)
    system.stop()
    for _ in range(2):
        system.start()
        system.start()
        assert system.get_system_status()['running']
        port.plug(CAMERA)
        wait_until(lambda: system.registry.get_device_count() == 1, 10, 'the camera')
        system.stop()
        assert not system.get_system_status()['running']
    assert len(connected) == 1, 'what was there all the time is not told again'


def test_a_handler_that_fails_or_stops_the_system_harms_nobody(
        port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[str] = []
    monkeypatch.setattr(threading, 'excepthook', lambda args: failures.append(str(args.exc_value)))
    system = HardwareAutoDiscoverySystem('bench', 3600.0, sources=[port])
    ended = threading.Event()

    def fail(_: dict[str, Any]) -> None:
        raise RuntimeError('the fault of the program')

    def stop(_: dict[str, Any]) -> None:
        system.stop()
        ended.set()
    system.on_event('device_discovered', fail)
    system.on_event('device_connected', stop)
    system.start()
    port.plug(CAMERA)
    assert ended.wait(10)
    assert failures == ['the fault of the program']
    assert not system.get_system_status()['running']


def test_this_machine_is_found_for_real() -> None:
    system = HardwareAutoDiscoverySystem('bench')
    system.start()
    try:
        found = {path.resolve() for path in Path('/sys/bus/pci/devices').glob('*')}
        assert {Path(d.path) for d in system.registry.get_devices() if d.bus == 'pci'} == found
        assert system.get_system_status()['problems'] == {}
        assert system.registry.get_device_count() == system.get_system_status()['device_count'] > 0
    finally:
        system.stop()


@pytest.mark.parametrize('arguments', [('', 5.0), ('bench', 0.0), ('bench', float('nan'))])
def test_wrong_arguments_are_named(arguments: tuple[str, float]) -> None:
    with pytest.raises(ValueError, match='must'):
        HardwareAutoDiscoverySystem(*arguments, sources=[])


def test_wrong_names_are_named(port: Port) -> None:
    system = HardwareAutoDiscoverySystem('bench', sources=[port])
    with pytest.raises(ValueError, match='device_discovered'):
        system.on_event('device_found', print)
    with pytest.raises(CapabilityError):
        system.negotiate_capabilities('usb-camera', ['{'])
