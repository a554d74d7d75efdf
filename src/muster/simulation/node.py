# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The world node: a simulated world on real topics, for one or many robots."""
from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields
import math
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from muster.ros import qos
from muster.ros.main import run
from muster.ros.node import ConfigurationError, diagnostic, ManagedNode, NAME
from muster.ros.parameters import ParameterSpec
from muster.simulation import messages
from muster.simulation.devices import plugged
from muster.simulation.pacing import Pacer
from muster.simulation.robot import SimulatedRobot
from muster.simulation.world import World, WorldConfig
from rclpy.clock import Clock as RosClock, ClockType
from rclpy.timer import Timer
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

MAX_ROBOTS = 32
#: The robots' markers are published so often [s of real time].
MARKER_PERIOD = 0.2
#: A tick that takes longer [s] drops the rest of its steps.
MAX_TICK = 0.1
WHEN = 'Taken over when the node is configured.'


def robots_problem(names: list[str]) -> str:
    """Return what is wrong with the names of the robots, or an empty string."""
    wrong = next((name for name in names if not NAME.fullmatch(name)), None)
    if wrong is not None:
        return f"'{wrong}' is no robot name: letters, digits and underscores, beginning with a letter"
    if len(set(names)) != len(names) or not 1 <= len(names) <= MAX_ROBOTS:
        return f'give 1..{MAX_ROBOTS} names, each once'
    return ''


class WorldNode(ManagedNode):
    """Publishes what the robots of a world sense, and obeys their commands."""

    def __init__(self, **arguments: Any) -> None:
        """Declare the parameters; the world is made when the node is configured."""
        super().__init__('world', (
            ParameterSpec('robots', ['robot_1'], 'Names of the robots, which are their namespaces.',
                          check=robots_problem, read_only=True),
            ParameterSpec('virtual_devices', ['base', 'lidar'], "Virtual devices plugged in: '<kind>' on "
                          "every robot, '<robot>/<kind>' on one.", check=self._devices_problem),
            ParameterSpec('real_time_factor', 1.0, 'Seconds of simulated time in a second; 0 = paused.',
                          minimum=0.0, maximum=100.0),
            ParameterSpec('publish_clock', False, 'Publish simulated time on /clock and stamp with it; '
                          'the other nodes then need use_sim_time.', read_only=True),
            ParameterSpec('rate', 20.0, f'Steps in a second of simulated time, Hz. {WHEN}',
                          minimum=5.0, maximum=100.0),
            ParameterSpec('seed', 1, f'Number that fixes all randomness. {WHEN}',
                          minimum=0, maximum=2**31 - 1),
            *(ParameterSpec(s.name, s.default, f'{s.metadata["description"]} {WHEN}',
                            minimum=s.metadata['minimum'], maximum=s.metadata['maximum'])
              for s in fields(WorldConfig))), **arguments)
        self._steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self._configured, self._running = ExitStack(), ExitStack()
        self._pacer: Pacer | None = None
        self._ticks: Timer | None = None

    def _devices_problem(self, entries: list[str]) -> str:
        try:
            plugged([] if entries == [''] else entries, self.get_parameter('robots').value)
        except ValueError as error:
            return str(error)
        return ''

    # Lifecycle --------------------------------------------------------------------------------
    def configure(self) -> None:
        """Make the world and all topics."""
        self._interval = 1.0 / self.parameters['rate']
        try:
            config = WorldConfig(**{s.name: self.parameters[s.name] for s in fields(WorldConfig)})
            self._world = World(config, self.parameters['robots'], self.parameters['seed'])
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        if self._interval > config.max_step:
            raise ConfigurationError(
                f"parameter 'rate' must be at least {math.ceil(1 / config.max_step)} Hz for robots of "
                f'{config.robot_radius} m radius and {config.max_linear} m/s')
        self._robots: list[SimulatedRobot] = []
        for name in self._world.robots:
            self._robots.append(SimulatedRobot(self, self._world, name))
            self._configured.callback(self._robots[-1].release)
        self._markers = self._publisher(MarkerArray, '/world/markers', qos.STATUS)
        self._clock_topic = self._publisher(Clock, '/clock', 10) if self.parameters['publish_clock'] else None
        self._configured.callback(
            self.destroy_service, self.create_service(Trigger, '~/reset', self._reset))

    def _publisher(self, kind: type, topic: str, profile: Any) -> Any:
        publisher = self.create_lifecycle_publisher(kind, topic, profile)
        self._configured.callback(self.destroy_lifecycle_publisher, publisher)
        return publisher

    def activate(self) -> None:
        """Plug the devices in and let time run."""
        self._plug()
        self._markers.publish(messages.world_markers(self._world, self._stamp()))
        timer = self.create_timer(MARKER_PERIOD, self._show, clock=self._steady)
        self._running.callback(self.destroy_timer, timer)
        self._running.callback(self._stop_time)
        self._reported = (self._now(), self._world.time, 0, self._refused)
        self._pace()

    def deactivate(self) -> None:
        """Stop time, pull the devices out and clear the picture."""
        self._running.close()
        stamp = self._stamp()
        for robot in self._robots:
            robot.plug([], stamp)
            robot.publish_markers(stamp, shown=False)
        walls = messages.world_markers(self._world, stamp)
        self._markers.publish(messages.deletion(walls.markers))

    def release(self) -> None:
        """Destroy the timers and all topics."""
        self._running.close()
        self._configured.close()

    def parameters_changed(self, changed: dict[str, Any]) -> None:
        """Plug devices in and out, and change the pace of time."""
        if self.is_active and 'virtual_devices' in changed:
            self._plug()
        if self.is_active and 'real_time_factor' in changed:
            self._pace()

    # Time -------------------------------------------------------------------------------------
    def _now(self) -> float:
        """Return real time [s] that nobody can set."""
        return float(self._steady.now().nanoseconds) * 1e-9

    def _stamp(self) -> Time:
        """Return simulated time where it is published, else the time of all other nodes."""
        if self._clock_topic is None:
            return self.get_clock().now().to_msg()
        seconds, nanoseconds = divmod(round(self._world.time * 1e9), 10**9)
        return Time(sec=seconds, nanosec=nanoseconds)

    def _pace(self) -> None:
        """Make the timer that lets time run as fast as asked."""
        self._stop_time()
        speed = self.parameters['real_time_factor'] / self._interval
        if speed > 0.0:
            self._pacer = Pacer(speed, self._now())
            self._ticks = self.create_timer(self._pacer.period, self._tick, clock=self._steady)

    def _stop_time(self) -> None:
        if self._ticks is not None:
            self.destroy_timer(self._ticks)
        self._pacer = self._ticks = None

    def _tick(self) -> None:
        """Make the steps that are due, within a time that leaves the node answering."""
        if self._pacer is None:
            return
        now = self._now()
        due = self._pacer.due(now)
        for done in range(due):
            if self._now() - now > MAX_TICK:
                self._pacer.dropped += due - done
                break
            self._step()

    def _step(self) -> None:
        outcomes = self._world.step(self._interval)
        stamp = self._stamp()
        if self._clock_topic is not None:
            self._clock_topic.publish(Clock(clock=stamp))
        for robot in self._robots:
            robot.publish_outcome(outcomes[robot.name])
            robot.publish_sensors(self._interval, stamp)

    @property
    def _refused(self) -> int:
        return sum(robot.refused for robot in self._robots)

    # What else it does ------------------------------------------------------------------------
    def _plug(self) -> None:
        devices = plugged(self.parameters['virtual_devices'], self._world.robots)
        for robot in self._robots:
            robot.plug(devices[robot.name], self._stamp())

    def _show(self) -> None:
        for robot in self._robots:
            robot.publish_markers(self._stamp())

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self.is_active:
            response.message = 'the node is not active: activate it first'
            return response
        for robot in self._robots:
            self._world.reset(robot.name)
        response.success, response.message = True, f'{len(self._robots)} robots stand in new places'
        return response

    def concerns(self) -> list[DiagnosticStatus]:
        """Report how fast time runs and which commands were refused."""
        now, time, refused = self._now(), self._world.time, self._refused
        dropped = self._pacer.dropped if self._pacer else 0
        last_now, last_time, last_dropped, last_refused = self._reported
        self._reported = (now, time, dropped, refused)
        level, message = DiagnosticStatus.OK, 'running' if self._pacer else 'paused'
        if dropped > last_dropped:
            level = DiagnosticStatus.WARN
            message = "this machine is too slow: lower 'real_time_factor', 'rate' or the number of robots"
        elif refused > last_refused:
            level, message = DiagnosticStatus.WARN, 'commands that were no finite numbers were ignored'
        factor = (time - last_time) / (now - last_now)
        return [diagnostic(level, f'{self.get_fully_qualified_name()}: simulation', message, self.robot,
                           simulated_time=f'{time:.2f}', real_time_factor=f'{factor:.2f}',
                           dropped_steps=dropped, refused_commands=refused)]


def main(args: list[str] | None = None) -> None:
    """Run the world node until SIGINT or SIGTERM."""
    run(WorldNode, args=args)


if __name__ == '__main__':
    main()
