# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Which chips answer on an I2C bus, asked in a way that harms none.

There is no request that is safe for every chip. As i2cdetect(8) does, an address is asked with the
quick write (its address and nothing else), and with the read of a byte where EEPROMs, eyes and
protected memories live: a quick write corrupts the AT24RF08, a read locks the write-only clock chips
at 0x69. Identification registers are read; but their number is written first, and chips without
registers (PCF8574: it is the new state of the outputs; TCA9548A: of the switches) take it for data.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
import errno
from typing import Any, Protocol

from muster.hardware.evidence import I2cReading, RegisterRead
from muster.hardware.sources.deadline import Step

#: The others are reserved by the I2C specification (NXP UM10204, section 3.1.12).
ADDRESSES = range(0x08, 0x78)
#: Asked with the read of a byte; all others with the quick write.
READ_ADDRESSES = frozenset((*range(0x30, 0x38), *range(0x50, 0x60)))
#: Never asked with the read of a byte.
WRITE_ONLY = frozenset((0x69,))
#: Where PCF8574, PCF8574A, PCA954x and TCA9548A may be, for which a register's number is data.
NO_REGISTERS = frozenset((*range(0x20, 0x28), *range(0x38, 0x40), *range(0x70, 0x78)))
#: A line bears 400 pF (UM10204, section 6.1), about 40 chips: where more answer, SDA is held low.
MAX_CHIPS = 64
#: So many times in a row the controller may fail before the bus counts as broken.
MAX_FAILURES = 3
#: Bytes that are read of a chip without naming a register, to see whether they differ.
POINTER_BYTES = 16
#: A chip that was there is asked so often before it counts as gone.
PATIENCE = 3

#: linux/i2c.h: what a controller can do.
FUNC_QUICK, FUNC_READ_BYTE, FUNC_I2C = 0x00010000, 0x00020000, 0x00000001
#: What drivers return where the line itself is at fault (Documentation/i2c/fault-codes.rst).
LINE_FAULTS = (errno.ETIMEDOUT, errno.EAGAIN)
GONE = (errno.ENODEV, errno.ESHUTDOWN)
OPEN_LINE = (0x00, 0xFF)


class Bus(Protocol):
    """What is used of smbus2.SMBus."""

    @property
    def funcs(self) -> int:
        """Return what the controller can do, as FUNC_ bits."""

    def write_quick(self, i2c_addr: int) -> Any:
        """Send the address with the bit for writing, and nothing else."""

    def read_byte(self, i2c_addr: int) -> int:
        """Receive a byte."""

    def read_byte_data(self, i2c_addr: int, register: int) -> int:
        """Read a register of one byte."""

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        """Read bytes from a register on."""

    def i2c_rdwr(self, *i2c_msgs: Any) -> Any:
        """Do several transfers without a stop in between."""

    def close(self) -> Any:
        """Close the device node."""


#: Reads a register with a number of 16 bits; made of smbus2.i2c_msg by who has it.
WideRead = Callable[[int, RegisterRead], bytes]


class BusError(Exception):
    """The bus as a whole is at fault; the message says what and the remedy."""


@dataclass(frozen=True)
class Answers:
    """The addresses that answered, and those that a kernel driver has taken."""

    free: tuple[int, ...]
    taken: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chip:
    """What a chip's identification registers told; `doubts` say why that is not to be relied on."""

    reading: I2cReading
    doubts: tuple[str, ...] = field(default=())


def look(bus: Bus, step: Step, known: Collection[int] = (), skip: Collection[int] = ()) -> Answers:
    """
    Return who answers; BusError where that cannot be believed.

    An address that is `known` is asked again when it does not answer; one to `skip` is not asked.
    """
    free: list[int] = []
    taken: list[int] = []
    failures = 0
    for address in ADDRESSES:
        if address in skip:
            continue
        step(f'address 0x{address:02x}')
        for _ in range(PATIENCE if address in known else 1):
            error = _ask(bus, address)
            if error in (0, errno.EBUSY):
                break
        failures = failures + 1 if error in LINE_FAULTS else 0
        if failures == MAX_FAILURES or error in GONE:
            raise BusError(f'the controller fails ({errno.errorcode[error]}) at 0x{address:02x}: check that '
                           'SDA and SCL have pull-ups and that no chip holds them')
        if error == errno.EBUSY:
            taken.append(address)
        elif error == 0:
            free.append(address)
        if len(free) > MAX_CHIPS:
            raise BusError('every address answers: SDA is held low, by a short circuit or by a chip that '
                           'waits for clocks; power the bus off and on')
    return Answers(tuple(free), tuple(taken))


def _ask(bus: Bus, address: int) -> int:
    """Ask an address; return 0 where it answers, else the error number."""
    read = address in READ_ADDRESSES or not bus.funcs & FUNC_QUICK
    if read and (address in WRITE_ONLY or not bus.funcs & FUNC_READ_BYTE):
        return errno.EOPNOTSUPP
    try:
        if read:
            bus.read_byte(address)
        else:
            bus.write_quick(address)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def examine(bus: Bus, address: int, reads: Sequence[RegisterRead], step: Step, wide_read: WideRead,
            recognised: Callable[[I2cReading], bool], permitted: bool = False) -> Chip:
    """
    Read the identification registers of the chip at an address, each twice.

    Where a chip might be that takes the number of a register for data, they are read only if the
    chip shows without being told a number that it has several; `permitted` reads them all the same,
    and those with 16-bit numbers too, where none of the others was `recognised`.
    """
    narrow = [read for read in reads if read.address_bytes == 1]
    wide = [read for read in reads if read.address_bytes > 1]
    if narrow and address in NO_REGISTERS and not permitted and not _has_registers(bus, address, step):
        return Chip(I2cReading(address), ('its registers were not read: an I/O expander or multiplexer '
                                          'would take that for a write',))
    chip = _read(address, narrow, step, lambda read: _narrow_read(bus, address, read))
    if not wide or not bus.funcs & FUNC_I2C or recognised(chip.reading):
        return chip
    if not permitted:
        return Chip(chip.reading, (*chip.doubts, 'its 16-bit registers were not read: others would take '
                                                 'that for a write'))
    more = _read(address, wide, step, lambda read: wide_read(address, read))
    return Chip(I2cReading(address, {**chip.reading.registers, **more.reading.registers}),
                (*chip.doubts, *more.doubts))


def _has_registers(bus: Bus, address: int, step: Step) -> bool:
    """Return whether bytes that are read one after the other differ: then something counts on."""
    seen: set[int] = set()
    for _ in range(POINTER_BYTES):
        step(f'reading from 0x{address:02x}')
        try:
            seen.add(bus.read_byte(address))
        except OSError:
            return False
    return len(seen) > 1


def _read(address: int, reads: Iterable[RegisterRead], step: Step,
          read_once: Callable[[RegisterRead], bytes]) -> Chip:
    registers: dict[RegisterRead, bytes] = {}
    doubts: list[str] = []
    for read in reads:
        step(f'register 0x{read.register:02x} of 0x{address:02x}')
        try:
            first, second = read_once(read), read_once(read)
        except OSError:
            continue  # it does not answer to that
        if first == second:
            registers[read] = first
        else:
            doubts.append(f'register 0x{read.register:02x} changes ({first.hex()}, {second.hex()})')
    told = {byte for value in registers.values() for byte in value}
    if told and told <= set(OPEN_LINE):
        doubts.append('its registers read as zeros or ones alone, as an open line does')
    return Chip(I2cReading(address, registers), tuple(doubts))


def _narrow_read(bus: Bus, address: int, read: RegisterRead) -> bytes:
    if read.width == 1:
        return bytes((bus.read_byte_data(address, read.register),))
    return bytes(bus.read_i2c_block_data(address, read.register, read.width))
