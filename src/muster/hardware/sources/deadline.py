# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Blocking work with a deadline for each of its steps, and the pauses after it failed."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import threading
import time

Step = Callable[[str], None]

#: A transfer on a bus that takes longer (seconds) does not end by itself: somebody holds the line.
STEP_LIMIT = 0.2
#: All steps together; a bus so slow that it takes longer is of no use.
TOTAL_LIMIT = 5.0


class HungError(Exception):
    """A step did not end in time; the message says which."""


class AbandonedError(Exception):
    """Raised by `step` in a thread that was given up, so that it ends."""


class _Attempt[Result]:
    """One run of the work in its own thread."""

    def __init__(self, limit: float, total: float) -> None:
        self.limit, self.end = limit, time.monotonic() + total
        self.deadline = time.monotonic() + limit
        self.doing = 'starting'
        self.abandoned = False
        self.done = threading.Event()
        self.result: Result | None = None
        self.error: BaseException | None = None

    def step(self, doing: str) -> None:
        if self.abandoned:
            raise AbandonedError
        self.doing, self.deadline = doing, min(time.monotonic() + self.limit, self.end)

    def run(self, work: Callable[[Step], Result]) -> None:
        try:
            self.result = work(self.step)
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            self.error = error
        self.done.set()


class Deadline:
    """
    Runs work in a thread of its own and gives it up when a step takes longer than `limit` seconds.

    The kernel cannot be interrupted in a transfer that hangs: the thread is left behind, and no
    other is started before it has ended, so that there is one at most.
    """

    def __init__(self, name: str, limit: float = STEP_LIMIT, total: float = TOTAL_LIMIT) -> None:
        """Take the name of the thread."""
        self._name, self._limit, self._total = name, limit, total
        self._thread: threading.Thread | None = None

    @property
    def hangs(self) -> bool:
        """Return whether a thread that was given up is still there."""
        return self._thread is not None and self._thread.is_alive()

    def run[Result](self, work: Callable[[Step], Result]) -> Result:
        """
        Return the result of `work(step)`, which must call `step(what)` before everything that may block.

        Raises what the work raises, and HungError where a step did not end. `work` gives back what it
        holds by itself: AbandonedError is raised at its next step.
        """
        if self.hangs:
            raise HungError('an earlier transfer has not ended yet')
        attempt: _Attempt[Result] = _Attempt(self._limit, self._total)
        self._thread = threading.Thread(target=attempt.run, args=(work,), name=self._name, daemon=True)
        self._thread.start()
        while not attempt.done.wait(max(0.0, attempt.deadline - time.monotonic())):
            if time.monotonic() >= attempt.deadline:
                attempt.abandoned = True
                raise HungError(attempt.doing)
        self._thread.join()
        if attempt.error is not None:
            raise attempt.error
        return attempt.result  # type: ignore[return-value]  # it is set where there is no error


@dataclass
class Backoff:
    """When to try again: after `first` seconds, then after twice as many each time, up to `limit`."""

    first: float = 5.0
    limit: float = 300.0
    failures: int = 0
    until: float = 0.0

    def failed(self, now: float) -> None:
        """Lengthen the pause, which begins `now` (steady seconds)."""
        self.until = now + min(self.limit, self.first * 2.0 ** min(self.failures, 32))
        self.failures += 1

    def succeeded(self) -> None:
        """Forget earlier failures."""
        self.failures, self.until = 0, 0.0

    def waits(self, now: float) -> bool:
        """Return whether it is too early to try again."""
        return now < self.until
