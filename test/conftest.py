# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests."""
from collections.abc import Iterator
from pathlib import Path

from hypothesis import settings
import pytest

# Time decides no test: the first example of one may import half of ROS.
settings.register_profile('muster', deadline=None)
settings.load_profile('muster')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave long searches out unless they are asked for (`-m long`)."""
    if 'long' not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker('long')]
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


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


@pytest.fixture(scope='session')
def graph(tmp_path_factory: pytest.TempPathFactory) -> 'object':
    """Give what the nodes of `robot_1` and the world offer, read from their real graph."""
    from processes import Fleet, Graph, reserved_domain
    with reserved_domain() as domain:
        fleet = Fleet(tmp_path_factory.mktemp('graph'), domain)
        try:
            return Graph.of(fleet)
        finally:  # nothing of it runs beside the other tests
            fleet.close()
