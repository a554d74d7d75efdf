# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pseudo-terminals that stand for serial devices: links that a simulator or socat makes."""
from __future__ import annotations

from collections.abc import Sequence
import glob
from itertools import islice
import os
import re

from muster.hardware.assembly import clean
from muster.hardware.devices import Device, Report
from muster.hardware.sources.worker import pause

PTY = re.compile(r'/dev/pts/\d+')
MAX_LINKS = 64
#: Links make no kernel events; looking at a few paths this often (seconds) costs nothing.
POLL_INTERVAL = 0.5


class SerialLinks:
    """Every path that matches one of the patterns and leads to a pseudo-terminal; none is opened."""

    name = 'serial_links'

    def __init__(self, patterns: Sequence[str]) -> None:
        """Take shell patterns of absolute paths."""
        self._patterns = tuple(patterns)
        self._seen: dict[str, Device] = {}

    def scan(self, reason: str) -> Report:
        """Look at every path."""
        found: dict[str, Device] = {}
        matches = sorted({path for pattern in self._patterns
                          for path in islice(glob.iglob(pattern), MAX_LINKS + 1)})
        for path in matches[:MAX_LINKS]:
            terminal = os.path.realpath(path)
            if PTY.fullmatch(terminal) and os.path.exists(terminal):
                found[path] = pseudo_terminal(path, terminal)
        self._seen = found
        problem = ''
        if len(matches) > MAX_LINKS:
            problem = f'serial_links match more than {MAX_LINKS} paths: the others are left out; narrow them'
        return Report(self.name, found, reason, problem=problem)

    def wait(self, timeout: float, wake: int) -> Report | None:
        """Look again after a while; report only when something is different."""
        pause(min(timeout, POLL_INTERVAL), wake)
        before = self._seen
        report = self.scan('link made or removed')
        return None if report.present == before else report

    def close(self) -> None:
        """Nothing is held."""


def pseudo_terminal(path: str, terminal: str) -> Device:
    """Return the serial device that `path` names and the pseudo-terminal stands for."""
    nodes = (path,) if path == terminal else (path, terminal)
    return Device(id=clean(f'tty{path}'.replace('/', '-')), name=f'serial port ({os.path.basename(path)})',
                  bus='tty', type='serial_port', confidence=1.0, simulated=True, path=clean(path),
                  nodes=tuple(clean(node) for node in nodes), capabilities=('serial',))
