# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Runs in the guest: plugs each device in and out, and compares what the registry tells with the truth.

It speaks with the host over a serial line, one JSON object a line: `{"qmp": …}` asks for a command of
QEMU's monitor, `{"row": …}` and `{"end": …}` tell results.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import json
import os
from pathlib import Path
import subprocess
import sys
import threading
import time
import tty
from typing import Any

from muster.hardware.devices import Device, DeviceEvent, Report, Status
from muster.hardware.identification import Rules
from muster.hardware.merging import Merger
from muster.hardware.registry import Registry
from muster.hardware.sources.deadline import Deadline
from muster.hardware.sources.i2c import I2cSource
from muster.hardware.sources.udev import UDEV_CONTROL, UdevSource
from muster.hardware.sources.worker import Source, Worker
from muster.hardware.usb_names import usb_names

PYTHON = (sys.executable, '-S', '-P', '-m')
#: Generous (seconds): emulating a processor, every driver is slow. For a device, and for the first scan.
PATIENCE, FIRST = 30.0, 120.0
#: The same for one transfer on I2C and for a whole scan.
TRANSFER, SCAN = 5.0, 20.0
#: The kernel has said all of a device when it says nothing for so long (seconds).
QUIET = 0.4
GADGETS = Path('/sys/kernel/config/usb_gadget')
I2C = Path('/sys/bus/i2c/devices')


class Line:
    """The serial line to the host."""

    def __init__(self, path: str) -> None:
        """Open it without the translations of a terminal."""
        self._file = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._file)
        self._reader = os.fdopen(os.dup(self._file), 'r')

    def tell(self, **values: Any) -> None:
        """Send one object."""
        os.write(self._file, (json.dumps(values) + '\n').encode())

    def ask(self, command: str, **arguments: Any) -> None:
        """Have QEMU's monitor do something; raises OSError where it refuses."""
        self.tell(qmp={'execute': command, 'arguments': arguments})
        answer = json.loads(self._reader.readline())
        if 'error' in answer:
            raise OSError(answer['error']['desc'])


class Log:
    """What the kernel and the registry told, with the times (seconds, monotonic) of both."""

    def __init__(self) -> None:
        """Begin to listen to the kernel."""
        self.uevents: list[tuple[float, str, str, str]] = []
        self.events: list[tuple[float, DeviceEvent]] = []
        self.reports = 0
        self.told = threading.Condition()
        self._witness = subprocess.Popen([*PYTHON, 'witness'], stdout=subprocess.PIPE, text=True)
        assert self._witness.stdout is not None
        self._witness.stdout.readline()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._witness.stdout or ():
            moment, action, subsystem, path = line.rstrip('\n').split(' ', 3)
            with self.told:
                self.uevents.append((float(moment), action, subsystem, path))
                self.told.notify_all()

    def wait(self, found: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Return what `found` returns once that is true; nothing where that takes too long."""
        with self.told:
            return self.told.wait_for(found, patience)

    def settle(self) -> None:
        """Wait until the kernel is silent."""
        with self.told:
            count = -1
            while count != len(self.uevents):
                count = len(self.uevents)
                self.told.wait_for(lambda: len(self.uevents) > count, QUIET)  # noqa: B023


class Robot:
    """The sources and the registry as the node has them, without ROS; nothing is granted a grace."""

    def __init__(self, log: Log, files: list[Path]) -> None:
        """Start the source of the kernel's devices."""
        self._log, self._registry, self._merger = log, Registry(grace=0.0), Merger()
        self._rules = Rules.load(files, usb_names())
        self._start(UdevSource(self._rules))

    def watch_bus(self, number: int) -> Worker:
        """Start the source of the chips on an I2C bus; the worker is to be stopped by the caller."""
        return self._start(I2cSource(number, self._rules, deadline=Deadline('probe', TRANSFER, SCAN)))

    def _start(self, source: Source) -> Worker:
        worker = Worker(source, 3600.0, self._take)
        worker.start()
        return worker

    def _take(self, report: Report) -> None:
        with self._log.told:
            now = time.monotonic()
            events = [*self._registry.apply(self._merger.merge(report), now, time.time_ns()),
                      *self._registry.advance(now, time.time_ns())]
            done = time.monotonic()
            self._log.events += [(done, event) for event in events]
            self._log.reports += 1
            self._log.told.notify_all()

    def present(self) -> dict[str, Device]:
        """Return the devices that are there."""
        with self._log.told:
            return {device.id: device for device in self._registry.find()
                    if device.status != Status.DISCONNECTED}


@dataclass(frozen=True)
class Case:
    """
    A device, and what must be told of it.

    `announced` is the kernel's event that makes it usable, as 'add tty'; empty where the kernel tells
    nothing, as of a chip on I2C. `plug` and `unplug` return when they began.
    """

    label: str
    via: str
    type: str
    name: str
    announced: str
    plug: Callable[[], float]
    unplug: Callable[[], float]
    status: Status = Status.CONNECTED

    def fits(self, device: Device) -> bool:
        """Return whether a device is told as it must be."""
        return device.type == self.type and self.name in device.name and device.status == self.status


class Trial:
    """One device plugged in and out; `row` is its line of the table, with a `fault` where one was seen."""

    def __init__(self, case: Case, robot: Robot, log: Log) -> None:
        """Begin with what is there."""
        self._case, self._robot, self._log = case, robot, log
        self.row: dict[str, Any] = {'label': case.label, 'via': case.via, 'fault': ''}
        self._before = robot.present()
        self._mark()

    def _mark(self) -> None:
        self._first_event, self._first_uevent = len(self._log.events), len(self._log.uevents)

    def plug(self) -> list[Device]:
        """Plug it in; return the devices that came."""
        self._began = self._case.plug()
        seen = self._log.wait(self._seen)
        self._log.settle()
        new = [device for identity, device in self._robot.present().items() if identity not in self._before]
        told = ', '.join(f'{d.name} ({d.type}, {d.status.name})' for d in new) or 'nothing'
        for device in new[:1]:
            self.row.update(type=device.type, name=device.name, confidence=device.confidence)
        if not seen:
            self.row['fault'] = f'not seen as {self._case.name} ({self._case.type}), but as {told}'
        else:
            moment, announced = seen
            self._measure('plug', announced, moment)
            if len(new) != 1:
                self.row['fault'] = f'one device is told as {told}'
        return new

    def unplug(self, devices: list[Device]) -> None:
        """Pull it out and wait until that is told of the devices that came."""
        self._mark()
        self._began = self._case.unplug()
        told = self._log.wait(lambda: self._left(devices))
        if told:
            moment, announced = told
            self._measure('unplug', announced, moment)
        else:
            self.row['fault'] = self.row['fault'] or 'its unplugging was not seen'
        self._log.settle()

    def _measure(self, what: str, announced: float, moment: float) -> None:
        self.row[f'{what}_ours'] = max(0.0, moment - announced)
        if self._case.announced:
            self.row[f'{what}_kernel'] = announced - self._began

    def _seen(self) -> tuple[float, float] | None:
        """Return when the device was told as it must be, and when the kernel announced it."""
        for moment, event in self._log.events[self._first_event:]:
            if event.device.id not in self._before and self._case.fits(event.device):
                announced = self._announced(self._case.announced, event.device.path)
                if announced is not None:
                    return moment, announced
        return None

    def _left(self, devices: list[Device]) -> tuple[float, float] | None:
        """Return when the last of the devices was told to be gone, and when the kernel said so."""
        gone = {event.device.id: moment for moment, event in self._log.events[self._first_event:]
                if event.device.status == Status.DISCONNECTED}
        paths = {device.id: device.path for device in devices}
        if not paths or gone.keys() < paths.keys():
            return None
        last = max(paths, key=lambda identity: gone[identity])
        announced = self._announced('remove' if self._case.announced else '', paths[last], exact=True)
        return (gone[last], announced) if announced is not None else None

    def _announced(self, what: str, path: str, exact: bool = False) -> float | None:
        """Return when the kernel first told that of the device at a path, or of a part of it."""
        if not what:
            return self._began
        path = path.removeprefix('/sys')
        return next((moment for moment, action, subsystem, where in self._log.uevents[self._first_uevent:]
                     if f'{action} {subsystem}'.startswith(what)
                     and (where == path or (not exact and where.startswith(f'{path}/')))), None)


class Emulator:
    """The process that plays the USB devices."""

    def __init__(self) -> None:
        """Start it."""
        self._process = subprocess.Popen([*PYTHON, 'usb_devices'], text=True, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE)

    def do(self, command: str) -> float:
        """Send a command; return when it was carried out."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f'{command}\n')
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise OSError('the process that plays the USB devices ended')
        return float(answer)

    def case(self, device: str, type: str, name: str, announced: str) -> Case:
        """Return the case of one of its devices."""
        return Case(device, 'usbip', type, name, announced, lambda: self.do(f'plug {device}'),
                    lambda: self.do('unplug'))


def emulated(line: Line, driver: str, type: str, name: str, announced: str,
             status: Status = Status.CONNECTED, **options: Any) -> Case:
    """Return the case of a USB device that QEMU emulates."""
    def do(command: str, **arguments: Any) -> float:
        now = time.monotonic()
        line.ask(command, **arguments)
        return now
    return Case(driver, 'QEMU', type, name, announced,
                lambda: do('device_add', driver=driver, id='plugged', bus='xhci.0', **options),
                lambda: do('device_del', id='plugged'), status)


def gadget(label: str, vendor: int, product: int, type: str, name: str) -> Case:
    """Return the case of a serial gadget of the kernel (Documentation/usb/gadget_configfs.rst)."""
    folder = GADGETS / label
    for part in ('strings/0x409', 'configs/c.1', 'functions/acm.0'):
        (folder / part).mkdir(parents=True)
    (folder / 'idVendor').write_text(f'{vendor:#06x}')
    (folder / 'idProduct').write_text(f'{product:#06x}')
    (folder / 'strings/0x409/serialnumber').write_text('385F324D3037')
    (folder / 'configs/c.1/acm.0').symlink_to(folder / 'functions/acm.0')
    return Case(label, 'gadget', type, name, 'add tty', lambda: written(folder / 'UDC', 'dummy_udc.0'),
                lambda: written(folder / 'UDC', '\n'))


def declared(adapter: str, driver: str, address: int, type: str, name: str) -> Case:
    """Return the case of a chip that the kernel is told of (Documentation/i2c/instantiating-devices.rst)."""
    folder = next(path for path in I2C.glob('i2c-*') if (path / 'name').read_text().startswith(adapter))
    return Case(f'{driver} on {adapter.split()[0]}', 'I2C', type, name, 'bind i2c',
                lambda: written(folder / 'new_device', f'{driver} {address:#04x}'),
                lambda: written(folder / 'delete_device', f'{address:#04x}'))


def written(file: Path, text: str) -> float:
    """Write to a file of the kernel; return when that began."""
    now = time.monotonic()
    file.write_text(text)
    return now


def chips(emulator: Emulator, worker: Worker) -> list[Case]:
    """Return the cases of the chips on the emulated adapter, whose bus the worker scans."""
    def case(address: int, type: str, name: str) -> Case:
        def changed(command: str) -> float:
            emulator.do(command)
            now = time.monotonic()
            worker.request_scan()
            return now
        return Case(f'{name} at {address:#04x}', 'I2C', type, name, '',
                    lambda: changed(f'chips {address:#04x}'), lambda: changed('chips'))
    return [case(0x1e, 'magnetometer', 'HMC5883L'), case(0x28, 'imu', 'BNO055'),
            case(0x29, 'range', 'VL53L0X'), case(0x53, 'accelerometer', 'ADXL345'),
            case(0x68, 'imu', 'MPU-9250'), case(0x6b, 'imu', 'LSM6DSO')]


def kernel_cases(line: Line, emulator: Emulator) -> list[Case]:
    """Return the cases that the kernel tells of."""
    return [
        emulator.case('cp2102', 'serial_adapter', 'CP210x', 'add tty'),
        emulator.case('ch340', 'serial_adapter', 'CH340', 'add tty'),
        emulator.case('ft232r', 'serial_adapter', 'FT232', 'add tty'),
        emulator.case('u-blox 8', 'gps', 'u-blox 8', 'add tty'),
        emulator.case('urg', 'lidar', 'URG', 'add tty'),
        emulator.case('uno', 'microcontroller', 'Uno', 'add tty'),
        emulator.case('c920', 'camera', 'C920', 'add video4linux'),
        emulator.case('gamepad', 'gamepad', 'Gamepad', 'add input'),
        emulator.case('xbox', 'gamepad', 'Xbox 360 controller', 'add input'),
        emulator.case('canable', 'can', 'gs_usb', 'add net'),
        gadget('odrive', 0x1209, 0x0d32, 'motor_controller', 'ODrive'),
        emulated(line, 'usb-storage', 'storage', 'QEMU', 'add block', drive='stick'),
        emulated(line, 'usb-kbd', 'keyboard', 'QEMU', 'add hidraw'),  # its lamps come first
        emulated(line, 'usb-mouse', 'mouse', 'QEMU', 'add input'),
        emulated(line, 'usb-audio', 'sound', 'QEMU', 'add sound', audiodev='silence'),
        emulated(line, 'usb-net', 'network', 'RNDIS', 'add net', netdev='wire'),
        emulated(line, 'usb-hub', 'hub', 'Hub', 'bind usb'),
        emulated(line, 'usb-ccid', 'smart_card_reader', '', 'add usb', Status.IDENTIFIED),
        declared('SMBus PIIX4', '24c02', 0x50, 'eeprom', '24c02'),
        declared('SMBus stub', 'lm75', 0x48, 'thermometer', 'lm75'),
    ]


def exercise(case: Case, robot: Robot, log: Log, line: Line,
             meanwhile: Callable[[Device], None] = lambda device: None) -> None:
    """Plug a device in and out and tell the host; `meanwhile` is called in between."""
    trial = Trial(case, robot, log)
    try:
        devices = trial.plug()
        for device in devices[:1]:
            meanwhile(device)
        trial.unplug(devices)
    except OSError as error:
        trial.row['fault'] = f'it could not be emulated: {error}'
    line.tell(row=trial.row)


def main() -> None:
    """Run all cases."""
    line = Line('/dev/ttyS1')
    line.tell(alive=time.monotonic())
    if os.environ.get('MUSTER_UDEVD'):
        start_udevd()
    log = Log()
    emulator = Emulator()
    robot = Robot(log, sorted((Path(os.environ['MUSTER_ROOT']) / 'config' / 'devices').glob('*.yaml')))
    log.wait(lambda: log.reports, FIRST)
    log.settle()
    only = os.environ.get('MUSTER_ONLY', '')
    cases = [case for case in kernel_cases(line, emulator) if only in case.label]
    line.tell(devices=len(robot.present()), sender='udevd' if UDEV_CONTROL.exists() else 'the kernel')
    for case in cases:
        exercise(case, robot, log, line)
    count = len(cases)

    def scan_bus(adapter: Device) -> None:
        nonlocal count
        number = next(node for node in adapter.nodes if '/i2c-' in node).rpartition('-')[2]
        reports = log.reports
        worker = robot.watch_bus(int(number))
        log.wait(lambda: log.reports > reports)
        for case in (case for case in chips(emulator, worker) if only in case.label):
            exercise(case, robot, log, line)
            count += 1
        worker.stop()
    adapter = emulator.case('i2c-tiny-usb', 'i2c_bus', 'i2c-tiny-usb', 'add i2c-dev')
    exercise(adapter, robot, log, line, scan_bus)
    line.tell(end=count + 1)


def start_udevd() -> None:
    """Start udevd as the system does: with what is there announced once more."""
    for command in ([os.environ['MUSTER_UDEVD'], '--daemon'], ['udevadm', 'trigger', '--action=add'],
                    ['udevadm', 'settle']):
        subprocess.run(command, check=True)


if __name__ == '__main__':
    main()
