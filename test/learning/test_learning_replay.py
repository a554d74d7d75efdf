# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Replay: what is kept, what is drawn and how often, returns over several steps, and going on."""
from statistics import NormalDist
from typing import Any

from hypothesis import given, settings, strategies as st
from muster.learning.agents.base import Transition
from muster.learning.n_step import NStepWindow
from muster.learning.prioritized_replay import PrioritizedReplay
from muster.learning.replay import Replay
from muster.learning.sum_tree import SumTree
import numpy as np
import pytest


def state(number: float) -> np.ndarray:
    return np.full(2, number, np.float32)


def filled(replay: Replay, transitions: int) -> Replay:
    """Add transitions 0, 1, 2 … from their number to the next."""
    for number in range(transitions):
        replay.add(state(number), number % 3, number / 2, state(number + 1), number % 2)
    return replay


def chi_square_limit(degrees: int, confidence: float = 0.9999) -> float:
    """Return what a chi-square variable exceeds with 1 - confidence (Wilson & Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + NormalDist().inv_cdf(confidence) * spread ** 0.5) ** 3


@pytest.mark.parametrize('kind', [Replay, PrioritizedReplay])
def test_the_last_transitions_are_kept_and_returned_whole(kind: type[Replay]) -> None:
    replay = filled(kind(5, 2), 13)
    batch = replay.sample(400, np.random.default_rng(1))
    numbers = batch.states[:, 0]
    assert len(replay) == 5 and set(numbers.tolist()) == {8, 9, 10, 11, 12}
    assert (batch.states[:, 1] == numbers).all() and (batch.next_states == numbers[:, None] + 1).all()
    assert (batch.actions == numbers % 3).all() and (batch.rewards == numbers / 2).all()
    assert (batch.steps == numbers % 2).all() and batch.rows.dtype == np.float32


@pytest.mark.parametrize('kind', [Replay, PrioritizedReplay])
@pytest.mark.parametrize('used', [60, 100])
def test_alike_transitions_are_drawn_equally_often(kind: type[Replay], used: int) -> None:
    replay, generator = filled(kind(100, 2), used), np.random.default_rng(1)
    drawn = np.zeros(100)
    for _ in range(600):
        np.add.at(drawn, replay.sample(50, generator).positions, 1)
    expected = 600 * 50 / used
    assert not drawn[used:].any()
    assert ((drawn[:used] - expected) ** 2 / expected).sum() < chi_square_limit(used - 1)


def test_transitions_are_drawn_in_proportion_to_their_priority_and_weighed_inversely() -> None:
    replay, generator = PrioritizedReplay(700, 2, exponent=0.6), np.random.default_rng(2)
    filled(replay, 1000)
    errors = generator.normal(size=700).astype(np.float32) * 3
    replay.update(np.arange(700), errors)
    probability = (np.abs(errors.astype(np.float64)) + 1e-6) ** 0.6
    probability /= probability.sum()
    drawn = np.zeros(700)
    for _ in range(500):
        batch = replay.sample(256, generator, correction=0.5)
        np.add.at(drawn, batch.positions, 1)
        weights = (700 * probability[batch.positions]) ** -0.5
        assert batch.weights == pytest.approx(weights / weights.max(), rel=1e-5)
    expected = probability * 500 * 256
    many = expected > 5
    assert many.sum() > 600
    assert ((drawn - expected) ** 2 / expected)[many].sum() < chi_square_limit(int(many.sum()) - 1)


def test_new_transitions_have_the_largest_priority_so_far_and_old_ones_lose_theirs() -> None:
    replay, generator = filled(PrioritizedReplay(8, 2, exponent=1.0), 8), np.random.default_rng(3)
    replay.update(np.arange(8), np.array([1e3, *[0.0] * 7], np.float32))
    assert set(replay.sample(50, generator).positions.tolist()) == {0}
    filled(replay, 1)  # takes the place of the one that was likely, and is as likely
    batch = replay.sample(50, generator)
    assert set(batch.positions.tolist()) == {0} and (batch.states == 0).all()
    filled(replay, 20)
    assert set(replay.sample(200, generator).positions.tolist()) == set(range(8))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**32 - 1), st.sampled_from([1e-9, 1.0, 1e6]))
def test_the_sum_tree_finds_by_size_and_never_a_zero(capacity: int, seed: int, scale: float) -> None:
    tree, generator = SumTree(capacity), np.random.default_rng(seed)
    plain = np.zeros(capacity)
    for _ in range(3):
        numbers = generator.integers(capacity, size=50)
        values = {int(n): float(v) for n, v in
                  zip(numbers, scale * generator.random(50) * generator.integers(0, 2, 50), strict=True)}
        plain[list(values)] = list(values.values())
        tree.set(np.array(list(values)), np.array(list(values.values())))
    assert tree.total == pytest.approx(plain.sum(), rel=1e-12)
    if not plain.any():
        return
    points = np.concatenate((generator.random(64), [0.0, 1.0, np.nextafter(1.0, 2.0)])) * tree.total
    found = tree.find(points.copy())
    assert (plain[found] > 0).all()
    ends = plain.cumsum()
    slack = 1e-9 * ends[-1]
    assert (ends[found] >= points - slack).all() and (ends[found] - plain[found] <= points + slack).all()


def test_a_million_priorities_find_their_places() -> None:
    tree = SumTree(1_000_000)
    tree.set(np.arange(1_000_000), 1.0)
    assert tree.total == 1e6
    assert tree.find(np.array([0.0, 0.5, 1.0, 123_456.7, 999_999.5])).tolist() == [0, 0, 1, 123_456, 999_999]


@pytest.mark.parametrize('kind', [Replay, PrioritizedReplay])
@pytest.mark.parametrize('transitions', [0, 3, 5, 12])
def test_a_restored_buffer_goes_on_bit_for_bit(kind: type[Replay], transitions: int) -> None:
    first, second = filled(kind(5, 2), transitions), filled(kind(5, 2), 7)
    if isinstance(first, PrioritizedReplay) and transitions:
        first.update(np.array([1, 0]), np.array([3.0, 0.1], np.float32))
    second.restore(*first.export())
    for replay in (first, second):
        filled(replay, 2)
    one, two = (replay.sample(64, np.random.default_rng(4)) for replay in (first, second))
    assert (one.positions == two.positions).all() and (one.rows == two.rows).all()
    assert isinstance(first, PrioritizedReplay) != (one.weights is None)
    if one.weights is not None:
        assert (one.weights == two.weights).all()


def test_unsound_buffers_are_refused_and_change_nothing() -> None:
    replay = filled(PrioritizedReplay(5, 2), 4)
    document, arrays = filled(PrioritizedReplay(5, 2), 5).export()
    before = replay.export()

    def changed(cell: int, value: float) -> dict[str, Any]:
        rows = arrays['rows'].copy()
        rows[2, cell] = value
        return {**arrays, 'rows': rows}
    for unsound in [({}, arrays), ({**document, 'next': 5}, arrays), (document, changed(0, np.nan)),
                    (document, changed(4, -1)), (document, changed(4, 0.5)), (document, changed(6, 1e6)),
                    (document, {**arrays, 'rows': arrays['rows'][:, :6]}),
                    (document, {**arrays, 'rows': arrays['rows'][:3]}),
                    (document, {**arrays, 'priorities': arrays['priorities'] * 0}),
                    (document, {**arrays, 'priorities': arrays['priorities'][:4]}),
                    ({**document, 'largest': None}, arrays), (document, {'rows': arrays['rows']})]:
        with pytest.raises(ValueError, match=r'replay|finite'):
            replay.restore(*unsound)
    assert replay.export()[0] == before[0] and (replay.export()[1]['rows'] == before[1]['rows']).all()
    for bad in (np.zeros(3, np.float32), np.zeros(2)):
        with pytest.raises(ValueError):
            replay.add(bad, 0, 0.0, state(0), 1)
    with pytest.raises(ValueError, match='capacity'):
        Replay(0, 2)


def joined(length: int, ends: dict[int, str], steps: int = 7) -> list[tuple[float, ...]]:
    """Walk 0, 1, 2 … with reward 1, 2, 4 …; return (first state, return, last state, steps)."""
    rows: list[tuple[float, ...]] = []
    window = NStepWindow(length, lambda s, a, r, n, k: rows.append((float(s[0]), r, float(n[0]), k)))
    for number in range(steps):
        end = ends.get(number, '')
        window.push(Transition(state(number), 0, float(2 ** number), state(number + 1),
                               end == 'terminated', end == 'truncated'), 0.5)
        if end == 'cut':
            window.cut()
    return rows


def test_n_step_returns_are_discounted_and_overlap() -> None:
    assert joined(3, {}) == [(0, 3.0, 3, 3), (1, 6.0, 4, 3), (2, 12.0, 5, 3), (3, 24.0, 6, 3),
                             (4, 48.0, 7, 3)]
    assert joined(1, {}, 2) == [(0, 1.0, 1, 1), (1, 2.0, 2, 1)]


@pytest.mark.parametrize('end', ['terminated', 'truncated', 'cut'])
def test_no_return_reaches_beyond_an_end_and_only_a_task_that_ended_has_nothing_after_it(end: str) -> None:
    steps = [0, 0, 0] if end == 'terminated' else [3, 2, 1]
    assert joined(3, {3: end}) == [
        (0, 3.0, 3, 3), (1, 6.0, 4, steps[0]), (2, 8.0, 4, steps[1]), (3, 8.0, 4, steps[2]),
        (4, 48.0, 7, 3)]
    short = [(0, 2.0, 2, 0 if end == 'terminated' else 2), (1, 2.0, 2, 0 if end == 'terminated' else 1)]
    assert joined(3, {1: end}, 3) == short
    assert joined(1, {0: end}, 1) == [(0, 1.0, 1, 0 if end == 'terminated' else 1)]


def test_what_is_under_way_is_saved_and_goes_on() -> None:
    rows: list[tuple[Any, ...]] = []

    def add(*row: Any) -> None:
        rows.append(tuple(np.asarray(value).tolist() for value in row))
    whole, first = NStepWindow(3, add), NStepWindow(3, add)
    for number in range(2):
        for window in (whole, first):
            window.push(Transition(state(number / 3), 1, 0.1, state(number / 3 + 1), False), 0.9)
    second = NStepWindow(3, add)
    second.restore(first.export(), 2, 2)
    for window in (whole, second):
        window.push(Transition(state(5), 0, 0.3, state(6), True), 0.9)
    assert len(rows) == 6 and rows[:3] == rows[3:]
    export = first.export()
    for unsound in (None, 3, export * 2, [{**export[0], 'action': 2}, export[1]], export[:1],
                    [export[0], {**export[1], 'state': [0.0]}], [{}], [export[0], {**export[1], 'steps': 9}],
                    [export[0], {**export[1], 'reached': [0.0, float('nan')]}]):
        with pytest.raises(ValueError):
            second.restore(unsound, 2, 2)
    assert not second.export()
