# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Which robot is asked, when to ask another, and when to give up: the client's core, without ROS.

A request that changes something carries a request id of the client's own session, so that it may be
sent again, through any robot, and still happens once. Calls, answers, the robots that can be reached
and time (nanoseconds) go in; `take_sends` hands out what the shell must send.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from muster.cluster.client.errors import FleetError, FleetUnavailable, OutcomeUnknown, RequestRefused
from muster.cluster.state.commands import Code

MILLISECOND = 1_000_000
#: A robot that was silent for this long is asked whether it is there, and given as long to answer.
PATIENCE = 500 * MILLISECOND
#: For how long a robot is asked only if no other is there, after what it did.
AVOID_SILENT, AVOID_REFUSING = 5000 * MILLISECOND, 500 * MILLISECOND
#: A robot that lives answers within its request_timeout; beyond this the request or answer was lost.
ANSWER_LIMIT = 10_000 * MILLISECOND
#: Pause before a request that was put off is sent again.
PAUSE = 50 * MILLISECOND
#: Answers that say that nothing happened and that another robot, or a later time, may do better.
TRY_ELSEWHERE = frozenset((Code.NO_QUORUM, Code.BUSY, Code.INACTIVE))


class Done(NamedTuple):
    """How a call ended: with a response or an error; `since` is when it was first sent."""

    response: Any
    error: FleetError | None
    since: int


@dataclass(eq=False)
class Call:
    """One request of the client's user, however often it is sent."""

    service: str
    request: Any
    deadline: int                      # it is given up then
    done: Callable[[Done], None]
    changes: bool = True               # the request has a request_id
    wait: int = 0                      # how long the cluster may let it wait for a lock
    #: Completes the request before each time that it is sent, given the time.
    prepare: Callable[[int], None] = lambda now: None
    robot: str = field(default='', init=False)         # that was asked last and has not answered
    since: int = field(default=0, init=False)          # when it was first sent under its present id
    sent_at: int = field(default=0, init=False)
    resume_at: int = field(default=0, init=False)      # when to send it again, where no robot has it
    session: str = field(default='', init=False)
    uncertain: bool = field(default=False, init=False)  # an earlier sending may have been executed
    reason: str = field(default='no robot of the cluster was found', init=False)


class Send(NamedTuple):
    """Something to send; `call` is None where only a sign of life is asked for."""

    robot: str
    call: Call | None


class Requests:
    """All requests of one client."""

    def __init__(self, preferred: str, opening: Callable[[], Any], generator: Random,
                 patience: int = PATIENCE) -> None:
        """Ask the robot `preferred` first; `opening()` returns a request for the service open_session."""
        self._preferred, self._opening = preferred, opening
        self._random, self._patience = generator, patience
        self._robots: frozenset[str] = frozenset()
        self._calls: dict[Call, None] = {}
        self._session, self._sequence = '', 0
        self._opener: Call | None = None
        self._avoid: dict[str, int] = {}
        self._heard: dict[str, int] = {}
        self._asked: dict[str, int] = {}      # for a sign of life, and not heard since
        self._sends: list[Send] = []
        self._due = 0

    def next_deadline(self) -> int | None:
        """Return when `advance` must be called at the latest."""
        return self._due if self._calls else None

    def take_sends(self) -> list[Send]:
        """Return what is to be sent, once."""
        sends, self._sends = self._sends, []
        return sends

    # What happens ------------------------------------------------------------------------------
    def add(self, call: Call, now: int) -> None:
        """Take in a call; its `done` is called once."""
        if not self._calls:
            self._due = now + self._patience
        self._calls[call] = None
        self._due = min(self._due, call.deadline)
        self._dispatch(call, now)

    def robots(self, ready: frozenset[str], now: int) -> None:
        """Learn which robots can be asked."""
        gone, self._robots = self._robots - ready, ready
        for call in list(self._calls):
            if call.robot in gone:
                self._unanswered(call, f"'{call.robot}' has gone", now)
            elif not call.robot:
                self._dispatch(call, now)

    def explain(self, reason: str) -> None:
        """Learn why no robot can be asked, for the calls that were never sent."""
        for call in self._calls:
            if not call.since:
                call.reason = reason

    def fail(self, error: FleetError) -> None:
        """End every call."""
        for call in list(self._calls):
            if call.changes and (call.uncertain or call.robot):
                self._give_up(call)
            else:
                self._finish(call, error=error)

    def alive(self, robot: str, now: int) -> None:
        """Learn that a robot answered something."""
        self._heard[robot] = now
        self._asked.pop(robot, None)

    def answered(self, call: Call, robot: str, response: Any, now: int) -> None:
        """Take in an answer."""
        self.alive(robot, now)
        if call not in self._calls:
            return
        code = response.error_code
        if code in TRY_ELSEWHERE:
            self._avoid[robot] = now + AVOID_REFUSING
            call.robot, call.reason = '', f"'{robot}': {response.message}"
            self._postpone(call, now + self._random.randint(PAUSE // 2, PAUSE))
        elif code == Code.OUTCOME_UNKNOWN:
            self._unanswered(call, f"'{robot}': {response.message}", now)
        elif code == Code.SESSION_EXPIRED and not call.uncertain:
            self._begin_again(call, now)
        elif code == Code.SESSION_EXPIRED:
            self._finish(call, error=OutcomeUnknown(f'{call.service}: {response.message}'))
        elif code == Code.OK:
            self._finish(call, response)
        else:
            self._finish(call, response, RequestRefused(response.message, code))

    def advance(self, now: int) -> None:
        """Do what is due at `now`."""
        for call in list(self._calls):
            if now >= call.deadline:
                self._give_up(call)
            elif not call.robot and now >= call.resume_at:
                self._dispatch(call, now)
            elif call.robot and now - call.sent_at >= call.wait + ANSWER_LIMIT:
                self._unanswered(call, f"'{call.robot}' did not answer", now)
        self._look_for_silence(now)
        self._due = min([now + self._patience // 2, *(c.deadline for c in self._calls),
                         *(c.resume_at for c in self._calls if not c.robot)])

    # Sending -----------------------------------------------------------------------------------
    def _dispatch(self, call: Call, now: int) -> None:
        """Send a call to the best robot; without any, try again later."""
        robot = self._choose(now)
        if robot is None or not self._named(call, now):
            self._postpone(call, now + PAUSE)
            return
        call.robot, call.sent_at, call.since = robot, now, call.since or now
        call.prepare(now)
        self._sends.append(Send(robot, call))

    def _choose(self, now: int) -> str | None:
        """Return a robot that did nothing wrong lately, else the one whose fault is oldest."""
        def rank(robot: str) -> tuple[int, bool, str]:
            return max(now, self._avoid.get(robot, 0)), robot != self._preferred, robot
        return min(self._robots, key=rank, default=None)

    def _postpone(self, call: Call, until: int) -> None:
        call.robot, call.resume_at = '', until
        self._due = min(self._due, until)

    def _unanswered(self, call: Call, reason: str, now: int) -> None:
        """Ask another robot; what was sent before may have been executed."""
        self._avoid[call.robot] = now + AVOID_SILENT
        call.uncertain |= call.changes
        call.reason = reason
        self._dispatch(call, now)

    def _look_for_silence(self, now: int) -> None:
        waited_for = {c.robot for c in self._calls if c.robot and now - c.sent_at >= self._patience}
        for robot in sorted(waited_for):
            asked = self._asked.get(robot)
            if asked is not None and now - asked >= self._patience:
                del self._asked[robot]
                for call in list(self._calls):
                    if call.robot == robot:
                        self._unanswered(call, f"'{robot}' does not answer", now)
            elif asked is None and now - self._heard.get(robot, 0) >= self._patience:
                self._asked[robot] = now
                self._sends.append(Send(robot, None))

    # Sessions ----------------------------------------------------------------------------------
    def _named(self, call: Call, now: int) -> bool:
        """Give a call its request id; only an open session lets requests overtake one another."""
        if not call.changes or call.session:
            return True
        if not self._session:
            self._open_session(now)
            return False
        self._sequence += 1
        call.session = self._session
        call.request.request_id = f'{call.session}:{self._sequence}'
        return True

    def _open_session(self, now: int) -> None:
        if self._opener is not None:
            return

        def opened(done: Done) -> None:
            self._opener = None
            if done.error is None:
                self._session, self._sequence = done.response.session, 0
                for waiting in self._calls:
                    if waiting.changes and not waiting.session:
                        waiting.resume_at = self._due = 0

        self._opener = Call('open_session', self._opening(), now + 20 * self._patience, opened, changes=False)
        self.add(self._opener, now)

    def _begin_again(self, call: Call, now: int) -> None:
        """Name a call anew: the session has expired, and the call was never executed under it."""
        if call.session == self._session:
            self._session = ''
        call.session, call.since = '', 0
        self._dispatch(call, now)

    # Ends --------------------------------------------------------------------------------------
    def _give_up(self, call: Call) -> None:
        if call.uncertain or (call.changes and call.robot):
            why = call.reason if call.uncertain else f"it was sent to '{call.robot}'"
            self._finish(call, error=OutcomeUnknown(
                f'{call.service} was not confirmed in time ({why}): it may or may not happen'))
        else:
            self._finish(call, error=FleetUnavailable(
                f'{call.service} could be done by no robot in time ({call.reason}); nothing was changed'))

    def _finish(self, call: Call, response: Any = None, error: FleetError | None = None) -> None:
        del self._calls[call]
        call.robot = ''
        call.done(Done(response, error, call.since))
