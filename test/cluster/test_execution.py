# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The attempts of one robot: goals, leases, cancels and ends, on a virtual clock."""
from __future__ import annotations

from dataclasses import replace

from muster.cluster.execution import (
    ACCEPT_TIMEOUT,
    Assignment,
    CONFIRM_AFTER,
    Effects,
    Execution,
    PROGRESS_PERIOD,
    RETRY_PERIOD,
    shortened,
    WORKER_GRACE,
)
from muster.cluster.state.commands import Answer, Code, MAX_JSON, MAX_NAME, Outcome, SECOND
import pytest

DRIVE = Assignment('drive-7', 7, 'drive', '{}', 10 * SECOND, 0)
KEY = DRIVE.key
OK, LOST = Answer(Code.OK), Answer(Code.OUTCOME_UNKNOWN)


class Robot:
    """An execution and the clock; effects are taken after every step."""

    def __init__(self, *assignments: Assignment, workers: tuple[str, ...] = ('drive',)) -> None:
        self.core, self.now = Execution(), 100 * SECOND
        self.core.workers(frozenset(workers), self.now)
        self.given: tuple[Assignment, ...] = ()
        self.give(*assignments)

    def give(self, *assignments: Assignment) -> None:
        self.given = assignments
        self.core.assigned(assignments, self.now)

    def take(self) -> Effects:
        return self.core.take_effects()

    def running(self) -> Robot:
        assert self.take().goals == list(self.given)
        for assignment in self.given:
            self.core.accepted(assignment.key, self.now)
        return self

    def step(self) -> Effects:
        """Go to the next deadline."""
        due = self.core.next_deadline()
        assert due is not None
        self.now = max(self.now, due)
        self.core.advance(self.now)
        return self.take()

    def until(self, when: int, code: Code = Code.OK) -> Effects:
        """Go on to `when`, reports being answered with `code`; return all that happened."""
        everything = Effects()
        while (due := self.core.next_deadline()) is not None and due <= when:
            effects = self.step()
            everything.goals += effects.goals
            everything.cancels += effects.cancels
            everything.finishes += effects.finishes
            if effects.report:
                everything.report = effects.report
                self.core.report_answered(code, self.now)
        self.now = when
        return everything


def test_an_attempt_becomes_one_goal_and_its_result_is_told() -> None:
    robot = Robot(DRIVE).running()
    robot.give(DRIVE)
    assert not robot.take().goals
    robot.core.ended(KEY, Outcome.SUCCEEDED, '{"metres": 4}', 'there', robot.now)
    finish, = robot.take().finishes
    assert (finish.task_id, finish.token, finish.outcome) == ('drive-7', 7, Outcome.SUCCEEDED)
    assert (finish.result, finish.message) == ('{"metres": 4}', 'there')
    robot.core.finish_answered(KEY, OK, robot.now)
    assert robot.core.next_deadline() is None
    robot.give(DRIVE)               # the applied state may be behind
    assert not robot.take().goals
    robot.give()
    assert len(robot.core) == 0


def test_an_end_is_told_until_the_cluster_has_answered() -> None:
    robot = Robot(DRIVE).running()
    robot.core.ended(KEY, Outcome.FAILED, '', 'stuck', robot.now)
    first, = robot.take().finishes
    assert robot.core.next_deadline() is None
    robot.core.finish_answered(KEY, LOST, robot.now)
    again, = robot.step().finishes
    assert again == first and robot.now == 100 * SECOND + RETRY_PERIOD
    robot.core.finish_answered(KEY, Answer(Code.WRONG_TOKEN), robot.now)   # it was given to another robot
    assert robot.core.next_deadline() is None


def test_reports_renew_the_lease_from_before_they_were_sent() -> None:
    robot = Robot(DRIVE).running()
    report = robot.step().report
    assert report and report.reports == (('drive-7', 7, 0.0, ''),)
    sent, robot.now = robot.now, robot.now + SECOND
    assert sent == 100 * SECOND + CONFIRM_AFTER
    robot.core.report_answered(Code.OK, robot.now)
    assert robot.core.next_deadline() == sent + DRIVE.lease // 3
    assert robot.step().report
    robot.core.report_answered(Code.NO_QUORUM, robot.now)
    everything = robot.until(sent + DRIVE.lease - DRIVE.lease // 100 - 1, Code.NO_QUORUM)
    assert everything.report and not everything.cancels
    assert robot.until(robot.now + 1, Code.NO_QUORUM).cancels == [KEY]


def test_an_attempt_that_was_never_confirmed_is_believed_in_for_half_its_lease() -> None:
    robot = Robot(DRIVE).running()
    assert not robot.until(100 * SECOND + DRIVE.lease // 2 - 1, Code.NO_QUORUM).cancels
    assert robot.until(robot.now + 1, Code.NO_QUORUM).cancels == [KEY]
    robot.core.ended(KEY, Outcome.CANCELED, '', '', robot.now)
    finish, = robot.take().finishes
    assert finish.outcome == Outcome.FAILED, 'nobody asked for the end of the task'
    assert 'lease' in finish.message


def test_a_report_without_an_answer_does_not_keep_the_lease() -> None:
    robot = Robot(DRIVE).running()
    assert robot.step().report
    cancels = robot.until(200 * SECOND).cancels
    assert cancels == [KEY]


def test_progress_is_told_once_a_second_for_all() -> None:
    other = replace(DRIVE, task_id='drive-8')      # given by the same entry
    robot = Robot(DRIVE, other).running()
    robot.until(102 * SECOND)
    for step in range(10):
        robot.core.feedback(KEY, step / 10, f'step {step}')
    begun = robot.now
    report = robot.until(begun + PROGRESS_PERIOD).report
    assert report and report.reports == (('drive-7', 7, 0.9, 'step 9'), ('drive-8', 7, 0.0, ''))
    robot.core.feedback(other.key, float('nan'), 'é' * MAX_NAME)
    report = robot.until(robot.now + PROGRESS_PERIOD).report
    assert report and report.reports[1][2] == 0.0 and len(report.reports[1][3].encode()) <= MAX_NAME
    report.check()


def test_a_cancel_that_was_asked_for_ends_as_canceled() -> None:
    robot = Robot(DRIVE).running()
    wanted = replace(DRIVE, cancel_requested=True)
    robot.give(wanted)
    assert robot.take().cancels == [KEY]
    robot.give(wanted)
    assert not robot.take().cancels
    robot.core.ended(KEY, Outcome.CANCELED, '', '', robot.now)
    assert robot.take().finishes[0].outcome == Outcome.CANCELED


def test_a_worker_that_had_finished_before_the_cancel_came_has_succeeded() -> None:
    robot = Robot(replace(DRIVE, cancel_requested=False)).running()
    robot.give(replace(DRIVE, cancel_requested=True))
    robot.core.ended(KEY, Outcome.SUCCEEDED, '1', '', robot.now)
    assert robot.take().finishes[0].outcome == Outcome.SUCCEEDED


def test_a_cancel_before_the_worker_has_answered_is_sent_again_when_it_has() -> None:
    robot = Robot(DRIVE)
    robot.give(replace(DRIVE, cancel_requested=True))
    assert robot.take().cancels == [KEY]
    robot.core.accepted(KEY, robot.now)
    assert robot.take().cancels == [KEY]


def test_what_is_taken_away_is_stopped_and_its_end_is_told() -> None:
    robot = Robot(DRIVE).running()
    robot.give()
    assert robot.take().cancels == [KEY]
    assert robot.core.next_deadline() is None, 'no report renews it'
    robot.core.ended(KEY, Outcome.CANCELED, '', '', robot.now)
    finish, = robot.take().finishes
    assert finish.outcome == Outcome.FAILED and 'lease has ended' in finish.message
    robot.core.finish_answered(KEY, Answer(Code.WRONG_TOKEN), robot.now)
    assert len(robot.core) == 0


def test_a_report_that_names_attempts_that_are_over_renews_the_others() -> None:
    other = replace(DRIVE, task_id='drive-8')
    robot = Robot(DRIVE, other).running()
    assert robot.step().report
    robot.give(other)
    robot.core.report_answered(Code.WRONG_TOKEN, robot.now)
    assert robot.take().cancels == [KEY]
    assert robot.core.next_deadline() == robot.now + other.lease // 3


def test_a_worker_that_answers_late_is_stopped() -> None:
    robot = Robot(DRIVE)
    robot.take()
    effects = robot.until(robot.now + ACCEPT_TIMEOUT)
    assert effects.cancels == [KEY] and effects.finishes[0].outcome == Outcome.REJECTED
    robot.core.accepted(KEY, robot.now)
    assert robot.take().cancels == [KEY]


@pytest.mark.parametrize('running', [False, True])
def test_a_worker_that_vanishes_fails_its_attempts_after_a_grace(running: bool) -> None:
    robot = Robot(DRIVE).running() if running else Robot(DRIVE, workers=())
    gone = robot.now
    robot.core.workers(frozenset(), robot.now)
    assert not robot.until(gone + WORKER_GRACE - 1).finishes
    finish, = robot.until(gone + WORKER_GRACE).finishes
    assert finish.outcome == Outcome.FAILED and "'drive', has gone" in finish.message


def test_a_worker_that_was_lost_sight_of_for_a_moment_goes_on() -> None:
    robot = Robot(DRIVE).running()
    robot.core.workers(frozenset(), robot.now)
    robot.until(robot.now + WORKER_GRACE - 1)
    robot.core.workers(frozenset({'drive'}), robot.now)
    assert not robot.until(robot.now + 10 * WORKER_GRACE).finishes


@pytest.mark.parametrize(('result', 'words'), [('{', 'not JSON'), ('"' + 'x' * MAX_JSON + '"', 'bytes')])
def test_a_result_that_cannot_be_kept_is_a_failure_that_says_so(result: str, words: str) -> None:
    robot = Robot(DRIVE).running()
    robot.core.ended(KEY, Outcome.SUCCEEDED, result, '', robot.now)
    finish, = robot.take().finishes
    assert finish.outcome == Outcome.FAILED and words in finish.message
    finish.check()


def test_a_member_that_takes_no_part_stops_everything() -> None:
    robot = Robot(DRIVE).running()
    robot.core.abandon()
    assert robot.take().cancels == [KEY] and robot.core.next_deadline() is None


def test_texts_are_cut_between_characters() -> None:
    assert shortened('aé' * 3, 3) == 'aé' and shortened('aé' * 3, 5) == 'aéa'
    assert shortened('\ud800', 3) == '?'
