# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The file in which devices outlast a restart."""
from pathlib import Path

from muster.hardware.devices import Device, Report, Status
from muster.hardware.memory import Memory
from muster.hardware.registry import Registry
import pytest

CAMERA = Device(id='usb-camera', name='camera', bus='usb', type='camera', fallback_id='usb-port-1')


def kept(file: Path, warnings: list[str]) -> Registry:
    """Keep a camera in `file` and return the registry that had it."""
    registry = Registry()
    registry.apply(Report('s', {'a': CAMERA}, 'first scan'), 0.0, 7)
    memory = Memory(file, warnings.append)
    memory.keep(registry)
    memory.close()
    return registry


def recalled(file: Path, warnings: list[str]) -> Registry:
    """Return a registry that remembers what is in `file`."""
    registry, memory = Registry(), Memory(file, warnings.append)
    memory.recall(registry, 100.0)
    memory.close()
    return registry


def test_devices_outlast_a_restart(tmp_path: Path) -> None:
    warnings: list[str] = []
    file = tmp_path / 'state' / 'devices.json'
    assert len(recalled(file, warnings)) == 0
    kept(file, warnings)
    known = recalled(file, warnings).get('usb-camera')
    assert known is not None
    assert (known.status, known.first_seen) == (Status.DISCONNECTED, 7)
    assert warnings == []
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'\xff\xfe', b'{"format": 9, "devices": []}',
                                     b'[' * 100_000])
def test_a_damaged_file_is_named_and_harms_nothing(tmp_path: Path, content: bytes) -> None:
    file, warnings = tmp_path / 'devices.json', []
    file.write_bytes(content)
    assert len(recalled(file, warnings)) == 0
    assert len(warnings) == 1
    assert str(file) in warnings[0]
    assert 'remove the file' in warnings[0]
    kept(file, warnings)
    assert len(recalled(file, warnings)) == 1


def test_a_place_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    warnings: list[str] = []
    (tmp_path / 'state').write_text('a file where a folder should be')
    memory, registry = Memory(tmp_path / 'state' / 'devices.json', warnings.append), Registry()
    registry.apply(Report('s', {'a': CAMERA}, 'first scan'), 0.0, 7)
    for _ in range(3):
        memory.keep(registry)
    memory.close()
    assert len(warnings) == 1
    assert 'cannot be kept' in warnings[0]
