# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What Muster's programs ask of Fast DDS, by the environment that their participants read.

Nothing is changed where the environment names transports or a file of profiles already.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path

#: The variable that Fast DDS takes its transports from, and the two that name a file of profiles.
TRANSPORTS, FILE, OLD_FILE = \
    'FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
#: What tells how far a node looks for others.
RANGE, OLD_RANGE, PEERS = 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY', 'ROS_STATIC_PEERS'
PROFILES = Path(__file__).with_name('profiles')
ANNOUNCING, UDP_ON_THIS_MACHINE = PROFILES / 'announcing.xml', PROFILES / 'udp_on_this_machine.xml'


def avoid_shared_memory(*, whole_process: bool) -> None:
    """
    Let participants that this process makes from now on use UDP only, and announce themselves often.

    A process that is killed while it holds the lock of its shared port makes every publisher of the
    machine that has something for it wait for 1 s (the time-out of Fast DDS 2.14 for that lock),
    longer than an election or many cycles of control; what it leaves behind can hold up new processes
    for good (eProsima/Fast-DDS, issues 1144 and 5469).

    One in three new participants of a machine loses its first announcements, and is not discovered
    before the next: after 1 s here, not Fast DDS' 3. What else the profiles ask is explained there.

    rmw_fastrtps insists on shared memory where nodes look for others on this machine only. A
    `whole_process`, which has no participant yet, is then given a profile that means the same but for
    that; nothing is changed where there are static peers, which a profile would lose.
    """
    if any(os.environ.get(name) for name in (TRANSPORTS, FILE, OLD_FILE)):
        return
    os.environ[TRANSPORTS] = 'UDPv4'
    local = os.environ.get(RANGE) == 'LOCALHOST' or os.environ.get(OLD_RANGE) == '1'
    if whole_process and local and not os.environ.get(PEERS):
        os.environ.pop(OLD_RANGE, None)
        os.environ[RANGE] = 'SYSTEM_DEFAULT'
        _use(UDP_ON_THIS_MACHINE)
    else:
        _use(ANNOUNCING)


@contextmanager
def without_shared_memory(*, whole_process: bool = False) -> Iterator[None]:
    """Avoid it for the participants that are made meanwhile, in a program that is not Muster's own."""
    before = {name: os.environ.get(name) for name in (TRANSPORTS, FILE, OLD_FILE, RANGE, OLD_RANGE)}
    avoid_shared_memory(whole_process=whole_process)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _use(profile: Path) -> None:
    os.environ |= {FILE: str(profile), OLD_FILE: str(profile)}
