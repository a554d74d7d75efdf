# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""ROS messages of what is in a world; nothing is sent here."""
from __future__ import annotations

from array import array
from collections.abc import Iterable
import math
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, PointStamped, Pose, PoseStamped, Quaternion, Vector3
from muster.simulation.devices import KINDS
from muster.simulation.world import World, WorldConfig
from muster_interfaces.msg import Device
from nav_msgs.msg import Odometry
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import LaserScan
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

FRAME = 'world'
ROBOT_COLOUR = ColorRGBA(r=0.13, g=0.45, b=0.85, a=1.0)
GOAL_COLOUR = ColorRGBA(r=0.15, g=0.65, b=0.3, a=0.6)
ECHO_COLOUR = ColorRGBA(r=0.9, g=0.2, b=0.2, a=1.0)
SOLID_COLOUR = ColorRGBA(r=0.45, g=0.45, b=0.48, a=1.0)


def base_frame(robot: str) -> str:
    """Return the name of a robot's own frame: x forward, y left."""
    return f'{robot}/base'


def pose_message(x: float, y: float, heading: float = 0.0) -> Pose:
    """Return a pose in the plane."""
    return Pose(position=Point(x=x, y=y),
                orientation=Quaternion(z=math.sin(heading / 2), w=math.cos(heading / 2)))


def scan_message(config: WorldConfig, robot: str, ranges: npt.NDArray[np.float32], interval: float,
                 stamp: Time) -> LaserScan:
    """Return a lidar scan, one every `interval` seconds."""
    increment = 2 * math.pi / config.beams
    return LaserScan(
        header=Header(stamp=stamp, frame_id=base_frame(robot)), angle_min=-math.pi,
        angle_max=math.pi - increment, angle_increment=increment, scan_time=interval,
        range_min=config.range_min, range_max=config.range_max, ranges=array('f', ranges.tobytes()))


def odometry_message(world: World, robot: str, stamp: Time) -> Odometry:
    """Return the true pose in the world, and the velocity in the base frame."""
    message = Odometry(header=Header(stamp=stamp, frame_id=FRAME), child_frame_id=base_frame(robot))
    message.pose.pose = pose_message(*world.pose(robot))
    message.twist.twist.linear.x, message.twist.twist.angular.z = world.velocity(robot)
    return message


def goal_message(world: World, robot: str, stamp: Time) -> PoseStamped:
    """Return the goal in the world frame."""
    return PoseStamped(header=Header(stamp=stamp, frame_id=FRAME), pose=pose_message(*world.goal(robot)))


def goal_in_base_message(world: World, robot: str, stamp: Time) -> PointStamped:
    """Return the goal in the base frame."""
    x, y = world.goal_in_base(robot)
    return PointStamped(header=Header(stamp=stamp, frame_id=base_frame(robot)), point=Point(x=x, y=y))


def device_message(robot: str, kind: str, since: Time) -> Device:
    """Return a virtual device that was plugged in at `since`."""
    name, device_type, capabilities = KINDS[kind]
    return Device(
        id=f'virtual:{robot}:{kind}', name=name, type=device_type, bus='virtual', status=Device.CONNECTED,
        confidence=1.0, simulated=True, path=f'/virtual/{robot}/{kind}', capabilities=list(capabilities),
        first_seen=since, last_changed=since)


def world_markers(world: World, stamp: Time) -> MarkerArray:
    """Return the walls and obstacles."""
    half = world.config.arena_size / 2
    corners = [(-half, -half), (half, -half), (half, half), (-half, half), (-half, -half)]
    walls = _marker('walls', 0, Marker.LINE_STRIP, stamp, SOLID_COLOUR, Vector3(x=0.05),
                    points=[Point(x=x, y=y) for x, y in corners])
    obstacles = [
        _marker('obstacles', i, Marker.CYLINDER, stamp, SOLID_COLOUR,
                Vector3(x=2 * radius, y=2 * radius, z=0.5), pose=pose_message(x, y))
        for i, (x, y, radius) in enumerate(world.obstacles.tolist())]
    return MarkerArray(markers=[walls, *obstacles])


def robot_markers(world: World, robot: str, ranges: npt.NDArray[np.float32], stamp: Time) -> MarkerArray:
    """Return a robot, its heading, its goal and what its lidar met."""
    config, (x, y, heading), goal = world.config, world.pose(robot), world.goal(robot)
    met = ranges < config.range_max
    angles = config.beam_angles[met] + heading
    echoes = np.column_stack((x + ranges[met] * np.cos(angles), y + ranges[met] * np.sin(angles)))
    size, reach = 2 * config.robot_radius, 2 * config.goal_radius
    return MarkerArray(markers=[
        _marker('robot', 0, Marker.CYLINDER, stamp, ROBOT_COLOUR, Vector3(x=size, y=size, z=0.3),
                pose=pose_message(x, y)),
        _marker('heading', 0, Marker.ARROW, stamp, ROBOT_COLOUR, Vector3(x=size, y=0.08, z=0.08),
                pose=pose_message(x, y, heading)),
        _marker('goal', 0, Marker.CYLINDER, stamp, GOAL_COLOUR, Vector3(x=reach, y=reach, z=0.02),
                pose=pose_message(*goal)),
        _marker('echoes', 0, Marker.POINTS, stamp, ECHO_COLOUR, Vector3(x=0.06, y=0.06),
                points=[Point(x=px, y=py) for px, py in echoes.tolist()])])


def deletion(shown: Iterable[Marker]) -> MarkerArray:
    """Return markers that remove those shown before."""
    return MarkerArray(markers=[Marker(header=m.header, ns=m.ns, id=m.id, action=Marker.DELETE)
                                for m in shown])


def _marker(ns: str, number: int, shape: int, stamp: Time, colour: ColorRGBA, scale: Vector3,
            **fields: Any) -> Marker:
    return Marker(header=Header(stamp=stamp, frame_id=FRAME), ns=ns, id=number, type=shape,
                  action=Marker.ADD, color=colour, scale=scale, **fields)
