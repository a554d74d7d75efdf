# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Deliberate bugs, to see that the simulation finds them: `make bugs` prints what caught each.

A bug replaces a piece of the text of some functions while it is planted: the module is compiled
from the changed text and the functions get their new code, wherever they are referred to. A piece
that is no longer there is an error, so a bug cannot silently become none.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
import inspect
import sys
from types import CodeType, FunctionType
from typing import Any

from muster.cluster.member import ClusterMember
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import Raft
from muster.cluster.raft.log import Log
from muster.cluster.state.locks import LockTable
from muster.cluster.state.machine import StateMachine
from muster.cluster.state.sessions import Sessions

#: A function, a piece of its text, and what stands there instead.
Edit = tuple[Callable[..., Any], str, str]


@dataclass(frozen=True)
class Bug:
    """One deliberate bug."""

    name: str
    breaks: str
    edits: tuple[Edit, ...]
    seeds: int = 30      # it is found among so many, from 0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Have the bug in the production code."""
        originals = [(edit[0], edit[0].__code__) for edit in self.edits]
        try:
            for function, old, new in self.edits:
                function.__code__ = _edited(function, old, new)
            yield
        finally:
            for function, code in reversed(originals):
                function.__code__ = code


def _edited(function: Any, old: str, new: str) -> CodeType:
    """Return the code of a function with a piece of its text replaced."""
    assert isinstance(function, FunctionType)
    module = sys.modules[function.__module__]
    text, first = inspect.getsourcelines(function)
    body = ''.join(text)
    if body.count(old) != 1:
        raise LookupError(f'{function.__qualname__} has {old!r} {body.count(old)} times, not once')
    path = inspect.getsourcefile(module) or ''
    lines = inspect.getsource(module).splitlines(keepends=True)
    lines[first - 1:first - 1 + len(text)] = [body.replace(old, new)]
    code = SourceFileLoader(module.__name__, path).source_to_code(''.join(lines).encode(), path)
    return _find(code, function.__qualname__)


def _find(code: CodeType, name: str) -> CodeType:
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    found = [part for part in inner if part.co_qualname == name]
    return found[0] if found else next(
        _find(part, name) for part in inner if name.startswith(f'{part.co_qualname}.'))


BUGS = (
    Bug('pre-votes counted', 'answers to a pre-vote count as votes', (
        (Raft._on_vote, 'vote.pre == self._pre and vote.term == expected', 'vote.term in (expected, self.term)'),
    )),
    Bug('vote not persisted', 'a vote is forgotten in a crash, so a member votes twice in a term', (
        (Raft.take_output, '(self.term, self.vote) != self._saved', 'self.term != self._saved.term'),
    )),
    Bug('two votes', 'a member votes for everybody who asks in a term', (
        (Raft._on_vote_request, 'current and self.vote in (None, sender)', 'current'),
    )),
    Bug('vote for an old log', 'a candidate whose log lacks entries gets votes', (
        (Raft._on_vote_request, 'granted = current and self.vote', 'granted = self.vote'),
    )),
    Bug('early answer', 'an append is acknowledged before it is durable', (
        (Raft._reply, 'messages_when_durable', 'messages'),
    )),
    Bug('sole voter in a hurry', 'a sole voter leads before its vote is durable', (
        (Raft._send_append, 'self.configuration.has_quorum((self.me,))', 'False'),
    )),
    Bug('old term counted', 'entries of earlier terms are committed by counting (Raft paper, figure 8)', (
        (Raft._advance_commit, ' or self.log.term(index) != self.term', ''),
    )),
    Bug('commit beyond the match', 'a follower takes the commit index for entries that may not match', (
        (Raft._on_append, 'min(append.commit, last)', 'min(append.commit, self.log.last_index)'),
    )),
    Bug('too much acknowledged', 'a follower acknowledges entries that were not compared', (
        (Raft._on_append, 'AppendReply(self.term, True, last)', 'AppendReply(self.term, True, self.log.last_index)'),
    )),
    Bug('stale append truncates', 'a late append cuts off what came after it', (
        (Log.merge, 'if self.term(entry.index) != entry.term', 'if True'),
    )),
    Bug('late write counted', 'a write that was replaced meanwhile counts as durable', (
        (Raft.persisted, 'self.log.term(entry.index) == entry.term and ', ''),
    )),
    Bug('single majority', 'a joint configuration decides with the majority of the new voters alone', (
        (Configuration.has_quorum, 'self.outgoing or self.voters', 'self.voters'),
        (Configuration.committed, 'self.outgoing or self.voters', 'self.voters'),
    )),
    Bug('incarnation ignored', 'a voter whose disk was lost votes and acknowledges as if it remembered', (
        (Configuration.has_quorum, 'agreed = frozenset(agreed)',
         'agreed = frozenset(m for m in self.members if m.id in {a.id for a in agreed})'),
        (Configuration._majority_index, 'match.get(member, 0) for member in group',
         'max([i for m, i in match.items() if m.id == member.id], default=0) for member in group'),
        (Configuration.may_vote, 'member in self.voters or member in self.outgoing',
         'member.id in {m.id for m in self.voters | self.outgoing}'),
        (ClusterMember.receive, 'packet.receiver != self.me', 'packet.receiver.id != self.me.id'),
    ), 100),
    Bug('leads without quorum', 'a leader that hears no quorum goes on', (
        (Raft._check_quorum, 'not self.configuration.has_quorum(heard)', 'False'),
    )),
    Bug('election shortens leases', 'the first entry of a term counts the time since another leadership', (
        (Raft._become_leader, 'self._stamped = now', 'pass'),
    )),
    Bug('election renews leases', 'every election starts all leases anew', (
        (StateMachine.apply, 'if entry.kind == Kind.NOOP:',
         'if entry.kind == Kind.NOOP:\n'
         '            for holder, _ in list(self.locks):\n'
         '                self.locks.renew(holder.name, holder.token, 0, self.time)'),
    )),
    Bug('cluster time stands still', 'no entry is made while a lease runs out', (
        (ClusterMember._clock_due, 'None if interval is None else', 'None and'),
    )),
    Bug('expired waiter granted', 'a wait that is over stays in the queue', (
        (LockTable.expire, 'changes.append(self._end_wait(self._locks[name], request))', 'pass'),
    )),
    Bug('unfair queue', 'who came last is served first', (
        (LockTable._next, 'next(iter(lock.queue))', 'list(lock.queue)[-1]'),
    )),
    Bug('token reused', 'later holds get the token of an earlier one', (
        (LockTable._grant, 'token=index', 'token=index - index % 8 + 1'),
    )),
    Bug('lost release', 'a release is confirmed and does nothing', (
        (StateMachine._operate, 'return self.locks.release(operation.name, operation.token, self.time, index)',
         'return self.locks._held(operation.name, operation.token) and []'),
    )),
    Bug('lost withdrawal', 'a withdrawal is confirmed and the request stays in the queue', (
        (LockTable.withdraw, 'return [self._end_wait(lock, request)]', 'return []'),
    )),
    Bug('executed twice', 'a request that comes again is executed again', (
        (Sessions.find, 'if sequence in session.answers:', 'if False:'),
    )),
    Bug('executed after its session', 'a retry is executed when its session is over', (
        (Sessions.find, 'if not name.startswith(MEMBER_PREFIX):', 'if False:'),
    ), 100),
    Bug('unknown outcome denied', 'what was sent and not confirmed is said to have done nothing', (
        (ClusterMember._expire_pending, 'if pending.proposed else', 'if False else'),
    )),
)
