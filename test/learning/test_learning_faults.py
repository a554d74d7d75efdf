# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The table of faults over real topics: what breaks, the command that came out, and that it goes on."""
from __future__ import annotations

from collections.abc import Callable
import math
import os
import signal
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from learning_robot import moves, Robot
from muster_interfaces.msg import Episode
from processes import Fleet, wait_until
import pytest
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

pytestmark = pytest.mark.processes
#: Commands that may still move after a fault: one under way, one of a cycle that had just sampled.
UNDER_WAY = 2
#: Cycles in the maximum age of a term.
AGE = 5


def changed(**fields: Any) -> Callable[[Any], Any]:
    """Return a function that sets fields of a message, given by path with two underscores."""
    def change(message: Any) -> Any:
        for path, value in fields.items():
            *parents, last = path.split('__')
            target = message
            for parent in parents:
                target = getattr(target, parent)
            setattr(target, last, value)
        return message
    return change


def silent(message: Any) -> None:
    """Send nothing."""


#: What breaks, on which topic, how, what the reason says, and commands that may still move.
SENSOR_FAULTS = {
    'silent': ('scan', silent, "the last message on 'scan' is", AGE),
    'not a number': ('odom', changed(twist__twist__linear__x=math.nan), "term 'speed'", 0),
    'infinite': ('odom', changed(twist__twist__linear__x=-math.inf), "term 'speed'", 0),
    'short': ('scan', changed(ranges=[2.0] * 35), 'of 35 values instead of 36', 0),
    'empty': ('scan', changed(ranges=[]), "term 'ahead'", 0),
    'stamped long ago': ('scan', changed(header__stamp=Time(sec=1)), "the last message on 'scan' is", 0),
    'stamped in the future': ('scan', changed(header__stamp=Time(sec=2**31 - 1)), 'in the future', 0),
}


def test_what_is_wrong_with_a_sensor_gives_the_safe_action(fleet: Fleet) -> None:
    robot = Robot(fleet)
    robot.moving()
    for fault, (topic, spoil, reason, patience) in SENSOR_FAULTS.items():
        commands, episodes, said = len(robot.commands), len(robot.episodes), len(robot.process.text)
        robot.spoil = {topic: spoil}
        robot.standing()
        assert sum(map(moves, robot.commands[commands:])) <= UNDER_WAY + patience, fault
        # A command may be here before the line that was logged with it.
        wait_until(lambda: reason in robot.process.text[said:], 5.0, f'{fault}: the reason')  # noqa: B023
        wait_until(lambda: robot.episodes[episodes:], 5.0, f'{fault}: the episode')  # noqa: B023
        assert {episode.end for episode in robot.episodes[episodes:]} == {Episode.TRUNCATED}, fault
        robot.spoil = {}
        robot.moving()


def test_a_sensor_that_never_came_and_a_button_give_the_safe_action(fleet: Fleet) -> None:
    robot = Robot(fleet)
    robot.spoil = {'odom': silent}
    robot.standing()
    status = robot.status(lambda s: 'odom' in s.safe_reason, 'the reason')
    assert "no message on 'odom' yet" in status.safe_reason and status.oldest_observation_s == -1.0
    robot.spoil = {}
    robot.moving()
    robot.stop.publish(Bool(data=True))
    robot.standing()
    concern = robot.concern('control', lambda s: s.level == DiagnosticStatus.ERROR)
    assert 'emergency stop' in concern.message
    robot.call(SetBool, 'pause', data=True)
    robot.stop.publish(Bool(data=False))
    assert robot.call(Trigger, 'rearm').success
    robot.standing()  # it is paused still
    robot.call(SetBool, 'pause', data=False)
    robot.moving()
    concern = robot.concern('timing', lambda s: s.level == DiagnosticStatus.OK)
    measured = {value.key: float(value.value) for value in concern.values}
    assert 0.0 < measured['cycle_ms'] < 100.0 and 0.0 <= measured['jitter_ms'] <= measured['worst_jitter_ms']


def test_a_late_cycle_gives_the_safe_action(fleet: Fleet) -> None:
    robot = Robot(fleet)
    robot.moving()
    robot.process.send(signal.SIGSTOP)
    wait_until(lambda: state(robot.process.pid) == 'T', 5.0, 'stopped')
    fed = robot.fed
    wait_until(lambda: robot.fed >= fed + 20, 10.0, 'a second of sensor messages')
    seen = len(robot.actions)   # what was under way has come
    robot.process.send(signal.SIGCONT)
    wait_until(lambda: robot.actions[seen:], 10.0, 'the first action after it')
    late = next(a for a in robot.actions[seen:] if a.stamp.sec + a.stamp.nanosec * 1e-9 > 0)
    assert late.name == 'safe'
    wait_until(lambda: 'safe action: the cycle came' in robot.process.text, 5.0, 'the reason')
    robot.moving()
    assert robot.status(lambda s: s.late_cycles, 'a late cycle').worst_jitter_ms > 300.0


def state(pid: int) -> str:
    """Return the state of a process: R, S, T …."""
    with open(f'/proc/{pid}/stat') as file:
        return file.read().rpartition(')')[2].split()[0]


@pytest.mark.parametrize('method', ['act', 'observe', 'learn', 'interrupt'])
def test_an_agent_that_raises_gives_the_safe_action_and_the_node_lives(fleet: Fleet, method: str) -> None:
    robot = Robot(fleet, 'failing_agent')
    robot.moving()
    switch = robot.home.parent / 'fail'
    commands = len(robot.commands)
    switch.parent.mkdir()
    (switch.parent / 'written').write_text(method)
    os.rename(switch.parent / 'written', switch)
    if method == 'interrupt':
        robot.spoil = {'scan': silent}
    robot.fresh(robot.actions, lambda action: action.name == 'safe', 'the safe action')
    if method != 'interrupt':
        assert sum(map(moves, robot.commands[commands:])) <= UNDER_WAY + 1
        concern = robot.concern('control', lambda s: s.level == DiagnosticStatus.ERROR)
        assert f'RuntimeError: {method} failed on purpose' in concern.message
        seen = len(robot.commands)
        wait_until(lambda: len(robot.commands) >= seen + 20, 10.0, 'two seconds of commands')
        assert sum(map(moves, robot.commands[seen:seen + 20])) <= 3  # it is tried once a second
    switch.unlink()
    robot.spoil = {}
    robot.moving()
    robot.status(lambda s: not s.safe, 'acting')
    assert robot.process.alive


def test_a_clock_that_steps_back_or_stands_gives_the_safe_action(fleet: Fleet) -> None:
    clock = fleet.probe.node.create_publisher(Clock, '/clock', 10)
    time = [1000.0]

    def tick() -> None:
        time[0] += 0.05
        clock.publish(Clock(clock=stamp()))

    def stamp() -> Time:
        return Time(sec=int(time[0]), nanosec=int(time[0] % 1.0 * 1e9))
    timer = fleet.probe.node.create_timer(0.05, tick)
    robot = Robot(fleet, use_sim_time=True)
    robot.now = stamp  # type: ignore[method-assign]
    robot.moving()
    time[0] -= 100.0
    seen = len(robot.actions)
    robot.fresh(robot.actions, lambda action: action.name == 'safe', 'the safe action')
    wait_until(lambda: 'safe action: the clock stepped back' in robot.process.text, 10.0, 'the reason')
    robot.moving()  # the sensors arrived anew
    assert any(moves(command) for command in robot.commands[seen:])
    timer.cancel()
    robot.standing()
    assert 'does /clock go on?' in robot.status(lambda s: s.safe, 'the reason').safe_reason
    timer.reset()
    robot.moving()
