# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What asking a device itself adds to what the kernel tells of it."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
import os
from pathlib import Path

from muster.hardware.assembly import assemble, candidates, clean, detailed, groups, owner, relevant
from muster.hardware.attributes import refine
from muster.hardware.devices import Device, Status, UNKNOWN
from muster.hardware.evidence import Record
from muster.hardware.identification import Claim, Rules
from muster.hardware.sources import sysfs

SYS = Path('/sys')


def records_of(node: str, subsystem: str, root: Path = SYS) -> dict[str, Record]:
    """Return the records of a device node and of all that it is part of, by their paths."""
    link = root / 'class' / subsystem / os.path.basename(node)
    if not link.exists():
        return {}
    path = '/' + os.path.relpath(os.path.realpath(link), os.path.realpath(root))
    found: dict[str, Record] = {}
    while path.count('/') > 1:
        record = sysfs.read(path, root)
        if record is not None and relevant(record):
            found[path] = record
        path = path.rpartition('/')[0]
    return found


def base(node: str, subsystem: str, rules: Rules, root: Path = SYS) -> tuple[Device | None, list[Record]]:
    """Return the device that a node is part of, with the id it has by the kernel's word, and its records."""
    records = records_of(node, subsystem, root)
    key = next((found for path in records if (found := owner(path, records)) is not None), None)
    if key is None:
        return None, []
    members = groups(records)[key]
    return assemble(key, members, records, rules), members


def told(device: Device, claim: Claim, name: str, facts: Iterable[tuple[str, str]]) -> Device:
    """Return a device with what is known of it now; `facts` become properties where they tell something."""
    properties = {**dict(device.properties), **{key: clean(value) for key, value in facts if value}}
    properties['identified_by'] = clean(claim.source)
    return replace(
        device, name=clean(f'{claim.name or device.type.replace("_", " ")} ({name})', 128), type=claim.type,
        confidence=claim.confidence, capabilities=tuple(sorted({*device.capabilities, *claim.capabilities})),
        status=device.status if claim.type == UNKNOWN else Status.CONNECTED,
        offers=refine(device.offers, detailed(claim.offers)), candidates=candidates(claim),
        properties=tuple((key, value) for key, value in sorted(properties.items()) if value))


def silent(device: Device) -> Device:
    """Return a device that was known and does not answer any more, though the place where it was is there."""
    facts = {**dict(device.properties), 'silent': 'it does not answer any more'}
    return replace(device, status=Status.DEGRADED, properties=tuple(sorted(facts.items())))
