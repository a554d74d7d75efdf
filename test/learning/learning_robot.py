# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The robot around a learning node under test: its sensors, its buttons, and ears for all it publishes."""
from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PointStamped, Twist
from muster.ros import qos
from muster_interfaces.msg import Action, Episode, LearningStatus
from nav_msgs.msg import Odometry
from processes import Fleet, Process, wait_until
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Bool, Float32

SHIPPED = Path(__file__).parents[2] / 'config' / 'learning' / 'goal_seeking.yaml'
NODE = '/robot_1/learning'


class Robot:
    """The robot around the node: sensors fed by a timer, and everything that the node publishes."""

    def __init__(self, fleet: Fleet, module: str = 'muster.learning.node', period: float = 0.05,
                 **parameters: Any) -> None:
        """Start the node and feed its sensors every `period` seconds."""
        self.fleet, self.probe, self._module = fleet, fleet.probe, module
        self.home = fleet.folder / 'home' / 'robot_1'
        paths = (str(Path(__file__).parent), os.environ.get('PYTHONPATH', ''))
        fleet.environment |= {'MUSTER_HOME': str(self.home.parent), 'PYTHONPATH': ':'.join(paths)}
        self.feeding, self.fed, self.reward = True, 0, 0.5
        self.spoil: dict[str, Callable[[Any], Any]] = {}
        """What is done to the messages of a topic before they are sent; nothing is sent for None."""
        node = self.probe.node

        def publisher(kind: type, topic: str, profile: Any) -> Any:
            return node.create_publisher(kind, f'/robot_1/{topic}', profile)
        self._sensors = {'scan': publisher(LaserScan, 'scan', qos.SENSORS),
                         'odom': publisher(Odometry, 'odom', qos.SENSORS),
                         'goal_in_base': publisher(PointStamped, 'goal_in_base', qos.SENSORS)}
        self._reward = publisher(Float32, 'reward', qos.EVENTS)
        self.stop = publisher(Bool, 'emergency_stop', qos.COMMANDS)
        self.end = publisher(Bool, 'episode_end', qos.EVENTS)
        self._timer = node.create_timer(period, self._feed)
        self.commands = self.probe.listen(Twist, '/robot_1/cmd_vel', qos.COMMANDS)
        self.statuses = self.probe.listen(LearningStatus, '/robot_1/learning/status', qos.STATUS)
        self.episodes = self.probe.listen(Episode, '/robot_1/learning/episodes', qos.EVENTS)
        self.actions = self.probe.listen(Action, '/robot_1/learning/action', qos.SENSORS)
        self.diagnostics = self.probe.listen(DiagnosticArray, '/diagnostics', qos.EVENTS)
        self.process = self.start(**parameters)

    def start(self, **parameters: Any) -> Process:
        self.process = self.fleet.start_node(self._module, 'robot_1', {'seed': 1, **parameters},
                                             name='robot_1.learning')
        return self.process

    def now(self) -> Any:
        return self.probe.node.get_clock().now().to_msg()

    def _feed(self) -> None:
        self.fed += 1
        if not self.feeding:
            return
        goal = PointStamped()
        goal.point.x = 2.0
        for (topic, sensor), message in zip(
                self._sensors.items(), (LaserScan(ranges=[2.0] * 36), Odometry(), goal), strict=True):
            message.header.stamp = self.now()
            message = self.spoil.get(topic, lambda same: same)(message)
            if message is not None:
                sensor.publish(message)
        self._reward.publish(Float32(data=self.reward))

    def fresh(self, received: list[Any], condition: Callable[[Any], Any], what: str) -> Any:
        """Wait for a message that arrives from now on and meets the condition."""
        seen = len(received)
        return wait_until(lambda: next((m for m in received[seen:] if condition(m)), None), 30.0, what)

    def moving(self) -> None:
        """Wait until the robot moves, and has made some experience."""
        for _ in range(3):
            self.fresh(self.commands, moves, 'a command that moves the robot')

    def standing(self) -> None:
        """Wait until the node is safe, and check that it stays so for some cycles."""
        self.fresh(self.actions, lambda action: action.name == 'safe', 'the safe action')
        seen = len(self.commands)
        wait_until(lambda: len(self.commands) >= seen + 5, 10.0, 'five more commands')
        assert not any(map(moves, self.commands[seen:]))

    def concern(self, name: str, condition: Callable[[DiagnosticStatus], Any]) -> DiagnosticStatus:
        """Wait for a diagnostic of the node from now on."""
        seen = len(self.diagnostics)
        return wait_until(
            lambda: next((status for array in self.diagnostics[seen:] for status in array.status
                          if status.name == f'{NODE}: {name}' and condition(status)), None),
            30.0, f'diagnostic {name}')

    def set_parameter(self, name: str, value: Any) -> Any:
        """Set a parameter and return the result of it."""
        kind, field = {str: ('STRING', 'string'), float: ('DOUBLE', 'double'),
                       int: ('INTEGER', 'integer'), bool: ('BOOL', 'bool')}[type(value)]
        written = ParameterValue(**{'type': getattr(ParameterType, f'PARAMETER_{kind}'),
                                    f'{field}_value': value})
        return self.call(SetParameters, 'set_parameters',
                         parameters=[Parameter(name=name, value=written)]).results[0]

    def call(self, kind: type, service: str, **fields: Any) -> Any:
        return self.probe.call(kind, f'{NODE}/{service}', **fields)

    def status(self, condition: Callable[[LearningStatus], Any], what: str) -> LearningStatus:
        return self.fresh(self.statuses, condition, what)


def moves(command: Twist) -> bool:
    return command.linear.x != 0.0 or command.angular.z != 0.0
