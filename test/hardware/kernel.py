# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Kernel records as fixtures, and a real device that a test can plug in and pull out."""
from __future__ import annotations

import fcntl
import os
from pathlib import Path
import struct

from muster.hardware.evidence import Record
from muster.hardware.identification import Rules
import pytest

RULES = Rules.load(sorted((Path(__file__).parents[2] / 'config' / 'devices').glob('*.yaml')))
HOST = '/devices/pci0000:00/0000:00:14.0'


def usb(port: str, vendor: str, product: str, *interfaces: str, serial: str = '', driver: str = 'driver',
        device_class: str = '000000', host: str = HOST) -> list[Record]:
    """Return the records of a USB device at `port` (as 1-2.3), with interfaces by their class codes."""
    bus, _, chain = port.partition('-')
    root = f'{host}/usb{bus}'
    path = root
    for depth in range(1, chain.count('.') + 2):
        path += f'/{bus}-' + '.'.join(chain.split('.')[:depth])
    attributes = {'idVendor': vendor, 'idProduct': product, 'serial': serial,
                  'bDeviceClass': device_class[:2], 'bDeviceSubClass': device_class[2:4],
                  'bDeviceProtocol': device_class[4:]}
    records = [
        Record(host, 'pci', driver='xhci_hcd', attributes={
            'vendor': '0x8086', 'device': '0x9d2f', 'class': '0x0c0330'}),
        Record(root, 'usb', 'usb_device', 'usb', attributes={
            'idVendor': '1d6b', 'idProduct': '0002', 'version': ' 2.00', 'bDeviceClass': '09',
            'bDeviceSubClass': '00', 'bDeviceProtocol': '01'}),
        Record(path, 'usb', 'usb_device', 'usb', f'/dev/bus/usb/00{bus}/{chain}', attributes=attributes)]
    for number, code in enumerate(interfaces):
        records.append(Record(f'{path}/{port}:1.{number}', 'usb', 'usb_interface', driver, attributes={
            'bInterfaceClass': code[:2], 'bInterfaceSubClass': code[2:4], 'bInterfaceProtocol': code[4:]}))
    return records


def below(parent: Record, rest: str, subsystem: str, node: str = '', device_type: str = '',
          **attributes: str) -> Record:
    """Return a record below another one."""
    return Record(f'{parent.path}/{rest}', subsystem, device_type, '', node, attributes=attributes)


class Tap:
    """A network interface of the real kernel; it exists while the file is open (linux/if_tun.h)."""

    TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000

    def __init__(self, name: str | bytes) -> None:
        """Plug it in; skip the test where that is not allowed."""
        try:
            self._file = os.open('/dev/net/tun', os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(self._file, self.TUNSETIFF,
                        struct.pack('16sH22x', os.fsencode(name), self.IFF_TAP | self.IFF_NO_PI))
        except OSError as error:
            pytest.skip(f'no network interface can be made here (root and /dev/net/tun are needed): {error}')
        if not os.path.exists(b'/sys/class/net/' + os.fsencode(name)):
            self.pull()
            pytest.skip('/sys shows the interfaces of another network namespace')

    def pull(self) -> None:
        """Pull it out."""
        os.close(self._file)
