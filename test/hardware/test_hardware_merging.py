# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What several sources tell of one device becomes one device."""
from muster.hardware.devices import Device, Report
from muster.hardware.merging import Merger
from muster.hardware.registry import Registry

ADAPTER = Device('usb-10c4:ea60-1', 'CP2102 (ttyUSB0)', 'usb', 'serial_adapter', confidence=0.8,
                 path='/sys/usb1/1-2', nodes=('/dev/ttyUSB0',), capabilities=('serial',), serial='1')
LIDAR = Device('usb-10c4:ea60-other', 'RPLIDAR', 'usb', 'lidar', confidence=0.95, path='/sys/usb1/1-2',
               nodes=('/dev/ttyUSB0', '/dev/extra'), capabilities=('scan_2d', 'serial'))


def told(source: str, *devices: Device, complete: bool = True, gone: tuple[str, ...] = ()) -> Report:
    return Report(source, {device.name: device for device in devices}, 'test', complete, gone)


def test_the_surest_source_names_it_and_the_first_gives_the_id() -> None:
    merger = Merger()
    assert list(merger.merge(told('udev', ADAPTER)).present.values()) == [ADAPTER]
    device, = merger.merge(told('serial', LIDAR)).present.values()
    assert (device.id, device.type, device.serial) == (ADAPTER.id, 'lidar', '1')
    assert device.nodes == ('/dev/ttyUSB0', '/dev/extra') and device.capabilities == ('scan_2d', 'serial')
    again, = merger.merge(told('udev', ADAPTER)).present.values()
    assert again == device                                   # no source undoes what another told


def test_it_is_gone_when_nobody_tells_of_it() -> None:
    merger = Merger()
    merger.merge(told('udev', ADAPTER))
    merger.merge(told('serial', LIDAR))
    report = merger.merge(told('serial'))
    assert list(report.present.values()) == [ADAPTER] and not report.gone
    report = merger.merge(told('udev', complete=False, gone=(ADAPTER.name,)))
    assert not report.present and report.gone == (ADAPTER.path,)
    assert not merger.merge(told('udev')).gone


def test_devices_without_a_path_are_each_their_own() -> None:
    first, second = (Device(f'virtual-{n}', f'camera {n}', 'virtual') for n in (1, 2))
    assert len(Merger().merge(told('virtual', first, second)).present) == 2


def test_a_key_that_moves_leaves_its_place() -> None:
    merger = Merger()
    merger.merge(told('udev', ADAPTER))
    moved = Device(ADAPTER.id, ADAPTER.name, 'usb', path='/sys/usb1/1-3')
    report = merger.merge(told('udev', moved))
    assert list(report.present.values()) == [moved] and report.gone == (ADAPTER.path,)


def test_the_registry_lists_it_once_without_flapping() -> None:
    merger, registry = Merger(), Registry()
    for _ in range(3):
        for report in (told('udev', ADAPTER), told('serial', LIDAR)):
            registry.apply(merger.merge(report), 0.0, 0)
    assert [device.type for device in registry.find()] == ['lidar']
    assert registry.sequence == 3                            # discovered, connected, changed
