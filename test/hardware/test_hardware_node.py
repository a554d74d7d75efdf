# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The node as a real process over DDS, on this machine's real kernel."""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
import os
from pathlib import Path
import shutil
import signal
import threading

from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from i2c_bus import Chip, Wires
from kernel import Tap
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from muster.hardware import node as node_module
from muster.hardware.devices import Report
from muster.hardware.node import HardwareNode
from muster.hardware.sources.buses import i2c_buses
from muster.hardware.sources.deadline import Deadline
from muster.hardware.sources.i2c import I2cSource
from muster.hardware.sources.udev import UdevSource
from muster.ros import qos
from muster_interfaces.msg import Device, DeviceArray, DeviceEvent, ErrorCode
from muster_interfaces.srv import (
    GetDevice,
    ListDevices,
    NegotiateCapabilities,
    ReleaseDevice,
    ReserveDevice,
)
from processes import wait_until
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

pytestmark = pytest.mark.processes
MODULE = 'muster.hardware.node'
NODE = '/robot_1/hardware'
LIDAR = {'id': 'virtual:robot_1:lidar', 'name': 'Simulated lidar', 'type': 'lidar', 'bus': 'virtual',
         'confidence': 1.0, 'capabilities': ['range_scan']}


def kinds(events: list[DeviceEvent], identity: str) -> list[int]:
    """Return what happened to one device."""
    return [event.type for event in events if event.device.id == identity]


def transition(fleet, label: str) -> bool:
    """Change the lifecycle state of the node; return whether it did."""
    return fleet.probe.call(ChangeState, f'{NODE}/change_state', transition=Transition(label=label)).success


def ready(fleet) -> None:
    """Wait until the node has read everything."""
    assert fleet.probe.call(Trigger, f'{NODE}/scan').success


@contextmanager
def here(fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HardwareNode, SingleThreadedExecutor]]:
    """Run the node of robot_1 in this process, where its sources can be replaced."""
    monkeypatch.setenv('MUSTER_HOME', fleet.environment['MUSTER_HOME'])
    node = HardwareNode(context=fleet.probe.context, namespace='/robot_1')
    executor = SingleThreadedExecutor(context=fleet.probe.context)
    executor.add_node(node)
    executor.create_task(node.start)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    try:
        yield node, executor
    finally:
        executor.shutdown(timeout_sec=0)
        thread.join()
        node.stop()
        node.destroy_node()


def world(fleet, *devices: dict):
    """Return a publisher of virtual devices that published these, and a function to publish others."""
    publisher = fleet.probe.publisher(DeviceArray, '/robot_1/virtual_devices', qos.STATUS)

    def publish(*devices: dict) -> None:
        publisher.publish(DeviceArray(robot='robot_1', devices=[Device(**fields) for fields in devices]))

    publish(*devices)
    return publisher, publish


def test_answers_events_and_hot_plug(fleet) -> None:
    fleet.start_node(MODULE, 'robot_1')
    events = fleet.probe.listen(DeviceEvent, f'{NODE}/events', qos.EVENTS)
    lists = fleet.probe.listen(DeviceArray, f'{NODE}/devices', qos.STATUS)
    ready(fleet)

    listed = fleet.probe.call(ListDevices, f'{NODE}/list_devices')
    assert listed.success and listed.devices and not any(d.simulated for d in listed.devices)
    latched = wait_until(lambda: lists and lists[-1].devices and lists[-1], 10, 'the latched list')
    assert latched.robot == 'robot_1' and {d.id for d in latched.devices} == {d.id for d in listed.devices}
    pci = fleet.probe.call(ListDevices, f'{NODE}/list_devices', bus='pci').devices
    assert {d.path for d in pci} == {str(p.resolve()) for p in Path('/sys/bus/pci/devices').glob('*')}
    one = fleet.probe.call(GetDevice, f'{NODE}/get_device', id=listed.devices[0].id)
    assert one.success and one.device == listed.devices[0]
    missing = fleet.probe.call(GetDevice, f'{NODE}/get_device', id='none')
    assert (missing.success, missing.error_code) == (False, ErrorCode.NOT_FOUND)
    assert "'none'" in missing.message
    assert fleet.probe.call(ListDevices, f'{NODE}/list_devices', status=99).error_code == ErrorCode.INVALID
    assert fleet.probe.call(ListDevices, f'{NODE}/list_devices', type='teleporter').devices == []

    tap = Tap('muster_node')
    wait_until(lambda: DeviceEvent.CONNECTED in kinds(events, 'net-muster_node'), 10, 'plugged in')
    tap.pull()
    wait_until(lambda: DeviceEvent.DISCONNECTED in kinds(events, 'net-muster_node'), 10, 'pulled out')
    ready(fleet)  # what the scan adds would be an event too many
    assert kinds(events, 'net-muster_node') == [
        DeviceEvent.DISCOVERED, DeviceEvent.CONNECTED, DeviceEvent.DISCONNECTED]
    numbers = [event.sequence for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    gone = fleet.probe.call(ListDevices, f'{NODE}/list_devices', status=Device.DISCONNECTED).devices
    assert [d.id for d in gone] == ['net-muster_node']


def test_virtual_devices_come_and_go_with_their_world(fleet) -> None:
    node = fleet.start_node(MODULE, 'robot_1', {'disconnect_grace': 0.1, 'scan_interval': 0.5})
    events = fleet.probe.listen(DeviceEvent, f'{NODE}/events', qos.EVENTS)
    ready(fleet)
    publisher, publish = world(fleet, LIDAR)
    lidar, gps = LIDAR['id'], 'virtual:robot_1:gps'
    wait_until(lambda: DeviceEvent.CONNECTED in kinds(events, lidar), 10, 'plugged in')
    publish(LIDAR, {'id': gps, 'name': 'gps'})
    wait_until(lambda: DeviceEvent.CONNECTED in kinds(events, gps), 10, 'a second one')
    device = fleet.probe.call(GetDevice, f'{NODE}/get_device', id=lidar).device
    assert device.simulated and device.type == 'lidar' and device.capabilities == ['range_scan']

    for garbage, reason in (
            ([{'id': 'x' * 100_000}], 'printable characters without /'),
            ([{'id': 'g', 'type': '$(rm)'}], 'type must be'),
            ([{'id': 'g', 'status': 77}], '77 is not a valid Status'),
            ([{'id': 'g', 'confidence': float('nan')}], 'confidence must be'),
            ([{'id': 'g', 'nodes': ['n'] * 1000}], 'nodes has more than'),
            ([{'id': str(n)} for n in range(1000)], 'more than 256 devices')):
        publish(*garbage)
        wait_until(lambda reason=reason: reason in node.text, 10, f'refusal: {reason}')
    publish({'id': gps, 'name': 'gps'})
    wait_until(lambda: DeviceEvent.DISCONNECTED in kinds(events, lidar), 10, 'pulled out')
    fleet.probe.withdraw(publisher)
    wait_until(lambda: DeviceEvent.DISCONNECTED in kinds(events, gps), 10, 'the world is gone')
    ready(fleet)
    for identity in (lidar, gps):
        assert kinds(events, identity) == [
            DeviceEvent.DISCOVERED, DeviceEvent.CONNECTED, DeviceEvent.DISCONNECTED]
    assert node.alive
    assert not any(event.device.id in ('g', '0') for event in events)


def test_the_simulated_world_plugs_in_and_pulls_out(fleet) -> None:
    fleet.start_node(MODULE, 'robot_1', {'disconnect_grace': 0.1})
    events = fleet.probe.listen(DeviceEvent, f'{NODE}/events', qos.EVENTS)
    ready(fleet)
    process = fleet.start('world', 'muster.simulation.node', '--ros-args', '-p', 'virtual_devices:=[lidar]')
    lidar, camera = 'virtual:robot_1:lidar', 'virtual:robot_1:camera'
    wait_until(lambda: DeviceEvent.CONNECTED in kinds(events, lidar), 20, 'the lidar of the world')

    def plug(*names: str) -> None:
        given = Parameter(name='virtual_devices', value=ParameterValue(
            type=ParameterType.PARAMETER_STRING_ARRAY, string_array_value=list(names)))
        answer = fleet.probe.call(SetParameters, '/world/set_parameters', parameters=[given])
        assert answer.results[0].successful

    plug('lidar', 'camera')
    wait_until(lambda: DeviceEvent.CONNECTED in kinds(events, camera), 10, 'the camera')
    plug('lidar')
    wait_until(lambda: DeviceEvent.DISCONNECTED in kinds(events, camera), 10, 'the camera is pulled out')
    process.send(signal.SIGTERM)
    wait_until(lambda: DeviceEvent.DISCONNECTED in kinds(events, lidar), 10, 'the world is gone')
    for identity in (lidar, camera):
        assert kinds(events, identity) == [
            DeviceEvent.DISCOVERED, DeviceEvent.CONNECTED, DeviceEvent.DISCONNECTED]


def test_a_pseudo_terminal_is_a_simulated_serial_port(fleet, tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    link = tmp_path / 'ttySIM0'
    link.symlink_to(os.ttyname(terminal))
    fleet.start_node(MODULE, 'robot_1', {'serial_links': f"['{tmp_path}/tty*']"})
    ready(fleet)
    listed = fleet.probe.call(ListDevices, f'{NODE}/list_devices', bus='tty').devices
    (port,) = [device for device in listed if device.simulated]
    assert str(link) in port.nodes and port.type == 'serial_port' and port.capabilities == ['serial']
    os.close(terminal)
    os.close(controller)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_exit_code_0(fleet, number: signal.Signals) -> None:
    node = fleet.start_node(MODULE, 'robot_1')
    ready(fleet)
    for _ in range(20):  # asked for, and perhaps not answered any more
        fleet.probe.client(Trigger, f'{NODE}/scan').call_async(Trigger.Request())
    node.send(number)
    assert node.wait() == 0
    assert 'Traceback' not in node.text


def test_lifecycle_and_live_parameters(fleet) -> None:
    node = fleet.start_node(MODULE, 'robot_1', {'autostart': False})

    def set_interval(value: float) -> object:
        given = Parameter(name='scan_interval', value=ParameterValue(
            type=ParameterType.PARAMETER_DOUBLE, double_value=value))
        return fleet.probe.call(SetParameters, f'{NODE}/set_parameters', parameters=[given]).results[0]

    assert transition(fleet, 'configure')
    refused = fleet.probe.call(ListDevices, f'{NODE}/list_devices')
    assert (refused.success, refused.error_code) == (False, ErrorCode.INACTIVE)
    assert 'ros2 lifecycle' in refused.message
    assert not fleet.probe.call(Trigger, f'{NODE}/scan').success
    _publisher, _publish = world(fleet, LIDAR)  # while it is not active; counts when it is
    for _ in range(2):
        assert transition(fleet, 'activate')
        ready(fleet)
        assert len(fleet.probe.call(ListDevices, f'{NODE}/list_devices').devices) > 1
        wait_until(lambda: fleet.probe.call(GetDevice, f'{NODE}/get_device', id=LIDAR['id']).success, 10,
                   'the device that was published while the node was inactive')
        assert transition(fleet, 'deactivate')
    assert set_interval(1.0).successful
    assert 'scan_interval' in set_interval(0.0).reason and not set_interval(float('nan')).successful
    assert transition(fleet, 'cleanup') and transition(fleet, 'configure') and transition(fleet, 'activate')
    ready(fleet)
    assert node.alive and 'Traceback' not in node.text


def test_a_hung_source_blocks_nobody(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Hung(UdevSource):
        def scan(self, reason: str) -> Report:
            released.wait(60)
            return super().scan(reason)

    monkeypatch.setattr(node_module, 'UdevSource', Hung)
    monkeypatch.setattr(node_module, 'SCAN_TIMEOUT', 0.2)
    with here(fleet, monkeypatch):
        scan = fleet.probe.call(Trigger, f'{NODE}/scan')
        assert not scan.success and scan.message == 'no answer from udev'
        assert fleet.probe.call(ListDevices, f'{NODE}/list_devices').success
        monkeypatch.setattr(node_module, 'SCAN_TIMEOUT', 60.0)
        released.set()
        ready(fleet)
        assert fleet.probe.call(ListDevices, f'{NODE}/list_devices').devices


def test_chips_on_a_bus_come_and_go_with_its_adapter(fleet, monkeypatch: pytest.MonkeyPatch,
                                                     tmp_path: Path) -> None:
    wires = Wires(tmp_path / 'sys')
    monkeypatch.setattr(node_module, 'i2c_buses', lambda: i2c_buses(wires.root))
    monkeypatch.setattr(node_module, 'I2cSource', partial(
        I2cSource, open_bus=wires.open, root=wires.root, deadline=Deadline('patient', 10.0, 60.0)))
    wires.adapter(1, {0x68: Chip({0x75: 0x68})})

    def chip() -> tuple[str, int]:
        device = fleet.probe.call(GetDevice, f'{NODE}/get_device', id='i2c-1-0068').device
        return device.type, device.status

    with here(fleet, monkeypatch) as (node, executor):
        def told() -> None:
            executor.create_task(node._take, Report('udev', {}, 'kernel event', complete=False,
                                                    gone=('/devices/platform/i2c-1',)))
        wait_until(lambda: chip() == ('imu', Device.CONNECTED), 20, 'the chip')
        wires.pull(1)
        told()
        wait_until(lambda: chip() == ('imu', Device.DISCONNECTED), 20, 'the end of the chip')
        shutil.rmtree(wires.root / 'devices')
        wires.adapter(1, {0x68: Chip({0x75: 0x68})})
        told()
        wait_until(lambda: chip() == ('imu', Device.CONNECTED), 20, 'the chip again')
        assert transition(fleet, 'deactivate')
        wires.pull(1)
        assert transition(fleet, 'activate')
        wait_until(lambda: chip() == ('imu', Device.DISCONNECTED), 20, 'what went while the node slept')


def test_two_robots_do_not_mix(fleet) -> None:
    for robot in ('robot_1', 'robot_2'):
        fleet.start_node(MODULE, robot)
    ready(fleet)
    assert fleet.probe.call(Trigger, '/robot_2/hardware/scan').success
    _publisher, _publish = world(fleet, LIDAR)

    def has_it(robot: str) -> bool:
        return fleet.probe.call(GetDevice, f'/{robot}/hardware/get_device', id=LIDAR['id']).success

    wait_until(lambda: has_it('robot_1'), 10, 'robot_1 has it')
    assert not has_it('robot_2')


def test_diagnostics_tell_how_the_sources_are(fleet) -> None:
    fleet.start_node(MODULE, 'robot_1')
    heard = fleet.probe.listen(DiagnosticArray, '/diagnostics', 10)
    ready(fleet)

    def status(concern: str) -> DiagnosticStatus | None:
        return next((status for array in heard[::-1] for status in array.status
                     if status.name == f'{NODE}: {concern}'), None)

    devices = wait_until(lambda: status('devices'), 10, 'diagnostics')
    assert devices.level == DiagnosticStatus.OK and 'connected' in devices.message
    assert wait_until(lambda: status('source udev'), 10, 'the source').level == DiagnosticStatus.OK


def test_a_source_that_hangs_is_told_as_long_as_it_does(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    with here(fleet, monkeypatch) as (node, _):
        ready(fleet)

        def source() -> DiagnosticStatus:
            return next(status for status in node.concerns() if status.name == f'{NODE}: source udev')
        assert source().level == DiagnosticStatus.OK
        node._workers[0].heard -= 3600.0
        assert source().level == DiagnosticStatus.WARN and 'no answer for 36' in source().message
        ready(fleet)
        assert source().level == DiagnosticStatus.OK


def test_the_fleet_is_asked_for_a_capability_and_a_device_is_reserved(fleet) -> None:
    for robot in ('robot_1', 'robot_2'):
        fleet.start_node(MODULE, robot)
        fleet.probe.call(Trigger, f'/{robot}/hardware/scan')
    publisher = fleet.probe.publisher(DeviceArray, '/robot_2/virtual_devices', qos.STATUS)
    publisher.publish(DeviceArray(robot='robot_2', devices=[Device(**LIDAR)]))

    def ask(scope: int, text: str = 'range_scan'):
        return fleet.probe.call(NegotiateCapabilities, f'{NODE}/negotiate_capabilities', required=[text],
                                scope=scope)
    found = wait_until(lambda: (answer := ask(2)).success and answer, 20, 'the lidar of the other robot')
    assert [(match.robot, match.device.type) for match in found.matches] == [('robot_2', 'lidar')]
    own = ask(1)
    assert (own.success, own.error_code) == (False, ErrorCode.NOT_FOUND)
    assert own.missing == ['range_scan: not offered'] and own.nearest
    assert ask(1, 'range_scan{').error_code == ErrorCode.INVALID

    identity, service = found.matches[0].device.id, '/robot_2/hardware'
    held = fleet.probe.call(ReserveDevice, f'{service}/reserve_device', id=identity, owner='mapper',
                            lease=Duration(sec=60))
    assert held.success and held.token
    other = fleet.probe.call(ReserveDevice, f'{service}/reserve_device', id=identity, owner='other',
                             lease=Duration(sec=60))
    assert (other.error_code, other.holder) == (ErrorCode.HELD, 'mapper')
    assert fleet.probe.call(GetDevice, f'{service}/get_device', id=identity).holder == 'mapper'
    publisher.publish(DeviceArray(robot='robot_2'))       # unplugged
    wait_until(lambda: fleet.probe.call(ReleaseDevice, f'{service}/release_device', id=identity,
                                        token=held.token).error_code == ErrorCode.WRONG_TOKEN
               and fleet.probe.call(GetDevice, f'{service}/get_device', id=identity).device.status
               == Device.DISCONNECTED, 20, 'the end of the reservation')


def test_a_restarted_node_knows_what_it_had(fleet) -> None:
    node = fleet.start_node(MODULE, 'robot_1')
    ready(fleet)
    first = {d.id: d.first_seen for d in fleet.probe.call(ListDevices, f'{NODE}/list_devices').devices}
    node.send(signal.SIGTERM)
    assert node.wait() == 0
    fleet.start_node(MODULE, 'robot_1', name='again')
    ready(fleet)
    devices = fleet.probe.call(ListDevices, f'{NODE}/list_devices').devices
    assert {d.id: d.first_seen for d in devices} == first
    past = fleet.probe.call(GetDevice, f'{NODE}/get_device', id=devices[0].id).history
    assert [event.type for event in past].count(DeviceEvent.DISCOVERED) == 1


def test_wrong_parameters_are_named_and_the_node_lives(fleet) -> None:
    wrong = {
        "unknown parameter 'scan_intervall'; did you mean 'scan_interval'?": {'scan_intervall': 1.0},
        "parameter 'scan_interval' must be within": {'scan_interval': -1.0},
        "'relative/*' must be an absolute path": {'serial_links': "['relative/*']"},
        "no file matches '/nowhere/*.yaml'": {'device_files': "['/nowhere/*.yaml']"}}
    nodes = {named: fleet.start_node(MODULE, f'robot_{number}', parameters)
             for number, (named, parameters) in enumerate(wrong.items())}
    for named, node in nodes.items():
        wait_until(lambda node=node, named=named: named in node.text, 40, f'{named!r} in the log')
        assert node.alive
        node.send(signal.SIGTERM)
        assert node.wait() == 0


def test_an_operators_own_device_file_counts_and_a_wrong_one_is_named(fleet, tmp_path: Path) -> None:
    file = tmp_path / 'mine.yaml'
    file.write_text('rules:\n- {match: {subsystem: pci}, type: my_board, confidence: 1.0, source: me}\n')
    fleet.start_node(MODULE, 'robot_1', {'device_files': f"['{file}']"})
    ready(fleet)
    mine = fleet.probe.call(ListDevices, f'{NODE}/list_devices', type='my_board').devices
    assert len(mine) == len(fleet.probe.call(ListDevices, f'{NODE}/list_devices', bus='pci').devices)
    file.write_text('rules:\n- {mach: {subsystem: pci}}\n')
    node = fleet.start_node(MODULE, 'robot_2', {'device_files': f"['{file}']"})
    wait_until(lambda: f"{file}:2: 'mach' is unknown here" in node.text, 40, 'file, line and key in the log')
