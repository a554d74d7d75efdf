# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What members ask of the replicated state, and how it is written into the log.

A command is a MessagePack array
[version, operation, session, sequence, member, run, fields...].
Durations are nanoseconds of cluster time.
"""
from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
import json
import re
from sys import intern
from typing import Any, NamedTuple

import msgpack

from muster.cluster.state.locks import RequestId
from muster.cluster.state.sessions import MEMBER_PREFIX

VERSION = 1
SECOND = 1_000_000_000
#: Bytes of an encoded command; with its envelope it fits in one message between members.
MAX_COMMAND = 48 * 1024
MAX_NAME = 255            # bytes of UTF-8, names of locks, services, owners, members, capabilities
MAX_SESSION = 128         # bytes of UTF-8
MAX_SEQUENCE, MAX_RUN = 2**63 - 1, 2**64 - 1
MIN_LEASE, MAX_LEASE = SECOND // 10, 24 * 3600 * SECOND
MAX_WAIT = 3600 * SECOND
MAX_DELAY = 3600 * SECOND
MIN_TTL, MAX_TTL = SECOND, 24 * 3600 * SECOND
MAX_METADATA = 4096       # bytes of JSON
MAX_CAPABILITIES = 64     # in one operation, and of one service
MAX_CAPACITY = 64         # attempts that one robot executes at once
MAX_TASK_TYPE = 64        # characters
MAX_JSON = 8192           # bytes of a task's payload or result
MAX_TEXT = 1024           # bytes of a message for people
MAX_REQUIRED = 16
MAX_PRIORITY = 255
MAX_ATTEMPTS = 100
MIN_ATTEMPT_LEASE, MAX_ATTEMPT_LEASE = SECOND, 3600 * SECOND
MAX_GRACE = 3600 * SECOND
MAX_DEADLINE = 30 * 24 * 3600 * SECOND
MAX_REPORTS = MAX_CAPACITY

_TASK_TYPE = re.compile('[A-Za-z][A-Za-z0-9_]*', re.ASCII)


class Code(IntEnum):
    """How a request ended; the numbers are those of muster_interfaces/msg/ErrorCode."""

    OK = 0
    INVALID = 1
    NOT_FOUND = 2
    HELD = 3
    WRONG_TOKEN = 4
    NO_QUORUM = 5
    OUTCOME_UNKNOWN = 6
    BUSY = 7
    SESSION_EXPIRED = 8
    INACTIVE = 9
    STORAGE = 10
    INTERNAL = 11
    QUEUED = 100   # not an end: the request waits for a lock


class Health(IntEnum):
    """What the cluster has agreed to think of a member."""

    ALIVE = 1
    SUSPECT = 2
    DEAD = 3


class Outcome(IntEnum):
    """How an attempt at a task ended."""

    SUCCEEDED = 1
    FAILED = 2
    CANCELED = 3
    REJECTED = 4


class Answer(NamedTuple):
    """The answer to a request; times are nanoseconds."""

    code: Code
    message: str = ''
    token: int = 0
    remaining: int = 0
    holder: str = ''
    task_id: str = ''


class Invalid(ValueError):
    """A request that is malformed; the message names the field and what it may be."""


# Operations are immutable values. `check` raises Invalid where a client asked for something that
# cannot be. Decoding does so too: every member must judge a committed command alike, so it depends on
# nothing but the fields; where `check` looks into JSON, decoding leaves it at `check_bounds`.
class Acquire(NamedTuple):
    """
    Take a lock.

    Where the hold expires and is not released, the lock stays closed for `delay`: time for what
    the lost holder has begun to end.
    """

    name: str
    owner: str
    lease: int
    wait: int
    delay: int = 0

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('name', self.name)
        check_text('owner', self.owner, MAX_NAME)
        check_range('lease', self.lease, MIN_LEASE, MAX_LEASE)
        check_range('wait_timeout', self.wait, 0, MAX_WAIT)
        check_range('lock_delay', self.delay, 0, MAX_DELAY)


class Renew(NamedTuple):
    """Start the lease of a held lock anew; lease 0 keeps its length."""

    name: str
    token: int
    lease: int

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('name', self.name)
        check_token(self.token)
        check_range('lease', self.lease, MIN_LEASE if self.lease else 0, MAX_LEASE)


class Release(NamedTuple):
    """Give a lock back."""

    name: str
    token: int

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('name', self.name)
        check_token(self.token)


class Withdraw(NamedTuple):
    """Release what an acquire holds, or end its wait."""

    name: str
    session: str
    sequence: int

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('name', self.name)
        check_text('session', self.session, MAX_SESSION)
        check_count('sequence', self.sequence, 0, MAX_SEQUENCE)


class Abandon(NamedTuple):
    """End the waits that earlier runs of the member served: nobody hears their answers."""

    def check(self) -> None:
        """Return: nothing of it can be wrong."""


class OpenSession(NamedTuple):
    """
    Open a session for requests that happen once; the answer's token, in digits, is its name.

    A request may be repeated at will, this one too: it then opens another session.
    """

    def check(self) -> None:
        """Return: nothing of it can be wrong."""


class Register(NamedTuple):
    """Enter a service into the registry, or replace it; ttl 0 = it stays until its robot dies."""

    robot: str
    name: str
    type: str
    capabilities: tuple[str, ...]
    metadata: str
    ttl: int

    def check(self) -> None:
        """Raise Invalid where a field is out of its range or the metadata is no JSON object."""
        self.check_bounds()
        check_json('metadata', self.metadata, dict)

    def check_bounds(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('robot', self.robot)
        check_name('name', self.name)
        check_text('type', self.type, MAX_NAME)
        check_names('capabilities', self.capabilities, MAX_CAPABILITIES)
        check_text('metadata', self.metadata, MAX_METADATA)
        check_range('time_to_live', self.ttl, MIN_TTL if self.ttl else 0, MAX_TTL)


class Unregister(NamedTuple):
    """Take a service out of the registry."""

    robot: str
    name: str

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('robot', self.robot)
        check_name('name', self.name)


class SetCapabilities(NamedTuple):
    """Say what a robot can do, and how many attempts at tasks at once; capacity 0 leaves it as is."""

    robot: str
    add: tuple[str, ...]
    remove: tuple[str, ...]
    capacity: int

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('robot', self.robot)
        check_names('add', self.add, MAX_CAPABILITIES)
        check_names('remove', self.remove, MAX_CAPABILITIES)
        check_count('capacity', self.capacity, 0, MAX_CAPACITY)


class SubmitTask(NamedTuple):
    """Give the fleet a task; a robot needs `required` and the capability `task:<type>`."""

    type: str
    payload: str
    required: tuple[str, ...] = ()
    priority: int = 0
    deadline: int = 0               # from now on; 0 = none
    max_attempts: int = 3
    lease: int = 10 * SECOND        # of an attempt
    grace: int = 5 * SECOND         # what an attempt has to stop in after its lease

    def check(self) -> None:
        """Raise Invalid where a field is out of its range or the payload is not JSON."""
        self.check_bounds()
        check_json('payload', self.payload)

    def check_bounds(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_task_type(self.type)
        check_text('payload', self.payload, MAX_JSON)
        check_names('required_capabilities', self.required, MAX_REQUIRED)
        check_count('priority', self.priority, 0, MAX_PRIORITY)
        check_range('deadline', self.deadline, 0, MAX_DEADLINE)
        check_count('max_attempts', self.max_attempts, 1, MAX_ATTEMPTS)
        check_range('lease', self.lease, MIN_ATTEMPT_LEASE, MAX_ATTEMPT_LEASE)
        check_range('cancel_grace', self.grace, 0, MAX_GRACE)


class CancelTask(NamedTuple):
    """End a task that waits; ask the robot that executes it to stop."""

    task_id: str

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('task_id', self.task_id)


class ReportTasks(NamedTuple):
    """Renew the leases of the attempts that a robot executes; each (task_id, token, progress, note)."""

    reports: tuple[tuple[str, int, float, str], ...]

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        if not isinstance(self.reports, tuple) or not 1 <= len(self.reports) <= MAX_REPORTS:
            raise Invalid(f'reports must be 1 to {MAX_REPORTS} of (task_id, token, progress, note)')
        for report in self.reports:
            if not isinstance(report, tuple) or len(report) != 4:
                raise Invalid('a report must be (task_id, token, progress, note)')
            task_id, token, progress, note = report
            check_name('task_id', task_id)
            check_token(token)
            # Written so that NaN is refused.
            if type(progress) not in (int, float) or not 0 <= progress <= 1:
                raise Invalid(f'progress must be within 0 and 1, not {progress!r:.40}')
            check_text('note', note, MAX_NAME)


class FinishTask(NamedTuple):
    """Say how an attempt ended; outcome is one of Outcome."""

    task_id: str
    token: int
    outcome: int
    result: str
    message: str

    def check(self) -> None:
        """Raise Invalid where a field is out of its range or the result is not JSON."""
        self.check_bounds()
        if self.result:
            check_json('result', self.result)

    def check_bounds(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('task_id', self.task_id)
        check_token(self.token)
        check_count('outcome', self.outcome, min(Outcome), max(Outcome))
        check_text('result', self.result, MAX_JSON)
        check_text('message', self.message, MAX_TEXT)


class SetHealth(NamedTuple):
    """Agree on how a member is; health is one of Health. The leader proposes it."""

    member: str
    incarnation: int
    health: int

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('member', self.member)
        check_count('incarnation', self.incarnation, 0, 2**64 - 1)
        check_count('health', self.health, min(Health), max(Health))


Operation = (Acquire | Renew | Release | Withdraw | Abandon | OpenSession | Register | Unregister
             | SetCapabilities | SubmitTask | CancelTask | ReportTasks | FinishTask | SetHealth)
_NUMBERS: dict[type[Operation], int] = {
    Acquire: 1, Renew: 2, Release: 3, Withdraw: 4, Abandon: 6, OpenSession: 7, Register: 8,
    Unregister: 9, SetCapabilities: 10, SubmitTask: 11, CancelTask: 12, ReportTasks: 13, FinishTask: 14,
    SetHealth: 15}
_OPERATIONS: dict[int, tuple[type[Operation], Callable[[Any], None]]] = {
    number: (kind, getattr(kind, 'check_bounds', kind.check)) for kind, number in _NUMBERS.items()}


class Command(NamedTuple):
    """An operation, the request that makes it happen once, and who serves its client."""

    operation: Operation
    request: RequestId
    member: str
    run: int         # tells the runs of the member's process apart

    def encode(self) -> bytes:
        """Return the bytes that go into the log."""
        operation = self.operation
        return msgpack.packb((VERSION, _NUMBERS[type(operation)], *self.request, self.member, self.run,
                              *operation))


def decode(data: bytes) -> Command:
    """Read a command; raise Invalid where it is of another version, too long or malformed."""
    if len(data) > MAX_COMMAND:
        raise Invalid(f'a command of {len(data)} bytes, at most {MAX_COMMAND} are allowed')
    try:
        version, number, session, sequence, member, run, *values = msgpack.unpackb(data, use_list=False)
        # Numbers must be numbers: True is no version, and what cannot be hashed is not looked up.
        if type(version) is not int or type(number) is not int or version != VERSION or \
                number not in _OPERATIONS:
            raise Invalid(f'command version {version!r:.20} operation {number!r:.20} is not known here: '
                          'update this member')
        kind, check = _OPERATIONS[number]
        operation = kind(*values)
        check(operation)
    except Invalid:
        raise
    # What msgpack raises for malformed data is all of these; a wrong number of fields is TypeError.
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise Invalid(f'malformed command: {error}') from error
    check_text('session', session, MAX_SESSION)
    check_text('member', member, MAX_NAME)
    if type(sequence) is not int or type(run) is not int or \
            not 0 <= sequence <= MAX_SEQUENCE or not 0 <= run <= MAX_RUN:
        raise Invalid('the numbers of a request and of a run are whole and not negative')
    # The same few names come with every command, and many are kept.
    return Command(operation, (intern(session), sequence), intern(member), run)


def parse_request_id(text: str) -> RequestId | None:
    """Read "<session>:<sequence>"; an empty text is None; raise Invalid where it is malformed."""
    if not text:
        return None
    session, _, number = text.rpartition(':')
    if not session or not number.isascii() or not number.isdigit() or not 1 <= int(number[:20]) < 2**63:
        raise Invalid(f"request_id '{text[:160]}' must be '<session>:<sequence>', "
                      'the sequence counting from 1')
    check_text('session of request_id', session, MAX_SESSION)
    if session.startswith(MEMBER_PREFIX):
        raise Invalid(f"a session of request_id must not begin with '{MEMBER_PREFIX}': "
                      "those are the members' own")
    return session, int(number)


def check_name(field: str, value: Any) -> None:
    """Raise Invalid where a name is empty or too long."""
    if type(value) is str and 0 < len(value) <= MAX_NAME and value.isascii():
        return
    if value == '':
        raise Invalid(f'{field} is empty: give a name of 1 to {MAX_NAME} bytes')
    check_text(field, value, MAX_NAME)


def check_text(field: str, value: Any, most: int) -> None:
    """Raise Invalid where a text is too long or not UTF-8."""
    if type(value) is str and len(value) <= most and value.isascii():
        return
    if not isinstance(value, str):
        raise Invalid(f'{field} must be text')
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise Invalid(f'{field} is not valid UTF-8') from None
    if size > most:
        raise Invalid(f'{field} has {size} bytes, at most {most} are allowed')


def check_names(field: str, values: Any, most: int) -> None:
    """Raise Invalid where a tuple of names is too long, names one twice or holds a wrong one."""
    if not isinstance(values, tuple):
        raise Invalid(f'{field} must be a list of names')
    if len(values) > most:
        raise Invalid(f'{field} has {len(values)} names, at most {most} are allowed')
    for value in values:
        check_name(f'a name in {field}', value)
    if len(set(values)) < len(values):
        raise Invalid(f'{field} has a name twice')


def check_task_type(value: Any) -> None:
    """Raise Invalid where the type of a task cannot be part of the name of its action, tasks/<type>."""
    if not isinstance(value, str) or len(value) > MAX_TASK_TYPE or not _TASK_TYPE.fullmatch(value):
        raise Invalid(f"type '{value!s:.80}' must be 1 to {MAX_TASK_TYPE} letters, digits and underscores, "
                      'a letter first: it is part of the name of an action')


def check_json(field: str, value: str, kind: type = object) -> None:
    """Raise Invalid where a text is not JSON, or with `kind` dict no object."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Invalid(f'{field} is not JSON: {error}') from None
    if not isinstance(found, kind):
        raise Invalid(f'{field} must be a JSON object, as {{"port": 8080}}')


def check_token(value: Any) -> None:
    """Raise Invalid where a fencing token cannot be one."""
    if type(value) is not int or not 0 < value < 2**64:
        raise Invalid('fencing_token must be the positive number that was answered with the hold or attempt')


def check_count(field: str, value: Any, least: int, most: int) -> None:
    """Raise Invalid where a whole number is out of its range."""
    if type(value) is int and least <= value <= most:
        return
    if not isinstance(value, IntEnum) or not least <= value <= most:
        raise Invalid(f'{field} must be a whole number within {least} and {most}, not {value!r:.40}')


def check_range(field: str, value: Any, least: int, most: int) -> None:
    """Raise Invalid where a duration in nanoseconds is out of its range."""
    if type(value) is not int or not least <= value <= most:
        shown = value / SECOND if type(value) is int else f'{value!r:.40}'
        raise Invalid(f'{field} must be within {least / SECOND:g} s and {most / SECOND:g} s, '
                      f'not {shown} s')
