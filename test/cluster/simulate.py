# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Search for a seed that breaks the cluster: `python test/cluster/simulate.py [COUNT [FIRST]]`."""
from __future__ import annotations

import sys

from simulation import tell, Violation


def main() -> None:
    """Run the seeds and end with 1 where one of them failed."""
    count, first = ([int(argument) for argument in sys.argv[1:]] + [2000, 0][len(sys.argv) - 1:])[:2]
    failed = []
    for seed in range(first, first + count):
        try:
            tell(seed)
        except Violation as violation:
            failed.append(seed)
            print(violation, flush=True)
    print(f'{count} seeds from {first}: {f"{len(failed)} failed, {failed}" if failed else "all hold"}')
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
