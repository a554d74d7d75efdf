# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Kernel records read from the files of /sys alone (sysfs(5)), without any library."""
from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path

from muster.hardware.assembly import ATTRIBUTES
from muster.hardware.evidence import Record

MAX_ATTRIBUTE = 4096  # bytes; sysfs itself has no more than a page


def paths(root: Path = Path('/sys')) -> Iterator[str]:
    """Yield the paths below `root`, from /devices on, of all devices in the subsystems read."""
    for subsystem in ATTRIBUTES:
        for folder in (root / 'bus' / subsystem / 'devices', root / 'class' / subsystem):
            try:
                links = list(os.scandir(folder))
            except OSError:
                continue  # the kernel has no such subsystem
            for link in links:
                yield os.path.realpath(link.path).removeprefix(str(root))


def read(path: str, root: Path = Path('/sys')) -> Record | None:
    """Return the record of the device at `path`, or None where there is none (any more)."""
    folder = root / path.lstrip('/')
    try:
        subsystem = os.path.basename(os.readlink(folder / 'subsystem'))
    except OSError:
        return None
    properties = dict(line.split('=', 1) for line in _text(folder / 'uevent').splitlines() if '=' in line)
    attributes = {name: _text(folder / name) for name in ATTRIBUTES.get(subsystem, ())}
    node = properties.get('DEVNAME', '')
    return Record(path, subsystem, properties.get('DEVTYPE', ''), properties.get('DRIVER', ''),
                  f'/dev/{node}' if node else '', properties,
                  {name: value for name, value in attributes.items() if value})


def _text(file: Path) -> str:
    try:
        with file.open('rb') as opened:
            return opened.read(MAX_ATTRIBUTE).decode('utf-8', 'replace').strip('\0\n ')
    except OSError:  # absent, not readable for us, or gone in between
        return ''
