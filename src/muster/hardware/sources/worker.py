# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The one interface of all sources that must wait for the world, and the thread that runs one."""
from __future__ import annotations

from collections.abc import Callable
import contextlib
from dataclasses import replace
import os
import select
import threading
import time
from typing import Protocol

from muster.hardware.devices import Report

#: The reasons of scans.
PERIODIC, REQUESTED = 'periodic scan', 'requested scan'


class Source(Protocol):
    """A place where devices are found. Only the thread of its worker calls it, so it may block."""

    @property
    def name(self) -> str:
        """Return the name that its reports carry."""

    def scan(self, reason: str) -> Report:
        """Return all devices that are there now, with the source's state of health."""

    def wait(self, timeout: float, wake: int) -> Report | None:
        """
        Return the next change.

        Return None when none came within `timeout` seconds, or when the file descriptor `wake`
        became readable.
        """

    def close(self) -> None:
        """Give everything back."""


def pause(timeout: float, wake: int) -> None:
    """Wait for `timeout` seconds or until the file descriptor `wake` is readable."""
    select.select([wake], [], [], timeout)


class Worker:
    """
    Runs a source: scans at once, every `interval` seconds and on request, and reports changes.

    `deliver(report)` is called in the worker's thread; while it blocks, the kernel's queue is what
    fills, and its overflow is noticed and answered with a new scan. It is not called again after
    `stop` returned True. A periodic scan that found what was delivered last is not delivered again:
    `heard` tells when (steady seconds) the source answered last. What a source raises becomes the
    problem of a report, and the next scan tries again.
    """

    def __init__(self, source: Source, interval: float, deliver: Callable[[Report], None]) -> None:
        """Prepare."""
        self.source = source
        self.interval = interval
        self._deliver = deliver
        self.heard = time.monotonic()
        self._last: Report | None = None
        self._requested = 0
        self._stopping = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name=f'source {source.name}', daemon=True)

    def start(self) -> None:
        """Begin with a scan."""
        self._thread.start()

    def set_interval(self, interval: float) -> None:
        """Change the interval, also of what is waited for; devices are asked no question more for that."""
        self.interval = interval
        os.eventfd_write(self._wake, 1)

    def request_scan(self) -> int:
        """Ask for a scan now; a report whose `scan` is at least the returned number answers it."""
        self._requested += 1
        os.eventfd_write(self._wake, 1)
        return self._requested

    def stop(self, timeout: float = 2.0) -> bool:
        """End the thread; False where the source hangs, and then the thread is abandoned."""
        if self._wake < 0:
            return True
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        os.close(self._wake)
        self._wake = -1
        return True

    def _run(self) -> None:
        reason = 'first scan'
        while not self._stopping:
            self._drain_wake()
            answered = self._requested
            try:
                self._hand_over(replace(self.source.scan(reason), scan=answered))
                self._watch(answered)
            except Exception as error:
                problem = f'{type(error).__name__}: {error}'
                self._hand_over(Report(self.source.name, {}, 'failure', complete=False, problem=problem))
                pause(self.interval, self._wake)
            reason = REQUESTED if self._requested != answered else PERIODIC
        self.source.close()

    def _watch(self, answered: int) -> None:
        begun = time.monotonic()
        while True:
            self._drain_wake()  # before looking at why it was woken
            left = begun + self.interval - time.monotonic()
            if self._stopping or self._requested != answered or left <= 0:
                return
            report = self.source.wait(left, self._wake)
            if report is not None:
                self._hand_over(report)

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _hand_over(self, report: Report) -> None:
        self.heard = time.monotonic()
        if not self._stopping and not (report.reason == PERIODIC and _same(report, self._last)):
            self._last = report
            self._deliver(report)


def _same(report: Report, last: Report | None) -> bool:
    """Return whether a complete report says what the last one said."""
    return last is not None and last.complete and (
        (report.present, report.problem) == (last.present, last.problem))
