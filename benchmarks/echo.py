# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A process that sends every packet back: what one round trip over DDS costs without a service."""
from __future__ import annotations

from collections.abc import Callable
import time

from muster_interfaces.msg import ClusterPacket
import rclpy
from rclpy.node import Node
from ros_client import RosClient

THERE, BACK = '/benchmark/there', '/benchmark/back'
BYTES, DEPTH = 64, 10
#: So long (seconds) the packets of the discovery may take to come back.
SETTLE = 0.5


def round_trips(client: RosClient, count: int) -> list[float]:
    """Return the seconds of round trips to the echo process that runs in the same ROS domain."""
    received: list[ClusterPacket] = []
    publisher = client.node.create_publisher(ClusterPacket, THERE, DEPTH)
    client.listen(ClusterPacket, BACK, received.append, DEPTH)
    packet = ClusterPacket(data=bytes(BYTES))
    # The first ones are lost until both ways are discovered.
    client.spin_until(lambda: publisher.publish(packet) or received, 30, 'the echo')
    client.spin(SETTLE)

    def once() -> float:
        received.clear()
        begun = time.perf_counter()
        publisher.publish(packet)
        client.spin_until(lambda: received, 5, 'the packet to come back')
        return time.perf_counter() - begun

    return [once() for _ in range(count)]


def main() -> None:
    """Send everything back until killed."""
    rclpy.init()
    node = Node('echo', enable_rosout=False, start_parameter_services=False)
    publisher = node.create_publisher(ClusterPacket, BACK, DEPTH)
    answer: Callable[[ClusterPacket], None] = publisher.publish
    node.create_subscription(ClusterPacket, THERE, answer, DEPTH)
    rclpy.spin(node)


if __name__ == '__main__':
    main()
