# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who is alive, judged by silence."""
from __future__ import annotations

ALIVE, SUSPECT, DEAD = 1, 2, 3


class FailureDetector:
    """Judges members by how long they were silent; times in nanoseconds of one clock."""

    def __init__(self, suspect_after: int, dead_after: int) -> None:
        """Suspect, and declare dead, after so much silence."""
        self._suspect_after, self._dead_after = suspect_after, dead_after
        self._heard: dict[str, int] = {}

    def heard(self, member: str, at: int) -> None:
        """Note a sign of life."""
        self._heard[member] = at

    def resumed(self, now: int) -> None:
        """Forgive all silence: the judge itself stood still."""
        self._heard = dict.fromkeys(self._heard, now)

    def health(self, member: str, now: int) -> int:
        """Return ALIVE, SUSPECT or DEAD."""
        silence = now - self._heard.setdefault(member, now)
        return DEAD if silence >= self._dead_after else SUSPECT if silence >= self._suspect_after else ALIVE
