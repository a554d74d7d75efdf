# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The checker of histories, on histories that are known to be good or bad."""
from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given, settings, strategies as st
from linearizability import Call, check, FOREVER, NotLinearizable, Read
from muster.cluster.raft.types import Entry, Kind
from muster.cluster.state.commands import (
    Acquire,
    Answer,
    Code,
    Command,
    Operation,
    Release,
    Renew,
    Withdraw,
)
from muster.cluster.state.locks import RequestId
from muster.cluster.state.machine import StateMachine
import pytest

SECOND = 1_000_000_000
UNKNOWN = None


def call(client: str, operation: Operation | Read, invoked: float, returned: float,
         answer: Code | int | None = Code.OK, request: str = '', index: int = 0) -> Call:
    """Return a call; times in seconds, an answer that is a number is the token of a grant."""
    session, _, sequence = request.partition(':')
    made = Call(client, operation, int(invoked * SECOND), (session, int(sequence)) if request else None)
    if answer is not UNKNOWN:
        told = answer if isinstance(answer, Code) else Code.OK
        made.returns(Answer(told, token=0 if isinstance(answer, Code) else answer),
                     int(returned * SECOND), index)
    return made


def acquire(lease: float = 10, wait: float = 0, name: str = 'dock') -> Acquire:
    return Acquire(name, 'somebody', int(lease * SECOND), int(wait * SECOND))


def renew(token: int, lease: float = 0) -> Renew:
    return Renew('dock', token, int(lease * SECOND))


def release(token: int) -> Release:
    return Release('dock', token)


READ = Read('dock')
GOOD = {
    'one after the other': [
        call('a', acquire(), 0, 1, 5), call('a', release(5), 2, 3), call('b', acquire(), 4, 5, 7)],
    'overlapping calls in the only order that explains them': [
        call('a', acquire(), 0, 9, 5), call('a', release(5), 9.5, 12), call('b', acquire(), 1, 13, 7),
        call('c', READ, 9.6, 10, 5)],
    'refused while another holds it': [
        call('a', acquire(), 0, 1, 5), call('b', acquire(), 0.5, 1.5, Code.HELD)],
    'a waiter gets it after the release': [
        call('a', acquire(), 0, 1, 5), call('b', acquire(wait=5), 1, 4, 8), call('a', release(5), 3, 3.5)],
    'a lease ends by itself': [
        call('a', acquire(lease=2), 0, 1, 5), call('b', acquire(), 2.5, 3, 6),
        call('a', renew(5), 3.5, 4, Code.WRONG_TOKEN)],
    'a lease goes on without a leader': [
        call('a', acquire(lease=2), 0, 1, 5), call('a', renew(5), 8, 9), call('b', READ, 9.5, 9.6, 5)],
    'an unknown acquire took effect later': [
        call('a', acquire(), 0, 0, UNKNOWN), call('b', acquire(), 1, 2, 3), call('b', release(3), 3, 4),
        call('c', READ, 5, 6, 9), call('c', acquire(), 7, 8, Code.HELD)],
    'an unknown acquire never took effect': [
        call('a', acquire(), 0, 0, UNKNOWN), call('b', acquire(), 1, 2, 3), call('b', READ, 3, 4, 3)],
    'an unknown release took effect': [
        call('a', acquire(100), 0, 1, 5), call('a', release(5), 2, 0, UNKNOWN),
        call('b', acquire(), 3, 4, Code.HELD), call('b', acquire(), 5, 6, 9)],
    'a retry is answered as the first call would have been': [
        call('a', acquire(), 0, 0, UNKNOWN, 'a:1'), call('b', acquire(), 1, 2, Code.HELD),
        call('a', acquire(), 3, 4, 5, 'a:1')],
    'a retry of what has ended': [
        call('a', acquire(1), 0, 0, UNKNOWN, 'a:1'), call('b', acquire(), 2, 3, 9),
        call('a', acquire(1), 4, 5, Code.NOT_FOUND, 'a:1')],
    'a repeated renewal of a lock that is gone': [
        call('a', acquire(1), 0, 0.1, 5), call('a', renew(5), 0.2, 0, UNKNOWN, 'a:2'),
        call('b', acquire(), 2, 3, 9), call('a', renew(5), 4, 5, Code.OK, 'a:2')],
    'a wait is withdrawn': [
        call('a', acquire(), 0, 1, 5), call('b', acquire(wait=9), 1, 4, Code.HELD, 'b:1'),
        call('b', Withdraw('dock', 'b', 1), 2, 3), call('a', release(5), 5, 6), call('c', READ, 7, 8, 0)],
    'a refused call did nothing': [
        call('a', acquire(), 0, 1, Code.NO_QUORUM), call('b', acquire(), 2, 3, 5)],
}
BAD = {
    'two holders': [
        call('a', acquire(), 0, 1, 5), call('b', acquire(), 2, 3, 6)],
    'two holders in calls that overlap': [
        call('a', acquire(), 0, 3, 5), call('b', acquire(), 0, 3, 6), call('a', renew(5), 4, 5),
        call('b', renew(6), 4, 5)],
    'a read of a hold that was released': [
        call('a', acquire(), 0, 1, 5), call('a', release(5), 2, 3), call('b', READ, 4, 5, 5)],
    'a read that misses a hold': [
        call('a', acquire(), 0, 1, 5), call('b', READ, 2, 3, 0)],
    'a read between two that saw the next holder': [
        call('a', acquire(), 0, 1, 5), call('b', READ, 2, 3, 0), call('b', READ, 4, 5, 5)],
    'a token that goes down': [
        call('a', acquire(), 0, 1, 5), call('a', release(5), 2, 3), call('b', acquire(), 4, 5, 4)],
    'a token used twice': [
        call('a', acquire(), 0, 1, 5), call('a', release(5), 2, 3), call('b', acquire(), 4, 5, 5)],
    'a lost release': [
        call('a', acquire(), 0, 1, 5), call('a', release(5), 2, 3), call('b', acquire(), 4, 5, Code.HELD)],
    'a grant after the withdrawal was confirmed': [
        call('a', acquire(), 0, 1, 5), call('b', acquire(wait=9), 1, 8, 6, 'b:1'),
        call('b', Withdraw('dock', 'b', 1), 2, 3), call('a', release(5), 5, 6)],
    'a request executed twice': [
        call('a', acquire(), 0, 1, 5, 'a:1'), call('a', release(5), 2, 3),
        call('a', acquire(), 4, 5, 9, 'a:1')],
    'an unknown request executed twice': [
        call('a', acquire(1), 0, 0, UNKNOWN, 'a:1'), call('c', READ, 0.5, 0.6, 5),
        call('b', acquire(1), 2, 3, 7),
        call('a', acquire(1), 5, 6, 9, 'a:1')],
    'a lease that ends too early': [
        call('a', acquire(lease=10), 0, 1, 5), call('b', acquire(), 8, 9, 6)],
    'a renewal that did not lengthen the lease': [
        call('a', acquire(lease=10), 0, 1, 5), call('a', renew(5), 8, 9), call('b', acquire(), 11, 12, 6)],
    'a renewal of what another holds by now': [
        call('a', acquire(lease=1), 0, 1, 5), call('b', acquire(), 2, 3, 6), call('a', renew(5), 4, 5)],
    'a release that another one already did': [
        call('a', acquire(), 0, 1, 5), call('a', release(5), 2, 3), call('a', release(5), 4, 5)],
    'an acquire that was refused without reason': [
        call('a', acquire(), 0, 1, Code.HELD)],
    'an acquire that took effect before it began': [
        call('b', READ, 0, 1, 7), call('a', acquire(), 2, 3, 7)],
    'a refused call that did something': [
        call('a', acquire(), 0, 1, Code.NO_QUORUM), call('b', READ, 2, 3, 5)],
    'a read of an older index': [
        call('a', acquire(), 0, 1, 5, index=5), call('b', Read('bay'), 2, 3, 0, index=4)],
    'a token below that of another lock': [
        call('a', acquire(), 0, 1, 5), call('b', acquire(name='bay'), 2, 3, 4)],
}


@pytest.mark.parametrize('name', GOOD)
def test_good_histories_are_accepted(name: str) -> None:
    check(GOOD[name])


@pytest.mark.parametrize('name', BAD)
def test_bad_histories_are_refused(name: str) -> None:
    with pytest.raises(NotLinearizable):
        check(BAD[name])


def test_a_clock_that_goes_too_fast_may_shorten_a_lease() -> None:
    history = [call('a', acquire(lease=10), 0, 1, 5), call('b', acquire(), 8, 9.95, 6)]
    check(history, drift=0.01)
    with pytest.raises(NotLinearizable):
        check(history)


def test_the_counter_example_is_short_and_tells_what_is_inexplicable() -> None:
    history = _long_history(500)
    wrong = call('z', READ, history[700].invoked / SECOND, history[700].returned / SECOND, 99_999)
    with pytest.raises(NotLinearizable) as raised:
        check([*history, wrong])
    lines = str(raised.value).splitlines()
    assert len(lines) <= 16
    assert any(' z: Read() -> OK token 99999' in line for line in lines)


def _long_history(rounds: int) -> list[Call]:
    """Eight clients in turn, each call overlapping its neighbours, now and then one without outcome."""
    history, time = [], 0.0
    for token in range(1, rounds + 1):
        client = f'c{token % 8}'
        if token % 50 == 0:
            history.append(call(client, renew(token - 1), time, 0, UNKNOWN))
        history.append(call(client, acquire(lease=1000), time - 3, time + 0.9, token))
        history.append(call(client, release(token), time + 1, time + 3.9))
        time += 2
    return history


def test_thousands_of_calls_are_checked_quickly() -> None:
    history = _long_history(3000)
    check(history)
    assert len(history) > 6000  # the time limit of a test is the other half of the assertion


class _Execution:
    """The real state machine, asked one thing after the other; the calls are what its clients saw."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.machine = StateMachine()
        self.calls: list[Call] = []
        self.time = 0
        self._open: dict[RequestId, list[tuple[Call, int]]] = {}

    def enter(self, client: str, operation: Operation, request: RequestId, elapsed: int, real: int) -> None:
        """Execute a command `real` after the last; cluster time goes on by `elapsed`, at most as much."""
        self.time += real
        made = Call(client, operation, max(0, self.time - self.random.randrange(2 * SECOND)), request)
        self.calls.append(made)
        self._open.setdefault(request, []).append((made, self.time))
        index = self.machine.applied + 1
        data = Command(operation, request, 'r1', 1).encode()
        applied = self.machine.apply(Entry(index, 1, elapsed, Kind.COMMAND, data))
        for who, answer in applied.answers:
            if answer.code == Code.QUEUED:
                continue
            for waiting, _ in self._open.pop(who, []):
                if self.random.random() < 0.8:
                    waiting.returns(answer, self.time + self.random.randrange(2 * SECOND), index)

    def read(self, name: str) -> None:
        """Look who holds a lock."""
        holder = self.machine.locks.holder(name)
        token = holder.token if holder and holder.deadline > self.machine.time else 0
        made = Call('reader', Read(name), max(0, self.time - self.random.randrange(SECOND)))
        made.returns(Answer(Code.OK, token=token), self.time + self.random.randrange(SECOND),
                     self.machine.applied)
        self.calls.append(made)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_every_sequential_execution_is_accepted_however_its_calls_overlap(seed: int, steps: int) -> None:
    random = Random(seed)
    execution = _Execution(random)
    asked: list[tuple[Operation, RequestId]] = []
    for number in range(steps):
        name = random.choice('ab')
        token = random.choice([e.operation.token if isinstance(e.operation, Renew) else e.answer.token
                               for e in execution.calls if e.answer and e.answer.token] or [1])
        fresh: Any = random.choice((
            Acquire(name, 'x', random.randrange(SECOND // 2, 5 * SECOND), random.choice((0, 3 * SECOND))),
            Renew(name, token, 0), Release(name, token)))
        operation, request = (fresh, ('s', number + 1))
        if asked and random.random() < 0.3:
            operation, request = random.choice(asked)
        elif random.random() < 0.2 and asked:
            operation = Withdraw(name, *random.choice(asked)[1])
        asked.append((operation, request))
        real = random.randrange(2 * SECOND)
        elapsed = real if random.random() < 0.7 else random.randrange(real + 1)
        execution.enter('c', operation, request, elapsed, real)
        if random.random() < 0.3:
            execution.read(name)
    check(execution.calls)


@given(st.integers(0, 2**32))
def test_an_execution_with_one_wrong_answer_is_refused(seed: int) -> None:
    random = Random(seed)
    history = _long_history(30)
    victim = random.choice([c for c in history if isinstance(c.operation, Acquire)])
    assert victim.answer is not None and victim.returned != FOREVER
    victim.answer = Answer(Code.OK, token=victim.answer.token + random.choice((-25, -8, 8, 25)))
    with pytest.raises(NotLinearizable):
        check(history)
