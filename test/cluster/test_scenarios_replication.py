# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scripted scenes of logs that differ, of flow control, and of time in the log."""
from __future__ import annotations

from group import founding, Group, log, member, MILLISECOND, TIMING
from muster.cluster.raft.core import NOTICE_DELAY, PACE, SPARE_PACE
from muster.cluster.raft.types import Append, AppendReply, Entry, Kind, Role, Vote
import pytest
from scenes import half_stored, read_beside_a_follower


@pytest.mark.parametrize('terms', [
    '11445566', '11', '114455666', '1144556677', '1144', '1122233333', ''])
def test_figure_7_divergence_converges(terms: str) -> None:
    """Every follower log of the Raft paper's figure 7 becomes the leader's."""
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c', logs={'a': log(first, '114455666'), 'b': log(first, terms),
                                       'c': log(first, '114455666')}, terms=dict.fromkeys('abc', 7))
    group.cut = {'b'}
    group.elect('a')
    group.cut = set()
    for _ in range(3):
        group.beat('a')
    assert group.nodes['b'].log.slice(1, 99) == group.nodes['a'].log.slice(1, 99)
    assert group.nodes['b'].commit == group.nodes['a'].commit == 11


def test_figure_8_old_entry_is_not_committed_by_counting() -> None:
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c', logs={'a': log(first, '2')}, terms={'a': 3})
    node = group.nodes['a']
    group.now = 3 * TIMING.election_max
    node.advance(group.now)
    node.step(member('b'), Vote(4, True, True), group.now)
    node.step(member('b'), Vote(4, True, False), group.now)
    group.collect('a')
    assert node.role == Role.LEADER and group.terms('a') == '124'
    node.step(member('b'), AppendReply(4, True, 2), group.now)
    assert node.commit == 0
    node.step(member('b'), AppendReply(4, True, 3), group.now)
    assert node.commit == 3


def test_late_append_after_a_longer_one_shortens_nothing() -> None:
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c')
    entries = log(first, '11')
    group.tell('b', 'a', Append(1, 1, 1, 0, entries[1:]))
    assert group.tell('b', 'a', Append(1, 1, 1, 0, entries[1:2])) == [AppendReply(1, True, 2)]
    assert group.terms('b') == '111'


def test_late_append_reply_after_truncation_is_harmless() -> None:
    """A deposed leader that leads again does not count what was acknowledged in its old term."""
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    old = AppendReply(leader.term, True, 9)
    group.cut = {'a'}
    for i in range(5):
        leader.propose(Kind.COMMAND, b'lost%d' % i, group.now)
    group.elect('b')
    group.nodes['b'].propose(Kind.COMMAND, b'kept', group.now)
    group.settle()
    group.cut = set()
    group.beat('b')
    group.beat('b')
    assert group.nodes['a'].log.slice(1, 99) == group.nodes['b'].log.slice(1, 99)
    leader = group.elect('a')
    group.cut = {'b', 'c'}
    entry = leader.propose(Kind.COMMAND, b'new', group.now)
    group.settle()
    group.tell('a', 'c', old)
    assert leader.commit < entry.index


def test_a_heartbeat_recovers_a_follower_whose_probe_was_lost() -> None:
    """While a probe is on its way nothing else is sent; the answer to a heartbeat takes its place."""
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c', logs={'a': log(first, '1111'), 'c': log(first, '1111')})
    group.cut = {'b'}
    leader = group.elect('a')
    progress = leader.progress[member('b')]
    assert progress.probing and progress.paused
    group.cut = set()
    leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    assert group.nodes['b'].log.last_index == 1      # still waiting for the answer that never comes
    group.beat('a')
    assert group.nodes['b'].log.last_index == leader.log.last_index and not progress.probing


def test_what_a_follower_lost_before_it_was_written_is_sent_again() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    for i in range(5):
        leader.propose(Kind.COMMAND, b'%d' % i, group.now)
    group.collect('a')
    for _, envelope in [item for item in group.wire if item[1].to == member('b')]:
        group.nodes['b'].step(member('a'), envelope.message, group.now)
    group.collect('b', durable=False)        # it is not on its disk, and it said nothing of it
    assert not [e for sender, e in group.wire if sender == 'b']
    group.wire.clear()
    group.restart('b')
    assert group.nodes['b'].log.last_index < leader.log.last_index
    assert leader.progress[member('b')].match < leader.log.last_index
    group.beat('a')
    group.beat('a')
    assert group.nodes['b'].log.slice(1, 99) == leader.log.slice(1, 99)


def test_an_entry_is_committed_by_the_followers_while_the_leaders_disk_is_slow() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    commits = []
    for _ in range(2):                      # to the follower that was quick before, then to the spare one
        group.wire.clear()
        group.collect('a', durable=False)
        (_, envelope), = group.wire
        group.wire.clear()
        group.nodes[envelope.to.id].step(member('a'), envelope.message, group.now)
        group.collect(envelope.to.id)
        for _, reply in group.wire:
            leader.step(envelope.to, reply.message, group.now)
        commits.append(leader.commit)
        group.now += SPARE_PACE
        leader.advance(group.now)
    assert commits == [entry.index - 1, entry.index]     # one disk is no quorum, two are


def test_flow_control_resumes_after_lost_appends() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.cut = {'b'}
    for _ in range(100):
        leader.propose(Kind.COMMAND, b'x' * 4000, group.now)
        group.settle()
    group.cut = set()
    for _ in range(3):
        group.beat('a')
    assert group.nodes['b'].log.last_index == leader.log.last_index


def test_flow_control_resumes_after_lost_replies() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    for _ in range(40):
        leader.propose(Kind.COMMAND, b'x', group.now)
        group.collect('a')
        for sender, envelope in group.wire:
            if envelope.to == member('b'):
                group.nodes['b'].step(member(sender), envelope.message, group.now)
        group.nodes['b'].take_output()      # its answers are lost
        group.wire.clear()
    group.beat('a')
    group.beat('a')
    assert group.nodes['b'].log.last_index == leader.log.last_index
    assert leader.progress[member('b')].match == leader.log.last_index


def proposed(group: Group, *commands: bytes, to: str = 'b') -> list[tuple[bytes, ...]]:
    """Let the leader `a` propose commands one by one; return what goes to `to` in each append meanwhile."""
    leader = group.nodes['a']
    for command in commands:
        leader.propose(Kind.COMMAND, command, group.now)
        group.collect('a')
    return sent(group, to)


def sent(group: Group, to: str = 'b') -> list[tuple[bytes, ...]]:
    """Return the commands in each append to a member that is on the wire, and take all off."""
    appends = [e.message for _, e in group.wire if e.to == member(to) and isinstance(e.message, Append)]
    group.wire.clear()
    return [tuple(entry.data for entry in append.entries) for append in appends if append.entries]


def test_what_is_proposed_while_an_append_is_under_way_goes_together_in_the_next() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    assert proposed(group, b'1', b'2', b'3') == [(b'1',)]
    leader.step(member('b'), AppendReply(leader.term, True, leader.log.last_index - 2), group.now)
    group.collect('a')
    assert sent(group) == [(b'2', b'3')]
    leader.step(member('b'), AppendReply(leader.term, True, leader.log.last_index), group.now)
    assert proposed(group, b'4') == [(b'4',)]


def test_a_slow_acknowledgement_holds_up_nothing_for_long() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    assert proposed(group, b'1', b'2') == [(b'1',)]
    assert leader.next_deadline() == group.now + PACE
    group.now += PACE
    leader.advance(group.now)
    group.collect('a')
    assert sent(group) == [(b'2',)]
    assert proposed(group, b'3', b'4', b'5') == [(b'3',), (b'4',)]     # until four are under way
    group.now += PACE
    leader.advance(group.now)
    group.collect('a')
    assert sent(group) == []
    first = leader.log.last_index - 4
    for index, following in ((first, []), (first + 1, []), (first + 2, []), (first + 3, [(b'5',)])):
        leader.step(member('b'), AppendReply(leader.term, True, index), group.now)
        group.collect('a')
        assert sent(group) == following


def test_what_waits_behind_a_slow_acknowledgement_gets_a_time_of_its_own() -> None:
    """Acknowledgements narrow the window again; what is left then waits no longer than anything else."""
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.cut = {'c'}
    proposed(group, b'1', b'2')
    group.now += PACE
    leader.advance(group.now)
    assert proposed(group, b'3', b'4', b'5', b'6') == [(b'2', b'3'), (b'4',), (b'5',)]
    leader.step(member('b'), AppendReply(leader.term, True, leader.log.last_index - 5), group.now)
    group.collect('a')
    assert sent(group) == [] and leader.next_deadline() <= group.now + PACE
    group.now += PACE
    leader.advance(group.now)
    group.collect('a')
    assert sent(group) == [(b'6',)]


# Who gets what when ------------------------------------------------------------------------------
def test_a_follower_that_no_quorum_needs_gets_its_entries_in_lots() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    first = leader.log.last_index + 1
    for i in range(5):
        leader.propose(Kind.COMMAND, b'%d' % i, group.now)
        group.settle()
        assert leader.commit == first + i == group.nodes['b'].log.last_index
    assert group.nodes['c'].log.last_index < first
    assert leader.next_deadline() <= group.now + SPARE_PACE
    group.now += SPARE_PACE
    leader.advance(group.now)
    group.collect('a')
    assert sent(group, 'c') == [(b'0', b'1', b'2', b'3', b'4')]


def test_a_spare_follower_is_told_of_a_commitment_with_its_lot_and_not_before() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    group.now += NOTICE_DELAY
    leader.advance(group.now)
    group.collect('a')
    assert {envelope.to for _, envelope in group.wire} == {member('b')}
    group.supply('a')
    assert group.nodes['c'].commit == leader.commit == leader.log.last_index


def test_a_spare_follower_takes_over_from_one_that_fails_and_changes_places_with_it() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.cut = {'b'}
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    assert leader.commit < entry.index
    group.supply('a')
    assert leader.commit == entry.index
    group.cut = set()
    entry = leader.propose(Kind.COMMAND, b'y', group.now)
    group.settle()
    assert group.nodes['c'].log.last_index == leader.commit == entry.index > group.nodes['b'].log.last_index


def test_a_follower_with_a_client_that_waits_is_not_spare() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    for _ in range(3):
        entry = leader.propose(Kind.COMMAND, b'x', group.now)
        leader.expects(member('c'), entry.index)
        group.settle()
        assert group.nodes['c'].commit == entry.index


# A follower that finds out by itself what is committed -------------------------------------------
def test_a_follower_commits_what_it_and_the_leader_have_on_disk() -> None:
    group, entry = half_stored('a', 'b', 'c')
    follower = group.nodes['c']
    assert follower.waits_for_disk and follower.commit < entry.index     # its own disk decides
    follower.persisted(entry, group.now)
    assert follower.commit == entry.index and group.nodes['a'].commit < entry.index
    assert [e.index for e in follower.take_output().committed][-1] == entry.index


def test_a_read_waits_for_what_a_follower_may_have_committed_by_itself() -> None:
    read, committed = read_beside_a_follower()
    assert read == committed


def test_a_follower_does_not_commit_what_only_it_has_on_disk() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    leader.expects(member('c'), entry.index)
    group.collect('a', durable=False)
    for sender, envelope in [pair for pair in group.wire if pair[1].to == member('c')]:
        group.deliver(sender, envelope)
    assert group.nodes['c'].log.last_index == entry.index > group.nodes['c'].commit
    assert leader.waits_for_disk            # it tells the follower as soon as its own disk has it
    leader.persisted(entry, group.now)
    group.settle()
    assert group.nodes['c'].commit == entry.index


def test_a_follower_of_five_does_not_commit_with_the_leader_alone() -> None:
    group, entry = half_stored('a', 'b', 'c', 'd', 'e')
    follower = group.nodes['c']
    assert not follower.waits_for_disk
    follower.persisted(entry, group.now)
    assert follower.commit < entry.index


def test_a_follower_does_not_commit_an_entry_of_an_earlier_term_by_counting() -> None:
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c', logs=dict.fromkeys('abc', log(first, '1')))
    group.tell('c', 'a', Append(2, 2, 1, 0, (), 0, 2))
    assert group.nodes['c'].commit == 0
    group.tell('c', 'a', Append(2, 2, 1, 0, (Entry(3, 2, 0, Kind.NOOP, b'a'),), 0, 3))
    assert group.nodes['c'].commit == 3


def test_entries_carry_the_time_since_the_one_before_and_elections_add_none() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    assert leader.log.slice(2, 2)[0].elapsed == 0
    group.now += 30 * MILLISECOND
    assert leader.propose(Kind.CLOCK, b'', group.now).elapsed == 30 * MILLISECOND
    assert leader.propose(Kind.CLOCK, b'', group.now).elapsed == 0
    assert leader.propose(Kind.CLOCK, b'', group.now - 5).elapsed == 0
