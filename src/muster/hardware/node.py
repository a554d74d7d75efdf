# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The node `hardware`: which devices this robot has, now and at every change."""
from __future__ import annotations

from dataclasses import dataclass
import glob
from pathlib import Path
import queue
import threading
import time
from typing import Any

from ament_index_python.packages import get_package_share_directory, PackageNotFoundError
from diagnostic_msgs.msg import DiagnosticStatus
from muster.hardware import messages, services
from muster.hardware.capabilities import CapabilityError
from muster.hardware.device_data import RuleError
from muster.hardware.devices import Change, DeviceEvent, Report, Status
from muster.hardware.fleet import Fleet
from muster.hardware.identification import Rules
from muster.hardware.memory import Memory
from muster.hardware.merging import Merger
from muster.hardware.registry import Registry
from muster.hardware.reservations import Reservations
from muster.hardware.sources import virtual
from muster.hardware.sources.buses import i2c_buses
from muster.hardware.sources.i2c import I2cSource
from muster.hardware.sources.serial import SerialLinks
from muster.hardware.sources.serial_probing import SerialProber
from muster.hardware.sources.spi import SpiSource
from muster.hardware.sources.udev import UdevSource
from muster.hardware.sources.worker import Source, Worker
from muster.hardware.usb_names import usb_names
from muster.ros import qos
from muster.ros.interfaces import ErrorCode
from muster.ros.main import run
from muster.ros.node import ConfigurationError, diagnostic, ManagedNode
from muster.ros.parameters import ParameterSpec
from muster_interfaces.msg import DeviceArray, DeviceEvent as DeviceEventMessage
from muster_interfaces.srv import (
    GetDevice,
    ListDevices,
    NegotiateCapabilities,
    ReleaseDevice,
    ReserveDevice,
)
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.task import Future
from std_srvs.srv import Trigger

#: Reports that wait for the executor; when it is behind, the sources wait, not the memory.
QUEUE_DEPTH = 64
#: The list of all devices is published this often (seconds) at most; events are not held back.
LIST_INTERVAL = 0.1
#: The devices are written to the disk this often (seconds) at most, and at the end.
KEEP_INTERVAL = 2.0
#: A requested scan that is not done by then (seconds) is answered with what is missing.
SCAN_TIMEOUT = 10.0
MAX_WAITING_SCANS = 64
#: A problem of a source that comes again is logged again after so long (seconds); so many are kept in mind.
LOG_AGAIN, MAX_UNLOGGED = 600.0, 256


def _absolute_patterns(values: list[str]) -> str:
    if len(values) > 16:
        return 'at most 16 patterns'
    return next((f"'{value}' must be an absolute path" for value in values
                 if value and not value.startswith('/')), '')


PARAMETERS = (
    ParameterSpec('scan_interval', 5.0, 'Seconds between two scans of everything: the safety net behind '
                  "the kernel's events.", minimum=0.1, maximum=3600.0),
    ParameterSpec('disconnect_grace', 0.5, 'Seconds that a device may be missing before it counts as '
                  'disconnected: a loose plug evicts nobody.', minimum=0.0, maximum=60.0),
    ParameterSpec('forget_after', 3600.0, 'Seconds that a disconnected device stays listed.',
                  minimum=0.0, maximum=86400.0 * 30),
    ParameterSpec('serial_links', [''], 'Shell patterns of paths that lead to pseudo-terminals, listed as '
                  "simulated serial devices, as ['/tmp/muster/tty*'].", check=_absolute_patterns,
                  read_only=True),
    ParameterSpec('i2c', True, 'Whether the I2C buses are scanned, but for those of monitors and of a '
                  "PC's memory; identification registers are read, none is written.", read_only=True),
    ParameterSpec('i2c_permitted', False, 'Whether reads of 16-bit register numbers are permitted, and at '
                  'the addresses of I/O expanders and multiplexers: another chip there takes them for a '
                  'write.', read_only=True),
    ParameterSpec('spi_devices', [''], 'SPI device nodes that may be asked what is there, as '
                  "['/dev/spidev0.0']: some chips take a question for a write.", check=_absolute_patterns,
                  read_only=True),
    ParameterSpec('serial_ports', [''], "Serial ports that may be asked what is there, as ['/dev/ttyUSB0']; "
                  'opening one resets some boards.', check=_absolute_patterns, read_only=True),
    ParameterSpec('device_files', [''], 'Shell patterns of further identification files (YAML); what they '
                  'say of a match replaces what those that come with Muster say of it.',
                  check=_absolute_patterns, read_only=True),
)


@dataclass(eq=False)
class _Scan:
    """A requested scan: `waiting` holds the number that each source still has to reach."""

    future: Future
    waiting: dict[str, int]
    deadline: float


class HardwareNode(ManagedNode):
    """Registers what the sources report, publishes every change, answers questions."""

    def __init__(self, **arguments: Any) -> None:
        """Declare the parameters; the sources are opened when the node is activated."""
        super().__init__('hardware', PARAMETERS, concerns_in_thread=True, **arguments)
        self._entities: list[tuple[Any, Any]] = []   # destructor, entity
        self._workers: list[Worker] = []
        self._merger = Merger()
        self._buses: set[str] = set()                # names of the sources of I2C buses
        self._reports: queue.Queue[Report] = queue.Queue(QUEUE_DEPTH)
        self._scans: list[_Scan] = []
        self._registry, self._reservations = Registry(), Reservations()
        self._stopping = threading.Event()
        self._world = virtual.nobody()
        self._problems: dict[str, str] = {}
        self._unlogged: dict[tuple[str, str], float] = {}     # source, problem -> when it is logged again
        self._health: list[DiagnosticStatus] = []    # replaced whole: another thread reads it
        self._published = -1                         # revision of the last list
        self._published_at = 0.0
        self._kept, self._kept_at = 0, 0.0           # the same of what is on the disk

    # Lifecycle --------------------------------------------------------------------------------
    def configure(self) -> None:
        """Read the identification files and make all entities."""
        self._rules = self._load_rules()
        self._registry = Registry(self.parameters['disconnect_grace'], self.parameters['forget_after'])
        self._merger = Merger()
        self._buses = set()
        self._reservations = Reservations(time.time_ns())    # no token of an earlier run is valid
        self._memory = self._keep(Memory(self.state_directory / 'hardware' / 'devices.json',
                                         self.get_logger().warning), self._close_memory)
        self._memory.recall(self._registry, time.monotonic())
        self._fleet = self._keep(Fleet(self), Fleet.close)
        self._published, self._kept = -1, 0
        self._list = self._keep(self.create_lifecycle_publisher(DeviceArray, 'hardware/devices', qos.STATUS),
                                self.destroy_lifecycle_publisher)
        self._events = self._keep(
            self.create_lifecycle_publisher(DeviceEventMessage, 'hardware/events', qos.EVENTS),
            self.destroy_lifecycle_publisher)
        self._guard = self._keep(self.create_guard_condition(self._work), self.destroy_guard_condition)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self._keep(self.create_timer(1.0, self._work, clock=steady), self.destroy_timer)
        self._timer.cancel()
        self._keep(self.create_subscription(
            DeviceArray, virtual.SOURCE, self._take_virtual, qos.STATUS,
            event_callbacks=SubscriptionEventCallbacks(matched=self._count_worlds)),
            self.destroy_subscription)
        for kind, name, callback, group in (
                (ListDevices, 'list_devices', self._list_devices, None),
                (GetDevice, 'get_device', self._get_device, None),
                (ReserveDevice, 'reserve_device', self._reserve_device, None),
                (ReleaseDevice, 'release_device', self._release_device, None),
                (NegotiateCapabilities, 'negotiate_capabilities', self._negotiate, ReentrantCallbackGroup()),
                # It waits for the sources, and others must be served meanwhile.
                (Trigger, 'scan', self._scan, ReentrantCallbackGroup())):
            self._keep(self.create_service(kind, f'~/{name}', callback, qos_profile=qos.SERVICES,
                                           callback_group=group), self.destroy_service)

    def activate(self) -> None:
        """Start the sources, each with a worker of its own."""
        sources: list[Source] = [UdevSource(self._rules)]
        if self.parameters['serial_links']:
            sources.append(SerialLinks(self.parameters['serial_links']))
        try:
            sources += [SpiSource(node, self._rules) for node in self.parameters['spi_devices']]
            sources += [SerialProber(port, self._rules) for port in self.parameters['serial_ports']]
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        self._stopping = threading.Event()
        self._problems = {}
        self._take(self._world)
        for source in sources:
            self._start(source)
        if self.parameters['i2c']:
            self._follow_buses()
        self._note_health()

    def _start(self, source: Source) -> None:
        self._problems[source.name] = ''
        worker = Worker(source, self.parameters['scan_interval'], self._deliver)
        self._workers.append(worker)
        worker.start()

    def _follow_buses(self) -> None:
        """Scan the I2C buses that there are now, each by a worker of its own."""
        there = {f'i2c-{bus.number}': bus.number for bus in i2c_buses()}
        workers = {worker.source.name: worker for worker in self._workers}
        for name in self._buses - there.keys():      # perhaps gone while the node was not active
            if name in workers:
                self._workers.remove(workers[name])
                workers[name].stop(0.0)
            self._problems.pop(name, None)
            self._apply(Report(name, {}, f'{name} is gone'))
        for name in there.keys() - workers.keys():
            self._start(I2cSource(there[name], self._rules, permitted=self.parameters['i2c_permitted']))
        self._buses = set(there)

    def deactivate(self) -> None:
        """Stop the sources; what they found stays known."""
        self._stopping.set()
        for worker in self._workers:
            if not worker.stop():
                self.get_logger().warning(f'the source {worker.source.name} hangs and was abandoned')
        self._workers.clear()
        self._timer.cancel()
        for scan in self._scans:
            scan.future.set_result('the node was deactivated')
        self._scans.clear()
        self._reports = queue.Queue(QUEUE_DEPTH)

    def release(self) -> None:
        """Destroy all entities."""
        while self._entities:
            destroy, entity = self._entities.pop()
            destroy(entity)

    def parameters_changed(self, changed: dict[str, Any]) -> None:
        """Apply intervals that were set live."""
        self._registry.grace = self.parameters['disconnect_grace']
        self._registry.forget_after = self.parameters['forget_after']
        for worker in self._workers:
            worker.set_interval(self.parameters['scan_interval'])

    def _keep(self, entity: Any, destroy: Any) -> Any:
        self._entities.append((destroy, entity))
        return entity

    def _load_rules(self) -> Rules:
        try:
            share = Path(get_package_share_directory('muster'))
        except PackageNotFoundError as error:
            raise ConfigurationError("the package 'muster' is not built or not sourced: run 'make shell' or "
                                     "'source install/setup.bash'") from error
        files = sorted((share / 'config' / 'devices').glob('*.yaml'))
        for pattern in self.parameters['device_files']:
            found = sorted(glob.glob(pattern))
            if not found:
                raise ConfigurationError(f"parameter 'device_files': no file matches '{pattern}'")
            files += [Path(file) for file in found]
        try:
            return Rules.load(files, usb_names())
        except RuleError as error:
            raise ConfigurationError(str(error)) from error

    # Reports ----------------------------------------------------------------------------------
    def _deliver(self, report: Report) -> None:
        """Hand a report to the executor; runs in a worker's thread."""
        reports, stopping = self._reports, self._stopping
        while not stopping.is_set():
            try:
                reports.put(report, timeout=0.1)
            except queue.Full:
                continue
            self._guard.trigger()
            return

    def _work(self) -> None:
        """Take what the workers reported and do what is due; runs in the executor alone."""
        if not self.is_active:
            return
        for _ in range(self._reports.qsize()):
            report = self._reports.get_nowait()
            if any(worker.source.name == report.source for worker in self._workers):
                self._take(report)     # else its bus is gone meanwhile
        self._advance()

    def _take(self, report: Report) -> None:
        self._note_problem(report.source, report.problem)
        self._apply(report)
        if report.source == UdevSource.name and self.parameters['i2c'] and any(
                '/i2c-' in key for key in (*report.present, *report.gone)):
            self._follow_buses()
        for scan in self._scans:
            if report.scan >= scan.waiting.get(report.source, report.scan + 1):
                del scan.waiting[report.source]

    def _note_problem(self, source: str, problem: str) -> None:
        """Note what is wrong with a source; what comes and goes with a loose plug is logged now and then."""
        changed, now = self._problems.get(source, '') != problem, time.monotonic()
        self._problems[source] = problem
        if problem and changed and now >= self._unlogged.get((source, problem), now):
            self.get_logger().warning(f'{source}: {problem}')
            if len(self._unlogged) >= MAX_UNLOGGED:
                self._unlogged.clear()
            self._unlogged[source, problem] = now + LOG_AGAIN

    def _apply(self, report: Report) -> None:
        merged = self._merger.merge(report)
        self._publish_events(self._registry.apply(merged, time.monotonic(), self._stamp()))

    def _advance(self) -> None:
        now = time.monotonic()
        self._publish_events(self._registry.advance(now, self._stamp()))
        for scan in [s for s in self._scans if not s.waiting or s.deadline <= now]:
            self._scans.remove(scan)
            scan.future.set_result(f"no answer from {', '.join(scan.waiting)}" if scan.waiting else '')
        self._reservations.expire(now)
        deadlines = [self._registry.next_deadline(), *(scan.deadline for scan in self._scans)]
        if self._published != self._registry.sequence:
            if now - self._published_at >= LIST_INTERVAL:
                self._publish_list(now)
            else:
                deadlines.append(self._published_at + LIST_INTERVAL)
        if self._kept != self._registry.sequence:
            if now - self._kept_at >= KEEP_INTERVAL:
                self._keep_devices(now)
            else:
                deadlines.append(self._kept_at + KEEP_INTERVAL)
        self._note_health()
        self._wake_at(min((d for d in deadlines if d is not None), default=None), now)

    def _wake_at(self, deadline: float | None, now: float) -> None:
        self._timer.cancel()
        if deadline is not None:
            self._timer.timer_period_ns = int(max(0.001, deadline - now) * 1e9)
            self._timer.reset()

    def _publish_events(self, events: list[DeviceEvent]) -> None:
        for event in events:
            if event.kind == Change.DISCONNECTED:
                self._reservations.lose(event.device.id)
            self._events.publish(messages.event_message(event))

    def _publish_list(self, now: float) -> None:
        self._published, self._published_at = self._registry.sequence, now
        self._list.publish(DeviceArray(
            stamp=messages.time_message(self._stamp()), robot=self.get_namespace().strip('/'),
            revision=self._registry.sequence,
            devices=[messages.device_message(device) for device in self._registry.find()]))

    def _keep_devices(self, now: float) -> None:
        self._kept, self._kept_at = self._registry.sequence, now
        self._memory.keep(self._registry)

    def _close_memory(self, memory: Memory) -> None:
        if self._kept != self._registry.sequence:
            memory.keep(self._registry)
        memory.close()

    def _stamp(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    # Virtual devices --------------------------------------------------------------------------
    def _take_virtual(self, message: DeviceArray) -> None:
        try:
            if len(message.devices) > virtual.MAX_DEVICES:
                raise virtual.SnapshotError(f'more than {virtual.MAX_DEVICES} devices')
            report = virtual.snapshot(messages.device(device) for device in message.devices)
        except ValueError as error:
            self._note_problem(virtual.SOURCE, f'a snapshot was refused: {error}')
            self._note_health()
            return
        self._enter(report)

    def _count_worlds(self, info: Any) -> None:
        if info.current_count == 0:
            self._enter(virtual.nobody())

    def _enter(self, report: Report) -> None:
        self._world = report  # kept for the next activation: the world publishes changes only
        if self.is_active:
            self._take(report)
            self._advance()

    # Services ---------------------------------------------------------------------------------
    def _list_devices(self, request: Any, response: Any) -> Any:
        if not self.is_active:
            return messages.inactive(response, self.get_fully_qualified_name())
        if request.status and request.status not in set(Status):
            response.error_code = ErrorCode.INVALID
            response.message = f'status must be 0 (any) or one of 1..{max(Status)}, not {request.status}'
            return response
        found = self._registry.find(request.type, request.bus, request.capability,
                                    Status(request.status) if request.status else None)
        response.devices = [messages.device_message(device) for device in found]
        response.success, response.message = True, f'{len(found)} of {len(self._registry)} devices'
        return response

    def _get_device(self, request: Any, response: Any) -> Any:
        if not self.is_active:
            return messages.inactive(response, self.get_fully_qualified_name())
        device = self._registry.get(request.id)
        if device is None:
            response.error_code = ErrorCode.NOT_FOUND
            response.message = messages.no_device(request.id)
            return response
        response.success, response.device = True, messages.device_message(device)
        response.history = [messages.past_message(past) for past in self._registry.history(device.id)]
        held = self._reservations.held.get(device.id)
        response.holder = held.owner if held and held.deadline > time.monotonic() else ''
        return response

    def _reserve_device(self, request: Any, response: Any) -> Any:
        if not self.is_active:
            return messages.inactive(response, self.get_fully_qualified_name())
        return services.reserve(self._registry, self._reservations, request, response, time.monotonic())

    def _release_device(self, request: Any, response: Any) -> Any:
        if not self.is_active:
            return messages.inactive(response, self.get_fully_qualified_name())
        return services.release(self._reservations, request, response, time.monotonic())

    async def _negotiate(self, request: Any, response: Any) -> Any:
        if not self.is_active:
            return messages.inactive(response, self.get_fully_qualified_name())
        try:
            required, preferred = services.read_requirements(request)
        except CapabilityError as error:
            return services.refuse(response, ErrorCode.INVALID, str(error))
        others = await self._fleet.devices() if request.scope == request.FLEET else []
        if not self.is_active:
            return messages.inactive(response, self.get_fully_qualified_name())
        own = [(self.robot, device) for device in self._registry.find()]
        return services.answer_negotiation(required, preferred, [*own, *others], response)

    async def _scan(self, request: Any, response: Any) -> Any:
        if not self.is_active:
            response.message = messages.inactive_text(self.get_fully_qualified_name())
            return response
        if len(self._scans) >= MAX_WAITING_SCANS:
            response.message = f'{MAX_WAITING_SCANS} scans are waited for already; repeat later'
            return response
        scan = _Scan(Future(executor=self.executor), {}, time.monotonic() + SCAN_TIMEOUT)
        for worker in self._workers:
            scan.waiting[worker.source.name] = worker.request_scan()
        self._scans.append(scan)
        self._advance()
        response.message = await scan.future
        response.success = not response.message
        if response.success:
            response.message = f'{len(self._registry)} devices'
        return response

    # Diagnostics ------------------------------------------------------------------------------
    def concerns(self) -> list[DiagnosticStatus]:
        """Return how the sources are, and how many devices there are; called beside the executor's thread."""
        now = time.monotonic()
        silent = {worker.source.name: now - worker.heard for worker in tuple(self._workers)
                  if now - worker.heard > 2.0 * worker.interval + 5.0}
        hung = {status.name: status for status in (
            self._source_status(name, f'no answer for {seconds:.0f} s: a device or bus hangs')
            for name, seconds in silent.items())}
        return [hung.get(status.name, status) for status in self._health]

    def _note_health(self) -> None:
        """Note for `concerns` what the sources told and how many devices there are."""
        counts = {status.name.lower(): self._registry.count(status) for status in Status}
        sick = {name: counts[name] for name in ('degraded', 'error') if counts[name]}
        level = DiagnosticStatus.WARN if self._registry.refused or sick else DiagnosticStatus.OK
        message = ', '.join(f'{number} {name}' for name, number in (
            ('connected', counts['connected']), *sick.items()))
        if self._registry.refused:
            message += f', {self._registry.refused} refused: more devices than the registry takes'
        self._health = [
            *(self._source_status(name, problem) for name, problem in sorted(self._problems.items())),
            diagnostic(level, f'{self.get_fully_qualified_name()}: devices', message, self.robot, **counts,
                       events=self._registry.sequence)]

    def _source_status(self, name: str, problem: str) -> DiagnosticStatus:
        return diagnostic(DiagnosticStatus.WARN if problem else DiagnosticStatus.OK,
                          f'{self.get_fully_qualified_name()}: source {name}', problem or 'ok', self.robot)


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM."""
    run(HardwareNode, args=args)


if __name__ == '__main__':
    main()
