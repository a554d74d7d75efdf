# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The hardware node: how fast a plugged device is known, how fast all devices are, and what idling costs.

A network interface of the real kernel (TAP) is plugged in and pulled out, which needs root. The
time runs from the kernel's own event, which this process listens to as well.
"""
from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
import fcntl
import os
from pathlib import Path
import socket
import struct
import tempfile
import threading
import time

from fleet import Fleet, reserved_domain
from harness import awake, DISK, percentile, processor_share, Results
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from muster.ros import qos
from muster_interfaces.msg import DeviceArray, DeviceEvent
from ros_client import RosClient
from std_srvs.srv import Trigger

NODE = '/robot_1/hardware'
PLUGS, STARTS, IDLE_SECONDS = 100, 10, 10.0
INTERFACE = 'muster_bench'
#: linux/if_tun.h
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
#: linux/netlink.h
NETLINK_KOBJECT_UEVENT, KERNEL_GROUP = 15, 1


def main() -> None:
    """Measure all of it."""
    results = Results('hardware')
    with node({'disconnect_grace': 0.0}) as (_, client), awake():
        plug_and_pull(results, client)
    with node({'autostart': False}) as (_, client), awake():
        starts = [start(client, number) for number in range(STARTS)]
    for percent, name in ((50, 'p50'), (100, 'max')):
        results.add(f'activation to the complete list, {name}', percentile(starts, percent), 'ms',
                    at_most=300)
    with node({}) as (pid, client):
        client.call(Trigger, f'{NODE}/scan')
        share = processor_share([pid], IDLE_SECONDS, client.spin)[0]
        results.add('idle processor, a scan every 5 s', share, '% of a core', at_most=0.1)
    results.finish()


@contextmanager
def node(parameters: dict[str, object]) -> Iterator[tuple[int, RosClient]]:
    """Run a hardware node in a ROS domain of its own; give its process and a client."""
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    with tempfile.TemporaryDirectory(prefix='muster-benchmark-', dir=DISK) as folder, \
            reserved_domain() as domain:
        fleet, client = Fleet(Path(folder), domain), RosClient(domain)
        try:
            yield fleet.start_node('muster.hardware.node', 'robot_1', parameters).pid, client
        finally:
            client.close()
            fleet.close()


def plug_and_pull(results: Results, client: RosClient) -> None:
    """Report the time from the kernel's event to the one that this process receives."""
    events: list[tuple[int, float]] = []
    kernel: dict[str, float] = {}
    threading.Thread(target=_listen, args=(kernel,), daemon=True).start()

    def keep(event: DeviceEvent) -> None:
        if event.device.id == f'net-{INTERFACE}':
            events.append((event.type, time.perf_counter()))

    client.listen(DeviceEvent, f'{NODE}/events', keep, qos.EVENTS)
    client.call(Trigger, f'{NODE}/scan')
    client.spin_until(lambda: client.node.count_publishers(f'{NODE}/events'), 20, 'the topic of the events')

    def until(kind: int, action: str) -> float:
        client.spin_until(lambda: any(type_ == kind for type_, _ in events) and action in kernel, 10,
                          'the event of a device')
        took = 1e3 * (next(at for type_, at in events if type_ == kind) - kernel.pop(action))
        events.clear()
        return took

    plugged, pulled = [], []
    try:
        with ThreadPoolExecutor(1) as hand:  # the kernel returns long after its event
            for _ in range(PLUGS):
                tap = hand.submit(_plug)
                plugged.append(until(DeviceEvent.CONNECTED, 'add'))
                hand.submit(os.close, tap.result())
                pulled.append(until(DeviceEvent.DISCONNECTED, 'remove'))
    except OSError as error:
        results.say(f'  no network interface can be made here (root and /dev/net/tun are needed): {error}')
    for what, samples in (('plugged in', plugged), ('pulled out', pulled)):
        for percent, bound in ((50, 5), (99, 20)):
            results.add(f'{what}: kernel event to DeviceEvent in another process, p{percent}',
                        percentile(samples, percent), 'ms', at_most=bound)


def _listen(heard: dict[str, float]) -> None:
    """Note when the kernel says that the interface comes or goes (man 7 netlink)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT) as events:
        events.bind((0, KERNEL_GROUP))
        while True:
            action, _, path = events.recv(8192).split(b'\0')[0].decode().partition('@')
            if path == f'/devices/virtual/net/{INTERFACE}':
                heard[action] = time.perf_counter()


def _plug() -> int:
    """Make a network interface of the real kernel; it is there until the returned file is closed."""
    file = os.open('/dev/net/tun', os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(file, TUNSETIFF, struct.pack('16sH22x', INTERFACE.encode(), IFF_TAP | IFF_NO_PI))
    return file


def start(client: RosClient, number: int) -> float:
    """Bring the node from unconfigured to active and back; return ms from `activate` to its first list."""
    topic, lists = f'{NODE}/devices', []
    client.spin_until(lambda: client.node.count_publishers(topic) == 0, 20, 'the end of the last topic')
    change(client, Transition.TRANSITION_CONFIGURE)
    leave = client.listen(
        DeviceArray, topic, lambda message: lists.append((message, time.perf_counter())), qos.STATUS)
    client.spin_until(lambda: client.node.count_publishers(topic) == 1, 20, 'the topic of the devices')
    begun = time.perf_counter()
    change(client, Transition.TRANSITION_ACTIVATE)
    client.spin_until(lambda: lists, 20, f'device list number {number}')
    took = 1e3 * (lists[0][1] - begun)
    change(client, Transition.TRANSITION_DEACTIVATE)
    change(client, Transition.TRANSITION_CLEANUP)
    leave()
    return took


def change(client: RosClient, transition: int) -> None:
    """Make a transition of the node's lifecycle."""
    answer = client.call(ChangeState, f'{NODE}/change_state', transition=Transition(id=transition))
    assert answer.success, f'transition {transition} failed'


if __name__ == '__main__':
    main()
