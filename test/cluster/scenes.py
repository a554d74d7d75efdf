# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scripted scenes for deliberate bugs that random stories meet too seldom."""
from __future__ import annotations

from group import Group, member
from muster.cluster.raft.core import SPARE_PACE
from muster.cluster.raft.types import Entry, Kind, Role
from oracle import Violation


def divided_change() -> None:
    """
    Let a leader die whose change from voters a, b, c to a, d, e only d and e have received.

    Raise Violation where both halves elect a leader in one term (Raft paper, section 6).
    """
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.take_in(leader, 'de')
    group.cut = {'b', 'c'}
    leader.change_configuration(frozenset(map(member, 'ade')), frozenset(), group.now)
    group.settle()
    for half in ('de', 'bc'):
        group.cut = set('abcde') - set(half)
        group.campaign(half[0])   # what is left of leases passes first
        group.campaign(half[0])
    leaders = [name for name in 'bd' if group.nodes[name].role == Role.LEADER]
    if len({group.nodes[name].term for name in leaders}) < len(leaders):
        raise Violation(f'election safety: {" and ".join(leaders)} lead in term {group.nodes["b"].term}')


def half_stored(*names: str) -> tuple[Group, Entry]:
    """Return a group whose leader has an entry on disk that `c` has, waits for, and does not have on disk."""
    group = Group(*names)
    leader = group.elect('a')
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    leader.expects(member('c'), entry.index)
    group.collect('a')
    carried = [(s, e) for s, e in group.wire if e.to == member('c')]
    group.wire.clear()
    for sender, envelope in carried:
        group.nodes['c'].step(member(sender), envelope.message, group.now)
    group.collect('c', durable=False)
    return group, entry


def read_beside_a_follower() -> tuple[int, int]:
    """
    Read where a follower has committed an entry by itself, and its leader does not know yet.

    Return at which index the read is answered, and that of the entry.
    Raise Violation where the read does not see it; else the leader commits it with another follower.
    """
    group, entry = half_stored('a', 'b', 'c')
    leader = group.nodes['a']
    group.nodes['c'].persisted(entry, group.now)        # its client is answered now
    assert group.nodes['c'].commit == entry.index > leader.commit
    leader.read('later')
    group.cut = {'c'}
    reads = []
    for _ in range(3):
        output = leader.take_output()
        reads += output.reads
        for envelope in output.messages:
            group.deliver('a', envelope)
        for sender, envelope in group.wire:
            leader.step(member(sender), envelope.message, group.now)
        group.wire.clear()
        group.now += SPARE_PACE
        leader.advance(group.now)
    (_, index), = reads
    if index < entry.index:
        raise Violation(f'a read at {index} misses what was committed at {entry.index}')
    return index, entry.index
