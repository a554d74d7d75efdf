# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Identification rules read from YAML, strictly: every error names file, line, key and the remedy."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
import re
from typing import Any

from muster.hardware.capabilities import ATTRIBUTES, Offer, Scalar
from muster.hardware.evidence import RegisterRead
from muster.hardware.matching import (
    CHECKS, I2cMatch, KernelMatch, Match, RegisterValue, reply_pattern, SerialMatch, SpiMatch)
import yaml

#: The loader in C is ten times as fast.
LOADER: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
MAX_FILE = 1 << 20   # bytes
MAX_DEPTH = 16       # of lists and mappings in one another
MAX_RULES = 4096     # of one file
MAX_ITEMS = 64       # of one list or table
MAX_TEXT = 256       # characters
MAX_SEND = 64        # bytes of a probe
WORD = re.compile(r'[a-z][a-z0-9_]{0,63}')
USB_ID = re.compile(r'[0-9a-f]{4}:[0-9a-f]{4}')
ADDRESSES = re.compile(r'(0x[0-9a-f]{2})(?:-(0x[0-9a-f]{2}))?')
QUANTITY = re.compile(r'(-?\d{1,15}(?:\.\d{1,15})?)(?: (\S+))?')
MATCH_TEXTS = ('device_type', 'path', 'name', 'driver', 'vendor_id', 'product_id')
MATCH_TABLES = ('attributes', 'properties')
MATCH_KERNEL = ('subsystem', *MATCH_TEXTS, 'class', *MATCH_TABLES)
MATCH_BUSES = ('i2c', 'spi', 'serial')
RULE_KEYS = ('match', 'type', 'name', 'vendor', 'capabilities', 'confidence', 'source', 'quote', 'bridge')


class RuleError(ValueError):
    """A rule file is wrong; the message names file, line and key, and what would be right."""


@dataclass(frozen=True)
class Rule:
    """
    Evidence that fits `match` speaks for `name` and `type` with `confidence` (0..1).

    `source` says who says so, `quote` what is written there. A `bridge` is a device behind which
    there is another one, unknown until it is asked. `place` is the file and line.
    """

    match: Match
    type: str
    confidence: float
    source: str
    name: str = ''
    vendor: str = ''
    capabilities: tuple[Offer, ...] = ()
    quote: str = ''
    bridge: bool = False
    place: str = ''


def read_rules(file: Path) -> list[Rule]:
    """Read one file; RuleError names file, line and key of what is wrong."""
    try:
        if file.stat().st_size > MAX_FILE:
            raise RuleError(f'{file}: larger than {MAX_FILE} bytes: split it')
        text = file.read_text(encoding='utf-8')
        if not _shallow(text):
            raise RuleError(f'{file}: nested deeper than {MAX_DEPTH} levels: no rule needs that')
        root = yaml.compose(text, Loader=LOADER)
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(f'{file}: cannot be read: {error}') from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RuleError(f'{file}: not YAML: {" ".join(str(error).split())}') from error
    reader = _Reader(file)
    if root is None:
        return []
    top = reader.mapping(root, 'file', ('rules',), ('rules',))
    return [reader.rule(node) for node in reader.sequence(top['rules'], 'rules', MAX_RULES)]


def _shallow(text: str) -> bool:
    """Return whether it may be composed: that is recursive, in C without a check of the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            return False
    return True


class _Reader:
    """Reads YAML nodes; these, unlike loaded values, know their lines."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def fail(self, node: yaml.Node, key: str, reason: str) -> RuleError:
        return RuleError(f"{self._file}:{node.start_mark.line + 1}: '{key}' {reason}")

    # Plain values -----------------------------------------------------------------------------
    def mapping(self, node: yaml.Node, key: str, allowed: tuple[str, ...] = (),
                required: tuple[str, ...] = ()) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, key, 'must be a mapping, as {key: value}')
        if len(node.value) > MAX_ITEMS:
            raise self.fail(node, key, f'must have at most {MAX_ITEMS} keys')
        result: dict[str, yaml.Node] = {}
        for name_node, value in node.value:
            name = str(name_node.value)[:MAX_TEXT]
            if allowed and name not in allowed:
                raise self.fail(name_node, name, f'is unknown here; known: {", ".join(allowed)}')
            if name in result:
                raise self.fail(name_node, name, 'is given twice: remove one')
            result[name] = value
        for name in required:
            if name not in result:
                raise self.fail(node, name, f"is missing in '{key}': add it")
        return result

    def sequence(self, node: yaml.Node, key: str, limit: int = MAX_ITEMS) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode) or len(node.value) > limit:
            raise self.fail(node, key, f'must be a list of at most {limit} entries, as [a, b]')
        return list(node.value)

    def each(self, node: yaml.Node, key: str) -> list[yaml.Node]:
        return self.sequence(node, key) if isinstance(node, yaml.SequenceNode) else [node]

    def text(self, node: yaml.Node, key: str, limit: int = MAX_TEXT) -> str:
        if not isinstance(node, yaml.ScalarNode) or not 0 < len(node.value) <= limit:
            raise self.fail(node, key, f'must be a text of 1..{limit} characters')
        # Unquoted, 0e01 or 1546 would be numbers to other readers of the file.
        if node.tag != 'tag:yaml.org,2002:str':
            raise self.fail(node, key, f'must be a text: quote it as {node.value!r}')
        return str(node.value)

    def texts(self, node: yaml.Node, key: str) -> tuple[str, ...]:
        return tuple(self.text(item, key) for item in self.each(node, key))

    def word(self, node: yaml.Node, key: str) -> str:
        value = self.text(node, key)
        if not WORD.fullmatch(value):
            raise self.fail(node, key, f'must be lower-case letters, digits and underscores, not {value!r}')
        return value

    def integer(self, node: yaml.Node, key: str, least: int, most: int) -> int:
        if isinstance(node, yaml.ScalarNode) and node.tag == 'tag:yaml.org,2002:int' and len(node.value) < 20:
            try:
                value = int(node.value, 0)
            except ValueError:  # YAML's octal and base-60 numbers
                value = -1
            if least <= value <= most:
                return value
        raise self.fail(node, key, f'must be a whole number from {least} to {most} (0x{least:x}..0x{most:x})')

    def optional(self, given: dict[str, yaml.Node], key: str, least: int, most: int, default: int) -> int:
        return self.integer(given[key], key, least, most) if key in given else default

    def choice(self, node: yaml.Node, key: str, allowed: tuple[str, ...]) -> str:
        value = self.text(node, key)
        if value not in allowed:
            raise self.fail(node, key, f'must be one of {", ".join(allowed)}, not {value!r}')
        return value

    def usb_id(self, node: yaml.Node, key: str) -> str:
        value = self.text(node, key)
        if not USB_ID.fullmatch(value):
            raise self.fail(node, key, f"must be in hexadecimal digits, as '1a86:7523', not {value!r}")
        return value

    def octets(self, node: yaml.Node, key: str, length: int = 0) -> bytes:
        text = self.text(node, key)
        try:
            data = bytes.fromhex(text)
        except ValueError:
            data = b''
        if not 0 < len(data) <= MAX_SEND or (length and len(data) != length):
            wanted = f'{length}' if length else f'1..{MAX_SEND}'
            raise self.fail(node, key, f"must be {wanted} bytes in hexadecimal, as 'a5 50', not {text!r}")
        return data

    def confidence(self, node: yaml.Node) -> float:
        try:
            value = float(node.value)
        except (TypeError, ValueError):
            value = -1.0
        if not 0.0 < value <= 1.0:
            raise self.fail(node, 'confidence', f'must be a number above 0 and up to 1, not {node.value!r}')
        return value

    # Rules ------------------------------------------------------------------------------------
    def rule(self, node: yaml.Node) -> Rule:
        given = self.mapping(node, 'rules', RULE_KEYS, ('match', 'type', 'confidence', 'source'))
        texts = {key: self.text(given[key], key)
                 for key in ('source', 'name', 'vendor', 'quote') if key in given}
        bridge = 'bridge' in given and self.truth(given['bridge'], 'bridge')
        match = self.match(given['match'])
        if not isinstance(match, KernelMatch) and 'name' not in given:
            raise self.fail(node, 'name', 'is missing: what answers on I2C, SPI or a serial line has a name')
        return Rule(match, self.word(given['type'], 'type'), self.confidence(given['confidence']),
                    capabilities=self.capabilities(given['capabilities']) if 'capabilities' in given else (),
                    bridge=bridge, place=f'{self._file}:{node.start_mark.line + 1}', **texts)

    def truth(self, node: yaml.Node, key: str) -> bool:
        if not isinstance(node, yaml.ScalarNode) or node.value not in ('true', 'false'):
            raise self.fail(node, key, 'must be true or false')
        return bool(node.value == 'true')

    def match(self, node: yaml.Node) -> Match:
        given = self.mapping(node, 'match', (*MATCH_BUSES, 'usb', *MATCH_KERNEL))
        readers: dict[str, Callable[[yaml.Node], Match]] = {
            'i2c': self.i2c, 'spi': self.spi, 'serial': self.serial}
        for bus in given.keys() & readers.keys():
            if len(given) > 1:
                raise self.fail(node, bus, 'must be the only key of its match: make two rules')
            return readers[bus](given[bus])
        return self.kernel(node, given)

    def kernel(self, node: yaml.Node, given: dict[str, yaml.Node]) -> KernelMatch:
        texts = {key: self.texts(given[key], key) for key in MATCH_TEXTS if key in given}
        if 'usb' in given:
            if set(given) - {'usb', 'class', *MATCH_TABLES}:
                raise self.fail(node, 'usb', 'goes together with class, attributes and properties alone')
            vendor, _, product = self.usb_id(given['usb'], 'usb').partition(':')
            texts = {'device_type': ('usb_device',), 'vendor_id': (vendor,), 'product_id': (product,)}
        elif 'subsystem' not in given:
            raise self.fail(node, 'subsystem', 'is missing: add it, or one of usb, i2c, spi, serial')
        tables = {key: {name: self.texts(item, name) for name, item in self.mapping(given[key], key).items()}
                  for key in MATCH_TABLES if key in given}
        return KernelMatch(self.texts(given['subsystem'], 'subsystem') if 'subsystem' in given else ('usb',),
                           texts, tables, self.texts(given['class'], 'class') if 'class' in given else ())

    def i2c(self, node: yaml.Node) -> I2cMatch:
        given = self.mapping(node, 'i2c', ('address', 'registers'), ('address',))
        addresses = tuple(a for item in self.each(given['address'], 'address') for a in self.addresses(item))
        registers = self.sequence(given['registers'], 'registers', 8) if 'registers' in given else []
        return I2cMatch(addresses, tuple(self.register(item) for item in registers))

    def addresses(self, node: yaml.Node) -> range:
        # 0x00..0x07 and 0x78..0x7f are reserved (UM10204, section 3.1.12).
        found: Any = ADDRESSES.fullmatch(node.value) if isinstance(node, yaml.ScalarNode) else None
        first, last = (int(found[1], 16), int(found[2] or found[1], 16)) if found else (0, 0)
        if not 0x08 <= first <= last <= 0x77:
            raise self.fail(node, 'address', 'must be within 0x08..0x77, as 0x68, [0x68, 0x69] or 0x40-0x4f')
        return range(first, last + 1)

    def register(self, node: yaml.Node) -> RegisterValue:
        given = self.mapping(node, 'registers', ('register', 'value', 'mask', 'width', 'address_bytes'),
                             ('register', 'value'))
        width = self.optional(given, 'width', 1, 4, 1)
        size = self.optional(given, 'address_bytes', 1, 2, 1)
        most = (1 << 8 * width) - 1
        mask = self.optional(given, 'mask', 1, most, most)
        value = self.integer(given['value'], 'value', 0, most)
        if value & ~mask:
            raise self.fail(given['value'], 'value', f'has bits outside the mask 0x{mask:x}: clear them')
        register = self.integer(given['register'], 'register', 0, (1 << 8 * size) - 1)
        return RegisterValue(RegisterRead(size, register, width), value, mask)

    def spi(self, node: yaml.Node) -> SpiMatch:
        required = ('send', 'reply', 'mask')
        given = self.mapping(node, 'spi', (*required, 'mode', 'transfers'), required)
        send = self.octets(given['send'], 'send')
        return SpiMatch(send, self.octets(given['reply'], 'reply', len(send)),
                        self.octets(given['mask'], 'mask', len(send)),
                        self.optional(given, 'mode', 0, 3, 0), self.optional(given, 'transfers', 1, 2, 1))

    def serial(self, node: yaml.Node) -> SerialMatch:
        required = ('reply', 'baud')
        given = self.mapping(node, 'serial', (*required, 'send', 'check', 'adapters'), required)
        reply = self.text(given['reply'], 'reply')
        try:
            reply_pattern(reply)
        except ValueError:
            raise self.fail(given['reply'], 'reply', 'must be hexadecimal bytes, "text", ?? for any byte, at '
                            f'most two * for any few and one @ for a model, not {reply!r}') from None
        baud = self.each(given['baud'], 'baud')
        adapters = self.each(given['adapters'], 'adapters') if 'adapters' in given else []
        return SerialMatch(self.octets(given['send'], 'send') if 'send' in given else b'', reply,
                           self.choice(given['check'], 'check', tuple(CHECKS)) if 'check' in given else '',
                           tuple(self.integer(item, 'baud', 300, 12_000_000) for item in baud),
                           tuple(self.usb_id(item, 'adapters') for item in adapters))

    # Capabilities -----------------------------------------------------------------------------
    def capabilities(self, node: yaml.Node) -> tuple[Offer, ...]:
        if isinstance(node, yaml.SequenceNode):
            words = self.sequence(node, 'capabilities')
            return tuple(Offer(self.word(item, 'capabilities')) for item in words)
        return tuple(self.offer(*item) for item in self.mapping(node, 'capabilities').items())

    def offer(self, name: str, node: yaml.Node) -> Offer:
        if not WORD.fullmatch(name):
            raise self.fail(node, name, 'must be lower-case letters, digits and underscores')
        given = self.mapping(node, name, tuple(ATTRIBUTES))
        return Offer.of(name, **{key: self.attribute(key, value) for key, value in given.items()})

    def attribute(self, key: str, node: yaml.Node) -> Scalar:
        kind = ATTRIBUTES[key]
        if kind.type is bool:
            return self.truth(node, key)
        if kind.type is str:
            return self.text(node, key, 64)
        found: Any = QUANTITY.fullmatch(node.value) if isinstance(node, yaml.ScalarNode) else None
        if found is None or (found[2] or '') != kind.unit:
            raise self.fail(node, key, f"must be a number with its unit, as {f'12 {kind.unit}'.strip()}")
        return float(found[1])
