# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
What devices offer, what somebody requires, and which device fits best.

A requirement is written `name`, or `name{attribute op value, ...}` with the operators = != >= <= > <,
as `video_capture{width>=1280, fps>=30}`. A device may offer a capability in several ways (the modes
of a camera): one of them must meet every constraint of a requirement.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
import difflib
import math
import operator
import re

#: A single value, or all the values that can be chosen, as the baud rates of a port.
Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class AttributeKind:
    """What an attribute is: the type of its values (int counts as float), and their unit."""

    type: type[bool] | type[float] | type[str]
    unit: str
    description: str


#: Every attribute that an offer can have; units are SI unless a field of robotics has its own.
ATTRIBUTES: Mapping[str, AttributeKind] = {
    'width': AttributeKind(float, 'px', 'columns of an image'),
    'height': AttributeKind(float, 'px', 'rows of an image'),
    'fps': AttributeKind(float, 'Hz', 'images a second, at most'),
    'pixel_format': AttributeKind(str, '', 'four-character code of the V4L2 pixel format'),
    'baud': AttributeKind(float, 'Bd', 'speed of a serial line'),
    'protocol': AttributeKind(str, '', 'what is spoken on a serial line, as nmea'),
    'rate': AttributeKind(float, 'Hz', 'measurements a second, at most'),
    'range': AttributeKind(float, 'm', 'farthest that is measured'),
    'acceleration': AttributeKind(float, 'g', 'greatest acceleration that is measured'),
    'angular_rate': AttributeKind(float, 'deg/s', 'greatest rate of turn that is measured'),
    'voltage': AttributeKind(float, 'V', 'highest voltage that is measured or borne'),
    'resolution_bits': AttributeKind(float, 'bit', 'bits of a measurement'),
    'channels': AttributeKind(float, '', 'inputs or outputs of the same kind'),
    'sample_rate': AttributeKind(float, 'Hz', 'samples of sound a second'),
    'capacity': AttributeKind(float, 'B', 'size of a storage'),
    'axes': AttributeKind(float, '', 'axes of an input device or an inertial sensor'),
    'buttons': AttributeKind(float, '', 'keys and buttons of an input device'),
    'speed': AttributeKind(float, 'bit/s', 'speed of a link'),
    'frequency': AttributeKind(float, 'Hz', 'clock or output frequency, at most'),
    'removable': AttributeKind(bool, '', 'whether the medium can be taken out'),
    'rotational': AttributeKind(bool, '', 'whether a disk turns'),
    'wireless': AttributeKind(bool, '', 'whether a link is by radio'),
    'mac': AttributeKind(str, '', 'hardware address of a network interface, in lower case'),
}
OPERATORS: Mapping[str, Callable[[Scalar, Scalar], bool]] = {
    '>=': operator.ge, '<=': operator.le, '!=': operator.ne, '=': operator.eq, '>': operator.gt,
    '<': operator.lt}
MAX_TEXT, MAX_CONSTRAINTS = 512, 16
_NAME = re.compile(r'[a-z][a-z0-9_]{0,63}')
_CONSTRAINT = re.compile(r'\s*([a-z][a-z0-9_]{0,63})\s*(>=|<=|!=|=|>|<)\s*([^,{}]*?)\s*(,|\})')


class CapabilityError(ValueError):
    """A capability or a requirement that is not well formed; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One way in which a device has a capability; `attributes` are in the order of their names."""

    capability: str
    attributes: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, capability: str, **attributes: Value) -> Offer:
        """Return a checked offer; raise CapabilityError."""
        if not _NAME.fullmatch(capability):
            raise CapabilityError(f"'{capability[:80]}' is not a capability: a-z, 0-9 and _")
        for name, value in attributes.items():
            for one in value if isinstance(value, tuple) else (value,):
                _check(name, one)
        return cls(capability, tuple(sorted(attributes.items())))

    def __str__(self) -> str:
        """Return it as people write it."""
        inside = ', '.join(f'{name}={_text(value)}' for name, value in self.attributes)
        return f'{self.capability}{{{inside}}}' if inside else self.capability


@dataclass(frozen=True, slots=True)
class Constraint:
    """One condition on an attribute."""

    attribute: str
    operator: str
    value: Scalar

    def met(self, offer: Offer) -> bool:
        """Return whether the offer meets it; an attribute that is not told meets nothing."""
        told = dict(offer.attributes).get(self.attribute)
        if told is None:
            return False
        compare = OPERATORS[self.operator]
        return any(compare(value, self.value) for value in (told if isinstance(told, tuple) else (told,)))

    def __str__(self) -> str:
        """Return it as people write it."""
        return f'{self.attribute}{self.operator}{_text(self.value)}'


@dataclass(frozen=True, slots=True)
class Requirement:
    """A capability with all the constraints that one offer of it must meet."""

    capability: str
    constraints: tuple[Constraint, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read a requirement; raise CapabilityError that names the column (from 1) and the remedy."""
        if len(text) > MAX_TEXT:
            raise CapabilityError(f'a requirement has at most {MAX_TEXT} characters, not {len(text)}')
        shown, start = text.strip(), len(text) - len(text.lstrip())
        name = _NAME.match(shown)
        if name is None:
            raise CapabilityError(f"'{text[:80]}' must begin with the name of a capability (a-z, 0-9 and _), "
                                  f'column {start + 1}')
        rest = shown[name.end():].lstrip()
        position = start + len(shown) - len(rest)
        if not rest:
            return cls(name[0])
        if not rest.startswith('{'):
            raise CapabilityError(f"'{text[:80]}': '{rest[:20]}' is not expected at column {position + 1}: "
                                  'write constraints in braces, as serial{baud=115200}')
        return cls(name[0], tuple(_constraints(text, position + 1, start + len(shown))))

    def lack(self, offers: Iterable[Offer]) -> int:
        """Return how much the best of the offers lacks; a capability that is not there lacks more."""
        unmet = [sum(not constraint.met(offer) for constraint in self.constraints)
                 for offer in offers if offer.capability == self.capability]
        return min(unmet, default=1 + len(self.constraints))

    def missing(self, offers: Iterable[Offer]) -> str:
        """Return why none of the offers meets it, and what comes nearest; empty where one does."""
        same = [offer for offer in offers if offer.capability == self.capability]
        if not same:
            return f'{self}: not offered'
        unmet = min(([c for c in self.constraints if not c.met(offer)] for offer in same), key=len)
        if not unmet:
            return ''
        has = '; '.join(f'{c.attribute} is {_offered(same, c.attribute)}' for c in unmet)
        return f'{self}: {has}'

    def __str__(self) -> str:
        """Return it as people write it."""
        inside = ', '.join(map(str, self.constraints))
        return f'{self.capability}{{{inside}}}' if inside else self.capability


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a device brings to a negotiation; `trust` (0..1) is how sure it is, and how well it works."""

    id: str
    offers: tuple[Offer, ...]
    trust: float


@dataclass(frozen=True, slots=True)
class Match:
    """One device with its score (0..1) and how it came about; `missing` are unmet requirements."""

    id: str
    score: float
    explanation: str
    missing: tuple[str, ...] = ()


def negotiate(required: Sequence[Requirement], preferred: Sequence[Requirement],
              candidates: Iterable[Candidate]) -> tuple[list[Match], Match | None]:
    """
    Return the devices that meet all that is required, the best first, and the nearest miss.

    The score is trust times (1 + share of the preferred that is met) / 2: a device without any of
    the preferences is worth half of one that has all. Equal scores go by id. The nearest miss is
    the device that lacks least, and None where some device fits or there is none at all.
    """
    ranked = []
    for candidate in candidates:
        missing = tuple(filter(None, (r.missing(candidate.offers) for r in required)))
        match = _match(candidate, preferred, missing)
        ranked.append((sum(r.lack(candidate.offers) for r in required), -match.score, match.id, match))
    ranked.sort(key=lambda item: item[:3])
    fitting = [match for lack, _, _, match in ranked if not lack]
    return fitting, ranked[0][3] if ranked and not fitting else None


def _match(candidate: Candidate, preferred: Sequence[Requirement], missing: tuple[str, ...]) -> Match:
    unmet = list(filter(None, (r.missing(candidate.offers) for r in preferred)))
    met = 1.0 - len(unmet) / len(preferred) if preferred else 1.0
    explanation = f'trust {candidate.trust:.2f}'
    if preferred:
        explanation += f', {len(preferred) - len(unmet)} of {len(preferred)} preferences met'
    if unmet:
        explanation += f" ({'; '.join(unmet)})"
    return Match(candidate.id, candidate.trust * (1.0 + met) / 2.0, explanation, missing)


def _constraints(text: str, position: int, end: int) -> Iterable[Constraint]:
    """Read what stands between the braces, from behind the first one on."""
    for _ in range(MAX_CONSTRAINTS):
        found = _CONSTRAINT.match(text, position, end)
        if found is None:
            raise CapabilityError(f"'{text[:80]}': at column {position + 1} a constraint is expected, as "
                                  'width>=1280, and a closing brace at the end')
        name, sign, value, closing = found.groups()
        yield _constraint(name, sign, value, found.start(1) + 1)
        position = found.end()
        if closing == '}':
            break
    else:
        raise CapabilityError(f"'{text[:80]}': a requirement has at most {MAX_CONSTRAINTS} constraints")
    if position != end:
        raise CapabilityError(f"'{text[:80]}': nothing may follow the closing brace, column {position + 1}")


def _constraint(name: str, sign: str, text: str, column: int) -> Constraint:
    kind = _kind(name)
    value: Scalar = text
    if kind.type is bool:
        value = {'true': True, 'false': False}.get(text, text)
    elif kind.type is float:
        try:
            value = float(text)
        except ValueError:
            unit = f' [{kind.unit}]' if kind.unit else ''
            raise CapabilityError(f"'{name}' at column {column} is a number{unit}, not '{text[:40]}': write "
                                  'it without a unit') from None
    if kind.type is not float and sign not in ('=', '!='):
        raise CapabilityError(f"'{name}' at column {column} can be compared with = and != only")
    _check(name, value)
    return Constraint(name, sign, value)


def _kind(name: str) -> AttributeKind:
    if name not in ATTRIBUTES:
        near = difflib.get_close_matches(name, ATTRIBUTES, 1)
        remedy = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(ATTRIBUTES)}"
        raise CapabilityError(f"unknown attribute '{name}': {remedy}")
    return ATTRIBUTES[name]


def _check(name: str, value: object) -> None:
    kind = _kind(name)
    if kind.type is float:
        sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    else:
        sound = isinstance(value, kind.type) and len(str(value)) <= 64
    if not sound:
        wanted = {float: 'a finite number', bool: 'true or false', str: 'a text'}[kind.type]
        raise CapabilityError(f"the attribute '{name}' must be {wanted}, not {str(value)[:40]!r}")


def _offered(offers: Sequence[Offer], attribute: str) -> str:
    told = [dict(offer.attributes).get(attribute) for offer in offers]
    values = {one for value in told if value is not None
              for one in (value if isinstance(value, tuple) else (value,))}
    if not values:
        return 'not told'
    ordered = sorted(values, key=lambda value: (str(type(value)), value))
    if len(ordered) > 4:
        return f'{_text(ordered[0])} to {_text(ordered[-1])}'
    return ' or '.join(map(_text, ordered))


def _text(value: Value) -> str:
    if isinstance(value, tuple):
        return '|'.join(map(_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f'{value:g}' if isinstance(value, float) and abs(value) < 1e6 else str(value)
