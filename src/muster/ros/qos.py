# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The quality-of-service profiles of Muster's topics, written down once (REP 2003 for sensors)."""
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(reliability: ReliabilityPolicy, durability: DurabilityPolicy, depth: int) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth,
                      reliability=reliability, durability=durability)


#: Latched state: a late subscriber gets the last message (`ros2 topic echo --once` answers).
STATUS = _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL, 1)
#: Numbered events: nothing may be skipped while the subscriber keeps up.
EVENTS = _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 100)
#: Sensor data: the newest matters, a lost sample does not.
SENSORS = _profile(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE, 5)
#: Actuator commands: the last one must arrive.
COMMANDS = _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 1)
#: Services that clients pipeline. What does not fit is lost without an error (rclpy's default is 10), so
#: it is more than any service has in flight: what is beyond its limit can still be refused in words.
SERVICES = _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 2048)
