# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Whether somebody serves a service, where the middleware knows half of a server that was killed."""
from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import subprocess
import sys

from muster.cluster.loop import Loop
from muster.ros.middleware import FILE, OLD_FILE
from muster.ros.qos import SERVICES
from muster.ros.servers import is_action_served, is_served
from muster_interfaces.action import ExecuteTask
from processes import reserved_domain, wait_until
import pytest
import rclpy
from rclpy.action import ActionClient, ActionServer
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

SERVICE, ACTION = '/robot_1/work', '/robot_1/tasks/wait'
#: What a participant reads for them.
REQUESTS = f'rq{SERVICE}Request', f'rq{ACTION}/_action/send_goalRequest'
#: A participant that tells others of what it reads and not of what it writes: what is known of one that
#: is killed between the two.
HALF = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <profiles><participant profile_name="half" is_default_profile="true"><rtps><builtin><discovery_config>
    <EDP>SIMPLE</EDP>
    <simpleEDP>
      <PUBWRITER_SUBREADER>false</PUBWRITER_SUBREADER>
      <PUBREADER_SUBWRITER>true</PUBREADER_SUBWRITER>
    </simpleEDP>
  </discovery_config></builtin></rtps></participant></profiles>
</dds>
"""
SERVER = f"""
from muster_interfaces.action import ExecuteTask
import rclpy
from rclpy.action import ActionServer
from std_srvs.srv import Trigger
rclpy.init()
node = rclpy.create_node('half')
node.create_service(Trigger, '{SERVICE}', lambda request, response: response)
ActionServer(node, ExecuteTask, '{ACTION}', lambda goal: ExecuteTask.Result())
rclpy.spin(node)
"""


@pytest.fixture
def domain() -> Iterator[int]:
    """Reserve a ROS domain."""
    with reserved_domain() as number:
        yield number


@pytest.fixture
def node(domain: int) -> Iterator[Node]:
    """Give a node."""
    yield from participant(domain, 'sample')


@pytest.fixture
def server(domain: int) -> Iterator[Node]:
    """Give a node of another participant."""
    yield from participant(domain, 'server')


def participant(domain: int, name: str) -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node(name, context=context)
    yield node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture
def half_known(domain: int, node: Node, tmp_path: Path) -> Iterator[None]:
    """Let the node know half of a server that has been killed: for 20 s it counts as there."""
    profile = tmp_path / 'half.xml'
    profile.write_text(HALF)
    environment = {**os.environ, FILE: str(profile), OLD_FILE: str(profile), 'ROS_DOMAIN_ID': str(domain)}
    with subprocess.Popen([sys.executable, '-c', SERVER], env=environment) as process:
        try:
            wait_until(lambda: all(node.get_subscriptions_info_by_topic(topic, no_mangle=True)
                                   for topic in REQUESTS), 20, 'the half')
        finally:
            process.kill()
    yield


def serve(server: Node) -> None:
    def work(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = 'done'
        return response
    server.create_service(Trigger, SERVICE, work)


@pytest.mark.processes
def test_a_server_is_found_beside_one_that_died_half_known(node: Node, server: Node,
                                                           half_known: None) -> None:
    client = node.create_client(Trigger, SERVICE)
    assert not is_served(node, client), 'half a server is none'
    serve(server)
    wait_until(lambda: is_served(node, client), 15, 'it is found')     # the other's lease goes on for longer
    assert not client.service_is_ready(), 'else the middleware has learnt it: delete servers.py'


@pytest.mark.processes
def test_an_action_is_found_beside_one_whose_server_died_half_known(node: Node, server: Node,
                                                                    half_known: None) -> None:
    client = ActionClient(node, ExecuteTask, ACTION)
    assert not is_action_served(node, client, ACTION), 'half a server is none'
    ActionServer(server, ExecuteTask, ACTION, lambda goal: ExecuteTask.Result())
    wait_until(lambda: is_action_served(node, client, ACTION), 15, 'it is found')
    assert not client.server_is_ready()


@pytest.mark.processes
def test_the_cluster_asks_a_server_beside_one_that_died_half_known(node: Node, server: Node,
                                                                   half_known: None) -> None:
    loop = Loop(node, lambda: 0, lambda error: None)
    caller = loop.client(Trigger, SERVICE, SERVICES)
    serve(server)
    wait_until(lambda: caller.ready, 15, 'it is found')
    executor = SingleThreadedExecutor(context=server.context)
    executor.add_node(server)
    answers: list[Trigger.Response] = []

    def answered() -> list[Trigger.Response]:
        caller.call(Trigger.Request(), answers.append)    # again: the server may not have met its client yet
        executor.spin_once(timeout_sec=0.01)
        loop.turn(10_000_000)
        return answers
    try:
        wait_until(answered, 15, 'it answers')
    finally:
        executor.shutdown()
        loop.stop()
    assert answers[0].message == 'done'


def test_a_server_is_found_where_nobody_is_known_by_half(node: Node, server: Node) -> None:
    client = node.create_client(Trigger, SERVICE)
    serve(server)
    wait_until(lambda: is_served(node, client), 20, 'it is found')
    assert client.service_is_ready()


def test_nobody_serves_what_is_not_there(node: Node) -> None:
    assert not is_served(node, node.create_client(Trigger, SERVICE))
