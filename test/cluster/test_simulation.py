# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A slice of the seeds of the simulation; `make simulate SEEDS=5000` searches further."""
import pytest
from simulation import SECOND, tell


@pytest.mark.parametrize('seed', range(50))
def test_invariants_hold_under_every_fault(seed: int) -> None:
    tell(seed, 3 * SECOND)


def test_same_seed_tells_the_same_story() -> None:
    one, two = (tell(11, 2 * SECOND) for _ in range(2))
    assert (one.time, one.oracle.log, list(one.transcript)) == \
        (two.time, two.oracle.log, list(two.transcript))


def test_stories_are_not_trivial() -> None:
    """Elections, grants and faults do happen; otherwise the invariants would hold of nothing."""
    stories = [tell(seed, 3 * SECOND) for seed in range(8)]
    assert sum(len(story.oracle.log) for story in stories) > 500
    assert sum(client.done for story in stories for client in story.clients) > 100
    assert max(entry.term for story in stories for entry in story.oracle.log) > 4
