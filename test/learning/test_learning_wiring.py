# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Terms and actions with real messages: joints by name, ranges, arrays, trajectories."""
import math
from pathlib import Path

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseArray, TwistStamped
from muster.learning.action import Commander, CommandError
from muster.learning.fields import FieldError, parse_path
from muster.learning.observation import Observer, Sample
from muster.learning.specification import check_messages, load_specification, Specification
import numpy as np
import pytest
from sensor_msgs.msg import JointState, LaserScan, NavSatFix
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

ACTION = 'action: {topic: cmd, actions: {go: {linear.x: 1.0}}}'
AGENT = 'agent: {kind: q_learning}\nreward: {topic: reward, type: std_msgs/msg/Float32}\nrate: 10.0\n'
JOINT = 'topic: joints, type: sensor_msgs/msg/JointState, bins: [0.0]'
SCAN = 'topic: scan, type: sensor_msgs/msg/LaserScan, bins: [0.0]'


def load(folder: Path, *terms: str, action: str = ACTION) -> Specification:
    """Load a specification of these terms; each is what stands behind its name."""
    rows = ''.join(f'  - {{name: t{number}, {term}}}\n' for number, term in enumerate(terms))
    (folder / 'wiring.yaml').write_text(f'{AGENT}observation:\n{rows}{action}\n')
    specification = load_specification(folder / 'wiring.yaml')
    check_messages(specification)
    return specification


def sample(specification: Specification, message: object, topic: str = 'joints',
           clock: float = 0.0) -> Sample:
    observer = Observer(specification.observation)
    observer.receive(topic, message, 0.0)
    return observer.sample(0.0, clock)


def joints(*names: str, position: list[float] | None = None) -> JointState:
    known = {'shoulder': 1.0, 'elbow': 2.0, 'wrist': 3.0}
    values = [known[name] for name in names] if position is None else position
    return JointState(name=list(names), position=values, velocity=[-value for value in values])


def test_joints_are_found_by_name_in_whatever_order_they_come(tmp_path: Path) -> None:
    specification = load(tmp_path, f"{JOINT}, field: 'position[elbow]'",
                         f"{JOINT}, field: 'velocity[wrist, shoulder]'")
    observer = Observer(specification.observation)
    for names in (('shoulder', 'elbow', 'wrist'), ('wrist', 'shoulder', 'elbow'), ('elbow', 'wrist',
                                                                                   'shoulder'),
                  ('elbow', 'wrist', 'shoulder'), ('shoulder', 'elbow', 'wrist')):
        observer.receive('joints', joints(*names), 0.0)
        taken = observer.sample(0.0, 0.0)
        assert taken.problem == '' and taken.values.tolist() == [2.0, -3.0, -1.0]


@pytest.mark.parametrize(('message', 'problem'), [
    (joints('shoulder', 'wrist'), "the message has no 'elbow'; it has shoulder, wrist"),
    (joints(), "the message has no 'elbow'; it has no names"),
    (joints('shoulder', 'elbow', position=[1.0]), 'beyond the end'),
    (joints('elbow', position=[math.nan]), 'is not finite')])
def test_a_joint_that_is_missing_is_named_and_comes_back(tmp_path: Path, message: JointState,
                                                         problem: str) -> None:
    specification = load(tmp_path, f"{JOINT}, field: 'position[elbow]'")
    observer = Observer(specification.observation)
    for _ in range(2):  # what is wrong is said again, and not taken for known
        observer.receive('joints', message, 0.0)
        assert problem in observer.sample(0.0, 0.0).problem
        observer.receive('joints', joints('elbow'), 0.0)
        assert observer.sample(0.0, 0.0).values.tolist() == [2.0]


def test_names_may_stand_further_out_in_the_message() -> None:
    trajectory = JointTrajectory(joint_names=['a', 'b'], points=[JointTrajectoryPoint(positions=[1.0, 2.0])])
    assert parse_path('points[0].positions[b]').reader()(trajectory) == 2.0
    with pytest.raises(FieldError, match='no names'):
        parse_path('ranges[left]').reader()(LaserScan(ranges=[1.0]))


def test_arrays_slices_and_measures_of_any_message(tmp_path: Path) -> None:
    scan = LaserScan(ranges=[float(i) for i in range(8)])
    specification = load(tmp_path, f'{SCAN}, field: ranges, length: 8', f"{SCAN}, field: 'ranges[1:8:3]'",
                         f"{SCAN}, field: 'ranges[5:]', length: 8", f'{SCAN}, field: ranges, reduce: mean',
                         f"{SCAN}, field: 'ranges[2]', scale: -2.0, offset: 1.0")
    assert sample(specification, scan, 'scan').values.tolist() == [*range(8), 1, 4, 7, 5, 6, 7, 3.5, -3.0]
    poses = PoseArray(poses=[Pose() for _ in range(3)])
    poses.poses[1].orientation.z, poses.poses[1].orientation.w = math.sin(0.5), math.cos(0.5)
    poses.poses[2].position.x, poses.poses[2].position.y = 3.0, 4.0
    kind = 'topic: poses, type: geometry_msgs/msg/PoseArray, bins: [0.0]'
    specification = load(tmp_path, f"{kind}, field: 'poses[0:2].orientation:yaw'",
                         f"{kind}, field: 'poses[1:3].position:norm'",
                         f"{kind}, field: 'poses[2].position.y'")
    assert sample(specification, poses, 'poses').values == pytest.approx([0.0, 1.0, 0.0, 5.0, 4.0])
    specification = load(tmp_path, 'topic: fix, type: sensor_msgs/msg/NavSatFix, bins: [0.0], '
                         'field: position_covariance, length: 9')
    fix = NavSatFix(position_covariance=[float(i) for i in range(9)])
    assert sample(specification, fix, 'fix').values.tolist() == list(range(9))


@pytest.mark.parametrize(('reduce', 'policy', 'ranges', 'expected'), [
    ('min', 'clip_high', [3.0, math.nan, 2.0], 2.0), ('min', 'clip_high', [math.nan] * 3, 5.0),
    ('min', 'clip_low', [3.0, math.nan, 2.0], 0.5), ('max', 'clip_low', [3.0, math.nan, 2.0], 3.0),
    ('max', 'clip_high', [3.0, math.nan, 2.0], 5.0), ('mean', 'clip_high', [3.0, math.nan, 1.0], 3.0),
    ('mean', 'clip_low', [math.inf, -math.inf, math.nan], 2.0), ('min', 'clip_high', [math.inf, 9.0, 7.0],
                                                                 5.0),
    ('max', 'clip_low', [-math.inf, 0.1, 0.2], 0.5), ('mean', 'clip_low', [9.0, 9.0, 0.0], 3.5)])
def test_missing_values_are_replaced_then_clipped_then_reduced(
        tmp_path: Path, reduce: str, policy: str, ranges: list[float], expected: float) -> None:
    specification = load(tmp_path, f'{SCAN}, field: ranges, clip: [0.5, 5.0], nan_policy: {policy}, '
                         f'reduce: {reduce}')
    taken = sample(specification, LaserScan(ranges=ranges), 'scan')
    assert taken.problem == '' and taken.values[0] == pytest.approx(expected)


@pytest.mark.parametrize(('rest', 'ranges', 'problem'), [
    ("field: 'ranges[0:3]', valid: [0.0, 9.0], clip: [0.0, 5.0]", [1.0, 9.5, 1.0],
     "'ranges[0:3]' gave 9.5, outside its valid range [0, 9]"),
    ('field: ranges, reduce: min, valid: [0.0, 9.0], clip: [0.0, 5.0]', [1.0, -1.0, 1.0], 'gave -1, outside'),
    ("field: 'ranges[1]', valid: [0.0, 9.0]", [1.0, -0.5, 1.0], 'gave -0.5, outside'),
    ("field: 'ranges[0:3]', valid: [0.0, 9.0], clip: [0.0, 5.0]", [1.0, math.inf, 1.0], ''),
    ('field: ranges, reduce: min, valid: [0.0, 9.0], clip: [0.0, 5.0]', [math.inf] * 3, ''),
    ('field: ranges, reduce: min', [1.0, math.nan], 'not finite'), ('field: ranges, reduce: min', [],
                                                                    'is empty'),
    ("field: 'ranges[0]', scale: 1.0e+9", [3e38], 'is not finite')])
def test_values_that_cannot_be_true_are_broken_and_no_echo_is_not(tmp_path: Path, rest: str,
                                                                  ranges: list[float], problem: str) -> None:
    taken = sample(load(tmp_path, f'{SCAN}, {rest}'), LaserScan(ranges=ranges), 'scan')
    assert problem in taken.problem and bool(problem) == bool(taken.problem)
    assert np.isfinite(taken.values).all()


def test_a_broken_term_that_is_not_required_spoils_no_other(tmp_path: Path) -> None:
    specification = load(
        tmp_path, f"{SCAN}, field: 'ranges[0]', required: false, default: -1.0",
        f"{SCAN}, field: 'ranges[1]', required: false, on_stale: hold", f"{SCAN}, field: 'ranges[2]'")
    observer = Observer(specification.observation)
    for ranges, expected in (([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), ([math.nan, math.inf, 4.0], [-1.0, 2.0,
                                                                                              4.0]),
                             ([5.0, math.nan, 6.0], [5.0, 2.0, 6.0])):
        observer.receive('scan', LaserScan(ranges=ranges), 0.0)
        taken = observer.sample(0.0, 0.0)
        assert taken.problem == '' and taken.values.tolist() == expected


def test_a_stamp_counts_unless_arrival_alone_does(tmp_path: Path) -> None:
    message = joints('elbow')
    message.header.stamp = Time(sec=100)
    for stamp, problem in (('header', '1.00 s old'), ('arrival', '')):
        specification = load(tmp_path, f"{JOINT}, field: 'position[elbow]', stamp: {stamp}, max_age: 0.5")
        taken = sample(specification, message, clock=101.0)
        assert problem in taken.problem and bool(problem) == bool(taken.problem)


ELBOW = f"{JOINT}, field: 'position[elbow]', scale: 2.0, offset: 1.0"
WRIST = f"{JOINT}, field: 'position[wrist]'"


def commander(folder: Path, action: str) -> Commander:
    specification = load(folder, ELBOW, WRIST, action=action.replace('\n', '\n  '))
    return Commander(specification)


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


CONTINUOUS_AGENT = """action:
topic: cmd
type: std_msgs/msg/Float64MultiArray
safe_action: {'data[2]': 0.5, 'data[0]': 0.0}
limits: {'data[0]': [-0.5, 0.5]}
"""


@pytest.fixture
def any_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a table stand for an agent with continuous actions, of which only the commands matter here."""
    monkeypatch.setattr('muster.learning.specification.loader.DISCRETE_KINDS', ())


@pytest.mark.usefixtures('any_agent')
def test_numbers_go_into_an_array_of_the_size_that_they_need(tmp_path: Path) -> None:
    commands = commander(tmp_path, CONTINUOUS_AGENT + "continuous: {'data[2]': [0.0, 1.0]}")
    message = Float64MultiArray()
    values = commands.command(vector(7.0), vector(0.0, 0.0))
    assert list(commands.write(values, message, Time(sec=1)).data) == [0.0, 0.0, 1.0]
    assert list(commands.write(commands.safe(), message).data) == [0.0, 0.0, 0.5]
    assert list(commands.write(values, Float64MultiArray()).data) == [0.0, 0.0, 1.0]


@pytest.mark.usefixtures('any_agent')
@pytest.mark.parametrize('action', [vector(math.nan), vector(math.inf), vector(1.0, 2.0), vector(), 1,
                                    np.zeros((1, 1), np.float32)])
def test_what_no_command_can_be_made_of_is_refused(tmp_path: Path, action: object) -> None:
    commands = commander(tmp_path, CONTINUOUS_AGENT + "continuous: {'data[2]': [0.0, 1.0]}")
    with pytest.raises(CommandError, match='the policy gave'):
        commands.command(action, vector(0.0, 0.0))  # type: ignore[arg-type]
    with pytest.raises(CommandError, match='the policy chose'):
        commander(tmp_path, ACTION).command(1, vector(0.0, 0.0))


TRAJECTORY = """action:
topic: arm
type: trajectory_msgs/msg/JointTrajectory
safe_action: hold
measured: {'points[0].positions[wrist]': t1, 'points[0].positions[elbow]': t0}
continuous: {'points[0].positions[wrist]': [-1.0, 1.0], 'points[0].positions[elbow]': [-2.0, 2.0]}
rate_limits: {'points[0].positions[elbow]': 5.0}
time_from_start: 1.25
frame_id: base"""


@pytest.mark.usefixtures('any_agent')
def test_an_arm_starts_where_it_is_measured_and_holds_its_last_position(tmp_path: Path) -> None:
    commands = commander(tmp_path, TRAJECTORY)
    message = JointTrajectory()
    assert commands.write(commands.safe(), message) is None  # nobody knows where it is
    observation = vector(2 * 1.5 + 1, 0.25)  # the elbow at 1.5, scaled, and the wrist at 0.25
    values = commands.command(vector(0.75, -2.0), observation)
    written = commands.write(values, message, Time(sec=7))
    assert written.joint_names == ['wrist', 'elbow'] and written.header.frame_id == 'base'
    assert list(written.points[0].positions) == pytest.approx([0.75, 1.0])  # by 0.5 in a cycle at most
    assert written.header.stamp == Time()  # at once
    assert (written.points[0].time_from_start.sec, written.points[0].time_from_start.nanosec) == (1,
                                                                                                  250_000_000)
    assert commands.safe().tolist() == values.tolist()
    commands.begin()  # it may have been moved meanwhile
    assert commands.write(commands.safe(), message) is None


def test_a_stamped_twist_is_stamped_and_stands_still_by_itself(tmp_path: Path) -> None:
    commands = commander(tmp_path,
                         'action: {topic: cmd, type: geometry_msgs/msg/TwistStamped, frame_id: base_link, '
                         'actions: {go: {twist.linear.x: 0.5}}}')
    message = commands.write(commands.command(0, vector(0.0, 0.0)), TwistStamped(), Time(sec=7))
    assert message.header.stamp == Time(sec=7) and message.header.frame_id == 'base_link'
    assert message.twist.linear.x == 0.5
    message.twist.angular.y = 9.0
    commands.write(commands.safe(), message)
    assert message.twist == TwistStamped().twist


def test_commands_are_of_the_type_of_their_fields(tmp_path: Path) -> None:
    commands = commander(tmp_path,
                         "action: {topic: cmd, type: sensor_msgs/msg/Joy, actions: {press: {'buttons[1]': "
                         "1, 'axes[0]': 0.5}}, safe_action: {'buttons[1]': 0, 'axes[0]': 0}}")
    from sensor_msgs.msg import Joy
    message = commands.write(commands.command(0, vector(0.0, 0.0)), Joy())
    assert list(message.buttons) == [0, 1] and list(message.axes) == [0.5]
