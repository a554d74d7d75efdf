# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is behind one serial port: listened for, then asked; only where the operator allowed it."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import errno
import os
from pathlib import Path
import select
import time

from muster.hardware.devices import Device, Report, Status
from muster.hardware.evidence import Record, SerialReading
from muster.hardware.identification import LIKELY, Rules, SerialProbe
from muster.hardware.matching import MAX_REPLY
from muster.hardware.sources import overlay
from muster.hardware.sources.deadline import Deadline, HungError, Step
from muster.hardware.sources.serial import pseudo_terminal, PTY
from muster.hardware.sources.serial_line import PortInUseError, SerialLine
from muster.hardware.sources.worker import pause, REQUESTED

#: Seconds that are listened at each baud rate (position and heartbeat come once a second), and that
#: an answer may take (the slowest, RPLIDAR, takes some 10 ms).
LISTEN, REPLY = 1.2, 0.15
#: Longest time (seconds) in one call; a thread of a driver that hangs is given up after 200 ms.
SLICE = 0.1
TOTAL_LIMIT = 60.0


class SerialProber:
    """
    The device behind one port, as /dev/ttyUSB0.

    It is asked once when the port appears, and again at a requested scan: a device that does not answer
    then is DEGRADED until it does. A port that somebody uses is left alone, and what is known of it
    stays. All that between scans, because it takes several seconds; a wake-up interrupts it. What is
    found is reported with the id that the kernel's records give the port.
    """

    def __init__(self, node: str, rules: Rules, *, root: Path = overlay.SYS, listen: float = LISTEN,
                 reply: float = REPLY) -> None:
        """Take the path of the port; ValueError where it is not absolute."""
        if not node.startswith('/'):
            raise ValueError(f"'{node}' is no serial port: it must be an absolute path, as /dev/ttyUSB0")
        self.name = f'serial {node}'
        self._node, self._rules, self._root = node, rules, root
        self._listen, self._reply = listen, reply
        self._deadline = Deadline(self.name, total=TOTAL_LIMIT)
        self._port: tuple[int, int] | None = None   # inode and number of the node that is there
        self._due = False
        self._answered: tuple[SerialProbe, int] | None = None
        self._known: dict[str, Device] = {}
        self._problem = ''

    def scan(self, reason: str) -> Report:
        """Look whether the port is there; what is behind it is asked in `wait`."""
        port = self._present()
        if port != self._port:
            self._known, self._problem, self._answered = {}, '', None
            self._port, self._due = port, port is not None
        elif port is not None and reason == REQUESTED:
            self._due = True
        return Report(self.name, dict(self._known), reason, problem=self._problem)

    def wait(self, timeout: float, wake: int) -> Report | None:
        """Ask, where that is due; else wait for the next scan."""
        if not self._due:
            pause(timeout, wake)
            return None
        try:
            self._problem = self._look(wake)
        except InterruptedError:
            return None  # asked again after what woke it
        except HungError as error:
            self._problem = f'{self._node} hangs ({error}); it is asked again at a requested scan'
            self._known = {key: replace(one, status=Status.ERROR) for key, one in self._known.items()}
        except PortInUseError as error:
            self._problem = self._in_use(error.args[0])
        except OSError as error:
            if error.errno == errno.EBUSY:
                self._problem = self._in_use(f'{self._node} is held by another program (TIOCEXCL)')
            else:
                self._known, self._problem = {}, self._explain(error)
        self._due = False
        return Report(self.name, dict(self._known), 'serial port asked', problem=self._problem)

    def close(self) -> None:
        """Nothing is held between two scans."""

    # Inside -----------------------------------------------------------------------------------
    def _present(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._node)
        except OSError:
            return None
        return status.st_ino, status.st_rdev

    def _look(self, wake: int) -> str:
        """Ask what is there; no problem is left, but what was known may be silent."""
        device, records = overlay.base(self._node, 'tty', self._rules, self._root)
        found = self._deadline.run(lambda step: self._ask(records, wake, step))
        if found is not None:
            self._known = self._device(device, records, *found)
        else:
            self._known = {key: overlay.silent(one) for key, one in self._known.items()}
        return ''

    def _in_use(self, who: str) -> str:
        """Return the problem of a port that somebody uses: none where it was asked before."""
        return '' if self._known else f'{who}: not asked; do it by a scan when it is free'

    def _ask(self, records: Sequence[Record], wake: int, step: Step) -> tuple[SerialReading, int] | None:
        """Return the first answer that is known, and the baud rate; runs in the deadline's thread."""
        usb = next((r for r in records if r.device_type == 'usb_device'), None)
        probes = self._rules.serial_probes(f'{usb.vendor_id}:{usb.product_id}' if usb else '')
        questions = [(probe, baud) for probe in probes for baud in probe.baud]
        questions.sort(key=lambda question: question != self._answered)     # what was answered comes first
        step(f'opening {self._node}')
        with SerialLine(self._node) as line:
            for probe, baud in questions:
                reading = self._exchange(line, probe, baud, wake, step)
                candidates = self._rules.identify([reading]).candidates if reading.reply else ()
                if candidates and candidates[0].confidence >= LIKELY:
                    self._answered = probe, baud
                    return reading, baud
        return None

    def _exchange(self, line: SerialLine, probe: SerialProbe, baud: int, wake: int,
                  step: Step) -> SerialReading:
        step(f'setting {baud} baud')
        line.set_baud(baud)
        received = b''
        if probe.send:
            step(f'sending {probe.send.hex(" ")}')
            os.write(line.fd, probe.send)
        end = time.monotonic() + (self._reply if probe.send else self._listen)
        while (left := end - time.monotonic()) > 0 and len(received) < MAX_REPLY:
            step(f'listening at {baud} baud')
            ready, _, _ = select.select([line.fd, wake], [], [], min(left, SLICE))
            if wake in ready:
                raise InterruptedError
            if line.fd in ready:
                received += self._read(line, MAX_REPLY - len(received))
            if received and self._rules.identify([SerialReading(probe.send, received)]).candidates:
                break
        return SerialReading(probe.send, received)

    def _read(self, line: SerialLine, most: int) -> bytes:
        try:
            data = os.read(line.fd, most)
        except BlockingIOError:
            return b''
        if not data:
            raise OSError(errno.EIO, 'it was pulled out')
        return data

    def _device(self, device: Device | None, records: Sequence[Record], reading: SerialReading,
                baud: int) -> dict[str, Device]:
        if device is None:
            terminal = os.path.realpath(self._node)
            device = pseudo_terminal(self._node, terminal) if PTY.fullmatch(terminal) else Device(
                id=f'tty-{os.path.basename(self._node)}', name='serial port', bus='tty', path=self._node,
                nodes=(self._node,), capabilities=('serial',))
        claim = self._rules.identify([*records, reading])
        facts = [('evidence', claim.candidates[0].evidence if claim.candidates else ''), ('baud', str(baud))]
        return {device.path: overlay.told(device, claim, os.path.basename(self._node), facts)}

    def _explain(self, error: OSError) -> str:
        """Return the problem and the remedy; none where the port was pulled out."""
        if error.errno in (errno.EACCES, errno.EPERM):
            return (f"no permission for {self._node}: add the user to the group 'dialout', or install the "
                    'rules of config/udev')
        if self._present() is None:
            return ''
        return f'{self._node}: {error.strerror or error}'
