# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The SPI source on chips without hardware: only where it was allowed, and all is set back."""
from collections.abc import Callable, Sequence
import errno
import os
from pathlib import Path
import threading

from captures import load
from kernel import RULES
from muster.hardware.devices import Status
from muster.hardware.evidence import SpiReading
from muster.hardware.sources.deadline import Deadline
from muster.hardware.sources.spi import SpiSource
from processes import wait_until
import pytest

CAPTURES = [(capture.device, item) for name in ('seen', 'held_out') for capture in load(name)
            for item in capture.evidence if isinstance(item, SpiReading)]
FLASH = {bytes.fromhex('9f000000'): bytes.fromhex('00ef4018')}


class FakeSpi:
    """spidev.SpiDev over a chip that answers some transfers; the line is high otherwise."""

    def __init__(self, replies: dict[bytes, bytes], idle: int = 0xFF) -> None:
        """Take what is answered to what."""
        self.replies, self.idle = replies, idle
        self.mode, self.max_speed_hz = 2, 12_000_000
        self.sent: list[tuple[int, bytes]] = []
        self.opened = self.closed = 0
        self.fault: OSError | None = None
        self.hang: threading.Event | None = None

    def open(self, bus: int, select: int) -> 'FakeSpi':
        """Open /dev/spidev0.0."""
        if (bus, select) != (0, 0):
            raise FileNotFoundError(errno.ENOENT, 'No such file or directory')
        if self.fault:
            raise self.fault
        self.opened += 1
        return self

    def xfer2(self, values: Sequence[int]) -> list[int]:
        """Exchange bytes."""
        if self.hang:
            self.hang.wait(10)
        assert self.max_speed_hz <= 1_000_000
        self.sent.append((self.mode, bytes(values)))
        return list(self.replies.get(bytes(values), bytes([self.idle] * len(values))))

    def close(self) -> None:
        """Count."""
        self.closed += 1


def source(spi: FakeSpi, root: Path = Path('/nowhere'),
           clock: Callable[[], float] = lambda: 0.0, limit: float = 10.0) -> SpiSource:
    return SpiSource('/dev/spidev0.0', RULES, open_spi=spi.open, root=root, clock=clock,
                     deadline=Deadline('test', limit, 60.0))


def test_a_flash_is_identified_and_all_is_set_back() -> None:
    spi = FakeSpi(FLASH)
    report = source(spi).scan('first scan')
    device, = report.present.values()
    assert 'W25Q128' in device.name and device.type == 'flash' and device.confidence >= 0.9
    assert device.status == Status.CONNECTED and device.nodes == ('/dev/spidev0.0',)
    assert (spi.mode, spi.max_speed_hz, spi.opened, spi.closed) == (2, 12_000_000, 1, 1)


@pytest.mark.parametrize(('name', 'reading'), CAPTURES, ids=[name for name, _ in CAPTURES])
def test_every_capture_is_identified_over_the_bus(name: str, reading: SpiReading) -> None:
    report = source(FakeSpi({reading.sent: reading.reply})).scan('first scan')
    best = RULES.identify([reading]).candidates
    if best and best[0].confidence >= 0.5:
        assert [device.type for device in report.present.values()] == [RULES.identify([reading]).type]
    else:
        assert not report.present


@pytest.mark.parametrize('idle', [0x00, 0xFF])
def test_an_open_line_is_no_chip(idle: int) -> None:
    report = source(FakeSpi({}, idle)).scan('first scan')
    assert not report.present and report.problem == ''


def test_only_questions_of_the_rules_are_sent_in_their_modes() -> None:
    spi = FakeSpi({})
    source(spi).scan('first scan')
    assert set(spi.sent) == {(probe.mode, probe.send) for probe in RULES.spi_probes()}


def test_the_periodic_scan_repeats_the_answered_question_alone() -> None:
    spi = FakeSpi(dict(FLASH))
    spi_source = source(spi)
    assert spi_source.scan('first scan').present
    spi.sent.clear()
    assert spi_source.scan('periodic scan').present
    assert [sent for _, sent in spi.sent] == list(FLASH)
    spi.replies.clear()
    assert not spi_source.scan('requested scan').present
    spi.sent.clear()
    spi_source.scan('periodic scan')
    assert not spi.sent
    spi.replies.update(FLASH)
    assert spi_source.scan('requested scan').present


def test_a_chip_that_answers_no_more_is_degraded_until_it_does() -> None:
    spi = FakeSpi(dict(FLASH))
    spi_source = source(spi)

    def status(reason: str) -> list[Status]:
        report = spi_source.scan(reason)
        assert not report.problem
        return [device.status for device in report.present.values()]
    assert status('first scan') == [Status.CONNECTED]
    spi.replies.clear()
    for _ in range(3):
        assert status('periodic scan') == [Status.DEGRADED]
    spi.sent.clear()
    spi.replies.update(FLASH)
    assert status('periodic scan') == [Status.CONNECTED] and [sent for _, sent in spi.sent] == list(FLASH)
    spi.replies.clear()
    assert status('requested scan') == [], 'who asks wants to know what is there'


def test_the_device_has_the_id_and_path_that_the_kernel_gives(tmp_path: Path) -> None:
    chip = tmp_path / 'devices/platform/soc/spi0/spi0.0'
    node = chip / 'spidev/spidev0.0'
    node.mkdir(parents=True)
    for folder, subsystem in ((chip, 'bus/spi'), (node, 'class/spidev')):
        (tmp_path / subsystem).mkdir(parents=True)
        (folder / 'subsystem').symlink_to(tmp_path / subsystem)
    (chip / 'uevent').write_text('DRIVER=spidev\n')
    (node / 'uevent').write_text('DEVNAME=spidev0.0\n')
    (tmp_path / 'class/spidev/spidev0.0').symlink_to(node)
    device, = source(FakeSpi(FLASH), tmp_path).scan('first scan').present.values()
    assert device.id == 'spi-spi0.0' and device.path == '/sys/devices/platform/soc/spi0/spi0.0'
    assert device.nodes == ('/dev/spidev0.0',) and 'W25Q128' in device.name


@pytest.mark.parametrize(('error', 'remedy'), [
    (errno.EACCES, "group 'spi'"), (errno.ENOENT, 'enable SPI for this board'), (errno.EIO, 'Input/output')])
def test_a_node_that_cannot_be_opened_names_the_remedy(error: int, remedy: str) -> None:
    spi = FakeSpi(FLASH)
    spi.fault = OSError(error, os.strerror(error))
    report = source(spi).scan('first scan')
    assert not report.present and remedy in report.problem and '/dev/spidev0.0' in report.problem


def test_a_transfer_that_hangs_is_given_up() -> None:
    spi, now = FakeSpi(FLASH), [0.0]
    spi_source = source(spi, clock=lambda: now[0], limit=0.25)
    assert spi_source.scan('first scan').present
    spi.hang = threading.Event()
    report = spi_source.scan('periodic scan')
    assert 'no answer within 200 ms' in report.problem
    assert [device.status for device in report.present.values()] == [Status.ERROR]
    spi.hang.set()
    assert [device.status for device in spi_source.scan('periodic scan').present.values()] == [Status.ERROR]
    wait_until(lambda: not spi_source._deadline.hangs, 10, 'the end of the thread')
    now[0] = 5.0
    report = spi_source.scan('periodic scan')
    assert [device.status for device in report.present.values()] == [Status.CONNECTED] and not report.problem


@pytest.mark.parametrize('node', ['', 'spidev0.0', '/dev/mem', '/dev/spidev0', '/dev/spidev0.0/../mem'])
def test_what_is_no_spi_node_is_refused(node: str) -> None:
    with pytest.raises(ValueError, match='must be like /dev/spidev0'):
        SpiSource(node, RULES)
