# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who uses which device: leases that the node keeps, until they are released, run out or lose it."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Bounds of a lease, seconds.
MIN_LEASE, MAX_LEASE = 0.1, 86400.0
MAX_OWNER = 128


class ReservationError(ValueError):
    """A reservation that is not possible; the message says why."""


class HeldError(ReservationError):
    """Somebody else has reserved the device."""


class UnknownTokenError(ReservationError):
    """There is no such reservation; it was released or ran out, or its device is gone."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A device that `owner` (a description) uses until `deadline` (steady seconds)."""

    device: str
    owner: str
    token: int
    deadline: float


class Reservations:
    """
    Reservations by device, at most one of each; tokens grow, and no token is given twice.

    The caller gives the steady time in seconds, and tells which devices are gone: a device that is
    missing within its grace keeps its reservation.
    """

    def __init__(self, first_token: int = 1) -> None:
        """Begin without any; tokens begin at `first_token`."""
        self._next = first_token
        self._held: dict[str, Reservation] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._held)

    @property
    def held(self) -> Mapping[str, Reservation]:
        """Return them by device."""
        return self._held

    def reserve(self, device: str, owner: str, lease: float, token: int, now: float) -> Reservation:
        """
        Reserve a device for `lease` seconds, or renew where `token` (not 0) is that of a reservation.

        Raises HeldError, UnknownTokenError, or ReservationError for a value out of bounds; then
        nothing has changed.
        """
        if not MIN_LEASE <= lease <= MAX_LEASE:
            raise ReservationError(f'lease must be within {MIN_LEASE:g}..{MAX_LEASE:g} s, not {lease:g}')
        if not 1 <= len(owner) <= MAX_OWNER or not owner.isprintable():
            raise ReservationError(f'owner must be 1..{MAX_OWNER} printable characters: who uses the device?')
        self.expire(now)
        held = self._held.get(device)
        if token:
            held = self._own(device, token)
        elif held is not None:
            raise HeldError(f"device '{device}' is reserved by '{held.owner}' for "
                            f'{held.deadline - now:.1f} s more: wait, or ask for another')
        else:
            token, self._next = self._next, self._next + 1
        self._held[device] = Reservation(device, held.owner if held else owner, token, now + lease)
        return self._held[device]

    def release(self, device: str, token: int, now: float) -> Reservation:
        """Give a device back and return what its reservation was; raises UnknownTokenError."""
        self.expire(now)
        reservation = self._own(device, token)
        del self._held[device]
        return reservation

    def lose(self, device: str) -> Reservation | None:
        """Drop the reservation of a device that is gone, and return it."""
        return self._held.pop(device, None)

    def expire(self, now: float) -> list[Reservation]:
        """Drop and return those that have run out."""
        over = [held for held in self._held.values() if held.deadline <= now]
        for held in over:
            del self._held[held.device]
        return over

    def next_deadline(self) -> float | None:
        """Return when the next one runs out."""
        return min((held.deadline for held in self._held.values()), default=None)

    def _own(self, device: str, token: int) -> Reservation:
        held = self._held.get(device)
        if held is None or held.token != token:
            raise UnknownTokenError(f"token {token} does not hold device '{device}' (any more): reserve it "
                                    'again')
        return held
