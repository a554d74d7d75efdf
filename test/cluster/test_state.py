# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The replicated state: locks, sessions, events and commands."""
from __future__ import annotations


from hypothesis import settings, strategies as st
from hypothesis.stateful import invariant, precondition, rule, RuleBasedStateMachine
from muster.cluster.raft.types import Entry, Kind
from muster.cluster.state import events as events_module, locks as locks_module, sessions as sessions_module
from muster.cluster.state.commands import (
    Abandon,
    Acquire,
    Answer,
    Barrier,
    Code,
    Command,
    Operation,
    Release,
    Renew,
    Withdraw,
)
from muster.cluster.state.events import Event, EventLog, EventType
from muster.cluster.state.machine import StateMachine
from muster.cluster.state.sessions import LIFETIME, WINDOW
import pytest

SECOND = 1_000_000_000


class Fleet:
    """A state machine and the entries that feed it."""

    def __init__(self) -> None:
        """Begin empty."""
        self.machine = StateMachine()
        self.sequence = 0
        self.answers: dict[tuple[str, int], Answer] = {}    # the last one to each request

    def do(self, operation: Operation, request: tuple[str, int] | None = None, elapsed: int = 0,
           member: str = 'r1', run: int = 1) -> Answer:
        """Apply one command and return its answer."""
        self.sequence += 1
        request = request or ('@test', self.sequence)
        entry = Entry(self.machine.applied + 1, 1, elapsed, Kind.COMMAND,
                      Command(operation, request, member, run).encode())
        self.answers.update(self.machine.apply(entry).answers)
        return self.answers[request]

    def wait(self, elapsed: int) -> list[str]:
        """Let cluster time go on and return what happened."""
        entry = Entry(self.machine.applied + 1, 1, elapsed, Kind.CLOCK, b'')
        applied = self.machine.apply(entry)
        self.answers.update(applied.answers)
        return [event.type.name for event in applied.events]


def test_two_renewals_at_one_cluster_time_expire_once() -> None:
    fleet = Fleet()
    token = fleet.do(Acquire('dock', 'a', SECOND, 0)).token
    for _ in range(3):
        assert fleet.do(Renew('dock', token, 0)).code == Code.OK
    fleet.do(Acquire('dock', 'b', SECOND, 10 * SECOND))
    assert fleet.wait(SECOND) == ['LOCK_EXPIRED', 'LOCK_ACQUIRED']
    assert fleet.wait(SECOND) == ['LOCK_EXPIRED']


def test_queue_is_first_come_first_served() -> None:
    fleet = Fleet()
    token = fleet.do(Acquire('dock', 'a', SECOND, 0)).token
    requests = [(f's{i}', 1) for i in range(5)]
    for request in requests:
        assert fleet.do(Acquire('dock', request[0], SECOND, 60 * SECOND), request).code == Code.QUEUED
    for request in requests:
        fleet.do(Release('dock', token))
        answer = fleet.answers[request]
        assert (answer.code, answer.holder) == (Code.OK, request[0]) and answer.token > token
        token = answer.token


def test_an_expired_waiter_is_never_granted() -> None:
    """Wait and lease end in the same entry: the waiter goes, whichever deadline came first."""
    for wait in (SECOND // 2, SECOND, SECOND + 1):
        fleet = Fleet()
        fleet.do(Acquire('dock', 'a', SECOND, 0))
        fleet.do(Acquire('dock', 'b', SECOND, wait), ('b', 1))
        assert fleet.wait(2 * SECOND) == ['LOCK_WAIT_ENDED', 'LOCK_EXPIRED']
        assert fleet.answers['b', 1].code == Code.HELD
        assert fleet.machine.locks.holder('dock') is None


def test_a_retry_is_executed_once_and_told_what_holds_now() -> None:
    fleet = Fleet()
    acquire = Acquire('dock', 'a', 10 * SECOND, 0)
    first = fleet.do(acquire, ('s', 1))
    again = fleet.do(acquire, ('s', 1), elapsed=SECOND)
    assert (again.token, again.remaining) == (first.token, 9 * SECOND)
    assert fleet.do(Release('dock', first.token), ('s', 2)).code == Code.OK
    assert fleet.do(acquire, ('s', 1)).code == Code.NOT_FOUND         # served before, and over
    other = fleet.do(acquire, ('other', 1))
    assert fleet.do(Release('dock', first.token), ('s', 2)).code == Code.OK   # as it was answered
    holder = fleet.machine.locks.holder('dock')
    assert holder is not None and holder.token == other.token


def test_a_retry_of_a_long_hold_or_wait_outlives_its_session() -> None:
    """A lease and a wait may be longer than a session lives; what it asked for is not asked again."""
    fleet = Fleet()
    hold, wait = Acquire('dock', 'a', 7200 * SECOND, 0), Acquire('dock', 'b', SECOND, 3600 * SECOND)
    token = fleet.do(hold, ('a', 1)).token
    fleet.do(wait, ('b', 1))
    fleet.wait(LIFETIME + SECOND)
    assert len(fleet.machine.sessions) == 0
    assert fleet.do(hold, ('a', 1)).token == token
    assert fleet.do(wait, ('b', 1)).code == Code.QUEUED
    [(holder, waiters)] = list(fleet.machine.locks)
    assert (holder.owner, [w.owner for w in waiters]) == ('a', ['b'])
    assert fleet.wait(3600 * SECOND - LIFETIME) == ['LOCK_WAIT_ENDED']      # as first asked for


def test_old_and_unknown_sessions_are_refused_without_effect() -> None:
    fleet = Fleet()
    acquire = Acquire('dock', 'a', SECOND, 0)
    assert fleet.do(acquire, ('s', 2)).code == Code.SESSION_EXPIRED
    fleet.do(Barrier(), ('s', 1))
    for sequence in range(2, WINDOW + 3):
        fleet.do(Barrier(), ('s', sequence))
    assert fleet.do(acquire, ('s', 1)).code == Code.SESSION_EXPIRED
    fleet.wait(LIFETIME)
    assert fleet.do(acquire, ('s', WINDOW + 3)).code == Code.SESSION_EXPIRED
    assert len(fleet.machine.locks) == 0


def test_withdraw_releases_a_hold_and_ends_a_wait() -> None:
    fleet = Fleet()
    fleet.do(Acquire('dock', 'a', SECOND, 0), ('a', 1))
    fleet.do(Acquire('dock', 'b', SECOND, SECOND), ('b', 1))
    fleet.do(Acquire('dock', 'c', SECOND, SECOND), ('c', 1))
    assert fleet.do(Withdraw('dock', 'b', 1)).code == Code.OK
    assert fleet.answers['b', 1].code == Code.HELD
    assert fleet.do(Withdraw('dock', 'a', 1)).code == Code.OK
    assert fleet.answers['c', 1].code == Code.OK
    assert fleet.do(Withdraw('dock', 'a', 1)).code == Code.NOT_FOUND


def test_a_withdrawal_in_the_entry_that_grants_repeats_no_token() -> None:
    fleet = Fleet()
    fleet.do(Acquire('dock', 'a', SECOND, 0))
    for owner in 'bc':
        fleet.do(Acquire('dock', owner, SECOND, 60 * SECOND), (owner, 1))
    assert fleet.do(Withdraw('dock', 'b', 1), elapsed=SECOND).code == Code.OK   # a's lease ends as well
    assert fleet.machine.clock_interval() == 0
    assert fleet.wait(0) == ['LOCK_EXPIRED', 'LOCK_ACQUIRED']
    assert fleet.answers['c', 1].token > fleet.answers['b', 1].token


def test_a_new_run_of_a_member_ends_the_waits_of_the_old_one() -> None:
    fleet = Fleet()
    fleet.do(Acquire('dock', 'a', SECOND, 0), member='r1', run=1)
    for name, member in (('b', 'r1'), ('c', 'r2'), ('d', 'r1')):
        fleet.do(Acquire('dock', name, SECOND, SECOND), (name, 1), member=member, run=1)
    fleet.do(Acquire('dock', 'd', SECOND, SECOND), ('d', 1), member='r3', run=5)   # retried elsewhere
    fleet.do(Abandon(), member='r1', run=2)
    [(holder, waiters)] = list(fleet.machine.locks)
    assert (holder.owner, [w.owner for w in waiters]) == ('a', ['c', 'd'])


def test_wrong_tokens_change_nothing() -> None:
    fleet = Fleet()
    token = fleet.do(Acquire('dock', 'a', SECOND, 0)).token
    before = list(fleet.machine.locks)
    for operation, code in ((Renew('dock', token + 1, 0), Code.WRONG_TOKEN),
                            (Release('dock', token + 1), Code.WRONG_TOKEN),
                            (Release('none', token), Code.NOT_FOUND), (Renew('none', 1, 0), Code.NOT_FOUND)):
        assert fleet.do(operation).code == code
    assert list(fleet.machine.locks) == before


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks_module, 'MAX_LOCKS', 3)
    monkeypatch.setattr(locks_module, 'MAX_WAITERS', 2)
    monkeypatch.setattr(sessions_module, 'MAX_SESSIONS', 5)
    fleet = Fleet()
    codes = [fleet.do(Acquire(f'l{i}', 'a', SECOND, 0), (f's{i}', 1)).code for i in range(4)]
    assert codes == [Code.OK] * 3 + [Code.BUSY]
    codes = [fleet.do(Acquire('l0', 'b', SECOND, SECOND), (f'w{i}', 1)).code for i in range(3)]
    assert codes == [Code.QUEUED] * 2 + [Code.BUSY]
    assert len(fleet.machine.sessions) == 5


def test_the_deadlines_are_bounded_by_the_claims() -> None:
    fleet = Fleet()
    token = fleet.do(Acquire('dock', 'a', SECOND, 0)).token
    for _ in range(500):
        fleet.do(Renew('dock', token, 0), elapsed=SECOND // 2)
    assert len(fleet.machine.locks._deadlines) < 100


def test_clock_goes_on_while_a_lease_runs_and_only_then() -> None:
    fleet = Fleet()
    assert fleet.machine.clock_interval() is None
    fleet.do(Acquire('dock', 'a', SECOND // 5, 0))
    assert 0 < (fleet.machine.clock_interval() or 0) <= SECOND // 20
    fleet.wait(SECOND // 5)
    assert fleet.machine.clock_interval() is None


def test_late_subscribers_catch_up_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, 'MAX_EVENTS', 40)
    log = EventLog()
    for revision in range(1, 101):
        log.extend([Event(revision, i, EventType.LOCK_QUEUED, 1, 0, 'x') for i in range(revision % 4)])
    assert 0 < log.compacted_before <= 90
    found, following = [], 0
    while True:
        page, following = log.since(following, 7)
        if not page:
            break
        assert page[0].ordinal == 0        # no revision is split
        found += page
    assert [(e.revision, e.ordinal) for e in found] == [
        (r, i) for r in range(log.compacted_before, 101) for i in range(r % 4)]


# Against a model --------------------------------------------------------------------------------
class LocksAgainstModel(RuleBasedStateMachine):
    """One lock, written down as plainly as can be: a holder, a list of waiters, a clock."""

    def __init__(self) -> None:
        """Begin with a free lock."""
        super().__init__()
        self.fleet = Fleet()
        self.time = 0
        self.holder: tuple[str, int, int, int] | None = None       # owner, token, lease, deadline
        self.waiters: list[tuple[str, int, int]] = []               # owner, lease, deadline
        self.count = 0

    def _pass(self, elapsed: int) -> None:
        """Let time go on, then let deadlines take effect."""
        self.time += elapsed
        index = self.fleet.machine.applied + 1
        self.waiters = [w for w in self.waiters if w[2] > self.time]
        if self.holder and self.holder[3] <= self.time:
            self._next(index)

    def _next(self, index: int) -> None:
        self.holder = None
        if self.waiters:
            owner, lease, _ = self.waiters.pop(0)
            self.holder = owner, index, lease, self.time + lease

    @rule(lease=st.integers(SECOND // 10, 3 * SECOND), wait=st.sampled_from((0, 0, SECOND, 5 * SECOND)),
          elapsed=st.integers(0, SECOND))
    def acquire(self, lease: int, wait: int, elapsed: int) -> None:
        """Ask for the lock."""
        self._pass(elapsed)
        self.count += 1
        owner = f'o{self.count}'
        answer = self.fleet.do(Acquire('dock', owner, lease, wait), (owner, 1), elapsed)
        if self.holder is None:
            self.holder = owner, self.fleet.machine.applied, lease, self.time + lease
            assert (answer.code, answer.token) == (Code.OK, self.holder[1])
        elif wait:
            self.waiters.append((owner, lease, self.time + wait))
            assert answer.code == Code.QUEUED
        else:
            assert (answer.code, answer.holder) == (Code.HELD, self.holder[0])

    @precondition(lambda self: self.holder)
    @rule(elapsed=st.integers(0, SECOND), lease=st.sampled_from((0, 0, SECOND // 2, 4 * SECOND)))
    def renew(self, elapsed: int, lease: int) -> None:
        """Renew with the token that was right before time went on."""
        assert self.holder
        token = self.holder[1]
        self._pass(elapsed)
        answer = self.fleet.do(Renew('dock', token, lease), None, elapsed)
        if self.holder and self.holder[1] == token:
            owner, _, old, _ = self.holder
            self.holder = owner, token, lease or old, self.time + (lease or old)
            assert answer.code == Code.OK
        else:
            assert answer.code == (Code.WRONG_TOKEN if self.holder else Code.NOT_FOUND)

    @precondition(lambda self: self.holder)
    @rule(elapsed=st.integers(0, SECOND))
    def release(self, elapsed: int) -> None:
        """Release with the token that was right before time went on."""
        assert self.holder
        token = self.holder[1]
        self._pass(elapsed)
        answer = self.fleet.do(Release('dock', token), None, elapsed)
        if self.holder and self.holder[1] == token:
            self._next(self.fleet.machine.applied)
            assert answer.code == Code.OK
        else:
            assert answer.code == (Code.WRONG_TOKEN if self.holder else Code.NOT_FOUND)

    @rule(elapsed=st.integers(0, 2 * SECOND), data=st.data())
    def retry(self, elapsed: int, data: st.DataObject) -> None:
        """Repeat an old request: it must change nothing."""
        if not self.count:
            return
        self._pass(elapsed)
        owner = f'o{data.draw(st.integers(1, self.count))}'
        self.fleet.do(Acquire('dock', owner, SECOND, SECOND), (owner, 1), elapsed)

    @rule(elapsed=st.integers(0, 4 * SECOND))
    def clock(self, elapsed: int) -> None:
        """Let time go on."""
        self._pass(elapsed)
        self.fleet.wait(elapsed)

    @invariant()
    def agrees(self) -> None:
        """Compare all there is."""
        table = list(self.fleet.machine.locks)
        assert self.fleet.machine.time == self.time
        if self.holder is None:
            assert table == []
            return
        [(holder, waiters)] = table
        assert (holder.owner, holder.token, holder.lease, holder.deadline) == self.holder
        assert [(w.owner, w.lease, w.deadline) for w in waiters] == self.waiters
        assert self.fleet.machine.locks._claims == 1 + len(waiters)
        interval = self.fleet.machine.clock_interval()
        assert interval is not None and interval <= max(0, holder.deadline - self.time)


TestLocksAgainstModel = LocksAgainstModel.TestCase
TestLocksAgainstModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
