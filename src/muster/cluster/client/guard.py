# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The guard of a resource: it refuses those who lost their lock and do not know it yet."""
from __future__ import annotations

import os
from pathlib import Path
import threading

from muster.cluster.client.errors import StaleToken


class FencingGuard:
    """
    Keeps the greatest fencing token that a resource has seen, and refuses smaller ones.

    A lock's lease can end while its holder is paused or cut off, so the resource itself decides:
    every request to it carries the holder's token, and `admit` is asked first. One guard belongs to
    one resource that is protected by one lock; it may be asked from several threads. With a `file`
    it remembers across restarts of the resource.
    """

    def __init__(self, file: Path | str | None = None) -> None:
        """Begin with the token in `file`, where it exists; raise ValueError where it is damaged."""
        self._file = Path(file) if file is not None else None
        self._lock = threading.Lock()
        self._greatest = self._read()

    @property
    def greatest(self) -> int:
        """Return the greatest token admitted, 0 where none was."""
        return self._greatest

    def admit(self, token: int) -> None:
        """
        Accept a token, or raise StaleToken where a greater one was admitted before.

        A new token is durable before this returns; raise OSError where it cannot be written, and
        the token does not count as admitted then.
        """
        if not isinstance(token, int) or token <= 0:
            raise ValueError(f'a fencing token is a positive number, not {token!r}')
        with self._lock:
            if token < self._greatest:
                raise StaleToken(f'token {token} is stale, {self._greatest} was admitted already: '
                                 'the lock has another holder now')
            if token > self._greatest:
                self._write(token)
                self._greatest = token

    def _read(self) -> int:
        if self._file is None or not self._file.exists():
            return 0
        text = self._file.read_text(encoding='utf-8', errors='replace')
        if not text.endswith('\n') or not text[:-1].isascii() or not text[:-1].isdigit():
            raise ValueError(f"'{self._file}' does not hold a fencing token: write the greatest one that "
                             'the resource has seen into it, as one line')
        return int(text)

    def _write(self, token: int) -> None:
        if self._file is None:
            return
        aside = self._file.with_name(f'{self._file.name}.new')
        with aside.open('w', encoding='utf-8') as file:
            file.write(f'{token}\n')
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._file)
        folder = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)    # or the new name would not outlive a crash
        finally:
            os.close(folder)
