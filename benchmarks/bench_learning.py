# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Learning: speed, what agents reach, continual learning, and the node in the simulated world.

The peers (stable-baselines3, tianshou, Avalanche) are measured in the same run where `make peers` made
them, each in processes of one thread; times are of the processor.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
import os
import sys
from typing import Any

from harness import Results
from learning import peer


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    seeds: int = 10
    seconds: float = 0.3            # of each round of a short call
    steps: int = 120_000            # of training in the 2-D world
    starts: int = 200               # there, through the topics too
    worlds: int = 8                 # of the starts through the topics
    driven: float = 60.0            # seconds at 50 Hz


QUICK = Plan(seeds=2, seconds=0.05, steps=20_000, starts=20, worlds=1, driven=10.0)


def main() -> None:
    """Measure all of it, or what was asked for."""
    plan, chosen, keep = arguments()
    if 'OPENBLAS_NUM_THREADS' not in os.environ:  # what is compared is the work of one thread
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | peer.ONE_THREAD)
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    results = Results('learning')
    for name, part in PARTS.items():
        if name in chosen:
            with results.part(name):
                # Imported now: a part that cannot be is a row with the reason, not the end of all.
                part(import_module(f'learning.{name}'), results, plan)
            if keep:  # at once: whoever interrupts loses the part that was under way, and no other
                results.merge(tuple(PARTS))
    results.finish(keep=False)


def arguments() -> tuple[Plan, list[str], bool]:
    """Return how much is to be measured, which parts, and whether the results are to be kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='everything, but short; shown and not kept')
    parser.add_argument('--only', nargs='+', choices=tuple(PARTS), default=list(PARTS), metavar='PART',
                        help=f'some of {", ".join(PARTS)}; shown and not kept, without --keep')
    parser.add_argument('--keep', action='store_true',
                        help='put the results in place of those of the same parts; done with all parts')
    parser.add_argument('--seeds', type=int, help=f'seeds of each training (default: {Plan.seeds})')
    given = parser.parse_args()
    if given.quick and given.keep:
        parser.error('--quick measures too little to be kept')
    plan = QUICK if given.quick else Plan()
    plan = replace(plan, seeds=given.seeds) if given.seeds else plan
    return plan, given.only, given.keep or (set(given.only) == PARTS.keys() and plan == Plan())


def _plainly(module: Any, results: Results, _: Plan) -> None:
    module.measure(results)


#: A module of the folder `learning` → how it is asked; the short ones first, for whoever interrupts.
PARTS: dict[str, Callable[[Any, Results, Plan], None]] = {
    'cycle': _plainly,
    'networks': lambda module, results, plan: module.measure(results, plan.seconds),
    'replays': lambda module, results, plan: module.measure(results, plan.seconds),
    'footprints': _plainly,
    'tabular': _plainly,
    'cartpole': lambda module, results, plan: module.measure(results, plan.seeds),
    'driving': lambda module, results, plan: module.measure(
        results, plan.steps, plan.starts, plan.worlds, plan.driven),
    'continual': lambda module, results, plan: module.measure(results, plan.seeds),
    'classic': lambda module, results, plan: module.measure(results, plan.seeds),
}


if __name__ == '__main__':
    main()
