# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The emergency stop, which outlives the process: once engaged, only an operator's rearm ends it."""
from __future__ import annotations

from pathlib import Path

from muster.durable import sync_folder, write_durably


class StopRecord:
    """A file that exists while the robot must not move."""

    def __init__(self, path: Path) -> None:
        """Use the file at `path`."""
        self.path = path

    @property
    def engaged(self) -> bool:
        """Return whether a stop is recorded; where that cannot be told, it is."""
        try:
            self.path.lstat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def engage(self) -> None:
        """Record a stop durably; raises OSError."""
        write_durably(self.path, [b'The emergency stop was engaged; the service learning/rearm ends it.\n'])

    def clear(self) -> None:
        """Remove the record durably; raises OSError."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return
        sync_folder(self.path.parent)
