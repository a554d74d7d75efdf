# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The file in which a robot's devices outlast a restart; written aside, in a thread of its own."""
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import json
from pathlib import Path
import threading
from typing import Any

from muster.durable import read_bounded, write_durably
from muster.hardware.registry import Registry

MAX_BYTES = 16 * 1024 * 1024


class Memory:
    """
    Keeps a registry in a file: the newest state, never two writes at once.

    A file that cannot be read or written is told to `warn` once, and the node goes on without it.
    """

    def __init__(self, file: Path, warn: Callable[[str], Any]) -> None:
        """Use `file`; its folder is made when something is kept."""
        self._file, self._warn = file, warn
        self._writer = ThreadPoolExecutor(1, 'device memory')
        self._lock = threading.Lock()
        self._next: dict[str, Any] | None = None     # the state whose write has not begun
        self._warned = False

    def recall(self, registry: Registry, now: float) -> None:
        """Let an empty registry remember what was kept, if anything."""
        try:
            registry.restore(json.loads(read_bounded(self._file, MAX_BYTES)), now)
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            self._warn(f'{self._file}: the devices of earlier runs are not known: {error}; remove the file '
                       'if this comes again')

    def keep(self, registry: Registry) -> None:
        """Write the state as it is now, at once or after the write that is under way."""
        document = registry.export()
        with self._lock:
            begun, self._next = self._next is None, document
        if begun:
            self._writer.submit(self._write)

    def close(self) -> None:
        """Write what is left and end."""
        self._writer.shutdown()

    def _write(self) -> None:
        with self._lock:
            document, self._next = self._next, None
        try:
            write_durably(self._file, [json.dumps(document, separators=(',', ':')).encode()])
            self._warned = False
        except OSError as error:
            if not self._warned:
                self._warn(f'{self._file}: the devices cannot be kept: {error}')
            self._warned = True
