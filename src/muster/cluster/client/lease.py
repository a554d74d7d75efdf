# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""How long a holder may believe in its lock: pure arithmetic in nanoseconds of CLOCK_BOOTTIME."""
from __future__ import annotations

from dataclasses import dataclass

#: The clocks of holder and cluster may differ in rate by this part of a lease: one in so many.
DRIFT_PART = 100
#: A lease is renewed when this part of it is over: two attempts may fail before it ends.
RENEWAL_PART = 3
#: A grant that took longer than this part of the lease is renewed before the lock is used.
FRESH_PART = 10


@dataclass(frozen=True)
class Lease:
    """
    One hold of a lock as its holder sees it.

    `base` is the time before the request was sent that began or renewed it. The cluster began to
    count later than that, so the holder gives up first, as long as its clock is not slower than the
    cluster's by more than one part in DRIFT_PART.
    """

    token: int
    length: int
    base: int

    @property
    def ends(self) -> int:
        """Return when the holder must have stopped."""
        return self.base + self.length + -self.length // DRIFT_PART

    @property
    def renew_at(self) -> int:
        """Return when the renewal is due."""
        return self.base + self.length // RENEWAL_PART

    def held(self, now: int) -> bool:
        """Return whether the lock is still this holder's."""
        return now < self.ends

    def fresh(self, now: int) -> bool:
        """Return whether a grant at `now` may be used without a renewal."""
        return now - self.base <= self.length // FRESH_PART

    def renewed(self, base: int) -> Lease:
        """Return the lease that a request sent at `base` began anew."""
        return Lease(self.token, self.length, max(base, self.base))
