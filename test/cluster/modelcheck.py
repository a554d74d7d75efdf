# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Explore every model of a small cluster: `make modelcheck`, `make modelcheck DEPTH=1` one step deeper."""
from __future__ import annotations

import argparse
import gc
import resource
import sys

from exploration import explore, Explorer, Model, State, Violation
from muster.cluster.raft.types import Role


def elected(explorer: Explorer, state: State, among: str) -> State:
    """Begin when the votes of these members have made `a` the leader; nothing else was delivered."""
    step = next(s for i, event, s in explorer.successors(state) if (i, event) == (0, ('time-out', 0)))
    while explorer.nodes[step.nodes[0]].raft.role != Role.LEADER:
        following = _next(explorer, step, among)
        assert following, f'{among} do not elect a'
        step = following
    return step._replace(network=frozenset())


def committed(explorer: Explorer, state: State, among: str) -> State:
    """Begin when these members know that the first entry of the leader `a` is committed."""
    state = elected(explorer, state, among)
    for _ in range(2):
        state = next(s for i, event, s in explorer.successors(state) if (i, event) == (0, ('heartbeat', 0)))
        while following := _next(explorer, state, among):
            state = following
    return state._replace(network=frozenset())


def _next(explorer: Explorer, state: State, among: str) -> State | None:
    """Let a disk write, or deliver a message that these members sent each other."""
    for i, event, following in explorer.successors(state):
        sender = explorer.messages[event][0] if isinstance(event, int) else i
        if {explorer.names[i], explorer.names[sender]} <= set(among) and event not in (
                ('time-out', 0), ('heartbeat', 0)):
            return following
    return None


MODELS = (
    Model('elections', 11, {'crash': 1, 'heartbeat': 1, 'silence': 1}),
    Model('elections, prompt disks', 11, {'crash': 1, 'heartbeat': 1, 'silence': 1}, prompt=True),
    Model('replication', 9, {'crash': 1, 'heartbeat': 2, 'propose': 2, 'read': 1, 'duplicate': 1},
          prepare=committed),
    Model('replication, prompt disks', 10, {'crash': 1, 'heartbeat': 2, 'propose': 1, 'read': 1},
          prompt=True, prepare=committed),
    Model('hand-over', 9, {'crash': 1, 'heartbeat': 1, 'propose': 1, 'read': 1, 'transfer': 1},
          prepare=committed),
    Model('snapshots', 10, {'crash': 1, 'heartbeat': 2, 'compact': 1, 'duplicate': 1, 'time-out': 1},
          append_bytes=2, prepare=committed, among='ab'),
    Model('divergence', 10, {'crash': 1, 'heartbeat': 2, 'propose': 1}, max_term=6, term=3,
          terms={'a': '2', 'c': '3'}, append_bytes=1, prepare=elected, among='ab'),
    Model('membership', 10, {'crash': 1, 'heartbeat': 2, 'change': 1}, max_log=6, learners='d', wanted='abd',
          prepare=committed, among='abcd'),
    Model('membership, prompt disks', 12, {'crash': 1, 'heartbeat': 2, 'change': 1}, max_log=6, learners='d',
          wanted='abd', prompt=True, prepare=committed, among='abcd'),
)


def main() -> None:
    """Explore every model, each so much deeper than usual as asked, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--depth', type=int, default=0, help='steps more (or less) than usual')
    gc.disable()   # nothing here is circular, and millions of tuples live on
    deeper = parser.parse_args().depth
    print(f'{"model":26} {"states":>11} {"transitions":>12} {"depth":>6} {"s":>7}', flush=True)
    for model in MODELS:
        try:
            found = explore(model, model.depth + deeper)
        except Violation as violation:
            print(violation)
            sys.exit(1)
        print(f'{model.name:26} {found.states:11,} {found.transitions:12,} {found.depth:6} '
              f'{found.seconds:7.1f}{"  exhausted" if found.exhausted else ""}', flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(f'no violation; {memory:.1f} GiB')


if __name__ == '__main__':
    main()
