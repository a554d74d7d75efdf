# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests."""
from collections.abc import Iterator
import os
from pathlib import Path
import signal
import subprocess
import sys

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


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test marked `own_process` in another pytest."""
    if 'MUSTER_OWN_PROCESS' in os.environ or not pyfuncitem.get_closest_marker('own_process'):
        return None
    child = subprocess.Popen(
        [sys.executable, '-m', 'pytest', '-s', '-rs', f'--basetemp={pyfuncitem.funcargs["tmp_path"]}/own',
         pyfuncitem.nodeid], cwd=pyfuncitem.config.rootpath, env={**os.environ, 'MUSTER_OWN_PROCESS': '1'},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = child.communicate()
    except BaseException:            # the time is over: let it clean up
        child.send_signal(signal.SIGINT)
        child.communicate()
        raise
    print(output)
    if child.returncode:
        pytest.fail(output, pytrace=False)
    skipped = [line for line in output.splitlines() if line.startswith('SKIPPED')]
    if skipped:
        pytest.skip(skipped[0].partition(': ')[2])
    return True


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
