# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The adaptive failure detector: whom it suspects, when, and whom not."""
from __future__ import annotations

from random import Random
from statistics import fmean, pstdev

from hypothesis import given, strategies as st
from muster.cluster.failure_detection import _Arrivals, FailureDetector, MILLISECOND, SECOND, WINDOW
from muster.cluster.state.commands import Health
import pytest


def hear(detector: FailureDetector, member: str, period: int, jitter: float, seconds: int,
         start: int = 0, loss: float = 0.0, seed: int = 1) -> int:
    """Let a member be heard; return when it was last, after checking that it was alive all the time."""
    random, at, last = Random(seed), start, start
    while at < start + seconds * SECOND:
        at += max(1, int(random.gauss(period, period * jitter)))
        assert detector.health(member, at) == Health.ALIVE, f'suspect after {(at - last) / SECOND} s'
        if random.random() >= loss:
            detector.heard(member, at)
            last = at
    return last


def changes(detector: FailureDetector, member: str, last: int) -> list[int]:
    """Return after what silence, to 10 ms, a member that was last heard then becomes suspect and dead."""
    return [next(silence for silence in range(0, 60 * SECOND, 10 * MILLISECOND)
                 if detector.health(member, last + silence) >= health)
            for health in (Health.SUSPECT, Health.DEAD)]


@pytest.mark.parametrize('period', [50 * MILLISECOND, 250 * MILLISECOND, SECOND])
@pytest.mark.parametrize(('jitter', 'loss'), [(0, 0), (0.2, 0), (0.4, 0), (0.1, 0.05)])
def test_who_is_heard_is_alive_and_who_stops_is_found_out(period: int, jitter: float, loss: float) -> None:
    detector = FailureDetector()
    last = hear(detector, 'r1', period, jitter, 300, loss=loss, seed=period)
    suspect, dead = changes(detector, 'r1', last)
    assert 4 * SECOND <= suspect <= 5 * SECOND
    assert suspect < dead and 10 * SECOND <= dead <= 11 * SECOND
    detector.heard('r1', last + 30 * SECOND)
    assert detector.health('r1', last + 30 * SECOND) == Health.ALIVE


def test_it_adapts_to_a_slow_and_irregular_member() -> None:
    """With thresholds that leave all to phi, patience follows what was seen."""
    detector = FailureDetector(suspect_silence=SECOND, dead_silence=3 * SECOND)
    for beat in range(WINDOW):
        detector.heard('fast', beat * 100 * MILLISECOND)
        detector.heard('slow', beat * 2 * SECOND)
    fast, slow = 100 * MILLISECOND * (WINDOW - 1), 2 * SECOND * (WINDOW - 1)
    assert detector.health('fast', fast + 3 * SECOND) == Health.DEAD
    assert detector.health('slow', slow + 4 * SECOND) == Health.ALIVE
    assert detector.health('slow', slow + 5 * SECOND) == Health.SUSPECT
    assert detector.health('slow', slow + 20 * SECOND) == Health.DEAD


def test_it_becomes_patient_when_a_member_becomes_slow() -> None:
    detector = FailureDetector()
    last = hear(detector, 'r1', 100 * MILLISECOND, 0.1, 30)
    assert changes(detector, 'r1', last)[0] == 4 * SECOND
    last = hear(detector, 'r1', 3 * SECOND, 0.1, 300, last)
    assert 6 * SECOND < changes(detector, 'r1', last)[0] < 12 * SECOND


def test_a_silence_that_made_dead_does_not_teach_patience() -> None:
    detector = FailureDetector()
    at = hear(detector, 'r1', 100 * MILLISECOND, 0.1, 30)
    for _ in range(WINDOW):
        at += 60 * SECOND
        detector.heard('r1', at)
    assert detector.health('r1', at + 4 * SECOND) == Health.SUSPECT


def test_a_judge_that_stood_still_blames_nobody() -> None:
    detector = FailureDetector()
    members = [f'r{i}' for i in range(5)]
    now = max(hear(detector, member, 200 * MILLISECOND, 0.1, 20) for member in members)
    now += 60 * SECOND
    detector.resumed(now)
    assert {detector.health(member, now + SECOND) for member in members} == {Health.ALIVE}
    detector.heard('r0', now + 9 * SECOND)
    assert [detector.health(member, now + 11 * SECOND) for member in members] == \
        [Health.ALIVE] + [Health.DEAD] * 4


def test_who_was_never_heard_is_expected_from_now_on() -> None:
    detector = FailureDetector()
    assert [detector.health('r1', at * SECOND) for at in (100, 103, 104, 109, 110)] == [
        Health.ALIVE, Health.ALIVE, Health.SUSPECT, Health.SUSPECT, Health.DEAD]


def test_old_and_repeated_arrivals_change_nothing() -> None:
    detector = FailureDetector()
    last = hear(detector, 'r1', 100 * MILLISECOND, 0.1, 10)
    before = changes(detector, 'r1', last)
    for at in (last, last - SECOND, 0):
        detector.heard('r1', at)
    assert changes(detector, 'r1', last) == before


@given(st.lists(st.integers(1, 10**13), min_size=1, max_size=3 * WINDOW))
def test_mean_and_deviation_are_those_of_the_window(intervals: list[int]) -> None:
    arrivals = _Arrivals(0)
    for interval in intervals:
        arrivals.add(interval)
    mean, deviation = arrivals.distribution()
    kept = intervals[-WINDOW:]
    assert abs(mean - fmean(kept)) <= 2 and abs(deviation - pstdev(kept)) <= 2


@pytest.mark.parametrize('wrong', [{'suspect_phi': 0}, {'dead_phi': 5}, {'dead_phi': 400},
                                   {'suspect_silence': 11 * SECOND}, {'suspect_silence': 0},
                                   {'least_deviation': -1}])
def test_thresholds_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match='phi must be'):
        FailureDetector(**wrong)
