# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The world node as a real process over DDS."""
import math
import signal
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped, PoseStamped, Twist, Vector3
from lifecycle_msgs.srv import ChangeState
from muster.ros import qos
from muster.simulation.world import World, WorldConfig
from muster_interfaces.msg import DeviceArray
from nav_msgs.msg import Odometry
import numpy as np
from processes import Fleet, Process, wait_until
import pytest
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Bool, Float32
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

pytestmark = pytest.mark.processes


def start(fleet: Fleet, **parameters: Any) -> Process:
    """Start a world with parameters."""
    given = [word for name, value in parameters.items() for word in ('-p', f'{name}:={value}')]
    return fleet.start('world', 'muster.simulation.node', '--ros-args', *given)


def set_parameter(fleet: Fleet, name: str, value: Any) -> Any:
    """Set a parameter of the world live; return the result."""
    response = fleet.probe.call(SetParameters, '/world/set_parameters',
                                parameters=[Parameter(name, value=value).to_parameter_msg()])
    return response.results[0]


def seconds(stamp: Any) -> float:
    """Return a stamp as seconds."""
    return float(stamp.sec + stamp.nanosec * 1e-9)


def commander(fleet: Fleet, process: Process, robot: str) -> Any:
    """Return a publisher of commands that is known to reach the world: it has refused one of them."""
    publisher = fleet.probe.publisher(Twist, f'/{robot}/cmd_vel', qos.COMMANDS)

    def refused() -> bool:
        publisher.publish(Twist(linear=Vector3(x=math.nan), angular=Vector3(z=1.0)))
        return f"ignored: command of '{robot}': linear velocity must be finite, not nan" in process.text
    wait_until(refused, 20, 'the refusal of a command')
    return publisher


def ids(snapshots: list[Any]) -> list[str]:
    """Return the ids of the devices in the newest snapshot."""
    return [device.id for device in snapshots[-1].devices] if snapshots else ['none yet']


def test_sensors_arrive_and_commands_move_the_base_until_silence(fleet: Fleet) -> None:
    world = World(WorldConfig(), ['robot_1', 'robot_2'], 1)
    ahead = 1.0 if world.scan('robot_2')[18] > 1.0 else -1.0  # where there is room to drive
    process = start(fleet, robots='[robot_1, robot_2]', publish_clock='true')
    probe = fleet.probe
    scans = probe.listen(LaserScan, '/robot_2/scan', qos.SENSORS)
    odometry = probe.listen(Odometry, '/robot_2/odom', qos.SENSORS)
    bearings = probe.listen(PointStamped, '/robot_2/goal_in_base', qos.SENSORS)
    rewards = probe.listen(Float32, '/robot_2/reward', qos.EVENTS)
    other = probe.listen(Odometry, '/robot_1/odom', qos.SENSORS)
    wait_until(lambda: scans and odometry and bearings and rewards and other, 20, 'sensors of two robots')
    goals = probe.listen(PoseStamped, '/robot_2/goal', qos.STATUS)
    walls = probe.listen(MarkerArray, '/world/markers', qos.STATUS)
    markers = probe.listen(MarkerArray, '/robot_2/markers', qos.STATUS)
    wait_until(lambda: goals and walls and markers, 20, 'latched goal and markers')

    assert (scans[0].header.frame_id, len(scans[0].ranges)) == ('robot_2/base', 36)
    assert np.allclose(scans[0].ranges, world.scan('robot_2'), atol=0.1)
    assert (odometry[0].header.frame_id, odometry[0].child_frame_id) == ('world', 'robot_2/base')
    position = odometry[0].pose.pose.position
    assert (position.x, position.y) == world.pose('robot_2')[:2]
    assert (bearings[0].point.x, bearings[0].point.y) == world.goal_in_base('robot_2')
    assert (goals[0].pose.position.x, goals[0].pose.position.y) == world.goal('robot_2')
    assert rewards[0].data == pytest.approx(-0.01)
    assert {m.ns for m in walls[0].markers} == {'walls', 'obstacles'}
    assert {m.ns for m in markers[0].markers} == {'robot', 'heading', 'goal', 'echoes'}

    commands = commander(fleet, process, 'robot_2')
    commands.publish(Twist(linear=Vector3(x=ahead * 0.4)))
    wait_until(lambda: any(abs(o.twist.twist.linear.x) > 0.3 for o in odometry), 20, 'the base drives')
    wait_until(lambda: odometry[-1].twist.twist.linear.x == 0.0, 20, 'the base stands')
    moving = [seconds(o.header.stamp) for o in odometry if o.twist.twist.linear.x]
    # 0.5 s of driving and 0.2 s of braking, in simulated time.
    assert moving[-1] - moving[0] <= 0.7 + 1e-6
    moved = odometry[-1].pose.pose.position
    assert 0.1 < math.dist((moved.x, moved.y), (position.x, position.y)) < 0.3
    assert other[-1].pose == other[0].pose


def test_a_broken_command_is_ignored_and_counted(fleet: Fleet) -> None:
    process = start(fleet)
    odometry = fleet.probe.listen(Odometry, '/robot_1/odom', qos.SENSORS)
    diagnostics = fleet.probe.listen(DiagnosticArray, '/diagnostics', 10)
    commands = commander(fleet, process, 'robot_1')

    def counted() -> bool:
        values = [v for d in diagnostics for s in d.status for v in s.values]
        return any(v.key == 'refused_commands' and int(v.value) > 0 for v in values)
    wait_until(lambda: odometry and counted(), 20, 'the refused command in the diagnostics')
    assert all(o.twist.twist.angular.z == 0.0 for o in odometry)
    commands.publish(Twist(angular=Vector3(z=1.0)))
    wait_until(lambda: any(o.twist.twist.angular.z == 1.0 for o in odometry), 20, 'a good command is obeyed')


def test_virtual_devices_are_plugged_in_and_out_live(fleet: Fleet) -> None:
    process = start(fleet, robots='[robot_1, robot_2]')
    first = fleet.probe.listen(DeviceArray, '/robot_1/virtual_devices', qos.STATUS)
    second = fleet.probe.listen(DeviceArray, '/robot_2/virtual_devices', qos.STATUS)
    standard = ['virtual:robot_2:base', 'virtual:robot_2:lidar']
    wait_until(lambda: ids(second) == standard, 20, 'the standard devices')

    assert set_parameter(fleet, 'virtual_devices', ['base', 'lidar', 'robot_1/camera']).successful
    wait_until(lambda: 'virtual:robot_1:camera' in ids(first), 20, 'the camera')
    camera = first[-1].devices[1]
    assert (camera.name, camera.type, camera.bus, camera.simulated, camera.confidence) == (
        'Simulated camera', 'camera', 'virtual', True, 1.0)
    assert first[-1].revision == 2
    late = fleet.probe.listen(DeviceArray, '/robot_1/virtual_devices', qos.STATUS)
    wait_until(lambda: late, 20, 'the latched snapshot')
    assert late[0] == first[-1]
    assert ids(second) == standard and len(second) == 1

    result = set_parameter(fleet, 'virtual_devices', ['toaster'])
    assert not result.successful and "'toaster'; known are base, camera" in result.reason
    assert set_parameter(fleet, 'virtual_devices', ['']).successful
    wait_until(lambda: ids(first) == ids(second) == [], 20, 'all pulled out')
    assert set_parameter(fleet, 'virtual_devices', ['gps']).successful
    wait_until(lambda: ids(first) == ['virtual:robot_1:gps'], 20, 'a new device')
    process.send(signal.SIGINT)
    assert process.wait() == 0, process.text
    wait_until(lambda: ids(first) == [], 20, 'a world that ends takes its devices with it')


def test_the_clock_follows_the_factor_and_can_be_paused(fleet: Fleet) -> None:
    process = start(fleet, real_time_factor=0, publish_clock='true')
    clock = fleet.probe.listen(Clock, '/clock', 10)
    ends = fleet.probe.listen(Bool, '/robot_1/episode_end', qos.EVENTS)
    rewards = fleet.probe.listen(Float32, '/robot_1/reward', qos.EVENTS)
    odometry = fleet.probe.listen(Odometry, '/robot_1/odom', qos.SENSORS)
    shown = fleet.probe.listen(MarkerArray, '/robot_1/markers', qos.STATUS)
    commands = fleet.probe.publisher(Twist, '/robot_1/cmd_vel', qos.COMMANDS)
    wait_until(lambda: len(shown) > 3, 20, 'the world is active')
    assert not clock  # paused

    assert set_parameter(fleet, 'real_time_factor', 10.0).successful
    wait_until(lambda: clock and seconds(clock[-1].clock) > 20.0, 20, '20 s of simulated time')
    times = np.array([seconds(c.clock) for c in clock] + [seconds(odometry[-1].header.stamp)]) / 0.05
    assert np.allclose(times, np.round(times), atol=1e-6)
    assert (np.diff(times[:-1]) > 0).all()

    def driven_into_something() -> list[Any]:
        commands.publish(Twist(linear=Vector3(x=0.6)))
        return ends
    wait_until(driven_into_something, 20, 'the end of an episode')
    assert ends[0].data
    wait_until(lambda: any(abs(r.data) > 4.0 for r in rewards), 20, 'the reward of the goal or collision')

    def more_markers() -> None:
        count = len(shown)
        wait_until(lambda: len(shown) > count + 2, 20, 'markers of a paused world')
    assert set_parameter(fleet, 'real_time_factor', 0.0).successful
    more_markers()
    count = len(clock)
    more_markers()
    assert len(clock) == count
    assert not set_parameter(fleet, 'real_time_factor', 101.0).successful
    process.send(signal.SIGTERM)
    assert process.wait() == 0, process.text


def test_reset_and_the_lifecycle(fleet: Fleet) -> None:
    start(fleet, real_time_factor=0)
    walls = fleet.probe.listen(MarkerArray, '/world/markers', qos.STATUS)
    shown = fleet.probe.listen(MarkerArray, '/robot_1/markers', qos.STATUS)
    wait_until(lambda: shown and walls, 20, 'markers')
    before = shown[-1].markers[0].pose
    assert fleet.probe.call(Trigger, '/world/reset').success
    wait_until(lambda: shown[-1].markers[0].pose != before, 20, 'the robot stands elsewhere')

    def transition(number: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = number
        client = fleet.probe.client(ChangeState, '/world/change_state')
        return bool(fleet.probe.result(client.call_async(request), 20.0, 'transition').success)
    drawn = walls[-1].markers
    assert transition(4)  # deactivate
    wait_until(lambda: walls[-1].markers[0].action == Marker.DELETE, 20, 'walls are deleted')
    assert [(m.ns, m.id) for m in walls[-1].markers] == [(m.ns, m.id) for m in drawn]
    answer = fleet.probe.call(Trigger, '/world/reset')
    assert not answer.success and 'not active' in answer.message
    assert transition(2)  # clean up
    assert set_parameter(fleet, 'obstacles', 3).successful
    assert transition(1) and transition(3)  # configure, activate
    wait_until(lambda: len(walls[-1].markers) == 4, 20, 'a new world with three obstacles')


@pytest.mark.parametrize('given, told', [
    ({'sede': 3}, "unknown parameter 'sede'; did you mean 'seed'?"),
    ({'obstacles': 150}, "'arena_size' 8.0 m has no room for 1 robots and 150 obstacles"),
    ({'robots': "['robot 1']"}, "parameter 'robots': 'robot 1' is no robot name")])
def test_a_wrong_parameter_is_refused_and_the_node_stays(
        fleet: Fleet, given: dict[str, Any], told: str) -> None:
    process = start(fleet, **given)
    diagnostics = fleet.probe.listen(DiagnosticArray, '/diagnostics', 10)
    wait_until(lambda: any(told in s.message for d in diagnostics for s in d.status), 20, told)
    assert process.alive
    process.send(signal.SIGTERM)
    assert process.wait() == 0, process.text
