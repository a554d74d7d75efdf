# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Names of USB devices: from the table beside this file, and from usb.ids where the system has it."""
from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
import re
from typing import NamedTuple

from muster.hardware.devices import UNKNOWN

#: Where distributions keep it: Debian and Ubuntu, Fedora, older ones.
FILES = tuple(Path(folder, 'usb.ids') for folder in (
    '/var/lib/usbutils', '/usr/share/hwdata', '/usr/share/misc'))
TABLE = Path(__file__).with_name('usb_names.tsv')
MAX_FILE = 4 << 20  # bytes; usb.ids has 0.7 million in 2025
MAX_NAME = 128
#: How far usb.ids is believed about a name.
LISTED = 0.8


class UsbName(NamedTuple):
    """What a list says of an id, empty where it knows nothing; `confidence` (0..1) is that it is true."""

    vendor: str = ''
    product: str = ''
    type: str = UNKNOWN
    source: str = 'usb.ids'
    confidence: float = LISTED


#: Takes vendor and product id, in 4 hexadecimal digits each; tells all that are known to have it.
Names = Callable[[str, str], tuple[UsbName, ...]]


def no_names(vendor_id: str, product_id: str) -> tuple[UsbName, ...]:
    """Know no names."""
    return ()


def usb_names(files: tuple[Path, ...] = FILES, table: Path = TABLE) -> Names:
    """
    Return a look-up in the table, which has types too, then in the first of the files that is there.

    Of an id that neither has, it tells the vendor.

    Both are searched, not parsed: a look-up in the table takes a tenth of a millisecond, and few are made.
    Where neither is there it knows nothing.
    """
    own, listed = _read(table), next(filter(None, map(_read, files)), b'')
    if not own and not listed:
        return no_names

    @lru_cache(1024)
    def names(vendor_id: str, product_id: str) -> tuple[UsbName, ...]:
        if not all(re.fullmatch('[0-9a-f]{4}', number) for number in (vendor_id, product_id)):
            return ()
        if known := _look_up(own, f'{vendor_id}:{product_id}'.encode()):
            return known
        found = UsbName(*_find(listed, vendor_id.encode(), product_id.encode()))
        return (found,) if found.vendor else _look_up(own, vendor_id.encode())
    return names


def _read(file: Path) -> bytes:
    """Return a line break and the file, nothing where there is none."""
    try:
        with file.open('rb') as opened:
            return b'\n' + opened.read(MAX_FILE)
    except OSError:
        return b''


def _look_up(data: bytes, number: bytes) -> tuple[UsbName, ...]:
    """Find the lines of an id in the table, which is in the order of the ids."""
    def line_of(position: int) -> bytes:
        start = data.rfind(b'\n', 0, position + 1) + 1
        return data[start:data.find(b'\t', start)]

    found = []
    start = bisect_left(range(len(data)), number, key=line_of)
    while start >= 0 and data.startswith(number + b'\t', start + 1):
        end = data.find(b'\n', start + 1)
        fields = data[start + 1:end if end >= 0 else len(data)].split(b'\t')
        if len(fields) == 5:
            found.append(_line(data, *(field.decode('utf-8', 'replace') for field in fields[1:])))
        start = end
    return tuple(found)


def _line(data: bytes, kind: str, vendor: str, product: str, sources: str) -> UsbName:
    """Return what a line says, by the sources in the head of the table; the first gave the name."""
    told = [line for source in sources
            if (line := re.search(rb'\n# ' + re.escape(source.encode()) + rb' ([01]\.\d+) ([^\n]+)', data))]
    if not told:
        return UsbName(vendor, product, kind, TABLE.name)
    source = '; '.join(line[2].decode('utf-8', 'replace') for line in told)
    return UsbName(vendor, product, kind, source, float(told[0][1]))


def _find(data: bytes, vendor_id: bytes, product_id: bytes) -> tuple[str, str]:
    """Find a vendor's line `vvvv  name` and, before the next one, its product's `<tab>pppp  name`."""
    start = data.find(b'\n' + vendor_id + b'  ')
    if start < 0:
        return '', ''
    end = start + 1
    while (end := data.find(b'\n', end + 1)) >= 0 and data[end + 1:end + 2] in (b'\t', b'#', b'\n'):
        pass
    block = data[start:end if end >= 0 else len(data)]
    product = block.find(b'\n\t' + product_id + b'  ')
    return _name(block, 1), _name(block, product + 2) if product >= 0 else ''


def _name(data: bytes, start: int) -> str:
    return data[start + 6:].partition(b'\n')[0].decode('utf-8', 'replace').strip()[:MAX_NAME]
