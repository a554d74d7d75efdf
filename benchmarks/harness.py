# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: result rows, their table and file, percentiles, and busy loops."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
import platform
import signal
import sys
import sysconfig
import time
import traceback
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

RESULTS = Path(__file__).parent / 'results'
# The tests' real processes in isolated ROS domains serve the benchmarks too.
sys.path += [str(Path(__file__).parents[1] / 'test' / folder) for folder in ('', 'hardware')]
#: Logs are written here: FHS says that it outlives a reboot, so it is on a disk, unlike many a /tmp.
DISK = Path('/var/tmp')
HEADINGS = ('measure', 'value', 'unit', 'peer', 'its value', 'ratio', 'target', 'met', 'remark')
NUMBERS = ('value', 'its value', 'ratio')


@dataclass(frozen=True)
class Row:
    """
    One measured figure, beside what a peer reached in the same run; None where there is none.

    `remark` says why a figure is missing, `part` in which part of the benchmark it was measured.
    """

    measure: str
    value: float | None
    unit: str
    peer: str | None
    peer_value: float | None
    ratio: float | None
    target: str | None
    met: bool | None
    remark: str = ''
    part: str = ''


class Results:
    """The figures of one area, shown as they come in and written at the end."""

    def __init__(self, area: str) -> None:
        """Begin with none."""
        self.area = area
        self.rows: list[Row] = []
        self._part = ''
        self._console = Console(width=None if sys.stdout.isatty() else 140)
        self.say(f'[bold]{area}[/bold] ({os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f})')

    def say(self, text: str) -> None:
        """Print what is going on."""
        self._console.print(text, highlight=False)

    def add(self, measure: str, value: float | None, unit: str, *, peer: str | None = None,
            peer_value: float | None = None, at_most: float | None = None, at_least: float | None = None,
            peer_at_most: float | None = None, peer_at_least: float | None = None, remark: str = '') -> None:
        """
        Add a figure with its targets: bounds of the value, and of its ratio to the peer's.

        A target that needs a peer which is not installed is neither met nor missed.
        """
        ratio = value / peer_value if value is not None and peer_value else None
        bounds = [(at_most, value, '≤ {:g}', 1), (at_least, value, '≥ {:g}', -1),
                  (peer_at_most, ratio, '≤ {:g} x peer', 1), (peer_at_least, ratio, '≥ {:g} x peer', -1)]
        given = [(bound, actual, text, sign) for bound, actual, text, sign in bounds if bound is not None]
        judged = [None if actual is None else sign * actual <= sign * bound
                  for bound, actual, _, sign in given]
        met = False if False in judged else None if None in judged or not judged else True
        if value is None and remark and given:
            met = False  # a target is not reached by failing to measure
        target = ' and '.join(text.format(bound) for bound, _, text, _ in given) or None
        self.rows.append(Row(measure, value, unit, peer, peer_value, ratio, target, met, remark,
                             self._part))
        beside = f' ({peer}: {number(peer_value)})' if peer else ''
        self.say(f'  {measure}: {number(value)} {unit}{beside}{f" ({escape(remark)})" if remark else ""}')

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """
        Measure a part; what it raises becomes a row without a value, and the others are measured still.

        Rows of a part within a part belong to the outer one.
        """
        begun, outer = time.monotonic(), self._part
        self._part = outer or name
        try:
            yield
        except Exception as error:  # whatever it was, an hour of other figures must not go with it
            traceback.print_exc()
            self.add(name, None, '', remark=reason(error))
        finally:
            self._part = outer
        self.say(f'  [dim]{name}: took {time.monotonic() - begun:.0f} s[/dim]')

    def finish(self, *, keep: bool = True) -> None:
        """Print the table and write it, with a description of the machine, to the results, to `keep` it."""
        self._console.print(self._table())
        if not keep:
            return
        RESULTS.mkdir(exist_ok=True)
        write(RESULTS / f'{self.area}.json', [asdict(row) for row in self.rows])
        write(RESULTS / 'machine.json', machine())

    def merge(self, parts: Sequence[str]) -> None:
        """Write the rows so far in place of those of the same parts; the file keeps the order of `parts`."""
        path = RESULTS / f'{self.area}.json'
        before = json.loads(path.read_text()) if path.exists() else []
        measured = {row.part for row in self.rows}
        rows = [row for row in before if row.get('part') in parts and row['part'] not in measured]
        rows += map(asdict, self.rows)
        write(path, sorted(rows, key=lambda row: parts.index(row['part'])))
        write(RESULTS / 'machine.json', machine())

    def _table(self) -> Table:
        table = Table(title=self.area, title_justify='left')
        for heading in HEADINGS:
            table.add_column(heading, justify='right' if heading in NUMBERS else 'left')
        for row in self.rows:
            table.add_row(*map(escape, cells(asdict(row))))
        return table


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of a result file as it is shown in a table."""
    met = {True: 'yes', False: 'no', None: ''}[row['met']]
    return [row['measure'], number(row['value']), row['unit'], row['peer'] or '', number(row['peer_value']),
            number(row['ratio']), row['target'] or '', met, row.get('remark', '')]


def reason(error: BaseException) -> str:
    """Return in a line why something could not be measured."""
    return f'{type(error).__name__}: {error}'.replace('\n', ' ').replace('|', '/')[:120]


def number(value: float | None) -> str:
    """Return a number with three significant digits, whole ones in full; empty for None."""
    if value is None:
        return ''
    return f'{value:,.0f}' if abs(value) >= 100 or value == 0 else f'{value:.3g}'


def write(path: Path, content: Any) -> None:
    """Write JSON for people and programs."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n')


def percentile(samples: Sequence[float], percent: float) -> float | None:
    """Return a percentile, None of nothing."""
    return float(np.percentile(samples, percent)) if len(samples) else None


def machine() -> dict[str, Any]:
    """Describe this machine as far as it explains the figures, without its name."""
    with open('/proc/cpuinfo') as file:
        model = next((line.split(':', 1)[1].strip() for line in file if line.startswith('model name')),
                     platform.machine())
    mounts = [p for p in psutil.disk_partitions(all=True) if DISK.is_relative_to(p.mountpoint)]
    mount = max(mounts, key=lambda p: len(p.mountpoint), default=None)   # a container may show none
    virtual = any('hypervisor' in line for line in Path('/proc/cpuinfo').read_text().splitlines())
    return {'processor': model, 'cores': os.cpu_count(), 'virtual': virtual,
            'memory_gib': round(psutil.virtual_memory().total / 2**30),
            'disk': f'{mount.fstype} on {mount.device}' if mount else 'a disk that is not told',
            'system': platform.freedesktop_os_release().get('PRETTY_NAME', platform.system()),
            'kernel': '.'.join(platform.release().split('.')[:2]),
            'python': platform.python_version(),
            'python_optimized': _python_optimized(),
            'load_average': round(os.getloadavg()[0], 1),
            'real_time_priority': os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)}


def _python_optimized() -> bool:
    """Return whether this Python was built with profile-guided optimisation."""
    # Debian and Ubuntu call `make profile-opt` themselves (debian/rules of python3.12), without the flag.
    return sys.base_prefix == '/usr' or '--enable-optimizations' in (
        sysconfig.get_config_var('CONFIG_ARGS') or '')


@contextmanager
def busy() -> Iterator[None]:
    """
    Run a loop on every core that claims as much of it as each process that is measured.

    Linux shares the processor among sessions before it looks at processes (sched(7), "The autogroup
    feature"), so the loops are in the session of the processes that are measured.
    """
    spinners = [_spin(core) for core in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for pid in spinners:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _spin(core: int) -> int:
    command = [sys.executable, '-c', _SPINNER, str(core), str(os.getpid())]
    return os.posix_spawn(sys.executable, command, os.environ)


_SPINNER = """
import os, sys
core, parent = map(int, sys.argv[1:])
os.sched_setaffinity(0, {core})
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


def processor_share(pids: Sequence[int], seconds: float, pause: Any) -> list[float]:
    """Return how much of one core each process used, in percent, while `pause(seconds)` waited."""
    processes = [psutil.Process(pid) for pid in pids]
    before = [sum(process.cpu_times()[:2]) for process in processes]
    pause(seconds)
    return [100 * (sum(process.cpu_times()[:2]) - start) / seconds
            for process, start in zip(processes, before, strict=True)]
