# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""From kernel records to devices."""
from dataclasses import replace
import re

from hypothesis import given, settings, strategies as st
from kernel import below, HOST, RULES, usb
from muster.hardware.assembly import assemble, clean, groups, relevant
from muster.hardware.devices import Device, Status
from muster.hardware.evidence import Record
import pytest


def devices(*records: Record) -> dict[str, Device]:
    """Return the devices that the records make, by id."""
    known = {record.path: record for record in records if relevant(record)}
    every = groups(known)
    assert all(groups(known, [key])[key] == members for key, members in every.items()), 'asked for alone'
    made = [assemble(key, members, known, RULES) for key, members in every.items()]
    return {device.id: device for device in made}


def only(wanted: str, *records: Record) -> Device:
    """Return the one device with this vendor:product."""
    found = [d for d in devices(*records).values() if f'{d.vendor_id}:{d.product_id}' == wanted]
    assert len(found) == 1, 'many nodes of one device are one device'
    return found[0]


def test_a_webcam_with_its_many_nodes_is_one_camera() -> None:
    records = usb('1-2', '046d', '082d', '0e0100', '0e0200', '010100', serial='ABC123')
    camera = records[2]
    nodes = [below(camera, f'1-2:1.0/video4linux/video{n}', 'video4linux', f'/dev/video{n}')
             for n in range(4)]
    sound = [below(camera, 'sound/card1', 'sound'),
             below(camera, 'sound/card1/pcmC1D0c', 'sound', '/dev/snd/pcmC1D0c')]
    device = only('046d:082d', *records, *nodes, *sound)
    assert (device.id, device.type, device.bus) == ('usb-046d:082d-ABC123', 'camera', 'usb')
    assert device.name == 'Logitech C920' and device.confidence > 0.95
    assert {'video_capture', 'audio_capture', 'uvc'} <= set(device.capabilities)
    assert device.nodes[:2] == ('/dev/snd/pcmC1D0c', '/dev/video0')
    assert device.nodes[-1].startswith('/dev/bus')
    assert device.status == Status.CONNECTED


def test_an_unknown_camera_is_known_by_its_class() -> None:
    device = only('dead:beef', *usb('1-2', 'dead', 'beef', '0e0100'))
    assert device.type == 'camera' and device.confidence == 0.95


def test_a_bridge_is_a_serial_adapter_and_nothing_more() -> None:
    records = usb('1-2.3', '10c4', 'ea60', 'ff0000', serial='0001')
    tty = below(records[2], '1-2.3:1.0/ttyUSB0/tty/ttyUSB0', 'tty', '/dev/ttyUSB0')
    device = only('10c4:ea60', *records, tty)
    assert (device.type, device.nodes[0]) == ('serial_adapter', '/dev/ttyUSB0')
    assert device.name == 'Silicon Labs CP210x (ttyUSB0)'


def test_without_a_driver_it_is_identified_but_not_connected() -> None:
    assert only('dead:beef', *usb('1-2', 'dead', 'beef', '0e0100', driver='')).status == Status.IDENTIFIED
    unknown = only('dead:beef', *usb('1-2', 'dead', 'beef', 'ff0000', driver=''))
    assert (unknown.type, unknown.status, unknown.confidence) == ('unknown', Status.DISCOVERED, 0.0)


@pytest.mark.parametrize('serial', ['', '0000000000', '123456789', 'None', 'To Be Filled By O.E.M.', '���'])
def test_without_a_true_serial_number_the_port_is_the_identity(serial: str) -> None:
    first = usb('1-2.3', '1a86', '7523', 'ff0102', serial=serial)
    renumbered = usb('3-2.3', '1a86', '7523', 'ff0102', serial=serial)  # after a reboot
    assert only('1a86:7523', *first).id == 'usb-1a86:7523-0000:00:14.0-v2-2.3'
    assert only('1a86:7523', *renumbered).id == 'usb-1a86:7523-0000:00:14.0-v2-2.3'
    other = only('1a86:7523', *usb('1-2.4', '1a86', '7523', 'ff0102', serial=serial))
    assert other.id == 'usb-1a86:7523-0000:00:14.0-v2-2.4'


def test_a_card_reader_is_one_device_and_sata_disks_are_several() -> None:
    reader = usb('1-1', '05e3', '0764', '080650')
    slots = []
    for slot in range(2):
        scsi = below(reader[2], f'1-1:1.0/host2/target2:0:0/2:0:0:{slot}', 'scsi', device_type='scsi_device')
        name = 'sd' + 'bc'[slot]
        slots += [scsi, below(scsi, f'block/{name}', 'block', f'/dev/{name}', 'disk')]
    assert only('05e3:0764', *reader, *slots).nodes[:2] == ('/dev/sdb', '/dev/sdc')

    sata = Record('/devices/pci0000:00/0000:00:17.0', 'pci', driver='ahci',
                  attributes={'vendor': '0x8086', 'device': '0x9d03', 'class': '0x010601'})
    disks = []
    for port in range(2):
        name = 'sd' + 'xy'[port]
        scsi = below(sata, f'ata{port}/host{port}/{port}:0:0:0', 'scsi', device_type='scsi_device')
        disks += [scsi, below(scsi, f'block/{name}', 'block', f'/dev/{name}', 'disk', size='2048')]
    found = devices(sata, *disks)
    assert sorted(d.type for d in found.values()) == ['storage', 'storage', 'storage_controller']
    assert [str(offer) for offer in found['scsi-0:0:0:0'].offers] == ['block_storage{capacity=1048576}']


def test_a_gamepad_is_one_device_whatever_layers_it_has() -> None:
    records = usb('1-4', '045e', '028e', '030000')
    hid = below(records[2], '1-4:1.0/0003:045E:028E.0001', 'hid')
    layers = [hid, below(hid, 'hidraw/hidraw0', 'hidraw', '/dev/hidraw0'),
              below(hid, 'input/input5', 'input'), below(hid, 'input/input5/js0', 'input', '/dev/input/js0')]
    assert only('045e:028e', *records, *layers).type == 'gamepad'


def test_a_bluetooth_pad_without_usb_is_a_device_too() -> None:
    hid = Record('/devices/virtual/misc/uhid/0005:054C:09CC.0002', 'hid', driver='sony',
                 properties={'HID_UNIQ': 'a4:53:85:00:00:01'})
    pad = devices(hid, below(hid, 'input/input7', 'input', name='Wireless Controller'),
                  below(hid, 'input/input7/js0', 'input', '/dev/input/js0'))
    assert [(d.id, d.type, d.nodes) for d in pad.values()] == [
        ('hid-a4:53:85:00:00:01', 'gamepad', ('/dev/input/js0',))]


def test_interfaces_without_a_bus_stand_for_themselves() -> None:
    records = [
        Record('/devices/platform/soc/fe201000.serial/tty/ttyAMA0', 'tty', node='/dev/ttyAMA0',
               attributes={'type': '32'}),
        Record('/devices/platform/serial8250/tty/ttyS7', 'tty', node='/dev/ttyS7', attributes={'type': '0'}),
        Record('/devices/virtual/tty/tty7', 'tty', node='/dev/tty7'),
        Record('/devices/virtual/net/can0', 'net', attributes={'type': '280'}),
        Record('/devices/virtual/net/veth1', 'net', attributes={'type': '1'}),
        Record('/devices/virtual/net/lo', 'net', attributes={'type': '772'}),
        Record('/devices/virtual/block/loop0', 'block', 'disk', node='/dev/loop0'),
        Record('/devices/platform/soc/csi/video4linux/video0', 'video4linux', node='/dev/video0'),
        Record('/devices/platform/soc/csi/video4linux/video1', 'video4linux', node='/dev/video1')]
    assert {d.id: d.type for d in devices(*records).values()} == {
        'tty-ttyAMA0': 'serial_port', 'net-can0': 'can', 'net-veth1': 'network_virtual',
        'video-csi': 'camera'}


TEXTS = st.text(st.characters(codec='utf-8'), max_size=80)
CODES = st.text('0123456789abcdefxyz', max_size=6)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(TEXTS, TEXTS, CODES, CODES, CODES, TEXTS)
def test_any_descriptor_makes_a_device_that_can_be_sent(serial, product, vendor, number, code, name) -> None:
    records = usb('1-2', vendor, number, code, serial=serial)
    told = {**records[2].attributes, 'product': product, 'manufacturer': name}
    records[2] = replace(records[2], attributes=told)
    for device in devices(*records).values():
        assert device.id and clean(device.id) == device.id and clean(device.name) == device.name
        assert len(device.id) <= 200 and len(device.name) <= 128 and len(device.serial) <= 64
        assert all(re.fullmatch('([0-9a-f]{4})?', part) for part in (device.vendor_id, device.product_id))
        assert 0.0 <= device.confidence <= 1.0


def test_the_host_controller_is_listed_beside_its_devices() -> None:
    found = devices(*usb('1-2', '046d', '082d', '0e0100'))
    host = found['pci-0000:00:14.0']
    assert (host.type, host.path) == ('usb_controller', f'/sys{HOST}')
    assert sorted(d.type for d in found.values()) == ['camera', 'hub', 'usb_controller']
