# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The virtual devices that can be plugged into simulated robots."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Kind(NamedTuple):
    """What a virtual device says of itself."""

    name: str
    type: str
    capabilities: tuple[str, ...]


KINDS = {
    'base': Kind('Simulated differential drive', 'motor_controller', ('drive',)),
    'camera': Kind('Simulated camera', 'camera', ('video_capture',)),
    'depth_camera': Kind('Simulated depth camera', 'depth_camera', ('depth_capture', 'video_capture')),
    'gps': Kind('Simulated satellite receiver', 'gps', ('positioning',)),
    'imu': Kind('Simulated inertial sensor', 'imu', ('acceleration', 'angular_velocity')),
    'lidar': Kind('Simulated lidar', 'lidar', ('range_scan',)),
    'microphone': Kind('Simulated microphone', 'microphone', ('audio_capture',)),
}


def plugged(entries: Sequence[str], robots: Sequence[str]) -> dict[str, list[str]]:
    """
    Return the sorted kinds of devices of every robot.

    An entry is `<kind>`, for all robots, or `<robot>/<kind>`. Raises ValueError naming an unknown
    kind or robot and the known ones.
    """
    kinds: dict[str, set[str]] = {robot: set() for robot in robots}
    for entry in entries:
        robot, _, kind = entry.rpartition('/')
        if kind not in KINDS:
            raise ValueError(f"unknown kind of device in '{entry}'; known are {', '.join(KINDS)}")
        if robot and robot not in kinds:
            raise ValueError(f"unknown robot in '{entry}'; there are {', '.join(robots)}")
        for name in [robot] if robot else robots:
            kinds[name].add(kind)
    return {robot: sorted(found) for robot, found in kinds.items()}
