# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pacing of simulated time, and the table of virtual devices."""
from muster.simulation.devices import KINDS, plugged
from muster.simulation.pacing import CATCH_UP, MAX_TICKS, Pacer
import pytest


def test_each_tick_of_a_slow_world_makes_one_step_also_when_ticks_jitter() -> None:
    pacer = Pacer(20.0, 100.0)
    assert pacer.period == pytest.approx(0.05)
    moments = [100.0 + i * 0.05 + (0.01 if i % 2 else -0.01) for i in range(1, 101)]
    assert [pacer.due(now) for now in moments] == [1] * 100


def test_a_fast_world_makes_several_steps_in_a_tick_and_keeps_the_factor() -> None:
    pacer = Pacer(2000.0, 0.0)
    assert pacer.period == 1 / MAX_TICKS
    assert sum(pacer.due(i * pacer.period) for i in range(1, 1001)) == 10_000


def test_a_late_tick_catches_up_within_bounds_and_counts_the_rest() -> None:
    pacer = Pacer(20.0, 0.0)
    assert pacer.due(10.0) == 20 * CATCH_UP
    assert pacer.dropped == 195
    assert pacer.due(10.05) == 1


def test_a_kind_alone_goes_to_every_robot() -> None:
    assert plugged(['lidar', 'robot_1/camera', 'camera'], ['robot_1', 'robot_2']) == {
        'robot_1': ['camera', 'lidar'], 'robot_2': ['camera', 'lidar']}
    assert plugged(['robot_2/gps'], ['robot_1', 'robot_2']) == {'robot_1': [], 'robot_2': ['gps']}


@pytest.mark.parametrize('entry', ['toaster', 'robot_1/toaster', '', 'robot_1/', 'a/b/toaster'])
def test_an_unknown_kind_is_refused_naming_the_known_ones(entry: str) -> None:
    with pytest.raises(ValueError, match=f"unknown kind of device in '{entry}'; known are.*lidar"):
        plugged([entry], ['robot_1'])


def test_an_unknown_robot_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown robot in 'robot_9/gps'; there are robot_1"):
        plugged(['robot_9/gps'], ['robot_1'])


def test_every_kind_says_what_it_can_do() -> None:
    assert all(kind.name and kind.type and kind.capabilities for kind in KINDS.values())
