# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
One robot of a world as an environment to train in, without ROS and faster than real time.

It sends what the world node sends, topic by topic, as plain objects with the fields of the ROS
messages that matter to a learner.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
import math
from typing import Any

from muster.simulation.world import World, WorldConfig
import numpy as np
import numpy.typing as npt

#: Steps of the world in a second, as the world node makes by default.
STEP_RATE = 20.0


@dataclass
class Vector:
    """The fields of geometry_msgs/Point and Vector3."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0


@dataclass
class Quaternion(Vector):
    """The fields of geometry_msgs/Quaternion."""

    w: float = 1.0


@dataclass
class Twist:
    """The fields of geometry_msgs/Twist."""

    linear: Vector = field(default_factory=Vector)
    angular: Vector = field(default_factory=Vector)


@dataclass
class Pose:
    """The fields of geometry_msgs/Pose."""

    position: Vector
    orientation: Quaternion


@dataclass
class PoseWithCovariance:
    """The pose of nav_msgs/Odometry."""

    pose: Pose


@dataclass
class TwistWithCovariance:
    """The velocity of nav_msgs/Odometry."""

    twist: Twist


@dataclass
class Odometry:
    """The fields of nav_msgs/Odometry."""

    pose: PoseWithCovariance
    twist: TwistWithCovariance


@dataclass
class Scan:
    """The field of sensor_msgs/LaserScan that holds the distances [m]."""

    ranges: npt.NDArray[np.float32]


@dataclass
class PointStamped:
    """The field of geometry_msgs/PointStamped that holds the point [m]."""

    point: Vector


@dataclass
class Value:
    """The field of the std_msgs types."""

    data: float | bool


def worlds(robot: str, first_seed: int, config: WorldConfig | None = None) -> Iterator[World]:
    """Yield worlds for one robot without end, of the seeds from `first_seed` on."""
    return (World(config or WorldConfig(), [robot], seed) for seed in count(first_seed))


class WorldEnvironment:
    """What one robot of a world senses and obeys."""

    def __init__(self, world: World, robot: str, others: Iterator[World] | None = None) -> None:
        """
        Drive `robot` of `world`; its other robots stand where they are.

        Every episode after the first takes place in the next of `others`, if given: among obstacles
        that change, a robot learns to look at them instead of learning where they are.
        """
        self.world, self.robot, self._others = world, robot, others
        self.goals = 0
        """Goals reached so far."""
        self.collisions = 0
        """Collisions so far."""
        self._begun = False

    def command(self) -> Twist:
        """Return an empty command message."""
        return Twist()

    def reset(self) -> list[tuple[str, Any]]:
        """Put the robot to a new place with a new goal and return what it senses there."""
        if self._others is None:
            self.world.reset(self.robot)
        elif self._begun:
            self.world = next(self._others)
        self._begun = True
        return self._sensed()

    def step(self, command: Any, seconds: float) -> list[tuple[str, Any]]:
        """Obey `command` for `seconds` and return the messages sent meanwhile, in order."""
        self.world.command(self.robot, command.linear.x, command.angular.z)
        messages: list[tuple[str, Any]] = []
        steps = max(1, math.ceil(seconds * STEP_RATE - 1e-9))
        for _ in range(steps):
            outcome = self.world.step(seconds / steps)[self.robot]
            self.goals += outcome.event == 'goal'
            self.collisions += outcome.event == 'collision'
            messages.append(('reward', Value(outcome.reward)))
            if outcome.terminal:
                messages.append(('episode_end', Value(True)))
                if self._others is not None:
                    self.world = next(self._others)
                    break
        return messages + self._sensed()

    def _sensed(self) -> list[tuple[str, Any]]:
        world, robot = self.world, self.robot
        x, y, heading = world.pose(robot)
        linear, angular = world.velocity(robot)
        pose = Pose(Vector(x, y), Quaternion(z=math.sin(heading / 2), w=math.cos(heading / 2)))
        twist = Twist(Vector(x=linear), Vector(z=angular))
        return [('scan', Scan(world.scan(robot))),
                ('odom', Odometry(PoseWithCovariance(pose), TwistWithCovariance(twist))),
                ('goal_in_base', PointStamped(Vector(*world.goal_in_base(robot))))]
