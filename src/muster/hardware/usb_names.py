# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Names of USB devices: from the table beside this file, and from usb.ids where the system has it."""
from __future__ import annotations

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


#: Takes vendor and product id, in 4 hexadecimal digits each.
Names = Callable[[str, str], UsbName]


def no_names(vendor_id: str, product_id: str) -> UsbName:
    """Know no names."""
    return UsbName()


def usb_names(files: tuple[Path, ...] = FILES, table: Path = TABLE) -> Names:
    """
    Return a look-up in the table, which has types too, then in the first of the files that is there.

    Of an id that neither has, it tells the vendor.

    Both are searched, not parsed: a look-up takes well below a millisecond, and few are made. Where
    neither is there it knows nothing.
    """
    file = next((f for f in files if f.is_file()), None)
    own = _read(table)
    if file is None and not own:
        return no_names

    @lru_cache(1024)
    def names(vendor_id: str, product_id: str) -> UsbName:
        if not all(re.fullmatch('[0-9a-f]{4}', number) for number in (vendor_id, product_id)):
            return UsbName()
        known = _look_up(own, f'{vendor_id}:{product_id}'.encode())
        if known.product:
            return known
        found = UsbName(*_find(_read(file), vendor_id.encode(), product_id.encode())) if file else UsbName()
        return found if found.vendor else _look_up(own, vendor_id.encode())
    return names


def _read(file: Path) -> bytes:
    """Return a line break and the file, nothing where it is gone: it may be replaced in between."""
    try:
        with file.open('rb') as opened:
            return b'\n' + opened.read(MAX_FILE)
    except OSError:
        return b''


def _look_up(data: bytes, number: bytes) -> UsbName:
    """Find the line of an id in the table, and the one of its source in the head of it."""
    start = data.find(b'\n' + number + b'\t')
    fields = data[start + 1:].partition(b'\n')[0].split(b'\t') if start >= 0 else []
    if len(fields) != 5:
        return UsbName()
    _, kind, vendor, product, source = (field.decode('utf-8', 'replace') for field in fields)
    told = re.search(rb'\n# ' + re.escape(source.encode()) + rb' ([01]\.\d+) ([^\n]+)', data)
    if told is None:
        return UsbName(vendor, product, kind, TABLE.name)
    return UsbName(vendor, product, kind, told[2].decode('utf-8', 'replace'), float(told[1]))


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
