# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A network of its own for each robot, made of namespaces of the kernel, that a test can cut for real."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import subprocess

from processes import Fleet
import pytest


def ip(*arguments: str, where: str = '') -> None:
    """Run `ip`, in a namespace where one is named; raise with what it said."""
    command = ['ip', *(('-n', where) if where else ()), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise OSError(f'{" ".join(command)}: {ran.stderr.strip()}')


class Network:
    """Robots around a bridge, each in a namespace; the test stands at the bridge itself."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Make the namespaces; raise OSError where that is not allowed."""
        self._middle = f'muster-{os.getpid()}'
        self._places = {name: f'{self._middle}-{name}' for name in names}
        self._addresses = {name: f'10.93.0.{number}' for number, name in enumerate(names, 1)}
        ip('netns', 'add', self._middle)
        ip('link', 'set', 'lo', 'up', where=self._middle)
        ip('link', 'add', 'bridge', 'type', 'bridge', where=self._middle)
        ip('address', 'add', '10.93.0.254/24', 'dev', 'bridge', where=self._middle)
        ip('link', 'set', 'bridge', 'up', where=self._middle)
        for name, place in self._places.items():
            ip('netns', 'add', place)
            ip('link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', place,
               where=self._middle)
            ip('link', 'set', name, 'master', 'bridge', 'up', where=self._middle)
            ip('address', 'add', f'{self._addresses[name]}/24', 'dev', 'eth0', where=place)
            ip('link', 'set', 'lo', 'up', where=place)
            ip('link', 'set', 'eth0', 'up', where=place)
            # Discovery by multicast needs a route for it.
            ip('route', 'add', '224.0.0.0/4', 'dev', 'eth0', where=place)
        ip('route', 'add', '224.0.0.0/4', 'dev', 'bridge', where=self._middle)

    def inside(self, name: str) -> list[str]:
        """Return the command that runs another one in a robot's place."""
        return ['ip', 'netns', 'exec', self._places[name]]

    def enter(self) -> None:
        """Take this thread, and the threads and processes that it starts, to the bridge."""
        with Path('/run/netns', self._middle).open() as place:
            os.setns(place.fileno(), os.CLONE_NEWNET)

    def cut(self, *names: str) -> None:
        """Unplug robots."""
        for name in names:
            ip('link', 'set', name, 'down', where=self._middle)

    def join(self, *names: str) -> None:
        """Plug robots in again."""
        for name in names:
            ip('link', 'set', name, 'up', where=self._middle)

    def mute(self, sender: str, receiver: str) -> None:
        """Let nothing that one robot sends reach another; the other direction works still."""
        ip('route', 'add', 'blackhole', self._addresses[receiver], where=self._places[sender])

    def unmute(self, sender: str, receiver: str) -> None:
        """Undo `mute`."""
        ip('route', 'del', 'blackhole', self._addresses[receiver], where=self._places[sender])

    def remove(self) -> None:
        """Delete the namespaces and all in them."""
        for place in (*self._places.values(), self._middle):
            if Path('/run/netns', place).exists():
                ip('netns', 'del', place)


@contextmanager
def network(fleet: Fleet, names: tuple[str, ...]) -> Iterator[Network]:
    """
    Put the fleet's robots into namespaces and the test to their bridge; skip where that cannot be.

    Only here is discovery not limited to one host: nothing leaves the namespaces.
    """
    if os.geteuid() != 0 or not shutil.which('ip'):
        pytest.skip('network namespaces need root and the command `ip` (package iproute2)')
    with Path('/proc/thread-self/ns/net').open() as home:
        made: Network | None = None
        try:
            try:
                made = Network(names)
                made.enter()
            except OSError as error:
                pytest.skip(f'no network namespaces can be made here: {error}')
            fleet.environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'SUBNET'
            fleet.inside = {f'{name}.cluster': made.inside(name) for name in names}
            yield made
        finally:
            fleet.close()
            os.setns(home.fileno(), os.CLONE_NEWNET)
            if made is not None:
                made.remove()
