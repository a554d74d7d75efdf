# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The demo itself: every claim holds, and nothing stays behind."""
from __future__ import annotations

import json
from pathlib import Path
import signal

from processes import Fleet, Process, wait_until
import psutil
import pytest

pytestmark = pytest.mark.processes


def start(fleet: Fleet, folder: Path) -> Process:
    """Start the demo without its live view."""
    return fleet.start('demo', 'muster.demo', '--headless', '--output', str(folder))


def left(folder: Path) -> list[psutil.Process]:
    """Return the processes that the demo of a folder started and that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get('ROS_LOG_DIR') == str(folder / 'log') \
                    and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # ended meanwhile, or another user's
            continue
    return found


@pytest.mark.timeout(300)
def test_every_claim_holds(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / 'demo'
    process = start(fleet, folder)
    code = process.wait(270)
    summary = json.loads((folder / 'summary.json').read_text())
    failed = [claim for claim in summary['claims'] if not claim['holds']]
    assert failed == [], process.text
    assert (code, summary['holds']) == (0, True), process.text
    assert {claim['act'] for claim in summary['claims']} == \
        {'election', 'locks', 'hardware', 'learning', 'failover', 'end'}
    for picture in ('failover.png', 'learning_curve.png'):
        assert (folder / picture).read_bytes().startswith(b'\x89PNG'), picture
    assert left(folder) == []


def test_an_interrupted_demo_ends_everything_and_says_so(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / 'demo'
    process = start(fleet, folder)
    wait_until(lambda: len(left(folder)) >= 10, 60, 'all processes of the demo')
    process.send(signal.SIGINT)
    assert process.wait(60) == 1, process.text
    assert 'Traceback' not in process.text
    assert any(claim['measured'] == 'interrupted'
               for claim in json.loads((folder / 'summary.json').read_text())['claims'])
    assert left(folder) == []
