# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scripted scenes for deliberate bugs that random stories meet too seldom."""
from __future__ import annotations

from group import Group, member
from muster.cluster.raft.types import Role
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
