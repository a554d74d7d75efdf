# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Commands of the replicated state: what is written into the log and read from it."""
from __future__ import annotations

from typing import Any, get_args

from hypothesis import example, given, settings, strategies as st
import msgpack
from muster.cluster.raft.types import Entry, Kind
from muster.cluster.state.commands import (
    Abandon,
    Acquire,
    CancelTask,
    Command,
    decode,
    FinishTask,
    Health,
    Invalid,
    MAX_COMMAND,
    OpenSession,
    Operation,
    Outcome,
    parse_request_id,
    Register,
    Release,
    Renew,
    ReportTasks,
    SetCapabilities,
    SetHealth,
    SubmitTask,
    Unregister,
    Withdraw,
)
from muster.cluster.state.machine import StateMachine
import pytest

SECOND = 1_000_000_000
OPERATIONS: list[Operation] = [
    Acquire('dock', 'a', SECOND, 5, 7 * SECOND), Renew('dock', 1, 0), Release('dock', 2**63),
    Withdraw('dock', 's', 3), Abandon(), OpenSession(),
    Register('r1', 'map', 'map_server', ('maps', 'floor 2'), '{"port": 80}', 30 * SECOND),
    Unregister('r1', 'map'), SetCapabilities('r1', ('task:sweep', 'gripper'), ('camera',), 4),
    SubmitTask('sweep', '{"room": 3}', ('gripper',), 200, 3600 * SECOND, 5, 2 * SECOND, SECOND),
    CancelTask('sweep-7'), ReportTasks((('sweep-7', 9, 0.5, 'half'), ('sweep-8', 9, 1.0, ''))),
    FinishTask('sweep-7', 9, Outcome.FAILED, '{}', 'no floor'), SetHealth('r1', 2**64 - 1, Health.DEAD)]
COMMANDS = [Command(operation, ('s', 4), 'r1', 2**63 - 1) for operation in OPERATIONS]
SUBMIT, FINISH = SubmitTask('a', '{}'), FinishTask('a-1', 1, 1, '', '')
REGISTER = Register('r', 'n', '', (), '{}', 0)


def test_every_operation_is_tried_here() -> None:
    assert {type(operation) for operation in OPERATIONS} == set(get_args(Operation))


@pytest.mark.parametrize('command', COMMANDS, ids=lambda c: type(c.operation).__name__)
def test_every_command_comes_back(command: Command) -> None:
    command.operation.check()
    again = decode(command.encode())
    assert again == command and type(again.operation) is type(command.operation)
    assert decode(again.encode()) == command


def test_commands_are_small() -> None:
    """Every byte goes over the network to every member and to every disk."""
    sizes = {type(c.operation): len(Command(c.operation, ('1234', 17), 'robot_1', 2**62).encode())
             for c in COMMANDS}
    assert sizes[Acquire] <= 55 and sizes[Release] <= 45 and sizes[ReportTasks] <= 75


@settings(max_examples=150)
@given(st.binary(max_size=80))
@example(b'\xc1')
@example(b'\x81\x90\x01')                # a map whose key cannot be hashed
@example(b'\x91' * 5000)                 # nested without end
@example(msgpack.packb([[], 1, 's', 1, 'r', 1]))
@example(msgpack.packb([True, 6, 's', 1, 'r', 1]))
@example(msgpack.packb([1, 6, 's', 1, 'r', 1, 'too many']))
@example(msgpack.packb([1, 99, 's', 1, 'r', 1]))
@example(msgpack.packb([2, 6, 's', 1, 'r', 1]))
def test_arbitrary_commands_are_invalid(data: bytes) -> None:
    with pytest.raises(Invalid):
        decode(data)


def test_a_command_that_is_too_long_is_invalid() -> None:
    with pytest.raises(Invalid, match='at most'):
        decode(b'\0' * (MAX_COMMAND + 1))


def changed(data: bytes, place: int, value: int) -> bytes:
    """Return the bytes with one of them changed."""
    place %= len(data)
    return data[:place] + bytes([value]) + data[place + 1:]


@settings(max_examples=400)
@given(st.sampled_from(COMMANDS), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
       st.integers(0, 200))
def test_a_damaged_command_is_invalid_or_another_valid_one(
        command: Command, changes: list[tuple[int, int]], cut: int) -> None:
    data = command.encode()
    for change in changes:
        data = changed(data, *change)
    data = data[:-cut] if 0 < cut < 20 else data
    try:
        found = decode(data)
    except Invalid:
        return
    assert decode(found.encode()) == found


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-2**63, 2**64 - 1), st.floats(), st.text(max_size=3),
                   st.binary(max_size=3), st.lists(st.integers(0, 3), max_size=2))


@settings(max_examples=400)
@given(st.sampled_from(COMMANDS), st.integers(0, 12), VALUES)
def test_what_can_be_decoded_can_be_applied(command: Command, place: int, value: Any) -> None:
    """The leader proposes what decodes; nothing of it may stop the members that apply it."""
    fields = msgpack.unpackb(command.encode())
    fields[place % len(fields)] = value
    machine = StateMachine()
    first = Command(Acquire('dock', 'a', SECOND, 0), ('h', 1), 'r1', 1)
    machine.apply(Entry(1, 1, 0, Kind.COMMAND, first.encode()))
    machine.apply(Entry(2, 1, 0, Kind.COMMAND, msgpack.packb(fields)))
    assert machine.applied == 2


@pytest.mark.parametrize(('operation', 'field'), [
    (Acquire('', 'a', SECOND, 0), 'name is empty'),
    (Acquire('x' * 256, 'a', SECOND, 0), 'name has 256 bytes'),
    (Acquire('\ud800', 'a', SECOND, 0), 'not valid UTF-8'), (Acquire('x', 'a', 1, 0), 'lease'),
    (Acquire('x', 'a', SECOND, -1), 'wait_timeout'),
    (Acquire('x', 'a', SECOND, 0, 3601 * SECOND), 'lock_delay'),
    (Renew('x', 0, 0), 'fencing_token'), (Renew('x', 1, 1), 'lease'), (Release('x', 2**64), 'fencing_token'),
    (REGISTER._replace(metadata='[]'), 'metadata must be a JSON object'),
    (REGISTER._replace(metadata='{'), 'metadata is not JSON'), (REGISTER._replace(ttl=1), 'time_to_live'),
    (REGISTER._replace(capabilities=('a', 'a')), 'capabilities has a name twice'),
    (REGISTER._replace(robot=''), 'robot is empty'), (Unregister('r', ''), 'name is empty'),
    (SetCapabilities('r', tuple(map(str, range(65))), (), 0), 'add has 65 names'),
    (SetCapabilities('r', (), (), 65), 'capacity'), (SUBMIT._replace(type='a/b'), "type 'a/b'"),
    (SUBMIT._replace(type='1a'), 'a letter first'), (SUBMIT._replace(payload='nan?'), 'payload is not JSON'),
    (SUBMIT._replace(payload='[' * 8000), 'payload is not JSON'),
    (SUBMIT._replace(payload='"' + 'x' * 8192 + '"'), 'payload has 8194 bytes'),
    (SUBMIT._replace(priority=256), 'priority'), (SUBMIT._replace(max_attempts=0), 'max_attempts'),
    (SUBMIT._replace(lease=SECOND // 2), 'lease'), (SUBMIT._replace(grace=-1), 'cancel_grace'),
    (SUBMIT._replace(deadline=-1), 'deadline'), (CancelTask(''), 'task_id is empty'),
    (ReportTasks(()), 'reports must be'), (ReportTasks((('a-1', 1, float('nan'), ''),)), 'progress'),
    (ReportTasks((('a-1', 1, 1.5, ''),)), 'progress'), (ReportTasks((('a-1', 1, 0.5, 'x' * 256),)), 'note'),
    (FINISH._replace(outcome=5), 'outcome'), (FINISH._replace(result='{'), 'result is not JSON'),
    (FINISH._replace(message='x' * 1025), 'message has'), (SetHealth('r', 1, 4), 'health'),
    (SetHealth('r', -1, 1), 'incarnation')])
def test_what_is_wrong_is_named(operation: Operation, field: str) -> None:
    with pytest.raises(Invalid) as error:
        operation.check()
    assert field in str(error.value)


@pytest.mark.parametrize(('text', 'expected'), [
    ('', None), ('s:1', ('s', 1)), ('a:b:9223372036854775807', ('a:b', 2**63 - 1))])
def test_request_ids_are_read(text: str, expected: Any) -> None:
    assert parse_request_id(text) == expected


@pytest.mark.parametrize('text', ['s', ':1', 's:', 's:0', 's:-1', 's:1.5', 's:٣', 's:9223372036854775808',
                                  's:' + '1' * 5000, '@m:1', 'x' * 129 + ':1', '\ud800:1'])
def test_wrong_request_ids_are_named(text: str) -> None:
    with pytest.raises(Invalid):
        parse_request_id(text)
