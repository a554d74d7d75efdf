# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The I2C buses of this machine, as sysfs tells: adapters, the multiplexers between them, drivers.

A multiplexer with a driver gives every one of its channels an adapter of its own (/dev/i2c-N, with a
link `mux_device`; Documentation/i2c/i2c-topology.rst). All of these are one set of wires with the
adapter that the multiplexer sits on, and so they are one bus here.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import os
from pathlib import Path
import re

SYS = Path('/sys')
#: More adapters than that are left out (a PC with graphics has about 20).
MAX_ADAPTERS = 256
#: Wires that lead to a monitor, or to the RAM and clocks of a PC: nothing that a robot carries.
FOREIGN_NAMES = re.compile(r'SMBus |DPDDC|AUX |AMDGPU|NVIDIA|nvkm|[Rr]adeon|i915|gmbus|DDC')
#: PCI-SIG class codes: display controllers, and SMBus controllers of a chipset.
FOREIGN_CLASSES = ('0x03', '0x0c05')


@dataclass(frozen=True)
class Adapter:
    """
    One /dev/i2c-`number`; `path` is that below /sys.

    `parent` is the number of the adapter before the multiplexer named `mux`, if there is one, and
    `separates` whether that multiplexer connects no channel while none is spoken to. `foreign` says
    why the adapter is not for robots' chips, where it is not.
    """

    number: int
    name: str
    path: str
    parent: int | None = None
    mux: str = ''
    separates: bool = False
    foreign: str = ''


def adapters(root: Path = SYS) -> dict[int, Adapter]:
    """Return all adapters by their numbers."""
    found = sorted((int(number), entry) for entry in _entries(root / 'bus/i2c/devices')
                   if (number := entry.name.removeprefix('i2c-')).isdecimal())
    displays = {os.path.realpath(link) for link in (root / 'class/drm').glob('*/ddc')}
    return {number: _adapter(number, entry, displays, root) for number, entry in found[:MAX_ADAPTERS]}


def i2c_buses(root: Path = SYS, foreign: bool = False) -> tuple[Adapter, ...]:
    """Return the adapters that are on no other's multiplexer: one for each bus that may be scanned."""
    return tuple(adapter for adapter in adapters(root).values()
                 if adapter.parent is None and (foreign or not adapter.foreign))


def segments(number: int, known: dict[int, Adapter]) -> Iterator[Adapter]:
    """Yield the adapter of a bus and those behind its multiplexers, each after the one before it."""
    if number in known:
        yield known[number]
        for adapter in known.values():
            if adapter.parent == number:
                yield from segments(adapter.number, known)


def clients(adapter: Adapter, root: Path = SYS) -> frozenset[int]:
    """Return the addresses on an adapter that kernel drivers have."""
    pattern = re.compile(rf'{adapter.number}-00([0-7][0-9a-f])')
    found = (pattern.fullmatch(entry.name) for entry in _entries(root / adapter.path.lstrip('/')))
    return frozenset(int(match[1], 16) for match in found
                     if match and driver_of(f'{adapter.path}/{match[0]}', root))


def driver_of(path: str, root: Path = SYS) -> str:
    """Return the name of the driver that has the device at a path below /sys, or an empty text."""
    try:
        return os.path.basename(os.readlink(root / path.lstrip('/') / 'driver'))
    except OSError:
        return ''


def _adapter(number: int, entry: Path, displays: set[str], root: Path) -> Adapter:
    real = Path(os.path.realpath(entry))
    name = _text(entry / 'name')
    parent = re.fullmatch(r'i2c-(\d+)', real.parent.name)
    if not (entry / 'mux_device').exists() or parent is None:
        return Adapter(number, name, _below(real, root), foreign=_foreign(name, real, displays, root))
    mux = Path(os.path.realpath(entry / 'mux_device'))
    # Documentation/ABI/testing/sysfs-bus-i2c-devices-pca954x: -2 disconnects, -1 leaves as it is.
    return Adapter(number, name, _below(real, root), int(parent[1]), mux.name,
                   _text(mux / 'idle_state') == '-2')


def _foreign(name: str, real: Path, displays: set[str], root: Path) -> str:
    if str(real) in displays:
        return 'it belongs to a connector of a display'
    for above in real.parents:
        if above == root:
            break
        if _text(above / 'class').startswith(FOREIGN_CLASSES):
            return f'it belongs to the PCI device {above.name}, a display or chipset controller'
    return f"its name '{name}' is that of a display or chipset bus" if FOREIGN_NAMES.match(name) else ''


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # a kernel without I2C
        return []


def _below(path: Path, root: Path) -> str:
    return '/' + str(path.relative_to(os.path.realpath(root)))


def _text(file: Path) -> str:
    try:
        return file.read_bytes()[:256].decode('utf-8', 'replace').strip('\0\n ')
    except OSError:
        return ''
