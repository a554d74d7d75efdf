# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A slice of the stories of the simulation; `make simulate SEEDS=10000` searches further."""
import pytest
from simulation import SECOND, tell

CHUNK = 10


@pytest.mark.parametrize('first', range(0, 500, CHUNK))
def test_invariants_hold_under_every_fault(first: int) -> None:
    for seed in range(first, first + CHUNK):
        tell(seed)


def test_same_seed_tells_the_same_story() -> None:
    one, two = (tell(11) for _ in range(2))
    assert (one.time, one.oracle.log, list(one.transcript)) == \
        (two.time, two.oracle.log, list(two.transcript))


def test_stories_are_not_trivial() -> None:
    """Elections, grants, faults and snapshots do happen; otherwise the invariants would hold of nothing."""
    stories = [tell(seed, 3 * SECOND) for seed in range(12)]
    assert sum(len(story.oracle.log) for story in stories) > 700
    assert sum(client.done for story in stories for client in story.clients) > 150
    assert max(entry.term for story in stories for entry in story.oracle.log) > 4
    assert any(robot.disk.snapshot for story in stories for robot in story.robots.values())
    assert any(call.answer is None for story in stories for call, _ in story.history)
