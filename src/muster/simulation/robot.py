# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The topics of one simulated robot."""
from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PointStamped, PoseStamped, Twist
from muster.ros import qos
from muster.simulation import messages
from muster.simulation.world import Outcome, World
from muster_interfaces.msg import DeviceArray
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Bool, Float32
from visualization_msgs.msg import MarkerArray


class SimulatedRobot:
    """What one robot of a world sends and obeys, on topics in the robot's namespace."""

    def __init__(self, node: LifecycleNode, world: World, name: str) -> None:
        """Make all publishers and the command subscription on `node`."""
        self.name = name
        self.refused = 0
        self._node, self._world = node, world
        self._ranges = world.scan(name)
        self._goal: tuple[float, float] | None = None
        self._plugged: dict[str, Time] = {}
        self._revision = 0

        def publisher(kind: type, topic: str, profile: Any) -> Any:
            return node.create_lifecycle_publisher(kind, f'/{name}/{topic}', profile)

        self._scan = publisher(LaserScan, 'scan', qos.SENSORS)
        self._odometry = publisher(Odometry, 'odom', qos.SENSORS)
        self._goal_in_base = publisher(PointStamped, 'goal_in_base', qos.SENSORS)
        self._reward = publisher(Float32, 'reward', qos.EVENTS)
        self._episode_end = publisher(Bool, 'episode_end', qos.EVENTS)
        self._goals = publisher(PoseStamped, 'goal', qos.STATUS)
        self._markers = publisher(MarkerArray, 'markers', qos.STATUS)
        self._devices = publisher(DeviceArray, 'virtual_devices', qos.STATUS)
        self._commands = node.create_subscription(Twist, f'/{name}/cmd_vel', self._obey, qos.COMMANDS)

    def release(self) -> None:
        """Destroy all that was made."""
        self._node.destroy_subscription(self._commands)
        for publisher in (self._scan, self._odometry, self._goal_in_base, self._reward,
                          self._episode_end, self._goals, self._markers, self._devices):
            self._node.destroy_lifecycle_publisher(publisher)

    def _obey(self, message: Twist) -> None:
        if not self._node.is_active:
            return
        try:
            self._world.command(self.name, message.linear.x, message.angular.z)
        except ValueError as error:
            self.refused += 1
            self._node.get_logger().warning(f'ignored: {error}', throttle_duration_sec=5.0)

    def publish_outcome(self, outcome: Outcome) -> None:
        """Publish what a step brought."""
        self._reward.publish(Float32(data=outcome.reward))
        if outcome.terminal:
            self._episode_end.publish(Bool(data=True))

    def publish_sensors(self, interval: float, stamp: Time) -> None:
        """Publish what the robot senses, and its goal where it is a new one."""
        world, name = self._world, self.name
        self._ranges = world.scan(name)
        self._scan.publish(messages.scan_message(world.config, name, self._ranges, interval, stamp))
        self._odometry.publish(messages.odometry_message(world, name, stamp))
        self._goal_in_base.publish(messages.goal_in_base_message(world, name, stamp))
        if world.goal(name) != self._goal:
            self._goal = world.goal(name)
            self._goals.publish(messages.goal_message(world, name, stamp))

    def plug(self, kinds: list[str], stamp: Time) -> None:
        """Publish the virtual devices that are plugged in now, unless they are the same as before."""
        if self._revision and kinds == list(self._plugged):
            return
        self._plugged = {kind: self._plugged.get(kind, stamp) for kind in kinds}
        self._revision += 1
        self._devices.publish(DeviceArray(stamp=stamp, robot=self.name, revision=self._revision, devices=[
            messages.device_message(self.name, kind, since) for kind, since in self._plugged.items()]))

    def publish_markers(self, stamp: Time, shown: bool = True) -> None:
        """Publish the robot's markers, or their deletion."""
        markers = messages.robot_markers(self._world, self.name, self._ranges, stamp)
        self._markers.publish(markers if shown else messages.deletion(markers.markers))
