# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A fleet-wide lock as its holder uses it: renewed by itself, and honest about when it is lost."""
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
import threading
from types import TracebackType

from muster.cluster.client.connection import Connection, now, SECOND
from muster.cluster.client.errors import (
    FleetError,
    FleetUnavailable,
    LockLost,
    LockTimeout,
    OutcomeUnknown,
    RequestRefused,
)
from muster.cluster.client.lease import Lease
from muster.cluster.client.requests import Call, Done
from muster.cluster.state.commands import Code
from muster.ros.durations import duration
from muster_interfaces.srv import AcquireLock, ReleaseLock, RenewLock

#: What a request may take beyond the wait it asks for, until it is given up.
PATIENCE = 10 * SECOND


class Lock:
    """
    One lock of the fleet, made with `Fleet.lock`; a context manager.

    It is not re-entrant: taken twice, the second waits for the first. It may be taken again after
    its release. Its methods may be called from any thread; those that wait raise RuntimeError
    inside callbacks of the client itself. In a callback of a ROS executor use `acquire_async`.
    """

    def __init__(self, connection: Connection, name: str, owner: str, lease: int, timeout: int, delay: int,
                 on_lost: Callable[[Lock], None] | None) -> None:
        """Prepare; durations in nanoseconds."""
        self._connection, self._on_lost = connection, on_lost
        self.name, self.owner = name, owner
        self._length, self._timeout, self._delay = lease, timeout, delay
        self._lease: Lease | None = None
        self._lost = False

    # For its user ------------------------------------------------------------------------------
    @property
    def held(self) -> bool:
        """Return whether it is held this instant: the lease, counted from before it was asked for, runs."""
        lease = self._lease
        return lease is not None and lease.held(now())

    @property
    def lost(self) -> bool:
        """Return whether it was held and ended without being released."""
        lease = self._lease
        return self._lost or (lease is not None and not lease.held(now()))

    @property
    def token(self) -> int:
        """Return the fencing token of the hold for the resource, 0 where there is none."""
        lease = self._lease
        return lease.token if lease else 0

    @property
    def remaining(self) -> float:
        """Return for how many seconds it is held without a renewal."""
        lease = self._lease
        return max(0, lease.ends - now()) / SECOND if lease else 0.0

    def check(self) -> None:
        """Raise LockLost unless it is held."""
        if not self.held:
            raise LockLost(f"lock '{self.name}' is not held any more" if self.lost else
                           f"lock '{self.name}' is not held: acquire it first")

    def acquire(self, timeout: float | None = None) -> Lock:
        """
        Wait for the lock and return it.

        `timeout` [s, 0..3600] replaces the lock's own. Raise LockTimeout where others held it all the
        while, FleetUnavailable where no robot could be asked, OutcomeUnknown where no answer came
        (what it got, if anything, is given back), RequestRefused where name or lease are impossible.
        """
        self._connection.check_thread()
        return self._connection.wait(self.acquire_async(timeout))

    def acquire_async(self, timeout: float | None = None) -> Future[Lock]:
        """
        Ask for the lock and return a future of it, with the errors of `acquire`.

        Cancelling the future ends the wait. Its callbacks run on the client's thread and must not block.
        """
        wait = self._timeout if timeout is None else int(timeout * SECOND)
        future: Future[Lock] = Future()
        self._connection.call_soon(lambda: _Acquisition(self, future, wait).begin())
        return future

    def release(self) -> None:
        """
        Give it back; nothing happens where it is not held.

        Raise FleetUnavailable or OutcomeUnknown where no robot confirmed it: then it goes with its lease.
        """
        self._connection.check_thread()
        self._connection.wait(self.release_async())

    def release_async(self) -> Future[None]:
        """Give it back and return a future of the confirmation, with the errors of `release`."""
        future: Future[None] = Future()
        self._connection.call_soon(lambda: self._release(future))
        return future

    def __enter__(self) -> Lock:
        """Wait for it."""
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Give it back; raise LockLost where it had been lost and nothing else went wrong."""
        lost = self.lost
        with suppress(FleetUnavailable, OutcomeUnknown):    # then it goes when its lease ends
            self.release()
        if lost and kind is None:
            raise LockLost(f"lock '{self.name}' was lost before the end of its block")

    # On the connection's thread ----------------------------------------------------------------
    def _hold(self, lease: Lease) -> None:
        self._lease, self._lost = lease, False
        self._connection.call_at(lease.renew_at, lambda: self._renew(lease))
        self._connection.call_at(lease.ends, lambda: self._lose(lease))

    def _renew(self, lease: Lease) -> None:
        def renewed(done: Done) -> None:
            if self._lease is not lease:
                return
            if done.error is None:
                self._hold(lease.renewed(done.since))
            elif isinstance(done.error, RequestRefused):
                self._lose(lease)

        if self._lease is lease:
            self._connection.submit(Call('renew_lock', self._renewal(lease.token), lease.ends, renewed))

    def _renewal(self, token: int) -> RenewLock.Request:
        return RenewLock.Request(name=self.name, fencing_token=token, lease=duration(self._length))

    def _lose(self, lease: Lease) -> None:
        if self._lease is not lease:
            return
        self._lease, self._lost = None, True
        if self._on_lost is not None:
            # In a thread of its own, because it is the user's and may take its time.
            threading.Thread(target=self._on_lost, args=(self,), daemon=True).start()

    def _release(self, future: Future[None]) -> None:
        def released(done: Done) -> None:
            if done.error is None or isinstance(done.error, RequestRefused):  # it had ended already
                future.set_result(None)
            else:
                future.set_exception(done.error)

        lease, self._lease, self._lost = self._lease, None, False
        if lease is None:
            future.set_result(None)
        else:
            self._connection.submit(Call('release_lock', ReleaseLock.Request(
                name=self.name, fencing_token=lease.token), now() + PATIENCE, released))


class _Acquisition:
    """One way from the wish for a lock to its hold, on the connection's thread."""

    def __init__(self, lock: Lock, future: Future[Lock], wait: int) -> None:
        self._lock, self._future = lock, future
        self._connection = lock._connection
        self._ends = now() + wait
        self._request = AcquireLock.Request()

    def begin(self) -> None:
        self._future.add_done_callback(self._cancelled)
        self._ask()

    def _ask(self) -> None:
        lock = self._lock
        request = self._request = AcquireLock.Request(
            name=lock.name, owner=lock.owner, lease=duration(lock._length), lock_delay=duration(lock._delay))
        time_now = now()

        def prepare(at: int) -> None:
            request.wait_timeout = duration(max(0, self._ends - at))

        self._connection.submit(Call('acquire_lock', request, self._ends + PATIENCE, self._answered,
                                     wait=max(0, self._ends - time_now), prepare=prepare))

    def _answered(self, done: Done) -> None:
        if isinstance(done.error, RequestRefused) and done.error.code == Code.HELD:
            self._fail(LockTimeout(str(done.error)))
        elif isinstance(done.error, RequestRefused) and done.error.code == Code.NOT_FOUND:
            self._again(str(done.error))      # granted to a sending before this one, and over since
        elif done.error is not None:
            if isinstance(done.error, OutcomeUnknown):
                self._withdraw()
            self._fail(done.error)
        else:
            lease = Lease(done.response.fencing_token, self._lock._length, done.since)
            if lease.fresh(now()):
                self._grant(lease)
            else:
                self._renew(lease.token)

    def _renew(self, token: int) -> None:
        """Renew what was waited for: the lease began at the grant, which nobody here saw."""
        def renewed(done: Done) -> None:
            lease = Lease(token, self._lock._length, done.since)
            if isinstance(done.error, RequestRefused) or not lease.held(now()):
                self._again(f"lock '{self._lock.name}' was granted, but its lease ended too soon")
            elif done.error is None:
                self._grant(lease)
            else:
                self._give_back(token)
                self._fail(done.error)

        self._connection.submit(Call('renew_lock', self._lock._renewal(token),
                                     now() + min(PATIENCE, self._lock._length), renewed))

    def _again(self, reason: str) -> None:
        if now() < self._ends and not self._future.cancelled():
            self._ask()
        else:
            self._fail(LockTimeout(reason))

    def _grant(self, lease: Lease) -> None:
        if self._future.set_running_or_notify_cancel():
            self._lock._hold(lease)
            self._future.set_result(self._lock)
        else:
            self._give_back(lease.token)

    def _fail(self, error: FleetError) -> None:
        if not self._future.cancelled() and self._future.set_running_or_notify_cancel():
            self._future.set_exception(error)

    def _cancelled(self, future: Future[Lock]) -> None:
        if future.cancelled():
            self._connection.call_soon(self._withdraw)

    def _withdraw(self) -> None:
        """End a wait, or give back what it got, wherever the request has come to."""
        if self._request.request_id:
            self._submit_release(ReleaseLock.Request(
                name=self._lock.name, acquire_request_id=self._request.request_id))

    def _give_back(self, token: int) -> None:
        self._submit_release(ReleaseLock.Request(name=self._lock.name, fencing_token=token))

    def _submit_release(self, request: ReleaseLock.Request) -> None:
        # Nobody waits for it; without an answer the lease ends the hold.
        self._connection.submit(Call('release_lock', request, now() + self._lock._length + PATIENCE,
                                     lambda done: None))
