# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Exhaustive exploration of small clusters that run the real consensus core.

Breadth first, every state once, to a bounded depth. The network keeps a set of messages: any of them
may come next (reordering), never (loss) or again (duplication). Disks write when they like, and a crash
keeps any prefix of what was not written yet. Time is abstract: all durations are zero, so whatever has
a time-out may happen at any moment, and at rest every field that holds a time is zero. Leases only
refuse votes, which equals the loss of a message, so leaving them out leaves out no behaviour.

What a member does depends on its own state and its input alone: both are interned, and the core runs
once for each pair. A state of the cluster is then a few numbers. States are compared by 64-bit hashes;
with ten million states, one is mistaken for another with a probability of a few in a million.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field
from random import Random
import time
from typing import Any, NamedTuple
from unittest.mock import patch

from muster.cluster.raft import core
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import Raft, Timing
from muster.cluster.raft.log import Log
from muster.cluster.raft.types import (
    AppendReply,
    Entry,
    HardState,
    Kind,
    Member,
    Message,
    Refused,
    Role,
    Snapshot,
    Vote,
    VoteRequest,
)

TIMING = Timing(0, 0, 0)
#: Later than everything that a member waits for.
FOREVER = 1 << 60
#: Fields that hold times; what is not in a hash besides them never changes.
TIMES = ('_election_at', '_heartbeat_at', '_quorum_at', '_notice_at', '_broadcast_at', '_report_at',
         '_heard_leader', '_stamped')
UNHASHED = {'timing', '_random', '_output', '_directly', 'heard', *TIMES}


class Violation(AssertionError):
    """An invariant does not hold."""


class Earliest(Random):
    """No randomness: time-outs are actions here."""

    def randint(self, a: int, b: int) -> int:
        """Return the smaller bound."""
        return a


class Write(NamedTuple):
    """What was handed to a disk at once, and the messages that wait for it."""

    parts: tuple[Any, ...]           # a Snapshot, a HardState, entries
    messages: frozenset[int]


class Disk(NamedTuple):
    """What is durable; `entries` has also those that the snapshot stands for."""

    hard_state: HardState
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None = None

    def configuration(self) -> Configuration:
        """Return the configuration that a member restarted from here has."""
        data = [e.data for e in self.entries if e.kind == Kind.CONFIGURATION]
        return Configuration.decode(data[-1]) if data else Configuration()

    def end(self) -> tuple[int, int]:
        """Return term and index of the last entry."""
        return (self.entries[-1].term if self.entries else 0), len(self.entries)


@dataclass
class Node:
    """One member, all of it: the running core, its disk, the writes under way and what it applied."""

    raft: Raft
    disk: Disk
    queue: tuple[Write, ...] = ()
    applied: tuple[Entry, ...] = ()


class Reaction(NamedTuple):
    """What a member makes of an input."""

    node: int                               # its state afterwards
    sends: frozenset[int]
    seen: int                               # what the ghost must hear, interned; 0 for nothing


class Ghost(NamedTuple):
    """What has happened so far and no member need remember, and what may still happen."""

    leaders: tuple[tuple[int, int], ...]            # term and who led it
    committed: tuple[Entry, ...]
    reads: tuple[tuple[int, int], ...]              # context, and what was committed when it was asked
    budget: tuple[tuple[str, int], ...]


class State(NamedTuple):
    """One state of the whole cluster; the numbers are interned nodes, messages and ghosts."""

    nodes: tuple[int, ...]
    network: frozenset[int]
    ghost: int


@dataclass(frozen=True)
class Model:
    """What is explored: from where, with how many of each event, within which bounds."""

    name: str
    depth: int                       # of `make modelcheck`; the tests explore less
    budget: dict[str, int]
    max_term: int = 3
    max_log: int = 5
    max_in_flight: int = 9
    voters: str = 'abc'
    learners: str = ''
    terms: dict[str, str] = field(default_factory=dict)   # of the entries that a log has at first
    term: int = 1
    prompt: bool = False             # disks write at once: less to tell apart, so that more is reached
    append_bytes: int = core.MAX_APPEND_BYTES
    wanted: str = ''                 # voters that the leader may change to
    prepare: Callable[[Explorer, State, str], State] | None = None
    among: str = 'abc'               # who takes part in what prepares the beginning


def is_part(value: Any) -> bool:
    """Return whether this is an object of the core that changes in place."""
    return isinstance(value, Raft | Log) or (hasattr(value, '__dict__') and type(value).__hash__ is None)


def clone(value: Any) -> Any:
    """Copy what changes in place; share the rest."""
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if is_part(value):
        twin = copy(value)
        twin.__dict__.update((key, clone(item)) for key, item in value.__dict__.items())
        return twin
    return copy(value) if isinstance(value, list | deque | set | bytearray) else value


def freeze(value: Any) -> Any:
    """Return what tells this state from others, hashable."""
    if isinstance(value, dict):
        return tuple((key, freeze(value[key])) for key in sorted(value))
    if is_part(value):
        return tuple(freeze(item) for key, item in value.__dict__.items() if key not in UNHASHED)
    if isinstance(value, list | deque):
        return tuple(map(freeze, value))
    return bytes(value) if isinstance(value, bytearray) else value


def rest(raft: Raft) -> None:
    """Set all fields that hold times to zero."""
    for name in TIMES:
        if getattr(raft, name, None) is not None:
            setattr(raft, name, 0)
    for progress in raft.progress.values():
        progress.heard = 0


class Explorer:
    """The states of one model and the ways between them."""

    def __init__(self, model: Model) -> None:
        """Know nothing but the beginning."""
        self.model = model
        self.names = model.voters + model.learners
        self.members = [Member(name, 1) for name in self.names]
        self.nodes: list[Node] = []
        self.receivers: dict[int, int] = {}
        self.messages: dict[int, tuple[int, Message, bool]] = {}     # sender, content, whether broadcast
        self.ghosts: list[Ghost] = []
        self._random = Random(0)
        self._ids: dict[Any, int] = {}
        self._reactions: list[dict[Any, Reaction | None]] = []
        self._inputs: list[list[tuple[str, int]]] = []
        self._logs: list[tuple[int, int]] = []                   # of each node: its log and its disk
        self._matching: dict[tuple[int, int], bool] = {}
        self._complete: set[tuple[Any, ...]] = set()
        self._observed: dict[tuple[Any, ...], int] = {}
        self._values: list[Any] = []
        self._intern(())                                         # number 0
        self.trying: tuple[int, Any] = 0, ''                     # for the end of a story

    # Interning ---------------------------------------------------------------------------------
    def _intern(self, key: Any) -> int:
        """Return the number of a value."""
        number = self._ids.setdefault(key, len(self._values))
        if number == len(self._values):
            self._values.append(key)
        return number

    def _node(self, node: Node) -> int:
        key = 'node', freeze(node.raft), node.disk, node.queue, node.applied
        number = self._ids.get(key)
        if number is None:
            number = self._ids[key] = len(self.nodes)
            self.nodes.append(node)
            self._reactions.append({})
            self._inputs.append(list(self._possible(node)))
            self._logs.append((self._intern(self._log(node.raft)), self._intern(node.disk)))
        return number

    def _message(self, sender: int, to: Member, message: Message, broadcast: bool = False) -> int:
        """Return the number of a message: a random one, so that sets of them hash well."""
        key = 'message', sender, to, message, broadcast
        number = self._ids.get(key)
        if number is None:
            number = self._ids[key] = self._random.getrandbits(60)
            self.messages[number] = sender, message, broadcast
            self.receivers[number] = self.members.index(to)
        return number

    def _ghost(self, ghost: Ghost) -> int:
        key = 'ghost', ghost
        number = self._ids.setdefault(key, len(self.ghosts))
        if number == len(self.ghosts):
            self.ghosts.append(ghost)
        return number

    # The beginning -----------------------------------------------------------------------------
    def start(self) -> State:
        """Return the first state."""
        model = self.model
        voters = frozenset(m for m in self.members if m.id in model.voters)
        learners = frozenset(self.members) - voters
        first = Entry(1, 1, 0, Kind.CONFIGURATION, Configuration(voters, frozenset(), learners).encode())
        nodes = []
        for member in self.members:
            entries = (first, *(Entry(i, int(t), 0, Kind.COMMAND, f'{t}.{i}'.encode())
                                for i, t in enumerate(model.terms.get(member.id, ''), 2)))
            disk = Disk(HardState(model.term, None), entries)
            nodes.append(self._node(self._restarted(member, disk)))
        state = State(tuple(nodes), frozenset(), self._ghost(Ghost((), (), (), ())))
        if model.prepare:
            state = model.prepare(self, state, model.among)
        ghost = self.ghosts[state.ghost]._replace(budget=tuple(sorted(model.budget.items())))
        return state._replace(ghost=self._ghost(ghost))

    def _restarted(self, member: Member, disk: Disk) -> Node:
        applied = self._state(disk.snapshot)
        raft = Raft(member, TIMING, Earliest(), 0, disk.hard_state, disk.entries[len(applied):],
                    disk.snapshot)
        rest(raft)
        return Node(raft, disk, applied=applied)

    def _state(self, snapshot: Snapshot | None) -> tuple[Entry, ...]:
        """Return what a snapshot stands for: the entries themselves are the state."""
        return self._values[int(snapshot.data)] if snapshot else ()

    def _log(self, raft: Raft) -> tuple[Entry, ...]:
        """Return the log of a member with those entries that its snapshot stands for."""
        base = raft.log.base
        return self._state(raft.snapshot)[:base] + raft.log.slice(base + 1, raft.log.last_index)

    def _stored(self, disk: Disk, part: Any) -> Disk:
        """Return the disk after one more record, as it is read again at the next start."""
        if isinstance(part, HardState):
            return disk._replace(hard_state=part)
        if isinstance(part, Entry):
            return disk._replace(entries=(*disk.entries[:part.index - 1], part))
        state = self._state(part)
        same = disk.entries[part.index - 1:part.index] == state[-1:]
        return disk._replace(snapshot=part, entries=state + (disk.entries[part.index:] if same else ()))

    # What a member does ------------------------------------------------------------------------
    def _possible(self, node: Node) -> Iterator[tuple[str, int]]:
        """Yield what may happen to a member besides a message."""
        raft = node.raft
        if raft.role == Role.LEADER:
            yield from (('heartbeat', 0), ('propose', 0), ('read', 0), ('silence', 0))
            if self.model.wanted:
                yield 'change', 0
            for i, member in enumerate(self.members):
                if member != raft.me:
                    yield 'transfer', i
        elif raft.configuration.may_vote(raft.me) and raft.term < self.model.max_term:
            yield 'time-out', 0
        if len(node.applied) > raft.log.base:
            yield 'compact', 0
        if node.queue:
            yield 'write', 0
        for kept in range(sum(len(write.parts) for write in node.queue) + 1):
            yield 'crash', kept

    def react(self, number: int, event: Any) -> Reaction | None:
        """Return what a member makes of an event; None where nothing changes or a bound is reached."""
        known = self._reactions[number]
        if event not in known:
            known[event] = self._react(number, event)
        return known[event]

    def _react(self, number: int, event: Any) -> Reaction | None:
        before = self.nodes[number]
        node = Node(clone(before.raft), before.disk, before.queue, before.applied)
        sends: set[int] = set()
        seen: list[tuple[Any, ...]] = []
        if isinstance(event, int):
            sender, message, broadcast = self.messages[event]
            node.raft.step(self.members[sender], message, 0, broadcast=broadcast)
        elif event[0] == 'crash':
            parts = [part for write in node.queue for part in write.parts]
            for part in parts[:event[1]]:
                node.disk = self._stored(node.disk, part)
            node = self._restarted(node.raft.me, node.disk)
        elif event[0] == 'write':
            self._write(node, sends)
        else:
            try:
                self._act(node, *event)
            except Refused:
                return None
        self._carry_out(node, sends, seen)
        while self.model.prompt and node.queue:
            self._write(node, sends)
            self._carry_out(node, sends, seen)
        raft = node.raft
        if raft.role == Role.LEADER and (before.raft.role, before.raft.term) != (raft.role, raft.term):
            seen.insert(0, ('leads', raft.term, self._log(raft)))
        if raft.term > self.model.max_term or raft.log.last_index > self.model.max_log:
            return None
        rest(raft)
        after = self._node(node)
        if after == number and not sends and not seen:
            return None
        return Reaction(after, frozenset(sends), self._intern(tuple(seen)))

    def _act(self, node: Node, kind: str, argument: int) -> None:
        raft = node.raft
        if kind in ('time-out', 'heartbeat'):
            raft.advance(0)
        elif kind == 'silence':
            raft.advance(FOREVER)
        elif kind == 'propose':
            raft.propose(Kind.COMMAND, b'%d' % argument, 0)
        elif kind == 'read':
            raft.read(argument)
        elif kind == 'compact':
            snapshot = raft.compact(len(node.applied), b'%04d' % self._intern(node.applied), 0)
            node.queue += (Write((snapshot,), frozenset()),)
        elif kind == 'change':
            voters = frozenset(m for m in self.members if m.id in self.model.wanted)
            raft.change_configuration(voters, frozenset(), 0)
        elif raft.configuration.may_vote(self.members[argument]):
            raft.transfer_leadership(self.members[argument])

    def _carry_out(self, node: Node, sends: set[int], seen: list[tuple[Any, ...]]) -> None:
        """Do what the core asks for, by its contract."""
        me, raft = self.members.index(node.raft.me), node.raft
        while True:
            output = raft.take_output()
            now, later = (self._sent(me, envelopes) for envelopes in (
                output.messages, output.messages_when_durable))
            now |= {self._message(me, to, append, broadcast=True)
                    for to in raft.configuration.learners & set(self.members) for append in output.broadcast}
            parts = (*filter(None, (output.installed, output.hard_state)), *output.entries)
            if not (now or later or parts or output.committed or output.reads):
                return
            sends |= now
            if parts or (later and node.queue):
                node.queue += (Write(parts, frozenset(later)),)
            else:
                self._check_promises(node, later)
                sends |= later
            self._check_promises(node, now)
            if output.installed:
                node.applied = self._state(output.installed)
            node.applied += tuple(output.committed)
            if output.installed or output.committed:
                seen.append(('applied', node.applied))
            seen += [('read', context, index) for context, index in output.reads]

    def _sent(self, me: int, envelopes: list[Any]) -> set[int]:
        return {self._message(me, to, message) for to, message in envelopes if to in self.members}

    def _write(self, node: Node, sends: set[int]) -> None:
        """Let the disk finish all that was handed to it, as one sync does."""
        last = None
        for write in node.queue:
            for part in write.parts:
                node.disk = self._stored(node.disk, part)
                last = part if isinstance(part, Entry) else last
            self._check_promises(node, write.messages)
            sends |= write.messages
        node.queue = ()
        if last is not None:
            node.raft.persisted(last, 0)

    def _check_promises(self, node: Node, messages: set[int] | frozenset[int]) -> None:
        """Check that what is said is durable: votes, terms and acknowledged entries."""
        for number in messages:
            _, message, _ = self.messages[number]
            to = self.members[self.receivers[number]]
            term, vote = node.disk.hard_state
            for_whom = {Vote: to, VoteRequest: node.raft.me}.get(type(message))
            if for_whom and not message.pre and getattr(message, 'granted', True) and \
                    term <= message.term and (term, vote) != (message.term, for_whom):
                raise Violation(f'{node.raft.me.id} says {message} while its disk has '
                                f'term {term} and vote {vote}')
            if isinstance(message, AppendReply) and message.accepted and \
                    (term < message.term or node.disk.end()[1] < message.index):
                raise Violation(f'{node.raft.me.id} says {message} while its disk has '
                                f'term {term} and {node.disk.end()[1]} entries')

    # What the cluster does ---------------------------------------------------------------------
    def successors(self, state: State) -> Iterator[tuple[int, Any, State]]:
        """Yield every next state with the member and the event that lead there."""
        budget = dict(self.ghosts[state.ghost].budget)
        for i, number in enumerate(state.nodes):
            for kind, argument in self._inputs[number]:
                left = budget.get(kind)
                if left is not None or kind in ('write', 'time-out', 'heartbeat'):
                    if left == 0:
                        continue
                    event = (kind, left if kind in ('propose', 'read') else argument)
                    found = self._after(state, i, event, state.network, kind if left else '')
                    if found:
                        yield i, event, found
        for message in state.network:
            i = self.receivers[message]
            found = self._after(state, i, message, state.network - {message}, '')
            if found:
                yield i, message, found
                if budget.get('duplicate'):
                    found = self._after(state, i, message, state.network, 'duplicate')
                    if found:
                        yield i, message, found

    def _after(self, state: State, i: int, event: Any, network: frozenset[int], spent: str) -> State | None:
        self.trying = i, event
        reaction = self.react(state.nodes[i], event)
        if reaction is None:
            return None
        if reaction.sends:
            network |= reaction.sends
            if len(network) > self.model.max_in_flight:
                return None
        nodes = (*state.nodes[:i], reaction.node, *state.nodes[i + 1:])
        ghost = state.ghost
        if spent or reaction.seen:
            key = ghost, i, spent, event if spent == 'read' else None, reaction.seen
            known = self._observed.get(key)
            if known is None:
                known = self._observed[key] = self._ghost(self._observe(*key))
            ghost = known
        self._check(nodes, i, ghost)
        return State(nodes, network, ghost)

    def told(self, i: int, event: Any) -> str:
        """Return a step in words."""
        if isinstance(event, int):
            sender, message, _ = self.messages[event]
            return f'{self.names[i]} gets from {self.names[sender]}: {_short(message)}'
        kind, argument = event
        return f'{self.names[i]}: ' + {
            'write': 'its disk has written all',
            'crash': f'it crashes, {argument} records of those under way are on disk, and it starts again',
            'silence': 'it has heard no quorum for an election time-out',
            'transfer': f'it hands over to {self.names[argument % len(self.names)]}',
        }.get(kind, kind)

    # Invariants --------------------------------------------------------------------------------
    def _observe(self, number: int, i: int, spent: str, event: Any, seen: int) -> Ghost:
        """Return what has happened once this has happened, too; raise Violation."""
        ghost = self.ghosts[number]
        leaders, committed, reads = dict(ghost.leaders), ghost.committed, dict(ghost.reads)
        budget = dict(ghost.budget)
        if spent:
            budget[spent] -= 1
        if spent == 'read':
            reads[event[1]] = len(committed)
        for kind, *rest in self._values[seen]:
            if kind == 'leads':
                term, log = rest
                if leaders.setdefault(term, i) != i:
                    raise Violation(f'election safety: {self.names[i]} and {self.names[leaders[term]]} '
                                    f'lead term {term}')
                if log[:len(committed)] != committed:
                    raise Violation(f'leader completeness: {self.names[i]} leads term {term} '
                                    'without all that is committed')
            elif kind == 'applied':
                shorter, longer = sorted((committed, rest[0]), key=len)
                if longer[:len(shorter)] != shorter:
                    raise Violation(f'state-machine safety: {self.names[i]} applies {_terms(rest[0])}, '
                                    f'{_terms(committed)} is committed')
                committed = longer
            elif rest[1] < reads.pop(rest[0]):
                raise Violation(f'{self.names[i]} reads at {rest[1]} what misses an earlier commitment')
        return Ghost(tuple(sorted(leaders.items())), committed, tuple(sorted(reads.items())),
                     tuple(sorted(budget.items())))

    def _check(self, nodes: tuple[int, ...], changed: int, ghost: int) -> None:
        log = self._logs[nodes[changed]][0]
        for number in nodes:
            other = self._logs[number][0]
            pair = (log, other) if log < other else (other, log)
            if pair[0] != pair[1] and pair not in self._matching:
                self._check_matching(*(self._values[number] for number in pair))
                self._matching[pair] = True
        disks = tuple(self._logs[number][1] for number in nodes)
        committed = self.ghosts[ghost].committed
        key = disks, self._intern(committed)
        if key not in self._complete:
            self._check_complete([self._values[disk] for disk in disks], committed)
            self._complete.add(key)

    @staticmethod
    def _check_matching(one: tuple[Entry, ...], two: tuple[Entry, ...]) -> None:
        """Where index and term agree, all up to there agrees (Raft paper, figure 3)."""
        agree = [i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a.term == b.term]
        if agree and one[:agree[-1] + 1] != two[:agree[-1] + 1]:
            raise Violation(f'log matching: {_terms(one)} and {_terms(two)}')

    def _check_complete(self, disks: list[Disk], committed: tuple[Entry, ...]) -> None:
        """Whoever lacks a committed entry cannot win an election, with what the disks hold now."""
        for member, disk in zip(self.members, disks, strict=True):
            configuration = disk.configuration()
            if disk.entries[:len(committed)] == committed or not configuration.may_vote(member):
                continue
            ready = {other for other, its in zip(self.members, disks, strict=True) if disk.end() >= its.end()}
            if configuration.has_quorum(ready):
                raise Violation(f'leader completeness: {member.id} with {_terms(disk.entries)} could be '
                                f'elected, {_terms(committed)} is committed')


def _short(message: Message) -> str:
    """Return a message with the terms of its entries only."""
    fields = {name: getattr(message, name) for name in getattr(message, '_fields', ())}
    if 'entries' in fields:
        fields['entries'] = ''.join(str(e.term) for e in fields['entries'])
    text = ', '.join(f'{name}={value}' for name, value in fields.items())
    return f'{type(message).__name__}({text})' if fields else str(message)


def _terms(entries: tuple[Entry, ...]) -> str:
    return 'the log of terms ' + (''.join(str(e.term) for e in entries) or '(none)')


# Exploring --------------------------------------------------------------------------------------
class Found(NamedTuple):
    """How much was explored."""

    states: int
    transitions: int
    depth: int
    seconds: float
    exhausted: bool           # nothing lies deeper within the bounds


def explore(model: Model, depth: int) -> Found:
    """Explore a model; raise Violation with the shortest way to a broken invariant."""
    with patch.object(core, 'MAX_APPEND_BYTES', model.append_bytes):
        return _explore(model, depth)


def _explore(model: Model, depth: int) -> Found:
    began = time.monotonic()
    explorer = Explorer(model)
    first = explorer.start()
    came_from = {hash(first): 0}
    level, transitions, reached = [first], 0, 0
    while level and reached < depth:
        following = []
        for state in level:
            here = hash(state)
            try:
                for _, _, found in explorer.successors(state):
                    transitions += 1
                    there = hash(found)
                    if there not in came_from:
                        came_from[there] = here
                        if reached + 1 < depth:
                            following.append(found)
            except AssertionError as error:
                raise Violation(story(explorer, first, came_from, here, error)) from error
        level = following
        reached += 1
    return Found(len(came_from), transitions, reached, time.monotonic() - began,
                 not level and reached < depth)


def story(explorer: Explorer, first: State, came_from: dict[int, int], last: int, error: Exception) -> str:
    """Return the way to a state from which the next step breaks something, in words."""
    failing, way = explorer.trying, [last]
    while came_from[way[-1]]:
        way.append(came_from[way[-1]])
    lines, state = [f'{explorer.model.name}: {error}'], first
    for wanted in way[-2::-1]:
        i, event, state = next(step for step in explorer.successors(state) if hash(step[2]) == wanted)
        lines.append(explorer.told(i, event))
    return '\n  '.join([*lines, explorer.told(*failing)])
