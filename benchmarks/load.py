# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a load of locks did to a cluster, Muster's or a peer's."""
from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Load:
    """Seconds of each acquire and release, and how long all of it took."""

    acquire: list[float] = field(default_factory=list)
    release: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __add__(self, other: Load) -> Load:
        """Return both, one after the other."""
        return Load(self.acquire + other.acquire, self.release + other.release, self.seconds + other.seconds)

    @property
    def pairs_per_second(self) -> float:
        """Return how many locks were taken and given back each second."""
        return len(self.release) / self.seconds
