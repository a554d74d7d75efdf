# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The control cycle on a virtual clock: what it learns, and when it is safe."""
from collections.abc import Callable
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from muster.learning.agents.base import Choice, LearningMode
from muster.learning.agents.q_learning import QLearning
from muster.learning.cycle import ControlCycle, Decision, End
from muster.learning.discretiser import Discretiser
from muster.learning.specification import load_specification, Specification
from muster.learning.timing import Budget, Window
from muster.learning.training import make_agent
import numpy as np
import pytest

TEXT = """
rate: 10.0
observation:
  - {name: near, topic: scan, type: sensor_msgs/msg/LaserScan, field: 'ranges[0:4]', length: 8, clip: [0, 5],
     max_age: 0.5, bins: [1.0]}
  - {name: heading, topic: odom, type: nav_msgs/msg/Odometry, field: 'pose.pose.orientation:yaw',
     scale: 2.0, offset: 1.0, required: false, on_stale: hold, default: 7.0, bins: [0.0]}
action:
  topic: cmd_vel
  actions: {go: {linear.x: 1.0}, back: {linear.x: -1.0}}
  limits: {linear.x: [-1.0, 1.0]}
  rate_limits: {linear.x: 4.0}
reward: {topic: reward, type: std_msgs/msg/Float32}
episode: {topic: end, type: std_msgs/msg/Bool, time_limit: 1.0}
agent: {kind: q_learning, epsilon: 0.0, learning_rate: 0.5, discount: 0.0}
"""


def scan(*ranges: float, stamp: float = 0.0) -> Any:
    seconds = math.floor(stamp)
    return SimpleNamespace(ranges=list(ranges) or [2.0] * 8, header=SimpleNamespace(
        stamp=SimpleNamespace(sec=seconds, nanosec=round((stamp - seconds) * 1e9))))


class Loop:
    """A cycle, a clock that only the test moves, and a sensor that works until told otherwise."""

    def __init__(self, folder: Path, text: str = TEXT, mode: LearningMode = LearningMode.MIXED) -> None:
        """Begin at time 100."""
        (folder / 'loop.yaml').write_text(text)
        self.specification: Specification = load_specification(folder / 'loop.yaml')
        self.agent = make_agent(self.specification, 1)
        self.cycle = ControlCycle(self.specification, self.agent, mode)
        self.now = 100.0

    def run(self, cycles: int = 1, sensor: Callable[[], Any] | None = scan, reward: float | None = 0.0,
            seconds: float = 0.1, clock: float = 0.0) -> Decision:
        """Run cycles, before each of which one scan and one reward arrive; return the last decision."""
        for _ in range(cycles):
            self.now += seconds
            if sensor is not None:
                self.cycle.receive('scan', sensor(), self.now)
            if reward is not None:
                self.cycle.receive('reward', SimpleNamespace(data=reward), self.now)
            decision = self.cycle.step(self.now, clock or self.now)
            self.cycle.learn()
        return decision


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(tmp_path)


def speed(decision: Decision) -> float:
    return float(decision.values[0])


def test_it_acts_and_learns_the_reward_that_followed(loop: Loop) -> None:
    first = loop.run()
    assert first.safe_reason == '' and first.name in ('go', 'back') and first.index in (0, 1)
    assert loop.agent.statistics.updates == 0
    loop.cycle.receive('reward', SimpleNamespace(data=2.0), loop.now)
    loop.run(reward=1.0)
    assert loop.agent.statistics.updates == 1
    assert loop.agent.table[(1, 1, 1, 1, 1)][first.index] == 1.5  # half of the sum of both samples


def test_observations_are_clipped_scaled_and_default(loop: Loop) -> None:
    loop.run(sensor=lambda: scan(0.5, math.inf, -math.inf, 9.0, *[math.nan] * 4))
    assert loop.cycle.sample.values.tolist() == [0.5, 5.0, 0.0, 5.0, 7.0]
    assert loop.cycle.sample.oldest == -1.0  # no odometry yet
    half = SimpleNamespace(x=0.0, y=0.0, z=math.sin(0.25), w=math.cos(0.25))
    loop.cycle.receive('odom', SimpleNamespace(
        pose=SimpleNamespace(pose=SimpleNamespace(orientation=half))), loop.now)
    loop.run()
    assert loop.cycle.sample.values[4] == pytest.approx(2.0)
    decision = loop.run(20)
    assert decision.safe_reason == ''  # an optional term holds its last value, however old
    assert loop.cycle.sample.values[4] == pytest.approx(2.0)


def broken(*values: float) -> Callable[[], Any]:
    return lambda: scan(*values)


@pytest.mark.parametrize(('sensor', 'reason'), [
    (broken(math.nan, *[2.0] * 7), 'not finite'), (broken(2.0, 2.0), 'is of 2 values instead of 8'),
    (broken(*[2.0] * 7), 'is of 7 values instead of 8'), (broken(*[2.0] * 9), 'is of 9 values instead of 8')])
def test_a_broken_sensor_gives_the_safe_action_within_one_cycle(loop: Loop, sensor: Callable[[], Any],
                                                                reason: str) -> None:
    loop.run(4)
    updates = loop.agent.statistics.updates
    decision = loop.run(sensor=sensor)
    assert reason in decision.safe_reason and "'near'" in decision.safe_reason
    assert not decision.values.any() and decision.index == -1 and decision.name == 'safe'
    assert decision.ended is not None and decision.ended.end is End.TRUNCATED and decision.ended.steps == 3
    assert loop.agent.statistics.updates == updates  # the transition was dropped
    assert loop.run().safe_reason == ''
    assert loop.agent.statistics.updates == updates
    loop.run()
    assert loop.agent.statistics.updates == updates + 1


def test_a_missing_sensor_is_safe_from_the_first_cycle(loop: Loop) -> None:
    decision = loop.run(sensor=None)
    assert decision.safe_reason == "observation term 'near': no message on 'scan' yet"
    assert decision.ended is None and not decision.values.any()


def test_a_stale_sensor_gives_the_safe_action_when_it_is_older_than_allowed(loop: Loop) -> None:
    loop.run(3)
    assert loop.run(5, sensor=None).safe_reason == ''  # 0.5 s old: just allowed
    decision = loop.run(sensor=None)
    assert "the last message on 'scan' is 0.60 s old, allowed 0.5 s" in decision.safe_reason
    assert not decision.values.any()


def test_an_old_or_future_stamp_is_stale_though_it_arrived_now(loop: Loop) -> None:
    loop.run(2, sensor=lambda: scan(stamp=loop.now))
    assert '0.70 s old' in loop.run(sensor=lambda: scan(stamp=loop.now - 0.7)).safe_reason
    assert '0.90 s in the future' in loop.run(sensor=lambda: scan(stamp=loop.now + 0.9)).safe_reason
    assert 'use_sim_time' in loop.run(sensor=lambda: scan(stamp=loop.now + 1e9)).safe_reason
    assert loop.run(sensor=lambda: scan(stamp=loop.now)).safe_reason == ''


def test_a_clock_that_steps_back_is_safe_until_sensors_arrive_anew(loop: Loop) -> None:
    loop.run(3)
    assert 'stepped back by' in loop.run(clock=50.0).safe_reason
    assert 'no message' in loop.run(sensor=None, clock=50.1).safe_reason
    assert loop.run(clock=50.2).safe_reason == ''


def test_a_late_cycle_is_safe_once(loop: Loop) -> None:
    loop.run(3)
    decision = loop.run(seconds=0.4)
    assert 'the cycle came 0.400 s after the last one' in decision.safe_reason
    assert decision.ended is not None and decision.ended.end is End.TRUNCATED
    assert loop.run().safe_reason == ''
    loop.now += 50.0
    loop.cycle.begin()
    assert loop.run().safe_reason == ''


def test_a_hold_stops_at_once_and_its_reason_is_told(loop: Loop) -> None:
    loop.run(3)
    loop.cycle.holds['emergency stop'] = 'emergency stop'
    decision = loop.run()
    assert decision.safe_reason == 'emergency stop' and not decision.values.any()
    updates = loop.agent.statistics.updates
    loop.run(5)
    assert loop.agent.statistics.updates == updates
    loop.cycle.holds.clear()
    assert loop.run().safe_reason == ''


def test_commands_are_rate_limited_but_the_safe_action_is_not(loop: Loop) -> None:
    loop.agent.table[(1, 1, 1, 1, 1)] = [1.0, 0.0]
    reached = [speed(loop.run()) for _ in range(4)]
    assert reached == pytest.approx([0.4, 0.8, 1.0, 1.0])
    loop.agent.table[(1, 1, 1, 1, 1)] = [0.0, 1.0]
    assert speed(loop.run()) == pytest.approx(0.6)
    assert speed(loop.cycle.make_safe('test')) == 0.0
    assert speed(loop.run()) == pytest.approx(-0.4)  # counts from the safe action


def test_commands_are_written_into_the_message(loop: Loop) -> None:
    def vector() -> Any:
        return SimpleNamespace(x=9.0, y=9.0, z=9.0)
    twist = SimpleNamespace(linear=vector(), angular=vector())
    loop.cycle.write(loop.cycle.make_safe('test'), twist)
    assert [*vars(twist.linear).values(), *vars(twist.angular).values()] == [0.0] * 6


def test_episodes_end_by_topic_and_by_time(loop: Loop) -> None:
    loop.run(3, reward=1.0)
    loop.cycle.receive('end', SimpleNamespace(data=False), loop.now)
    assert loop.run(reward=1.0).ended is None
    loop.cycle.receive('end', SimpleNamespace(data=True), loop.now)
    ended = loop.run(reward=5.0).ended
    assert ended is not None and (ended.number, ended.steps, ended.total) == (1, 4, 8.0)
    assert ended.end is End.TERMINAL
    ended = loop.run(10, reward=1.0).ended  # the time limit of 1 s is 10 cycles
    assert ended is not None and ended.end is End.TIME_LIMIT and ended.steps == 10
    assert loop.agent.statistics.episodes == 2 and list(loop.cycle.returns) == [8.0, 10.0]


def test_a_time_limit_is_not_terminal(tmp_path: Path) -> None:
    loop = Loop(tmp_path, TEXT.replace('discount: 0.0', 'discount: 1.0, initial_value: 8.0'))
    loop.cycle.change_mode(LearningMode.MIXED)
    index = loop.run().index
    loop.cycle.receive('end', SimpleNamespace(data=True), loop.now)
    loop.run()
    assert loop.agent.table[(1, 1, 1, 1, 1)][index] == 4.0  # half-way to 0: nothing follows a terminal
    values = [max(loop.agent.table[(1, 1, 1, 1, 1)]) for _ in range(12) if loop.run()]
    assert min(values) == 8.0  # a time limit goes on from the value of the next state


def test_exploitation_learns_nothing(tmp_path: Path) -> None:
    loop = Loop(tmp_path, mode=LearningMode.EXPLOITATION)
    before = loop.agent.export()[0]
    loop.run(8, reward=1.0)
    assert loop.agent.export()[0] == before
    ended = loop.cycle.change_mode(LearningMode.EXPLORATION)
    assert ended is not None and ended.end is End.TRUNCATED and ended.mode is LearningMode.EXPLOITATION
    loop.run(3, reward=1.0)
    assert loop.agent.statistics.updates == 2


@pytest.mark.parametrize('reward', [None, math.nan, math.inf])
def test_without_a_sound_reward_it_acts_but_does_not_learn(loop: Loop, reward: float | None) -> None:
    loop.run(3)
    updates = loop.agent.statistics.updates
    for _ in range(12):
        assert loop.run(reward=reward).safe_reason == ''
    assert 'reward' in loop.cycle.learning_problem
    learned = loop.agent.statistics.updates
    assert learned <= updates + 10  # a reward topic may be silent for a second
    assert all(np.isfinite(row).all() for row in loop.agent.table.values())


class Faulty(QLearning):
    """An agent that fails where the test says."""

    def __init__(self, loop: 'Loop') -> None:
        """Take the place of the loop's agent."""
        super().__init__(loop.agent.actions, seed=1, encode=Discretiser([[1.0]] * 4 + [[0.0]]))
        self.failing, self.interrupts, self.units = '', 0, 0
        loop.agent = loop.cycle.agent = self

    def _fail(self, where: str) -> None:
        if self.failing == where:
            raise ArithmeticError(f'in {where}')

    def encode(self, observation: Any) -> Any:
        self._fail('encode')
        return super().encode(observation)

    def act(self, state: Any, mode: LearningMode) -> Choice:
        self._fail('act')
        choice = super().act(state, mode)
        return Choice(9 if self.failing == 'choice' else choice.action, choice.exploratory)

    def observe(self, transition: Any) -> None:
        self._fail('observe')
        super().observe(transition)

    def learn(self) -> float | None:
        self._fail('learn')
        if not self.units:
            return super().learn()
        self.units -= 1
        return 0.0

    def interrupt(self) -> None:
        self.interrupts += 1
        self._fail('interrupt')


@pytest.mark.parametrize('where', ['encode', 'observe', 'act', 'choice'])
def test_an_agent_that_fails_gives_the_safe_action_within_the_cycle(loop: Loop, where: str) -> None:
    agent = Faulty(loop)
    assert speed(loop.run(3)) != 0.0
    agent.failing = where
    decision = loop.run()
    assert decision.name == 'safe' and speed(decision) == 0.0
    assert 'the agent failed' in decision.safe_reason and (where in decision.safe_reason or where == 'choice')
    assert decision.ended is not None and decision.ended.end is End.TRUNCATED and agent.interrupts == 1
    steps = agent.statistics.steps
    loop.run(3)  # of which one acts again, where it is what follows that fails
    assert agent.statistics.steps == steps and agent.interrupts == (2 if where == 'observe' else 1)
    agent.failing = ''
    assert loop.run().safe_reason == ''


@pytest.mark.parametrize('where', ['learn', 'interrupt'])
def test_a_failure_outside_of_acting_makes_the_next_cycle_safe(loop: Loop, where: str) -> None:
    agent = Faulty(loop)
    loop.run(3)
    agent.failing = where
    loop.run(sensor=None if where == 'learn' else broken(math.nan, *[2.0] * 7))
    decision = loop.run()
    assert f'ArithmeticError: in {where}' in decision.safe_reason and speed(decision) == 0.0
    agent.failing = ''
    loop.run()
    assert loop.run().safe_reason == ''


@pytest.mark.parametrize('fault', ['sensor', 'hold', 'late', 'clock', 'mode', 'reward'])
def test_every_gap_interrupts_the_agent_once_and_drops_the_transition(loop: Loop, fault: str) -> None:
    agent = Faulty(loop)
    loop.run(3)
    steps = agent.statistics.steps
    if fault == 'sensor':
        loop.run(3, sensor=broken(2.0))
    elif fault == 'hold':
        loop.cycle.holds['pause'] = 'paused'
        loop.run(3)
        loop.cycle.holds.clear()
    elif fault == 'late':
        loop.run(seconds=0.5)
    elif fault == 'clock':
        loop.run(clock=50.0)
    elif fault == 'mode':
        loop.cycle.change_mode(LearningMode.EXPLORATION)
    else:
        loop.run(reward=math.nan)
    assert agent.interrupts == 1 and agent.statistics.steps == steps


class Timer:
    """A clock that goes on by a step at every look."""

    def __init__(self, loop: Loop, step: float) -> None:
        """Start at the present of the loop."""
        self.loop, self.step, self.looked = loop, step, 0

    def __call__(self) -> float:
        self.looked += 1
        return self.loop.now + self.step * self.looked


@pytest.mark.parametrize(('each', 'units'), [(0.0, 100), (0.004, 11), (0.04, 0)])
def test_learning_ends_with_its_budget_and_before_a_unit_that_would_not_fit(
        loop: Loop, each: float, units: int) -> None:
    agent = Faulty(loop)
    loop.run(3)
    loop.cycle._timer = timer = Timer(loop, each)
    for _ in range(2):  # the budget is 50 ms: half of a period
        agent.units, timer.looked = 100, 0
        loop.cycle.step(loop.now, loop.now)
        done = loop.cycle.learn()
    assert done == min(units, 100)


def test_a_slow_unit_does_not_end_learning_for_good(loop: Loop) -> None:
    budget = Budget()
    budget.took(1.0)
    waits = next(number for number in range(1000) if budget.fits(0.05))
    assert 50 < waits < 200


def test_cycles_are_measured(tmp_path: Path) -> None:
    loop = Loop(tmp_path, TEXT.replace(', required: false, on_stale: hold, default: 7.0', ''))
    loop.cycle = ControlCycle(loop.specification, loop.agent, timer=lambda: loop.now + 0.002)
    loop.run()
    assert loop.cycle.statistics.safe == 1 and len(loop.cycle.statistics.latency) == 0
    upright = SimpleNamespace(pose=SimpleNamespace(pose=SimpleNamespace(orientation=SimpleNamespace(
        x=0.0, y=0.0, z=0.0, w=1.0))))
    loop.cycle.receive('odom', upright, loop.now + 0.05)
    loop.run(seconds=0.1)
    loop.run(seconds=0.25)
    measured = loop.cycle.statistics
    assert measured.time.mean == pytest.approx(0.002) and measured.late == 1 and measured.safe == 1
    assert measured.jitter.maximum == pytest.approx(0.15)
    assert measured.staleness.maximum == pytest.approx(0.3)
    assert measured.latency.percentile(0) == pytest.approx(0.052)
    loop.cycle.begin()
    assert loop.cycle.statistics.late == 0 == loop.cycle.statistics.time.mean


def test_a_window_keeps_the_newest() -> None:
    window = Window(4)
    assert (window.mean, window.maximum, window.percentile(99), len(window)) == (0.0, 0.0, 0.0, 0)
    for value in range(10):
        window.add(value)
    assert (len(window), window.mean, window.maximum, window.percentile(0)) == (4, 7.5, 9.0, 6.0)


COMPUTED = TEXT.replace('{topic: reward, type: std_msgs/msg/Float32}',
                        "{expression: 'previous(near[0]) - near[0] + (10 if near[1] < 1 else 0)'}").replace(
    '{topic: end, type: std_msgs/msg/Bool, time_limit: 1.0}', "{expression: 'near[1] < 1'}")


def test_reward_and_end_are_computed_from_the_observation(tmp_path: Path) -> None:
    loop = Loop(tmp_path, COMPUTED)
    loop.run(sensor=lambda: scan(3.0, *[2.0] * 7))
    loop.run(sensor=lambda: scan(2.5, *[2.0] * 7))
    assert loop.cycle._total == 0.5
    ended = loop.run(sensor=lambda: scan(2.0, 0.5, *[2.0] * 6)).ended
    assert ended is not None and ended.end is End.TERMINAL and ended.total == 11.0
    loop.run(sensor=broken(math.nan, 0.5, *[2.0] * 6))
    assert loop.run(sensor=lambda: scan(9.0, *[2.0] * 7)).ended is None


def test_a_reward_that_has_no_value_is_not_learned(tmp_path: Path) -> None:
    loop = Loop(tmp_path, COMPUTED.replace('near[0] + (', '1 / (near[2] - 2) + ('))
    loop.run(4)
    assert loop.cycle.learning_problem == 'the reward expression has no finite value'
    assert loop.agent.statistics.steps == 0
