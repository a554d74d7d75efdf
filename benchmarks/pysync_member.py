# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
One member of a PySyncObj cluster with its lock manager: `pysync_member.py FOLDER PERIOD ADDRESS OTHERS...`.

PERIOD is the tick in seconds, 0 for everything as PySyncObj has it by default. It answers each line
of its standard input with one of JSON: `leader`, `load COUNT` (seconds of each tryAcquire) and
`insist NAME` (true when it holds the lock). The library lives in the process of its user, so the
member is its own client.
"""
from __future__ import annotations

import importlib
import json
from pathlib import Path
import sys
import threading
import time
from typing import Any

# Not an import statement: it is a peer that may be there, not something the benchmarks need.
pysyncobj, batteries = (importlib.import_module(name) for name in ('pysyncobj', 'pysyncobj.batteries'))
#: A lock is given back after so long without its holder, seconds.
AUTO_UNLOCK = 60.0
#: How often one that finds no leader makes a new attempt, seconds.
ATTEMPT_INTERVAL = 0.02
#: How long a lock may take, and a leader's successor, seconds.
PATIENCE, FAILOVER = 10.0, 30.0


def configuration(folder: Path, period: float, address: str) -> Any:
    """
    Return the default, or the election time-outs of etcd and Muster; with a journal in any case.

    Commands leave with the next message that is due, so its period is the tick too.
    """
    timing = {'autoTickPeriod': period, 'appendEntriesPeriod': period, 'raftMinTimeout': 0.25,
              'raftMaxTimeout': 0.5} if period else {}
    return pysyncobj.SyncObjConf(journalFile=str(folder / address.replace(':', '_')), **timing)


def load(locks: Any, count: int) -> list[float]:
    """Take and give back a lock so often; return the seconds of each taking."""
    samples = []
    for number in range(count):
        begun = time.perf_counter()
        assert locks.tryAcquire(f'lane_{number}', sync=True, timeout=PATIENCE), 'a lock that nobody holds'
        samples.append(time.perf_counter() - begun)
        locks.release(f'lane_{number}', sync=True, timeout=PATIENCE)
    return samples


def insist(locks: Any, name: str) -> bool:
    """Take a lock, asking again and again: without a leader attempts fail or hang; an earlier one may do."""
    granted, attempt, deadline = threading.Event(), 0, time.monotonic() + FAILOVER

    def answered(held: bool | None, _: Any) -> None:
        if held:
            granted.set()

    while not granted.wait(ATTEMPT_INTERVAL):
        if time.monotonic() > deadline:
            raise TimeoutError(f'no lock within {FAILOVER} s of the death of the leader')
        attempt += 1
        locks.tryAcquire(f'{name}_{attempt}', callback=answered)
    return True


def main() -> None:
    """Serve until the end of the input."""
    folder, period, address, *others = sys.argv[1:]
    locks = batteries.ReplLockManager(autoUnlockTime=AUTO_UNLOCK, selfID=address)
    member = pysyncobj.SyncObj(address, others, configuration(Path(folder), float(period), address),
                               consumers=[locks])
    for line in sys.stdin:
        what, *argument = line.split()
        if what == 'leader':
            status = member.getStatus()
            others_up = all(status[f'partner_node_status_server_{other}'] == 2 for other in others)
            leader = status['leader']
            answer: Any = leader.id if leader is not None and others_up and member.isReady() else ''
        elif what == 'load':
            answer = load(locks, int(*argument))
        else:
            answer = insist(locks, *argument)
        print(json.dumps(answer), flush=True)
    locks.destroy()
    member.destroy()


if __name__ == '__main__':
    main()
