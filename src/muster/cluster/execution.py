# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What a robot does with the attempts at tasks that the cluster gave it: the core, without ROS.

The applied state says which attempts it should execute. Each becomes one goal of an action server,
a worker; while it runs, reports renew its lease, and its end is told until the cluster has answered.
Where the robot cannot be sure that the attempt is still its own, it stops the worker: another robot
may begin. Times are nanoseconds of a clock that goes on while the robot sleeps.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
import math

from muster.cluster.state.commands import (
    Answer,
    Code,
    FinishTask,
    Invalid,
    MAX_NAME,
    MAX_REPORTS,
    MAX_TEXT,
    Outcome,
    ReportTasks,
    SECOND,
)

MILLISECOND = 1_000_000
#: How long a worker may be gone before its attempts have failed.
WORKER_GRACE = 2 * SECOND
#: How long a worker may take to accept a goal.
ACCEPT_TIMEOUT = 5 * SECOND
#: How often progress is told, at most.
PROGRESS_PERIOD = SECOND
#: An attempt that runs for longer than this is confirmed by a report; short ones need none.
CONFIRM_AFTER = SECOND // 4
#: Pause before what the cluster did not confirm is told again.
RETRY_PERIOD = SECOND // 4
#: An attempt: id of its task and fencing token. One entry may give several tasks to robots.
Key = tuple[str, int]
#: A lease is renewed when one part in so many is over, and is believed in for one part in 100 less.
RENEWAL_PART, DRIFT_PART = 3, 100
#: What the cluster may answer to the end of an attempt that it does not know, or not any more.
SETTLED = frozenset((Code.OK, Code.WRONG_TOKEN, Code.NOT_FOUND, Code.INVALID))


@dataclass(frozen=True)
class Assignment:
    """An attempt that the applied state gives to this robot."""

    task_id: str
    token: int
    type: str
    payload: str
    lease: int
    deadline: int              # what is left for the task, 0 = without end
    cancel_requested: bool = False

    @property
    def key(self) -> Key:
        """Return what tells it from every other attempt."""
        return self.task_id, self.token


class Phase(Enum):
    """How far an attempt has come."""

    WAITING = 'for its worker'
    SENT = 'not accepted yet'
    RUNNING = 'in its worker'
    ENDED = 'to be told'
    TOLD = 'until the applied state has noticed'


@dataclass
class _Attempt:
    assignment: Assignment
    phase: Phase
    since: int                 # when the phase began
    base: int                  # from when its lease is counted
    confirmed: bool = False    # a report was answered, so `base` is before the cluster's own count
    progress: float = 0.0
    note: str = ''
    changed: bool = False      # progress or note, since the last report
    stopping: str = ''         # why it was cancelled: 'requested', or what else happened
    gone_since: int = 0        # when its worker was missed
    finish: FinishTask | None = None
    telling: bool = False      # its end is on its way
    assigned: bool = True      # by the applied state, still

    def ends(self) -> int:
        """Return when this robot must stop believing in the attempt's lease."""
        length = self.assignment.lease
        # Nobody knows when an unconfirmed one began: half of it leaves room.
        return self.base + (length + -length // DRIFT_PART if self.confirmed else length // 2)


@dataclass
class Effects:
    """What the shell has to do."""

    goals: list[Assignment] = field(default_factory=list)     # to be sent to their workers
    cancels: list[Key] = field(default_factory=list)          # whose goals are to be cancelled
    finishes: list[FinishTask] = field(default_factory=list)  # to be submitted; `finish_answered` hears
    report: ReportTasks | None = None                         # to be submitted; `report_answered` hears


class Execution:
    """The attempts of one robot."""

    def __init__(self) -> None:
        """Begin without attempts."""
        self._attempts: dict[Key, _Attempt] = {}
        self._workers: frozenset[str] = frozenset()
        self._reporting: list[Key] | None = None   # in the report on its way
        self._report_sent_at = self._retry_report_at = 0
        self._effects = Effects()

    def __len__(self) -> int:
        """Return how many attempts there are."""
        return len(self._attempts)

    def take_effects(self) -> Effects:
        """Return what is to be done, once."""
        effects, self._effects = self._effects, Effects()
        return effects

    # What the cluster says ---------------------------------------------------------------------
    def assigned(self, assignments: Iterable[Assignment], now: int) -> None:
        """Learn all the attempts that the applied state gives to this robot now."""
        present = {a.key: a for a in assignments}
        for key, assignment in present.items():
            attempt = self._attempts.get(key)
            if attempt is None:
                attempt = self._attempts[key] = _Attempt(assignment, Phase.WAITING, now, now)
            attempt.assignment = assignment
            if assignment.cancel_requested:
                self._stop(attempt, 'requested', now)
        for key in [key for key in self._attempts if key not in present]:
            self._taken_away(key, now)
        self._begin(now)

    def _taken_away(self, key: Key, now: int) -> None:
        """Stop an attempt whose lease is over; the cluster still wants to hear when it has ended."""
        attempt = self._attempts[key]
        attempt.assigned = False
        if attempt.phase in (Phase.SENT, Phase.RUNNING):
            self._stop(attempt, 'its lease has ended', now)
        elif attempt.phase in (Phase.WAITING, Phase.TOLD):
            del self._attempts[key]

    def abandon(self) -> None:
        """Stop everything: this robot takes no part in the cluster any more."""
        self._effects.cancels += [a.assignment.key for a in self._running()]
        self._attempts.clear()
        self._reporting = None

    def report_answered(self, code: int, now: int) -> None:
        """
        Learn how the report ended; where it was taken in, the leases began after it was sent.

        `assigned` must have told before what the applied state was when it was answered.
        """
        told, self._reporting = self._reporting or [], None
        # With WRONG_TOKEN some are over, and the applied state has said which: not assigned any more.
        if code not in (Code.OK, Code.WRONG_TOKEN):
            self._retry_report_at = now + RETRY_PERIOD
            return
        for key in told:
            attempt = self._attempts.get(key)
            if attempt is not None and attempt.assigned:
                attempt.base, attempt.confirmed = max(attempt.base, self._report_sent_at), True

    def finish_answered(self, key: Key, answer: Answer, now: int) -> None:
        """Learn how telling the end of an attempt ended; what was not confirmed is told again."""
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        attempt.telling, attempt.since = False, now
        if answer.code in SETTLED:
            attempt.phase = Phase.TOLD
            if not attempt.assigned:
                del self._attempts[key]

    # What the workers say ----------------------------------------------------------------------
    def workers(self, types: frozenset[str], now: int) -> None:
        """Learn for which types of task there is a worker."""
        self._workers = types
        for attempt in self._attempts.values():
            if attempt.assignment.type in types:
                attempt.gone_since = 0
            elif not attempt.gone_since:
                attempt.gone_since = now
        self._begin(now)

    def accepted(self, key: Key, now: int) -> None:
        """Learn that a worker took a goal."""
        attempt = self._attempts.get(key)
        wanted = attempt is not None and attempt.phase == Phase.SENT
        if attempt is not None and wanted:
            attempt.phase, attempt.since = Phase.RUNNING, now
        if attempt is None or not wanted or attempt.stopping:
            self._effects.cancels.append(key)    # what was sent before may have come too early

    def feedback(self, key: Key, progress: float, note: str) -> None:
        """Learn how far a worker is; what cannot be is bounded."""
        attempt = self._attempts.get(key)
        if attempt is not None:
            attempt.progress = min(1.0, max(0.0, progress)) if math.isfinite(progress) else attempt.progress
            attempt.note = shortened(note, MAX_NAME)
            attempt.changed = True

    def ended(self, key: Key, outcome: Outcome, result: str, message: str, now: int) -> None:
        """Learn how a goal ended in its worker."""
        attempt = self._attempts.get(key)
        if attempt is None or attempt.phase not in (Phase.SENT, Phase.RUNNING):
            return
        if outcome == Outcome.CANCELED and attempt.stopping != 'requested':
            outcome, message = Outcome.FAILED, attempt.stopping or message or 'its worker gave it up'
        self._end(attempt, outcome, result, message, now)

    # Time --------------------------------------------------------------------------------------
    def next_deadline(self) -> int | None:
        """Return when `advance` must be called at the latest."""
        due = [d for d in (self._due(a) for a in self._attempts.values()) if d is not None]
        report = self._report_due()
        if report is not None:
            due.append(report)
        return min(due, default=None)

    def advance(self, now: int) -> None:
        """Do what is due at `now`."""
        for attempt in self._attempts.values():
            due = self._due(attempt)
            if due is not None and now >= due:
                self._act(attempt, now)
        report = self._report_due()
        if report is not None and now >= report:
            self._report(now)

    def _due(self, attempt: _Attempt) -> int | None:
        """Return when something must be done about an attempt."""
        gone = attempt.gone_since + WORKER_GRACE if attempt.gone_since else None
        if attempt.phase == Phase.WAITING:
            return gone
        if attempt.phase == Phase.SENT:
            return min(attempt.since + ACCEPT_TIMEOUT, gone or attempt.since + ACCEPT_TIMEOUT)
        if attempt.phase == Phase.RUNNING:
            due = [attempt.ends()] if not attempt.stopping else []
            return min([*due, gone] if gone else due, default=None)
        if attempt.phase == Phase.ENDED and not attempt.telling:
            return attempt.since + RETRY_PERIOD
        return None

    def _act(self, attempt: _Attempt, now: int) -> None:
        if attempt.phase == Phase.ENDED:
            self._tell(attempt, now)
        elif attempt.gone_since and now >= attempt.gone_since + WORKER_GRACE:
            self._effects.cancels.append(attempt.assignment.key)    # it may only have been lost sight of
            self._end(attempt, Outcome.FAILED, '', f"its worker, '{attempt.assignment.type}', has gone", now)
        elif attempt.phase == Phase.SENT:
            self._effects.cancels.append(attempt.assignment.key)
            self._end(attempt, Outcome.REJECTED, '', 'its worker did not take it in time', now)
        else:
            self._stop(attempt, 'its lease could not be renewed', now)

    # Steps -------------------------------------------------------------------------------------
    def _begin(self, now: int) -> None:
        for attempt in self._attempts.values():
            if attempt.phase != Phase.WAITING:
                continue
            if attempt.assignment.type in self._workers:
                attempt.phase, attempt.since = Phase.SENT, now
                self._effects.goals.append(attempt.assignment)
            elif not attempt.gone_since:
                attempt.gone_since = now

    def _stop(self, attempt: _Attempt, why: str, now: int) -> None:
        if attempt.stopping:
            return
        attempt.stopping = why
        if attempt.phase == Phase.WAITING:
            self._end(attempt, Outcome.CANCELED, '', 'canceled before it began', now)
        elif attempt.phase in (Phase.SENT, Phase.RUNNING):
            self._effects.cancels.append(attempt.assignment.key)

    def _end(self, attempt: _Attempt, outcome: Outcome, result: str, message: str, now: int) -> None:
        assignment = attempt.assignment
        finish = FinishTask(assignment.task_id, assignment.token, int(outcome), result,
                            shortened(message, MAX_TEXT))
        try:
            finish.check()
        except Invalid as error:
            finish = FinishTask(assignment.task_id, assignment.token, int(Outcome.FAILED), '', shortened(
                f'its worker answered something that cannot be kept: {error}', MAX_TEXT))
        attempt.phase, attempt.since, attempt.finish = Phase.ENDED, now, finish
        self._tell(attempt, now)

    def _tell(self, attempt: _Attempt, now: int) -> None:
        assert attempt.finish is not None
        attempt.telling, attempt.since = True, now
        self._effects.finishes.append(attempt.finish)

    # Reports -----------------------------------------------------------------------------------
    def _running(self) -> list[_Attempt]:
        return [a for a in self._attempts.values() if a.phase in (Phase.SENT, Phase.RUNNING)]

    def _reported(self) -> list[_Attempt]:
        return [a for a in self._running() if a.assigned][:MAX_REPORTS]

    def _report_due(self) -> int | None:
        """Return when the next report must go: for a lease, a first confirmation, or progress."""
        if self._reporting is not None:
            return None
        due: list[int] = []
        for attempt in self._reported():
            if not attempt.confirmed:
                due.append(attempt.base + min(CONFIRM_AFTER, attempt.assignment.lease // RENEWAL_PART))
            else:
                due.append(attempt.base + attempt.assignment.lease // RENEWAL_PART)
            if attempt.changed:
                due.append(self._report_sent_at + PROGRESS_PERIOD)
        return max(min(due), self._retry_report_at) if due else None

    def _report(self, now: int) -> None:
        """Tell of all that runs in one report: one commit renews every lease."""
        running = self._reported()
        self._effects.report = ReportTasks(tuple(
            (a.assignment.task_id, a.assignment.token, a.progress, a.note) for a in running))
        self._reporting = [a.assignment.key for a in running]
        self._report_sent_at = now
        for attempt in running:
            attempt.changed = False


def shortened(text: str, most: int) -> str:
    """Return a text cut to `most` bytes of UTF-8, without half a character."""
    return text.encode(errors='replace')[:most].decode(errors='ignore')
