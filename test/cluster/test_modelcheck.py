# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The models of `make modelcheck`, explored less deep, and a proof that this can find something."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from exploration import explore, Violation
from modelcheck import MODELS
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import Output, Raft
from muster.cluster.raft.log import Log
from muster.cluster.raft.types import Entry, HardState, Member, Role, Vote
import pytest

BY_NAME = {model.name: model for model in MODELS}


@pytest.mark.parametrize('name', BY_NAME)
def test_nothing_is_violated_within_a_few_steps(name: str) -> None:
    model = BY_NAME[name]
    found = explore(model, model.depth - 4)
    assert found.states > 500 and found.depth == model.depth - 4


def test_the_bounds_are_reached_where_little_can_happen() -> None:
    """One member, two terms, one crash: the whole of it is seen, whatever the depth."""
    model = replace(BY_NAME['elections'], voters='a', budget={'crash': 1, 'heartbeat': 0}, max_term=2)
    found = explore(model, 50)
    assert found.exhausted and 5 < found.states < 100 and found.depth < 20


# Bugs that must be found ------------------------------------------------------------------------
advance_commit, take_output, start = Raft._advance_commit, Raft.take_output, Raft.__init__


def commit_by_counting_alone(self: Raft, now: int) -> None:
    """Take entries of any term for the leader's own (what figure 8 of the Raft paper warns of)."""
    with patch.object(self.log, 'term', lambda index: self.term):
        advance_commit(self, now)


def write_no_votes(self: Raft) -> Output:
    output = take_output(self)
    output.hard_state = None
    return output


def forget_the_vote(self: Raft, *arguments: Any) -> None:
    me, timing, random, now, (term, _), *others = arguments
    start(self, me, timing, random, now, HardState(term, None), *others)


def count_pre_votes(self: Raft, sender: Member, vote: Vote, now: int) -> None:
    if self.role == Role.CANDIDATE:
        self._votes[sender] = vote.granted
        self._count_votes(now)


def cut_the_log_always(self: Log, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Let a late message shorten the log."""
    if entries:
        del self._entries[entries[0].index - self.base - 1:]
        self._entries.extend(entries)
    return entries


def decide_without_the_old_voters(self: Configuration, match: dict[Member, int]) -> int:
    return self._majority_index(self.voters, match)


def read_without_asking(self: Raft, context: Any) -> None:
    self._output.reads.append((context, self.commit))


def read_what_the_leader_knows(self: Raft, context: Any) -> None:
    self._reads.append((self._round + 1, 0, context))


ALONE = {'heartbeat': 0, 'silence': 0}


@pytest.mark.parametrize(('where', 'name', 'bug', 'model', 'changes', 'invariant'), [
    (Raft, '_advance_commit', commit_by_counting_alone, 'divergence', {}, 'leader completeness'),
    (Raft, 'take_output', write_no_votes, 'elections', {}, 'while its disk has'),
    (Raft, '__init__', forget_the_vote, 'elections, prompt disks',
     {'budget': {'crash': 1, 'time-out': 2, **ALONE}}, 'election safety'),
    (Raft, '_on_vote', count_pre_votes, 'elections, prompt disks',
     {'budget': {'crash': 0, 'time-out': 2, **ALONE}}, 'election safety'),
    (Log, 'merge', cut_the_log_always, 'replication, prompt disks',
     {'append_bytes': 1, 'budget': {'crash': 0, 'time-out': 0, 'propose': 1, 'heartbeat': 1}},
     'overwrite a committed entry'),
    (Configuration, 'committed', decide_without_the_old_voters, 'membership', {}, 'leader completeness'),
    (Raft, 'read', read_without_asking, 'replication, prompt disks',
     {'budget': {'crash': 0, 'propose': 0, 'read': 1, 'time-out': 1, 'heartbeat': 0}},
     'misses an earlier commitment'),
    (Raft, 'read', read_what_the_leader_knows, 'replication, prompt disks',
     {'budget': {'crash': 0, 'propose': 1, 'read': 1, 'time-out': 0, 'heartbeat': 1}},
     'misses an earlier commitment'),
], ids=lambda value: getattr(value, '__name__', ''))
def test_a_bug_is_found(where: type, name: str, bug: Callable[..., Any], model: str,
                        changes: dict[str, Any], invariant: str) -> None:
    with patch.object(where, name, bug), pytest.raises(Violation, match=invariant) as caught:
        explore(replace(BY_NAME[model], **changes), 14)
    print(caught.value)
    steps = str(caught.value).splitlines()[1:]
    assert 2 <= len(steps) <= 14
