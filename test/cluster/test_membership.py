# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Which members should vote."""
from __future__ import annotations

from hypothesis import given, strategies as st
from muster.cluster.caretaker import Care, Caretaker, with_voters
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.membership import incarnations, MAX_VOTERS, next_voters
from muster.cluster.raft.progress import Progress
from muster.cluster.raft.types import Member
from muster.cluster.state.commands import Health
import pytest

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND
USUAL = Care()


def members(names: str) -> frozenset[Member]:
    """Return members named by letters; a capital is the second incarnation of a robot."""
    return frozenset(Member(name.lower(), 2 if name.isupper() else 1) for name in names)


@pytest.mark.parametrize(('voters', 'learners', 'ready', 'dead', 'lost', 'wanted'), [
    ('a', 'b', 'b', '', '', None),            # two robots: an even number survives no more
    ('a', 'bc', 'b', '', '', None),
    ('a', 'bc', 'bc', '', '', 'abc'),         # a pair
    ('ab', 'c', 'c', '', '', 'abc'),
    ('abc', 'd', 'd', '', '', None),
    ('abc', 'de', 'de', '', '', 'abcde'),
    ('abcde', 'fg', 'fg', '', '', None),      # five are enough
    ('abc', 'de', 'de', 'c', '', None),       # four are alive: three should vote
    ('abc', 'd', 'd', 'c', 'c', 'abd'),       # long dead
    ('abc', 'd', '', 'c', 'c', None),         # nobody is ready to take its place
    ('abcde', 'fg', 'fg', 'de', 'de', 'abcef'),   # one at a time
    ('abc', 'C', 'C', 'c', '', 'abC'),        # came back without its disk
    ('abc', '', '', 'bc', 'bc', None),        # they never shrink by themselves
])
def test_voters_grow_in_pairs_and_lost_ones_are_replaced(
        voters: str, learners: str, ready: str, dead: str, lost: str, wanted: str | None) -> None:
    configuration = Configuration(members(voters), frozenset(), members(learners))
    found = next_voters(configuration, members(ready), members(voters) - members(dead), members(lost))
    assert found == (None if wanted is None else members(wanted))


@given(st.sets(st.sampled_from('abcdefgh'), min_size=1), st.sets(st.sampled_from('abcdefgh')),
       st.sets(st.sampled_from('abcdefgh')), st.sets(st.sampled_from('abcdefgh')))
def test_a_change_is_always_sound(voters: set[str], learners: set[str], ready: set[str],
                                  dead: set[str]) -> None:
    configuration = Configuration(members(''.join(voters)), frozenset(), members(''.join(learners - voters)))
    lost = members(''.join(dead))
    found = next_voters(configuration, members(''.join(ready)), configuration.voters - lost, lost)
    if found is None:
        return
    assert found - configuration.voters <= members(''.join(ready)) & configuration.learners
    assert len(found) >= len(configuration.voters) and len(found) <= max(MAX_VOTERS, len(voters))
    assert len(found) == len(configuration.voters) or len(found) % 2
    assert with_voters(configuration, found).isdisjoint(found)


def test_a_swapped_voter_learns_and_a_lost_disk_does_not() -> None:
    configuration = Configuration(members('abc'), frozenset(), members('dC'))
    assert with_voters(configuration, members('abd')) == members('cC')
    assert with_voters(configuration, members('abC')) == members('d')


def test_the_last_voter_cannot_be_removed() -> None:
    configuration = Configuration(members('a'), frozenset(), members('b'))
    assert incarnations(configuration, 'b') == members('b') and not incarnations(configuration, 'c')
    with pytest.raises(ValueError, match='only voter'):
        incarnations(configuration, 'a')


def watched(care: Care = USUAL) -> tuple[Caretaker, Configuration]:
    """Return the care of leader `a` for two voters and two learners, begun at time 0."""
    configuration = Configuration(members('abc'), frozenset(), members('de'))
    return Caretaker(Member('a', 1), care, configuration.members, 0), configuration


def kept(caretaker: Caretaker, configuration: Configuration, silent: str, until: int,
         known: dict[Member, Health]) -> list[tuple[int, str, Health]]:
    """Let all but `silent` be heard until a time; return what was proposed, and agree to it."""
    found, now = [], 0
    while now < until:
        now += 50 * MILLISECOND
        for member in configuration.members - members(silent):
            caretaker.heard(member, now)
        if now >= caretaker.due:
            caretaker.begin_round(now)
            for change in caretaker.health_changes(configuration, known, now):
                found.append((now, change.member, Health(change.health)))
                known[Member(change.member, change.incarnation)] = Health(change.health)
    return found


def test_silence_is_suspect_then_dead_and_replaced_after_the_delay() -> None:
    care = Care(promotion_delay=10 * SECOND)
    caretaker, configuration = watched(care)
    known = dict.fromkeys(configuration.members, Health.ALIVE)
    found = kept(caretaker, configuration, 'c', 12 * SECOND, known)
    assert [(name, health) for _, name, health in found] == [('c', Health.SUSPECT), ('c', Health.DEAD)]
    suspected, dead = found[0][0], found[1][0]
    assert care.suspect_after <= suspected < dead and care.dead_after <= dead <= 2 * care.dead_after
    progress = {m: Progress(10, match=10) for m in configuration.members}
    assert caretaker.wanted_voters(configuration, progress, 10, dead + 9 * SECOND) is None
    assert caretaker.wanted_voters(configuration, progress, 10, dead + 10 * SECOND) == members('abd')
    progress[Member('d', 1)].match = -1000
    assert caretaker.wanted_voters(configuration, progress, 10, dead + 10 * SECOND) == members('abe')


def test_a_leader_that_stood_still_declares_nobody_dead() -> None:
    caretaker, configuration = watched()
    known = dict.fromkeys(configuration.members, Health.ALIVE)
    assert kept(caretaker, configuration, '', 2 * SECOND, known) == []
    caretaker.begin_round(60 * SECOND)
    assert caretaker.health_changes(configuration, known, 60 * SECOND) == []


def test_what_the_cluster_did_not_agree_to_is_proposed_again() -> None:
    caretaker, configuration = watched()
    known = {m: Health.DEAD if m.id == 'b' else Health.ALIVE for m in configuration.members}

    def proposed(now: int) -> list[str]:
        for member in configuration.members:
            caretaker.heard(member, now)
        return [c.member for c in caretaker.health_changes(configuration, known, now)]
    assert proposed(SECOND // 10) == ['b']
    assert proposed(SECOND // 2) == []
    assert proposed(SECOND * 6 // 5) == ['b']
