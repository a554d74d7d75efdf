# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The libraries of `.peers` (`make peers`), asked in processes of their own."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
#: One thread in each process: what is compared is the work, not the cores.
ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
#: Seconds for one process; the longest takes about two minutes of the processor.
PATIENCE = 900.0


class Missing(Exception):
    """A peer that is not installed, or failed; the message says why."""


def python() -> Path:
    """Return the Python that has stable-baselines3 and tianshou; raises Missing."""
    path = ROOT / '.peers' / 'reinforcement' / 'bin' / 'python'
    if not path.exists():
        raise Missing('no peer in this run: make peers')
    return path


def ask(script: str, part: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Return what a peer's script measured; raises Missing."""
    return _run([str(python()), '-W', 'ignore', str(HERE / 'peers' / script), part, json.dumps(plan)])


def own(module: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Return what a module of this folder measured in a process of its own."""
    return _run([sys.executable, '-m', f'learning.{module}', json.dumps(plan)])


def _run(command: list[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(command, env=os.environ | ONE_THREAD, cwd=HERE.parent, capture_output=True,
                              text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise Missing(f'{command[-2]} took longer than {PATIENCE:g} s') from error
    if done.returncode:
        raise Missing(f'{command[-2]} failed: {" ".join(done.stderr.strip().splitlines()[-1:])}')
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def side_by_side[T](work: Iterable[Callable[[], T]]) -> list[T]:
    """Return what some work gave, one process on each core, in order."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(lambda one: one(), work))
