# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
One dock for the whole fleet: take its lock, use it, give it back.

    python examples/lock_dock.py --robot robot_1 --dock dock_3 --seconds 5

The lock is renewed in the background. Should that fail, `lost` runs and the robot must leave the dock;
the dock itself would refuse its token then, as the guard here does.
"""
import argparse
import threading

from muster.cluster.client import FencingGuard, Fleet, FleetError, Lock


def main() -> None:
    """Use the dock for a while."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--robot', default='', help='the robot that is asked first')
    parser.add_argument('--dock', default='dock_3', help='the name of the lock')
    parser.add_argument('--seconds', type=float, default=5.0, help='how long the dock is used')
    options = parser.parse_args()
    guard, leave = FencingGuard(), threading.Event()

    def lost(lock: Lock) -> None:
        print(f'{lock.name} was lost: leaving it', flush=True)
        leave.set()

    with Fleet(options.robot) as fleet, fleet.lock(options.dock, lease=10.0, on_lost=lost) as lock:
        guard.admit(lock.token)        # what the dock does with every request
        print(f'{lock.name} is ours with token {lock.token}', flush=True)
        leave.wait(options.seconds)
    print(f'{options.dock} is free again', flush=True)


if __name__ == '__main__':
    try:
        main()
    except FleetError as error:
        raise SystemExit(f'lock_dock: {error}') from error
