# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Hardware: how fast devices are known, what storms and loose plugs do, what idling costs, who is named.

Network interfaces of the real kernel (TAP) are plugged in and pulled out, which needs root. Times of
plugging run from the kernel's own event, which this process listens to as well.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
import ctypes.util
import errno
import fcntl
import gc
import os
from pathlib import Path
import random
import socket
import struct
import tempfile
import threading
import time
from types import MappingProxyType
from typing import Any

from builtin_interfaces.msg import Duration
from fleet import Fleet, reserved_domain
from hardware import captures  # the tests'
from harness import DISK, percentile, processor_share, Results
from i2c_bus import Chip, FakeBus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from muster.hardware.devices import Device, Report
from muster.hardware.identification import Rules
from muster.hardware.registry import Registry
from muster.hardware.sources.i2c import I2cSource
from muster.hardware.sources.worker import Worker
from muster.hardware.usb_names import usb_names
from muster.ros import qos
from muster_interfaces.msg import DeviceArray, DeviceEvent
from muster_interfaces.srv import ReserveDevice
import psutil
from ros_client import RosClient
from std_srvs.srv import Trigger
import testbed

NODE = '/robot_1/hardware'
ROOT = Path(__file__).parents[1]
#: psutil tells processor time in steps of 10 ms: of a minute they are 0.02 %.
PLUGS, STARTS, IDLE_SECONDS = 100, 10, 60.0
STORM, STORM_PLUGS = 20_000, 10
FLAP_SECONDS, FLAP_RATE, GRACE = 60.0, 10.0, 0.5
LOOKUPS, ROUNDS, SIZES = 5000, 15, (10, 100_000)
INTERFACE = 'muster_bench'
#: What a usual adapter can do: I2C_FUNC_I2C and all of SMBus (linux/i2c.h).
I2C_FUNCTIONS = 0x0EFF0009
#: linux/if_tun.h
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
#: linux/netlink.h
NETLINK_KOBJECT_UEVENT, KERNEL_GROUP = 15, 1


def main() -> None:
    """Measure all of it, or what was asked for."""
    parts = {part.__name__: part for part in (
        plugging, storm, flapping, starting, idling, hanging, looking_up, identifying)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--only', nargs='+', choices=tuple(parts), default=list(parts), metavar='PART',
                        help=f'some of {", ".join(parts)}; shown and not kept, without --keep')
    parser.add_argument('--keep', action='store_true',
                        help='put the results in place of those of the same parts; done with all parts')
    given = parser.parse_args()
    chosen = given.only
    results = Results('hardware')
    for name in chosen:
        with results.part(name):
            parts[name](results)
        if given.keep or set(chosen) == parts.keys():
            results.merge(tuple(parts))
    results.finish(keep=False)


def plugging(results: Results) -> None:
    """Plug and pull one device, again and again."""
    with node({'disconnect_grace': 0.0}) as (_, client):
        plug_and_pull(results, client)


def starting(results: Results) -> None:
    """Activate a node, again and again."""
    with node({'autostart': False}) as (_, client):
        starts = [start(client, number) for number in range(STARTS)]
    for percent, name in ((50, 'p50'), (100, 'max')):
        results.add(f'activation to the complete list, {name}', percentile(starts, percent), 'ms',
                    at_most=300)


def idling(results: Results) -> None:
    """Leave a node alone, without an I2C bus and with one that is probed at each scan."""
    what = 'idle processor, a scan every 5 s'
    results.add(what, idle_share({'i2c': False}), '% of a core', at_most=0.1)
    what += ', of an I2C bus with 7 chips too'
    if ctypes.util.find_library('umockdev-preload') is None:
        results.add(what, None, '% of a core', at_most=0.5, remark='umockdev is not installed')
        return
    bed = testbed.Testbed()
    try:
        bus = FakeBus(1, {address: Chip() for address in range(0x20, 0x27)}, [], frozenset())
        bed.plug('/devices/platform/fe804000.i2c/i2c-1', 'i2c', name='bcm2835', event=False)
        bed.plug('/devices/platform/fe804000.i2c/i2c-1/i2c-dev/i2c-1', 'i2c-dev', node='/dev/i2c-1')
        bed.drive('/dev/i2c-1', testbed.i2c_driver(bus))
        share = idle_share({'i2c': True}, bed.environment)
        assert len(bus.log) > IDLE_SECONDS, 'the bus was not probed'
    finally:
        bed.close()
    results.add(what, share, '% of a core', at_most=0.5)


def idle_share(parameters: dict[str, object], environment: Mapping[str, str] = MappingProxyType({})) -> float:
    """Return how much of a core a node takes that has nothing to tell, in percent."""
    with node(parameters, environment) as (pid, client):
        client.call(Trigger, f'{NODE}/scan')
        return processor_share([pid], IDLE_SECONDS, client.spin)[0]


def storm(results: Results) -> None:
    """
    Plug devices in among thousands of events that change nothing, and pull them out among as many.

    What comes and goes again before its events are read is not seen: there is nothing left to read.
    """
    heard: list[tuple[int, int, str]] = []
    with node({'disconnect_grace': 0.0}) as (pid, client):
        hear(client, lambda event: heard.append((event.sequence, event.type, event.device.id)))
        client.call(Trigger, f'{NODE}/scan')
        with os.fdopen(_plug(f'{INTERFACE}_s'), 'rb'):
            client.spin_until(lambda: (DeviceEvent.CONNECTED, f'net-{INTERFACE}_s') in
                              [event[1:] for event in heard], 10, 'the device that changes')
            heard.clear()
            before = psutil.Process(pid).memory_info().rss
            took = 0.0
            files: list[int] = []
            for coming in (True, False):
                with ThreadPoolExecutor(1) as hand:
                    blowing = hand.submit(_blow, files, coming)
                    client.spin_until(blowing.done, 120, 'the end of the storm')
                took += blowing.result()
                client.call(Trigger, f'{NODE}/scan', 60)
            client.spin(1.0)
            grown = psutil.Process(pid).memory_info().rss - before
    names = [f'net-{INTERFACE}{number}' for number in range(STORM_PLUGS)]
    wanted = [(kind, name) for name in names for kind in
              (DeviceEvent.DISCOVERED, DeviceEvent.CONNECTED, DeviceEvent.DISCONNECTED)]
    seen = [event[1:] for event in heard if event[2] in names]
    what = f'storm of {STORM} kernel events ({STORM / took:.0f}/s)'
    results.add(f'{what}: lost of {len(wanted)} changes', len(set(wanted) - set(seen)), '', at_most=0)
    results.add(f'{what}: doubled, or without a change',
                len(heard) - len(set(wanted) & set(seen)), '', at_most=0)
    results.add(f'{what}: growth of the memory', grown / 2**20, 'MiB', at_most=32)


def _blow(files: list[int], coming: bool) -> float:
    """Make the kernel send half of the events, among them devices that come or go; return the seconds."""
    begun = time.perf_counter()
    with open(f'/sys/class/net/{INTERFACE}_s/uevent', 'wb', buffering=0) as event:
        for number in range(STORM // 2):
            event.write(b'change')
            if number % (STORM // (2 * STORM_PLUGS)) == 0:
                if coming:
                    files.append(_plug(f'{INTERFACE}{len(files)}'))
                else:
                    os.close(files.pop())
    return time.perf_counter() - begun


def flapping(results: Results) -> None:
    """Plug one device in and out for a minute while somebody has it reserved, and at last pull it."""
    gone: list[str] = []
    device = f'net-{INTERFACE}'
    with node({'disconnect_grace': GRACE}) as (_, client), ThreadPoolExecutor(1) as hand:
        hear(client, lambda event: gone.append(event.device.id)
             if event.type == DeviceEvent.DISCONNECTED else None)
        file = _plug()
        client.call(Trigger, f'{NODE}/scan')
        held = client.call(ReserveDevice, f'{NODE}/reserve_device', id=device, owner='benchmark',
                           lease=Duration(sec=600))
        assert held.success, held.message
        lost, flaps = 0, 0
        end = time.monotonic() + FLAP_SECONDS
        while time.monotonic() < end:
            begun = time.monotonic()
            hand.submit(os.close, file).result()
            client.spin(max(0.0, begun + 0.5 / FLAP_RATE - time.monotonic()))
            file = hand.submit(_plug).result()
            answer = client.call(ReserveDevice, f'{NODE}/reserve_device', id=device, owner='benchmark',
                                 lease=Duration(sec=600), token=held.token)
            lost, flaps = lost + (not answer.success), flaps + 1
            client.spin(max(0.0, begun + 1.0 / FLAP_RATE - time.monotonic()))
        hand.submit(os.close, file).result()
        client.spin_until(lambda: device in gone, 10, 'the last disconnection')
        client.spin(2 * GRACE)
    what = f'flapping at {flaps / FLAP_SECONDS:.1f} Hz for {FLAP_SECONDS:.0f} s'
    results.add(f'{what}: disconnect events, the last pull counted', gone.count(device), '', at_most=1,
                at_least=1)
    results.add(f'{what}: renewals of the reservation that failed', lost, '', at_most=0)


class HungBus:
    """A bus on which every transfer blocks until it is told to end."""

    funcs = I2C_FUNCTIONS

    def __init__(self) -> None:
        """Begin hung."""
        self.free = threading.Event()

    def __getattr__(self, name: str) -> Any:
        """Return a transfer."""
        def transfer(*_: object) -> Any:
            self.free.wait()
            raise OSError('the bus was given back')
        return transfer

    def close(self) -> None:
        """Close at once."""


def hanging(results: Results) -> None:
    """Let one bus of two hang, and see when it is given up and what that does to the other."""
    rules = load_rules()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in (0, 1):
            adapter = root / f'bus/i2c/devices/i2c-{number}'
            adapter.mkdir(parents=True)
            (adapter / 'name').write_text('benchmark')
        hung, lively = HungBus(), LivelyBus()
        alone = scan_time(I2cSource(1, rules, open_bus=lambda _: lively, root=root))
        given_up: list[float] = []
        done = threading.Event()

        def note(report: Report) -> None:
            given_up.append(time.perf_counter())
            done.set()

        worker = Worker(I2cSource(0, rules, open_bus=lambda _: hung, root=root), 3600.0, note)
        begun = time.perf_counter()
        worker.start()
        beside = scan_time(I2cSource(1, rules, open_bus=lambda _: lively, root=root))
        assert done.wait(10), 'the hung bus was not given up'
        hung.free.set()
        worker.stop()
    results.add('a bus that hangs: given up after', 1e3 * (given_up[0] - begun), 'ms', at_most=250)
    results.add('a bus that hangs: a scan of another delayed by', max(0.0, 1e3 * (beside - alone)), 'ms',
                at_most=50)


class LivelyBus:
    """A bus without chips that answers at once."""

    funcs = I2C_FUNCTIONS

    def __getattr__(self, name: str) -> Any:
        """Return a transfer that nobody acknowledges."""
        def transfer(*_: object) -> Any:
            raise OSError(errno.ENXIO, 'No such device or address')
        return transfer

    def close(self) -> None:
        """Close at once."""


def scan_time(source: I2cSource) -> float:
    """Return the seconds of a scan, the median of several."""
    samples = []
    for _ in range(5):
        begun = time.perf_counter()
        assert not source.scan('requested scan').problem
        samples.append(time.perf_counter() - begun)
    return sorted(samples)[2]


def looking_up(results: Results) -> None:
    """
    Look up the same ten devices, in a small registry and in a large one.

    Ten, so that both find them in the caches of the processor: what is compared is the work, not the
    memory. That of devices all over a large registry is shown as well.
    """
    gc.disable()  # 100,000 devices would make every pass of it long
    registries = {size: registry_of(size) for size in SIZES}
    for what, look in (('id', _by_id), ('type', _by_type)):
        times = []
        for size, registry in registries.items():
            chosen = random.Random(1).sample(range(size), 10) * (LOOKUPS // 10)
            times.append(min(look(registry, chosen) for _ in range(ROUNDS)))
            results.add(f'lookup by {what}, ten of {size} devices', times[-1], 'µs')
        results.add(f'lookup by {what}, {SIZES[1]} devices against {SIZES[0]}', times[1] / times[0], 'x',
                    at_most=1.5)
        chosen = random.Random(2).choices(range(SIZES[1]), k=LOOKUPS)
        results.add(f'lookup by {what}, any of {SIZES[1]} devices', look(registry, chosen), 'µs',
                    remark='from memory')
    gc.enable()


def registry_of(size: int) -> Registry:
    """Return a registry with so many devices, five of each type."""
    registry = Registry(max_present=size)
    present = {f'/{n}': Device(f'usb-{n}', 'device', 'usb', f'type_{n // 5}') for n in range(size)}
    registry.apply(Report('benchmark', present, 'first scan'), 0.0, 0)
    return registry


def _by_id(registry: Registry, chosen: list[int]) -> float:
    wanted = [f'usb-{number}' for number in chosen]
    begun = time.perf_counter()
    for identity in wanted:
        registry.get(identity)
    return 1e6 * (time.perf_counter() - begun) / len(wanted)


def _by_type(registry: Registry, chosen: list[int]) -> float:
    wanted = [f'type_{number // 5}' for number in chosen]
    begun = time.perf_counter()
    for type_ in wanted:
        registry.find(type=type_)
    return 1e6 * (time.perf_counter() - begun) / len(wanted)


def identifying(results: Results) -> None:
    """Identify what others captured of real devices; the held-out ones did not shape the rules."""
    rules = load_rules()
    for name in ('seen', 'held_out'):
        score = captures.score(rules, captures.load(name))
        what = f'identification of {score.captures} captures ({name.replace("_", " ")})'
        results.add(f'{what}: of the unique named', 100 * score.share, '%', at_least=80)
        results.add(f'{what}: truth not among the candidates', len(score.absent), '', at_most=0)
        results.add(f'{what}: wrong with confidence ≥ 0.9', len(score.wrong), '', at_most=0)


def load_rules() -> Rules:
    """Return the rules that come with Muster."""
    return Rules.load(sorted((ROOT / 'config' / 'devices').glob('*.yaml')), usb_names())


@contextmanager
def node(parameters: dict[str, object], environment: Mapping[str, str] = MappingProxyType({})
         ) -> Iterator[tuple[int, RosClient]]:
    """Run a hardware node in a ROS domain of its own; give its process and a client."""
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    with tempfile.TemporaryDirectory(prefix='muster-benchmark-', dir=DISK) as folder, \
            reserved_domain() as domain:
        fleet, client = Fleet(Path(folder), domain), RosClient(domain)
        fleet.environment |= environment
        try:
            yield fleet.start_node('muster.hardware.node', 'robot_1', parameters).pid, client
        finally:
            client.close()
            fleet.close()


def hear(client: RosClient, heard: Callable[[DeviceEvent], None]) -> None:
    """Listen to the events of the node."""
    topic = f'{NODE}/events'
    client.listen(DeviceEvent, topic, heard, qos.EVENTS)
    client.spin_until(lambda: client.node.count_publishers(topic), 20, 'the topic of the events')


def plug_and_pull(results: Results, client: RosClient) -> None:
    """Report the time from the kernel's event to the one that this process receives."""
    events: list[tuple[int, float]] = []
    kernel: dict[str, float] = {}
    threading.Thread(target=_listen, args=(kernel,), daemon=True).start()

    def keep(event: DeviceEvent) -> None:
        if event.device.id == f'net-{INTERFACE}':
            events.append((event.type, time.perf_counter()))

    hear(client, keep)
    client.call(Trigger, f'{NODE}/scan')

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


def _plug(name: str = INTERFACE) -> int:
    """Make a network interface of the real kernel; it is there until the returned file is closed."""
    file = os.open('/dev/net/tun', os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(file, TUNSETIFF, struct.pack('16sH22x', name.encode(), IFF_TAP | IFF_NO_PI))
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
