# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Robot names and parameter files are refused by name, file and line before anything starts."""
from pathlib import Path

from hypothesis import given, strategies
from muster.preflight import check, MAX_BYTES, problems
from muster.ros.parameters import ParameterSpec
import pytest

TABLES = {
    'cluster': {s.name: s for s in (
        ParameterSpec('profile', 'lan', '', choices=('lan', 'wifi')),
        ParameterSpec('members', [''], ''),
        ParameterSpec('limits.rate', 1.0, '', minimum=0.0, maximum=10.0))},
    'hardware': {s.name: s for s in (ParameterSpec('scan_interval', 5.0, ''),)},
}


def section(*lines: str, node: str = '/**/cluster') -> str:
    return '\n'.join((f'{node}:', '  ros__parameters:', *(f'    {line}' for line in lines))) + '\n'


@pytest.mark.parametrize('text', [
    '', '{}', '# nothing\n', section('profile: wifi', 'members: [a, b]'),
    section('limits: {rate: 2}'), section('limits.rate: 2.5'), section('use_sim_time: true', node='/**'),
    'robot_1:\n  cluster:\n    ros__parameters:\n      profile: lan\n',
    section('anything: 1', node='world'),
])
def test_a_good_file_has_no_problems(text: str) -> None:
    assert problems(text, TABLES) == []


@pytest.mark.parametrize(('text', 'line', 'words'), [
    (section('profil: lan'), 3, "cluster: unknown parameter 'profil'; did you mean 'profile'?"),
    (section('profile: lan', node='/**/clustr'), 1, "unknown node 'clustr'; did you mean 'cluster'?"),
    (section('profile: fast'), 3, "'profile' must be one of lan, wifi"),
    (section('profile: 5'), 3, 'must be of type string'),
    (section('profile:'), 3, 'must be of type string'),
    (section('profile: 2020-01-01'), 3, 'is it to be quoted?'),
    (section('profile: lan', 'limits: {rate: 11}'), 4, "'limits.rate' must be within 0.0..10.0"),
    (section('members: []'), 3, "write ['']"),
    (section('profile: lan', 'profile: lan'), 4, "'profile' is there twice"),
    (section('profile: lan', node='/**'), 3, "hardware: unknown parameter 'profile'"),
    (section('profile: &a lan', 'members: [*a]'), 4, 'anchors'),
    ('/**/cluster:\n  profile: lan\n', 2, 'must be a mapping'),
    ('/**/cluster:\n  ros__parameters: {}\n  profile: lan\n', 1, "beside 'ros__parameters'"),
    ('a: [\n', 2, 'not YAML'),
    ('- a\n', 1, 'must be a mapping'),
    ('? [a]\n: b\n', 1, 'must be a word'),
    ('a: ' + '[' * 1000 + ']' * 1000, 1, 'nested deeper'),
    ('a: \x00', 1, 'not YAML'),
])
def test_a_bad_file_is_named_with_its_line(text: str, line: int, words: str) -> None:
    (found, message), = problems(text, TABLES)
    assert words in message
    assert found == line


def test_every_problem_is_reported_at_once() -> None:
    assert [line for line, _ in problems(section('a: 1', 'profile: lan', 'b: 2'), TABLES)] == [3, 5]


@given(strategies.text(max_size=200))
def test_no_text_breaks_the_check(text: str) -> None:
    assert all(line >= 1 and message for line, message in problems(text, TABLES))


@pytest.mark.parametrize('robot', ['', '1st', 'a b', 'robot-1', 'a/b', '/a', 'ä', 'a' * 65, 'a\n'])
def test_bad_robot_names_are_refused(robot: str) -> None:
    problem, = check(robot, Path('unread.yaml'), TABLES)
    assert 'no robot name' in problem


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    big, binary = tmp_path / 'big.yaml', tmp_path / 'binary.yaml'
    big.write_bytes(b'#' * (MAX_BYTES + 1))
    binary.write_bytes(b'\xff\xfe\xfa')
    for path, words in ((tmp_path / 'no.yaml', 'No such file'), (tmp_path, 'Is a directory'),
                        (big, 'longer than'), (binary, 'cannot be read')):
        problem, = check('robot_1', path, TABLES)
        assert str(path) in problem
        assert words in problem
