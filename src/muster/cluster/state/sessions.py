# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Exactly-once execution: what every session has asked for and was answered (thesis, section 6.3)."""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

#: Answers kept for each session; a client may have as many requests in flight.
WINDOW = 1024
#: Sessions kept; beyond it the one unused longest goes.
MAX_SESSIONS = 10_000
#: Cluster time after which an unused session expires, nanoseconds.
LIFETIME = 600 * 1_000_000_000
#: Begins the names of the sessions that members use for requests without an id.
MEMBER_PREFIX = '@'


class SessionExpired(Exception):
    """The request cannot be told from one that was executed before; it is not executed."""


@dataclass
class _Session:
    last_used: int
    highest: int = 0
    answers: dict[int, Any] = field(default_factory=dict)


class Sessions:
    """All sessions; the state is a function of the calls, the same on every member."""

    def __init__(self) -> None:
        """Begin without sessions."""
        self._sessions: OrderedDict[str, _Session] = OrderedDict()  # longest unused first

    def __len__(self) -> int:
        """Return how many sessions are open."""
        return len(self._sessions)

    def find(self, name: str, sequence: int, now: int) -> Any | None:
        """
        Return the answer given before, or None where the request is new.

        Sequence 1 opens a session. Raise SessionExpired where the session is unknown otherwise,
        or where the request is too old for its answer to be kept.
        """
        session = self._sessions.get(name)
        if session is None:
            # A member's own session has a name of its own for each run and is never repeated
            # after its lifetime, so any of its requests may come first.
            if sequence != 1 and not name.startswith(MEMBER_PREFIX):
                raise SessionExpired(f"session '{name}' is not open: begin a new one at sequence 1")
            session = self._sessions[name] = _Session(now)
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        session.last_used = now
        self._sessions.move_to_end(name)
        if sequence in session.answers:
            return session.answers[sequence]
        if sequence <= session.highest - WINDOW:
            raise SessionExpired(f"request {sequence} of session '{name}' is too old, "
                                 f'{session.highest} was asked for already')
        return None

    def answered(self, name: str, sequence: int, answer: Any) -> None:
        """Keep the answer to a request that `find` called new."""
        session = self._sessions[name]
        session.answers[sequence] = answer
        if sequence > session.highest:
            for old in range(max(1, session.highest - WINDOW + 1), sequence - WINDOW + 1):
                session.answers.pop(old, None)
            session.highest = sequence

    def expire(self, now: int) -> None:
        """Forget the sessions that were unused for LIFETIME."""
        while self._sessions:
            name, session = next(iter(self._sessions.items()))
            if session.last_used + LIFETIME > now:
                return
            del self._sessions[name]
