# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""One device for each place, though several sources tell of it: the kernel, and who asks on its bus."""
from __future__ import annotations

from dataclasses import replace

from muster.hardware.devices import Device, Report

#: Under this name merged devices are reported.
SOURCE = 'merged'


class Merger:
    """
    Turns the reports of sources into reports of devices, for a registry.

    Devices with the same `path` are one. It is what the surest source says of it, with all nodes
    and capabilities, under the id that the first source gave it; it is there as long as one says so.
    """

    def __init__(self) -> None:
        """Begin without devices."""
        self._views: dict[str, dict[str, Device]] = {}   # place -> source -> what it says
        self._places: dict[str, dict[str, str]] = {}     # source -> key -> place

    def merge(self, report: Report) -> Report:
        """Return what a report changes; its source is `SOURCE`, and never complete."""
        places = self._places.setdefault(report.source, {})
        gone = [key for key in places if key not in report.present] if report.complete else report.gone
        touched = {place for key in gone if (place := places.pop(key, None))}
        left = {(place, report.source) for place in touched}
        for key, device in report.present.items():
            place = device.path or f'{report.source} {key}'
            if places.get(key, place) != place:
                touched.add(places[key])
                left.add((places[key], report.source))
            places[key] = place
            left.discard((place, report.source))
            touched.add(place)
            self._views.setdefault(place, {})[report.source] = device
        for place, source in left:
            self._views[place].pop(source, None)
        present = {place: _one(self._views[place]) for place in sorted(touched) if self._views[place]}
        for place in touched - present.keys():
            del self._views[place]
        return replace(report, source=SOURCE, present=present, complete=False,
                       gone=tuple(sorted(touched - present.keys())))


def _one(views: dict[str, Device]) -> Device:
    """Return one device of what several sources say; the first of equally sure ones is believed."""
    devices = list(views.values())
    first, best = devices[0], max(devices, key=lambda device: device.confidence)
    return replace(
        best, id=first.id, fallback_id=first.fallback_id, serial=first.serial or best.serial,
        vendor_id=first.vendor_id or best.vendor_id, product_id=first.product_id or best.product_id,
        nodes=tuple(dict.fromkeys(node for device in devices for node in device.nodes)),
        capabilities=tuple(sorted({name for device in devices for name in device.capabilities})))
