# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Kernel records read from the files of /sys alone (sysfs(5)), without any library."""
from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import re

from muster.hardware.assembly import ATTRIBUTES, wanted_attributes
from muster.hardware.evidence import Record

PCM = re.compile(r'/pcmC(\d{1,3})D(\d{1,3})[cp]$')
MAX_ATTRIBUTE = 4096  # bytes; sysfs itself has no more than a page
ATTEMPTS = 4          # to read a device that is replaced by another meanwhile


def links(root: Path = Path('/sys')) -> Iterator[os.DirEntry[str]]:
    """Yield the entries that lead to all devices in the subsystems read."""
    for subsystem in ATTRIBUTES:
        for folder in (f'{root}/bus/{subsystem}/devices', f'{root}/class/{subsystem}'):
            try:
                with os.scandir(folder) as entries:
                    yield from entries
            except OSError:
                continue  # the kernel has no such subsystem


def signature(root: Path = Path('/sys')) -> frozenset[tuple[str, int]]:
    """
    Return what tells, for a twentieth of the price of reading all, that devices came or went.

    A device that was replaced by one of the same name is another entry: kernfs gives every new one
    the next inode number (fs/kernfs/dir.c, __kernfs_new_node).
    """
    return frozenset((link.path, link.inode()) for link in links(root))


def paths(root: Path = Path('/sys')) -> Iterator[str]:
    """Yield the paths below `root`, from /devices on, of all devices in the subsystems read."""
    for link in links(root):
        try:  # a link of sysfs leads to the device in one step (sysfs-rules)
            target = os.readlink(link.path)
        except OSError:
            continue  # gone in between
        yield os.path.normpath(os.path.join(os.path.dirname(link.path), target)).removeprefix(str(root))


def read(path: str, root: Path = Path('/sys')) -> Record | None:
    """
    Return the record of the device at `path`, or None where there is none (any more).

    All of it is of one device: the folder is held open meanwhile, and one that was replaced or taken
    away before the end is read again, at most ATTEMPTS times.
    """
    for _ in range(ATTEMPTS):
        try:
            folder = os.open(f'{root}{path}', os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            record = _record(path, folder)
            if _is_at(folder, f'{root}{path}'):
                return record
        finally:
            os.close(folder)
    return None     # the events of what is there in the end are still to come


def _is_at(folder: int, path: str) -> bool:
    """Return whether the open folder is what `path` leads to; its number is no other's while it is open."""
    try:
        return os.path.samestat(os.fstat(folder), os.stat(path))
    except OSError:
        return False


def _record(path: str, folder: int) -> Record | None:
    try:
        subsystem = os.path.basename(os.readlink('subsystem', dir_fd=folder))
    except OSError:
        return None
    properties = dict(line.split('=', 1) for line in _text('uevent', folder).splitlines() if '=' in line)
    device_type = properties.get('DEVTYPE', '')
    attributes = {name: _text(name, folder) for name in wanted_attributes(subsystem, device_type)}
    stream = PCM.search(path) if subsystem == 'sound' else None
    if stream:      # what ALSA tells of USB sound devices, it tells in /proc alone
        attributes['stream'] = _text(f'/proc/asound/card{stream[1]}/stream{stream[2]}', folder)
    node = properties.get('DEVNAME', '')
    return Record(path, subsystem, device_type, properties.get('DRIVER', ''),
                  f'/dev/{node}' if node else '', properties,
                  {name: value for name, value in attributes.items() if value})


def _text(file: str, folder: int) -> str:
    try:
        opened = os.open(file, os.O_RDONLY, dir_fd=folder)
    except OSError:  # absent, not readable for us, or gone in between
        return ''
    try:
        return os.read(opened, MAX_ATTRIBUTE).decode('utf-8', 'replace').strip('\0\n ')
    except OSError:
        return ''
    finally:
        os.close(opened)
