# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The versions of a model: who is champion, who may become it, and what is kept. No I/O.

Invariants of an `Index`: numbers ascend and are below `next`, and are never given twice; at most one
version is champion; predecessors were champions before it, in the order of `promoted`.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
import re
from typing import Any

from muster.learning.agents.base import count, finite
from muster.learning.models.comparison import compare
from muster.learning.models.errors import ModelError, ModelNotFoundError
import numpy as np

NAME = re.compile(r'[A-Za-z0-9_-]{1,64}')
CHAMPION, PREDECESSOR, CHALLENGER, REJECTED = ROLES = ('champion', 'predecessor', 'challenger', 'rejected')
LATEST = 'latest'
#: The newest returns that are kept of each version's evaluation episodes.
MAXIMUM_RETURNS = 500
MAXIMUM_METRICS = 64
_RESERVED = re.compile(r'champion|latest|v?[0-9]+')


@dataclass(frozen=True)
class Policy:
    """How much evidence a promotion needs, and how much is kept on disk."""

    episodes: int = 20
    """Evaluation episodes that champion and challenger must have, at least."""
    newest: int = 10
    """Versions kept for being new."""
    predecessors: int = 5
    """Former champions kept for rollback."""
    names: int = 50
    """Different names; the newest version of each is kept."""
    size: int = 4 * 2**30
    """Bytes of all model files together."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range with a ValueError that names them."""
        for item in fields(self):
            if not 1 <= getattr(self, item.name) <= 2**50:
                raise ValueError(f'{item.name} must be at least 1, not {getattr(self, item.name)!r}')


@dataclass(frozen=True)
class Version:
    """The manifest of one version; `created` is UTC, `size` in bytes, `returns` of evaluation episodes."""

    number: int
    name: str
    parent: int | None
    created: str
    kind: str
    specification: str
    hyperparameters: dict[str, Any]
    metrics: dict[str, float]
    sha256: str
    size: int
    role: str = CHALLENGER
    promoted: int = 0
    returns: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """Return how people read about it: number and name."""
        return f"version {self.number}{f' ({self.name})' if self.name else ''}"

    @property
    def mean_return(self) -> float:
        """Return the mean return of its evaluation episodes; NaN before the first."""
        return float(np.mean(self.returns)) if self.returns else float('nan')


@dataclass(frozen=True)
class Verdict:
    """
    Whether a challenger became champion, and why.

    `difference` and `low` are its advantage over `against` (None: there was no champion) and the lower
    end of the 95 % interval, in units of return; NaN where nothing was compared.
    """

    promoted: bool
    reason: str
    against: int | None = None
    difference: float = float('nan')
    low: float = float('nan')


@dataclass
class Index:
    """All versions of a store, oldest first."""

    policy: Policy = field(default_factory=Policy)
    next: int = 1
    versions: list[Version] = field(default_factory=list)

    # Finding ----------------------------------------------------------------------------------
    @property
    def champion(self) -> Version | None:
        """Return the champion, if there is one."""
        return next((version for version in self.versions if version.role == CHAMPION), None)

    def find(self, selector: int | str) -> Version:
        """Return a version by number, name (its newest), 'champion' or 'latest'; ModelNotFoundError."""
        if selector == CHAMPION:
            if self.champion is None:
                raise ModelNotFoundError('there is no champion yet: evaluate a version and promote it')
            return self.champion
        number = int(selector) if isinstance(selector, int) or re.fullmatch('[0-9]{1,18}', selector) else None
        for version in reversed(self.versions):
            if number == version.number or (number is None and selector in (LATEST, version.name)):
                return version
        raise ModelNotFoundError(f"there is no model '{selector}': save one first")

    # Changing ---------------------------------------------------------------------------------
    def add(self, version: Version) -> None:
        """Add a new version, whose number is `next`."""
        self.versions.append(version)
        self.next = version.number + 1

    def change(self, version: Version, **changes: Any) -> Version:
        """Put a changed manifest in the place of the old one and return it."""
        changed = replace(version, **changes)
        self.versions[self.versions.index(version)] = changed
        return changed

    def evaluate(self, selector: int | str, returns: Sequence[float]) -> Version:
        """Add the returns of evaluation episodes; ModelError unless they are finite."""
        version = self.find(selector)
        try:
            new = [finite(float(value)) for value in returns]
        except (TypeError, ValueError) as error:
            raise ModelError(f'the returns of {version.label} must be finite numbers: {error}') from error
        return self.change(version, returns=(*version.returns, *new)[-MAXIMUM_RETURNS:])

    def promote(self, selector: int | str) -> Verdict:
        """
        Make a challenger the champion if it has earned it.

        It needs `policy.episodes` evaluation episodes and, where a champion of the same specification
        exists or existed (returns of another one are not comparable), a mean return whose advantage
        over the last has a 95 % bootstrap interval above zero and that no former one exceeds. A
        version that was rolled back does not come back: what was seen on the robot outweighs it.
        """
        challenger, champion = self.find(selector), self.champion
        verdict = self._judge(challenger)
        if verdict.promoted:
            if champion is not None:
                self.change(champion, role=PREDECESSOR)
            self.change(challenger, role=CHAMPION, promoted=1 + max(v.promoted for v in self.versions))
        return verdict

    def _judge(self, challenger: Version) -> Verdict:
        if challenger.role == CHAMPION:
            return Verdict(False, f'{challenger.label} is the champion already')
        if challenger.role == REJECTED:
            return Verdict(False, f'{challenger.label} was rolled back: train and save another')
        if len(challenger.returns) < self.policy.episodes:
            return Verdict(False, self._too_few(challenger))
        champions = self._champions(challenger.specification)
        if not champions:
            return Verdict(True, f'{challenger.label} is the first champion of its specification')
        champion, best = champions[-1], max(champions, key=lambda v: v.mean_return)
        if len(champion.returns) < self.policy.episodes:
            return Verdict(False, self._too_few(champion), champion.number)
        found = compare(challenger.returns, champion.returns)
        numbers = (champion.number, found.difference, found.low)
        told = (f'mean return {challenger.mean_return:.6g} against {champion.mean_return:.6g} of the '
                f'champion, {champion.label}; the difference is within '
                f'{found.low:.6g}..{found.high:.6g} (95 %)')
        if not found.better:
            return Verdict(False, f'{challenger.label} is not surely better: {told}', *numbers)
        if best.mean_return > challenger.mean_return:
            return Verdict(False, f'{challenger.label} is worse than the best so far, {best.label} with '
                           f'{best.mean_return:.6g}: {told}', *numbers)
        return Verdict(True, f'{challenger.label} is better: {told}', *numbers)

    def _too_few(self, version: Version) -> str:
        return (f'{version.label} has {len(version.returns)} evaluation episodes, {self.policy.episodes} are '
                'needed: evaluate it')

    def _champions(self, specification: str | None = None) -> list[Version]:
        """Return the present champion and those before it, in order; of one specification, if given."""
        return sorted((v for v in self.versions if v.role in (CHAMPION, PREDECESSOR)
                       and specification in (None, v.specification)), key=lambda v: v.promoted)

    def rollback(self) -> Version:
        """Reject the champion, make its predecessor champion again and return that; ModelError."""
        champion = self.find(CHAMPION)
        predecessors = self._champions()[:-1]
        if not predecessors:
            raise ModelError(f'{champion.label} has no predecessor to go back to')
        self.change(champion, role=REJECTED)
        return self.change(predecessors[-1], role=CHAMPION)

    def remove(self, selector: int | str) -> Version:
        """Take a version out and return it; ModelError where it is the champion."""
        version = self.find(selector)
        if version.role == CHAMPION:
            raise ModelError(f'{version.label} is the champion: promote another or roll back first')
        self.versions.remove(version)
        return version

    # Retention --------------------------------------------------------------------------------
    def check_name(self, name: str) -> None:
        """Raise ModelError unless a version may be saved under this name ('' = none)."""
        if not name:
            return
        if not NAME.fullmatch(name) or _RESERVED.fullmatch(name):
            raise ModelError(f'{name[:80]!r} is not a model name: use 1..64 letters, digits, _ and -, but '
                             "not only digits, 'champion' or 'latest'")
        names = {version.name for version in self.versions} - {''}
        if name not in names and len(names) >= self.policy.names:
            raise ModelError(f'there are models of {len(names)} names: remove some, or save under an '
                             'existing name')

    def trim(self) -> list[Version]:
        """
        Take out what is kept for no reason, oldest first, and return it.

        Raises ModelError, changing nothing, where what must be kept is larger than `policy.size`.
        """
        needed = {version.number for version in self._needed()}
        kept = sum(v.size for v in self.versions if v.number in needed)
        if kept > self.policy.size:
            raise ModelError(f'the models that must be kept take {kept} bytes, {self.policy.size} are '
                             'allowed: remove some')
        spare = [v for v in self.versions[-self.policy.newest:] if v.number not in needed]
        while kept + sum(v.size for v in spare) > self.policy.size:
            del spare[0]
        stay = needed | {version.number for version in spare}
        removed = [version for version in self.versions if version.number not in stay]
        self.versions = [version for version in self.versions if version.number in stay]
        return removed

    def _needed(self) -> Iterable[Version]:
        """Return what is kept whatever its age: the newest, champions to go back to, and names."""
        yield from self.versions[-1:]
        yield from {version.name: version for version in self.versions if version.name}.values()
        yield from self._champions()[-1 - self.policy.predecessors:]

    # Storing ----------------------------------------------------------------------------------
    def export(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {'format': 'muster-models', 'version': 1, 'next': self.next,
                'versions': [asdict(version) for version in self.versions]}

    @classmethod
    def restored(cls, document: Any, policy: Policy) -> Index:
        """Rebuild from `export()`; raises ValueError, TypeError or KeyError on anything else."""
        if document['format'] != 'muster-models' or document['version'] != 1:
            raise ValueError(f"format {document['format']!r}, version {document['version']!r} is unknown")
        versions = [_version(entry) for entry in document['versions']]
        numbers = [version.number for version in versions]
        if numbers != sorted(set(numbers)) or max(numbers, default=0) >= count(document['next']) \
                or sum(version.role == CHAMPION for version in versions) > 1:
            raise ValueError('numbers or roles of the versions contradict one another')
        return cls(policy, document['next'], versions)


def described(number: int, document: dict[str, Any], sha256: str, size: int) -> Version:
    """Return the manifest of a model file from its document; raises ValueError on an unsound one."""
    manifest, agent = document.get('manifest'), document.get('agent')
    manifest = manifest if isinstance(manifest, dict) else {}
    parameters = agent.get('parameters') if isinstance(agent, dict) else None
    try:
        return _version({
            'number': number, 'name': manifest.get('name', ''), 'parent': manifest.get('parent'),
            'created': manifest.get('created', ''), 'kind': document.get('kind', ''),
            'specification': document.get('digest', ''), 'sha256': sha256, 'size': size, 'returns': (),
            'hyperparameters': parameters or {}, 'metrics': manifest.get('metrics', {})})
    except TypeError as error:
        raise ValueError(f'the manifest is unsound: {error}') from error


def _version(entry: dict[str, Any]) -> Version:
    version = Version(**{**entry, 'metrics': checked_metrics(entry['metrics']),
                         'returns': tuple(finite(value) for value in entry['returns'])})
    texts = (version.name, version.created, version.kind, version.specification, version.sha256)
    if not all(isinstance(text, str) for text in texts) or not re.fullmatch('[0-9a-f]{64}', version.sha256) \
            or version.role not in ROLES or not isinstance(version.hyperparameters, dict):
        raise ValueError(f'version {version.number!r} is unsound')
    for number in (version.number, version.size, version.promoted, version.parent or 0):
        count(number)
    return version


def checked_metrics(metrics: Any) -> dict[str, float]:
    """Return at most 64 named finite numbers; raises ValueError."""
    if not isinstance(metrics, dict) or len(metrics) > MAXIMUM_METRICS \
            or not all(isinstance(name, str) and len(name) <= 64 for name in metrics):
        raise ValueError(f'metrics must be at most {MAXIMUM_METRICS} named numbers')
    return {name: finite(value) for name, value in metrics.items()}
