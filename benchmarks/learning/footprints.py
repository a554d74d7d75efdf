# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a process that imports the learning node takes, beside one that imports Stable-Baselines3."""
from __future__ import annotations

import json
from pathlib import Path
import resource
import subprocess
import sys
from typing import Any

from learning.peer import Missing, python
import numpy as np

RUNS = 5
_PROGRAM = """\
import json, time
begun = time.process_time()
import {module}
seconds = time.process_time() - begun
with open('/proc/self/statm') as file:  # not the peak, which a child has from its parent
    print(json.dumps([seconds, int(file.read().split()[1]) * {page} / 1e6]))
"""


def measure(results: Any) -> None:
    """Add processor time of the import and memory after it, medians."""
    seconds, memory = imported(Path(sys.executable), 'muster.learning.node')
    try:
        theirs, remark = imported(python(), 'stable_baselines3'), ''
    except Missing as error:
        theirs, remark = (None, None), str(error)
    peer = None if remark else 'SB3'
    for what, own, their, unit in (('import of the node', seconds, theirs[0], 'CPU s'),
                                   ('memory after the import', memory, theirs[1], 'MB')):
        results.add(what, own, unit, peer=peer, peer_value=their, peer_at_most=round(1 / 3, 3), remark=remark)


def imported(interpreter: Path, module: str) -> tuple[float, float]:
    """Return processor seconds and MB of importing a module, medians of some runs after one to warm up."""
    program = _PROGRAM.format(module=module, page=resource.getpagesize())
    command = [str(interpreter), '-W', 'ignore', '-c', program]
    runs = [json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(RUNS + 1)]
    return tuple(np.median(np.array(runs[1:]), axis=0).tolist())
