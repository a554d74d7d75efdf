# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What members say to one another, and how it looks on the wire.

A message is a fixed header, a MessagePack body and an authentication tag:

    magic "MU" | version u8 | flags u8 | tag length u8 | body | tag

The tag is empty until members authenticate one another; flags are 0. The body is an array
[cluster id, sender id, sender incarnation, receiver id, receiver incarnation, kind, [fields...]].
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
import re
import struct
from typing import Any, NamedTuple

import msgpack

from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import (
    Append,
    AppendReply,
    Entry,
    Kind,
    Member,
    Message,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    Vote,
    VoteRequest,
)

MAGIC = b'MU'
VERSION = 2
HEADER = struct.Struct('<2sBBB')
#: The encapsulation of a serialised ROS message, and the length of its only field, `uint8[] data`.
_CDR = struct.Struct('<4sI')
_LITTLE_ENDIAN, _BIG_ENDIAN = b'\0\1\0\0', b'\0\0'
#: Largest message on the wire.
MAX_BYTES = 64 * 1024
#: Largest snapshot that a member takes in.
MAX_SNAPSHOT = 256 << 20
#: Ids of members become names of topics; the receiver of a broadcast has none.
MAX_CLUSTER_ID = 64
MEMBER_ID = re.compile(r'[A-Za-z][A-Za-z0-9_]{0,63}')


class Hello(NamedTuple):
    """Who is here: broadcast while looking for a cluster, and now and then by its members."""

    listed: tuple[str, ...]  # the founding members this one was told; empty outside `members`
    automatic: bool          # it would join or found a cluster by itself
    leader: str              # id of the leader it knows, empty where none


class Join(NamedTuple):
    """A request to be taken in as a learner."""


class Forward(NamedTuple):
    """Commands for the leader to propose; what became of them is seen when they are applied."""

    commands: tuple[bytes, ...]


class JoinRefused(NamedTuple):
    """The leader's answer to a Join that it will not grant."""

    reason: str


class Read(NamedTuple):
    """A member asks the leader how far it must have applied to answer these reads (thesis 6.4)."""

    contexts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReadAt:
    """The leader's answer: as soon as `index` is applied."""

    contexts: tuple[int, ...]
    index: int


class Remove(NamedTuple):
    """An operator's request to remove a robot from the cluster; that it happened is seen in the log."""

    id: str


class Transfer(NamedTuple):
    """An operator's request that the leader hands over, to whom it likes where `to` is empty."""

    to: str


Body = Message | Hello | Join | JoinRefused | Forward | Read | ReadAt | Remove | Transfer


class Packet(NamedTuple):
    """One message with its envelope; a broadcast has the receiver Member('', 0)."""

    cluster_id: str
    sender: Member
    receiver: Member
    body: Body


EVERYBODY = Member('', 0)
_KINDS: dict[int, Any] = {1: VoteRequest, 2: Vote, 3: Append, 4: AppendReply, 5: TimeoutNow,
                          6: SnapshotChunk, 7: SnapshotReply, 10: Hello, 11: Join, 12: Forward,
                          13: JoinRefused, 14: Read, 15: ReadAt, 16: Remove, 17: Transfer}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_ENTRIES = {int(kind): kind for kind in Kind}
#: Numbers on the wire are below it.
_LIMIT = 2**63


class Rejected(ValueError):
    """A message that cannot be taken in; the text says why."""


def wrapped(data: bytes) -> bytes:
    """Return the serialised ClusterPacket that carries a message, as XCDR1 has it."""
    return _CDR.pack(_LITTLE_ENDIAN, len(data)) + data


def unwrapped(message: bytes) -> bytes:
    """Return the message that a serialised ClusterPacket carries; raise Rejected where it is none."""
    if len(message) < _CDR.size or message[:2] not in (_LITTLE_ENDIAN[:2], _BIG_ENDIAN):
        raise Rejected(f'{message[:8]!r} begins no serialised packet')
    length = int.from_bytes(message[4:8], 'big' if message[:2] == _BIG_ENDIAN else 'little')
    if len(message) < _CDR.size + length:
        raise Rejected(f'a packet of {length} bytes that ends after {len(message) - _CDR.size}')
    return message[_CDR.size:_CDR.size + length]


def encode(packet: Packet) -> bytes:
    """Return the bytes of a message."""
    envelope = _sealed(packet.cluster_id, packet.sender, packet.receiver, _NUMBERS[type(packet.body)])
    return envelope + _contents.pack(packet.body)


@lru_cache(maxsize=1024)
def _sealed(cluster_id: str, sender: Member, receiver: Member, number: int) -> bytes:
    """Return a message up to its body: the same for all messages of a kind from one to another."""
    parts = msgpack.packb([cluster_id, *sender, *receiver, number, None])
    return HEADER.pack(MAGIC, VERSION, 0, 0) + parts[:-1]  # the body takes the place of None


class _Contents:
    """Packs bodies; the same append goes to every follower and is packed once."""

    def __init__(self) -> None:
        self._last: tuple[Append | None, bytes] = None, b''

    def pack(self, body: Body) -> bytes:
        """Return the fields of a body."""
        if not isinstance(body, Append):
            return msgpack.packb(body if isinstance(body, tuple) else
                                 [getattr(body, field) for field in body.__slots__])
        last, packed = self._last
        if body != last:  # entries are compared by identity first
            packed = msgpack.packb(body)
            self._last = body, packed
        return packed


_contents = _Contents()


def decode(data: bytes) -> Packet:
    """Read a message; raise Rejected where it is not one of this protocol."""
    if len(data) > MAX_BYTES:
        raise Rejected(f'a message of {len(data)} bytes, at most {MAX_BYTES} are allowed')
    if len(data) < HEADER.size:
        raise Rejected(f'a message of {len(data)} bytes is too short')
    magic, version, flags, tag_length = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise Rejected('not a message of Muster')
    if version != VERSION:
        raise Rejected(f'protocol version {version}, this member speaks {VERSION}: update the older one')
    if flags or tag_length:
        raise Rejected('an authenticated or flagged message, which this version does not know: update it')
    try:
        *envelope, number, fields = msgpack.unpackb(
            memoryview(data)[HEADER.size:], use_list=False, max_ext_len=0)
        packet = Packet(*_opened(*envelope), _body(_KINDS[number], fields))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise Rejected(f'malformed message: {type(error).__name__} {error}'[:200]) from error
    return packet


@lru_cache(maxsize=1024, typed=True)
def _opened(cluster_id: str, sender: str, incarnation: int, receiver: str,
            receiver_incarnation: int) -> tuple[str, Member, Member]:
    """Check who says something to whom; raise ValueError or TypeError."""
    _check(str, cluster_id, sender, receiver)
    _check(int, incarnation, receiver_incarnation)
    if len(cluster_id) > MAX_CLUSTER_ID:
        raise ValueError(f'an id of a cluster has at most {MAX_CLUSTER_ID} characters')
    for name in (sender, receiver or sender):
        if not MEMBER_ID.fullmatch(name):
            raise ValueError(f'{name!r:.80} is no id of a member')
    return cluster_id, Member(sender, incarnation), Member(receiver, receiver_incarnation)


def _body(kind: Any, fields: tuple[Any, ...]) -> Any:
    if kind is Append:
        term, previous_index, previous_term, commit, rows, number, stored = fields
        _check(int, term, previous_index, previous_term, commit, number, stored)
        return Append(term, previous_index, previous_term, commit, _entries(rows, previous_index + 1),
                      number, stored)
    if kind is Hello:
        listed, automatic, leader = fields
        _check(str, *listed, leader)
        return Hello(tuple(listed[:64]), bool(automatic), leader)
    if kind is Forward:
        commands, = fields
        _check(bytes, *commands)
        return Forward(tuple(commands))
    if kind is Read or kind is ReadAt:
        contexts, *index = fields
        _check(int, *contexts, *index)
        return kind(tuple(contexts), *index)
    if kind is SnapshotChunk:
        return _chunk(*fields)
    if kind in (JoinRefused, Remove, Transfer):
        _check(str, *fields)
    else:
        _check(int, *fields)  # bool is an int
    return kind(*fields)


def _chunk(term: int, index: int, snapshot_term: int, configuration: bytes, size: int, offset: int,
           data: bytes) -> SnapshotChunk:
    _check(int, term, index, snapshot_term, size, offset)
    _check(bytes, configuration, data)
    Configuration.decode(configuration)
    if size > MAX_SNAPSHOT or offset + len(data) > size:
        raise ValueError(f'a chunk of a snapshot of {size} bytes at {offset}')
    return SnapshotChunk(term, index, snapshot_term, configuration, size, offset, data)


def _entries(rows: tuple[Any, ...], first: int) -> tuple[Entry, ...]:
    """Read the entries of an append, column by column: what is checked at once costs once."""
    if rows == ():
        return ()
    indexes, terms, elapsed, numbers, contents = zip(*rows, strict=True)
    if indexes != tuple(range(first, first + len(rows))):
        raise ValueError('entries with a gap')
    _check(int, *terms, *elapsed)
    _check(bytes, *contents)
    kinds = [_ENTRIES.get(number) or Kind(number) for number in numbers]
    for kind, data in zip(kinds, contents, strict=True):
        if kind is Kind.CONFIGURATION:
            Configuration.decode(data)
        elif kind is Kind.NOOP:
            data.decode()
    return tuple(map(Entry, range(first, first + len(rows)), terms, elapsed, kinds, contents))


def _check(kind: type, *values: Any) -> None:
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f'{value!r:.40} is not of type {kind.__name__}')
    if kind is int and values and not 0 <= min(values) <= max(values) < _LIMIT:
        raise ValueError(f'a number of {values!r:.80} is out of range')
