# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The fleet's locks: leases in cluster time, fair queues, fencing tokens.

Everything here is a function of the committed entries, so every member has the same table. Times
are cluster time in nanoseconds; a token is the log index of the entry that granted the hold.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
import heapq

#: A request as its client named it: session and sequence.
RequestId = tuple[str, int]
#: Waiters for one lock; beyond it `acquire` is refused.
MAX_WAITERS = 1000
#: Locks held at once; beyond it `acquire` is refused.
MAX_LOCKS = 100_000


class LockRefused(Exception):
    """The operation is refused and changed nothing."""


class NotFound(LockRefused):
    """Nobody holds the lock, or nobody waits for it with that request."""


class WrongToken(LockRefused):
    """The token is not that of the present hold."""


class Full(LockRefused):
    """There are as many locks or waiters as may be."""


@dataclass(frozen=True)
class Claim:
    """Somebody who holds a lock or waits for it."""

    name: str
    owner: str
    member: str            # id of the member that serves the client
    run: int               # and which run of its process
    request: RequestId
    lease: int
    deadline: int          # end of the lease, or of the wait
    token: int = 0         # 0 while it waits


@dataclass(frozen=True)
class Change:
    """One thing that happened to a lock; `what` is acquired, renewed, released, ..."""

    what: str
    claim: Claim


@dataclass
class _Lock:
    holder: Claim
    queue: dict[RequestId, Claim] = field(default_factory=dict)  # first served first


class LockTable:
    """All locks that are held."""

    def __init__(self) -> None:
        """Begin without locks."""
        self._locks: dict[str, _Lock] = {}
        # (deadline, lock, request, token); an item whose claim has changed meanwhile is stale.
        self._deadlines: list[tuple[int, str, RequestId, int]] = []
        self._claims = 0
        # How many leases of each magnitude are held, by bit_length: finding the shortest one
        # costs the same for one lock and for all.
        self._magnitudes: Counter[int] = Counter()

    def __len__(self) -> int:
        """Return how many locks are held."""
        return len(self._locks)

    def __iter__(self) -> Iterator[tuple[Claim, list[Claim]]]:
        """Return each holder with its waiters in their order, by name."""
        for name in sorted(self._locks):
            lock = self._locks[name]
            yield lock.holder, list(lock.queue.values())

    def holder(self, name: str) -> Claim | None:
        """Return who holds a lock."""
        lock = self._locks.get(name)
        return lock.holder if lock else None

    def claim_of(self, name: str, request: RequestId) -> Claim | None:
        """Return what a request holds or waits for."""
        lock = self._locks.get(name)
        if lock is None:
            return None
        return lock.holder if lock.holder.request == request else lock.queue.get(request)

    def serve(self, name: str, request: RequestId, member: str, run: int) -> Claim | None:
        """Note who serves a request now, and return what it holds or waits for."""
        lock, claim = self._locks.get(name), self.claim_of(name, request)
        if lock is None or claim is None:
            return None
        claim = replace(claim, member=member, run=run)
        if claim.token:
            lock.holder = claim
        else:
            lock.queue[request] = claim
        return claim

    def acquire(self, claim: Claim, wait: int, now: int, index: int) -> list[Change]:
        """Grant a free lock; queue for a held one where `wait` > 0; else change nothing."""
        lock = self._locks.get(claim.name)
        if lock is None:
            if len(self._locks) >= MAX_LOCKS:
                raise Full(f'{MAX_LOCKS} locks are held already: release some')
            return [self._grant(claim, {}, now, index)]
        if wait <= 0:
            return []
        if len(lock.queue) >= MAX_WAITERS:
            raise Full(f"{MAX_WAITERS} requests wait for lock '{claim.name}' already: try later")
        waiting = replace(claim, deadline=now + wait)
        lock.queue[claim.request] = waiting
        self._claims += 1
        self._watch(waiting)
        return [Change('queued', waiting)]

    def renew(self, name: str, token: int, lease: int, now: int) -> list[Change]:
        """Start the lease anew, with another length where `lease` > 0."""
        lock = self._held(name, token)
        length = lease or lock.holder.lease
        self._count_lease(lock.holder, -1)
        lock.holder = replace(lock.holder, lease=length, deadline=now + length)
        self._count_lease(lock.holder, 1)
        self._watch(lock.holder)
        return [Change('renewed', lock.holder)]

    def release(self, name: str, token: int, now: int, index: int) -> list[Change]:
        """Take the lock from its holder and give it to the first waiter."""
        lock = self._held(name, token)
        return [Change('released', lock.holder), *self._next(lock, now, index)]

    def withdraw(self, name: str, request: RequestId, now: int, index: int) -> list[Change]:
        """Release what a request holds, or end its wait."""
        lock = self._locks.get(name)
        if lock is not None and lock.holder.request == request:
            if lock.holder.token == index:
                # Granted by this very entry: a second grant would have the same token. The lease
                # ends now, and the next entry gives the lock on.
                lock.holder = replace(lock.holder, deadline=now)
                self._watch(lock.holder)
                return []
            return self.release(name, lock.holder.token, now, index)
        if lock is None or request not in lock.queue:
            raise NotFound(f"request '{request[0]}:{request[1]}' neither holds lock '{name}' "
                           'nor waits for it')
        return [self._end_wait(lock, request)]

    def abandon(self, member: str, run: int) -> list[Change]:
        """End the waits that another run of the member's process served."""
        return [self._end_wait(lock, claim.request)
                for _, lock in sorted(self._locks.items()) for claim in list(lock.queue.values())
                if claim.member == member and claim.run != run]

    def expire(self, now: int, index: int) -> list[Change]:
        """
        End every lease and wait whose deadline is reached, in the order of the deadlines.

        A wait that ends at the same time as the lease before it ends first: an expired waiter
        is never granted the lock.
        """
        changes: list[Change] = []
        expired: list[_Lock] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, name, request, token = heapq.heappop(self._deadlines)
            claim = self.claim_of(name, request)
            if claim is None or (claim.deadline, claim.token) != (deadline, token):
                continue
            if token:
                # Two renewals at one cluster time put the same deadline there twice.
                if self._locks[name] not in expired[-1:]:
                    expired.append(self._locks[name])
            else:
                changes.append(self._end_wait(self._locks[name], request))
        for lock in expired:
            changes += [Change('expired', lock.holder), *self._next(lock, now, index)]
        return changes

    def next_deadline(self) -> int | None:
        """Return the earliest deadline; it may belong to a claim that is gone."""
        return self._deadlines[0][0] if self._deadlines else None

    def shortest_lease(self) -> int | None:
        """Return the shortest lease that is held, rounded down to a power of two nanoseconds."""
        return 1 << (min(self._magnitudes) - 1) if self._magnitudes else None

    def _held(self, name: str, token: int) -> _Lock:
        lock = self._locks.get(name)
        if lock is None:
            raise NotFound(f"nobody holds lock '{name}': its lease has ended or it was released")
        if lock.holder.token != token:
            raise WrongToken(f"token {token} is not that of lock '{name}', which "
                             f"'{lock.holder.owner}' holds with token {lock.holder.token}")
        return lock

    def _grant(self, claim: Claim, queue: dict[RequestId, Claim], now: int, index: int) -> Change:
        holder = replace(claim, deadline=now + claim.lease, token=index)
        self._locks[claim.name] = _Lock(holder, queue)
        self._claims += 1
        self._count_lease(holder, 1)
        self._watch(holder)
        return Change('acquired', holder)

    def _next(self, lock: _Lock, now: int, index: int) -> list[Change]:
        """Give the lock to the first waiter, or nobody."""
        del self._locks[lock.holder.name]
        self._claims -= 1
        self._count_lease(lock.holder, -1)
        if not lock.queue:
            return []
        first = lock.queue.pop(next(iter(lock.queue)))
        self._claims -= 1
        return [self._grant(first, lock.queue, now, index)]

    def _end_wait(self, lock: _Lock, request: RequestId) -> Change:
        self._claims -= 1
        return Change('wait_ended', lock.queue.pop(request))

    def _count_lease(self, claim: Claim, change: int) -> None:
        magnitude = claim.lease.bit_length()
        self._magnitudes[magnitude] += change
        if not self._magnitudes[magnitude]:
            del self._magnitudes[magnitude]

    def _watch(self, claim: Claim) -> None:
        heapq.heappush(self._deadlines, (claim.deadline, claim.name, claim.request, claim.token))
        if len(self._deadlines) > 64 + 4 * self._claims:
            self._forget_stale_deadlines()

    def _forget_stale_deadlines(self) -> None:
        """Rebuild the heap: renewals leave their old deadlines behind."""
        self._deadlines = [(c.deadline, c.name, c.request, c.token)
                           for lock in self._locks.values()
                           for c in (lock.holder, *lock.queue.values())]
        heapq.heapify(self._deadlines)
