# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What others captured of real devices, and how well the rules identify it; for tests and benchmarks."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
import re
from typing import Any

from muster.hardware.evidence import Evidence, I2cReading, Record, RegisterRead, SerialReading, SpiReading
from muster.hardware.identification import Candidate, LIKELY, Rules
import yaml

FOLDER = Path(__file__).parent / 'fixtures'
SURE = 0.9


@dataclass(frozen=True)
class Capture:
    """
    One device as somebody else saw it: what it is (`device`), the evidence, where that is found.

    `unique` says whether the evidence is that of this device alone, by public documentation.
    """

    device: str
    unique: bool
    evidence: tuple[Evidence, ...]
    source: str


@dataclass(frozen=True)
class Score:
    """How many of the captures were identified; `missed` and `wrong` name the devices."""

    captures: int
    unique: int
    named: int
    missed: tuple[str, ...]   # unique, but not named
    absent: tuple[str, ...]   # the truth is not among the candidates
    wrong: tuple[str, ...]    # something else was named with a confidence of 0.9 or more

    @property
    def share(self) -> float:
        """Return the share of the uniquely identifiable ones that are named."""
        return self.named / self.unique if self.unique else 1.0


def load(name: str) -> list[Capture]:
    """Read fixtures/`name`.yaml."""
    entries = yaml.safe_load((FOLDER / f'{name}.yaml').read_text(encoding='utf-8'))
    return [Capture(entry['device'], entry['unique'], tuple(_evidence(entry)), entry['source'])
            for entry in entries]


def score(rules: Rules, captures: Iterable[Capture]) -> Score:
    """Identify every capture and compare."""
    seen = list(captures)
    named, missed, absent, wrong = 0, [], [], []
    for capture in seen:
        candidates = rules.identify(capture.evidence).candidates
        first = candidates[0] if candidates else None
        right = first is not None and is_device(capture.device, first)
        if capture.unique and first is not None and right and first.confidence >= LIKELY:
            named += 1
        elif capture.unique:
            missed.append(capture.device)
        if not any(is_device(capture.device, candidate) for candidate in candidates):
            absent.append(capture.device)
        if first is not None and not right and first.confidence >= SURE:
            wrong.append(capture.device)
    return Score(len(seen), sum(capture.unique for capture in seen), named, tuple(missed), tuple(absent),
                 tuple(wrong))


def is_device(device: str, candidate: Candidate) -> bool:
    """
    Return whether all words of the device's name are in that of the candidate.

    A word may be written as two: a ZED2 is a ZED 2, and the other way round.
    """
    words, known = _words(device), _words(candidate.title)
    joined = {first + second for first, second in pairwise(known)}
    split = {word for pair in pairwise(words) if ''.join(pair) in known for word in pair}
    return set(words) <= {*known, *joined, *split}


def _words(text: str) -> list[str]:
    return re.findall(r'[a-z0-9]+', text.lower().replace('-', ''))


def _evidence(entry: dict[str, Any]) -> Iterable[Evidence]:
    if 'usb' in entry:
        yield from _usb(**entry['usb'])
    if 'i2c' in entry:
        registers = {RegisterRead(2 if number > 0xFF else 1, number, len(value) // 2): bytes.fromhex(value)
                     for number, value in entry['i2c'].get('registers', {}).items()}
        yield I2cReading(entry['i2c']['address'], registers)
    if 'spi' in entry:
        yield SpiReading(*(bytes.fromhex(entry['spi'][key]) for key in ('sent', 'reply')),
                         entry['spi'].get('transfers', 1))
    if 'serial' in entry:
        yield SerialReading(bytes.fromhex(entry['serial'].get('sent', '')),
                            bytes.fromhex(entry['serial']['reply']) if 'reply' in entry['serial']
                            else entry['serial']['text'].encode())


def _usb(id: str, interfaces: str = '', manufacturer: str = '', product: str = '') -> Iterable[Record]:
    vendor, _, number = id.partition(':')
    path = '/devices/pci0000:00/0000:00:14.0/usb1/1-2'
    yield Record(path, 'usb', 'usb_device', 'usb', attributes={
        'idVendor': vendor, 'idProduct': number, 'manufacturer': manufacturer, 'product': product})
    for position, code in enumerate(interfaces.split()):
        yield Record(f'{path}/1-2:1.{position}', 'usb', 'usb_interface', attributes={
            'bInterfaceClass': code[:2], 'bInterfaceSubClass': code[2:4], 'bInterfaceProtocol': code[4:]})
