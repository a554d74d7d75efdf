# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Expressions of rewards: what they compute, and that nothing else can be written."""
import math

from hypothesis import given, strategies as st
from muster.learning.expression import Expression, ExpressionError
import pytest

PLACES = {'scan': slice(0, 3), 'speed': slice(3, 4), 'goal': slice(4, 5)}
NOW, BEFORE = [3.0, 1.0, 2.0, 0.5, 4.0], [6.0, 5.0, 4.0, 0.25, 4.5]


def value(text: str) -> float:
    return Expression(text, PLACES)(NOW, BEFORE)


@pytest.mark.parametrize(('text', 'expected'), [
    ('1', 1.0), ('-speed + 2 * goal', 7.5), ('goal / 8 % 1 ** 2', 0.5), ('min(scan)', 1.0),
    ('max(scan) - mean(scan)', 1.0), ('sum(scan)', 6.0), ('norm(scan)', math.sqrt(14.0)), ('scan[2]', 2.0),
    ('previous(goal) - goal', 0.5), ('min(previous(scan))', 4.0), ('previous(scan)[0]', 6.0),
    ('previous(goal - speed)', 4.25), ('min(speed, goal, 9)', 0.5), ('max(scan[0], 7)', 7.0),
    ('0 < speed < 1', 1.0), ('0 < speed < 0.5', 0.0), ('speed == 0.5 and not goal != 4', 1.0),
    ('speed > 1 or goal > 5', 0.0), ('10 if goal < 5 else -10', 10.0), ('clip(goal, -1, 1)', 1.0),
    ('sign(-goal) * abs(-goal)', -4.0), ('sqrt(goal) + exp(0) + log(1)', 3.0), ('hypot(3, goal)', 5.0),
    ('abs(' * 40 + '-goal' + ')' * 40, 4.0), ('cos(0) + sin(0) + tan(0) + tanh(0)', 1.0), ('atan2(0, -1)',
                                                                                           math.pi), ('pi',
                                                                                                      math.pi),
    ('-0.1 * (min(scan) < 0.3) + speed', 0.5)])
def test_values(text: str, expected: float) -> None:
    assert value(text) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('text', ['1 / (goal - 4)', 'sqrt(-goal)', 'log(0)', '(-8) ** 0.5', 'exp(999)',
                                  '9**9**9',
                                  '1 % 0', '1e308 * 10 - 1e308 * 10'])
def test_what_has_no_value_is_not_a_number_and_raises_nothing(text: str) -> None:
    assert math.isnan(value(text))


@pytest.mark.parametrize(('text', 'column', 'remedy'), [
    ('speed + sped', 9, "did you mean 'speed'?"), ('altitude', 1, 'terms are scan, speed, goal'),
    ('2 * scan', 5, 'take one, as scan[0]'), ('scan[3]', 1, "'scan' has 3 values, 0..2"),
    ('scan[speed]', 1, 'an index is a whole number'), ('speed[0]', 1, 'behind a term of several values'),
    ('scan[-1]', 1, 'an index is a whole number'), ('scan[0:2]', 1, 'an index is a whole number'),
    ('1 + open("x")', 5, "no function 'open'"), ('__import__("os")', 1, "no function '__import__'"),
    ('speed.real', 1, 'is not allowed'), ('(lambda: 1)()', 1, 'is not allowed'),
    ('[x for x in scan]', 1, 'is not allowed'), ('"text"', 1, 'is not allowed'), ('True', 1,
                                                                                  'is not allowed'),
    ('1j', 1, 'is not allowed'), ('goal if 1 else "x"', 16, 'is not allowed'), ('~goal', 1, 'is not allowed'),
    ('goal // 2', 1, 'is not allowed'), ('(goal := 1)', 2, 'is not allowed'), ('f"{goal}"', 1,
                                                                               'is not allowed'),
    ('abs(goal, 1)', 1, "'abs' takes 1 value"), ('min(goal)', 1, 'takes one term of several values'),
    ('abs(*scan)', 5, 'is not allowed'), ('clip(goal, low=1)', 1, 'is not allowed'),
    ('goal +', 7, 'invalid syntax'), ('goal; speed', 5, 'invalid syntax'), ('', 1, 'invalid syntax'),
    ('gôal', 2, 'cannot be part'), ('goal\0', 5, 'cannot be part'), ('1e999', 1, 'too large'),
    ('9' * 400, 1, 'too large'), ('1+' * 60 + '1', 1, 'simplify'), ('-' * 60 + '1', 52, 'simplify'),
    ('lambda: ' + '-' * 480 + '1', 1, 'is not allowed'), ('min(' + '1,' * 210 + '1)', 403, 'simplify')])
def test_what_is_refused_names_the_column_and_the_remedy(text: str, column: int, remedy: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        value(text)
    assert remedy in str(caught.value)
    assert f'column {column}:' in str(caught.value)


@pytest.mark.parametrize('text', ['(' * 250 + '1' + ')' * 250, '(' * 150 + '1' + ')' * 150 + '+(', '1 ' * 300,
                                  '-' * 499 + '1', 'not ' * 120 + '1', 'abs(' * 120 + '1' + ')' * 120])
def test_depth_and_length_are_bounded(text: str) -> None:
    with pytest.raises(ExpressionError):
        value(text)


PIECES = st.sampled_from(['scan', 'speed', 'goal', 'previous', 'min', 'abs', 'clip', 'if', 'else', 'not', '(',
                          ')', '[', ']', ',', '+', '-', '*', '/', '**', '%', '<', '==', '0', '1.5', '1e300',
                          ':',
                          '.', '"', 'lambda', '__class__', '\n', '\\', '@', '{', '}', '=', 'pi'])


@given(st.lists(PIECES, max_size=30).map(' '.join) | st.text(max_size=40))
def test_no_text_does_anything_but_compute_or_be_refused(text: str) -> None:
    try:
        expression = Expression(text, PLACES)
    except ExpressionError:
        return
    assert isinstance(expression(NOW, BEFORE), float)
