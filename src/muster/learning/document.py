# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A YAML document read strictly: every error names the file, the line, the key and the remedy."""
from __future__ import annotations

from collections.abc import Iterator
import difflib
import math
from pathlib import Path
from typing import Any

import yaml

MAXIMUM_BYTES = 65536
MAXIMUM_DEPTH = 16
_REQUIRED: Any = object()
_TEXT = 'tag:yaml.org,2002:str'
_BOOLEAN = 'tag:yaml.org,2002:bool'


class SpecificationError(Exception):
    """A specification that cannot be used; the message says where and what to do."""


class Section:
    """
    One mapping of the document, whose keys are taken one by one.

    `close()` refuses the keys that nobody took, so a mistyped key is never silently ignored.
    """

    def __init__(self, file: str, path: str, node: yaml.Node) -> None:
        """Read the mapping `node` that stands at `path` of `file`."""
        self.file, self.path, self.node = file, path, node
        self._rest: dict[str, yaml.Node] = {}
        self._all: dict[str, yaml.Node] = {}
        self._known: list[str] = []
        if not isinstance(node, yaml.MappingNode):
            raise self.error('must be a mapping of keys to values', node)
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error('a key must be plain text', key)
            if len(key.value) > 255:
                raise self.error('a key has at most 255 characters', key)
            if key.value in self._rest:
                raise self.error(f"key '{key.value}' is given twice: remove one", key)
            self._rest[key.value] = self._all[key.value] = value

    def error(self, problem: str, node: yaml.Node | None = None, key: str = '') -> SpecificationError:
        """Build the error that points at `node`, else at the value of `key`, else at this mapping."""
        line = (node or self._all.get(key, self.node)).start_mark.line + 1
        where = '.'.join(part for part in (self.path, key) if part) or 'the document'
        return SpecificationError(f'{self.file}, line {line}: {where}: {problem}')

    def _take(self, key: str, required: bool) -> yaml.Node | None:
        self._known.append(key)
        node = self._rest.pop(key, None)
        if node is None and required:
            raise self.error(f"key '{key}' is missing: add it")
        return node

    def text(self, key: str, default: str = _REQUIRED, choices: tuple[str, ...] = (),
             longest: int = 255) -> str:
        """Take a text of 1..`longest` characters, one of `choices` if there are any."""
        node = self._take(key, default is _REQUIRED)
        if node is None:
            return default
        if not isinstance(node, yaml.ScalarNode) or node.tag != _TEXT or not 0 < len(node.value) <= longest:
            raise self.error(f'must be text of 1..{longest} characters (put it in quotes)', node, key)
        if choices and node.value not in choices:
            near = difflib.get_close_matches(node.value, choices, n=1)
            raise self.error(f"must be one of {', '.join(choices)}, not '{node.value}'"
                             + (f"; did you mean '{near[0]}'?" if near else ''), node, key)
        return node.value

    def flag(self, key: str, default: bool) -> bool:
        """Take true or false."""
        node = self._take(key, False)
        if node is None:
            return default
        if not isinstance(node, yaml.ScalarNode) or node.tag != _BOOLEAN:
            raise self.error('must be true or false', node, key)
        return node.value.lower() in ('true', 'yes', 'on')

    def number(self, key: str, default: float | None = _REQUIRED, minimum: float = -math.inf,
               maximum: float = math.inf) -> Any:
        """Take a finite number within minimum..maximum."""
        node = self._take(key, default is _REQUIRED)
        return default if node is None else self._number(node, key, minimum, maximum)

    def integer(self, key: str, default: int | None = _REQUIRED, minimum: float = -math.inf,
                maximum: float = math.inf) -> Any:
        """Take a whole number within minimum..maximum."""
        node = self._take(key, default is _REQUIRED)
        return default if node is None else self._integer(node, key, minimum, maximum)

    def integers(self, key: str, default: tuple[int, ...], minimum: float, maximum: float) -> tuple[int, ...]:
        """Take a list of 1..8 whole numbers within minimum..maximum."""
        node = self._take(key, False)
        if node is None:
            return default
        if not isinstance(node, yaml.SequenceNode) or not 1 <= len(node.value) <= 8:
            raise self.error('must be a list of 1..8 whole numbers, as [64, 64]', node, key)
        return tuple(self._integer(item, key, minimum, maximum) for item in node.value)

    def _integer(self, node: yaml.Node, key: str, minimum: float, maximum: float) -> int:
        value = self._number(node, key, minimum, maximum)
        if value != int(value):
            raise self.error(f'must be a whole number, not {value:g}', node, key)
        return int(value)

    def numbers(self, key: str, length: int | None = None, largest: float = math.inf) -> Any:
        """Take a list of 1..64 finite numbers, of `length` if given; None where it is absent."""
        node = self._take(key, False)
        if node is None:
            return None
        if not isinstance(node, yaml.SequenceNode) or not 1 <= len(node.value) <= 64 \
                or length not in (None, len(node.value)):
            raise self.error(f"must be a list of {length or '1..64'} numbers, as [0.0, 1.0]", node, key)
        return tuple(self._number(item, key, -largest, largest) for item in node.value)

    def _number(self, node: yaml.Node, key: str, minimum: float = -math.inf,
                maximum: float = math.inf) -> float:
        try:  # YAML 1.1 takes 1e-3 for text: read the number here
            value = float(node.value) if isinstance(node, yaml.ScalarNode) else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error('must be a finite number', node, key)
        if not minimum <= value <= maximum:
            raise self.error(f'must be within {minimum:g}..{maximum:g}, not {value:g}', node, key)
        return value

    def section(self, key: str) -> Section:
        """Take a mapping."""
        section = self.optional_section(key)
        if section is None:
            raise self.error(f"key '{key}' is missing: add it")
        return section

    def optional_section(self, key: str) -> Section | None:
        """Take a mapping; None where it is absent."""
        node = self._take(key, False)
        return None if node is None else Section(self.file, f'{self.path}.{key}'.strip('.'), node)

    def sections(self, key: str, maximum: int) -> Iterator[Section]:
        """Take a list of 1..maximum mappings."""
        node = self._take(key, True)
        if not isinstance(node, yaml.SequenceNode) or not 1 <= len(node.value) <= maximum:
            raise self.error(f'must be a list of 1..{maximum} entries', node, key)
        for index, item in enumerate(node.value):
            yield Section(self.file, f'{self.path}.{key}[{index}]'.strip('.'), item)

    def is_list(self, key: str) -> bool:
        """Return whether a list is given for `key`, which is not taken."""
        return isinstance(self._rest.get(key), yaml.SequenceNode)

    def is_text(self, key: str) -> bool:
        """Return whether a single value is given for `key`, which is not taken."""
        return isinstance(self._rest.get(key), yaml.ScalarNode)

    def remaining(self) -> list[str]:
        """Return the keys not taken yet, in the order of the file."""
        return list(self._rest)

    def close(self) -> None:
        """Refuse the keys that nobody took."""
        for key in self._rest:
            near = difflib.get_close_matches(key, self._known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(self._known))}"
            raise self.error(f"unknown key '{key}'; {hint}", self._all[key])


def _line(mark: Any) -> int:
    """Return the line of a mark as people count, 0 where the parser left none."""
    return 0 if mark is None else mark.line + 1


def _check_events(path: Path, text: str) -> None:
    """Refuse what lets a small file cost much: aliases, and nesting whose parsing is quadratic."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        where = f'{path}, line {_line(event.start_mark)}'
        if depth > MAXIMUM_DEPTH:
            raise SpecificationError(f'{where}: nested more than {MAXIMUM_DEPTH} levels')
        if isinstance(event, yaml.AliasEvent):
            raise SpecificationError(f"{where}: aliases are not allowed: write out what '*{event.anchor}' "
                                     'stands for')


def read_document(path: Path) -> Section:
    """
    Return the top mapping of a YAML file of at most 64 KiB.

    Anchors and aliases are refused, because a few of them expand to any size. Raises
    SpecificationError.
    """
    try:
        with path.open('rb') as file:
            content = file.read(MAXIMUM_BYTES + 1)
        if len(content) > MAXIMUM_BYTES:
            raise SpecificationError(f'{path}: larger than {MAXIMUM_BYTES} bytes')
        text = content.decode()
        _check_events(path, text)
        node = yaml.compose(text, yaml.SafeLoader)
    except OSError as error:
        raise SpecificationError(f'{path}: cannot be read: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise SpecificationError(f'{path}: is not UTF-8 text') from error
    except yaml.MarkedYAMLError as error:
        line = _line(error.problem_mark or error.context_mark)
        raise SpecificationError(f'{path}, line {line}: is not YAML: {error.problem}') from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SpecificationError(f'{path}: is not YAML: {error}') from error
    if node is None:
        raise SpecificationError(f'{path}: is empty')
    return Section(str(path), '', node)
