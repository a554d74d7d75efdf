# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The client's core on a virtual clock: leases, retries, sessions; and the guard of a resource."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from hypothesis import given, strategies as st
from muster.cluster.client.errors import FleetUnavailable, OutcomeUnknown, RequestRefused, StaleToken
from muster.cluster.client.guard import FencingGuard
from muster.cluster.client.lease import Lease
from muster.cluster.client.requests import Call, Done, PATIENCE, Requests, Send
from muster.cluster.state.commands import Code, SECOND
import pytest


# Leases -----------------------------------------------------------------------------------------
@given(st.integers(SECOND // 10, 86_400 * SECOND), st.integers(0, 2**62))
def test_a_holder_gives_up_one_percent_early_and_renews_long_before(length: int, base: int) -> None:
    lease = Lease(1, length, base)
    assert lease.held(lease.ends - 1) and not lease.held(lease.ends)
    assert 0 <= base + length - lease.ends - length / 100 < 1
    assert lease.renew_at - base <= length / 3 < lease.ends - base


def test_a_grant_that_took_long_is_not_fresh_and_a_renewal_never_turns_time_back() -> None:
    lease = Lease(1, 10 * SECOND, 100 * SECOND)
    assert lease.fresh(101 * SECOND) and not lease.fresh(101 * SECOND + 1)
    assert lease.renewed(105 * SECOND).ends == lease.ends + 5 * SECOND
    assert lease.renewed(90 * SECOND) == lease


# The guard --------------------------------------------------------------------------------------
def test_a_guard_refuses_older_tokens_only() -> None:
    guard = FencingGuard()
    for token in (3, 3, 7):
        guard.admit(token)
    with pytest.raises(StaleToken, match='token 6 is stale, 7 was admitted'):
        guard.admit(6)
    guard.admit(7)
    assert guard.greatest == 7


@pytest.mark.parametrize('token', [0, -1, 1.5, '7', None])
def test_a_guard_takes_positive_numbers_only(token: Any) -> None:
    with pytest.raises(ValueError, match='positive number'):
        FencingGuard().admit(token)


def test_a_guard_with_a_file_remembers(tmp_path: Path) -> None:
    file = tmp_path / 'dock.token'
    FencingGuard(file).admit(41)
    guard = FencingGuard(file)
    with pytest.raises(StaleToken):
        guard.admit(40)
    file.with_name('dock.token.new').mkdir()        # the next token cannot be written
    with pytest.raises(OSError):
        guard.admit(42)
    assert guard.greatest == 41 and FencingGuard(file).greatest == 41


@pytest.mark.parametrize('text', ['', '41', 'x\n', '-1\n', '٣\n', '41\n42\n'])
def test_a_guard_refuses_a_damaged_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / 'token'
    file.write_text(text)
    with pytest.raises(ValueError, match='does not hold a fencing token'):
        FencingGuard(file)


# Requests ---------------------------------------------------------------------------------------
class Network:
    """The client's core, a clock, and the robots by hand."""

    def __init__(self, *robots: str) -> None:
        self.now = 1000 * SECOND
        self.core = Requests('r1', SimpleNamespace, Random(1))
        self.core.robots(frozenset(robots), self.now)
        self.ends: list[Done] = []
        self.session = 0

    def call(self, patience: int = 60 * SECOND, wait: int = 0, changes: bool = True,
             prepare: Callable[[int], None] = lambda now: None) -> Call:
        call = Call('acquire_lock', SimpleNamespace(), self.now + patience, self.ends.append, changes, wait,
                    prepare)
        self.core.add(call, self.now)
        return call

    def sends(self) -> list[Send]:
        """Return what is sent to robots but the opening of sessions, which is answered at once."""
        sends: list[Send] = []
        for send in self.core.take_sends():
            if send.call is not None and send.call.service == 'open_session':
                self.session += 1
                self.answer(send, session=str(self.session))
                self.advance(0)
                sends += self.sends()
            else:
                sends.append(send)
        return sends

    def answer(self, send: Send, code: int = Code.OK, **fields: Any) -> None:
        assert send.call is not None
        self.core.answered(send.call, send.robot, SimpleNamespace(error_code=code, message='m', **fields),
                           self.now)

    def advance(self, by: int) -> None:
        """Let time pass, waking as often as is asked for."""
        until = self.now + by
        while (due := self.core.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.core.advance(self.now)
            if self.core.next_deadline() == due:
                break
        self.now = until

    def error(self) -> Any:
        end, = self.ends
        return end.error


def test_the_own_robot_is_asked_first_under_the_id_of_an_open_session() -> None:
    network = Network('r0', 'r1', 'r2')
    began = network.now
    first, second = network.call(), network.call()
    sends = network.sends()
    assert [(s.robot, s.call) for s in sends] == [('r1', first), ('r1', second)]
    assert [c.request.request_id for c in (first, second)] == ['1:1', '1:2']
    network.advance(SECOND // 10)
    network.answer(sends[0], token=5)
    end, = network.ends
    assert end.error is None and end.response.token == 5 and end.since == began


def test_a_read_needs_no_session() -> None:
    network = Network('r1')
    call = network.call(changes=False)
    send, = network.sends()
    assert send.call is call and network.session == 0 and not hasattr(call.request, 'request_id')


@pytest.mark.parametrize('code', [Code.NO_QUORUM, Code.BUSY, Code.INACTIVE])
def test_what_did_not_happen_is_asked_of_another_robot(code: Code) -> None:
    network = Network('r1', 'r2')
    network.call()
    send, = network.sends()
    network.answer(send, code)
    network.advance(SECOND // 10)
    again, = network.sends()
    assert again.robot == 'r2' and again.call is send.call and send.call
    assert send.call.request.request_id == '1:1'
    network.answer(again)
    assert network.error() is None


def test_an_unknown_outcome_is_asked_for_again_under_the_same_id() -> None:
    network = Network('r1', 'r2')
    network.call()
    send, = network.sends()
    network.answer(send, Code.OUTCOME_UNKNOWN)
    again, = network.sends()
    assert again.robot == 'r2' and again.call and again.call.request.request_id == '1:1'
    network.answer(again, Code.HELD)
    assert isinstance(network.error(), RequestRefused) and network.error().code == Code.HELD


def test_a_silent_robot_is_asked_for_a_sign_of_life_and_then_left() -> None:
    network = Network('r1', 'r2')
    network.call(wait=30 * SECOND)
    network.sends()
    network.advance(PATIENCE)
    sign, = network.sends()
    assert sign == Send('r1', None)
    network.advance(2 * PATIENCE)
    again, = (s for s in network.sends() if s.call)
    assert again.robot == 'r2' and again.call and again.call.request.request_id == '1:1'


def test_a_robot_that_lets_a_request_wait_is_not_left() -> None:
    network = Network('r1', 'r2')
    network.call(wait=30 * SECOND)
    network.sends()
    for _ in range(20):
        network.advance(PATIENCE)
        for send in network.sends():
            assert send == Send('r1', None)
            network.core.alive('r1', network.now)


def test_a_robot_that_vanishes_is_left_at_once_and_not_asked_again_soon() -> None:
    network = Network('r1', 'r2')
    network.call(wait=30 * SECOND)
    network.sends()
    network.core.robots(frozenset({'r2'}), network.now)
    send, = network.sends()
    assert send.robot == 'r2'
    network.core.robots(frozenset({'r1', 'r2'}), network.now)
    network.call()
    send, = network.sends()
    assert send.robot == 'r2', 'r1 has just come back'


def test_a_lost_request_is_sent_again_although_the_robot_lives() -> None:
    network = Network('r1')
    network.call()
    network.sends()
    sent = []
    for _ in range(60):
        network.advance(PATIENCE // 2)
        network.core.alive('r1', network.now)
        sent += [s for s in network.sends() if s.call]
    assert len(sent) == 1


def test_without_a_robot_nothing_happened() -> None:
    network = Network()
    call = network.call(patience=SECOND)
    network.core.explain('nobody is there')
    network.advance(2 * SECOND)
    assert isinstance(network.error(), FleetUnavailable) and 'nobody is there' in str(network.error())
    assert not network.sends() and not call.uncertain


def test_without_an_answer_it_may_have_happened() -> None:
    network = Network('r1')
    network.call(patience=SECOND)
    network.sends()
    network.advance(2 * SECOND)
    assert isinstance(network.error(), OutcomeUnknown)


def test_refusals_until_the_end_mean_that_nothing_happened() -> None:
    network = Network('r1')
    network.call(patience=SECOND)
    while not network.ends:
        for send in network.sends():
            network.answer(send, Code.NO_QUORUM)
        network.advance(SECOND // 1000)
    assert isinstance(network.error(), FleetUnavailable) and 'nothing was changed' in str(network.error())


def test_an_expired_session_is_replaced_where_nothing_can_have_happened() -> None:
    network = Network('r1')
    network.call()
    send, = network.sends()
    network.advance(SECOND // 10)
    network.answer(send, Code.SESSION_EXPIRED)
    network.advance(SECOND)
    again, = (s for s in network.sends() if s.call)
    assert again.call and again.call.request.request_id == '2:1'
    network.answer(again)
    assert network.error() is None and network.ends[0].since > 1000 * SECOND


def test_an_expired_session_after_a_silence_is_an_unknown_outcome() -> None:
    network = Network('r1')
    network.call()
    send, = network.sends()
    network.answer(send, Code.OUTCOME_UNKNOWN)
    again, = network.sends()
    network.answer(again, Code.SESSION_EXPIRED)
    assert isinstance(network.error(), OutcomeUnknown)


def test_a_request_is_completed_before_each_sending() -> None:
    network = Network('r1')
    times: list[int] = []
    network.call(prepare=times.append)
    send, = network.sends()
    network.advance(PATIENCE // 2)
    network.answer(send, Code.OUTCOME_UNKNOWN)
    assert times == [1000 * SECOND, 1000 * SECOND + PATIENCE // 2]


def test_closing_ends_every_call() -> None:
    network = Network('r1')
    network.call()
    network.call(changes=False)
    network.sends()
    network.core.fail(FleetUnavailable('closed'))
    assert [type(end.error) for end in network.ends] == [OutcomeUnknown, FleetUnavailable]
    assert network.core.next_deadline() is None
