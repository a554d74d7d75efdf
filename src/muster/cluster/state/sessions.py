# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Exactly-once execution: what every session has asked for and was answered (thesis, section 6.3).

A client's session is opened by an operation of its own, and its name is the log index of the entry
that opened it. No name is ever used twice, so a session that is not known has expired, and nothing
that is asked for in its name is executed: also not a retry of its first request. If the first
request opened a session, a late retry could not be told from a first request. To repeat the opening
is harmless, it opens another session.

Requests without an id run in sessions of the members. Their names are random and new for each run
of a member's process, and a member stops to repeat a request long before its session expires, so
any request may open them.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from sys import intern
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


class _Session:
    __slots__ = ('answers', 'highest', 'last_used')

    def __init__(self, last_used: int) -> None:
        self.last_used = last_used
        self.highest = 0
        self.answers: dict[int, Any] = {}


class Sessions:
    """All sessions; the state is a function of the calls, the same on every member."""

    def __init__(self) -> None:
        """Begin without sessions."""
        self._sessions: OrderedDict[str, _Session] = OrderedDict()  # longest unused first
        self._alive_until = 0      # none expires before; a function of the past, so it is not kept

    def __len__(self) -> int:
        """Return how many sessions are open."""
        return len(self._sessions)

    def open(self, name: str, now: int) -> None:
        """Open a session under a name that no other has had or will have."""
        assert name not in self._sessions, 'the name was never used before'
        self._sessions[name] = _Session(now)
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def find(self, name: str, sequence: int, now: int) -> Any | None:
        """
        Return the answer given before, or None where the request is new.

        Raise SessionExpired where the session is not open, or where the request is too old for
        its answer to be kept.
        """
        session = self._sessions.get(name)
        if session is None:
            if not name.startswith(MEMBER_PREFIX):
                raise SessionExpired(f"session '{name}' is not open: it has expired, or it was never opened; "
                                     'begin with open_session')
            self.open(name, now)
            session = self._sessions[name]
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
        answers = session.answers
        answers[sequence] = answer
        if sequence > session.highest:
            if sequence == session.highest + 1:
                answers.pop(sequence - WINDOW, None)
            else:   # a leap, of any width
                session.answers = {kept: value for kept, value in answers.items()
                                   if kept > sequence - WINDOW}
            session.highest = sequence

    def expire(self, now: int) -> None:
        """Forget the sessions that were unused for LIFETIME."""
        if now < self._alive_until:
            return
        self._alive_until = now + LIFETIME
        while self._sessions:
            name, session = next(iter(self._sessions.items()))
            if session.last_used + LIFETIME > now:
                self._alive_until = session.last_used + LIFETIME
                return
            del self._sessions[name]

    def dump(self, pack: Callable[[Any], tuple[Any, ...]]) -> list[Any]:
        """Return all there is in plain values, always in the same order; `pack` makes them of an answer."""
        return [(name, session.last_used, session.highest,
                 [(sequence, *pack(answer)) for sequence, answer in session.answers.items()])
                for name, session in self._sessions.items()]

    def load(self, dumped: Any, unpack: Callable[..., Any]) -> None:
        """Take in what `dump` returned, where no session is open."""
        for name, last_used, highest, answers in dumped:
            session = self._sessions[intern(name)] = _Session(last_used)
            session.highest = highest
            session.answers = {sequence: unpack(*answer) for sequence, *answer in answers}
