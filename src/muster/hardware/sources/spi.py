# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The chip behind one SPI chip select, asked for what it is; only where the operator allowed it.

SPI has no addresses and no acknowledgement: whatever is sent is taken for a command by the chip that
is there. The questions of the rules read on the chips they are for and could write on others.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
import errno
import os
from pathlib import Path
import re
import time
from typing import Any, Protocol

from muster.hardware.devices import Device, Report, Status
from muster.hardware.evidence import SpiReading
from muster.hardware.identification import LIKELY, Rules, SpiProbe
from muster.hardware.matching import OPEN_LINE
from muster.hardware.sources import overlay
from muster.hardware.sources.deadline import Backoff, Deadline, HungError, Step
from muster.hardware.sources.worker import pause, PERIODIC
import spidev

NODE = re.compile(r'/dev/spidev(\d{1,5})\.(\d{1,3})')
#: Slow enough for every chip and long wires, in Hz.
SPEED = 500_000


class Spi(Protocol):
    """What is used of spidev.SpiDev."""

    mode: int
    max_speed_hz: int

    def xfer2(self, values: Sequence[int]) -> Iterable[int]:
        """Send bytes and return as many; the chip select stays active in between."""

    def close(self) -> Any:
        """Close the device node."""


def open_spi(bus: int, select: int) -> Spi:
    """Open /dev/spidev`bus`.`select`; raises OSError."""
    device: Spi = spidev.SpiDev()
    device.open(bus, select)  # type: ignore[attr-defined]  # of the fakes no one is opened like this
    return device


class SpiSource:
    """
    The device at one node, as /dev/spidev0.0.

    All questions are asked at the first scan and at requested ones; the periodic scan repeats the one
    that was answered, or none. A chip that does not answer it is DEGRADED until it does, or until a
    requested scan finds nothing. Mode and speed of the node are set back. It names nothing where no
    answer is known, and there is no telling whether a chip is there at all then.
    """

    def __init__(self, node: str, rules: Rules, *, open_spi: Callable[[int, int], Spi] = open_spi,
                 root: Path = overlay.SYS, clock: Callable[[], float] = time.monotonic,
                 deadline: Deadline | None = None) -> None:
        """Take the path of the node; ValueError where it is none of spidev."""
        match = NODE.fullmatch(node)
        if match is None:
            raise ValueError(f"'{node}' is no SPI device node: it must be like /dev/spidev0.0")
        self.name = os.path.basename(node)
        self._node, self._rules, self._open, self._root = node, rules, open_spi, root
        self._numbers = int(match[1]), int(match[2])
        self._clock, self._backoff = clock, Backoff()
        self._deadline = deadline or Deadline(self.name)
        self._answered: SpiProbe | None = None
        self._known: dict[str, Device] = {}
        self._problem = ''

    def scan(self, reason: str) -> Report:
        """Ask what is there."""
        if not self._backoff.waits(self._clock()):
            try:
                self._look(reason)
                self._problem = ''
                self._backoff.succeeded()
            except HungError as error:
                self._fail(f'no answer within 200 ms ({error}); it is left alone for a while')
            except OSError as error:
                self._problem = self._explain(error)
                self._known, self._answered = {}, None
        return Report(self.name, dict(self._known), reason, problem=self._problem)

    def wait(self, timeout: float, wake: int) -> Report | None:
        """Wait for the next scan: SPI does not tell when something is plugged in."""
        pause(timeout, wake)
        return None

    def close(self) -> None:
        """Nothing is held between two scans."""

    # Inside -----------------------------------------------------------------------------------
    def _look(self, reason: str) -> None:
        repeat = reason == PERIODIC and not self._problem
        if repeat and self._answered is None:
            return
        probes = (self._answered,) if repeat and self._answered else self._rules.spi_probes()
        found = self._deadline.run(lambda step: self._ask(probes, step))
        if found is not None:
            self._answered, reading = found
            key, device = self._device(reading)
            self._known = {key: device}
        elif reason == PERIODIC:
            self._known = {key: overlay.silent(one) for key, one in self._known.items()}
        else:
            self._known, self._answered = {}, None

    def _ask(self, probes: Iterable[SpiProbe], step: Step) -> tuple[SpiProbe, SpiReading] | None:
        """Return the first question with an answer that is known; runs in the deadline's thread."""
        step(f'opening {self._node}')
        spi = self._open(*self._numbers)
        mode, speed = spi.mode, spi.max_speed_hz
        try:
            spi.max_speed_hz = SPEED
            for probe in probes:
                step(f'asking {probe.send.hex(" ")}')
                spi.mode = probe.mode
                for _ in range(probe.transfers):
                    reply = bytes(spi.xfer2(list(probe.send)))
                reading = SpiReading(probe.send, reply, probe.transfers)
                candidates = () if set(reply) in OPEN_LINE else self._rules.identify([reading]).candidates
                if candidates and candidates[0].confidence >= LIKELY:
                    return probe, reading
            return None
        finally:
            spi.mode, spi.max_speed_hz = mode, speed  # the driver keeps them for whoever opens it next
            spi.close()

    def _device(self, reading: SpiReading) -> tuple[str, Device]:
        device, records = overlay.base(self._node, 'spidev', self._rules, self._root)
        if device is None:
            device = Device(id=f'spi-{self.name}', name=self.name, bus='spi', path=self._node,
                            nodes=(self._node,))
        claim = self._rules.identify([*records, reading])
        evidence = claim.candidates[0].evidence if claim.candidates else ''
        return device.path, overlay.told(device, claim, self.name, [('evidence', evidence)])

    def _fail(self, problem: str) -> None:
        self._backoff.failed(self._clock())
        self._problem = problem
        self._known = {key: replace(one, status=Status.ERROR) for key, one in self._known.items()}

    def _explain(self, error: OSError) -> str:
        if error.errno in (errno.EACCES, errno.EPERM):
            return (f"no permission for {self._node}: add the user to the group 'spi', and install the rules "
                    'of config/udev')
        if error.errno == errno.ENOENT:
            return (f'{self._node} does not exist: enable SPI for this board (its device tree or firmware '
                    'settings), or take the node out of the parameters')
        return f'{self._node}: {error.strerror or error}'
