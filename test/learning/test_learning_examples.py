# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The shipped specifications, with the real message classes: each senses, acts, learns and is safe."""
from collections.abc import Iterator
import math
from pathlib import Path
from typing import Any

from geometry_msgs.msg import PointStamped, TwistStamped
from muster.learning.cycle import ControlCycle
from muster.learning.specification import check_messages, load_specification
from muster.learning.training import make_agent
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from sensor_msgs.msg import JointState, LaserScan
from std_msgs.msg import UInt16MultiArray
from trajectory_msgs.msg import JointTrajectory

FOLDER = Path(__file__).parents[2] / 'config' / 'learning'
Messages = dict[str, Any]


class Room:
    """A base in a corridor: a lidar of 360 beams with holes in it, and an odometer."""

    def sense(self, command: Any, number: int) -> Messages:
        ranges = np.full(360, 1.0 + 0.01 * (number % 50), np.float32)
        ranges[::7], ranges[3] = math.inf, math.nan
        odometry = Odometry()
        if command is not None:
            odometry.twist.twist = command.twist
        return {'scan': LaserScan(ranges=ranges.tolist()), 'odom': odometry}


class Arm:
    """An arm that goes where it is told, and tells its joints in another order every time."""

    def __init__(self) -> None:
        self.joints = {'wrist': 0.5, 'shoulder': -0.25, 'elbow': 1.0, 'gripper': 0.0}

    def sense(self, command: Any, number: int) -> Messages:
        if command is not None:
            moved = zip(command.joint_names, command.points[0].positions, strict=True)
            for name, position in moved:
                assert abs(position - self.joints[name]) <= 0.05 + 1e-6  # 1 rad/s at 20 Hz
                self.joints[name] = position
        names = [*self.joints][number % 4:] + [*self.joints][:number % 4]
        target = PointStamped()
        target.point.x, target.point.y = 0.3, self.joints['elbow'] / 10
        return {'target_in_hand': target, 'joint_states': JointState(
            name=names, position=[self.joints[name] for name in names], velocity=[0.0] * 4)}


class Line:
    """Three reflectance sensors above a line that wanders."""

    def sense(self, command: Any, number: int) -> Messages:
        line = UInt16MultiArray(data=[900, 900, 900])
        line.data[number // 10 % 3] = 120
        return {'line': line}


def drive(world: Any, cycle: ControlCycle[Any], message: Any, cycles: int) -> Iterator[Any]:
    """Run cycles and yield each decision; commands reach the world through the real message."""
    command = None
    for number in range(cycles):
        now = number / cycle.specification.rate
        for topic, sensed in world.sense(command, number).items():
            cycle.receive(topic, sensed, now)
        decision = cycle.step(now, now)
        command = cycle.write(decision, message)
        cycle.learn()
        yield decision


@pytest.mark.parametrize(('file', 'world', 'message', 'elements'), [
    ('turtlebot.yaml', Room, TwistStamped, 27), ('arm.yaml', Arm, JointTrajectory, 10),
    ('line_follower.yaml', Line, None, 3)])
def test_it_runs_on_real_messages_and_is_safe_without_them(file: str, world: type, message: Any,
                                                           elements: int) -> None:
    specification = load_specification(FOLDER / file)
    kind = check_messages(specification)[specification.action.type]
    assert message in (kind, None) and specification.elements == elements
    agent = make_agent(specification, 1)
    cycle: ControlCycle[Any] = ControlCycle(specification, agent)
    decisions = list(drive(world(), cycle, kind(), 100))
    assert {decision.safe_reason for decision in decisions} == {''}
    assert len({decision.values.tobytes() for decision in decisions}) > 2  # it does try things
    assert agent.statistics.steps == 99 and cycle.learning_problem == ''
    assert all(np.isfinite(decision.values).all() for decision in decisions)
    period, last = 1.0 / specification.rate, decisions[-1]
    for number in range(100, 120):  # nothing arrives any more
        decision = cycle.step(number * period, number * period)
        if decision.safe_reason:
            break
        last = decision
    assert 's old, allowed' in decision.safe_reason
    held = last.values if specification.action.safe is None else np.zeros(len(last.values))
    assert decision.values.tolist() == held.tolist()


def test_every_shipped_specification_fits_its_messages() -> None:
    files = sorted(FOLDER.glob('*.yaml'))
    assert {file.stem for file in files} >= {'goal_seeking', 'turtlebot', 'arm', 'line_follower'}
    for file in files:
        check_messages(load_specification(file))
