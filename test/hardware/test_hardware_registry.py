# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The registry: lives, identities, events, index and bounds, in virtual time."""
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
import json
from typing import Any

from hypothesis import given, settings, strategies as st
from muster.hardware import registry as registry_module
from muster.hardware.devices import Change, Device, Report, Status
from muster.hardware.registry import Registry
import pytest

CAMERA = Device(id='usb-camera-1', name='camera', bus='usb', type='camera', capabilities=('video',),
                fallback_id='usb-port-1', nodes=('/dev/video0',))


def seen(*devices: Device, complete: bool = True, gone: tuple[str, ...] = ()) -> Report:
    """Return a report of source 'test' whose keys are the devices' paths, or else their ids."""
    return Report('test', {d.path or d.id: d for d in devices}, 'scan', complete, gone)


class Clocked:
    """A registry with a clock that the test turns."""

    def __init__(self, grace: float = 1.0, forget_after: float = 100.0) -> None:
        """Begin at time 0."""
        self.registry = Registry(grace, forget_after)
        self.now = 0.0

    def apply(self, report: Report) -> list[tuple[Change, str]]:
        """Apply and return kinds and ids."""
        return self._short(self.registry.apply(report, self.now, int(self.now * 1e9)))

    def after(self, seconds: float) -> list[tuple[Change, str]]:
        """Let time pass."""
        self.now += seconds
        return self._short(self.registry.advance(self.now, int(self.now * 1e9)))

    @staticmethod
    def _short(events: list) -> list[tuple[Change, str]]:
        return [(event.kind, event.device.id) for event in events]


def test_life_of_a_device() -> None:
    clocked = Clocked()
    plugged = replace(CAMERA, status=Status.DISCOVERED, type='unknown')
    assert clocked.apply(seen(plugged)) == [(Change.DISCOVERED, CAMERA.id)]
    assert clocked.apply(seen(replace(CAMERA, status=Status.IDENTIFIED))) == [(Change.CHANGED, CAMERA.id)]
    assert clocked.apply(seen(CAMERA)) == [(Change.CONNECTED, CAMERA.id)]
    assert clocked.apply(seen(CAMERA)) == []
    assert clocked.apply(seen(replace(CAMERA, status=Status.ERROR))) == [(Change.ERROR, CAMERA.id)]
    assert clocked.apply(seen(CAMERA)) == [(Change.CONNECTED, CAMERA.id)]
    assert clocked.apply(seen()) == []
    assert clocked.after(0.9) == []
    assert clocked.after(0.2) == [(Change.DISCONNECTED, CAMERA.id)]
    gone = clocked.registry.get(CAMERA.id)
    assert gone is not None and gone.status == Status.DISCONNECTED and gone.first_seen == 0
    assert clocked.apply(seen(CAMERA)) == [(Change.CONNECTED, CAMERA.id)]


def test_new_device_is_discovered_then_connected() -> None:
    events = Registry().apply(seen(CAMERA), 0.0, 7)
    assert [(e.sequence, e.kind, e.device.status) for e in events] == [
        (1, Change.DISCOVERED, Status.IDENTIFIED), (2, Change.CONNECTED, Status.CONNECTED)]
    assert events[1].device.first_seen == events[1].stamp == 7


def test_two_second_flap_within_the_grace_evicts_nobody() -> None:
    clocked = Clocked(grace=3.0)
    clocked.apply(seen(CAMERA))
    clocked.apply(seen())
    assert clocked.after(2.0) == []
    assert clocked.apply(seen(CAMERA)) == []
    assert clocked.after(10.0) == []


def test_flapping_at_10_hz_for_a_minute_is_one_disconnection_at_last() -> None:
    clocked = Clocked(grace=0.5)
    clocked.apply(seen(CAMERA))
    for _ in range(600):
        assert clocked.apply(seen()) + clocked.after(0.05) == []
        assert clocked.apply(seen(CAMERA)) + clocked.after(0.05) == []
    assert clocked.apply(seen()) + clocked.after(0.4) == []
    assert clocked.after(0.2) == [(Change.DISCONNECTED, CAMERA.id)]
    assert clocked.after(60.0) == []


def test_a_device_that_is_taken_apart_and_comes_back_in_the_grace_is_no_event() -> None:
    clocked = Clocked(grace=0.5)
    clocked.apply(seen(CAMERA))
    for _ in range(60):
        for part in (replace(CAMERA, nodes=()), replace(CAMERA, nodes=(), status=Status.IDENTIFIED)):
            assert clocked.apply(seen(part)) + clocked.after(0.05) == []
        assert clocked.apply(seen()) + clocked.after(0.05) == []
        assert clocked.apply(seen(replace(CAMERA, capabilities=()))) + clocked.after(0.05) == []
        assert clocked.apply(seen(replace(CAMERA, nodes=()))) + clocked.after(0.05) == []
        assert clocked.apply(seen(CAMERA)) == []
    assert clocked.registry.get(CAMERA.id) == CAMERA and clocked.registry.next_deadline() is None


def test_a_part_that_stays_away_is_told_after_the_grace() -> None:
    clocked = Clocked(grace=0.5)
    clocked.apply(seen(CAMERA))
    rest = replace(CAMERA, nodes=(), status=Status.IDENTIFIED)
    assert clocked.apply(seen(rest)) + clocked.after(0.4) == []
    assert clocked.apply(seen(rest)) + clocked.after(0.2) == [(Change.CHANGED, CAMERA.id)]
    assert clocked.registry.get(CAMERA.id) == rest and clocked.registry.next_deadline() is None
    assert clocked.apply(seen(rest)) == [] and clocked.apply(seen(CAMERA)) == [(Change.CONNECTED, CAMERA.id)]
    assert clocked.apply(seen(rest)) + clocked.apply(seen()) + clocked.after(0.6) == [
        (Change.DISCONNECTED, CAMERA.id)]


def test_replugged_on_another_port_it_keeps_its_identity() -> None:
    clocked = Clocked()
    clocked.apply(seen(replace(CAMERA, path='/1-1')))
    assert clocked.apply(seen(replace(CAMERA, path='/1-2'))) == [(Change.CHANGED, CAMERA.id)]
    assert len(clocked.registry) == 1


def test_same_serial_twice_gives_two_devices() -> None:
    clocked = Clocked()
    first, second = replace(CAMERA, path='/1-1'), replace(CAMERA, path='/1-2', fallback_id='usb-port-2')
    clocked.apply(seen(first))
    assert (Change.CONNECTED, 'usb-port-2') in clocked.apply(seen(first, second))
    assert [d.id for d in clocked.registry.find()] == ['usb-camera-1', 'usb-port-2']
    assert clocked.apply(seen(second)) + clocked.after(2.0) == [(Change.DISCONNECTED, 'usb-camera-1')]


def test_another_device_at_the_same_port_is_another_device() -> None:
    clocked = Clocked(grace=60.0)
    clocked.apply(seen(replace(CAMERA, path='/1-1')))
    other = replace(CAMERA, id='usb-lidar', path='/1-1')
    assert clocked.apply(seen(other)) == [(Change.DISCONNECTED, CAMERA.id), (Change.DISCOVERED, 'usb-lidar'),
                                          (Change.CONNECTED, 'usb-lidar')]


def test_sources_do_not_touch_each_other() -> None:
    clocked = Clocked()
    clocked.apply(seen(CAMERA))
    assert clocked.apply(Report('other', {}, 'scan')) + clocked.after(5.0) == []
    both = clocked.apply(Report('other', {'key': CAMERA}, 'scan'))
    assert both == [(Change.DISCOVERED, 'usb-port-1'), (Change.CONNECTED, 'usb-port-1')]


def test_remove_without_add_and_add_without_remove() -> None:
    clocked = Clocked()
    assert clocked.apply(seen(complete=False, gone=('never-there',))) == []
    clocked.apply(seen(CAMERA, complete=False))
    assert clocked.apply(seen(CAMERA, complete=False)) == []


def test_gone_devices_are_forgotten_in_time_and_number(monkeypatch) -> None:
    monkeypatch.setattr(registry_module, 'MAX_GONE', 3)
    clocked = Clocked(grace=0.0, forget_after=10.0)
    clocked.apply(seen(*(replace(CAMERA, id=f'd{n}') for n in range(5))))
    clocked.apply(seen())
    assert len(clocked.after(0.0)) == 5
    assert len(clocked.registry) == 3
    assert clocked.registry.next_deadline() == 10.0
    clocked.after(10.0)
    assert len(clocked.registry) == 0 and clocked.registry.find(type='camera') == []
    assert clocked.registry.next_deadline() is None


def test_more_devices_than_bounds_are_refused_and_counted() -> None:
    registry = Registry(max_present=2)
    registry.apply(seen(*(replace(CAMERA, id=f'd{n}') for n in range(5))), 0.0, 0)
    assert len(registry) == 2 and registry.refused == 3


VARIANTS = st.builds(
    lambda number, port, type_, status, nodes: replace(
        CAMERA, id=f'serial-{number}', path=f'/port-{port}', type=type_, fallback_id=f'port-{port}',
        status=status, nodes=CAMERA.nodes[:nodes]),
    st.integers(0, 3), st.integers(0, 3), st.sampled_from(['camera', 'lidar', 'unknown']),
    st.sampled_from([Status.DISCOVERED, Status.IDENTIFIED, Status.CONNECTED, Status.DEGRADED, Status.ERROR]),
    st.integers(0, 1))
STEPS = st.lists(st.one_of(
    st.lists(VARIANTS, max_size=4).map(lambda devices: ('snapshot', devices)),
    VARIANTS.map(lambda device: ('change', device)),
    st.integers(0, 3).map(lambda port: ('gone', f'/port-{port}')),
    st.sampled_from([0.1, 0.9, 1.1, 50.0, 200.0]).map(lambda seconds: ('time', seconds))), max_size=40)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(STEPS)
def test_any_history_keeps_the_invariants(steps) -> None:
    registry, now, events = Registry(1.0, 100.0), 0.0, []
    for what, value in steps:
        if what == 'snapshot':
            events += registry.apply(seen(*value), now, 0)
            assert registry.apply(seen(*value), now, 0) == [], 'the same snapshot again is no news'
        elif what == 'change':
            events += registry.apply(seen(value, complete=False), now, 0)
        elif what == 'gone':
            events += registry.apply(seen(complete=False, gone=(value,)), now, 0)
        else:
            now += value
            events += registry.advance(now, 0)
            due = registry.next_deadline()
            assert due is None or due > now
        listed = registry.find()
        assert listed == sorted(listed, key=lambda d: d.id)
        for device in listed:
            assert device in registry.find(device.type, device.bus, 'video', device.status)
        for type_ in ('camera', 'lidar', 'unknown'):
            assert registry.find(type=type_) == [d for d in listed if d.type == type_]
        replayed = {event.device.id: event.device for event in events}
        assert all(replayed[device.id] == device for device in listed), 'events tell the whole state'
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    for identity in {event.device.id for event in events}:
        states = [e.kind for e in events if e.device.id == identity]
        assert states[0] == Change.DISCOVERED
        # A device is disconnected once; only its return ends that.
        assert (Change.DISCONNECTED, Change.DISCONNECTED) not in pairwise(states)


# Across restarts --------------------------------------------------------------------------------
def restarted(registry: Registry, now: float = 1000.0) -> Registry:
    """Return a registry that remembers what another one told, through a file's text."""
    other = Registry(grace=1.0, forget_after=100.0)
    other.restore(json.loads(json.dumps(registry.export())), now)
    return other


def test_a_restarted_registry_knows_its_devices_as_disconnected() -> None:
    registry = Registry(grace=1.0)
    registry.apply(Report('s', {'a': CAMERA}, 'first scan'), 0.0, 7)
    other = restarted(registry)
    known = other.get('usb-camera-1')
    assert known is not None
    assert (known.status, known.first_seen) == (Status.DISCONNECTED, 7)
    assert other.find(status=Status.DISCONNECTED) == [known]
    events = other.apply(Report('s', {'a': CAMERA}, 'first scan'), 1001.0, 9)
    assert [event.kind for event in events] == [Change.CONNECTED]
    assert events[0].device.first_seen == 7
    assert [past.kind for past in other.history('usb-camera-1')] == \
        [Change.DISCOVERED, Change.CONNECTED, Change.CONNECTED]


def test_what_is_not_seen_after_a_restart_is_forgotten_in_time() -> None:
    registry = Registry(grace=1.0)
    registry.apply(Report('s', {'a': CAMERA}, 'first scan'), 0.0, 7)
    other = restarted(registry)
    assert other.next_deadline() == 1100.0
    assert other.advance(1100.0, 8) == []
    assert len(other) == 0


def test_simulated_devices_are_not_remembered() -> None:
    registry = Registry(grace=1.0)
    registry.apply(Report('s', {'a': replace(CAMERA, simulated=True)}, 'first scan'), 0.0, 7)
    assert len(restarted(registry)) == 0


def test_history_is_bounded() -> None:
    registry = Registry(grace=0.0)
    for number in range(100):
        registry.apply(Report('s', {'a': replace(CAMERA, name=f'camera {number}')}, 'scan'), 0.0, number)
    assert len(registry.history('usb-camera-1')) == 32
    assert registry.history('usb-camera-1')[-1].stamp == 99
    assert registry.history('nothing') == ()


@pytest.mark.parametrize('change', [
    lambda d: d.update(format=2), lambda d: d.pop('devices'), lambda d: d.update(devices=[3]),
    lambda d: d['devices'][0].update(id=4), lambda d: d['devices'][0].pop('name'),
    lambda d: d['devices'][0].update(surprise=1), lambda d: d['devices'][0].update(first_seen=-1),
    lambda d: d['devices'][0]['history'][0].update(kind=77),
    lambda d: d['devices'][0].update(properties=[['only one']]),
    lambda d: d['devices'][0].update(confidence='much')])
def test_an_unsound_memory_is_refused_as_a_whole(change: Callable[[dict[str, Any]], None]) -> None:
    registry = Registry(grace=1.0)
    registry.apply(Report('s', {'a': CAMERA}, 'first scan'), 0.0, 7)
    document = json.loads(json.dumps(registry.export()))
    change(document)
    other = Registry()
    with pytest.raises(ValueError):
        other.restore(document, 0.0)
    assert len(other) == 0
