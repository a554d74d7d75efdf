# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The simulation finds every deliberate bug, and nothing without one."""
from bugs import Bug, BUGS
import pytest


@pytest.mark.parametrize('bug', BUGS, ids=lambda bug: bug.name.replace(' ', '-'))
def test_deliberate_bug_is_caught(bug: Bug) -> None:
    caught = bug.caught()
    assert caught is not None, f'{bug.seeds} stories did not show that {bug.breaks}'
    bug.story(caught[0])  # without the bug the same story holds


def test_a_bug_whose_text_is_gone_is_an_error() -> None:
    function, _, new = BUGS[0].edits[0]
    with pytest.raises(LookupError, match='not once'), \
            Bug('gone', 'nothing', ((function, 'this text is not there', new),)).planted():
        pass


def test_a_bug_is_gone_when_it_is_no_longer_planted() -> None:
    function = BUGS[0].edits[0][0]
    before = function.__code__
    with BUGS[0].planted():
        assert function.__code__ != before
    assert function.__code__ is before
