# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What members ask of the replicated state, and how it is written into the log.

A command is a MessagePack array
[version, operation, session, sequence, member, run, fields...].
"""
from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import msgpack

from muster.cluster.state.locks import RequestId
from muster.cluster.state.sessions import MEMBER_PREFIX

VERSION = 1
MAX_NAME = 255            # bytes of UTF-8, names of locks and owners
MAX_SESSION = 128         # bytes of UTF-8
SECOND = 1_000_000_000
MIN_LEASE = SECOND // 10
MAX_LEASE = 24 * 3600 * SECOND
MAX_WAIT = 3600 * SECOND


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


@dataclass(frozen=True)
class Answer:
    """The answer to a request; times are nanoseconds."""

    code: Code
    message: str = ''
    token: int = 0
    remaining: int = 0
    holder: str = ''


class Invalid(ValueError):
    """A request that is malformed; the message names the field and what it may be."""


@dataclass(frozen=True)
class Acquire:
    """Take a lock."""

    name: str
    owner: str
    lease: int
    wait: int

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('name', self.name)
        check_text('owner', self.owner, MAX_NAME)
        check_range('lease', self.lease, MIN_LEASE, MAX_LEASE)
        check_range('wait_timeout', self.wait, 0, MAX_WAIT)


@dataclass(frozen=True)
class Renew:
    """Start the lease of a held lock anew; lease 0 keeps its length."""

    name: str
    token: int
    lease: int

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('name', self.name)
        check_token(self.token)
        if self.lease:
            check_range('lease', self.lease, MIN_LEASE, MAX_LEASE)


@dataclass(frozen=True)
class Release:
    """Give a lock back."""

    name: str
    token: int

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('name', self.name)
        check_token(self.token)


@dataclass(frozen=True)
class Withdraw:
    """Release what an acquire holds, or end its wait."""

    name: str
    session: str
    sequence: int

    def check(self) -> None:
        """Raise Invalid where a field is out of its range."""
        check_name('name', self.name)
        check_text('session', self.session, MAX_SESSION)
        if not isinstance(self.sequence, int):
            raise Invalid('sequence must be a number')


@dataclass(frozen=True)
class Barrier:
    """Do nothing, after everything that was acknowledged before: makes a read linearizable."""

    def check(self) -> None:
        """Accept: there is nothing that could be wrong."""


@dataclass(frozen=True)
class Abandon:
    """End the waits that earlier runs of the member served: nobody hears their answers."""

    def check(self) -> None:
        """Accept: there is nothing that could be wrong."""


Operation = Acquire | Renew | Release | Withdraw | Barrier | Abandon
_NUMBERS: dict[type[Operation], int] = {Acquire: 1, Renew: 2, Release: 3, Withdraw: 4,
                                        Barrier: 5, Abandon: 6}
_OPERATIONS = {number: kind for kind, number in _NUMBERS.items()}


@dataclass(frozen=True)
class Command:
    """An operation, the request that makes it happen once, and who serves its client."""

    operation: Operation
    request: RequestId
    member: str
    run: int         # tells the runs of the member's process apart

    def encode(self) -> bytes:
        """Return the bytes that go into the log."""
        values = [getattr(self.operation, f.name) for f in fields(self.operation)]
        return msgpack.packb([VERSION, _NUMBERS[type(self.operation)], *self.request, self.member,
                              self.run, *values])


def decode(data: bytes) -> Command:
    """Read a command; raise Invalid where it is of another version or malformed."""
    try:
        version, number, session, sequence, member, run, *values = msgpack.unpackb(data)
        if version != VERSION or number not in _OPERATIONS:
            raise Invalid(f'command version {version} operation {number} is not known here: '
                          'update this member')
        operation = _OPERATIONS[number](*values)
        operation.check()
        check_text('session', session, MAX_SESSION)
        check_text('member', member, MAX_NAME)
        if not isinstance(sequence, int) or not isinstance(run, int):
            raise Invalid('sequence and run must be numbers')
        return Command(operation, (session, sequence), member, run)
    except Invalid:
        raise
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise Invalid(f'malformed command: {error}') from error


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


def check_name(field: str, value: str) -> None:
    """Raise Invalid where a name is empty or too long."""
    if not value:
        raise Invalid(f'{field} is empty: give a name of 1 to {MAX_NAME} bytes')
    check_text(field, value, MAX_NAME)


def check_text(field: str, value: Any, most: int) -> None:
    """Raise Invalid where a text is too long or not UTF-8."""
    if not isinstance(value, str):
        raise Invalid(f'{field} must be text')
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise Invalid(f'{field} is not valid UTF-8') from None
    if size > most:
        raise Invalid(f'{field} has {size} bytes, at most {most} are allowed')


def check_token(value: Any) -> None:
    """Raise Invalid where a fencing token cannot be one."""
    if not isinstance(value, int) or not 0 < value < 2**64:
        raise Invalid('fencing_token must be the positive number that acquire_lock answered')


def check_range(field: str, value: Any, least: int, most: int) -> None:
    """Raise Invalid where a duration in nanoseconds is out of its range."""
    if not isinstance(value, int) or not least <= value <= most:
        shown = value / SECOND if isinstance(value, int) else value
        raise Invalid(f'{field} must be within {least / SECOND:g} s and {most / SECOND:g} s, '
                      f'not {shown} s')
