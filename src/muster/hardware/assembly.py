# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""From the kernel's many records to devices: which records count, and which belong together."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import re

from muster.hardware import attributes
from muster.hardware.capabilities import Offer
from muster.hardware.devices import Device, Status, UNKNOWN
from muster.hardware.evidence import Record
from muster.hardware.identification import Claim, DESCRIPTORS, Rules

#: The subsystems that are read, each with the sysfs attributes that identification needs.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    'usb': ('idVendor', 'idProduct', 'serial', 'manufacturer', 'product', 'version',
            'bDeviceClass', 'bDeviceSubClass', 'bDeviceProtocol'),
    'pci': ('vendor', 'device', 'class'),
    'tty': ('type', 'uartclk'),
    'net': ('type', 'speed', 'address'),
    'block': ('size', 'removable', 'serial', 'queue/rotational'),
    'nvme': ('serial', 'model'),
    'scsi': ('vendor', 'model', 'type'),
    'mmc': ('name', 'serial', 'type'),
    'input': ('name', 'properties', 'capabilities/key', 'capabilities/rel', 'capabilities/abs'),
    'i2c': ('name',), 'iio': ('name',), 'video4linux': ('name',), 'gpio': ('label',),
    'sound': (), 'hidraw': (), 'hid': (), 'virtio': (), 'media': (), 'drm': (), 'bluetooth': (),
    'i2c-dev': (), 'spi': (), 'spidev': (), 'power_supply': (),
}

#: The same of a USB device's interfaces.
INTERFACE_ATTRIBUTES = ('bInterfaceClass', 'bInterfaceSubClass', 'bInterfaceProtocol')

#: Physical devices: everything below the nearest one is part of it.
ANCHORS = ('usb', 'pci', 'scsi', 'mmc', 'i2c', 'spi', 'hid')
#: What is a device by itself where nothing physical is above it.
INTERFACES = ('tty', 'block', 'net', 'input', 'video4linux', 'media', 'sound', 'hidraw', 'drm', 'iio',
              'bluetooth', 'i2c-dev', 'spidev', 'gpio', 'power_supply')
#: Their nodes share the device that their class directory lies in.
SHARED = re.compile(r'(.+)/(?:video4linux|media|input|drm)/|(.+/sound/card\d+)(?:/|$)')
BUS_NAMES = {'video4linux': 'video', 'media': 'video', 'hidraw': 'hid', 'i2c-dev': 'i2c', 'spidev': 'spi'}

#: Texts that makers leave in place of a serial number.
NO_SERIAL = re.compile(r'0*|x+|f+|none|n/?a|unknown|default string|to be filled by o\.?e\.?m\.?'
                       r'|0?123456789(abcdef|0)?', re.IGNORECASE)
I2C_CLIENT = re.compile(r'\d+-[0-9a-f]{4}')
SPI_DEVICE = re.compile(r'spi\d+\.\d+')
#: A candidate below it would be shown as 0.00.
NEGLIGIBLE = 0.005


def wanted_attributes(subsystem: str, device_type: str) -> tuple[str, ...]:
    """Return the sysfs attributes that identification needs of such a record."""
    return INTERFACE_ATTRIBUTES if device_type == 'usb_interface' else ATTRIBUTES.get(subsystem, ())


def relevant(record: Record) -> bool:
    """Return whether a record is (part of) hardware, or an interface that a user would look for."""
    virtual = record.path.startswith(f'/devices/virtual/{record.subsystem}/')
    match record.subsystem:
        case 'tty':      # no consoles; of the PC's 32 ttyS only those with a UART (type 0 = PORT_UNKNOWN)
            return not virtual and record.attributes.get('type') != '0'
        case 'block':    # no partitions, no loop, ram, zram or device-mapper disks
            return not virtual and record.device_type == 'disk'
        case 'net':      # every machine has the loopback
            return record.name != 'lo'
        case 'input' | 'sound':
            return not virtual
        case 'usb':
            return record.device_type in ('usb_device', 'usb_interface')
        case 'scsi':
            return record.device_type == 'scsi_device'
        case 'drm':      # neither the connectors nor the render twin of a card
            return re.fullmatch(r'card\d+', record.name) is not None
        case 'gpio':     # the chips, not their twins of the old sysfs interface
            return record.node.startswith('/dev/gpiochip')
        case 'iio':
            return record.name.startswith('iio:device')
        case 'bluetooth':  # adapters, not connections
            return record.device_type != 'link'
        case 'i2c':      # chips, not adapters
            return I2C_CLIENT.fullmatch(record.name) is not None
        case 'spi':
            return SPI_DEVICE.fullmatch(record.name) is not None
    return record.subsystem in ATTRIBUTES


def owner(path: str, records: Mapping[str, Record]) -> str | None:
    """Return the key of the device that the record at `path` is part of, or None."""
    anchors = [records[above] for above in _upwards(path) if above in records
               and records[above].subsystem in ANCHORS and records[above].device_type != 'usb_interface']
    for position, anchor in enumerate(anchors):
        further = {other.subsystem for other in anchors[position + 1:]}
        # The HID layer is part of what carries it; a card reader's slots are part of the reader.
        part = (anchor.subsystem == 'hid' and further) or (anchor.subsystem == 'scsi' and 'usb' in further)
        if not part:
            return anchor.path
    record = records.get(path)
    if record is None or record.subsystem not in INTERFACES:
        return None
    shared = SHARED.match(path)
    return (shared[1] or shared[2]) if shared else path


def groups(records: Mapping[str, Record], keys: Iterable[str] | None = None) -> dict[str, list[Record]]:
    """
    Return the records of each device, by the device's key, in the order of their paths.

    Where `keys` are given, it is those devices, and what is plugged in below them.
    """
    inside = tuple(f'{key}/' for key in keys) if keys is not None else ('',)
    result: dict[str, list[Record]] = {}
    for path in sorted(path for path in records if f'{path}/'.startswith(inside)):
        key = owner(path, records)
        if key is not None:
            result.setdefault(key, []).append(records[path])
    return result


def assemble(key: str, members: Sequence[Record], records: Mapping[str, Record], rules: Rules) -> Device:
    """Make one device of its records; `records` are all, to tell where it is plugged in."""
    main = members[0]
    claim = rules.identify(members)
    offers = attributes.refine(claim.offers, attributes.offers(members))
    bus = BUS_NAMES.get(main.subsystem, main.subsystem)
    serial = _serial(members)
    product = f'{main.vendor_id}:{main.product_id}' if main.vendor_id else ''
    parts = (bus, product if bus == 'usb' else '', _position(key, main, records))
    position = '-'.join(part for part in parts if part)
    identity = '-'.join(part for part in (bus, product, serial) if part) if serial else position
    return Device(
        id=clean(identity), fallback_id=clean(position), name=clean(_name(key, members, claim), 128), bus=bus,
        type=claim.type, confidence=claim.confidence, status=_status(members, claim),
        path=clean(f'/sys{key}', 1024), nodes=_nodes(members),
        vendor_id=main.vendor_id, product_id=main.product_id, serial=serial,
        capabilities=tuple(sorted({offer.capability for offer in offers})), offers=detailed(offers),
        candidates=candidates(claim), properties=_properties(members, claim))


def detailed(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """Return the offers that tell more than their names."""
    return tuple(offer for offer in offers if offer.attributes)


def candidates(claim: Claim) -> tuple[str, ...]:
    """Return what else it may be, each with its confidence; nothing where it is certain."""
    left = [c for c in claim.candidates if c.confidence >= NEGLIGIBLE or c.source == DESCRIPTORS]
    if len(left) < 2:
        return ()
    return tuple(clean(f'{c.title} ({c.type}, {c.confidence:.2f})', 128) for c in left)


def clean(text: str, limit: int = 200) -> str:
    """Return text that is safe everywhere: printable, without line breaks, bounded."""
    shown = text if text.isascii() and text.isprintable() else \
        ''.join(c if c.isprintable() and c != '\ufffd' else ' ' for c in text)
    return ' '.join(shown.split())[:limit].rstrip()


def _upwards(path: str) -> Iterator[str]:
    while path.count('/') > 1:
        yield path
        path = path.rpartition('/')[0]


def _position(key: str, main: Record, records: Mapping[str, Record]) -> str:
    """
    Return where a device is plugged in, in words that survive a reboot.

    The numbers of USB buses depend on the order of probing: named are the controller, the USB
    version of its root hub (a controller has one of each) and the chain of ports.
    """
    if main.subsystem != 'usb':
        return key.rpartition('/')[2]
    root = next((records[p] for p in _upwards(main.path)
                 if p in records and re.fullmatch(r'usb\d+', records[p].name)), None)
    ports = main.name.partition('-')[2] or 'root'
    if root is None:
        return main.name
    controller = root.path.rpartition('/')[0].rpartition('/')[2]
    return f"{controller}-v{root.attributes.get('version', '').strip()[:1]}-{ports}"


def _serial(members: Sequence[Record]) -> str:
    for record in members:
        told = (record.properties.get('ID_SERIAL_SHORT') or record.properties.get('HID_UNIQ')
                or record.attributes.get('serial', ''))
        serial = clean(told, 64)
        if not NO_SERIAL.fullmatch(serial):
            return serial
    return ''


def _name(key: str, members: Sequence[Record], claim: Claim) -> str:
    main = members[0]
    told = [main.attributes.get(k) or main.properties.get(p, '') for k, p in
            (('manufacturer', 'ID_VENDOR_FROM_DATABASE'), ('product', 'ID_MODEL_FROM_DATABASE'))]
    name = claim.name or ' '.join(clean(part, 60) for part in told if part)
    told = [r.attributes[k] for r in members for k in ('model', 'name') if r.attributes.get(k)]
    name = name or (told[0] if told else claim.type.replace('_', ' '))
    interfaces = [r.name for r in members if r.subsystem in ('net', 'tty', 'block')]
    if not interfaces and main.subsystem != 'usb':
        interfaces = [key.rpartition('/')[2]]
    return f"{name} ({', '.join(interfaces)})" if interfaces else name


def _status(members: Sequence[Record], claim: Claim) -> Status:
    if any(record.silent for record in members):
        return Status.DEGRADED
    # Every USB device has the driver `usb`: what drives it are the drivers of its interfaces.
    if any((r.driver and r.device_type != 'usb_device') or r.subsystem in INTERFACES for r in members):
        return Status.CONNECTED
    return Status.DISCOVERED if claim.type == UNKNOWN else Status.IDENTIFIED


def _nodes(members: Sequence[Record]) -> tuple[str, ...]:
    raw = {r.node for r in members if r.subsystem == 'usb' and r.node}  # for libusb; least wanted
    ordered = [*sorted({r.node for r in members if r.node} - raw), *sorted(raw)]
    return tuple(clean(node) for node in ordered[:64])


def _properties(members: Sequence[Record], claim: Claim) -> tuple[tuple[str, str], ...]:
    facts: dict[str, str] = {'identified_by': claim.source}
    facts['driver'] = ', '.join(sorted({r.driver for r in members if r.driver and r.driver != 'usb'}))
    facts['class'] = members[0].class_code
    for record in members:
        if record.subsystem == 'net':
            facts['interface'] = record.name
    return tuple((k, clean(v)) for k, v in sorted(facts.items()) if v)
