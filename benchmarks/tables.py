# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/benchmarks.md anew from benchmarks/results/*.json, between their markers."""
from __future__ import annotations

import json
from pathlib import Path
import re
from typing import Any

from harness import cells, HEADINGS, NUMBERS, RESULTS

PAGE = Path(__file__).parents[1] / 'docs' / 'benchmarks.md'
#: <!-- results: AREA --> anything <!-- end -->
MARKED = re.compile(r'(<!-- results: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


def main() -> None:
    """Replace every marked part for which there are results."""
    def replaced(match: re.Match[str]) -> str:
        before, area, after = match.groups()
        path = RESULTS / f'{area}.json'
        if not path.exists():
            return match.group(0)
        content = json.loads(path.read_text())
        return before + (described(content) if area.startswith('machine') else table(content)) + after

    PAGE.write_text(MARKED.sub(replaced, PAGE.read_text()))


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of rows; columns that are empty in all of them are left out."""
    lines = [cells(row) for row in rows]
    kept = [n for n, _ in enumerate(HEADINGS) if any(line[n] for line in lines)]
    ruler = ['--:' if HEADINGS[n] in NUMBERS else '---' for n in kept]
    shown = [[HEADINGS[n] for n in kept], ruler, *([line[n] for n in kept] for line in lines)]
    return ''.join(f'| {" | ".join(line)} |\n' for line in shown)


def described(machine: dict[str, Any]) -> str:
    """Return the machine in a sentence."""
    kind = 'virtual machine' if machine['virtual'] else 'machine'
    build = '' if machine['python_optimized'] else ' (built without profile-guided optimisation)'
    beside = ', everything measured at real-time priority' if machine['real_time_priority'] else ''
    return (f'A {kind} with {machine["cores"]} cores ({machine["processor"]}), {machine["memory_gib"]} GiB, '
            f'logs on {machine["disk"]}, {machine["system"]}, '
            f'Linux {machine["kernel"]}, Python {machine["python"]}{build}; '
            f'load average {machine["load_average"]} at the end of the run{beside}.\n')


if __name__ == '__main__':
    main()
