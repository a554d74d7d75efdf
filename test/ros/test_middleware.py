# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is asked of the middleware by its environment."""
from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

from muster.ros.middleware import (
    ANNOUNCING,
    avoid_shared_memory,
    FILE,
    OLD_FILE,
    OLD_RANGE,
    PEERS,
    RANGE,
    TRANSPORTS,
    UDP_ON_THIS_MACHINE,
    without_shared_memory,
)
from processes import reserved_domain
import pytest

VARIABLES = TRANSPORTS, FILE, OLD_FILE, RANGE, OLD_RANGE, PEERS
#: Makes a participant and tells what shared memory it has, and its profile.
PROGRAM = f"""
import os
from pathlib import Path
import rclpy
from muster.ros.middleware import avoid_shared_memory
avoid_shared_memory(whole_process=True)
rclpy.init()
rclpy.create_node('sample')
print('/dev/shm/fastrtps' in Path('/proc/self/maps').read_text(), os.environ['{FILE}'])
"""

MESSAGES = 2000
#: Receives from another process, until it is killed.
RECEIVER = """
import rclpy
from muster.ros.middleware import avoid_shared_memory
from std_msgs.msg import Int32
avoid_shared_memory(whole_process=True)
rclpy.init()
node = rclpy.create_node('receiver')
node.create_subscription(Int32, 'numbers', lambda number: None, 10)
rclpy.spin(node)
"""
#: Sends to it; prints how often the thread of Fast DDS' timers slept meanwhile, and how long that took.
SENDER = f"""
from pathlib import Path
import re
import time
import rclpy
from muster.ros.middleware import avoid_shared_memory
from rclpy.event_handler import PublisherEventCallbacks
from std_msgs.msg import Int32

def wakings():
    timers = next(task for task in Path('/proc/self/task').iterdir()
                  if (task / 'comm').read_text().startswith('dds.ev'))
    return int(re.search('\\nvoluntary_ctxt_switches:.([0-9]+)', (timers / 'status').read_text())[1])

avoid_shared_memory(whole_process=True)
rclpy.init()
node, heard = rclpy.create_node('sender'), rclpy.Future()
publisher = node.create_publisher(
    Int32, 'numbers', 10, event_callbacks=PublisherEventCallbacks(matched=heard.set_result))
rclpy.spin_until_future_complete(node, heard, timeout_sec=30)
assert heard.done(), 'nobody listens'
before, begun = wakings(), time.monotonic()
for number in range({MESSAGES}):
    publisher.publish(Int32(data=number))
print(wakings() - before, time.monotonic() - begun)
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Give an environment in which nobody has chosen; it is as before afterwards."""
    for name in VARIABLES:
        monkeypatch.setenv(name, '')      # so that it is put back, whatever the test does
        monkeypatch.delenv(name)
    return monkeypatch


def chosen() -> dict[str, str]:
    """Return what is set of the variables."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def profile(file: Path) -> dict[str, str]:
    """Return the choice of a file of profiles."""
    return {FILE: str(file), OLD_FILE: str(file)}


@pytest.mark.usefixtures('environment')
def test_where_nobody_chose_it_is_udp() -> None:
    avoid_shared_memory(whole_process=True)
    avoid_shared_memory(whole_process=True)
    assert chosen() == {TRANSPORTS: 'UDPv4', **profile(ANNOUNCING)}


@pytest.mark.parametrize('value', [None, ''])
def test_a_program_of_others_keeps_its_environment(value: str | None,
                                                   environment: pytest.MonkeyPatch) -> None:
    if value is not None:
        environment.setenv(TRANSPORTS, value)
    before = chosen()
    with without_shared_memory():
        assert chosen() == {TRANSPORTS: 'UDPv4', **profile(ANNOUNCING)}
    assert chosen() == before
    environment.setenv(OLD_RANGE, '1')
    with without_shared_memory(whole_process=True):
        assert chosen() == {TRANSPORTS: 'UDPv4', RANGE: 'SYSTEM_DEFAULT', **profile(UDP_ON_THIS_MACHINE)}
    assert chosen() == {**before, OLD_RANGE: '1'}


@pytest.mark.parametrize(('name', 'value'),
                         [(TRANSPORTS, 'LARGE_DATA'), (FILE, 'x.xml'), (OLD_FILE, 'x.xml')])
def test_a_choice_stands(name: str, value: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv(name, value)
    environment.setenv(RANGE, 'LOCALHOST')
    avoid_shared_memory(whole_process=True)
    assert chosen() == {name: value, RANGE: 'LOCALHOST'}


@pytest.mark.parametrize(('name', 'value'), [(RANGE, 'LOCALHOST'), (OLD_RANGE, '1')])
def test_on_this_machine_a_profile_means_the_same(name: str, value: str,
                                                  environment: pytest.MonkeyPatch) -> None:
    environment.setenv(name, value)
    avoid_shared_memory(whole_process=False)   # a participant may have read its profiles already
    assert chosen() == {TRANSPORTS: 'UDPv4', name: value, **profile(ANNOUNCING)}
    for variable in (TRANSPORTS, FILE, OLD_FILE):
        environment.delenv(variable)
    avoid_shared_memory(whole_process=True)
    assert chosen() == {TRANSPORTS: 'UDPv4', RANGE: 'SYSTEM_DEFAULT', **profile(UDP_ON_THIS_MACHINE)}


def test_static_peers_are_not_lost(environment: pytest.MonkeyPatch) -> None:
    environment.setenv(RANGE, 'LOCALHOST')
    environment.setenv(PEERS, '192.0.2.7')
    avoid_shared_memory(whole_process=True)
    assert chosen() == {TRANSPORTS: 'UDPv4', RANGE: 'LOCALHOST', PEERS: '192.0.2.7', **profile(ANNOUNCING)}


@pytest.mark.processes
@pytest.mark.parametrize('area', ['LOCALHOST', 'SUBNET'])
def test_what_is_sent_wakes_no_other_thread_each_time(area: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with reserved_domain() as domain:
        environment |= {RANGE: area, 'ROS_DOMAIN_ID': str(domain), 'ROS_LOG_DIR': str(tmp_path)}
        with subprocess.Popen([sys.executable, '-c', RECEIVER], env=environment) as receiver:
            try:
                sender = subprocess.run([sys.executable, '-c', SENDER], env=environment, capture_output=True,
                                        text=True, timeout=60, check=True)
            finally:
                receiver.kill()
    times, seconds = map(float, sender.stdout.split())
    # Some to begin with, and a few in each 4 ms: 10 to 80 in 30 ms; with Fast DDS' own settings 440 to 3,100.
    assert times < 200 + 5 * seconds / 0.004


@pytest.mark.processes
@pytest.mark.parametrize(('area', 'file'), [('LOCALHOST', UDP_ON_THIS_MACHINE), ('SUBNET', ANNOUNCING)])
def test_a_participant_has_no_shared_memory(area: str, file: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with reserved_domain() as domain:
        environment |= {RANGE: area, 'ROS_DOMAIN_ID': str(domain), 'ROS_LOG_DIR': str(tmp_path)}
        program = subprocess.run([sys.executable, '-c', PROGRAM], env=environment, capture_output=True,
                                 text=True, timeout=60, check=True)
    assert program.stdout.split() == ['False', str(file)]
    assert program.stderr == ''
