# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""I2C buses without hardware: smbus2's interface over chips in memory, with a log, and a sysfs for them."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
import errno
import os
from pathlib import Path
import threading
from typing import Any, NamedTuple

from muster.hardware.evidence import I2cReading
from muster.hardware.sources.i2c_probing import FUNC_I2C, FUNC_QUICK, FUNC_READ_BYTE


class Transfer(NamedTuple):
    """One message on the wires: `wrote` are the bytes after the address, `read` how many were read."""

    bus: int
    address: int
    wrote: bytes
    read: int


@dataclass
class Chip:
    """A chip with registers of 8-bit numbers, or (`wide`) of 16-bit ones; all others NACK."""

    registers: dict[int, int] = field(default_factory=dict)
    wide: bool = False
    pointer: int = 0
    fault: int = 0                              # an errno that every transfer ends with
    hang: threading.Event | None = None         # every transfer lasts until it is set
    noisy: bool = False                         # no register reads twice the same
    missed: int = 0                             # it does not hear that many requests

    def touch(self) -> None:
        """Raise what is wrong with the chip."""
        if self.hang is not None:
            self.hang.wait(10)
        if self.missed > 0:
            self.missed -= 1
            raise OSError(errno.EREMOTEIO, 'Remote I/O error')
        if self.fault:
            raise OSError(self.fault, os.strerror(self.fault))

    def write(self, data: bytes) -> None:
        """Take the bytes of a write: the register's number, then values."""
        width = 2 if self.wide else 1
        if len(data) >= width:
            self.pointer = int.from_bytes(data[:width])
        for value in data[width:]:
            self.registers[self.pointer] = value
            self.pointer += 1

    def read(self) -> int:
        """Return the next byte."""
        if self.noisy:
            self.registers[self.pointer] = self.registers.get(self.pointer, 0) + 1 & 0xFF
        value = self.registers.get(self.pointer, 0)
        self.pointer += 1
        return value


class Latch(Chip):
    """A PCF8574 or TCA9548A: every byte that is written is its state, and that is what it reads."""

    state = 0

    def write(self, data: bytes) -> None:
        """Take the last byte for the state."""
        if data:
            self.state = data[-1]

    def read(self) -> int:
        """Return the state."""
        return self.state


@dataclass
class FakeBus:
    """smbus2.SMBus, for the chips of one adapter; `log` is shared by whoever opens it."""

    number: int
    chips: dict[int, Chip]
    log: list[Transfer]
    taken: frozenset[int] = frozenset()
    funcs: int = FUNC_QUICK | FUNC_READ_BYTE | FUNC_I2C
    stuck: bool = False
    fault: int = 0
    closed: int = 0

    def write_quick(self, i2c_addr: int) -> None:
        """Send the address alone."""
        self._transfer(i2c_addr, b'', 0)

    def read_byte(self, i2c_addr: int) -> int:
        """Receive a byte."""
        return self._transfer(i2c_addr, b'', 1)[0]

    def read_byte_data(self, i2c_addr: int, register: int) -> int:
        """Read a register."""
        return self._transfer(i2c_addr, bytes((register,)), 1)[0]

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        """Read from a register on."""
        return list(self._transfer(i2c_addr, bytes((register,)), length))

    def i2c_rdwr(self, *i2c_msgs: Any) -> None:
        """Write, then read, as smbus2.i2c_msg tell."""
        write, read = i2c_msgs
        for position, byte in enumerate(self._transfer(write.addr, bytes(write), read.len)):
            read.buf[position] = byte

    def close(self) -> None:
        """Count how often it was closed."""
        self.closed += 1

    def _transfer(self, address: int, wrote: bytes, count: int) -> bytes:
        if address in self.taken:                    # the kernel refuses, nothing reaches the wires
            raise OSError(errno.EBUSY, 'Device or resource busy')
        self.log.append(Transfer(self.number, address, wrote, count))
        if self.fault:
            raise OSError(self.fault, os.strerror(self.fault))
        chip = self.chips.get(address)
        if self.stuck:
            return bytes(count)
        if chip is None:
            raise OSError(errno.ENXIO, 'No such device or address')
        chip.touch()
        chip.write(wrote)
        return bytes(chip.read() for _ in range(count))


class Wires:
    """All adapters of a machine, in a sysfs below `root`; opened as `open_bus` of I2cSource."""

    def __init__(self, root: Path) -> None:
        """Begin without adapters."""
        self.root = root
        self.buses: dict[int, FakeBus] = {}
        self.log: list[Transfer] = []
        self.errors: dict[int, OSError] = {}
        (root / 'bus/i2c/devices').mkdir(parents=True)

    def adapter(self, number: int, chips: dict[int, Chip] | None = None, name: str = 'i2c_bcm2835',
                below: str = 'devices/platform/soc/fe804000.i2c', **settings: Any) -> FakeBus:
        """Plug an adapter in."""
        folder = self.root / below / f'i2c-{number}'
        folder.mkdir(parents=True)
        (folder / 'name').write_text(name + '\n')
        self._link(self.root / f'bus/i2c/devices/i2c-{number}', folder)
        self.buses[number] = FakeBus(number, chips if chips is not None else {}, self.log, **settings)
        return self.buses[number]

    def client(self, number: int, address: int, name: str, driver: str = '') -> Path:
        """Let the kernel know a chip, with or without a driver for it."""
        adapter = os.path.realpath(self.root / f'bus/i2c/devices/i2c-{number}')
        folder = Path(adapter) / f'{number}-{address:04x}'
        folder.mkdir()
        (folder / 'name').write_text(name + '\n')
        (folder / 'uevent').write_text(f'DRIVER={driver}\n' if driver else '')
        self._link(folder / 'subsystem', self.root / 'bus/i2c')
        if driver:
            self._link(folder / 'driver', self.root / f'bus/i2c/drivers/{driver}')
            bus = self.buses[number]
            bus.taken |= {address}
        return folder

    def multiplexer(self, parent: int, channels: dict[int, dict[int, Chip]], idle: str = '-1') -> None:
        """Put a TCA9548A with a driver at 0x70; `channels` are the numbers of the new adapters."""
        mux = self.client(parent, 0x70, 'pca9548', 'pca954x')
        (mux / 'idle_state').write_text(idle + '\n')
        before = self.buses[parent]
        behind = Path(os.path.realpath(self.root / f'bus/i2c/devices/i2c-{parent}')).relative_to(self.root)
        for number, chips in channels.items():
            self.adapter(number, {**before.chips, **chips}, f'i2c-{parent}-mux (chan_id {number})',
                         str(behind), taken=before.taken)
            self._link(self.root / behind / f'i2c-{number}' / 'mux_device', mux)
            if idle != '-2' and number == max(channels):
                before.chips = {**before.chips, **chips}    # it stays connected

    def pull(self, number: int) -> None:
        """Pull an adapter out."""
        (self.root / f'bus/i2c/devices/i2c-{number}').unlink()
        del self.buses[number]

    def open(self, number: int) -> FakeBus:
        """Open /dev/i2c-`number`."""
        if number in self.errors:
            raise self.errors[number]
        if number not in self.buses:
            raise FileNotFoundError(errno.ENOENT, 'No such file or directory')
        return self.buses[number]

    @staticmethod
    def _link(link: Path, target: Path) -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def chip_of(reading: I2cReading) -> Chip:
    """Return a chip that would be read like this."""
    registers: dict[int, int] = {}
    for read, value in reading.registers.items():
        registers.update({read.register + position: byte for position, byte in enumerate(value)})
    return Chip(registers, wide=any(read.address_bytes > 1 for read in reading.registers))


def forbidden(log: Iterable[Transfer], allowed: Callable[[Transfer], bool]) -> list[Transfer]:
    """Return what was written without being a register's number that is `allowed` to be read."""
    return [transfer for transfer in log if transfer.wrote and not (transfer.read and allowed(transfer))]
