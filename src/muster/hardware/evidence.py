# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What was seen of a device: the kernel's records, and the answers on I2C, SPI and serial lines."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
import re
from typing import NamedTuple


class VideoMode(NamedTuple):
    """One way in which a camera gives images; `fps` are the rates to choose from, images a second."""

    pixel_format: str
    width: int
    height: int
    fps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Record:
    """
    One device of the kernel, as sysfs and udev tell it; `path` begins with /devices.

    `modes` are those of a video node, in the order of its driver; `silent` is one that did not answer.
    """

    path: str
    subsystem: str
    device_type: str = ''
    driver: str = ''
    node: str = ''
    properties: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    modes: tuple[VideoMode, ...] = ()
    silent: bool = False

    @cached_property
    def name(self) -> str:
        """Return the kernel's name, as ttyUSB0."""
        return self.path.rpartition('/')[2]

    @cached_property
    def vendor_id(self) -> str:
        """Return 4 hexadecimal digits in lower case, or an empty string."""
        return self._number('idVendor', 'vendor')

    @cached_property
    def product_id(self) -> str:
        """Return 4 hexadecimal digits in lower case, or an empty string."""
        return self._number('idProduct', 'device')

    def _number(self, usb: str, pci: str) -> str:
        # SCSI has a `vendor` too, a name; that of PCI is a number with its prefix.
        text = self.attributes.get(usb) or self.attributes.get(pci, '').partition('0x')[2]
        digits = text.strip().lower()
        return digits if re.fullmatch(r'[0-9a-f]{4}', digits) else ''

    @cached_property
    def class_code(self) -> str:
        """Return class, subclass and protocol in 6 hexadecimal digits (USB-IF, PCI-SIG), or ''."""
        kind = 'bInterface' if self.device_type == 'usb_interface' else 'bDevice'
        usb = [self.attributes.get(kind + part, '') for part in ('Class', 'SubClass', 'Protocol')]
        return ''.join(usb).lower() or self.attributes.get('class', '').removeprefix('0x').lower()


class RegisterRead(NamedTuple):
    """
    A read of `width` bytes from `register`; nothing but the register's number is written.

    Chips with 16-bit register numbers (`address_bytes` 2) are read last, and only where no other
    chip was recognised: one with 8-bit numbers takes the second byte for a value to be written.
    """

    address_bytes: int
    register: int
    width: int


@dataclass(frozen=True)
class I2cReading:
    """A chip that answers at the 7-bit `address`, and the bytes of the registers that were read."""

    address: int
    registers: Mapping[RegisterRead, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class SpiReading:
    """The last of `transfers` equal ones on a chip select: what was sent, and as many bytes read."""

    sent: bytes
    reply: bytes
    transfers: int = 1


@dataclass(frozen=True)
class SerialReading:
    """What came over a serial line after `sent` (empty: without being asked)."""

    sent: bytes
    reply: bytes


Evidence = Record | I2cReading | SpiReading | SerialReading
