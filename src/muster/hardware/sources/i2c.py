# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The chips of one I2C bus, those behind its multiplexers included, through /dev/i2c-N."""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
import errno
from pathlib import Path
import time

from muster.hardware.assembly import candidates, clean, detailed
from muster.hardware.devices import Device, Report, Status, UNKNOWN
from muster.hardware.evidence import Evidence, I2cReading, RegisterRead
from muster.hardware.identification import Claim, LIKELY, Rules
from muster.hardware.sources import buses, overlay, sysfs
from muster.hardware.sources.buses import Adapter
from muster.hardware.sources.deadline import Backoff, Deadline, HungError, Step
from muster.hardware.sources.i2c_probing import (
    Answers,
    Bus,
    BusError,
    Chip,
    examine,
    look,
    OPEN_LINE,
)
from muster.hardware.sources.worker import pause, PERIODIC
import smbus2

#: A claim that rests on doubtful readings is believed no more than this.
DOUBTFUL = 0.5


def open_bus(number: int) -> Bus:
    """Open /dev/i2c-`number`; raises OSError."""
    bus: Bus = smbus2.SMBus(number)
    return bus


class I2cSource:
    """
    The chips on the wires of one adapter, asked without harm (`i2c_probing`).

    Every transfer has 200 ms. A bus that hangs, or whose answers cannot be believed, is left alone
    for 5 s, then for twice as long each time; its devices have the status ERROR until it answers
    again. Registers are read when a chip appears and at requested scans; the periodic scan asks only
    who is there, because a register read in between could disturb a program that uses the chip. A chip
    that acknowledges its address, but whose registers tell nothing any more, is DEGRADED until they do.
    """

    def __init__(self, bus: int, rules: Rules, *, permitted: bool = False,
                 open_bus: Callable[[int], Bus] = open_bus, root: Path = buses.SYS,
                 clock: Callable[[], float] = time.monotonic, deadline: Deadline | None = None) -> None:
        """
        Take the number of the adapter.

        `permitted` allows reads of registers that some other chip at the same address would take for
        a write: 16-bit register numbers, and addresses of I/O expanders and multiplexers.
        """
        self.name = f'i2c-{bus}'
        self._bus, self._rules, self._permitted = bus, rules, permitted
        self._open, self._root, self._clock = open_bus, root, clock
        self._deadline = deadline or Deadline(self.name)
        self._backoff = Backoff()
        self._known: dict[str, Device] = {}
        self._readable: set[str] = set()        # paths of chips whose registers told something
        self._problem = ''

    def scan(self, reason: str) -> Report:
        """Ask every address; a bus in quarantine is not touched."""
        if self._backoff.waits(self._clock()):
            return self._report(reason)
        known = {path: one for path, one in self._known.items() if one.status != Status.DEGRADED} \
            if reason == PERIODIC and not self._problem else {}
        try:
            self._known = self._deadline.run(lambda step: self._survey(known, step))
            self._readable &= self._known.keys()
            self._problem = ''
            self._backoff.succeeded()
        except HungError as error:
            self._fail(f'no answer within 200 ms ({error})')
        except BusError as error:
            self._fail(str(error))
        except OSError as error:
            self._known, self._problem = {}, self._explain(error)
        return self._report(reason)

    def wait(self, timeout: float, wake: int) -> Report | None:
        """Wait for the next scan: I2C does not tell when something is plugged in."""
        pause(timeout, wake)
        return None

    def close(self) -> None:
        """Nothing is held between two scans."""

    # Inside -----------------------------------------------------------------------------------
    def _survey(self, known: dict[str, Device], step: Step) -> dict[str, Device]:
        """Return all devices by their paths; runs in the thread that may be given up."""
        step('reading /sys')
        tree = list(buses.segments(self._bus, buses.adapters(self._root)))
        answers: dict[int, Answers] = {}
        for adapter in tree:
            parent = answers.get(adapter.parent) if adapter.parent is not None else None
            skip = parent.free if parent and adapter.separates else ()
            with _Opened(self._open, adapter, step) as bus:
                found = look(bus, step, self._addresses(adapter), skip)
            answers[adapter.number] = replace(found, free=(*found.free, *skip))
        devices: dict[str, Device] = {}
        clients = {adapter.number: buses.clients(adapter, self._root) for adapter in tree}
        for adapter, taken, free in placed(tree, answers, clients):
            devices.update((_path(adapter, address), self._in_use(adapter, address)) for address in taken)
            paths = {_path(adapter, address): address for address in free}
            devices.update((path, known[path]) for path in paths if path in known)
            new = [address for path, address in paths.items() if path not in known]
            if new:
                with _Opened(self._open, adapter, step) as bus:
                    devices.update((_path(adapter, address), self._identify(bus, adapter, address, step))
                                   for address in new)
        return devices

    def _addresses(self, adapter: Adapter) -> set[int]:
        """Return the addresses of an adapter where chips were."""
        return {int(path.rpartition('-')[2], 16) for path in self._known
                if path.startswith(f'{adapter.path}/{adapter.number}-')}

    def _identify(self, bus: Bus, adapter: Adapter, address: int, step: Step) -> Device:
        def wide_read(address: int, read: RegisterRead) -> bytes:
            answer = smbus2.i2c_msg.read(address, read.width)
            bus.i2c_rdwr(smbus2.i2c_msg.write(address, read.register.to_bytes(read.address_bytes)), answer)
            return bytes(answer)

        def recognised(reading: I2cReading) -> bool:
            best = next(iter(self._rules.identify([reading]).candidates), None)
            return best is not None and best.confidence >= LIKELY

        chip = examine(bus, address, self._rules.i2c_reads(address), step, wide_read, recognised,
                       self._permitted)
        record = sysfs.read(_path(adapter, address), self._root)  # declared, though no driver has it
        path = _path(adapter, address)
        if {byte for value in chip.reading.registers.values() for byte in value} - set(OPEN_LINE):
            self._readable.add(path)
        elif path in self._known and path in self._readable:
            return overlay.silent(self._known[path])
        evidence: list[Evidence] = [chip.reading, *([record] if record else [])]
        return device(adapter, address, self._rules.identify(evidence), chip)

    def _in_use(self, adapter: Adapter, address: int) -> Device:
        """Return a chip that a kernel driver has: only what the kernel tells of it is known."""
        path = _path(adapter, address)
        record = sysfs.read(path, self._root)
        evidence: list[Evidence] = [I2cReading(address), *([record] if record else [])]
        return device(adapter, address, self._rules.identify(evidence), Chip(I2cReading(address)),
                      buses.driver_of(path, self._root) or 'unknown', record.attributes.get('name', '')
                      if record else '')

    def _fail(self, problem: str) -> None:
        if self._bus not in buses.adapters(self._root):  # pulled out in the middle
            self._known, self._problem = {}, ''
            return
        self._backoff.failed(self._clock())
        self._problem = f'{problem}; the bus is left alone for a while, longer each time'
        self._known = {path: replace(one, status=Status.ERROR) for path, one in self._known.items()}

    def _explain(self, error: OSError) -> str:
        """Return the problem and the remedy; none where the adapter was pulled out."""
        node = f'/dev/i2c-{self._bus}'
        if error.errno in (errno.EACCES, errno.EPERM):
            return (f"no permission for {node}: add the user to the group 'i2c', or install the rules of "
                    'config/udev')
        if self._bus not in buses.adapters(self._root):
            return ''
        if error.errno == errno.ENOENT:
            return f"{node} does not exist though the adapter does: load the module with 'modprobe i2c-dev'"
        return f'{node}: {error.strerror or error}'

    def _report(self, reason: str) -> Report:
        return Report(self.name, dict(self._known), reason, problem=self._problem)


class _Opened:
    """The device node of an adapter, open for the time of a `with`; opening may block as well."""

    def __init__(self, open_bus: Callable[[int], Bus], adapter: Adapter, step: Step) -> None:
        step(f'opening /dev/i2c-{adapter.number}')
        self._bus = open_bus(adapter.number)

    def __enter__(self) -> Bus:
        return self._bus

    def __exit__(self, *_: object) -> None:
        self._bus.close()


def placed(tree: Iterable[Adapter], answers: Mapping[int, Answers], clients: Mapping[int, Collection[int]]
           ) -> list[tuple[Adapter, list[int], list[int]]]:
    """
    Return which addresses are on which adapter, each chip once: those of drivers, and the others.

    `clients` are the addresses that drivers have by sysfs: the kernel refuses them on the adapters
    before and behind too (i2cdev_check_addr of drivers/i2c/i2c-dev.c). What is before a multiplexer
    answers on all its channels. And where the multiplexer leaves the last channel connected, what
    is behind it answers before it: only what answers on every channel is before it then.
    """
    adapters = list(tree)
    result = []
    before: dict[int | None, set[int]] = {None: set()}
    for adapter in adapters:
        seen = answers[adapter.number]
        taken = set(seen.taken) & set(clients[adapter.number])
        free = set(seen.free) - before[adapter.parent]
        for channel in (a for a in adapters if a.parent == adapter.number and not a.separates):
            free &= {*answers[channel.number].free, *answers[channel.number].taken}
        before[adapter.number] = before[adapter.parent] | free | taken
        result.append((adapter, sorted(taken), sorted(free)))
    return result


def device(adapter: Adapter, address: int, claim: Claim, chip: Chip, driver: str = '',
           kernel_name: str = '') -> Device:
    """Return the device at an address, named as the kernel would name it."""
    position = f'{adapter.number}-{address:04x}'
    facts = {'address': f'0x{address:02x}', 'adapter': adapter.name, 'identified_by': claim.source,
             'driver': driver, 'multiplexer': adapter.mux, 'doubt': '; '.join(chip.doubts),
             'evidence': claim.candidates[0].evidence if claim.candidates else ''}
    name = claim.name or kernel_name or 'I2C device'
    ready = driver or claim.type != UNKNOWN
    return Device(
        id=clean(f'i2c-{position}'), name=clean(f'{name} ({position})', 128), bus='i2c', type=claim.type,
        confidence=min(claim.confidence, DOUBTFUL) if chip.doubts else claim.confidence,
        status=Status.CONNECTED if ready else Status.DISCOVERED,
        path=clean(f'/sys{_path(adapter, address)}', 1024),
        nodes=() if driver else (f'/dev/i2c-{adapter.number}',), capabilities=claim.capabilities,
        offers=detailed(claim.offers), candidates=candidates(claim),
        properties=tuple((key, clean(value)) for key, value in sorted(facts.items()) if value))


def _path(adapter: Adapter, address: int) -> str:
    return f'{adapter.path}/{adapter.number}-{address:04x}'
