# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Malformed specifications: each error names the file, the key and the remedy, and nothing crashes."""
from pathlib import Path
import re

from hypothesis import given, HealthCheck, settings, strategies as st
from muster.learning.specification import check_messages, load_specification, SpecificationError
import pytest

FOLDER = Path(__file__).parents[2] / 'config' / 'learning'
#: An arm with everything in it, for an agent that there is in every installation.
ARM = """
rate: 20.0
observation:
  - {name: elbow, topic: joint_states, type: sensor_msgs/msg/JointState, field: 'position[elbow]',
     valid: [-3.0, 3.0], max_age: 0.2, stamp: header, bins: [-1.0, 0.0, 1.0]}
  - {name: speeds, topic: joint_states, type: sensor_msgs/msg/JointState, field: 'velocity[elbow, wrist]',
     clip: [-1.0, 1.0], bins: 4}
  - {name: scan, topic: scan, type: sensor_msgs/msg/LaserScan, field: 'ranges[0:8:2]', length: 8,
     clip: [0.0, 5.0], nan_policy: clip_high, bins: 2}
  - {name: heading, topic: odom, type: nav_msgs/msg/Odometry, field: 'pose.pose.orientation:yaw',
     required: false, on_stale: hold, default: 0.0, bins: [0.0]}
action:
  topic: arm/joint_trajectory
  type: trajectory_msgs/msg/JointTrajectory
  actions:
    in: {'points[0].positions[elbow]': -1.0, 'points[0].positions[wrist]': 0.5}
    out: {'points[0].positions[elbow]': 1.0, 'points[0].positions[wrist]': 0.0}
  safe_action: hold
  measured: {'points[0].positions[elbow]': elbow, 'points[0].positions[wrist]': elbow}
  limits: {'points[0].positions[elbow]': [-1.5, 1.5]}
  rate_limits: {'points[0].positions[elbow]': 0.5}
  frame_id: base
  time_from_start: 0.1
reward: {expression: 'elbow - 0.1 * norm(speeds)'}
episode: {expression: 'min(scan) < 0.1', time_limit: 10.0}
agent: {kind: q_learning, epsilon: 0.2, max_states: 1000}
learning: {budget: 0.4}
"""
COMMANDS = """  actions:
    in: {'points[0].positions[elbow]': -1.0, 'points[0].positions[wrist]': 0.5}
    out: {'points[0].positions[elbow]': 1.0, 'points[0].positions[wrist]': 0.0}
"""
MALFORMED = {
    'unknown key': ('rate: 20.0', 'rate: 20.0\nraet: 1', 'raet', "did you mean 'rate'?"),
    'missing key': ("field: 'position[elbow]',", '', 'observation[0]', "key 'field' is missing: add it"),
    'key given twice': ('learning: {budget: 0.4}', 'learning: {budget: 0.4, budget: 0.2}', 'learning',
                        "'budget' is given twice: remove one"),
    'not a number': ('rate: 20.0', 'rate: fast', 'rate', 'must be a finite number'),
    'out of range': ('budget: 0.4', 'budget: 1.4', 'learning.budget', 'within 0.01..0.9'),
    'not a whole number': ('length: 8', 'length: 8.5', 'observation[2].length', 'must be a whole number'),
    'not a choice': ('nan_policy: clip_high', 'nan_policy: clip_hihg', 'observation[2].nan_policy',
                     "did you mean 'clip_high'?"),
    'not a list': ('clip: [0.0, 5.0]', 'clip: 5.0', 'observation[2].clip', 'must be a list of 2 numbers'),
    'range reversed': ('valid: [-3.0, 3.0]', 'valid: [3.0, -3.0]', 'observation[0].valid',
                       'must be [lowest, highest]'),
    'empty slice': ('ranges[0:8:2]', 'ranges[8:0]', 'observation[2].field', 'stop must be above start'),
    'two lists': ('velocity[elbow, wrist]', 'a[1:2].velocity[elbow, wrist]', 'observation[1].field',
                  'use one slice'),
    'not a subscript': ('position[elbow]', 'position[-1]', 'observation[0].field', 'write an index'),
    'unknown measure': ('orientation:yaw', 'orientation:roll', 'observation[3].field', 'use one of :yaw'),
    'not a topic': ('topic: scan', 'topic: my//scan', 'observation[2].topic', "letters, digits, '_' and '/'"),
    'two types of a topic': ('topic: scan', 'topic: odom', "topic 'odom'", 'correct one'),
    'name given twice': ('name: scan', 'name: elbow', 'observation[2]', 'given twice: rename one'),
    'on_stale against required': ('required: false, on_stale: hold', 'on_stale: hold',
                                  'observation[3].on_stale',
                                  "'hold' and 'default' with required: false"),
    'bins without a range': ('bins: [-1.0, 0.0, 1.0]', 'bins: 4', 'observation[0].bins', 'add it'),
    'two kinds of commands': ('  safe_action: hold', "  continuous: {'x': [0, 1]}\n  safe_action: hold",
                              'action', "one of the keys 'actions'"),
    'no safe action': ('  safe_action: hold\n', '', 'action', "key 'safe_action' is missing"),
    'hold without measure': ("measured: {'points[0].positions[elbow]': elbow, ", 'measured: {',
                             'action.safe_action', "add the key 'measured'"),
    'measured by nothing': ("elbow, 'points[0].positions[wrist]': elbow", 'elbow, '
                            "'points[0].positions[wrist]': wrist", 'action.measured',
                            'must be one of elbow'),
    'field that none commands': ("limits: {'points[0].positions[elbow]'",
                                 "limits: {'points[0].positions[el]'",
                                 'action.limits', "did you mean 'points[0].positions[elbow]'?"),
    'beyond the limits': ('[-1.5, 1.5]', '[-0.5, 1.5]', 'action',
                          'outside its limits [-0.5, 1.5]: correct one'),
    'huge index': ("points[0].positions[elbow]': -1.0", "points[5000].positions[elbow]': -1.0",
                   'action.actions.in',
                   'at most 1023'),
    'reward twice': ('reward: {', 'reward: {topic: reward, ', 'reward',
                     "one of the keys 'topic' and 'expression'"),
    'unknown term': ('norm(speeds)', 'norm(speed)', 'reward.expression', "did you mean 'speeds'?"),
    'forbidden expression': ('min(scan) < 0.1', '__import__("os")', 'episode.expression', 'there are abs'),
    'several values': ('min(scan) < 0.1', 'scan < 0.1', 'episode.expression', 'take one, as scan[0]'),
    'unknown hyper-parameter': ('epsilon: 0.2', 'epsilom: 0.2', 'agent', "did you mean 'epsilon'?"),
    'hyper-parameter out of range': ('max_states: 1000', 'max_states: 0', 'agent.max_states',
                                     'must be within 1'),
    'unknown agent': ('kind: q_learning', 'kind: q_lerning', 'agent.kind', "did you mean 'q_learning'?"),
    'continuous for a table': (COMMANDS, """  continuous:
    'points[0].positions[elbow]': [-1, 1]
    'points[0].positions[wrist]': [0, 1]
""", 'agent.kind', 'give `actions`'),
    'alias': ('valid: [-3.0, 3.0]', 'valid: &a [-3.0, 3.0]\n     , clip: *a', 'alias', 'write out'),
}
MISFITS = {
    'no such field': ('position[elbow]', 'positions[elbow]', "term 'elbow'", 'it has header, name, position'),
    'no such type': ('sensor_msgs/msg/LaserScan', 'sensor_msgs/msg/LasrScan', "term 'scan'",
                     'is not installed'),
    'not a type': ('sensor_msgs/msg/LaserScan', 'sensor_msgs.LaserScan', "term 'scan'",
                   'write it as sensor_msgs/msg/LaserScan'),
    'not a number': ('position[elbow]', 'header.frame_id', "term 'elbow'", 'is a string, not a number'),
    'a whole message': ('pose.pose.orientation:yaw', 'pose.pose.orientation', "term 'heading'",
                        'name one of its fields'),
    'yaw of a point': ('pose.pose.orientation:yaw', 'pose.pose.position:yaw', "term 'heading'", 'has no w'),
    'an array of unknown length': ('position[elbow]', 'position', "term 'elbow'",
                                   "add one of the keys 'length'"),
    'length of a number': ("'pose.pose.orientation:yaw'", 'twist.twist.linear.x, length: 1', "term 'heading'",
                           "remove the key 'length'"),
    'names without names': ('ranges[0:8:2]', 'ranges[left, right]', "term 'scan'", 'use an index'),
    'beyond a fixed array': ('pose.pose.orientation:yaw', 'pose.covariance[36]', "term 'heading'",
                             'at most 36 entries, 0..35'),
    'not an array': ('pose.pose.orientation:yaw', 'pose.pose[0].orientation:yaw', "term 'heading'",
                     'remove the brackets'),
    'no header': ("nav_msgs/msg/Odometry, field: 'pose.pose.",
                  "geometry_msgs/msg/Pose, stamp: header, field: '",
                  "term 'heading'", 'stamp: arrival'),
    'command without a field': ('.positions[', '.position[', 'action', 'it has positions'),
    'command outside the first point': ('points[0]', 'points[1]', 'action', 'first point'),
}


def write(folder: Path, text: str) -> Path:
    file = folder / 'malformed.yaml'
    file.write_text(text)
    return file


def changed(old: str, new: str) -> str:
    assert old in ARM
    return ARM.replace(old, new)


def test_the_specification_that_they_are_made_of_is_sound(tmp_path: Path) -> None:
    assert 'trajectory_msgs/msg/JointTrajectory' in check_messages(load_specification(write(tmp_path, ARM)))
    assert len(MALFORMED) + len(MISFITS) >= 20


@pytest.mark.parametrize('kind', MALFORMED)
def test_an_error_names_file_line_key_and_remedy(tmp_path: Path, kind: str) -> None:
    old, new, key, remedy = MALFORMED[kind]
    file = write(tmp_path, changed(old, new))
    with pytest.raises(SpecificationError) as caught:
        load_specification(file)
    assert re.search(rf'^{re.escape(str(file))}, line \d+: ', str(caught.value))
    assert key in str(caught.value) and remedy in str(caught.value)


@pytest.mark.parametrize('kind', MISFITS)
def test_what_does_not_fit_its_message_names_file_term_and_remedy(tmp_path: Path, kind: str) -> None:
    old, new, key, remedy = MISFITS[kind]
    file = write(tmp_path, changed(old, new))
    with pytest.raises(SpecificationError) as caught:
        check_messages(load_specification(file))
    assert str(file) in str(caught.value) and key in str(caught.value) and remedy in str(caught.value)


TEXTS = [ARM, *(file.read_text() for file in sorted(FOLDER.glob('*.yaml')))]
VALUES = ['null', '', '{}', '[]', '-1', '1e999', '.nan', '[1, 2]', 'true', '&x y', '*x',
          '!!python/object:os.system x',
          "'[' ", '"\\x00"', '{a: {b: {c: d}}}', 'ranges[999999999999]', '=', '1' * 400, 'ä', '?', '- 1',
          '<<: {}',
          "'previous'", '0x10', '1:30', '!!int x', '!!binary xx', '~/a', 'a.b[c].d[e]']


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_document_does_anything_but_load_or_be_refused(tmp_path: Path, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXTS))
    words = re.split(r'([\s,:{}\[\]]+)', text)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(words) - 1))
        words[place] = data.draw(st.sampled_from([*VALUES, *words]) | st.text(max_size=6))
    file = tmp_path / 'fuzzed.yaml'
    file.write_bytes(''.join(words).encode(errors='surrogatepass'))
    try:
        check_messages(load_specification(file))
    except SpecificationError as error:
        assert str(file) in str(error)


@given(st.binary(max_size=200) | st.text(alphabet='{}[]:,-&*!|>?\'"% \n\tab01.', max_size=80).map(str.encode))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_do_anything_but_be_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / 'fuzzed.yaml'
    file.write_bytes(content)
    with pytest.raises(SpecificationError, match=re.escape(str(file))):
        load_specification(file)
