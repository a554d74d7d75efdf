# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The record of the emergency stop."""
from pathlib import Path

from muster.learning.safety import StopRecord
import pytest


def test_a_stop_is_recorded_until_cleared(tmp_path: Path) -> None:
    record = StopRecord(tmp_path / 'new' / 'robot_1' / 'emergency_stop')
    assert not record.engaged
    record.clear()  # nothing to clear is no error
    record.engage()
    record.engage()
    assert record.engaged and StopRecord(record.path).engaged
    assert [file.name for file in record.path.parent.iterdir()] == ['emergency_stop']
    record.clear()
    assert not record.engaged


def test_what_cannot_be_told_counts_as_stopped(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('in the way of the folder')
    record = StopRecord(tmp_path / 'file' / 'emergency_stop')
    assert record.engaged
    with pytest.raises(OSError):
        record.engage()
    with pytest.raises(OSError):
        record.clear()


def test_a_dangling_link_is_a_stop_and_is_not_followed(tmp_path: Path) -> None:
    record = StopRecord(tmp_path / 'emergency_stop')
    record.path.symlink_to(tmp_path / 'nowhere')
    assert record.engaged
    record.engage()
    assert not record.path.is_symlink() and not (tmp_path / 'nowhere').exists()
