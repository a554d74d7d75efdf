# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Names of USB devices from the file usb.ids, where the system has it; nothing depends on it."""
from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

#: Where distributions keep it: Debian and Ubuntu, Fedora, older ones.
FILES = tuple(Path(folder, 'usb.ids') for folder in (
    '/var/lib/usbutils', '/usr/share/hwdata', '/usr/share/misc'))
MAX_FILE = 4 << 20  # bytes; it has 0.7 million in 2025
MAX_NAME = 128

#: Takes vendor and product id, in 4 hexadecimal digits each; returns their names, empty if unknown.
Names = Callable[[str, str], tuple[str, str]]


def no_names(vendor_id: str, product_id: str) -> tuple[str, str]:
    """Know no names."""
    return '', ''


def usb_names(files: tuple[Path, ...] = FILES) -> Names:
    """
    Return a look-up in the first of the files that is there, or one that knows nothing.

    The file is searched, not parsed: a look-up takes well below a millisecond, and few are made.
    """
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        return no_names

    @lru_cache(1024)
    def names(vendor_id: str, product_id: str) -> tuple[str, str]:
        try:
            with file.open('rb') as opened:
                return _find(b'\n' + opened.read(MAX_FILE), vendor_id.encode(), product_id.encode())
        except OSError:  # removed or replaced in between
            return '', ''
    return names


def _find(data: bytes, vendor_id: bytes, product_id: bytes) -> tuple[str, str]:
    """Find a vendor's line `vvvv  name` and, before the next one, its product's `<tab>pppp  name`."""
    start = data.find(b'\n' + vendor_id + b'  ')
    if start < 0 or len(vendor_id) != 4 or len(product_id) != 4:
        return '', ''
    end = start + 1
    while (end := data.find(b'\n', end + 1)) >= 0 and data[end + 1:end + 2] in (b'\t', b'#', b'\n'):
        pass
    block = data[start:end if end >= 0 else len(data)]
    product = block.find(b'\n\t' + product_id + b'  ')
    return _name(block, 1), _name(block, product + 2) if product >= 0 else ''


def _name(data: bytes, start: int) -> str:
    return data[start + 6:].partition(b'\n')[0].decode('utf-8', 'replace').strip()[:MAX_NAME]
