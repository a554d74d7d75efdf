# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Hardware discovery for Python programs: the node's own sources and registry, no ROS needed."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
import queue
import threading
import time
from typing import Any

from muster.hardware.capabilities import Requirement
from muster.hardware.devices import Change, Device, DeviceEvent, Report, Status
from muster.hardware.identification import Rules
from muster.hardware.registry import Registry
from muster.hardware.sources.udev import UdevSource
from muster.hardware.sources.worker import Source, Worker
from muster.hardware.usb_names import usb_names

#: Reports that wait; when handlers are slow, the sources wait, not the memory.
QUEUE_DEPTH = 64
#: How long (seconds) `start` waits for the first scan, and `stop` for a handler.
START_TIMEOUT, STOP_TIMEOUT = 10.0, 5.0
Handler = Callable[[dict[str, Any]], object]


class HardwareType(StrEnum):
    """The types that identification files use; a device may have others, as texts."""

    ACCELEROMETER = 'accelerometer'
    ADC = 'adc'
    BAROMETER = 'barometer'
    BLUETOOTH = 'bluetooth'
    CAMERA = 'camera'
    DEPTH_CAMERA = 'depth_camera'
    DISPLAY = 'display'
    ENCODER = 'encoder'
    ENVIRONMENT = 'environment'
    FLIGHT_CONTROLLER = 'flight_controller'
    GAMEPAD = 'gamepad'
    GPS = 'gps'
    IMU = 'imu'
    INPUT = 'input'
    IO_EXPANDER = 'io_expander'
    KEYBOARD = 'keyboard'
    LIDAR = 'lidar'
    MAGNETOMETER = 'magnetometer'
    MICROCONTROLLER = 'microcontroller'
    MICROPHONE = 'microphone'
    MOTOR_CONTROLLER = 'motor_controller'
    MOUSE = 'mouse'
    NETWORK = 'network'
    POWER_MONITOR = 'power_monitor'
    RADIO = 'radio'
    RANGE = 'range'
    SERIAL_ADAPTER = 'serial_adapter'
    SERIAL_PORT = 'serial_port'
    SERVO_BUS = 'servo_bus'
    SERVO_CONTROLLER = 'servo_controller'
    SOUND = 'sound'
    STEPPER_DRIVER = 'stepper_driver'
    STORAGE = 'storage'
    THERMOMETER = 'thermometer'
    UNKNOWN = 'unknown'


class Devices:
    """The registry as programs ask it, from any thread."""

    def __init__(self, registry: Registry, lock: threading.Lock) -> None:
        """Read `registry` while holding `lock`."""
        self._registry, self._lock = registry, lock

    def get_device(self, device_id: str) -> Device | None:
        """Return a device, None where the id is not known."""
        with self._lock:
            return self._registry.get(device_id)

    def get_devices_by_type(self, type: HardwareType | str) -> list[Device]:
        """Return the devices of a type that are there."""
        with self._lock:
            return _there(self._registry.find(type=str(type)))

    def get_devices_by_capability(self, capability: str) -> list[Device]:
        """Return the devices that meet a requirement, as 'serial' or 'video_capture{width>=1280}'."""
        wanted = Requirement.parse(capability)
        with self._lock:
            found = _there(self._registry.find(capability=wanted.capability))
        return [device for device in found if not wanted.missing(device.every_offer)]

    def get_device_count(self) -> int:
        """Return how many devices are there."""
        return len(self.get_devices())

    def get_devices(self) -> list[Device]:
        """Return all devices that are there, in the order of their ids."""
        with self._lock:
            return _there(self._registry.find())


class HardwareAutoDiscoverySystem:
    """
    Finds this machine's devices and tells of every change.

    Events are named `device_` and what happened: discovered, connected, changed, error,
    disconnected; a handler gets a dict with `event`, `device` (a Device), `reason` and `sequence`.
    Handlers run one after the other in a thread of their own; what one raises is told on stderr by
    threading.excepthook and stops nothing. None is called after `stop` has returned.
    """

    def __init__(self, system_id: str, scan_interval: float = 5.0, *, device_files: Sequence[Path] = (),
                 sources: Iterable[Source] | None = None, grace: float = 0.5) -> None:
        """
        Prepare; `start` begins.

        `scan_interval` and `grace` are in seconds, `device_files` further identification files.
        `sources` replaces the kernel as what is asked. Raises ValueError, or RuleError for a file.
        """
        if not 1 <= len(system_id) <= 128:
            raise ValueError('system_id must have 1..128 characters')
        if not 0.1 <= scan_interval <= 3600.0:
            raise ValueError(f'scan_interval must be within 0.1..3600 s, not {scan_interval!r}')
        self.system_id, self.scan_interval = system_id, scan_interval
        own = Path(__file__).resolve().parents[3] / 'config' / 'devices'
        self._sources = list(sources) if sources is not None else \
            [UdevSource(Rules.load([*_shipped(own), *device_files], usb_names()))]
        self._registry, self._lock = Registry(grace), threading.Lock()
        self.registry = Devices(self._registry, self._lock)
        self._handlers: defaultdict[str, list[Handler]] = defaultdict(list)
        self._reports: queue.Queue[Report | None] = queue.Queue(QUEUE_DEPTH)
        self._problems: dict[str, str] = {}
        self._workers: list[Worker] = []
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()

    def on_event(self, name: str, handler: Handler) -> None:
        """Call `handler` at every event of this name; raises ValueError where there is none such."""
        known = [f'device_{change.name.lower()}' for change in Change]
        if name not in known:
            raise ValueError(f"there is no event '{name}': use one of {', '.join(known)}")
        self._handlers[name].append(handler)

    def start(self) -> None:
        """Begin, and return when every source has told what there is, or after START_TIMEOUT."""
        if self._thread is not None:
            return
        self._ready.clear()
        self._problems.clear()
        self._thread = threading.Thread(target=self._run, name=f'hardware {self.system_id}', daemon=True)
        self._workers = [Worker(source, self.scan_interval, self._reports.put) for source in self._sources]
        self._thread.start()
        for worker in self._workers:
            worker.start()
        if self._workers:
            self._ready.wait(START_TIMEOUT)

    def stop(self) -> None:
        """End the sources; what they found stays known."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        for worker in self._workers:
            worker.stop()
        self._reports.put(None)
        if thread is not threading.current_thread():    # a handler may stop the system
            thread.join(STOP_TIMEOUT)

    def negotiate_capabilities(self, device_id: str, required: Iterable[str]) -> bool:
        """Return whether a device is there and meets all requirements; raises CapabilityError."""
        wanted = [Requirement.parse(text) for text in required]
        device = self.registry.get_device(device_id)
        return device is not None and device.status in (Status.CONNECTED, Status.DEGRADED) and \
            not any(requirement.missing(device.every_offer) for requirement in wanted)

    def get_system_status(self) -> dict[str, Any]:
        """Return what is going on: counts by type and status, and the problems of the sources."""
        with self._lock:
            devices = self._registry.find()
            counts: dict[str, dict[str, int]] = {'types': {}, 'statuses': {}}
            for device in devices:
                for table, key in (('types', device.type), ('statuses', device.status.name.lower())):
                    counts[table][key] = counts[table].get(key, 0) + 1
            return {'system_id': self.system_id, 'running': self._thread is not None,
                    'scan_interval': self.scan_interval, 'device_count': len(_there(devices)),
                    'events': self._registry.sequence,
                    'problems': {name: text for name, text in self._problems.items() if text}, **counts}

    # In the thread ----------------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            due = self._registry.next_deadline()
            try:
                report = self._reports.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            except queue.Empty:
                events = self._locked(lambda now: self._registry.advance(now, time.time_ns()))
            else:
                if report is None:
                    return
                events = self._take(report)
            for event in events:
                self._tell(event)

    def _take(self, report: Report) -> list[DeviceEvent]:
        def apply(now: float) -> list[DeviceEvent]:
            self._problems[report.source] = report.problem
            return self._registry.apply(report, now, time.time_ns())
        events = self._locked(apply)
        if len(self._problems) == len(self._workers):
            self._ready.set()
        return events

    def _locked(self, work: Callable[[float], list[DeviceEvent]]) -> list[DeviceEvent]:
        with self._lock:
            return work(time.monotonic())

    def _tell(self, event: DeviceEvent) -> None:
        name = f'device_{event.kind.name.lower()}'
        for handler in list(self._handlers[name]):
            if self._thread is None:
                return
            try:
                handler({'event': name, 'device': event.device, 'reason': event.reason,
                         'sequence': event.sequence})
            except Exception as error:     # of the program's own code: the others must hear still
                threading.excepthook(threading.ExceptHookArgs(
                    (type(error), error, error.__traceback__, threading.current_thread())))


def _there(devices: list[Device]) -> list[Device]:
    return [device for device in devices if device.status != Status.DISCONNECTED]


def _shipped(folder: Path) -> list[Path]:
    """Return the identification files of Muster: in its source tree, or where it is installed."""
    if not folder.is_dir():
        from ament_index_python.packages import get_package_share_directory
        folder = Path(get_package_share_directory('muster')) / 'config' / 'devices'
    return sorted(folder.glob('*.yaml'))
