# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The wire format: everything comes back as it went, and nothing else does harm."""
from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given, settings, strategies as st
import msgpack
from muster.cluster import protocol
from muster.cluster.protocol import (
    Forward,
    Hello,
    Join,
    JoinRefused,
    Packet,
    Read,
    ReadAt,
    Rejected,
    Remove,
    Transfer,
)
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import (
    Append,
    AppendReply,
    Entry,
    Kind,
    Member,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from muster.cluster.state.commands import Code
from muster.cluster.state.events import EventType
import muster_interfaces.msg
import pytest
from rclpy.serialization import serialize_message

NUMBERS = st.integers(0, 2**63 - 1)
NAMES = st.from_regex(r'[A-Za-z][A-Za-z0-9_]{0,63}', fullmatch=True)
MEMBERS = st.builds(Member, NAMES, NUMBERS)
GROUPS = st.frozensets(MEMBERS, max_size=3)
CONTENTS = st.one_of(
    st.tuples(st.sampled_from((Kind.COMMAND, Kind.CLOCK)), st.binary(max_size=50)),
    st.tuples(st.just(Kind.NOOP), NAMES.map(str.encode)),
    st.tuples(st.just(Kind.CONFIGURATION), st.builds(Configuration, GROUPS, GROUPS, GROUPS).map(
        Configuration.encode)))


@st.composite
def appends(draw: Any) -> Append:
    """Draw an append whose entries follow one another."""
    first = draw(st.integers(0, 2**40))
    contents = draw(st.lists(CONTENTS, max_size=5))
    entries = tuple(Entry(first + i, draw(NUMBERS), draw(NUMBERS), *content)
                    for i, content in enumerate(contents, 1))
    return Append(draw(NUMBERS), first, draw(NUMBERS), draw(NUMBERS), entries, draw(NUMBERS), draw(NUMBERS))


@st.composite
def chunks(draw: Any) -> SnapshotChunk:
    """Draw a chunk that lies within its snapshot."""
    data, offset = draw(st.binary(max_size=60)), draw(st.integers(0, 2**20))
    size = draw(st.integers(offset + len(data), protocol.MAX_SNAPSHOT))
    configuration = draw(st.builds(Configuration, GROUPS, GROUPS, GROUPS)).encode()
    return SnapshotChunk(draw(NUMBERS), draw(NUMBERS), draw(NUMBERS), configuration, size, offset, data)


BODIES = st.one_of(
    appends(), st.builds(AppendReply, NUMBERS, st.booleans(), NUMBERS, NUMBERS),
    st.builds(TimeoutNow, NUMBERS), chunks(), st.builds(SnapshotReply, NUMBERS, NUMBERS, NUMBERS),
    st.builds(Read, st.lists(NUMBERS, max_size=5).map(tuple)), st.builds(Remove, NAMES),
    st.builds(ReadAt, st.lists(NUMBERS, max_size=5).map(tuple), NUMBERS), st.builds(Transfer, NAMES),
    st.builds(VoteRequest, NUMBERS, NUMBERS, NUMBERS, st.booleans(), st.booleans()),
    st.builds(Vote, NUMBERS, st.booleans(), st.booleans()), st.just(Join()),
    st.builds(JoinRefused, st.text(max_size=50)),
    st.builds(Hello, st.lists(NAMES, max_size=9).map(tuple), st.booleans(), st.one_of(st.just(''), NAMES)),
    st.builds(Forward, st.lists(st.binary(max_size=60), max_size=5).map(tuple)))
PACKETS = st.builds(Packet, st.from_regex('[0-9a-f]{0,16}', fullmatch=True), MEMBERS,
                    st.one_of(MEMBERS, st.just(protocol.EVERYBODY)), BODIES)


def row(*fields: Any) -> bytes:
    """Return a message with this envelope, the first six, and these fields."""
    return protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION, 0, 0) + \
        msgpack.packb([*fields[:6], fields[6:]])


@settings(max_examples=60)
@given(PACKETS)
def test_every_message_comes_back(packet: Packet) -> None:
    assert protocol.decode(protocol.encode(packet)) == packet


@settings(max_examples=60, deadline=None)  # the first one loads the type's library
@given(st.binary(max_size=300))
def test_a_packet_is_serialised_as_the_middleware_does_it(data: bytes) -> None:
    message = serialize_message(muster_interfaces.msg.ClusterPacket(data=data))
    assert protocol.wrapped(data) == message
    assert protocol.unwrapped(message) == data
    big_endian = b'\0\0\0\0' + len(data).to_bytes(4, 'big') + data
    assert protocol.unwrapped(big_endian + b'\0\0\0') == data  # some middleware pads at the end


@pytest.mark.parametrize('message', [b'', b'\0\1\0\0\1\0\0', b'\0\1\0\0\2\0\0\0a', b'\0\3\0\0\0\0\0\0'])
def test_what_is_no_serialised_packet_is_rejected(message: bytes) -> None:
    with pytest.raises(Rejected):
        protocol.unwrapped(message)


def test_an_append_for_several_goes_to_each() -> None:
    entries = (Entry(8, 1, 5, Kind.COMMAND, b'x'), Entry(9, 1, 0, Kind.CLOCK, b''))
    receivers = [Member('b', 2), Member('c', 3)]
    bodies = [Append(1, 7, 1, 7, entries), Append(1, 7, 1, 8, entries)]
    packets = [Packet('f', Member('a', 1), receiver, body) for body in bodies for receiver in receivers]
    assert [protocol.decode(protocol.encode(packet)) for packet in packets] == packets


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_rejected(data: bytes) -> None:
    for message in (data, protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION, 0, 0) + data):
        with pytest.raises(Rejected):
            protocol.decode(message)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2**63, 2**64 - 1), st.floats(), st.text(max_size=5),
              st.binary(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4),
                            st.dictionaries(st.text(max_size=3), inner, max_size=3)), max_leaves=8)


@settings(max_examples=200)
@given(st.sampled_from((1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17)), st.lists(VALUES, max_size=7))
def test_arbitrary_fields_are_rejected_or_well_typed(number: int, fields: list[Any]) -> None:
    try:
        packet = protocol.decode(row('c', 'a', 1, 'b', 2, number, *fields))
    except Rejected as error:
        assert len(str(error)) < 400
    else:
        protocol.encode(packet)


@settings(max_examples=100)
@given(PACKETS, st.data())
def test_flipped_bytes_are_rejected_or_well_typed(packet: Packet, data: st.DataObject) -> None:
    message = bytearray(protocol.encode(packet))
    message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(Rejected):
        protocol.encode(protocol.decode(bytes(message)))


@pytest.mark.parametrize(('message', 'names'), [
    (b'', 'too short'), (b'XX\x02\x00\x00', 'not a message'),
    (b'MU\x01\x00\x00', 'protocol version 1'), (b'MU\x00\x00\x00', 'protocol version 0'),
    (b'MU\x02\x01\x00', 'flagged'), (b'MU\x02\x00\x10', 'authenticated'),
    (b'MU\x02\x00\x00' + b'\x00' * protocol.MAX_BYTES, '65541 bytes'),
    (row('c', 'a', 1, 'b', 2, 12), 'malformed'),                          # no commands
    (row('c', 'a', 1, 'b', 2, 99), 'malformed'),                          # no such kind
    (row('c', 'a', 1, 'b', 2, 5, -1), 'malformed'),                       # a negative term
    (row('c', 'a', 1, 'b', 2, 5, 2**64 - 1), 'malformed'),                # a term that has no next one
    (row('c' * 65, 'a', 1, 'b', 2, 11), 'malformed'),
    (row('c', 'a/b', 1, 'b', 2, 11), "'a/b'"), (row('c', '', 1, 'b', 2, 11), "''"),
    (row('c', 'a' * 65, 1, 'b', 2, 11), 'malformed'), (row('c', 'a', 1, '../b', 2, 11), "'../b'"),
    (row('c', 'a', 1, 'b', 2, 3, 1, 1, 1, 1, [[3, 1, 0, 1, b'']], 0, 0), 'gap'),
    (row('c', 'a', 1, 'b', 2, 3, 1, 1, 1, 1, [[2, 1, 0, 1, b''], [3, 1, 0]], 0, 0), 'malformed'),
    (row('c', 'a', 1, 'b', 2, 3, 1, 1, 1, 1, [[2, 1, -1, 1, b'']], 0, 0), 'malformed'),
    (row('c', 'a', 1, 'b', 2, 3, 1, 1, 1, 1, [[2, 1, 0, 77, b'']], 0, 0), 'Kind'),
    (row('c', 'a', 1, 'b', 2, 3, 1, 1, 1, 1, [[2, 1, 0, 1, b'\xff']], 0, 0), 'malformed'),
    (row('c', 'a', 1, 'b', 2, 3, 1, 1, 1, 1, [[2, 1, 0, 2, b'nothing']], 0, 0), 'malformed')])
def test_what_is_wrong_is_named(message: bytes, names: str) -> None:
    with pytest.raises(Rejected, match=names):
        protocol.decode(message)


@pytest.mark.parametrize(('enum', 'kind'), [(Code, 'ErrorCode'), (EventType, 'ClusterEvent')])
def test_numbers_are_those_of_the_interfaces(enum: Any, kind: str) -> None:
    message = getattr(muster_interfaces.msg, kind)
    ours = {e.name: int(e) for e in enum if e.name != 'QUEUED'}   # no end of a request
    assert ours == {name: getattr(message, name) for name in dir(message)
                    if name.isupper() and name != 'SLOT_TYPES'}
