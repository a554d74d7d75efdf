# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The programs that use a simulated cluster, as its documentation tells them to."""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from muster.cluster.state.commands import (
    Acquire,
    Answer,
    Code,
    OpenSession,
    Operation,
    Release,
    Renew,
    Withdraw,
)
from muster.cluster.state.locks import RequestId
from oracle import MAX_DRIFT, MILLISECOND, SECOND

if TYPE_CHECKING:
    from simulation import Simulation

#: The locks that all clients want.
LOCKS = ('a', 'b')


class LockClient:
    """A program that takes, renews, uses and gives back locks, and looks who has them."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        """Begin with an own clock and session."""
        self.simulation, self.name = simulation, name
        self._random = random = simulation.random
        self._rate = 1 + random.uniform(-MAX_DRIFT, MAX_DRIFT)
        self._session, self._sequence = name, 0
        self._lock, self._token, self._lease = '', 0, 0
        self._until = 0               # end of its own view of the hold, simulation time
        self.done = 0                 # requests answered with OK or HELD

    def act(self) -> None:
        """Begin the next thing to do."""
        choice = self._random.random()
        if self._token and self.simulation.time < self._until:
            if choice < 0.4:
                self._renew()
            elif choice < 0.8:
                self._release()
            else:
                self._later(self._until - self.simulation.time)
        elif choice < 0.15:
            self._read()
        else:
            self._acquire()

    def _later(self, delay: int = 0) -> None:
        self.simulation.after(delay + self._random.randrange(self.simulation.leisure), self.act)

    def _ask(self, operation: Operation | None, request: RequestId | None,
             then: Callable[[Answer], None]) -> None:
        self.simulation.request(self.name, operation, request, then)

    def _next_request(self) -> RequestId | None:
        if self._random.random() < 0.2:
            return None
        self._sequence += 1
        return self._session, self._sequence

    def _refused(self, answer: Answer) -> None:
        """Open a new session where the old one has ended, or none was opened yet."""
        self.done += answer.code == Code.HELD
        if answer.code == Code.SESSION_EXPIRED:
            self._open_session()
        else:
            self._later()

    def _open_session(self) -> None:
        def answered(answer: Answer) -> None:
            if answer.code == Code.OK:
                self._session, self._sequence = str(answer.token), 0
            self._later()
        self._ask(OpenSession(), None, answered)

    def _believe(self, sent: int, length: int) -> None:
        """Count the lease from before the request was sent, less 1 %, on the own clock."""
        self._until = sent + int(0.99 * length / self._rate)
        if self._until > self.simulation.time:
            self.simulation.oracle.view(self._lock, self.name, self.simulation.time, self._until)

    def _acquire(self) -> None:
        random, sent = self._random, self.simulation.time
        self._token, self._lock = 0, random.choice(LOCKS)
        self._lease = random.randrange(SECOND // 5, 2 * SECOND)
        wait = random.choice((0, 0, random.randrange(1, 2 * SECOND)))
        delay = random.choice((0, 0, random.randrange(SECOND)))
        operation = Acquire(self._lock, self.name, self._lease, wait, delay)
        request = self._next_request()
        waits = withdrawn = False

        def withdraw() -> None:
            nonlocal withdrawn
            if waits and request is not None:
                withdrawn = True
                self._ask(Withdraw(operation.name, *request), None, lambda _: None)

        def answered(answer: Answer) -> None:
            nonlocal waits
            waits = False
            if withdrawn:
                self._refused(answer)   # whatever it got is given back
                return
            if answer.code == Code.OK:
                self.done += 1
                self._token = answer.token
                if wait:
                    self._renew()      # when it was granted is not known
                    return
                self._believe(sent, self._lease)
            elif answer.code == Code.OUTCOME_UNKNOWN and request is not None:
                again = random.random()
                if again < 0.6:
                    # A robot may sleep in between, longer than its session lives.
                    sleeps = self.simulation.haste > 1 and again < 0.2
                    self.simulation.after(int(1.2 * self.simulation.lifetime) if sleeps else 0,
                                          lambda: self._ask(operation, request, answered))
                    return
                if again < 0.9:
                    self._ask(Withdraw(self._lock, *request), None, lambda _: self._later())
                    return
            self._refused(answer)
        self._ask(operation, request, answered)
        waits = wait > 0
        if random.random() < 0.3:
            self.simulation.after(random.randrange(wait + 1), withdraw)

    def _renew(self) -> None:
        sent, request = self.simulation.time, self._next_request()
        operation = Renew(self._lock, self._token, 0)

        def answered(answer: Answer) -> None:
            if answer.code == Code.OK:
                self.done += 1
                self._believe(sent, self._lease)
            elif answer.code == Code.OUTCOME_UNKNOWN and request is not None:
                self._ask(operation, request, answered)
                return
            self._refused(answer)
        self._ask(operation, request, answered)

    def _release(self) -> None:
        self.simulation.oracle.gives_up(self._lock, self.name)
        operation, request = Release(self._lock, self._token), self._next_request()
        self._token = 0
        self._ask(operation, request, self._refused)

    def _read(self) -> None:
        self._ask(None, None, lambda _: self._later())


class Watcher(LockClient):
    """A program that looks again and again who has the locks."""

    def act(self) -> None:
        """Read, soon again."""
        self._ask(None, None, self._seen)

    def _seen(self, answer: Answer) -> None:
        self.done += answer.code == Code.OK
        self.simulation.after(self._random.randrange(40 * MILLISECOND), self.act)
