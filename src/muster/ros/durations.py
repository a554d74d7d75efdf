# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Durations of ROS messages, and the whole nanoseconds that the cores count in."""
from builtin_interfaces.msg import Duration

SECOND = 1_000_000_000


def duration(nanoseconds: int) -> Duration:
    """Return a ROS duration."""
    return Duration(sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND)


def nanoseconds(value: Duration) -> int:
    """Return the nanoseconds of a ROS duration."""
    return int(value.sec) * SECOND + int(value.nanosec)
