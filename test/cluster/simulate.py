# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Search for a story that breaks the cluster: `make simulate SEEDS=10000`, or this with `--help`."""
from __future__ import annotations

import argparse
from functools import partial
from multiprocessing import Pool
import sys
import time

from simulation import SECOND, SHORT, tell, Violation


def main() -> None:
    """Tell the stories and end with 1 where one of them failed."""
    parser = argparse.ArgumentParser(
        description='Simulate whole clusters with every fault there is; a seed is one story.')
    parser.add_argument('count', type=int, nargs='?', default=2000, help='how many seeds (%(default)s)')
    parser.add_argument('--first', type=int, default=0, metavar='SEED',
                        help='the first of them (%(default)s)')
    parser.add_argument('--seed', type=int, help='tell this one only, with its transcript')
    parser.add_argument('--seconds', type=float, default=SHORT / SECOND,
                        help='how long faults happen in a story (%(default)s)')
    parser.add_argument('--workers', type=int, help='processes (one for each core)')
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.count) if options.seed is None else [options.seed]
    began = time.monotonic()
    failed = []
    with Pool(options.workers) as pool:
        for seed, text, holds in pool.imap(partial(story, duration=int(options.seconds * SECOND)), seeds, 4):
            if not holds:
                failed.append(seed)
                print(f'{text}\nagain: python test/cluster/simulate.py --seed {seed} '
                      f'--seconds {options.seconds:g}\n', flush=True)
            elif options.seed is not None:
                print(text)
    print(f'{len(seeds)} seeds from {seeds[0]} in {time.monotonic() - began:.0f} s: '
          f'{f"{len(failed)} failed, {failed}" if failed else "all hold"}')
    sys.exit(bool(failed))


def story(seed: int, duration: int) -> tuple[int, str, bool]:
    """Tell one; return its seed, its transcript, and whether all held."""
    try:
        return seed, '\n'.join(tell(seed, duration).transcript), True
    except Violation as violation:
        return seed, str(violation), False


if __name__ == '__main__':
    main()
