# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Whether somebody serves a service or an action: what the middleware says, and what it overlooks.

rmw_fastrtps finds no server as long as more are known to read requests than to write answers
(`rmw_service_server_is_available`). One server that is killed before both of its halves are discovered
makes all others of that name unavailable, itself after a restart too, until its lease is over: 20 s.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.node import Node

#: The first bytes of an endpoint's GID name its participant (RTPS 2.3, 8.2.4: GuidPrefix_t).
PARTICIPANT = 12
#: What an action is made of, besides topics (ROS 2's article "Actions").
PARTS = 'send_goal', 'cancel_goal', 'get_result'


def is_served(node: Node, client: Client) -> bool:
    """Return whether somebody serves what a client of this node asks for."""
    return bool(client.service_is_ready()) or _overlooked(node, client.service_name)


def is_action_served(node: Node, client: ActionClient, action: str) -> bool:
    """Return whether somebody serves the action of this full name that a client of this node asks for."""
    return client.server_is_ready() or _overlooked(node, *(f'{action}/_action/{part}' for part in PARTS))


def _overlooked(node: Node, *services: str) -> bool:
    """
    Return whether one participant serves all of these, and another one is known by some halves only.

    Without the other the middleware is right: its server may not have met this client yet. The topics
    are those of ROS 2's "Topic and Service name mapping to DDS"; a middleware that names them in another
    way knows no such participants.
    """
    halves: list[set[bytes]] = []
    for name in services:
        for ask, topic in ((node.get_subscriptions_info_by_topic, f'rq{name}Request'),
                           (node.get_publishers_info_by_topic, f'rr{name}Reply')):
            halves.append(_participants(ask(topic, no_mangle=True)))
            if not halves[-1]:
                return False    # nobody does this part: the usual case, so look no further
    whole = set.intersection(*halves)
    return bool(whole) and whole != set.union(*halves)


def _participants(endpoints: Iterable[Any]) -> set[bytes]:
    return {bytes(endpoint.endpoint_gid[:PARTICIPANT]) for endpoint in endpoints}
