# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Nodes in the test's own process, in a ROS domain of their own."""
from __future__ import annotations

from collections.abc import Callable, Iterator

from processes import reserved_domain
import pytest
import rclpy
from sample import Sample


@pytest.fixture
def make() -> Iterator[Callable[..., Sample]]:
    """Give a function that makes a sample node with the given ROS arguments."""
    with reserved_domain() as domain:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        nodes: list[Sample] = []

        def made(*arguments: str, namespace: str = 'robot_1') -> Sample:
            node = Sample(context=context, namespace=namespace, cli_args=['--ros-args', *arguments])
            nodes.append(node)
            return node
        yield made
        for node in nodes:
            node.destroy_node()
        rclpy.try_shutdown(context=context)
