# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What a device is: evidence in, ranked candidates with confidences and reasons out.

The rules are data (config/devices/*.yaml, read by `device_data`). What cannot be told apart stays
ambiguous, with all candidates listed; what no rule knows stays unknown.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
import re
from typing import NamedTuple

from muster.hardware.capabilities import Offer, Value
from muster.hardware.device_data import read_rules, Rule
from muster.hardware.devices import UNKNOWN
from muster.hardware.evidence import Evidence, I2cReading, Record, RegisterRead, SpiReading
from muster.hardware.matching import I2cMatch, KernelMatch, SerialMatch, SpiMatch
from muster.hardware.usb_names import Names, no_names

#: A candidate is named as the device from this confidence on; below, it is one of several.
LIKELY = 0.5
#: How likely one of the things is that are known to come behind a bridge.
POSSIBLE = 0.1
MAX_CANDIDATES = 24
#: How far a device's own descriptors are believed about its name: more than a list of what others once
#: had, less than a rule or a maker's list; less than any where they are those of the chip in it.
TOLD, FACTORY_TOLD, DESCRIPTORS = 0.82, 0.7, 'the descriptors of the device'
#: How far a name is believed, of what its rule says, that one byte tells: successors and copies keep it.
ONE_BYTE = 0.9
#: How likely it is that a device of which only the maker is known is called by no more than that.
MAKER = 0.3
#: How far a list is believed about the ids that a vendor lends to many makers, V-USB and Teensy (16c0),
#: gadgets of Linux (1d6b): there the descriptors know better.
LENT, LENDERS = 0.6, ('16c0', '1d6b')
#: How far an id is believed about the name where its vendor makes chips, firmware or kits that other makers
#: build in without an id of their own, or gives ids away: the part is certain, the product around it is not.
PART = 0.84
PART_VENDORS = frozenset((
    # Controllers: ST, Atmel (LUFA), Microchip, Cypress, NXP, TI (two), GigaDevice, Raspberry Pi, Espressif
    '0483', '03eb', '04d8', '04b4', '1fc9', '0451', '1cbe', '28e9', '2e8a', '303a',
    # Serial bridges: FTDI, Silicon Labs, WCH, Prolific
    '0403', '10c4', '1a86', '067b',
    # Cameras, hubs, pads: Realtek, Sonix, Sunplus, Z-Star, Aveo, Etron, ARC, Alcor, Genesys, DragonRise,
    # Movidius
    '0bda', '0c45', '1bcf', '0ac8', '1871', '1e4e', '05a3', '058f', '05e3', '0079', '03e7',
    # Radios: CSR, Broadcom, Qualcomm (and Atheros), MediaTek (and Ralink)
    '0a12', '0a5c', '05c6', '0cf3', '0e8d', '148f',
    # Firmware, and ids that are given away: V-USB, MCS, pid.codes, OpenMoko, gadgets of Linux, DAPLink
    '16c0', '16d0', '1209', '1d50', '0525', '1d6b', '0d28'))
#: What the makers of chips write into them, as `CP2102 USB to UART Bridge Controller` or `802.11ac NIC`;
#: anything else was written by the maker of what the chip is built into.
FACTORY = re.compile(
    r'(cp|ft|ch|pl|mcp|stm|hl|v)?\d+\w*|usb\d?|to|in|uart|ttl|ser|serial|rs\d*|bridge|converter|controller|'
    r'adapt[eo]r|cable|com|port|comport|virtual|vcp|cdc|acm|basic|single|dual|quad|hs|fs|enhanced|mode|'
    r'device|interface|demo|chibios|rt|i2c|gpio|combo|[a-z]|'
    r'wlan|lan|nic|wifi|wi|fi|wireless|network|ethernet|gigabit|bluetooth|radio|disk|mass|storage')


@dataclass(frozen=True)
class Candidate:
    """One thing that the device may be; `confidence` is that it is, `evidence` what was seen of it."""

    name: str
    vendor: str
    type: str
    confidence: float
    evidence: str
    source: str
    quote: str = ''
    capabilities: tuple[Offer, ...] = ()
    bridge: bool = False

    @property
    def title(self) -> str:
        """Return vendor and name."""
        return f'{self.vendor} {self.name}'.strip()


@dataclass(frozen=True)
class Claim:
    """
    What the rules say of a device; `confidence` (0..1) is that `type` is true.

    `capabilities` are those it has whichever of the leading candidates it is. `name` is empty
    where nothing is known, "A or B" where these two cannot be told apart.
    """

    type: str = UNKNOWN
    confidence: float = 0.0
    name: str = ''
    capabilities: tuple[str, ...] = ()
    source: str = ''
    candidates: tuple[Candidate, ...] = ()
    offers: tuple[Offer, ...] = ()


class SpiProbe(NamedTuple):
    """A transfer that an SPI chip may be asked with, so many times; the last reply counts."""

    mode: int
    send: bytes
    transfers: int


class SerialProbe(NamedTuple):
    """What to send (empty: listen only), and the baud rates to try."""

    send: bytes
    baud: tuple[int, ...]


class Rules:
    """The rules of several files; a later file replaces what earlier ones say of the same match."""

    def __init__(self, rules: Iterable[Rule], names: Names = no_names) -> None:
        """Sort the rules by what they can match."""
        self._by_bus: defaultdict[str | int, list[Rule]] = defaultdict(list)
        self._names = names
        for rule in rules:
            for key in _bus_keys(rule):
                self._by_bus[key].append(rule)

    @classmethod
    def load(cls, files: Iterable[Path], names: Names = no_names) -> Rules:
        """Read rule files; RuleError where one cannot be read or is wrong."""
        known: dict[str, list[Rule]] = {}
        for file in files:
            found: defaultdict[str, list[Rule]] = defaultdict(list)
            for rule in read_rules(file):
                found[repr(rule.match)].append(rule)
            known.update(found)
        return cls((rule for rules in known.values() for rule in rules), names)

    # What to ask ------------------------------------------------------------------------------
    def i2c_reads(self, address: int) -> tuple[RegisterRead, ...]:
        """Return the identification registers of all chips known at an address, safest first."""
        reads = {wanted.read for rule in self._by_bus.get(address, ()) if isinstance(rule.match, I2cMatch)
                 for wanted in rule.match.registers}
        return tuple(sorted(reads))

    def spi_probes(self) -> tuple[SpiProbe, ...]:
        """Return the transfers by which the known SPI chips are recognised."""
        matches = [rule.match for rule in self._by_bus['spi'] if isinstance(rule.match, SpiMatch)]
        return tuple(sorted({SpiProbe(match.mode, match.send, match.transfers) for match in matches}))

    def serial_probes(self, adapter: str = '') -> tuple[SerialProbe, ...]:
        """Return what to ask on a serial line, listening first; `adapter`, as 10c4:ea60, limits it."""
        rates: defaultdict[bytes, dict[int, None]] = defaultdict(dict)
        for match in (rule.match for rule in self._by_bus['serial']):
            if isinstance(match, SerialMatch) and (
                    not adapter or not match.adapters or adapter in match.adapters):
                rates[match.send].update(dict.fromkeys(match.baud))
        return tuple(SerialProbe(send, tuple(baud)) for send, baud in
                     sorted(rates.items(), key=lambda item: (len(item[0]), item[0])))

    # What it is -------------------------------------------------------------------------------
    def identify(self, evidence: Iterable[Evidence]) -> Claim:
        """Return what all the evidence for one device says of it."""
        seen = list(evidence)
        matching = [(_called(rule, item), text, item) for item in seen for key in _bus_of(item)
                    for rule in self._by_bus.get(key, ()) if (text := rule.match.describe(item))]
        classes = [rule for rule, _, _ in matching if not rule.name]
        sure = _best_by_title(_candidate(rule, text) for rule, text, _ in matching if rule.name)
        named = _best_by_title(_as_part(_of_one_byte(_candidate(rule, text), rule), item)
                               for rule, text, item in matching if rule.name)
        bridges = sorted((c for c in named if c.bridge), key=lambda c: -c.confidence)
        told = self._told(seen)
        further = () if bridges else told
        devices = share([*(c for c in named if not c.bridge), *further])
        if bridges and not (devices and devices[0].confidence >= LIKELY):
            members = [replace(c, confidence=POSSIBLE) for c in told if c.source != DESCRIPTORS]
            behind = share([*devices, *members, *self._behind(seen)])
            ranked = [*_built_around(told, bridges[0]), *bridges, *behind]
            type_, confidence, source = _type(classes, [c for c in sure if c.title == bridges[0].title])
        else:
            ranked = [*devices, *bridges]
            listed = (c for c in further if c.source != DESCRIPTORS)  # descriptors do not tell a type
            type_, confidence, source = _type(classes, share([*(c for c in sure if not c.bridge), *listed]))
        ranked = [replace(c, type=type_) if c.type == UNKNOWN else c for c in ranked or self._makers(seen)]
        leading = _leading(ranked)
        offers = _merge([*(rule.capabilities for rule in classes), *(c.capabilities for c in bridges),
                         *_common(leading)])
        return Claim(type_, confidence, ' or '.join(c.title for c in leading),
                     tuple(offer.capability for offer in offers), source,
                     tuple(ranked[:MAX_CANDIDATES]), offers)

    def _behind(self, seen: Sequence[Evidence]) -> list[Candidate]:
        """Return what is known to come behind the bridges that were seen: possible, and no more."""
        ids = {f'{item.vendor_id}:{item.product_id}' for item in seen
               if isinstance(item, Record) and item.device_type == 'usb_device'}
        return _best_by_title(replace(_candidate(rule, f'often behind {adapter}'), confidence=POSSIBLE)
                              for rule in self._by_bus['serial'] if isinstance(rule.match, SerialMatch)
                              for adapter in rule.match.adapters if adapter in ids)

    def _told(self, seen: Sequence[Evidence]) -> list[Candidate]:
        """Return what lists and the device's own descriptors call it; the latter do not tell its type."""
        found = []
        for item in seen:
            if not isinstance(item, Record) or item.device_type != 'usb_device':
                continue
            text = f'usb {item.vendor_id}:{item.product_id}'
            names = self._names(item.vendor_id, item.product_id)
            for name in names:
                if name.product:
                    confidence = min(LENT, name.confidence) if item.vendor_id in LENDERS else name.confidence
                    found.append(_as_part(
                        Candidate(name.product, name.vendor, name.type, confidence, text, name.source), item))
            told = item.attributes.get('product', '').strip()
            if told:
                maker = item.attributes.get('manufacturer', '').strip() or (names[0].vendor if names else '')
                confidence = FACTORY_TOLD if _factory(told) else TOLD
                found.append(Candidate(told, maker, UNKNOWN, confidence, text, DESCRIPTORS))
        return _best_by_title(found)

    def _makers(self, seen: Sequence[Evidence]) -> list[Candidate]:
        """Return who made it, which is all that can be said of a device that neither rule nor name tells."""
        found = []
        for item in seen:
            if isinstance(item, Record) and item.device_type == 'usb_device':
                makers = [(item.attributes.get('manufacturer', '').strip(), DESCRIPTORS)]
                makers += [(name.vendor, name.source)
                           for name in self._names(item.vendor_id, item.product_id)]
                found += [Candidate('', maker, UNKNOWN, MAKER, f'usb {item.vendor_id}', source)
                          for maker, source in makers if maker]
        each = _best_by_title(found)
        return [replace(maker, confidence=MAKER / len(each)) for maker in each]


def share(candidates: Iterable[Candidate]) -> list[Candidate]:
    """
    Rank alternatives, of which one is true: their confidences add up to 1 at most.

    Those of equal confidence share it equally: the same evidence speaks for each of them.
    """
    left = 1.0
    result: list[Candidate] = []
    for confidence, group in groupby(sorted(candidates, key=lambda c: -c.confidence), lambda c: c.confidence):
        equals = list(group)
        mass = min(confidence, left)
        left -= mass
        result += [replace(candidate, confidence=mass / len(equals)) for candidate in equals]
    return sorted(result, key=lambda c: -c.confidence)


def _candidate(rule: Rule, evidence: str) -> Candidate:
    return Candidate(rule.name, rule.vendor, rule.type, rule.confidence, evidence, rule.source, rule.quote,
                     rule.capabilities, rule.bridge)


def _as_part(candidate: Candidate, evidence: Evidence) -> Candidate:
    """Return what an id tells, less certain where products of other makers have the same."""
    shared = (isinstance(evidence, Record) and evidence.subsystem == 'usb'
              and evidence.vendor_id in PART_VENDORS)
    return replace(candidate, confidence=min(candidate.confidence, PART)) if shared else candidate


def _of_one_byte(candidate: Candidate, rule: Rule) -> Candidate:
    """Return what a rule tells, less certain where nothing but one byte confirms it."""
    alone = isinstance(rule.match, I2cMatch | SpiMatch) and rule.match.bits <= 8
    return replace(candidate, confidence=ONE_BYTE * candidate.confidence) if alone else candidate


def _called(rule: Rule, evidence: Evidence) -> Rule:
    """Return the rule with the name that the device gives itself, where the rule leaves it that."""
    if isinstance(rule.match, SerialMatch) and (model := rule.match.model(evidence)):
        return replace(rule, name=rule.name.replace('@', model))
    return rule


def _factory(name: str) -> bool:
    """Return whether a name says no more than what chip it is."""
    return all(map(FACTORY.fullmatch, re.findall(r'[a-z0-9]+', name.lower())))


def _built_around(told: Iterable[Candidate], bridge: Candidate) -> list[Candidate]:
    """Return what calls itself by a name of its own, and not by that of the bridge in it."""
    return [replace(c, type=bridge.type, capabilities=bridge.capabilities) for c in told
            if c.source == DESCRIPTORS and not _factory(c.name)]


def _best_by_title(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return each thing once, with its strongest evidence."""
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        known = best.get(candidate.title)
        if known is None or known.confidence <= candidate.confidence:
            best[candidate.title] = candidate
    return list(best.values())


def _leading(ranked: Sequence[Candidate]) -> list[Candidate]:
    """Return the likely candidate, or those that cannot be told apart and of which one is likely."""
    equals = [c for c in ranked if c.confidence == ranked[0].confidence]
    return equals if sum(c.confidence for c in equals) >= LIKELY else []


def _type(classes: Sequence[Rule], candidates: Sequence[Candidate]) -> tuple[str, float, str]:
    """Return the most certain type, how certain it is, and who says so."""
    sums: defaultdict[str, float] = defaultdict(float)
    for candidate in candidates:
        sums[candidate.type] += candidate.confidence
    claims = [(rule.confidence, rule.type, rule.source) for rule in classes]
    claims += [(sums[c.type], c.type, c.source) for c in reversed(candidates)
               if c.type != UNKNOWN and sums[c.type] >= LIKELY]
    confidence, type_, source = max(claims, key=lambda claim: claim[0], default=(0.0, UNKNOWN, ''))
    return type_, min(confidence, 1.0), source


def _common(leading: Sequence[Candidate]) -> list[tuple[Offer, ...]]:
    """Return what all leading candidates offer; attributes only where they agree."""
    if len(leading) < 2:
        return [c.capabilities for c in leading]
    shared = set.intersection(*({o.capability for o in c.capabilities} for c in leading))
    return [tuple(offer if all(offer in c.capabilities for c in leading) else Offer(offer.capability)
                  for offer in leading[0].capabilities if offer.capability in shared)]


def _merge(groups: Iterable[tuple[Offer, ...]]) -> tuple[Offer, ...]:
    """Return each capability once, with all that is told of it; what is told later wins."""
    merged: dict[str, dict[str, Value]] = {}
    for offer in (offer for group in groups for offer in group):
        merged.setdefault(offer.capability, {}).update(offer.attributes)
    return tuple(Offer.of(name, **merged[name]) for name in sorted(merged))


def _bus_keys(rule: Rule) -> Iterable[str | int]:
    match rule.match:
        case KernelMatch():
            vendors = rule.match.texts.get('vendor_id', ())
            if not all(map(str.isalnum, vendors)):  # a pattern
                vendors = ()
            return [f'kernel {subsystem} {vendor}' for subsystem in rule.match.subsystem
                    for vendor in vendors or ('',)]
        case I2cMatch():
            return rule.match.addresses
        case SpiMatch():
            return ['spi']
    return ['serial']


def _bus_of(evidence: Evidence) -> Iterable[str | int]:
    match evidence:
        case Record():
            vendors = dict.fromkeys(('', evidence.vendor_id))  # once, where it has none
            return [f'kernel {evidence.subsystem} {vendor}' for vendor in vendors]
        case I2cReading():
            return [evidence.address]
        case SpiReading():
            return ['spi']
    return ['serial']
