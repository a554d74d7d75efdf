# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Muster's discovery in a process of its own, on machines that are made with umockdev."""
from __future__ import annotations

from collections.abc import Iterator
import errno
import functools
import itertools
import operator
import os
import sys
import threading

from camera import Camera, METADATA
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from i2c_bus import Chip, FakeBus, forbidden, Transfer
from kernel import RULES
from muster.ros import qos
from muster_interfaces.msg import Device, DeviceEvent
from muster_interfaces.srv import GetDevice, ListDevices, NegotiateCapabilities
from processes import wait_until
import pytest
from std_srvs.srv import Trigger
from testbed import (
    camera_driver,
    Client,
    i2c_driver,
    Program,
    spi_driver,
    Testbed,
    with_modes_respected,
)

HOST = '/devices/pci0000:00/0000:00:14.0'
HUB = f'{HOST}/usb1'


@pytest.fixture
def bed() -> Iterator[Testbed]:
    """Return a machine with a USB controller and its root hub."""
    machine = Testbed()
    machine.plug(HOST, 'pci', driver='xhci_hcd', vendor='0x8086', device='0x9d2f', **{'class': '0x0c0330'})
    machine.plug(HUB, 'usb', 'usb_device', driver='usb', idVendor='1d6b', idProduct='0002', version=' 2.00',
                 bDeviceClass='09', bDeviceSubClass='00', bDeviceProtocol='01')
    yield machine
    machine.close()


def usb(bed: Testbed, port: str, ids: str, *classes: str, driver: str = 'driver', event: bool = True,
        **told: str | bytes) -> str:
    """Plug a USB device in, with interfaces by their class codes; return its path."""
    vendor, product = ids.split(':')
    path = bed.plug(f'{HUB}/1-{port}', 'usb', 'usb_device', f'/dev/bus/usb/001/00{port}', 'usb', event,
                    idVendor=vendor, idProduct=product, bDeviceClass='00', bDeviceSubClass='00',
                    bDeviceProtocol='00', **told)
    for number, code in enumerate(classes):
        bed.plug(f'{path}/1-{port}:1.{number}', 'usb', 'usb_interface', '', driver, event,
                 bInterfaceClass=code[:2], bInterfaceSubClass=code[2:4], bInterfaceProtocol=code[4:])
    return path


def webcam(bed: Testbed, port: str = '3') -> str:
    """Plug a camera in that has three nodes and a microphone."""
    path = usb(bed, port, '046d:0825', '0e0100', '0e0200', '010100', driver='uvcvideo', serial='CAM1')
    for name in ('video0', 'video1'):
        bed.plug(f'{path}/1-{port}:1.0/video4linux/{name}', 'video4linux', node=f'/dev/{name}', name='Webcam')
    bed.plug(f'{path}/1-{port}:1.0/media0', 'media', node='/dev/media0')
    bed.plug(f'{path}/1-{port}:1.2/sound/card1/pcmC1D0c', 'sound', node='/dev/snd/pcmC1D0c')
    return path


def of(program: Program, event: str, part: str) -> dict:
    """Return the next such event of the device whose id contains `part`."""
    return program.until(lambda told: told['event'] == event and part in told['id'])


# Hot-plug -------------------------------------------------------------------------------------
def test_a_device_is_found_before_the_start_and_after_it(bed: Testbed) -> None:
    usb(bed, '1', '1546:01a8', '020201', driver='cdc_acm', serial='S1')
    program = bed.run()
    assert program.devices()['usb-1546:01a8-S1']['type'] == 'gps'
    usb(bed, '2', '1546:01a8', '020201', driver='cdc_acm', serial='S2')
    assert of(program, 'connected', 'S2')['type'] == 'gps'
    assert not [told for told in program.past if told['event'] == 'disconnected']


def test_an_unplugged_device_is_noticed_by_its_event(bed: Testbed) -> None:
    path = usb(bed, '1', '1546:01a8', '020201', driver='cdc_acm', serial='S1')
    program = bed.run()
    bed.pull(path)
    gone = program.until(lambda told: told['event'] == 'disconnected')   # the next scan is an hour away
    assert gone['id'] == 'usb-1546:01a8-S1' and 'remove' in gone['reason']
    assert 'usb-1546:01a8-S1' not in program.devices()


def test_replugged_on_another_port_it_keeps_its_identity(bed: Testbed) -> None:
    path = usb(bed, '1', '1546:01a8', '020201', driver='cdc_acm', serial='S1')
    program = bed.run()
    bed.pull(path)
    of(program, 'disconnected', 'S1')
    usb(bed, '4', '1546:01a8', '020201', driver='cdc_acm', serial='S1')
    back = program.until(lambda told: told['event'] in ('discovered', 'connected'))
    assert (back['event'], back['id']) == ('connected', 'usb-1546:01a8-S1') and back['path'].endswith('1-4')


def test_two_equal_devices_without_serials_stay_two(bed: Testbed) -> None:
    for port in ('1', '2'):
        usb(bed, port, '1a86:7523', 'ff0102', driver='ch341')
    found = [device for device in bed.run().devices().values() if '1a86:7523' in device['id']]
    assert len({device['id'] for device in found}) == 2


def test_a_flap_within_the_grace_is_no_event(bed: Testbed) -> None:
    path = usb(bed, '1', '1546:01a8', '020201', driver='cdc_acm', serial='S1')
    program = bed.run('grace', '20')
    started = len(program.past)
    for _ in range(10):
        bed.pull(path)
        usb(bed, '1', '1546:01a8', '020201', driver='cdc_acm', serial='S1')
    usb(bed, '2', '046d:c52b', '030101', serial='LAST')     # what comes after it is seen after it
    of(program, 'connected', 'LAST')
    assert not [told for told in program.past[started:] if 'S1' in told['id']]
    assert program.devices()['usb-1546:01a8-S1']['status'] == 'CONNECTED'


def test_noise_of_events_changes_nothing(bed: Testbed) -> None:
    path = usb(bed, '1', '1546:01a8', '020201', driver='cdc_acm', serial='S1')
    program = bed.run()
    events = program.ask('status')['events']
    for action in ('bind', 'unbind', 'change', 'add', 'move', 'offline'):
        bed.event(action, path, 'usb', DEVTYPE='usb_device')
    for action in ('remove', 'change', 'bind'):      # of what was never there
        bed.event(action, f'{HUB}/1-9', 'usb', DEVTYPE='usb_device')
    usb(bed, '2', '046d:c52b', '030101', serial='LAST')
    of(program, 'connected', 'LAST')
    assert program.ask('status')['events'] == events + 2


def test_renumbered_nodes_are_the_same_devices(bed: Testbed) -> None:
    def plug(port: str, serial: str, number: int) -> str:
        path = usb(bed, port, '10c4:ea60', 'ff0000', driver='cp210x', serial=serial)
        bed.plug(f'{path}/1-{port}:1.0/ttyUSB{number}/tty/ttyUSB{number}', 'tty', node=f'/dev/ttyUSB{number}')
        return path
    paths = [plug('1', 'A', 0), plug('2', 'B', 1)]
    program = bed.run()
    started = len(program.past)
    for path in paths:
        bed.pull(path)
        program.until(lambda told: told['event'] == 'disconnected')
    plug('2', 'B', 0)
    plug('1', 'A', 1)
    wanted = {('usb-10c4:ea60-B', '/dev/ttyUSB0'), ('usb-10c4:ea60-A', '/dev/ttyUSB1')}
    program.until(lambda _: wanted <= {(told['id'], node) for told in program.past[started:]
                                       for node in told['nodes']})      # in any order
    assert not [told for told in program.past[started:] if told['event'] == 'discovered']


def test_a_removal_without_an_event_is_found_with_the_next_one(bed: Testbed) -> None:
    path = usb(bed, '1', '1546:01a8', '020201', driver='cdc_acm', serial='S1')
    program = bed.run()
    bed.pull(path, event=False)
    bed.event('change', path, 'usb', DEVTYPE='usb_device')
    assert of(program, 'disconnected', 'S1')


@pytest.mark.parametrize('serial', [b'\xff\xfe\x80bad', b'', b'S' * 4000, b'../../etc', b'a\x00b\x1b[31m'])
def test_strange_descriptors_make_a_device_like_any_other(bed: Testbed, serial: bytes) -> None:
    program = bed.run()
    usb(bed, '1', '1546:01a8', '020201', driver='cdc_acm', serial=serial, product=serial)
    found = of(program, 'connected', '1546:01a8')
    assert found['type'] == 'gps' and len(found['id']) <= 200 and found['id'].isprintable()
    assert '/' not in found['id'] or serial.startswith(b'..')


@pytest.mark.parametrize('ids', ['zzzz:0001', '1:2', ':'])
def test_ids_that_are_no_numbers_disturb_nobody(bed: Testbed, ids: str) -> None:
    program = bed.run()
    usb(bed, '1', ids, '030101')
    usb(bed, '2', '1546:01a8', '020201', driver='cdc_acm', serial='S2')
    assert of(program, 'connected', 'S2')['type'] == 'gps'


# Cameras --------------------------------------------------------------------------------------
def test_a_camera_with_many_nodes_is_one_device_and_chosen_by_its_modes(bed: Testbed) -> None:
    bed.drive('/dev/video0', camera_driver(Camera()))
    bed.drive('/dev/video1', camera_driver(Camera(capabilities=METADATA)))
    program = bed.run()
    webcam(bed)
    camera = program.until(lambda told: told.get('type') == 'camera'
                           and '/dev/snd/pcmC1D0c' in told['nodes'] and '/dev/video1' in told['nodes'])
    assert [device['id'] for device in program.devices().values() if device['type'] == 'camera'] == [
        camera['id']] == ['usb-046d:0825-CAM1']
    for wanted, fits in (('video_capture{width>=1280, fps>=30}', True), ('audio_capture', True),
                         ('video_capture{pixel_format=YUYV, width>=1280, fps>=30}', False),
                         ('video_capture{width>=3840}', False)):
        assert program.ask('negotiate', camera['id'], wanted) is fits, wanted


@pytest.mark.processes
def test_the_node_negotiates_a_camera_by_its_modes_until_it_is_pulled_out(bed: Testbed, fleet) -> None:
    bed.drive('/dev/video0', camera_driver(Camera()))
    bed.drive('/dev/video1', camera_driver(Camera(capabilities=METADATA)))
    fleet.environment |= bed.environment
    fleet.start_node('muster.hardware.node', 'robot_1', {'i2c': False})
    path, node = webcam(bed), '/robot_1/hardware'
    assert fleet.probe.call(Trigger, f'{node}/scan').success
    found = fleet.probe.call(NegotiateCapabilities, f'{node}/negotiate_capabilities',
                             required=['video_capture{width>=1280, fps>=30}'])
    assert [match.device.id for match in found.matches] == ['usb-046d:0825-CAM1'], found
    none = fleet.probe.call(NegotiateCapabilities, f'{node}/negotiate_capabilities',
                            required=['video_capture{width>=1280, fps>=60}'])
    assert not none.matches and any('fps is' in text for text in none.missing)
    bed.pull(path)
    wait_until(lambda: not fleet.probe.call(ListDevices, f'{node}/list_devices', type='camera',
                                            status=Device.CONNECTED).devices, 20, 'the camera is gone')


@pytest.mark.processes
def test_a_camera_that_may_not_be_opened_is_told_with_the_remedy(bed: Testbed, fleet) -> None:
    webcam(bed)
    bed.drive('/dev/video0', camera_driver(Camera()))
    nodes = [bed.root / 'dev' / name for name in ('video0', 'video1')]
    for node in nodes:
        node.chmod(0)
    fleet.environment |= bed.environment
    heard = fleet.probe.listen(DiagnosticArray, '/diagnostics', 10)
    with_modes_respected(lambda: fleet.start_node('muster.hardware.node', 'robot_1', {'i2c': False}))

    def source(level: bytes) -> DiagnosticStatus | None:
        return next((status for array in heard[-1:] for status in array.status
                     if status.name.endswith('source udev') and status.level == level), None)
    told = wait_until(lambda: source(DiagnosticStatus.WARN), 40, 'the warning').message
    for part in ('/dev/video0, /dev/video1', "the group 'video'", 'config/udev'):
        assert part in told
    for node in nodes:
        node.chmod(0o600)
    assert fleet.probe.call(Trigger, '/robot_1/hardware/scan').success
    wait_until(lambda: source(DiagnosticStatus.OK), 20, 'the end of the warning')
    found = fleet.probe.call(NegotiateCapabilities, '/robot_1/hardware/negotiate_capabilities',
                             required=['video_capture{width>=1280}'])
    assert found.matches


@pytest.mark.processes
def test_fifty_replugs_are_fifty_events_and_no_flood_of_lines(bed: Testbed, fleet) -> None:
    def refuse(*_: object) -> int:      # what umockdev's library notes of opens that fail, it never forgets
        raise OSError(errno.EACCES, 'Permission denied')
    for name in ('video0', 'video1'):
        bed.drive(f'/dev/{name}', refuse)
    fleet.environment |= bed.environment
    node = fleet.start_node('muster.hardware.node', 'robot_1', {'i2c': False, 'disconnect_grace': 0.0})
    heard = fleet.probe.listen(DeviceEvent, '/robot_1/hardware/events', qos.EVENTS)
    assert fleet.probe.call(Trigger, '/robot_1/hardware/scan').success

    def turns() -> list[int]:
        """Return how it came and went; a camera that is opened late is CONNECTED twice in one life."""
        kinds = [event.type for event in heard if event.device.id == 'usb-046d:0825-CAM1'
                 and event.type in (DeviceEvent.CONNECTED, DeviceEvent.DISCONNECTED)]
        return [kind for kind, _ in itertools.groupby(kinds)]
    before = len(node.text)
    for number in range(50):
        path = webcam(bed)
        wait_until(lambda number=number: len(turns()) > 2 * number, 20, 'plugged in')
        bed.pull(path)
        wait_until(lambda number=number: len(turns()) > 2 * number + 1, 20, 'pulled out')
    assert turns() == [DeviceEvent.CONNECTED, DeviceEvent.DISCONNECTED] * 50
    lines = node.text[before:].splitlines()
    assert any('no permission for /dev/video0' in line for line in lines)
    assert len(lines) <= 8, 'one for each way in which two nodes may be refused or late'


def test_a_camera_that_hangs_is_listed_and_delays_nobody_for_long(bed: Testbed) -> None:
    free = threading.Event()

    def hang(*_: object) -> int:
        free.wait(60)
        raise OSError(errno.EIO, 'at last')
    bed.drive('/dev/video0', hang)
    program = bed.run()
    path = webcam(bed)
    usb(bed, '1', '1546:01a8', '020201', driver='cdc_acm', serial='S1')
    program.until(lambda told: told['event'] == 'connected' and 'S1' in told['id'])
    camera = program.devices()['usb-046d:0825-CAM1']
    assert camera['type'] == 'camera' and not any('fps' in offer for offer in camera['offers'])
    assert camera['status'] == 'DEGRADED'
    assert 'no answer from /dev/video0' in program.ask('status')['problems']['udev']
    bed.pull(path)
    of(program, 'disconnected', 'CAM1')
    free.set()


@pytest.mark.processes
def test_a_camera_that_hung_is_degraded_until_it_answers(bed: Testbed, fleet) -> None:
    driver, free = camera_driver(Camera()), threading.Event()

    def hang(client: Client, request: int, argument: int) -> int:
        free.wait(60)
        return driver(client, request, argument)
    bed.drive('/dev/video0', hang)
    webcam(bed)
    fleet.environment |= bed.environment
    fleet.start_node('muster.hardware.node', 'robot_1', {'i2c': False})
    node = '/robot_1/hardware'

    def status() -> int:
        assert fleet.probe.call(Trigger, f'{node}/scan').success
        return fleet.probe.call(GetDevice, f'{node}/get_device', id='usb-046d:0825-CAM1').device.status
    wait_until(lambda: status() == Device.DEGRADED, 40, 'the camera is known to hang')
    free.set()
    wait_until(lambda: status() == Device.CONNECTED, 40, 'the camera answers')


def test_a_camera_that_is_pulled_out_while_it_is_asked(bed: Testbed) -> None:
    driver, asked = camera_driver(Camera()), threading.Event()

    def vanish(client: Client, request: int, argument: int) -> int:
        if asked.is_set():
            raise OSError(errno.ENODEV, 'No such device')
        asked.set()
        return driver(client, request, argument)
    bed.drive('/dev/video0', vanish)
    program = bed.run()
    path = webcam(bed)
    assert asked.wait(20)
    bed.pull(path)
    of(program, 'disconnected', 'CAM1')
    assert program.ask('status')['problems'] == {}


# I2C ------------------------------------------------------------------------------------------
@pytest.mark.processes
def test_a_chip_that_leaves_the_bus_is_disconnected_and_its_bus_is_well(bed: Testbed, fleet) -> None:
    chips = {0x76: Chip({0xD0: 0x60, 0x00: 0x01}), 0x68: Chip({0x75: 0x68})}
    bed.plug('/devices/platform/fe804000.i2c/i2c-1', 'i2c', name='bcm2835', event=False)
    bed.plug('/devices/platform/fe804000.i2c/i2c-1/i2c-dev/i2c-1', 'i2c-dev', node='/dev/i2c-1')
    bed.drive('/dev/i2c-1', i2c_driver(FakeBus(1, chips, [], frozenset())))
    fleet.environment |= bed.environment
    fleet.start_node('muster.hardware.node', 'robot_1', {'scan_interval': 0.2})
    heard = fleet.probe.listen(DiagnosticArray, '/diagnostics', 10)

    def status(chip: str = 'i2c-1-0068') -> int:
        return fleet.probe.call(GetDevice, '/robot_1/hardware/get_device', id=chip).device.status
    wait_until(lambda: status() == Device.CONNECTED, 40, 'the chip')
    gone = chips.pop(0x68)
    wait_until(lambda: status() == Device.DISCONNECTED, 20, 'the end of the chip')
    assert status('i2c-1-0076') == Device.CONNECTED
    heard.clear()
    bus, = wait_until(lambda: [one for array in heard for one in array.status if 'i2c-1' in one.name][:1], 20,
                      'what is told of the bus')
    assert bus.level == DiagnosticStatus.OK
    chips[0x68] = gone
    wait_until(lambda: status() == Device.CONNECTED, 20, 'the chip again')


def test_chips_of_a_bus_are_named_and_nothing_forbidden_is_written(bed: Testbed) -> None:
    bus = FakeBus(1, {0x76: Chip({0xD0: 0x60, 0x00: 0x01}), 0x68: Chip({0x75: 0x68}), 0x50: Chip()}, [],
                  frozenset({0x48}))
    bed.plug('/devices/platform/fe804000.i2c/i2c-1', 'i2c', name='bcm2835', event=False)
    bed.plug('/devices/platform/fe804000.i2c/i2c-1/i2c-dev/i2c-1', 'i2c-dev', node='/dev/i2c-1')
    bed.plug('/devices/platform/fe804000.i2c/i2c-1/1-0048', 'i2c', driver='lm75', name='lm75')
    bed.drive('/dev/i2c-1', i2c_driver(bus))
    chips = {device['path'].rpartition('-')[2]: device for device in bed.run('i2c', '1').devices().values()
             if '/1-00' in device['path']}
    assert sorted(chips) == ['0048', '0050', '0068', '0076']
    assert (chips['0076']['type'], chips['0068']['type']) == ('environment', 'imu')
    numbers = {read.register for address in range(0x80) for read in RULES.i2c_reads(address)}

    def is_known_read(transfer: Transfer) -> bool:
        return len(transfer.wrote) == 1 and transfer.wrote[0] in numbers
    assert bus.log and not forbidden(bus.log, is_known_read)
    quick = {transfer.address for transfer in bus.log if not transfer.wrote and not transfer.read}
    assert not quick & {*range(0x08), *range(0x30, 0x38), *range(0x50, 0x60), *range(0x78, 0x80)}


# SPI ------------------------------------------------------------------------------------------
def test_a_flash_behind_a_chip_select_is_named_where_it_may_be_asked(bed: Testbed) -> None:
    sent: list[bytes] = []

    def flash(data: bytes) -> bytes:
        sent.append(data)
        return b'\x00\xef\x40\x18'[:len(data)] if data[0] == 0x9F else bytes(len(data))
    speed = (10_000_000).to_bytes(4, sys.byteorder)
    settings = {4: speed}       # SPI_IOC_RD_MAX_SPEED_HZ
    place = bed.plug('/devices/platform/soc/fe204000.spi/spi_master/spi0/spi0.0', 'spi', driver='spidev')
    bed.plug(f'{place}/spidev/spidev0.0', 'spidev', node='/dev/spidev0.0')
    bed.drive('/dev/spidev0.0', spi_driver(flash, settings))
    assert not any('W25Q' in device['name'] for device in bed.run().devices().values()) and not sent
    found = bed.run('spi', '/dev/spidev0.0').devices()
    assert [device['type'] for device in found.values() if 'W25Q128' in device['name']] == ['flash']
    assert settings[4] == speed and {bytes(data) for data in sent} <= {
        probe.send for probe in RULES.spi_probes()}


# Serial ---------------------------------------------------------------------------------------
def sentence(text: str) -> bytes:
    """Return an NMEA 0183 sentence."""
    return f'${text}*{functools.reduce(operator.xor, text.encode()):02X}\r\n'.encode()


def test_a_serial_adapter_stays_ambiguous_until_it_may_be_asked(bed: Testbed) -> None:
    path = usb(bed, '1', '10c4:ea60', 'ff0000', driver='cp210x', serial='0001')
    with bed.terminal(f'{path}/1-1:1.0/ttyUSB0/tty/ttyUSB0', '/dev/ttyUSB0') as line:
        adapter = bed.run().devices()['usb-10c4:ea60-0001']
        assert adapter['type'] == 'serial_adapter' and adapter['nodes'][0] == '/dev/ttyUSB0'
        program = bed.run('serial', '/dev/ttyUSB0')
        told: list[dict] = []
        speaking = threading.Thread(target=lambda: told.append(
            program.until(lambda event: event.get('type') == 'gps')))
        speaking.start()
        while speaking.is_alive():
            os.write(line, sentence('GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,'))
            speaking.join(0.1)
        receiver, = told
        assert receiver['path'] == adapter['path'] and receiver['confidence'] > 0.9
        assert 'nmea' in receiver['offers']
