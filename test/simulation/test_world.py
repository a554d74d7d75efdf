# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The pure world: determinism, motion, rewards, ray casting and what it refuses."""
import math

from hypothesis import given, settings, strategies as st
from muster.simulation.world import cast_rays, GOAL_DISTANCE, World, WorldConfig
import numpy as np
import pytest

DT = 0.1
EMPTY = WorldConfig(obstacles=0, noise_std=0.0)


def drive(world: World, steps: int, robot: str = 'robot_1') -> list[tuple[float, ...]]:
    """Drive by a fixed programme; return poses, scans and rewards as one comparable list."""
    seen: list[tuple[float, ...]] = []
    for i in range(steps):
        world.command(robot, 0.5, math.sin(i / 10))
        outcome = world.step(DT)[robot]
        seen.append((*world.pose(robot), *world.goal(robot), outcome.reward, *world.scan(robot)))
    return seen


def place(world: World, x: float, y: float, heading: float, robot: str = 'robot_1') -> None:
    """Put a robot where a test needs it."""
    state = world._robots[robot]
    state.x, state.y, state.heading = x, y, heading


def set_goal(world: World, x: float, y: float) -> None:
    """Put the goal where a test needs it."""
    world._robots['robot_1'].goal_x, world._robots['robot_1'].goal_y = x, y


def test_same_seed_gives_the_same_trajectory_bit_for_bit() -> None:
    one, two = (drive(World(WorldConfig(), ['robot_1'], 7), 600) for _ in range(2))
    assert one == two
    assert one != drive(World(WorldConfig(), ['robot_1'], 8), 600)


def test_scanning_or_not_changes_no_trajectory() -> None:
    seen, blind = (World(WorldConfig(), ['robot_1'], 3) for _ in range(2))
    for i in range(500):
        for world in (seen, blind):
            world.command('robot_1', 0.6, math.cos(i / 7))
            world.step(DT)
        seen.scan('robot_1')
    assert seen.pose('robot_1') == blind.pose('robot_1')


def test_another_robot_changes_neither_the_obstacles_nor_the_draws() -> None:
    alone = World(WorldConfig(), ['robot_1'], 5)
    together = World(WorldConfig(), ['robot_1', 'robot_2', 'robot_3'], 5)
    assert np.array_equal(alone.obstacles, together.obstacles)
    assert alone.pose('robot_1') == together.pose('robot_1')
    assert alone.goal('robot_1') == together.goal('robot_1')
    for _ in range(20):
        for world in (alone, together):
            world.reset('robot_1')
        assert alone.pose('robot_1')[2] == together.pose('robot_1')[2]
    assert together.pose('robot_2') != together.pose('robot_3')


def test_acceleration_is_limited_and_speed_clamped() -> None:
    world = World(EMPTY, ['robot_1'], 1)
    place(world, -3.0, 0.0, 0.0)
    set_goal(world, 3.0, 3.0)
    world.command('robot_1', 99.0, -99.0)
    world.step(DT)
    assert world.velocity('robot_1') == pytest.approx((0.2, -1.0))
    for _ in range(4):
        world.step(DT)
    assert world.velocity('robot_1') == pytest.approx((0.6, -2.0))


def test_the_base_stops_by_itself_half_a_second_after_the_last_command() -> None:
    world = World(EMPTY, ['robot_1'], 1)
    place(world, -3.0, 0.0, 0.0)
    set_goal(world, 3.0, 3.0)
    world.command('robot_1', 0.6, 0.0)
    speeds = []
    for _ in range(10):
        world.step(DT)
        speeds.append(world.velocity('robot_1')[0])
    # Full speed until 0.5 s, then braking with 2 m/s^2.
    assert speeds == pytest.approx([0.2, 0.4, 0.6, 0.6, 0.6, 0.4, 0.2, 0.0, 0.0, 0.0])


def test_straight_and_circular_motion_follow_the_closed_form() -> None:
    world = World(WorldConfig(obstacles=0, linear_acceleration=50.0, angular_acceleration=500.0),
                  ['robot_1'], 1)
    place(world, 0.0, 0.0, 0.0)
    set_goal(world, 3.0, 3.0)
    for _ in range(100):  # a full turn on a circle of 0.5 m radius in 2 pi s
        world.command('robot_1', 0.5, 1.0)
        world.step(2 * math.pi / 100)
    assert world.pose('robot_1') == pytest.approx((0.0, 0.0, 0.0), abs=1e-6)


def test_reaching_the_goal_is_rewarded_and_moves_it() -> None:
    world = World(EMPTY, ['robot_1'], 1)
    place(world, 0.0, 0.0, 0.0)
    set_goal(world, 0.5, 0.0)
    assert world.goal_in_base('robot_1') == pytest.approx((0.5, 0.0))
    world.command('robot_1', 0.6, 0.0)
    outcomes = [world.step(DT)['robot_1'] for _ in range(4)]  # 2 + 4 + 6 + 6 cm
    x, y, _ = world.pose('robot_1')
    assert [o.event for o in outcomes] == ['', '', '', 'goal']
    assert sum(o.reward for o in outcomes) == pytest.approx(10 + 2 * 0.18 - 4 * 0.01)
    assert world.velocity('robot_1')[0] > 0.0  # the robot keeps going
    assert math.hypot(world.goal('robot_1')[0] - x, world.goal('robot_1')[1] - y) >= GOAL_DISTANCE


def test_a_collision_is_punished_and_puts_the_robot_back() -> None:
    world = World(EMPTY, ['robot_1'], 1)
    place(world, 3.7, 0.0, 0.0)
    set_goal(world, 3.7, 3.0)
    for _ in range(10):
        world.command('robot_1', 0.6, 0.0)
        outcome = world.step(DT)['robot_1']
        if outcome.terminal:
            break
    assert outcome.event == 'collision'
    assert outcome.reward == pytest.approx(-5.0, abs=0.2)
    assert world.velocity('robot_1') == (0.0, 0.0)
    assert world.goal('robot_1') == (3.7, 3.0)
    assert math.dist(world.goal('robot_1'), world.pose('robot_1')[:2]) >= GOAL_DISTANCE
    assert world.step(DT)['robot_1'].event == ''  # it stands; the old command is gone


def test_a_robot_that_is_run_into_has_not_collided() -> None:
    world = World(EMPTY, ['robot_1', 'robot_2'], 1)
    place(world, 0.0, 0.0, 0.0)
    place(world, 0.41, 0.0, 0.0, 'robot_2')
    set_goal(world, -3.0, 0.0)
    world.command('robot_1', 0.6, 0.0)
    outcomes = world.step(DT)
    assert (outcomes['robot_1'].event, outcomes['robot_2'].event) == ('collision', '')
    assert world.pose('robot_2') == (0.41, 0.0, 0.0)


def test_a_goal_out_of_reach_is_moved_without_ending_the_episode() -> None:
    world = World(WorldConfig(goal_time_limit=1.0), ['robot_1'], 1)
    goal = world.goal('robot_1')
    outcomes = [world.step(DT)['robot_1'] for _ in range(12)]
    assert world.goal('robot_1') != goal
    assert not any(o.terminal for o in outcomes)


def test_rays_against_closed_form_distances() -> None:
    angles = np.array([0.0, math.pi / 2, math.pi, -math.pi / 2, math.pi / 4])
    nothing = np.empty((0, 3))
    assert cast_rays(1.0, -2.0, angles, 4.0, nothing) == pytest.approx(
        [3.0, 6.0, 5.0, 2.0, 3.0 * math.sqrt(2)])
    circles = np.array([[3.0, -2.0, 0.5], [1.0, 1.0, 1.0], [-9.0, -2.0, 1.0]])
    assert cast_rays(1.0, -2.0, angles, 4.0, circles)[:4] == pytest.approx([1.5, 2.0, 5.0, 2.0])


def test_a_ray_beside_the_centre_meets_the_circle_where_pythagoras_says() -> None:
    distance = cast_rays(0.0, 0.3, np.array([0.0]), 4.0, np.array([[2.0, 0.0, 0.5]]))
    assert distance == pytest.approx([2.0 - 0.4])
    assert cast_rays(0.0, 0.51, np.array([0.0]), 4.0, np.array([[2.0, 0.0, 0.5]])) == pytest.approx([4.0])


def test_the_scan_turns_with_the_robot_and_sees_other_robots() -> None:
    world = World(EMPTY, ['robot_1', 'robot_2'], 1)
    place(world, 0.0, 0.0, math.pi / 2)
    place(world, 0.0, 1.5, 0.0, 'robot_2')
    scan = world.scan('robot_1')
    assert scan.dtype == np.float32 and scan.shape == (36,)
    assert scan[18] == pytest.approx(1.3)  # ahead: the other robot
    assert scan[0] == scan[9] == pytest.approx(4.0)  # behind and to the right: walls
    assert world.scan('robot_2')[9] == pytest.approx(1.3)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_command_that_is_no_number_is_refused_by_name(value: float) -> None:
    world = World(EMPTY, ['robot_1'], 1)
    world.command('robot_1', 0.3, 0.0)
    with pytest.raises(ValueError, match="command of 'robot_1': angular velocity must be finite"):
        world.command('robot_1', 0.1, value)
    with pytest.raises(ValueError, match='linear velocity must be finite'):
        world.command('robot_1', value, 0.0)
    assert world._robots['robot_1'].target_linear == 0.3


@pytest.mark.parametrize('fields, named', [
    ({'arena_size': math.nan}, 'arena_size'), ({'beams': 36.0}, 'beams'), ({'obstacles': -1}, 'obstacles'),
    ({'noise_std': 'small'}, 'noise_std'), ({'max_linear': True}, 'max_linear')])
def test_a_wrong_setting_is_refused_by_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"'{named}' must be"):
        WorldConfig(**fields)  # type: ignore[arg-type]


def test_a_wrong_world_is_refused() -> None:
    with pytest.raises(ValueError, match="'seed'"):
        World(EMPTY, ['robot_1'], -1)
    with pytest.raises(ValueError, match="'robots'"):
        World(EMPTY, ['robot_1', 'robot_1'], 1)
    with pytest.raises(ValueError, match=r"'arena_size' 8\.0 m has no room for 1 robots"):
        World(WorldConfig(obstacles=200), ['robot_1'], 1)
    world = World(EMPTY, ['robot_1'], 1)
    with pytest.raises(ValueError, match="unknown robot 'robot_2'; there are robot_1"):
        world.pose('robot_2')
    for dt in (0.0, -0.1, 0.5, math.nan):
        with pytest.raises(ValueError, match='dt must be within'):
            world.step(dt)


commands = st.lists(st.tuples(st.floats(-2, 2), st.floats(-4, 4), st.integers(1, 8)), max_size=40)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), programme=commands, robots=st.integers(1, 4))
def test_no_robot_leaves_the_arena_or_overlaps_anything_and_scans_stay_in_range(
        seed: int, programme: list[tuple[float, float, int]], robots: int) -> None:
    config = WorldConfig(arena_size=6.0, obstacles=5, noise_std=0.05)
    names = [f'robot_{i}' for i in range(robots)]
    world = World(config, names, seed)
    for linear, angular, steps in programme:
        for i, name in enumerate(names):
            world.command(name, linear, angular * (-1) ** i)
        for _ in range(steps):
            world.step(DT)
        places = [world.pose(name)[:2] for name in names]
        for i, (x, y) in enumerate(places):
            assert max(abs(x), abs(y)) <= 3.0 - config.robot_radius
            assert all(math.hypot(x - ox, y - oy) >= r + config.robot_radius - 1e-9
                       for ox, oy, r in world.obstacles)
            assert all(math.dist((x, y), other) >= 2 * config.robot_radius for other in places[:i])
            scan = world.scan(names[i])
            assert np.all((scan >= np.float32(config.range_min)) & (scan <= config.range_max))
