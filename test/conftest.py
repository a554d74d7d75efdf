# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests."""
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator['object']:
    """Give real processes in a ROS domain of their own; all are dead afterwards."""
    from processes import Fleet, reserved_domain
    with reserved_domain() as domain:
        fleet = Fleet(tmp_path, domain)
        try:
            yield fleet
        finally:
            fleet.close()
