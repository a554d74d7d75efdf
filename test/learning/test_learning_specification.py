# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Specification files: what is refused, where and why; field paths against message classes."""
from pathlib import Path
from types import SimpleNamespace

from geometry_msgs.msg import PointStamped, PoseArray, Quaternion, Twist
from muster.learning.fields import check_path, FieldError, message_class, parse_path, writer
from muster.learning.specification import (
    check_messages, difference, digest, load_specification, SpecificationError)
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from sensor_msgs.msg import Joy, LaserScan

SHIPPED = Path(__file__).parents[2] / 'config' / 'learning' / 'goal_seeking.yaml'


def load(folder: Path, text: str):
    file = folder / 'changed.yaml'
    file.write_text(text)
    return load_specification(file)


def test_the_shipped_specification_fits_its_messages() -> None:
    specification = load_specification(SHIPPED)
    assert set(check_messages(specification)) == {
        'sensor_msgs/msg/LaserScan', 'geometry_msgs/msg/PointStamped', 'nav_msgs/msg/Odometry',
        'std_msgs/msg/Float32', 'std_msgs/msg/Bool', 'geometry_msgs/msg/Twist'}
    assert specification.elements == 5
    assert specification.action.safe == (0.0,) * 6


@pytest.mark.parametrize(('old', 'new', 'expected'), [
    ('max_age: 0.5, bins: [0.4, 0.8]', 'max_agee: 0.5, bins: [0.4, 0.8]', "did you mean 'max_age'?"),
    ('rate: 10.0', 'rate: fast', 'rate: must be a finite number'),
    ('rate: 10.0', 'rate: 1000', 'must be within 0.1..200, not 1000'),
    ('rate: 10.0', 'rate: 10.0\nrate: 20.0', "key 'rate' is given twice"),
    ('rate: 10.0', 'rate: 10.0\nspeed: 1', "unknown key 'speed'"),
    ('name: left', 'name: ahead', "the name 'ahead' is given twice"),
    ('bins: [0.4, 0.8]', 'bins: [0.8, 0.4]', 'bin edges must ascend'),
    (', bins: [0.2]', '', "key 'bins' is missing"),
    ("'ranges[16:21]'", "'ranges[21:16]'", 'slice'),
    ("'point:bearing'", "'point:compass'", "unknown measure ':compass'"),
    ('clip: [0.0, 5.0], nan_policy: clip_high, reduce: min, max_age: 0.5, bins: [0.4',
     'nan_policy: clip_high, reduce: min, max_age: 0.5, bins: [0.4', "needs the key 'clip'"),
    ('forward: {linear.x: 0.4}', 'forward: {linear.x: 0.9}', 'outside its limits [0, 0.5]'),
    ('forward: {linear.x: 0.4}', 'safe: {linear.x: 0.4}', "not 'safe'"),
    ('forward: {linear.x: 0.4}', "forward: {'linear.x:norm': 0.4}", 'cannot be written'),
    ('topic: cmd_vel', "topic: 'cmd vel'", "'cmd vel' is not a topic name"),
    ('kind: q_learning', 'kind: magic', 'must be one of q_learning'),
    ('discount: 0.97', 'discount: 1.97', 'must be within 0..1, not 1.97'),
    ('reward: {topic: reward', 'reward: {topic: scan', 'given two types'),
    ('{linear.x: 0.4}', '&a {linear.x: *a}', 'aliases are not allowed'),
    ('rate: 10.0', 'rate: [', 'is not YAML'),
])
def test_an_error_names_file_line_key_and_remedy(tmp_path: Path, old: str, new: str, expected: str) -> None:
    text = SHIPPED.read_text()
    assert old in text
    with pytest.raises(SpecificationError) as caught:
        load(tmp_path, text.replace(old, new, 1))
    message = str(caught.value)
    assert expected in message and str(tmp_path / 'changed.yaml') in message and ', line ' in message


def test_the_safe_action_is_mandatory_except_for_twist(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    safe = '  safe_action: {linear.x: 0.0, angular.z: 0.0}\n'
    assert safe in text
    assert load(tmp_path, text.replace(safe, '')).action.safe == (0.0,) * 6
    other = text.replace('type: geometry_msgs/msg/Twist', 'type: some_msgs/msg/Wheels')
    with pytest.raises(SpecificationError, match="action: key 'safe_action' is missing"):
        load(tmp_path, other.replace(safe, ''))
    with pytest.raises(SpecificationError, match=r'must give every field a value: add angular\.z'):
        load(tmp_path, other.replace(safe, '  safe_action: {linear.x: 0.0}\n'))


def test_the_line_is_that_of_the_key(tmp_path: Path) -> None:
    text = SHIPPED.read_text().replace('epsilon_min: 0.02', 'epsilon_min: 2')
    line = next(i for i, row in enumerate(text.splitlines(), 1) if 'epsilon_min' in row)
    with pytest.raises(SpecificationError, match=rf'line {line}: agent\.epsilon_min: must be within'):
        load(tmp_path, text)


@pytest.mark.parametrize('content', [b'', b'\xff\xfe', b'x' * 70000, b'[' * 5000, b'- 1', b'a: b\x00'])
def test_a_file_that_is_no_specification_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'bad.yaml').write_bytes(content)
    with pytest.raises(SpecificationError, match=r'bad\.yaml'):
        load_specification(tmp_path / 'bad.yaml')
    with pytest.raises(SpecificationError, match='No such file'):
        load_specification(tmp_path / 'none.yaml')


@pytest.mark.parametrize(('old', 'new', 'expected'), [
    ('field: twist.twist.linear.x', 'field: twist.twist.linear.q',
     "observation term 'speed'.*no field 'q'; it has x"),
    ("'ranges[16:21]'", "'rangess[16:21]'", "observation term 'ahead'.*LaserScan has no field 'rangess'"),
    ("'point:bearing'", "'point'", "observation term 'bearing'.*not a number"),
    ('nav_msgs/msg/Odometry', 'nav_msgs/msg/Odometer', "observation term 'speed'.*not installed"),
    ('std_msgs/msg/Float32}', 'std_msgs/msg/String}', 'reward.*is a string, not a number'),
    ('{linear.x: 0.15, ', '{linear.w: 0.15, ', "action.*Vector3 has no field 'w'"),
])
def test_paths_are_checked_against_the_message_classes(tmp_path: Path, old: str, new: str,
                                                       expected: str) -> None:
    specification = load(tmp_path, SHIPPED.read_text().replace(old, new))
    with pytest.raises(SpecificationError, match=expected):
        check_messages(specification)


def test_hash_ignores_the_tolerated_age_alone_and_the_difference_is_named(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    own = load_specification(SHIPPED)
    assert load(tmp_path, text.replace('max_age: 0.5', 'max_age: 0.7')).digest == own.digest
    other = load(tmp_path, text.replace('bins: [0.4, 0.8]', 'bins: [0.4, 0.9]'))
    assert other.digest != own.digest == digest(own.meaning)
    assert difference(other.meaning, own.meaning) == 'observation[ahead].bins[1]: 0.9 in the model, 0.8 here'


@pytest.mark.parametrize(('path', 'kind', 'array'), [
    ('ranges[0:36:6]', LaserScan, True), ('ranges', LaserScan, True), ('ranges[3]', LaserScan, False),
    ('pose.pose.orientation:yaw', Odometry, False), ('pose.covariance[0:3]', Odometry, True),
    ('poses[0:4].position.x', PoseArray, True), ('header.stamp.sec', Odometry, False),
    ('twist.twist.linear:norm', Odometry, False), ('buttons[2]', Joy, False)])
def test_paths_that_fit(path: str, kind: type, array: bool) -> None:
    assert check_path(parse_path(path), kind).array is array


@pytest.mark.parametrize(('path', 'kind'), [
    ('poses.position.x', PoseArray), ('poses', PoseArray), ('header.frame_id', Odometry),
    ('pose.pose[0]', Odometry), ('ranges.x', LaserScan), ('header.stamp:yaw', Odometry)])
def test_paths_that_do_not_fit(path: str, kind: type) -> None:
    with pytest.raises(FieldError):
        check_path(parse_path(path), kind)


@pytest.mark.parametrize('text', ['', '.', 'a..b', 'a[', 'a[-1]', 'a[0:4:0]', 'a[4:4]', 'a[0:2].b[0:2]',
                                  'a()', '__class__', 'a.__dict__', 'a[b c]', 'a[b].c[d]', 'a[b, b]',
                                  'a[0:9999999]'])
def test_malformed_paths_are_refused(text: str) -> None:
    with pytest.raises(FieldError):
        parse_path(text)
    with pytest.raises(FieldError):
        message_class('os/path')


def test_reading_and_writing_messages() -> None:
    scan = LaserScan(ranges=[float(i) for i in range(36)])
    assert parse_path('ranges[0:36:6]').reader()(scan).tolist() == [0, 6, 12, 18, 24, 30]
    assert parse_path('ranges[0:36:6]').size() == 6
    odometry = Odometry()
    odometry.pose.pose.orientation = Quaternion(z=np.sin(0.4).item(), w=np.cos(0.4).item())
    assert parse_path('pose.pose.orientation:yaw').reader()(odometry) == pytest.approx(0.8)
    point = PointStamped()
    point.point.x, point.point.y = 3.0, 4.0
    assert parse_path('point:norm').reader()(point) == 5.0
    assert parse_path('point:bearing').reader()(point) == pytest.approx(np.arctan2(4, 3))
    twist = Twist()
    writer(parse_path('angular.z'))(twist, 0.5)
    assert twist.angular.z == 0.5
    joy = Joy(axes=[0.0, 0.0], buttons=[0, 0])
    writer(parse_path('axes[1]'))(joy, 0.25)
    writer(parse_path('buttons[0]'))(joy, 1.0)
    assert list(joy.axes) == [0.0, 0.25] and list(joy.buttons) == [1, 0]
    flag = SimpleNamespace(on=False)
    writer(parse_path('on'))(flag, 1.0)
    assert flag.on is True
