# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the documentation says of the tests."""
from pathlib import Path
import re

ROOT = Path(__file__).resolve().parents[2]


def test_every_case_names_tests_that_are_there() -> None:
    there = set(re.findall(r'^def (test_\w+)', '\n'.join(
        file.read_text() for file in (ROOT / 'test' / 'hardware').glob('test_*.py')), re.MULTILINE))
    named = set(re.findall(r'`(test_\w+)`', (ROOT / 'docs' / 'hardware.md').read_text()))
    assert len(named) > 30 and named <= there, named - there
