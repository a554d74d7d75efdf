# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What operators wish of the cluster's leader, until it is so; decisions only."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from muster.cluster.protocol import Remove, Transfer
from muster.cluster.raft.core import Raft
from muster.cluster.raft.membership import incarnations
from muster.cluster.raft.types import Member, Refused
from muster.cluster.state.commands import Answer, Code, Invalid

_UNKNOWN = Answer(Code.OUTCOME_UNKNOWN, 'not confirmed in time: it may still take effect; see get_status')


@dataclass
class _Wish:
    body: Remove | Transfer
    deadline: int
    led_by: Member | None
    sent_at: int = 0


class Wishes:
    """The wishes of one member's operators: each is repeated until it has come true or its time is over."""

    def __init__(self, retry: int) -> None:
        """Begin without; each is said again after `retry` nanoseconds."""
        self._wishes: dict[int, _Wish] = {}
        self._retry = retry

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._wishes)

    def add(self, ticket: int, body: Remove | Transfer, deadline: int, raft: Raft | None) -> None:
        """Wish for something; raise Invalid where it cannot be."""
        if isinstance(body, Remove):
            _check_removal(raft, body.id)
        else:
            _check_transfer(raft, body.to)
        self._wishes[ticket] = _Wish(body, deadline, raft.leader if raft else None)

    def due(self, leader: Member | None, now: int) -> Iterator[Remove | Transfer]:
        """Yield what is to be said to the leader now."""
        for wish in self._wishes.values():
            if leader is not None and now - wish.sent_at >= self._retry:
                wish.sent_at = now
                yield wish.body

    def answered(self, raft: Raft | None, now: int) -> list[tuple[int, Answer]]:
        """Return, once, the wishes that have come true or waited for too long."""
        found = [(ticket, Answer(Code.OK) if raft is not None and _is_so(wish, raft) else _UNKNOWN)
                 for ticket, wish in self._wishes.items()
                 if now >= wish.deadline or (raft is not None and _is_so(wish, raft))]
        for ticket, _ in found:
            del self._wishes[ticket]
        return found


def grant(body: Remove | Transfer, raft: Raft, now: int) -> None:
    """Do as leader what is wished, where it can be done now; who wishes asks again."""
    configuration = raft.configuration
    if isinstance(body, Remove):
        with suppress(ValueError, Refused):
            leaving = incarnations(configuration, body.id)
            if leaving:
                raft.change_configuration(configuration.voters - leaving, configuration.learners - leaving,
                                          now, leaving)
    elif body.to != raft.me.id:
        to = next((m for m in configuration.voters if m.id == body.to), None)
        if to is not None or not body.to:
            raft.transfer_leadership(to)


def _check_removal(raft: Raft | None, member_id: str) -> None:
    try:
        if raft is None or not incarnations(raft.configuration, member_id):
            raise Invalid(f"'{member_id}' is no member of this cluster: see the members in get_status")
    except ValueError as error:
        raise Invalid(str(error)) from error


def _check_transfer(raft: Raft | None, to: str) -> None:
    voters = {m.id for m in raft.configuration.voters} if raft else set()
    if to and to not in voters:
        raise Invalid(f"'{to}' does not vote in this cluster: give one of {', '.join(sorted(voters))}")
    if len(voters) < 2:
        raise Invalid('there is no other voter to hand over to')


def _is_so(wish: _Wish, raft: Raft) -> bool:
    if isinstance(wish.body, Remove):
        return raft.configuration_committed and not raft.configuration.joint and \
            all(m.id != wish.body.id for m in raft.configuration.members)
    if raft.leader is None:
        return False
    return raft.leader.id == wish.body.to if wish.body.to else raft.leader != wish.led_by
