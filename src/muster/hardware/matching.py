# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The conditions of an identification rule: when does a piece of evidence speak for a device."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
import re
from typing import Any, NamedTuple

from muster.hardware.evidence import Evidence, I2cReading, Record, RegisterRead, SerialReading, SpiReading

#: Bytes of a serial reply that are looked at; a probe reads no more.
MAX_REPLY = 1024
#: A line that nobody drives reads as all zeros or all ones: that is no chip.
OPEN_LINE = ({0x00}, {0xFF})


@dataclass(frozen=True)
class KernelMatch:
    """All keys are true of one kernel record; a text may be any one of its alternatives."""

    subsystem: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    class_code: tuple[str, ...] = ()

    def describe(self, evidence: Evidence) -> str:
        """Return in words what of the evidence fits, or an empty text."""
        if not isinstance(evidence, Record) or evidence.subsystem not in self.subsystem:
            return ''
        if self.class_code and not evidence.class_code.startswith(self.class_code):
            return ''
        if not all(_any_fits(getattr(evidence, key), wanted) for key, wanted in self.texts.items()):
            return ''
        if not all(_any_fits(getattr(evidence, table).get(name, ''), wanted)
                   for table, entries in self.tables.items() for name, wanted in entries.items()):
            return ''
        if 'vendor_id' in self.texts:
            return f'{evidence.subsystem} {evidence.vendor_id}:{evidence.product_id}'
        return f'{evidence.subsystem} class {evidence.class_code}' if self.class_code else evidence.subsystem


def _any_fits(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


class RegisterValue(NamedTuple):
    """What a register must read: `value` where the bits of `mask` are set, most significant byte first."""

    read: RegisterRead
    value: int
    mask: int

    def fits(self, data: bytes) -> bool:
        """Return whether the bytes are those of this chip."""
        whole = self.mask == (1 << 8 * self.read.width) - 1
        if len(data) != self.read.width or (not whole and set(data) in OPEN_LINE):
            return False
        return int.from_bytes(data) & self.mask == self.value


@dataclass(frozen=True)
class I2cMatch:
    """A chip at one of the addresses, all of whose identification registers read as they must."""

    addresses: tuple[int, ...]
    registers: tuple[RegisterValue, ...] = ()

    @property
    def bits(self) -> int:
        """Return how many bits must be as they are."""
        return sum(wanted.mask.bit_count() for wanted in self.registers)

    def describe(self, evidence: Evidence) -> str:
        """Return in words what of the evidence fits, or an empty text."""
        if not isinstance(evidence, I2cReading) or evidence.address not in self.addresses:
            return ''
        told = [f'i2c 0x{evidence.address:02x}']
        for wanted in self.registers:
            data = evidence.registers.get(wanted.read, b'')
            if not wanted.fits(data):
                return ''
            told.append(f'register 0x{wanted.read.register:02x} = 0x{data.hex()}')
        return ' '.join(told)


@dataclass(frozen=True)
class SpiMatch:
    """
    A transfer whose reply has the bits of `mask` as in `reply`; `mode` is the SPI mode 0..3.

    Chips that answer in the next transfer only are asked twice (`transfers`): the last reply counts.
    """

    send: bytes
    reply: bytes
    mask: bytes
    mode: int = 0
    transfers: int = 1

    @property
    def bits(self) -> int:
        """Return how many bits must be as they are."""
        return int.from_bytes(self.mask).bit_count()

    def describe(self, evidence: Evidence) -> str:
        """Return in words what of the evidence fits, or an empty text."""
        if not isinstance(evidence, SpiReading) or (evidence.sent, evidence.transfers) != (
                self.send, self.transfers):
            return ''
        if len(evidence.reply) != len(self.reply) or set(evidence.reply) in OPEN_LINE:
            return ''
        fits = all(got & bits == wanted & bits for got, wanted, bits
                   in zip(evidence.reply, self.reply, self.mask, strict=True))
        return f'spi {self.send.hex(" ")} -> {evidence.reply.hex(" ")}' if fits else ''


@dataclass(frozen=True)
class SerialMatch:
    """A reply to `send` (empty: what comes unasked) that has `reply` in it, with a true checksum."""

    send: bytes
    reply: str
    check: str = ''
    baud: tuple[int, ...] = ()
    adapters: tuple[str, ...] = ()

    @cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """Return the compiled `reply`."""
        return reply_pattern(self.reply)

    def describe(self, evidence: Evidence) -> str:
        """Return in words what of the evidence fits, or an empty text."""
        if not isinstance(evidence, SerialReading) or evidence.sent != self.send:
            return ''
        received = evidence.reply[:MAX_REPLY]
        for found in self.pattern.finditer(received):
            if not self.check or CHECKS[self.check](received[found.start():]):
                asked = self.send.hex(' ') or 'unasked'
                return f'serial {asked} -> {found[0][:16].hex(" ")}'
        return ''

    def model(self, evidence: Evidence) -> str:
        """Return what stands at the @ of `reply`: the model that the device says it is."""
        if not isinstance(evidence, SerialReading) or 'model' not in self.pattern.groupindex:
            return ''
        found = self.pattern.search(evidence.reply[:MAX_REPLY])
        return found['model'].decode('ascii') if found else ''


Match = KernelMatch | I2cMatch | SpiMatch | SerialMatch


# Checksums: each takes the received bytes from the start of a frame on. ---------------------------
def _crc16(data: bytes, polynomial: int, start: int, reflected: bool) -> int:
    crc = start
    for byte in data:
        crc ^= byte if reflected else byte << 8
        for _ in range(8):
            if reflected:
                crc = crc >> 1 ^ (polynomial if crc & 1 else 0)
            else:
                crc = (crc << 1 ^ (polynomial if crc & 0x8000 else 0)) & 0xFFFF
    return crc


def _nmea(frame: bytes) -> bool:
    """NMEA 0183: the exclusive or of what is between $ and *."""
    found = re.match(rb'\$([^*\r\n]{1,100})\*([0-9A-Fa-f]{2})', frame)
    total = 0
    for byte in found[1] if found else b'':
        total ^= byte
    return found is not None and total == int(found[2], 16)


def _ubx(frame: bytes) -> bool:
    """u-blox UBX: an 8-bit Fletcher sum over class, id, length and payload."""
    end = 6 + int.from_bytes(frame[4:6], 'little')
    first = second = 0
    for byte in frame[2:end]:
        first = first + byte & 0xFF
        second = second + first & 0xFF
    return len(frame) >= end + 2 and frame[end:end + 2] == bytes((first, second))


def _dynamixel(frame: bytes) -> bool:
    """Dynamixel protocol 2.0: CRC-16 (0x8005) over all before it; the length counts from byte 7."""
    end = 7 + int.from_bytes(frame[5:7], 'little') - 2
    crc = _crc16(frame[:end], 0x8005, 0, False)
    return 7 < end <= len(frame) - 2 and frame[end:end + 2] == crc.to_bytes(2, 'little')


def _feetech(frame: bytes) -> bool:
    """Feetech and Dynamixel 1.0: the inverted sum from the id on; the length counts from byte 4."""
    end = 4 + frame[3] - 1 if len(frame) > 4 else 0
    return 4 < end < len(frame) and ~sum(frame[2:end]) & 0xFF == frame[end]


def _mavlink(frame: bytes) -> bool:
    """Check a MAVLink 1 or 2 frame: CRC-16/MCRF4XX from the second byte on, then CRC_EXTRA (50)."""
    end = (6 if frame[:1] == b'\xfe' else 10) + (frame[1] if len(frame) > 1 else 0)
    crc = _crc16(frame[1:end] + b'\x32', 0x8408, 0xFFFF, True)
    return len(frame) >= end + 2 and frame[end:end + 2] == crc.to_bytes(2, 'little')


def _vesc(frame: bytes) -> bool:
    """VESC: CRC-16 (0x1021) over the payload, most significant byte first, then 3."""
    end = 2 + frame[1] if len(frame) > 1 else 0
    crc = _crc16(frame[2:end], 0x1021, 0, False)
    return len(frame) >= end + 3 and frame[end:end + 3] == crc.to_bytes(2) + b'\x03'


CHECKS: Mapping[str, Callable[[bytes], bool]] = {
    'nmea': _nmea, 'ubx': _ubx, 'dynamixel': _dynamixel, 'feetech': _feetech, 'mavlink': _mavlink,
    'vesc': _vesc}

TOKEN = re.compile(r'"([^"]+)"|([0-9A-Fa-f]{2})|(\?\?)|(\*)|(@)|\s+')
#: A model: a word with a digit in it, unlike `ERROR`.
MODEL = rb'(?P<model>(?=[A-Za-z_.+/-]{0,31}[0-9])[A-Za-z0-9_.+/-]{1,32})'


def reply_pattern(text: str) -> re.Pattern[bytes]:
    """
    Return the pattern of a reply: bytes in hexadecimal, "text", ?? for any byte, * for up to 64.

    An @ stands for a model. ValueError where it is none. Its search takes linear time for each *, of which
    there may be 2; there may be one @.
    """
    parts = [re.escape((found[1] or '').encode()) if found[1] else re.escape(bytes.fromhex(found[2]))
             if found[2] else b'.' if found[3] else b'.{0,64}?' if found[4] else MODEL if found[5] else b''
             for found in _tokens(text)]
    literal = any(part not in (b'', b'.', b'.{0,64}?', MODEL) for part in parts)
    if not literal or parts.count(b'.{0,64}?') > 2 or parts.count(MODEL) > 1:
        raise ValueError(text)
    return re.compile(b''.join(parts), re.DOTALL)


def _tokens(text: str) -> Iterator[re.Match[str]]:
    position = 0
    while position < len(text):
        found: Any = TOKEN.match(text, position)
        if found is None:
            raise ValueError(text)
        yield found
        position = found.end()
