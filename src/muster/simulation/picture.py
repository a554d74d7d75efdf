# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A picture of a world and of the ways its robots took, for machines without a display."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from muster.simulation.world import World
import numpy as np

COLOURS = ('#1f77b4', '#d95f02', '#7b3294', '#008837', '#c51b7d', '#4d4d4d')

#: Positions (x, y) in metres, oldest first.
Trajectory = Sequence[tuple[float, float]]


def draw(world: World, trajectories: Mapping[str, Trajectory], axes: Axes) -> None:
    """Draw walls, obstacles, and every robot with its trajectory, lidar rays and goal."""
    config, half = world.config, world.config.arena_size / 2
    axes.add_patch(Rectangle((-half, -half), 2 * half, 2 * half, fill=False, linewidth=2, color='#333333'))
    for x, y, radius in world.obstacles:
        axes.add_patch(Circle((x, y), radius, color='#9a9aa0'))
    for number, robot in enumerate(world.robots):
        colour = COLOURS[number % len(COLOURS)]
        _draw_rays(world, robot, colour, axes)
        path = np.array(trajectories.get(robot, ())).reshape(-1, 2)
        # A way that jumps is another one: the robot was put to a new place.
        jumps = np.flatnonzero(np.hypot(*np.diff(path, axis=0).T) > config.robot_radius) + 1
        for way in np.split(path, jumps):
            axes.plot(*way.T, color=colour, linewidth=1.2, alpha=0.8)
        x, y, heading = world.pose(robot)
        axes.add_patch(Circle((x, y), config.robot_radius, color=colour, label=robot, zorder=3))
        axes.plot([x, x + config.robot_radius * np.cos(heading)],
                  [y, y + config.robot_radius * np.sin(heading)], color='white', linewidth=2, zorder=4)
        axes.add_patch(Circle(world.goal(robot), config.goal_radius, facecolor='none', edgecolor=colour,
                              linestyle='--', linewidth=1.5))
        axes.plot(*world.goal(robot), marker='*', color=colour, markersize=9)
    axes.set(aspect='equal', xlim=(-half - 0.2, half + 0.2), ylim=(-half - 0.2, half + 0.2),
             xlabel='x [m]', ylabel='y [m]')


def _draw_rays(world: World, robot: str, colour: str, axes: Axes) -> None:
    x, y, heading = world.pose(robot)
    ranges, angles = world.scan(robot), world.config.beam_angles + heading
    ends = np.stack((x + ranges * np.cos(angles), y + ranges * np.sin(angles)))
    for end in ends.T:
        axes.plot([x, end[0]], [y, end[1]], color=colour, linewidth=0.5, alpha=0.25)
    met = ranges < world.config.range_max
    axes.plot(*ends[:, met], '.', color=colour, markersize=4)


def save(world: World, trajectories: Mapping[str, Trajectory], path: Path) -> None:
    """Write the picture of a world as PNG; `trajectories` are by robot and may be missing."""
    figure = Figure(figsize=(6.4, 6.4), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(world, trajectories, axes)
    figure.legend(loc='outside upper center', ncols=4, frameon=False)
    figure.savefig(path, dpi=90)
