# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The fleet's locks: leases in cluster time, fair queues, fencing tokens.

Everything here is a function of the committed entries, so every member has the same table. Times
are cluster time in nanoseconds; a token is the log index of the entry that granted the hold.
"""
from __future__ import annotations

from collections.abc import Iterator
import heapq
from sys import intern
from typing import Any, NamedTuple

from muster.cluster.state.deadlines import Deadlines, Shortest
from muster.cluster.state.events import EventType
from muster.cluster.state.refused import Busy, NotFound, WrongToken

#: A request as its client named it: session and sequence.
RequestId = tuple[str, int]
#: Waiters for one lock; beyond it `acquire` is refused.
MAX_WAITERS = 1000
#: Locks held at once; beyond it `acquire` is refused.
MAX_LOCKS = 100_000
MAX_SERVERS = 1024


class Claim(NamedTuple):
    """Somebody who holds a lock or waits for it."""

    name: str
    owner: str
    member: str            # id of the member that serves the client
    run: int               # and which run of its process
    request: RequestId
    lease: int
    delay: int             # how long the lock stays closed if the hold expires
    deadline: int          # end of the lease, of the wait, or of the time it stays closed
    token: int = 0         # 0 while it waits

    def served_by(self, member: str, run: int) -> Claim:
        """Return the claim of a client that turned to another member."""
        return self if (member, run) == (self.member, self.run) else self._replace(member=member, run=run)


class Change(NamedTuple):
    """One thing that happened to a lock."""

    type: EventType
    claim: Claim


class LockTable:
    """
    All locks that are held or closed.

    A lock is held, or closed because its last hold expired and its holder asked for a delay, or
    it is free and not in the table. Only held and closed locks have waiters.
    """

    def __init__(self) -> None:
        """Begin without locks."""
        self._holders: dict[str, Claim] = {}
        self._closed: dict[str, Claim] = {}                       # by whose expiry
        self._queues: dict[str, dict[RequestId, Claim]] = {}      # first served first, never empty
        self._waiters = 0
        self._ends: Deadlines[str] = Deadlines(self._end)         # of holds and closures
        self._waits: Deadlines[tuple[str, RequestId]] = Deadlines(self._end_of_wait)
        self._leases = Shortest()
        # One object for each run of a member, however many claims it serves: they are many.
        self._servers: dict[tuple[str, int], tuple[str, int]] = {}

    def __len__(self) -> int:
        """Return how many locks are held."""
        return len(self._holders)

    def __iter__(self) -> Iterator[tuple[Claim, list[Claim]]]:
        """Return each holder with its waiters in their order, by name."""
        for name in sorted(self._holders):
            yield self._holders[name], self.waiters(name)

    def named(self, prefix: str, limit: int) -> tuple[list[str], int]:
        """Return the first names of held locks that begin with `prefix`, and how many there are."""
        found = [name for name in self._holders if name.startswith(prefix)] if prefix else self._holders
        return heapq.nsmallest(limit, found), len(found)

    def holder(self, name: str) -> Claim | None:
        """Return who holds a lock."""
        return self._holders.get(name)

    def closed(self, name: str) -> Claim | None:
        """Return the expired hold that keeps a lock closed, until its `deadline`."""
        return self._closed.get(name)

    def waiters(self, name: str) -> list[Claim]:
        """Return who waits for a lock, first served first."""
        return list(self._queues.get(name, {}).values())

    def claim_of(self, name: str, request: RequestId) -> Claim | None:
        """Return what a request holds or waits for."""
        holder = self._holders.get(name)
        if holder is not None and holder.request == request:
            return holder
        queue = self._queues.get(name)
        return queue.get(request) if queue else None

    def serve(self, name: str, request: RequestId, member: str, run: int) -> Claim | None:
        """Note who serves a request now, and return what it holds or waits for."""
        claim = self.claim_of(name, request)
        if claim is None:
            return None
        claim = claim.served_by(member, run)
        if claim.token:
            self._holders[name] = claim
        else:
            self._queues[name][request] = claim
        return claim

    def acquire(self, name: str, owner: str, server: tuple[str, int], request: RequestId, lease: int,
                wait: int, delay: int, now: int, index: int) -> Claim | None:
        """Grant a free lock; queue for another where `wait` > 0; else change nothing, return None."""
        free = name not in self._holders and name not in self._closed
        if free:
            if len(self._holders) + len(self._closed) >= MAX_LOCKS:
                raise Busy(f'{MAX_LOCKS} locks are held already: release some')
        elif wait <= 0:
            return None
        elif len(self._queues.get(name, ())) >= MAX_WAITERS:
            raise Busy(f"{MAX_WAITERS} requests wait for lock '{name}' already: try later")
        owner = intern(owner)
        member, run = self._server(server)
        if free:
            return self._hold(Claim(name, owner, member, run, request, lease, delay, now + lease, index))
        waiting = Claim(name, owner, member, run, request, lease, delay, now + wait)
        self._queue(waiting)
        return waiting

    def renew(self, name: str, token: int, lease: int, now: int) -> Claim:
        """Start the lease anew, with another length where `lease` > 0."""
        old = self._held(name, token)
        length = lease or old.lease
        holder = Claim(name, old.owner, old.member, old.run, old.request, length, old.delay,
                       now + length, token)
        self._holders[name] = holder
        if length != old.lease:
            self._leases.remove(old.lease)
            self._leases.add(length)
        if holder.deadline < old.deadline:
            self._watch(holder)
        return holder

    def release(self, name: str, token: int, now: int, index: int) -> list[Change]:
        """Take the lock from its holder and give it to the first waiter."""
        holder = self._held(name, token)
        if token == index:
            # Granted by this very entry: a second grant would have the same token. The lease
            # ends now, and the next entry gives the lock on.
            holder = holder._replace(deadline=now, delay=0)
            self._holders[name] = holder
            self._watch(holder)
            return []
        self._drop(holder)
        released = Change(EventType.LOCK_RELEASED, holder)
        return [released, *self._grant_next(name, now, index)] if name in self._queues else [released]

    def withdraw(self, name: str, request: RequestId, now: int, index: int) -> list[Change]:
        """Release what a request holds, or end its wait."""
        claim = self.claim_of(name, request)
        if claim is None:
            raise NotFound(f"request '{request[0]}:{request[1]}' neither holds lock '{name}' "
                           'nor waits for it')
        if claim.token:
            return self.release(name, claim.token, now, index)
        return [self._end_waiting(name, request)]

    def abandon(self, member: str, run: int) -> list[Change]:
        """End the waits that another run of the member's process served."""
        return [self._end_waiting(name, claim.request)
                for name in sorted(self._queues) for claim in self.waiters(name)
                if claim.member == member and claim.run != run]

    def expire(self, now: int, index: int) -> list[Change]:
        """
        End every wait, lease and closure whose deadline is reached, in the order of the deadlines.

        A wait that ends at the same time as the lease before it ends first: an expired waiter
        is never granted the lock.
        """
        waits, ends = self._waits.due(now), self._ends.due(now)
        if not waits and not ends:
            return []
        changes = [self._end_waiting(name, request) for name, request in waits]
        for name in ends:
            if self._closed.pop(name, None) is None:
                holder = self._holders[name]
                self._drop(holder)
                changes.append(Change(EventType.LOCK_EXPIRED, holder))
                if holder.delay:
                    changes.append(self._close(holder._replace(deadline=now + holder.delay)))
                    continue
            changes += self._grant_next(name, now, index)
        return changes

    def next_deadline(self) -> int | None:
        """Return when the next lease, wait or closure ends."""
        end, wait = self._ends.next(), self._waits.next()
        return end if wait is None else wait if end is None else min(end, wait)

    def shortest_lease(self) -> int | None:
        """Return the shortest lease that is held, rounded down to a power of two nanoseconds."""
        return self._leases.get()

    # Snapshots ---------------------------------------------------------------------------------
    def dump(self) -> list[Any]:
        """Return all there is in plain values, always in the same order."""
        return [[self._holders[name] for name in sorted(self._holders)],
                [self._closed[name] for name in sorted(self._closed)],
                [self.waiters(name) for name in sorted(self._queues)]]

    def load(self, dumped: Any) -> None:
        """Take in what `dump` returned, into an empty table."""
        holders, closed, queues = dumped
        for row in holders:
            self._hold(self._restored(row))
        for row in closed:
            self._close(self._restored(row))
        for queue in queues:
            for row in queue:
                self._queue(self._restored(row))

    def _restored(self, row: Any) -> Claim:
        name, owner, member, run, (session, sequence), *rest = row
        member, run = self._server((member, run))
        return Claim(name, intern(owner), member, run, (intern(session), sequence), *rest)

    # Inside ------------------------------------------------------------------------------------
    def _held(self, name: str, token: int) -> Claim:
        holder = self._holders.get(name)
        if holder is None:
            raise NotFound(f"nobody holds lock '{name}': its lease has ended or it was released")
        if holder.token != token:
            raise WrongToken(f"token {token} is not that of lock '{name}', which "
                             f"'{holder.owner}' holds with token {holder.token}")
        return holder

    def _hold(self, holder: Claim) -> Claim:
        self._holders[holder.name] = holder
        self._leases.add(holder.lease)
        self._watch(holder)
        return holder

    def _drop(self, holder: Claim) -> None:
        del self._holders[holder.name]
        self._leases.remove(holder.lease)

    def _close(self, expired: Claim) -> Change:
        self._closed[expired.name] = expired
        self._watch(expired)
        return Change(EventType.LOCK_CLOSED, expired)

    def _queue(self, waiting: Claim) -> None:
        self._queues.setdefault(waiting.name, {})[waiting.request] = waiting
        self._waiters += 1
        self._waits.watch(waiting.deadline, (waiting.name, waiting.request), self._waiters)

    def _grant_next(self, name: str, now: int, index: int) -> list[Change]:
        """Give a lock that nobody holds to its first waiter, or nobody."""
        queue = self._queues.get(name)
        if not queue:
            return []
        first = self._leave(name, next(iter(queue)))
        holder = self._hold(first._replace(deadline=now + first.lease, token=index))
        return [Change(EventType.LOCK_ACQUIRED, holder)]

    def _leave(self, name: str, request: RequestId) -> Claim:
        """Take a waiter out of its queue."""
        queue = self._queues[name]
        claim = queue.pop(request)
        if not queue:
            del self._queues[name]
        self._waiters -= 1
        return claim

    def _end_waiting(self, name: str, request: RequestId) -> Change:
        return Change(EventType.LOCK_WAIT_ENDED, self._leave(name, request))

    def _watch(self, claim: Claim) -> None:
        self._ends.watch(claim.deadline, claim.name, len(self._holders) + len(self._closed))

    def _end(self, name: str) -> int | None:
        claim = self._holders.get(name) or self._closed.get(name)
        return claim.deadline if claim else None

    def _end_of_wait(self, key: tuple[str, RequestId]) -> int | None:
        queue = self._queues.get(key[0])
        claim = queue.get(key[1]) if queue else None
        return claim.deadline if claim else None

    def _server(self, server: tuple[str, int]) -> tuple[str, int]:
        known = self._servers.get(server)
        if known is None:
            if len(self._servers) >= MAX_SERVERS:
                self._servers.clear()
            known = self._servers[server] = server
        return known
