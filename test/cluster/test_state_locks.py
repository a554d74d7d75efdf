# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Locks of the replicated state: leases, queues, tokens, delays."""
from __future__ import annotations

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import invariant, precondition, rule, RuleBasedStateMachine
from muster.cluster.raft.types import Kind
from muster.cluster.state import locks as locks_module
from muster.cluster.state.commands import Abandon, Acquire, Code, Release, Renew, Withdraw
import pytest
from state_fleet import Fleet, SECOND


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


def test_a_wait_that_ends_as_its_request_comes_again_is_answered_as_over() -> None:
    fleet = Fleet()
    fleet.do(Acquire('dock', 'a', 9 * SECOND, 0))
    wait = Acquire('dock', 'b', SECOND, 3 * SECOND)
    assert fleet.do(wait, ('b', 1)).code == Code.QUEUED
    answer = fleet.do(wait, ('b', 1), elapsed=3 * SECOND)
    assert (answer.code, answer.holder) == (Code.HELD, 'a')
    assert fleet.do(wait, ('b', 1)).code == Code.NOT_FOUND     # it came once more, later


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


def test_the_deadlines_are_bounded_by_the_claims() -> None:
    fleet = Fleet()
    token = fleet.do(Acquire('dock', 'a', SECOND, 0)).token
    for _ in range(500):
        fleet.do(Renew('dock', token, 0), elapsed=SECOND // 2)
    assert len(fleet.machine.locks._ends) < 100


def test_locks_and_waiters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks_module, 'MAX_LOCKS', 3)
    monkeypatch.setattr(locks_module, 'MAX_WAITERS', 2)
    fleet = Fleet()
    codes = [fleet.do(Acquire(f'l{i}', 'a', SECOND, 0)).code for i in range(4)]
    assert codes == [Code.OK] * 3 + [Code.BUSY]
    codes = [fleet.do(Acquire('l0', 'b', SECOND, SECOND)).code for i in range(3)]
    assert codes == [Code.QUEUED] * 2 + [Code.BUSY]


def test_what_is_gone_leaves_no_deadlines_behind() -> None:
    fleet = Fleet()
    for round_ in range(300):
        token = fleet.do(Acquire('dock', 'a', 3600 * SECOND, 0)).token
        fleet.do(Acquire('dock', 'b', SECOND, 3600 * SECOND), ('b', round_ + 1) if round_ == 0 else None)
        fleet.do(Withdraw('dock', *next(iter(fleet.machine.locks))[1][0].request))
        fleet.do(Release('dock', token))
    locks = fleet.machine.locks
    assert len(locks) == 0 and len(locks._ends) + len(locks._waits) < 200
    assert fleet.machine.clock_interval() is None


# Delay ------------------------------------------------------------------------------------------
def test_a_lock_stays_closed_after_its_hold_expired() -> None:
    fleet = Fleet()
    token = fleet.do(Acquire('dock', 'a', SECOND, 0, 5 * SECOND), member='r7').token
    assert fleet.wait(SECOND) == ['LOCK_EXPIRED', 'LOCK_CLOSED']
    [_, closed] = fleet.last.events
    assert (closed.subject, closed.owner, closed.member, closed.token) == ('dock', 'a', 'r7', token)
    assert len(fleet.machine.locks) == 0
    refused = fleet.do(Acquire('dock', 'b', SECOND, 0), elapsed=2 * SECOND)
    assert (refused.code, refused.holder) == (Code.HELD, '') and 'closed for another 3.0 s' in refused.message
    for operation in (Renew('dock', token, 0), Release('dock', token)):
        assert fleet.do(operation).code == Code.NOT_FOUND
    granted = fleet.do(Acquire('dock', 'b', SECOND, 0), elapsed=3 * SECOND)
    assert granted.code == Code.OK and granted.token > token


def test_a_released_lock_is_not_closed() -> None:
    fleet = Fleet()
    token = fleet.do(Acquire('dock', 'a', SECOND, 0, 5 * SECOND)).token
    assert fleet.do(Release('dock', token)).code == Code.OK
    assert fleet.do(Acquire('dock', 'b', SECOND, 0)).code == Code.OK


def test_waiters_stay_queued_while_a_lock_is_closed_and_go_on_in_their_order() -> None:
    fleet = Fleet()
    fleet.do(Acquire('dock', 'a', SECOND, 0, 5 * SECOND))
    for owner, wait in (('b', 3 * SECOND), ('c', 60 * SECOND), ('d', 60 * SECOND)):
        assert fleet.do(Acquire('dock', owner, SECOND, wait), (owner, 1)).code == Code.QUEUED
    assert fleet.wait(SECOND) == ['LOCK_EXPIRED', 'LOCK_CLOSED']
    assert fleet.do(Acquire('dock', 'e', SECOND, SECOND // 2), ('e', 1)).code == Code.QUEUED
    assert fleet.wait(2 * SECOND) == ['LOCK_WAIT_ENDED', 'LOCK_WAIT_ENDED']
    assert fleet.answers['b', 1].code == fleet.answers['e', 1].code == Code.HELD
    assert fleet.machine.clock_interval() == SECOND
    assert fleet.wait(3 * SECOND) == ['LOCK_ACQUIRED']
    assert fleet.answers['c', 1].code == Code.OK
    assert fleet.wait(SECOND) == ['LOCK_EXPIRED', 'LOCK_ACQUIRED']      # c asked for no delay
    assert fleet.answers['d', 1].code == Code.OK


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8), st.integers(0, 6))
def test_nobody_is_granted_a_lock_before_its_delay_is_over(waits: list[tuple[int, int]], delay: int) -> None:
    fleet = Fleet()
    fleet.do(Acquire('dock', 'a', SECOND, 0, delay * SECOND))
    expired_at = 0
    for i, (wait, elapsed) in enumerate(waits):
        fleet.do(Acquire('dock', f'w{i}', SECOND, wait * SECOND), (f'w{i}', 1), elapsed * SECOND)
        expired_at = expired_at or (fleet.machine.time if 'LOCK_EXPIRED' in fleet.happened else 0)
        granted = fleet.machine.locks.holder('dock')
        if granted is not None and granted.owner != 'a':
            assert expired_at and fleet.machine.time >= expired_at + delay * SECOND
            return


# Elections --------------------------------------------------------------------------------------
def test_repeated_elections_neither_shorten_nor_immortalise_a_lease() -> None:
    """The first entry of a term carries no time; all others carry what their leader counted."""
    fleet = Fleet()
    granted_at = fleet.machine.time
    fleet.do(Acquire('dock', 'a', 10 * SECOND, 0))
    happened: list[str] = []
    for term in range(2, 100):
        fleet.feed(Kind.NOOP, b'r1', 0, term)
        assert fleet.happened == ['LEADER_ELECTED']
        happened += fleet.wait(SECOND // 4)
        if happened:
            break
    assert happened == ['LOCK_EXPIRED'] and fleet.machine.time - granted_at == 10 * SECOND


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
        assert self.fleet.machine.locks._waiters == len(waiters)
        interval = self.fleet.machine.clock_interval()
        assert interval is not None and interval <= max(0, holder.deadline - self.time)


TestLocksAgainstModel = LocksAgainstModel.TestCase
TestLocksAgainstModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
