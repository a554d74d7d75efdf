# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Tells when the kernel announced what: one line `TIME ACTION SUBSYSTEM PATH` for every uevent.

Runs in the guest as a process of its own with real-time priority: its times (seconds, monotonic) are
those of the kernel, however busy the process is whose delay is measured.
"""
from __future__ import annotations

import os
import socket
import time

#: linux/netlink.h, and the multicast group of the kernel's own events (2 is that of udevd).
NETLINK_KOBJECT_UEVENT, KERNEL = 15, 1


def main() -> None:
    """Print events until the standard output is closed."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT)
    events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    events.bind((0, KERNEL))
    print('ready', flush=True)
    while True:
        message = events.recv(65536)
        now = time.monotonic()
        fields = dict(part.partition(b'=')[::2] for part in message.split(b'\0')[1:])
        print(now, *(fields.get(key, b'?').decode(errors='replace')
                     for key in (b'ACTION', b'SUBSYSTEM', b'DEVPATH')), flush=True)


if __name__ == '__main__':
    main()
