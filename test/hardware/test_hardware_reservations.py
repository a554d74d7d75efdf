# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who uses which device."""
from hypothesis import given, strategies as st
from muster.hardware.reservations import HeldError, ReservationError, Reservations, UnknownTokenError
import pytest


def test_one_device_has_one_user() -> None:
    table = Reservations()
    first = table.reserve('camera', 'tracker', 10.0, 0, now=0.0)
    with pytest.raises(HeldError, match=r"reserved by 'tracker' for 6\.0 s more"):
        table.reserve('camera', 'mapper', 10.0, 0, now=4.0)
    assert table.reserve('lidar', 'mapper', 10.0, 0, now=4.0).token > first.token


def test_a_lease_that_ran_out_frees_the_device() -> None:
    table = Reservations()
    first = table.reserve('camera', 'tracker', 10.0, 0, now=0.0)
    assert table.next_deadline() == 10.0
    second = table.reserve('camera', 'mapper', 10.0, 0, now=10.0)
    assert second.token > first.token
    with pytest.raises(UnknownTokenError, match='reserve it again'):
        table.release('camera', first.token, now=11.0)
    assert table.held['camera'] == second


def test_a_lease_is_renewed_by_its_token_and_keeps_its_owner() -> None:
    table = Reservations()
    first = table.reserve('camera', 'tracker', 10.0, 0, now=0.0)
    again = table.reserve('camera', 'somebody', 10.0, first.token, now=9.0)
    assert (again.token, again.owner, again.deadline) == (first.token, 'tracker', 19.0)


def test_a_released_device_is_free_at_once() -> None:
    table = Reservations()
    first = table.reserve('camera', 'tracker', 10.0, 0, now=0.0)
    assert table.release('camera', first.token, now=1.0) == first
    assert table.reserve('camera', 'mapper', 1.0, 0, now=1.0).owner == 'mapper'


def test_a_gone_device_loses_its_reservation() -> None:
    table = Reservations()
    first = table.reserve('camera', 'tracker', 10.0, 0, now=0.0)
    assert table.lose('camera') == first
    assert table.lose('camera') is None
    with pytest.raises(UnknownTokenError):
        table.reserve('camera', 'tracker', 10.0, first.token, now=1.0)


@pytest.mark.parametrize('owner, lease, told', [
    ('tracker', 0.0, 'lease must be within'), ('tracker', float('nan'), 'lease must be within'),
    ('tracker', 1e9, 'lease must be within'), ('', 1.0, 'owner'), ('x' * 129, 1.0, 'owner'),
    ('a\nb', 1.0, 'owner')])
def test_values_out_of_bounds_change_nothing(owner: str, lease: float, told: str) -> None:
    table = Reservations()
    with pytest.raises(ReservationError, match=told):
        table.reserve('camera', owner, lease, 0, now=0.0)
    assert not len(table)


@given(st.lists(st.tuples(st.sampled_from('ab'), st.booleans(), st.floats(0.1, 5.0)), max_size=40))
def test_tokens_grow_and_nobody_shares(calls: list[tuple[str, bool, float]]) -> None:
    table, now, tokens = Reservations(), 0.0, []
    for device, give_back, lease in calls:
        now += 1.0
        held = table.held.get(device)
        if give_back and held is not None and held.deadline > now:
            table.release(device, held.token, now)
        try:
            tokens.append(table.reserve(device, 'owner', lease, 0, now).token)
        except HeldError:
            assert table.held[device].deadline > now
    assert tokens == sorted(set(tokens))
