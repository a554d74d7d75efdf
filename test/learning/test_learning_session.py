# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The bookkeeping of a training with an end: what counts, what does not, and when it is over."""
from muster.learning.agents.base import LearningMode
from muster.learning.cycle import Decision, End, EpisodeRecord
from muster.learning.session import Plan, Session
import numpy as np
import pytest

MODE = LearningMode.MIXED


def decision(end: End | None = None, total: float = 1.0, safe: str = '') -> Decision:
    ended = EpisodeRecord(1, 5, total, end, MODE) if end else None
    return Decision(np.zeros(1), 0, 'go', False, safe, ended)


def test_steps_count_unless_they_were_safe() -> None:
    session = Session(Plan(steps=3))
    for taken in (decision(), decision(safe='stale'), decision()):
        session.take(taken)
        assert not session.done
    assert session.steps == 2 and session.progress == pytest.approx(2 / 3)
    session.take(decision())
    assert session.done and session.progress == 1.0


def test_only_whole_episodes_count() -> None:
    session = Session(Plan(episodes=2))
    for end in (End.TRUNCATED, End.TERMINAL, End.TRUNCATED):
        session.take(decision(end, 7.0))
    assert session.episodes == 1 and list(session.returns) == [7.0] and not session.done
    session.take(decision(End.TIME_LIMIT, 9.0))
    assert session.done and list(session.recent) == [] and session.mean_evaluation == 0.0


def test_evaluation_follows_without_learning_and_begins_with_a_whole_episode() -> None:
    session = Session(Plan(steps=1, evaluations=2))
    assert session.mode is MODE
    session.take(decision())
    assert session.mode is LearningMode.EXPLOITATION and session.trained and not session.done
    session.take(decision(End.TERMINAL, 100.0))     # the rest of the one that was under way
    assert session.evaluation == [] and session.progress == pytest.approx(1 / 3)
    session.take(decision(End.TERMINAL, 2.0))
    session.take(decision(End.TRUNCATED, 3.0))      # cut off, and so is what follows
    session.take(decision(End.TERMINAL, 4.0))
    assert session.evaluation == [2.0]
    session.take(decision(End.TIME_LIMIT, 6.0))
    assert session.done and session.evaluation == [2.0, 6.0] and session.mean_evaluation == 4.0
    assert session.progress == 1.0


def test_after_whole_episodes_of_training_the_first_evaluated_one_counts() -> None:
    session = Session(Plan(episodes=1, evaluations=1))
    session.take(decision(End.TERMINAL, 1.0))
    session.take(decision(End.TERMINAL, 2.0))
    assert session.done and session.evaluation == [2.0]


@pytest.mark.parametrize(('fields', 'words'), [
    ({}, 'nothing to do'), ({'steps': 5, 'episodes': 5}, 'not both'),
    ({'evaluations': 1001}, 'evaluation_episodes must be within 0..1000, not 1001'),
    ({'steps': 10**10}, 'steps must be within')])
def test_a_plan_that_makes_no_sense_is_refused(fields: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace('.', r'\.')):
        Plan(**fields)
