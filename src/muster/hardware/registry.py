# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The devices of one robot: their identities, their lives, and the numbered events of these."""
from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, count
from typing import Any

from muster.hardware.devices import Change, Device, DeviceEvent, Report, Status, UNKNOWN

#: Bounds of memory: devices that are there, and devices that are remembered as gone.
MAX_PRESENT = 4096
MAX_GONE = 256
#: Events that are remembered of each device.
MAX_HISTORY = 32
#: Version of what `export` returns.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Past:
    """One event of a device's past; `stamp` is ROS time in nanoseconds."""

    kind: Change
    status: Status
    reason: str
    stamp: int


@dataclass(slots=True)
class _Entry:
    device: Device
    proposed: str                    # the id that the source proposed
    deadline: float | None = None    # a missing device is disconnected, a gone one forgotten, then
    reason: str = ''                 # why it is missing, or `less`
    less: Device | None = None       # what is left of it, where parts of it are missing
    history: deque[Past] = field(default_factory=lambda: deque(maxlen=MAX_HISTORY))


class Registry:
    """
    All devices by id, with an index by type, bus, capability and status.

    It takes reports and the time (`now`: steady seconds, `stamp`: ROS time in nanoseconds) and
    returns the events, numbered from 1 without a gap. A device that is missing for less than
    `grace` seconds never left, and the same holds for parts of it (the kernel takes a device away
    part by part); one that is gone stays listed for `forget_after` seconds.
    """

    def __init__(self, grace: float = 0.5, forget_after: float = 3600.0,
                 max_present: int = MAX_PRESENT) -> None:
        """Begin without devices; those that are there beyond `max_present` are refused and counted."""
        self.grace = grace
        self.forget_after = forget_after
        self.max_present = max_present
        self.sequence = 0
        self.refused = 0
        self._entries: dict[str, _Entry] = {}
        self._held: defaultdict[str, dict[str, str]] = defaultdict(dict)  # source -> key -> id
        self._owners: dict[str, tuple[str, str]] = {}                     # id -> (source, key)
        self._missing: set[str] = set()
        self._lessened: set[str] = set()
        self._gone: dict[str, None] = {}                                  # oldest first
        self._index: defaultdict[tuple[str, object], set[str]] = defaultdict(set)

    def __len__(self) -> int:
        """Return how many devices are listed, gone ones included."""
        return len(self._entries)

    # Asking -----------------------------------------------------------------------------------
    def get(self, identity: str) -> Device | None:
        """Return the device of this id."""
        entry = self._entries.get(identity)
        return entry.device if entry else None

    def history(self, identity: str) -> tuple[Past, ...]:
        """Return what happened to a device, the oldest first; nothing where it is not known."""
        entry = self._entries.get(identity)
        return tuple(entry.history) if entry else ()

    def find(self, type: str = '', bus: str = '', capability: str = '',
             status: Status | None = None) -> list[Device]:
        """Return the devices that match all given filters, in the order of their ids."""
        wanted = [(name, value) for name, value in
                  (('type', type), ('bus', bus), ('capability', capability), ('status', status)) if value]
        if not wanted:
            found = set(self._entries)
        else:
            found = set.intersection(*sorted((self._index.get(key, set()) for key in wanted), key=len))
        return [self._entries[identity].device for identity in sorted(found)]

    def count(self, status: Status) -> int:
        """Return how many devices have a status."""
        return len(self._index.get(('status', status), ()))

    def next_deadline(self) -> float | None:
        """Return when `advance` has something to do, or None."""
        due = [self._entries[identity].deadline for identity in self._missing | self._lessened]
        due += [self._entries[identity].deadline for identity in list(self._gone)[:1]]
        return min((d for d in due if d is not None), default=None)

    # Telling ----------------------------------------------------------------------------------
    def apply(self, report: Report, now: float, stamp: int) -> list[DeviceEvent]:
        """Take a source's report; return what changed."""
        held = self._held[report.source]
        gone = sorted(held.keys() - report.present.keys()) if report.complete else report.gone
        for key in gone:
            if key in held:
                self._miss(report.source, key, now, report.reason)
        return [event for key, device in report.present.items()
                for event in self._see(report.source, key, device, report.reason, now, stamp)]

    def advance(self, now: float, stamp: int) -> list[DeviceEvent]:
        """Tell what is missing for too long, forget what is gone for too long."""
        events = [self._lessen(identity, stamp) for identity in sorted(self._lessened)
                  if (self._entries[identity].deadline or 0.0) <= now]
        events += [self._disconnect(identity, self._entries[identity].reason, now, stamp)
                   for identity in sorted(self._missing) if (self._entries[identity].deadline or 0.0) <= now]
        while self._gone:
            oldest = next(iter(self._gone))
            if len(self._gone) <= MAX_GONE and (self._entries[oldest].deadline or 0.0) > now:
                break
            del self._gone[oldest]
            self._unindex(self._entries.pop(oldest).device)
        return events

    # Across restarts --------------------------------------------------------------------------
    def export(self) -> dict[str, Any]:
        """Return all real devices with their past as JSON values, for `restore`."""
        return {'format': FORMAT, 'devices': [
            {**asdict(replace(entry.device, offers=())), 'proposed': entry.proposed,
             'history': [asdict(past) for past in entry.history]}
            for entry in self._entries.values() if not entry.device.simulated]}

    def restore(self, document: Any, now: float) -> None:
        """
        Remember what `export` told before a restart: all of it is disconnected until it is seen.

        Call it on an empty registry; raises ValueError and remembers nothing where it is unsound.
        """
        assert not self._entries, 'only an empty registry can remember'
        try:
            if document['format'] != FORMAT:
                raise ValueError(f"format {document['format']!r} is not {FORMAT}")
            entries = [_entry(item) for item in document['devices'][-MAX_GONE:]]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'unsound: {type(error).__name__}: {error}') from error
        for entry in entries:
            identity = entry.device.id
            entry.deadline = now + self.forget_after
            self._entries[identity] = entry
            self._gone[identity] = None
            for key in _index_keys(entry.device):
                self._index[key].add(identity)

    # Inside -----------------------------------------------------------------------------------
    def _miss(self, source: str, key: str, now: float, reason: str) -> None:
        identity = self._held[source].pop(key)
        del self._owners[identity]
        entry = self._entries[identity]
        entry.deadline, entry.reason, entry.less = now + self.grace, reason, None
        self._lessened.discard(identity)
        self._missing.add(identity)

    def _lessen(self, identity: str, stamp: int) -> DeviceEvent:
        entry = self._entries[identity]
        less, entry.less, entry.deadline = entry.less, None, None
        self._lessened.discard(identity)
        assert less is not None, 'it is set with the deadline'
        return self._store(replace(less, first_seen=entry.device.first_seen), Change.CHANGED, entry.reason,
                           stamp)

    def _disconnect(self, identity: str, reason: str, now: float, stamp: int) -> DeviceEvent:
        entry = self._entries[identity]
        self._missing.discard(identity)
        self._gone[identity] = None
        entry.deadline = now + self.forget_after
        return self._store(replace(entry.device, status=Status.DISCONNECTED), Change.DISCONNECTED,
                           reason, stamp)

    def _see(self, source: str, key: str, device: Device, reason: str,
             now: float, stamp: int) -> Iterator[DeviceEvent]:
        held = self._held[source]
        if key in held and self._entries[held[key]].proposed != device.id:
            # Another device sits where one was: the first left, and no grace can bring it back.
            replaced = held[key]
            self._miss(source, key, now, reason)
            yield self._disconnect(replaced, reason, now, stamp)
        if key not in held:
            if len(self._owners) + len(self._missing) >= self.max_present:
                self.refused += 1
                return
            held[key] = self._free_id(device)
            self._owners[held[key]] = (source, key)
        yield from self._update(replace(device, id=held[key]), device.id, reason, now, stamp)

    def _free_id(self, device: Device) -> str:
        last = device.fallback_id or device.id
        candidates = chain((device.id, last), (f'{last}-{n}' for n in count(2)))
        return next(c for c in candidates if c not in self._owners)

    def _update(self, device: Device, proposed: str, reason: str,
                now: float, stamp: int) -> Iterator[DeviceEvent]:
        identity = device.id
        entry = self._entries.get(identity)
        self._missing.discard(identity)
        self._gone.pop(identity, None)
        if entry is None:
            self._entries[identity] = entry = _Entry(device, proposed)
            early = Status.DISCOVERED if device.type == UNKNOWN else Status.IDENTIFIED
            yield self._store(replace(device, status=min(early, device.status), first_seen=stamp),
                              Change.DISCOVERED, reason, stamp)
        known, entry.proposed = entry.device, proposed
        if self.grace and _loses(known, device):
            if identity not in self._lessened:
                entry.deadline = now + self.grace
            entry.less, entry.reason = device, reason
            self._lessened.add(identity)
            return
        entry.deadline = entry.less = None
        self._lessened.discard(identity)
        if device == known:
            return
        kind = Change.CHANGED
        if device.status != known.status:
            kind = {Status.CONNECTED: Change.CONNECTED, Status.ERROR: Change.ERROR}.get(device.status, kind)
        yield self._store(replace(device, first_seen=known.first_seen), kind, reason, stamp)

    def _store(self, device: Device, kind: Change, reason: str, stamp: int) -> DeviceEvent:
        entry = self._entries[device.id]
        self._unindex(entry.device)
        entry.device = replace(device, last_changed=stamp)
        for key in _index_keys(entry.device):
            self._index[key].add(device.id)
        self.sequence += 1
        entry.history.append(Past(kind, device.status, reason, stamp))
        return DeviceEvent(self.sequence, kind, reason, entry.device, stamp)

    def _unindex(self, device: Device) -> None:
        for key in _index_keys(device):
            self._index[key].discard(device.id)
            if not self._index[key]:
                del self._index[key]


def _loses(known: Device, device: Device) -> bool:
    """Return whether parts of a device are missing: what drives it, some nodes or capabilities."""
    before, after = ((one.status, len(one.nodes), len(one.capabilities)) for one in (known, device))
    return (known.status == Status.CONNECTED and known.path == device.path and before != after
            and device.status <= known.status and set(device.nodes) <= set(known.nodes)
            and set(device.capabilities) <= set(known.capabilities))


def _entry(item: dict[str, Any]) -> _Entry:
    """Read one device of a document; raises ValueError, KeyError or TypeError."""
    fields = dict(item)
    proposed = _text(fields.pop('proposed'))
    past = [Past(Change(p['kind']), Status(p['status']), _text(p['reason']), _whole(p['stamp']))
            for p in fields.pop('history')[-MAX_HISTORY:]]
    for name in ('id', 'name', 'bus', 'type', 'path', 'vendor_id', 'product_id', 'serial', 'fallback_id'):
        _text(fields[name])
    for name in ('nodes', 'capabilities', 'candidates'):
        fields[name] = tuple(map(_text, fields[name]))
    fields['properties'] = tuple((_text(key), _text(value)) for key, value in fields['properties'])
    fields['confidence'] = min(1.0, max(0.0, float(fields['confidence'])))
    fields['status'], fields['simulated'], fields['offers'] = Status.DISCONNECTED, False, ()
    for name in ('first_seen', 'last_changed'):
        fields[name] = _whole(fields[name])
    entry = _Entry(Device(**fields), proposed)
    entry.history.extend(past)
    return entry


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        raise ValueError(f'{str(value)[:40]!r} is not a text of at most 4096 characters')
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f'{str(value)[:40]!r} is not a time')
    return value


def _index_keys(device: Device) -> list[tuple[str, object]]:
    return [('type', device.type), ('bus', device.bus), ('status', device.status),
            *(('capability', capability) for capability in device.capabilities)]
