# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The restart policy and the end of the group, on a virtual clock."""
from signal import SIGINT, SIGKILL, SIGTERM

from hypothesis import given, strategies
from muster.supervision import Policy, Send, Start, Supervisor
import pytest


def test_every_process_is_started_at_once() -> None:
    group = Supervisor(('a', 'b'), now=10.0)
    assert group.next_deadline() == 10.0
    assert group.advance(10.0) == [Start('a'), Start('b')]
    assert group.advance(11.0) == []
    assert group.next_deadline() == float('inf')


def test_early_deaths_double_the_delay_up_to_its_bound() -> None:
    group = Supervisor(('a',), now=0.0)
    now, delays = 0.0, []
    for _ in range(8):
        assert group.advance(now) == [Start('a')]
        delays.append(group.exited('a', now))
        now = group.next_deadline()
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_healthy_life_forgets_the_deaths() -> None:
    group = Supervisor(('a',), now=0.0)
    group.advance(0.0)
    assert [group.exited('a', 1.0), group.advance(2.0), group.exited('a', 3.0)] == [1, [Start('a')], 2]
    group.advance(5.0)
    assert group.exited('a', 35.0) == 1


def test_a_death_leaves_the_others_alone() -> None:
    group = Supervisor(('a', 'b'), now=0.0)
    group.advance(0.0)
    group.exited('a', 1.0)
    assert group.advance(1.5) == []
    assert group.advance(2.0) == [Start('a')]


def test_the_end_escalates_only_for_what_is_left() -> None:
    group = Supervisor(('a', 'b', 'c'), now=0.0)
    group.advance(0.0)
    group.exited('c', 1.0)
    assert group.stop(2.0) == [Send('a', SIGINT), Send('b', SIGINT)]
    assert group.exited('a', 2.1) is None
    assert group.advance(6.9) == []
    assert group.advance(7.0) == [Send('b', SIGTERM)]
    assert group.advance(12.0) == [Send('b', SIGKILL)]
    assert group.advance(17.0) == [Send('b', SIGKILL)]
    assert not group.finished
    group.exited('b', 17.1)
    assert group.finished


def test_a_second_request_hurries_the_end() -> None:
    group = Supervisor(('a',), now=0.0)
    group.advance(0.0)
    assert [group.stop(1.0), group.stop(1.1)] == [[Send('a', SIGINT)], [Send('a', SIGTERM)]]
    assert group.next_deadline() == pytest.approx(6.1)


@given(strategies.lists(strategies.tuples(strategies.sampled_from('abc'), strategies.floats(0, 100)),
                        max_size=50))
def test_whatever_dies_comes_back_and_the_end_is_final(deaths: list[tuple[str, float]]) -> None:
    policy = Policy()
    group = Supervisor('abc', now=0.0, policy=policy)
    now = 0.0
    alive: set[str] = set()
    for name, lived in deaths:
        alive |= {effect.name for effect in group.advance(now)}
        now += lived
        if name in alive:
            alive.remove(name)
            delay = group.exited(name, now)
            assert delay is not None
            assert policy.first_delay <= delay <= policy.longest_delay
    now += policy.longest_delay
    alive |= {effect.name for effect in group.advance(now)}
    assert alive == set('abc')
    group.stop(now)
    for name in alive:
        assert group.exited(name, now) is None
    assert group.finished
    assert group.advance(now + 1000) == [] or all(isinstance(e, Send) for e in group.advance(now + 2000))
