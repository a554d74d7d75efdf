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
from multiprocessing import Pool
import sys
from types import CodeType, FunctionType
from typing import Any

from muster.cluster.member import ClusterMember
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import Raft
from muster.cluster.raft.log import Log
from muster.cluster.requests import Requests
from muster.cluster.state.locks import LockTable
from muster.cluster.state.machine import StateMachine
from muster.cluster.state.sessions import Sessions
from muster.cluster.state.tasks import Task, TaskTable
from oracle import Violation
import scenes
from simulation import tell

#: A function, a piece of its text, and what stands there instead.
Edit = tuple[Callable[..., Any], str, str]


@dataclass(frozen=True)
class Bug:
    """One deliberate bug."""

    name: str
    breaks: str
    edits: tuple[Edit, ...]
    seeds: int = 60      # it is found among so many, from 0
    story: Callable[[int], object] = tell

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Have the bug in the production code."""
        edits: dict[Any, list[tuple[str, str]]] = {}
        for function, old, new in self.edits:
            edits.setdefault(function, []).append((old, new))
        originals = {function: function.__code__ for function in edits}
        try:
            for function, replacements in edits.items():
                function.__code__ = _edited(function, replacements)
            yield
        finally:
            for function, code in originals.items():
                function.__code__ = code

    def caught(self) -> tuple[int, str] | None:
        """Return the first seed whose story shows the bug, and what was seen; None where none does."""
        with self.planted():
            for seed in range(self.seeds):
                try:
                    self.story(seed)
                except Violation as violation:
                    return seed, violation.what
        return None


def _edited(function: Any, replacements: list[tuple[str, str]]) -> CodeType:
    """Return the code of a function with pieces of its text replaced."""
    assert isinstance(function, FunctionType)
    module = sys.modules[function.__module__]
    text, first = inspect.getsourcelines(function)
    body = ''.join(text)
    for old, new in replacements:
        if body.count(old) != 1:
            raise LookupError(f'{function.__qualname__} has {old!r} {body.count(old)} times, not once')
        body = body.replace(old, new)
    path = inspect.getsourcefile(module) or ''
    lines = inspect.getsource(module).splitlines(keepends=True)
    lines[first - 1:first - 1 + len(text)] = [body]
    code = SourceFileLoader(module.__name__, path).source_to_code(''.join(lines).encode(), path)
    return _find(code, function.__qualname__)


def _find(code: CodeType, name: str) -> CodeType:
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    found = [part for part in inner if part.co_qualname == name]
    return found[0] if found else next(
        _find(part, name) for part in inner if name.startswith(f'{part.co_qualname}.'))


BUGS = (
    Bug('pre-votes counted', 'answers to a pre-vote count as votes', (
        (Raft._on_vote, 'vote.pre == self._pre and vote.term == expected',
         'vote.term in (expected, self.term)'),
    )),
    Bug('vote not persisted', 'a vote is forgotten in a crash, so a member votes twice in a term', (
        (Raft.take_output, '(self.term, self.vote) != self._saved', 'self.term != self._saved.term'),
    )),
    Bug('two votes', 'a member votes for everybody who asks in a term', (
        (Raft._on_vote_request, 'current and self.vote in (None, sender)', 'current'),
    ), seeds=400),
    Bug('vote for an old log', 'a candidate whose log lacks entries gets votes', (
        (Raft._on_vote_request, 'granted = current and self.vote', 'granted = self.vote'),
        (Raft._on_vote_request, 'granted = current and request', 'granted = request'),
    )),
    Bug('early answer', 'an append is acknowledged before it is durable', (
        (Raft._reply, 'messages_when_durable', 'messages'),
    )),
    Bug('sole voter in a hurry', 'a sole voter leads before its vote is durable', (
        (Raft._outbox.fget, 'self.configuration.has_quorum((self.me,))', 'False'),
    )),
    Bug('old term counted', 'entries of earlier terms are committed by counting (Raft paper, figure 8)', (
        (Raft._advance_commit, ' or self.log.term(index) != self.term', ''),
    )),
    Bug('commit beyond the match', 'a follower takes the commit index for entries that may not match', (
        (Raft._on_append, 'min(append.commit, last)', 'min(append.commit, self.log.last_index)'),
    ), 200),
    Bug('too much acknowledged', 'a follower acknowledges entries that were not compared', (
        (Raft._on_append, 'True, last, append.round', 'True, self.log.last_index, append.round'),
    ), 150),
    Bug('committed without its disk', 'a follower counts itself before its disk has an entry', (
        (Raft._conclude, 'self._agreed(self._durable)', 'self._agreed(self.log.last_index)'),
    )),
    Bug('leader claims too much', 'a leader tells a follower that it has on disk what it is writing', (
        (Raft._send_append, 'confirmed_by,\n            self._durable',
         'confirmed_by,\n            self.log.last_index'),
    )),
    Bug('read behind a follower', 'a read does not see what a follower has committed by itself', (
        (Raft.read, 'self._told_stored, context', '0, context'),
    ), 1, lambda _: scenes.read_beside_a_follower()),
    Bug('stale append truncates', 'a late append cuts off what came after it', (
        (Log.merge, 'self.base and self.term(entry.index) != entry.term', 'self.base'),
    )),
    Bug('incarnation ignored', 'a voter whose disk was lost votes and acknowledges as if it remembered', (
        (Raft._on_vote, 'self._votes[sender]',
         'self._votes[next((m for m in self.configuration.voters if m.id == sender.id), sender)]'),
        (Raft._on_append_reply, 'progress = self.progress.get(sender)',
         'progress = self.progress.get(\n'
         '            next((m for m in self.configuration.voters if m.id == sender.id), sender))'),
        (ClusterMember.receive, 'packet.receiver != self.me', 'packet.receiver.id != self.me.id'),
    ), 100),
    Bug('single majority', 'in a joint configuration the new voters decide alone', (
        (Configuration.has_quorum, '(self.voters, self.outgoing or self.voters)', '(self.voters,)'),
        (Configuration.committed, 'min(index, self._majority_index(self.outgoing, match))', 'index'),
    ), 1, lambda _: scenes.divided_change()),
    Bug('leads without quorum', 'a leader that hears no quorum goes on', (
        (Raft._check_quorum, 'not self.configuration.has_quorum(heard)', 'False'),
    ), 150),
    Bug('read not confirmed', 'a read is answered by a leader that may have been replaced', (
        (Raft.read, 'self._reads.append((self._round + 1, self._told_stored, context))',
         'self._output.reads.append((context, self.commit))'),
    ), 100),
    Bug('read too early', 'a new leader answers a read before it has committed in its term', (
        (Raft._confirm_reads, ' or self.log.term(self.commit) != self.term', ''),
    ), 150),
    Bug('read of the past', 'a read does not wait until enough is applied', (
        (Requests.answer_reads, '0 < r.index <= applied', 'r.index'),
    ), 100),
    Bug('election shortens leases', 'the first entry of a term counts the time since another leadership', (
        (Raft._become_leader, 'self._stamped = now', 'pass'),
    )),
    Bug('election renews leases', 'every election starts all leases anew, and none need ever end', (
        (StateMachine.apply, 'self._tell(EventType.LEADER_ELECTED, entry.data.decode())',
         'for holder, _ in list(self.locks):\n'
         '                self.locks.renew(holder.name, holder.token, 0, self.time)'),
    )),
    Bug('cluster time stands still', 'no entry is made while a lease runs out', (
        (ClusterMember._clock_due, 'None if interval is None else', 'None and'),
    )),
    Bug('expired waiter granted', 'a wait that is over stays in the queue', (
        (LockTable.expire, '[self._end_waiting(name, request) for name, request in waits]',
         '[change for change, _ in ()]'),
    )),
    Bug('unfair queue', 'who came last is served first', (
        (LockTable._grant_next, 'next(iter(queue))', 'list(queue)[-1]'),
    )),
    Bug('no delay', 'a lock whose holder died is granted before its delay is over', (
        (LockTable.expire, 'if holder.delay:', 'if False:'),
    )),
    Bug('token reused', 'later holds get the token of an earlier one', (
        (LockTable._hold, 'self._holders[holder.name] = holder',
         'holder = holder._replace(token=holder.token - holder.token % 8 + 1)\n'
         '        self._holders[holder.name] = holder'),
    )),
    Bug('lost release', 'a release is confirmed and does nothing', (
        (StateMachine._release,
         'self._tell_changes(self.locks.release(operation.name, operation.token, self.time, self.applied))',
         'self.locks._held(operation.name, operation.token)'),
    )),
    Bug('lost withdrawal', 'a withdrawal is confirmed and the request stays in the queue', (
        (LockTable.withdraw, 'return [self._end_waiting(name, request)]', 'return []'),
    )),
    Bug('executed twice', 'a request that comes again is executed again', (
        (Sessions.find, 'if sequence in session.answers:', 'if False:'),
    )),
    Bug('executed after its session', 'a retry is executed when its session is over', (
        (Sessions.find, 'if not name.startswith(MEMBER_PREFIX):', 'if False:'),
    ), 100),
    Bug('unknown outcome denied', 'what was sent and not confirmed is said to have done nothing', (
        (Requests.expire, '_UNKNOWN if pending.proposed else _NO_QUORUM', '_NO_QUORUM'),
    )),
    Bug('attempt not fenced', 'whoever once executed a task may end it', (
        (TaskTable.finish, 'task.token != operation.token or ', ''),
    ), 150),
    Bug('attempt without lease', 'a task is given to another robot when the lease ends, without grace', (
        (Task.due, 'self.lease_end + self.grace if self.lapsed else self.lease_end', 'self.lease_end'),
    ), 100),
    Bug('attempt token reused', 'every attempt at a task has the token of the first', (
        (TaskTable.place, 'RUNNING, robot.id, index', 'RUNNING, robot.id, task.token or index'),
    ), 100),
    Bug('task ended twice', 'what is told again about the end of a task ends it again', (
        (TaskTable.finish, 'if task.ended:\n            return   # told twice',
         'if task.ended:\n            self._finish(task, TaskState.SUCCEEDED, operation.message, now)'),
    ), 150),
    Bug('snapshot without sessions', 'a member that installs a snapshot forgets what was executed', (
        (Sessions.load, 'in dumped:', 'in ():'),
    )),
    Bug('snapshot without waits', 'a member that installs a snapshot forgets who waits', (
        (LockTable.load, 'for queue in queues:', 'for queue in ():'),
    )),
    Bug('old snapshot', 'a snapshot takes a newer index than the state in it has', (
        (Raft.compact, 'self.snapshot = Snapshot(index,', 'self.snapshot = Snapshot(index + 1,'),
    )),
    Bug('compacted too far', 'the log is compacted up to its end, applied or not', (
        (Raft.compact, 'self.log.compact(max(self.log.base, index - retained))',
         'self.log.compact(self.log.last_index)'),
    )),
)


def main() -> None:
    """Print what caught each bug; end with 1 where one was not caught."""
    with Pool() as pool:
        found = list(zip(BUGS, pool.map(_caught, range(len(BUGS)), chunksize=1), strict=True))
    for bug, catch in found:
        seed, what = catch or ('none', f'NOT CAUGHT within {bug.seeds} seeds')
        print(f'{bug.name:28} {bug.breaks:78} seed {seed:>4}: {what[:100]}')
    sys.exit(any(catch is None for _, catch in found))


def _caught(number: int) -> tuple[int, str] | None:
    return BUGS[number].caught()


if __name__ == '__main__':
    main()
