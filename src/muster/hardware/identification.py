# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What kind of device a kernel record stands for, by rules that are data (config/devices/*.yaml)."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
import re
from typing import Any

from muster.hardware.devices import UNKNOWN
import yaml

MAX_FILE = 1 << 20  # bytes
WORD = re.compile(r'[a-z][a-z0-9_]{0,63}')
MATCH_TEXTS = ('subsystem', 'device_type', 'path', 'name', 'driver', 'vendor_id', 'product_id', 'class')
MATCH_TABLES = ('attributes', 'properties')
RULE_KEYS = ('match', 'type', 'name', 'capabilities', 'confidence', 'source')


class RuleError(ValueError):
    """A rule file is wrong; the message names file, line and key."""


@dataclass(frozen=True)
class Record:
    """One device of the kernel, as sysfs and udev tell it; `path` begins with /devices."""

    path: str
    subsystem: str
    device_type: str = ''
    driver: str = ''
    node: str = ''
    properties: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the kernel's name, as ttyUSB0."""
        return self.path.rpartition('/')[2]

    @property
    def vendor_id(self) -> str:
        """Return 4 hexadecimal digits in lower case, or an empty string."""
        return self._number('idVendor', 'vendor')

    @property
    def product_id(self) -> str:
        """Return 4 hexadecimal digits in lower case, or an empty string."""
        return self._number('idProduct', 'device')

    def _number(self, usb: str, pci: str) -> str:
        # SCSI has a `vendor` too, a name; that of PCI is a number with its prefix.
        text = self.attributes.get(usb) or self.attributes.get(pci, '').partition('0x')[2]
        digits = text.strip().lower()
        return digits if re.fullmatch(r'[0-9a-f]{4}', digits) else ''

    @property
    def class_code(self) -> str:
        """Return class, subclass and protocol in 6 hexadecimal digits (USB-IF, PCI-SIG), or ''."""
        kind = 'bInterface' if self.device_type == 'usb_interface' else 'bDevice'
        usb = [self.attributes.get(kind + part, '') for part in ('Class', 'SubClass', 'Protocol')]
        return ''.join(usb).lower() or self.attributes.get('class', '').removeprefix('0x').lower()


@dataclass(frozen=True)
class Rule:
    """All of `match` on one record claims `type` with `confidence`, and `capabilities`."""

    match: Mapping[str, tuple[str, ...] | Mapping[str, tuple[str, ...]]]
    type: str
    confidence: float
    source: str
    name: str = ''
    capabilities: tuple[str, ...] = ()

    def matches(self, record: Record) -> bool:
        """Return whether every key matches; a text may be any one of its alternatives."""
        return all(self._key_matches(key, wanted, record) for key, wanted in self.match.items())

    @staticmethod
    def _key_matches(key: str, wanted: Any, record: Record) -> bool:
        if key in MATCH_TABLES:
            table = getattr(record, key)
            return all(table.get(name) in values for name, values in wanted.items())
        if key == 'class':  # a prefix: 0e, 0e01 or 0e0100
            return record.class_code.startswith(wanted)
        value = getattr(record, key)
        return any(fnmatchcase(value, pattern) for pattern in wanted)


@dataclass(frozen=True)
class Claim:
    """What the rules say of a device; `confidence` 0..1, `source` says who says so."""

    type: str = UNKNOWN
    confidence: float = 0.0
    name: str = ''
    capabilities: tuple[str, ...] = ()
    source: str = ''


class Rules:
    """The rules of several files; on equal confidence the later one wins, so that operators can."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Sort the rules by subsystem."""
        self._by_subsystem: defaultdict[str, list[Rule]] = defaultdict(list)
        for rule in rules:
            for subsystem in rule.match['subsystem']:
                self._by_subsystem[subsystem].append(rule)

    @classmethod
    def load(cls, files: Iterable[Path]) -> Rules:
        """Read rule files; RuleError where one cannot be read or is wrong."""
        return cls(rule for file in files for rule in read_rules(file))

    def identify(self, records: Iterable[Record]) -> Claim:
        """Return the most certain claim for the records of one device, with all capabilities."""
        matching = [rule for record in records for rule in self._by_subsystem.get(record.subsystem, ())
                    if rule.matches(record)]
        if not matching:
            return Claim()
        ranked = sorted(matching, key=lambda rule: rule.confidence)
        best = ranked[-1]
        name = next((rule.name for rule in reversed(ranked) if rule.name), '')
        capabilities = tuple(sorted({c for rule in matching for c in rule.capabilities}))
        return Claim(best.type, best.confidence, name, capabilities, best.source)


def read_rules(file: Path) -> list[Rule]:
    """Read one file; RuleError names file, line and key of what is wrong."""
    try:
        if file.stat().st_size > MAX_FILE:
            raise RuleError(f'{file}: larger than {MAX_FILE} bytes')
        root = yaml.compose(file.read_text(encoding='utf-8'), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(f'{file}: cannot be read: {error}') from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RuleError(f'{file}: not YAML: {" ".join(str(error).split())}') from error
    reader = _Reader(file)
    if root is None:
        return []
    top = reader.mapping(root, ('rules',), ('rules',))
    return [reader.rule(node) for node in reader.sequence(top['rules'], 'rules')]


class _Reader:
    """Reads YAML nodes strictly; the nodes, unlike loaded values, know their lines."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def fail(self, node: yaml.Node, key: str, reason: str) -> RuleError:
        return RuleError(f"{self._file}:{node.start_mark.line + 1}: '{key}' {reason}")

    def mapping(self, node: yaml.Node, allowed: tuple[str, ...] = (), required: tuple[str, ...] = (),
                key: str = 'file') -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, key, 'must be a mapping')
        result: dict[str, yaml.Node] = {}
        for name_node, value in node.value:
            name = str(name_node.value)
            if allowed and name not in allowed:
                raise self.fail(name_node, name, f'is unknown here; known: {", ".join(allowed)}')
            if name in result:
                raise self.fail(name_node, name, 'is given twice')
            result[name] = value
        for name in required:
            if name not in result:
                raise self.fail(node, name, 'is missing')
        return result

    def sequence(self, node: yaml.Node, key: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.fail(node, key, 'must be a list')
        return list(node.value)

    def text(self, node: yaml.Node, key: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or not 0 < len(node.value) <= 256:
            raise self.fail(node, key, 'must be a text of 1..256 characters')
        # Unquoted, 0e01 or 1546 would be numbers to other readers of the file.
        if node.tag != 'tag:yaml.org,2002:str':
            raise self.fail(node, key, f'must be a text: quote it as {node.value!r}')
        return str(node.value)

    def texts(self, node: yaml.Node, key: str) -> tuple[str, ...]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return tuple(self.text(item, key) for item in nodes)

    def word(self, node: yaml.Node, key: str) -> str:
        value = self.text(node, key)
        if not WORD.fullmatch(value):
            raise self.fail(node, key, f'must be lower-case letters, digits and underscores, not {value!r}')
        return value

    def rule(self, node: yaml.Node) -> Rule:
        given = self.mapping(node, RULE_KEYS, ('match', 'type', 'confidence', 'source'), 'rules')
        wanted = self.mapping(given['match'], MATCH_TEXTS + MATCH_TABLES, ('subsystem',), 'match')
        match: dict[str, Any] = {}
        for key, value in wanted.items():
            match[key] = self.texts(value, key) if key in MATCH_TEXTS else {
                name: self.texts(item, name) for name, item in self.mapping(value, key=key).items()}
        capabilities = self.sequence(given['capabilities'], 'capabilities') if 'capabilities' in given else []
        return Rule(match, self.word(given['type'], 'type'), self.confidence(given['confidence']),
                    self.text(given['source'], 'source'),
                    self.text(given['name'], 'name') if 'name' in given else '',
                    tuple(self.word(item, 'capabilities') for item in capabilities))

    def confidence(self, node: yaml.Node) -> float:
        try:
            value = float(node.value)
        except (TypeError, ValueError):
            value = -1.0
        if not 0.0 < value <= 1.0:
            raise self.fail(node, 'confidence', f'must be a number above 0 and up to 1, not {node.value!r}')
        return value
