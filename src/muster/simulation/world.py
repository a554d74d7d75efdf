# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
A 2-D world: robots with differential drive and lidar among round obstacles, each seeking a goal.

It knows no ROS, clock or file. Two worlds with the same configuration, robots and seed that are
given the same commands and steps are equal bit for bit. Coordinates follow REP 103: metres and
radians, x forward, y left, angles counter-clockwise; the origin is the middle of the arena.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, Field, field, fields
import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Radii of the obstacles [m], drawn uniformly.
OBSTACLE_RADII = (0.15, 0.4)
#: What is placed at random stays so far from everything else [m].
MARGIN = 0.1
#: A goal and its robot are placed at least so far apart [m].
GOAL_DISTANCE = 1.0
#: Candidates drawn for one placement. The number is fixed, so that what stands in the way of a
#: robot changes where it is put, but never what it draws later.
CANDIDATES = 64


def _setting(default: float, description: str, minimum: float, maximum: float) -> Any:
    return field(default=default, metadata={
        'description': description, 'minimum': minimum, 'maximum': maximum})


@dataclass(frozen=True)
class WorldConfig:
    """
    The settings of a world; each field's metadata has its description, unit and inclusive range.

    Raises ValueError naming the field that is out of its range or of the wrong type.
    """

    arena_size: float = _setting(8.0, 'Side of the square arena, m.', 3.0, 100.0)
    obstacles: int = _setting(6, 'Number of round obstacles.', 0, 200)
    robot_radius: float = _setting(0.2, 'Radius of a robot, m.', 0.05, 0.5)
    goal_radius: float = _setting(0.35, 'A goal is reached when the robot is this near, m.', 0.05, 0.9)
    beams: int = _setting(36, 'Lidar beams, evenly over 360 degrees.', 4, 1440)
    range_min: float = _setting(0.05, 'Shortest distance the lidar reports, m.', 0.0, 1.0)
    range_max: float = _setting(5.0, 'Longest distance the lidar reports, also for no echo, m.', 1.0, 100.0)
    noise_std: float = _setting(0.01, 'Standard deviation of the lidar noise, m.', 0.0, 1.0)
    max_linear: float = _setting(0.6, 'Greatest speed, forward and backward, m/s.', 0.05, 5.0)
    max_angular: float = _setting(2.0, 'Greatest rate of turn, rad/s.', 0.1, 10.0)
    linear_acceleration: float = _setting(2.0, 'Limit of acceleration and braking, m/s^2.', 0.1, 50.0)
    angular_acceleration: float = _setting(10.0, 'Limit of angular acceleration, rad/s^2.', 0.1, 500.0)
    command_timeout: float = _setting(
        0.5, 'The base brakes by itself so long after the last command, s of simulated time.', 0.05, 10.0)
    goal_reward: float = _setting(10.0, 'Reward for reaching the goal.', -1e3, 1e3)
    collision_reward: float = _setting(-5.0, 'Reward for a collision.', -1e3, 1e3)
    progress_reward: float = _setting(2.0, 'Reward for each metre nearer to the goal.', -1e3, 1e3)
    step_reward: float = _setting(-0.01, 'Reward for each step.', -1e3, 1e3)
    goal_time_limit: float = _setting(
        60.0, 'A goal not reached in this time is moved, which ends no episode, s of simulated time.',
        1.0, 1e6)

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        for setting in fields(self):
            _check(setting, getattr(self, setting.name))

    @property
    def max_step(self) -> float:
        """Return the longest step [s]: in it no robot moves by more than its own radius."""
        return self.robot_radius / self.max_linear

    @property
    def beam_angles(self) -> Floats:
        """Return the beams' angles in the base frame, float64[beams], from -pi counter-clockwise."""
        return np.linspace(-math.pi, math.pi, self.beams, endpoint=False)


def _check(setting: Field[Any], value: Any) -> None:
    allowed = (int,) if isinstance(setting.default, int) else (int, float)
    minimum, maximum = setting.metadata['minimum'], setting.metadata['maximum']
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise ValueError(f"'{setting.name}' must be of type {allowed[-1].__name__}, not {value!r}")
    if not minimum <= value <= maximum:  # also true for NaN
        raise ValueError(f"'{setting.name}' must be within {minimum}..{maximum}, not {value}")


class Outcome(NamedTuple):
    """What one step brought one robot; after a terminal step it stands before a new episode."""

    reward: float
    terminal: bool
    event: Literal['', 'goal', 'collision']


@dataclass(slots=True)
class _Robot:
    """The state of one robot; targets are what the last command asked for."""

    name: str
    places: np.random.Generator
    noise: np.random.Generator
    x: float = 0.0
    y: float = 0.0
    heading: float = 0.0
    linear: float = 0.0
    angular: float = 0.0
    target_linear: float = 0.0
    target_angular: float = 0.0
    commanded: float = -math.inf
    goal_x: float = 0.0
    goal_y: float = 0.0
    goal_since: float = 0.0

    @property
    def goal_distance(self) -> float:
        return math.hypot(self.goal_x - self.x, self.goal_y - self.y)


class World:
    """
    The arena, its obstacles and robots.

    Obstacles keep a gap to one another and to the walls that a robot can pass, so every goal can
    be reached. Robots move one after the other in the given order; one that would touch a wall,
    an obstacle or a robot has collided, the one it ran into has not. Every robot draws from
    streams of its own, named by seed and robot.
    """

    def __init__(self, config: WorldConfig, robots: Sequence[str], seed: int) -> None:
        """
        Place obstacles, robots and goals by `seed` (>= 0).

        Raises ValueError where the seed is negative, a robot is named twice, or robots or
        obstacles do not fit into the arena.
        """
        if seed < 0:
            raise ValueError(f"'seed' must be at least 0, not {seed}")
        if not robots or len(set(robots)) != len(robots):
            raise ValueError(f"'robots' must be at least one name, each once, not {list(robots)}")
        self.config = config
        self.robots = tuple(robots)
        self.time = 0.0
        self._half = config.arena_size / 2
        self._check_room()
        self._obstacles = self._place_obstacles(_stream(seed, 0))
        self._beams = config.beam_angles
        self._reaches = [(x, y, (radius + config.robot_radius) ** 2) for x, y, radius in self._obstacles]
        self._robots: dict[str, _Robot] = {}
        for name in robots:
            self._robots[name] = _Robot(name, _stream(seed, 1, name), _stream(seed, 2, name))
            self.reset(name)

    @property
    def obstacles(self) -> Floats:
        """Return centre and radius of every obstacle, float64[obstacles, 3] in metres (a copy)."""
        return self._obstacles.copy()

    # What robots do ---------------------------------------------------------------------------
    def command(self, robot: str, linear: float, angular: float) -> None:
        """
        Ask for a speed [m/s] and a rate of turn [rad/s]; both are clamped to what the base can do.

        Raises ValueError, and changes nothing, where a value is NaN or infinite.
        """
        state = self._of(robot)
        for name, value in (('linear', linear), ('angular', angular)):
            if not math.isfinite(value):
                raise ValueError(f"command of '{robot}': {name} velocity must be finite, not {value}")
        state.target_linear = _clamp(linear, self.config.max_linear)
        state.target_angular = _clamp(angular, self.config.max_angular)
        state.commanded = self.time

    def step(self, dt: float) -> dict[str, Outcome]:
        """
        Advance time by `dt` seconds and return each robot's outcome.

        Raises ValueError unless 0 < dt <= `config.max_step`.
        """
        if not 0.0 < dt <= self.config.max_step:
            raise ValueError(f'dt must be within 0..{self.config.max_step:.4g} s, not {dt}: '
                             'make several shorter steps')
        outcomes = {name: self._advance(robot, dt) for name, robot in self._robots.items()}
        self.time += dt
        return outcomes

    def reset(self, robot: str) -> None:
        """Put a robot, standing, to a random free pose and give it a new goal."""
        state = self._of(robot)
        state.goal_x = state.goal_y = math.inf  # far from any pose: the old goal does not matter
        self._put(state)
        self._move_goal(state)

    # What robots sense ------------------------------------------------------------------------
    def pose(self, robot: str) -> tuple[float, float, float]:
        """Return x [m], y [m] and heading [rad, within -pi..pi] in the world frame."""
        state = self._of(robot)
        return state.x, state.y, state.heading

    def velocity(self, robot: str) -> tuple[float, float]:
        """Return the present speed [m/s] and rate of turn [rad/s]."""
        state = self._of(robot)
        return state.linear, state.angular

    def goal(self, robot: str) -> tuple[float, float]:
        """Return the goal's position [m] in the world frame."""
        state = self._of(robot)
        return state.goal_x, state.goal_y

    def goal_in_base(self, robot: str) -> tuple[float, float]:
        """Return the goal's position [m] in the robot's frame: x forward, y left."""
        state = self._of(robot)
        dx, dy = state.goal_x - state.x, state.goal_y - state.y
        cos, sin = math.cos(state.heading), math.sin(state.heading)
        return cos * dx + sin * dy, cos * dy - sin * dx

    def scan(self, robot: str) -> npt.NDArray[np.float32]:
        """
        Return the lidar's distances [m], float32[beams] within range_min..range_max.

        Beam i points to `config.beam_angles[i]`: beam 0 backwards, beam beams/2 ahead. A beam
        that meets nothing reports range_max. Each call draws new noise.
        """
        state, config = self._of(robot), self.config
        others = [(o.x, o.y, config.robot_radius) for o in self._robots.values() if o is not state]
        circles = np.concatenate((self._obstacles, others)) if others else self._obstacles
        angles = self._beams + state.heading
        ranges = cast_rays(state.x, state.y, angles, self._half, circles)
        if config.noise_std:
            ranges += state.noise.normal(0.0, config.noise_std, config.beams)
        return np.clip(ranges, config.range_min, config.range_max).astype(np.float32)

    # How the world works ----------------------------------------------------------------------
    def _of(self, robot: str) -> _Robot:
        try:
            return self._robots[robot]
        except KeyError:
            raise ValueError(f"unknown robot '{robot}'; there are {', '.join(self.robots)}") from None

    def _advance(self, robot: _Robot, dt: float) -> Outcome:
        """Move one robot: the unicycle model, second order (heading of half the step)."""
        config = self.config
        if self.time - robot.commanded > config.command_timeout - 1e-9:  # sums of dt are not exact
            robot.target_linear = robot.target_angular = 0.0
        robot.linear += _clamp(robot.target_linear - robot.linear, config.linear_acceleration * dt)
        robot.angular += _clamp(robot.target_angular - robot.angular, config.angular_acceleration * dt)
        before = robot.goal_distance
        middle = robot.heading + robot.angular * dt / 2
        robot.x += robot.linear * math.cos(middle) * dt
        robot.y += robot.linear * math.sin(middle) * dt
        robot.heading = math.remainder(robot.heading + robot.angular * dt, 2 * math.pi)
        reward = config.step_reward + config.progress_reward * (before - robot.goal_distance)
        if self._collides(robot):
            self._put(robot)
            return Outcome(reward + config.collision_reward, True, 'collision')
        if robot.goal_distance <= config.goal_radius:
            self._move_goal(robot)
            return Outcome(reward + config.goal_reward, True, 'goal')
        if self.time + dt - robot.goal_since > config.goal_time_limit:
            self._move_goal(robot)
        return Outcome(reward, False, '')

    def _collides(self, robot: _Robot) -> bool:
        x, y = robot.x, robot.y
        limit = self._half - self.config.robot_radius
        if abs(x) > limit or abs(y) > limit:
            return True
        if any((x - ox) ** 2 + (y - oy) ** 2 < reach for ox, oy, reach in self._reaches):
            return True
        return any(math.hypot(x - other.x, y - other.y) < 2 * self.config.robot_radius
                   for other in self._robots.values() if other is not robot)

    def _put(self, robot: _Robot) -> None:
        radius = self.config.robot_radius
        others = [(o.x, o.y, radius) for o in self._robots.values() if o is not robot]
        robot.x, robot.y = self._free_place(
            robot.places, [*others, (robot.goal_x, robot.goal_y, GOAL_DISTANCE - radius - MARGIN)])
        robot.heading = float(robot.places.uniform(-math.pi, math.pi))
        robot.linear = robot.angular = robot.target_linear = robot.target_angular = 0.0
        robot.commanded = -math.inf

    def _move_goal(self, robot: _Robot) -> None:
        apart = (robot.x, robot.y, GOAL_DISTANCE - self.config.robot_radius - MARGIN)
        robot.goal_x, robot.goal_y = self._free_place(robot.places, [apart])
        robot.goal_since = self.time

    # Placement --------------------------------------------------------------------------------
    def _check_room(self) -> None:
        """Make sure that at least a third of all random places are always free."""
        config, clearance = self.config, self.config.robot_radius + MARGIN
        side = config.arena_size - 2 * clearance
        blocked = math.pi * (config.obstacles * (OBSTACLE_RADII[1] + clearance) ** 2
                             + (len(self.robots) - 1) * (config.robot_radius + clearance) ** 2
                             + GOAL_DISTANCE ** 2)
        if blocked > side ** 2 * 2 / 3:
            raise ValueError(
                f"'arena_size' {config.arena_size} m has no room for {len(self.robots)} robots and "
                f"{config.obstacles} obstacles: enlarge it or lessen 'obstacles' or 'robots'")

    def _place_obstacles(self, places: np.random.Generator) -> Floats:
        """Return obstacles, float64[obstacles, 3], with gaps that a robot can pass."""
        gap = 2 * (self.config.robot_radius + MARGIN)
        placed: list[tuple[float, float, float]] = []
        for _ in range(self.config.obstacles):
            radius = float(places.uniform(*OBSTACLE_RADII))
            place = next(self._candidates(places, radius + gap, np.array(placed).reshape(-1, 3)), None)
            if place is None:
                raise ValueError(
                    f"'arena_size' {self.config.arena_size} m has no room for {self.config.obstacles} "
                    "obstacles with gaps for the robots: enlarge it or lessen 'obstacles'")
            placed.append((*place, radius))
        return np.array(placed).reshape(-1, 3)

    def _free_place(self, places: np.random.Generator,
                    more: list[tuple[float, float, float]]) -> tuple[float, float]:
        """Return a place that keeps a robot off walls, obstacles and the circles `more`."""
        circles = np.concatenate((self._obstacles, more))
        while True:  # after _check_room a block without a free place has the probability (2/3)^64
            for place in self._candidates(places, self.config.robot_radius + MARGIN, circles):
                return place

    def _candidates(self, places: np.random.Generator, clearance: float,
                    circles: Floats) -> Iterator[tuple[float, float]]:
        """Yield those of CANDIDATES random places that are `clearance` off walls and `circles`."""
        limit = self._half - clearance
        drawn = places.uniform(-1.0, 1.0, (CANDIDATES, 2)) * limit
        gaps = np.hypot(drawn[:, None, 0] - circles[:, 0], drawn[:, None, 1] - circles[:, 1])
        for x, y in drawn[(gaps >= circles[:, 2] + clearance).all(axis=1)]:
            yield float(x), float(y)


def cast_rays(x: float, y: float, angles: Floats, half: float, circles: Floats) -> Floats:
    """
    Return the distance from (x, y) to the first thing met in each direction, float64[rays].

    `angles` are in the world frame [rad]; the walls are at +-`half`; `circles` are float64[n, 3]
    of centre and radius. The point must be inside the walls and outside the circles.
    """
    cos, sin = np.cos(angles), np.sin(angles)
    with np.errstate(divide='ignore'):  # parallel to a wall: infinitely far
        ranges = np.minimum((np.copysign(half, cos) - x) / cos, (np.copysign(half, sin) - y) / sin)
    if len(circles):
        dx, dy = circles[:, 0] - x, circles[:, 1] - y
        along = cos[:, None] * dx + sin[:, None] * dy
        # Half the chord squared, from the centre's distance to the ray: |o|^2 - along^2.
        half_chord = circles[:, 2] ** 2 - (dx * dx + dy * dy - along * along)
        met = (half_chord >= 0.0) & (along > 0.0)
        entry = np.where(met, along - np.sqrt(np.maximum(half_chord, 0.0)), np.inf)
        ranges = np.minimum(ranges, entry.min(axis=1))
    return ranges


def _clamp(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


def _stream(seed: int, purpose: int, name: str = '') -> np.random.Generator:
    key = (purpose, *name.encode())
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
