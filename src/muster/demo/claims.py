# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the demo claims, and whether it was seen."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One statement, what was measured for it, and whether that bears it out."""

    act: str
    statement: str
    measured: str
    holds: bool


@dataclass
class Summary:
    """All claims of a run, with the figures behind them."""

    claims: list[Claim] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def claim(self, act: str, statement: str, measured: str, holds: bool) -> None:
        """Add one claim."""
        self.claims.append(Claim(act, statement, measured, holds))

    @property
    def holds(self) -> bool:
        """Return whether there are claims and every one holds."""
        return bool(self.claims) and all(claim.holds for claim in self.claims)

    def write(self, path: Path) -> None:
        """Write the summary as JSON."""
        content = {'holds': self.holds, 'claims': [asdict(c) for c in self.claims], **self.figures}
        path.write_text(json.dumps(content, indent=2) + '\n')
