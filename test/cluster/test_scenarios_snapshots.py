# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scripted scenes of compaction, snapshots in chunks, reads, notices and the learners' broadcast."""
from __future__ import annotations

from group import founding, Group, log, member, TIMING
from muster.cluster.raft.core import LEARNER_INTERVAL, MAX_APPEND_BYTES, NOTICE_DELAY
from muster.cluster.raft.types import Append, AppendReply, Kind, Refused, Role, SnapshotChunk
import pytest

STATE = bytes(range(256)) * 400          # more than three chunks


def compacted(group: Group, name: str, retained: int = 0) -> None:
    """Let a member's log be replaced by a snapshot of all that it applied."""
    node = group.nodes[name]
    group.collect(name)
    node.compact(node.commit, STATE, retained)


def lagging() -> Group:
    """Return a cluster of which `c` missed what `a` has compacted away since."""
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.cut = {'c'}
    for i in range(30):
        leader.propose(Kind.COMMAND, b'%d' % i, group.now)
        group.settle()
    compacted(group, 'a')
    leader.propose(Kind.COMMAND, b'behind the snapshot', group.now)
    group.settle()
    group.cut = set()
    return group


def test_follower_behind_the_snapshot_catches_up_in_chunks() -> None:
    group = lagging()
    leader, behind = group.nodes['a'], group.nodes['c']
    installed = []
    take = behind.take_output
    behind.take_output = lambda: installed.append(take()) or installed[-1]  # type: ignore[method-assign]
    group.beat('a')
    group.beat('a')
    snapshot = next(output.installed for output in installed if output.installed)
    assert snapshot == leader.snapshot and snapshot.data == STATE
    assert behind.log.base == snapshot.index and behind.commit == leader.commit
    assert behind.log.last_index == leader.log.last_index
    assert behind.configuration == leader.configuration
    handed = [e.index for output in installed for e in output.committed]
    assert [i for i in handed if i > snapshot.index] == list(range(snapshot.index + 1, leader.commit + 1))


@pytest.mark.parametrize('lost', range(4))
def test_lost_chunk_is_sent_again(lost: int) -> None:
    group = lagging()
    behind, count = group.nodes['c'], 0
    deliver = group.deliver

    def lossy(sender: str, envelope: object) -> None:
        nonlocal count
        if isinstance(envelope.message, SnapshotChunk):  # type: ignore[attr-defined]
            count += 1
            if count == lost + 1:
                return
        deliver(sender, envelope)  # type: ignore[arg-type]
    group.deliver = lossy  # type: ignore[method-assign]
    for _ in range(4):
        group.beat('a')
    assert count > 4 and behind.commit == group.nodes['a'].commit


def test_snapshot_that_is_replaced_meanwhile_is_finished_or_begun_anew() -> None:
    group = lagging()
    leader = group.nodes['a']
    leader.advance(group.now + TIMING.heartbeat)
    group.collect('a')
    first = [e for _, e in group.wire if isinstance(e.message, SnapshotChunk)]
    assert len(first) == 1
    compacted(group, 'a')
    group.settle()
    group.beat('a')
    group.beat('a')
    assert group.nodes['c'].commit == leader.commit


def test_snapshot_ends_a_divergent_log() -> None:
    """What lay behind a different entry is not kept (Raft paper, figure 13, step 7)."""
    first = founding('a', 'b', 'c')
    group = Group('a', 'b', 'c', logs={'a': log(first, '2222'), 'b': log(first, '2222'),
                                       'c': log(first, '111111')}, terms={'a': 2, 'b': 2, 'c': 2})
    group.cut = {'c'}
    leader = group.elect('a')
    compacted(group, 'a')
    group.cut = set()
    group.beat('a')
    group.beat('a')
    behind = group.nodes['c']
    assert behind.log.base == leader.log.base and behind.log.last_index == leader.log.last_index


def test_snapshot_that_the_log_reaches_beyond_keeps_what_follows() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    for i in range(5):
        leader.propose(Kind.COMMAND, b'%d' % i, group.now)
    group.settle()
    group.supply('a')
    behind = group.nodes['c']
    behind.commit = 2                       # it was told of no more
    leader.compact(5, STATE, 0)
    snapshot = leader.snapshot
    assert snapshot is not None
    for offset in range(0, len(STATE), MAX_APPEND_BYTES):
        group.tell('c', 'a', SnapshotChunk(leader.term, 5, snapshot.term, snapshot.configuration, len(STATE),
                                           offset, STATE[offset:offset + MAX_APPEND_BYTES]))
    assert behind.log.base == 5 and behind.log.last_index == leader.log.last_index and behind.commit == 5


def test_late_snapshot_changes_nothing() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    group.beat('a')
    behind = group.nodes['c']
    chunk = SnapshotChunk(leader.term, 2, leader.log.term(2), leader.configuration.encode(), 4, 0, b'late')
    assert group.tell('c', 'a', chunk) == [AppendReply(leader.term, True, behind.commit)]
    assert behind.snapshot is None and behind.log.base == 0


def test_append_that_begins_before_the_snapshot_is_taken_from_there_on() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    for i in range(5):
        leader.propose(Kind.COMMAND, b'%d' % i, group.now)
    group.settle()
    group.beat('a')
    compacted(group, 'c')
    node = group.nodes['c']
    entries = leader.log.slice(3, leader.log.last_index)
    assert group.tell('c', 'a', Append(leader.term, 2, leader.log.term(2), leader.commit, entries)) == \
        [AppendReply(leader.term, True, leader.log.last_index)]
    assert node.log.base == node.commit == leader.commit


def test_only_what_is_applied_can_be_compacted() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.cut = {'b', 'c'}
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    with pytest.raises(AssertionError):
        leader.compact(entry.index, STATE, 0)


def test_retained_entries_spare_a_follower_the_snapshot() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.cut = {'c'}
    for i in range(30):
        leader.propose(Kind.COMMAND, b'%d' % i, group.now)
        group.settle()
    compacted(group, 'a', retained=1000)
    group.cut = set()
    group.beat('a')
    group.beat('a')
    assert group.nodes['c'].snapshot is None and group.nodes['c'].commit == leader.commit


# Reads ------------------------------------------------------------------------------------------
def reads(group: Group, name: str) -> list[tuple[object, int]]:
    """Let everybody talk and return the reads that a member may answer."""
    node, found = group.nodes[name], []
    take = node.take_output

    def noted() -> object:
        output = take()
        found.extend(output.reads)
        return output
    node.take_output = noted  # type: ignore[assignment, method-assign]
    group.settle()
    node.take_output = take  # type: ignore[method-assign]
    return found


def test_read_waits_for_a_quorum_that_confirms_the_leader() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.cut = {'b', 'c'}
    leader.read('r')
    assert reads(group, 'a') == []
    group.cut = {'b'}
    leader.read('s')
    found = reads(group, 'a')
    assert found == [('r', leader.commit), ('s', leader.commit)]   # a later round confirms the earlier ones


def test_no_read_before_the_leader_has_committed_in_its_term() -> None:
    group = Group('a', 'b', 'c')
    group.elect('b')
    group.nodes['b'].propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    group.now += 2 * TIMING.election_max
    node = group.nodes['a']
    node.advance(max(group.now, node.next_deadline()))
    group.collect('a')
    votes = True
    while group.wire and votes:            # up to the election, not the first entry's acknowledgement
        sender, envelope = group.wire.pop(0)
        if node.role == Role.LEADER and isinstance(envelope.message, AppendReply):
            continue
        group.deliver(sender, envelope)
        votes = node.role != Role.LEADER or bool(group.wire)
    assert node.role == Role.LEADER and node.log.term(node.commit) < node.term
    node.read('r')
    group.collect('a')
    for _, envelope in [item for item in group.wire if item[1].to != member('a')]:
        message = envelope.message
        if isinstance(message, Append) and not message.entries:
            node.step(envelope.to, AppendReply(node.term, False, 1, message.round), group.now)
    assert node.take_output().reads == []
    group.wire.clear()
    group.beat('a')
    assert node.log.term(node.commit) == node.term


def test_deposed_leader_answers_no_read() -> None:
    group = Group('a', 'b', 'c')
    old = group.elect('a')
    group.cut = {'a'}
    old.read('r')
    group.collect('a')
    group.wire.clear()
    group.elect('b')
    group.cut = set()
    group.beat('b')
    assert old.role == Role.FOLLOWER and reads(group, 'a') == []
    with pytest.raises(Refused):
        old.read('again')


def test_answers_of_an_earlier_round_confirm_no_later_read() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    leader.read('early')
    group.collect('a')
    early = [e.message.round for _, e in group.wire if isinstance(e.message, Append)]
    group.wire.clear()
    leader.read('late')
    group.collect('a')
    group.wire.clear()
    leader.step(member('b'), AppendReply(leader.term, True, leader.log.last_index, max(early)), group.now)
    assert [context for context, _ in leader.take_output().reads] == ['early']


def test_sole_voter_reads_at_once() -> None:
    group = Group('a')
    leader = group.elect('a')
    leader.read('r')
    assert reads(group, 'a') == [('r', leader.commit)]


# Notices and the broadcast ----------------------------------------------------------------------
def test_commitment_is_told_with_the_next_entry_or_a_little_later() -> None:
    group = Group('a', 'b', 'c')
    leader, follower = group.elect('a'), group.nodes['b']
    group.beat('a')
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    assert leader.commit == entry.index > follower.commit
    assert leader.next_deadline() <= group.now + NOTICE_DELAY
    leader.propose(Kind.COMMAND, b'y', group.now)
    group.settle()
    assert follower.commit == entry.index
    group.now += NOTICE_DELAY
    leader.advance(group.now)
    group.collect('a')
    told = [e.message for _, e in group.wire]
    assert told and all(isinstance(m, Append) and not m.entries and not m.round for m in told)
    group.settle()
    assert follower.commit == leader.commit


def test_follower_that_awaits_a_commitment_is_told_at_once() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    group.beat('a')
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    leader.expects(member('b'), entry.index)
    group.settle()
    assert group.nodes['b'].commit == entry.index > group.nodes['c'].commit


def with_learners() -> Group:
    """Return a leader `a` with two learners that listen to its broadcast."""
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    learners = frozenset(map(member, 'de'))
    for name in 'de':
        group.start(name)
    leader.change_configuration(leader.configuration.voters, learners, group.now)
    group.settle()
    for _ in range(3):
        group.beat('a')
    assert all(leader.progress[m].listening for m in learners)
    return group


def test_learners_hear_one_broadcast_and_answer_nothing() -> None:
    group = with_learners()
    leader = group.nodes['a']
    leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    group.now += TIMING.heartbeat
    leader.advance(group.now)
    group.collect('a')
    assert len(group.heard_by_all) == 1 and not any(e.to in map(member, 'de') for _, e in group.wire)
    append = group.heard_by_all[0][1]
    assert group.wire and append.entries
    group.wire.clear()
    group.settle()
    assert not group.wire
    assert all(group.nodes[name].commit == leader.commit for name in 'de')


def test_learner_that_missed_a_broadcast_asks_and_listens_again() -> None:
    group = with_learners()
    leader = group.nodes['a']
    group.cut = {'d'}
    leader.propose(Kind.COMMAND, b'missed', group.now)
    group.settle()
    group.beat('a')
    group.cut = set()
    leader.propose(Kind.COMMAND, b'heard', group.now)
    group.settle()
    group.beat('a')
    group.beat('a')
    assert group.nodes['d'].log.last_index == leader.log.last_index
    assert leader.progress[member('d')].listening


def test_learner_reports_once_a_second() -> None:
    group = with_learners()
    node = group.nodes['d']
    group.now = max(group.now, node.next_deadline())
    reports = 0
    for _ in range(10):
        group.now += LEARNER_INTERVAL
        node.step(member('a'), Append(node.term, node.log.last_index, node.log.last_term, node.commit, ()),
                  group.now, broadcast=True)
        node.advance(group.now)
        output = node.take_output()
        said = output.messages + output.messages_when_durable
        reports += sum(e.message == AppendReply(node.term, True, node.log.last_index) for e in said)
    assert reports == 10


def test_demoted_voter_is_spoken_to_until_it_knows_that_it_learns() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    leader.change_configuration(frozenset({member('a'), member('b')}), frozenset({member('c')}), group.now)
    group.collect('a')
    while group.wire:                           # it gets the joint configuration and not the one behind it
        sender, envelope = group.wire.pop(0)
        if leader.configuration.joint or envelope.to != member('c'):
            group.deliver(sender, envelope)
    assert not leader.configuration.joint and group.nodes['c'].configuration.joint
    assert not leader.progress[member('c')].listening
    for _ in range(3):
        group.beat('a')
    assert not group.nodes['c'].configuration.joint and leader.progress[member('c')].listening


def test_learner_that_is_promoted_is_spoken_to_directly() -> None:
    group = with_learners()
    leader = group.nodes['a']
    voters = leader.configuration.voters | {member('d'), member('e')}
    leader.change_configuration(voters, frozenset(), group.now)
    group.settle()
    assert not leader.configuration.joint and len(leader.configuration.voters) == 5
    group.cut = {'b', 'c'}
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    group.supply('a')
    assert leader.commit == entry.index     # the promoted ones decide now


# A disk that takes nothing ----------------------------------------------------------------------
def test_stalled_leader_hands_over_and_takes_nothing() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    leader.stall(True)
    with pytest.raises(Refused, match='disk'):
        leader.propose(Kind.COMMAND, b'x', group.now)
    leader.transfer_leadership()
    group.settle()
    assert leader.role == Role.FOLLOWER
    assert [n.role for n in group.nodes.values()].count(Role.LEADER) == 1


@pytest.mark.parametrize('dead', 'bcde')
def test_stalled_leader_finds_a_successor_that_lives(dead: str) -> None:
    """It does not know yet who has just died; when it is told to try again, it does."""
    group = Group(*'abcde')
    leader = group.elect('a')
    group.cut = {dead}
    leader.stall(True)
    for _ in range(20):
        leader.transfer_leadership()
        group.beat('a')
    leaders = [name for name in 'abcde' if group.nodes[name].role == Role.LEADER]
    assert len(leaders) == 1 and leaders[0] not in ('a', dead)


def test_stalled_follower_neither_votes_nor_stands_nor_stores() -> None:
    group = Group('a', 'b', 'c')
    leader = group.elect('a')
    stalled = group.nodes['c']
    stalled.stall(True)
    entry = leader.propose(Kind.COMMAND, b'x', group.now)
    group.settle()
    assert stalled.log.last_index < entry.index
    group.cut = {'a'}
    group.now += 2 * TIMING.election_max
    group.campaign('c')
    group.campaign('b')
    assert all(group.nodes[name].role != Role.LEADER for name in 'bc')
    stalled.stall(False)
    group.elect('b')
    group.beat('b')
    assert stalled.log.last_index == group.nodes['b'].log.last_index
