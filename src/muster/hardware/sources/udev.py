# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The hardware that the kernel knows: sysfs, with libudev's database and live events."""
from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import replace
from pathlib import Path
import select
import time
from typing import NamedTuple

from muster.hardware.assembly import assemble, ATTRIBUTES, groups, owner, relevant
from muster.hardware.devices import Device, Report
from muster.hardware.evidence import Record
from muster.hardware.identification import Rules
from muster.hardware.sources import sysfs
from muster.hardware.sources.v4l2 import Cameras
from muster.hardware.sources.worker import pause, PERIODIC
import pyudev
import pyudev._ctypeslib.utils as pyudev_loader

#: What udevd knows of devices beyond what the kernel tells; only there where it runs, or ran.
UDEV_DATABASE = Path('/run/udev/data')
#: There while udevd runs; without it, its events never come and the kernel's own are listened to.
UDEV_CONTROL = Path('/run/udev/control')
#: Events of one report; more are left for the next.
MAX_EVENTS = 4096
#: A monitor that dies younger than this (seconds) is not opened again before the next scan.
MONITOR_MIN_AGE = 1.0
#: A periodic scan reads everything this often (seconds) although no device came or went: a driver
#: that was bound while events were lost changes no entry of /sys.
FULL_INTERVAL = 60.0
#: Without events, whether devices came or went is looked at this often, seconds.
POLL_INTERVAL = 0.5
#: Bytes of events that the kernel keeps while nobody reads, some 10,000; memory is used as they come.
RECEIVE_BUFFER = 16 << 20


class KernelEvent(NamedTuple):
    """One uevent; `old_path` is set where a device moved (as a renamed network interface)."""

    action: str
    path: str
    old_path: str


class UdevSource:
    """
    All hardware of this machine, kept up to date by the kernel's events.

    Without libudev or netlink it looks twice a second whether devices came or went, and its reports
    name the problem and the remedy. After the loss of events everything is read again.
    """

    name = 'udev'

    def __init__(self, rules: Rules) -> None:
        """Prepare; everything else happens in the worker's thread."""
        self._rules = rules
        self._records: dict[str, Record] = {}
        self._present: dict[str, Device] = {}
        self._signature: frozenset[tuple[str, int]] = frozenset()
        self._read_at = 0.0
        self._context: pyudev.Context | None = None
        self._monitor: pyudev.Monitor | None = None
        self._sender = ''
        self._opened = 0.0
        self._problem = ''
        self._cameras = Cameras()
        self._database = False

    def scan(self, reason: str) -> Report:
        """Read everything; the monitor is opened first, so that nothing is lost in between."""
        listened = self._monitor
        self._open()
        signature, now = sysfs.signature(), time.monotonic()
        if not (reason == PERIODIC and listened is not None and self._monitor is listened
                and signature == self._signature and now - self._read_at < FULL_INTERVAL):
            self._signature, self._read_at = signature, now
            self._records = {}
            self._update(set(sysfs.paths()))
            self._present = {key: assemble(key, members, self._records, self._rules)
                             for key, members in groups(self._records).items()}
        return Report(self.name, dict(self._present), reason, problem=self._problems())

    def wait(self, timeout: float, wake: int) -> Report | None:
        """Return what the next kernel events changed."""
        if self._monitor is None:
            return self._poll(timeout, wake)
        try:
            events = self._receive(timeout, wake)
        except OSError as error:  # POLLERR, or ENOBUFS: the kernel dropped events
            self._monitor = None
            self._problem = f'kernel events were lost ({error}); changes are looked for twice a second'
            if time.monotonic() - self._opened >= MONITOR_MIN_AGE:
                return self.scan('kernel events were lost')
            return Report(self.name, {}, 'kernel events were lost', complete=False, problem=self._problems())
        return self._apply(events) if events else None

    def _poll(self, timeout: float, wake: int) -> Report | None:
        """Look once, without events, whether devices came or went."""
        pause(min(timeout, POLL_INTERVAL), wake)
        return None if sysfs.signature() == self._signature else self.scan('a device came or went')

    def close(self) -> None:
        """Close the monitor."""
        self._monitor = self._context = None

    # libudev ----------------------------------------------------------------------------------
    def _open(self) -> None:
        self._database = UDEV_DATABASE.is_dir()
        try:
            self._context = self._context or open_context()
            sender = 'udev' if UDEV_CONTROL.exists() else 'kernel'
            if self._monitor is None or sender != self._sender:
                monitor = pyudev.Monitor.from_netlink(self._context, sender)
                with contextlib.suppress(OSError):  # larger than net.core.rmem_max as root only
                    monitor.set_receive_buffer_size(RECEIVE_BUFFER)
                monitor.start()
                self._monitor, self._sender, self._opened = monitor, sender, time.monotonic()
            self._problem = ''
        except ImportError:
            self._problem = ('libudev was not found: changes are looked for twice a second only; '
                             'install it (Debian and Ubuntu: apt install libudev1)')
        except OSError as error:
            self._problem = (f'kernel events cannot be received ({error}): changes are looked for '
                             'twice a second only; in a container share the network namespace of the host')

    def _update(self, paths: set[str]) -> None:
        """Read devices, the innermost first: what is still listed inside one that is gone, is gone too."""
        gone = []
        for path in sorted(paths, reverse=True):
            self._records.pop(path, None)
            record = self._read(path)
            if record is None:
                gone.append(f'{path}/')
            elif relevant(record):
                self._records[path] = record
        if gone:
            inside = tuple(gone)
            self._records = {path: record for path, record in self._records.items()
                             if not path.startswith(inside)}

    def _read(self, path: str) -> Record | None:
        """Read a device, with what udev's database adds to sysfs and a camera's driver tells; None: gone."""
        record = sysfs.read(path)
        if record is None or not relevant(record):
            return record
        if record.subsystem == 'video4linux' and record.node:
            modes = self._cameras.modes(path, record.node)
            record = replace(record, modes=modes, silent=self._cameras.hangs(path))
        if self._context is None or not self._database:
            return record
        try:
            known = pyudev.Devices.from_path(self._context, path).properties
            return replace(record, properties={**record.properties, **dict(known.items())})
        except pyudev.DeviceNotFoundError:      # gone in between
            return None
        except UnicodeError:                    # a name that is no text
            return record

    def _receive(self, timeout: float, wake: int) -> list[KernelEvent]:
        assert self._monitor is not None
        poller = select.poll()
        poller.register(self._monitor.fileno(), select.POLLIN)
        poller.register(wake, select.POLLIN)
        ready = dict(poller.poll(timeout * 1000))
        broken = ready.get(self._monitor.fileno(), 0) & ~select.POLLIN
        if broken:
            raise OSError(f'the netlink socket is broken, poll says {broken:#x}')
        if self._monitor.fileno() not in ready:
            return []
        return list(self._drain(self._monitor))

    @staticmethod
    def _drain(monitor: pyudev.Monitor) -> Iterator[KernelEvent]:
        for _ in range(MAX_EVENTS):
            device = monitor.poll(timeout=0)
            if device is None:
                return
            try:
                if device.subsystem in ATTRIBUTES:
                    yield KernelEvent(device.action, device.device_path,
                                      device.properties.get('DEVPATH_OLD', ''))
            except UnicodeDecodeError:
                continue  # a device with such a name is found by the next scan

    # Events -----------------------------------------------------------------------------------
    def _apply(self, events: list[KernelEvent]) -> Report | None:
        """Read the devices that events touch, each once, and report those they are part of."""
        touched = {path for event in events for path in (event.path, event.old_path) if path}
        owners = {owner(path, self._records) for path in touched}
        self._update(touched)
        owners |= {owner(path, self._records) for path in touched}
        keys = sorted(filter(None, owners))
        if not keys:
            return None
        members = groups(self._records, keys)
        present = {key: assemble(key, members[key], self._records, self._rules)
                   for key in keys if key in members}
        actions = ', '.join(sorted({event.action for event in events}))
        gone = tuple(key for key in keys if key not in members)
        self._present.update(present)
        for key in gone:
            self._present.pop(key, None)
        return Report(self.name, present, f'kernel event {actions}', complete=False, gone=gone,
                      problem=self._problems())

    def _problems(self) -> str:
        return '; '.join(filter(None, (self._problem, self._cameras.problem(self._records))))


def open_context() -> pyudev.Context:
    """
    Return a libudev context; ImportError where there is no libudev.

    pyudev finds the library with ctypes.util.find_library, which needs ldconfig or a compiler:
    minimal images have neither, and the name that every libudev since 2012 has does as well.
    """
    try:
        return pyudev.Context()
    except ImportError:
        find = pyudev_loader.find_library
        pyudev_loader.find_library = lambda name: find(name) or f'lib{name}.so.1'
        try:
            return pyudev.Context()
        except OSError as error:
            raise ImportError(str(error)) from error
        finally:
            pyudev_loader.find_library = find
