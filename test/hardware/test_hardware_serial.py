# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The serial prober on pseudo-terminals with devices that answer at their own speed."""
from collections.abc import Callable, Iterator
import fcntl
import os
from pathlib import Path
import select
import subprocess
import termios
import threading
import time
import tty

from captures import load
from kernel import RULES
from muster.hardware.devices import Report, Status
from muster.hardware.evidence import SerialReading
from muster.hardware.sources import serial_line
from muster.hardware.sources.serial_line import holder_of, SerialLine, TCGETS2, TCSETS2, TERMIOS2
from muster.hardware.sources.serial_probing import SerialProber
from processes import wait_until
import pytest

CAPTURES = [(capture.device, item) for name in ('seen', 'held_out') for capture in load(name)
            for item in capture.evidence if isinstance(item, SerialReading)]
RPLIDAR = bytes.fromhex('a55a1400000004') + bytes(20)
GGA = b'$GPGGA,092750.000,5321.6802,N,00630.3372,W,1,8,1.03,61.7,M,55.2,M,,*76\r\n'


class Scripted:
    """A device behind a pseudo-terminal: it talks at one baud rate, unasked or when asked."""

    def __init__(self, sent: bytes, reply: bytes, baud: int) -> None:
        """Take what it waits for (nothing: it talks), what it says, and how fast."""
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)          # it is no terminal that echoes what the device says
        self.node = os.ttyname(self.slave)
        self.sent, self.reply, self.baud = sent, reply, baud
        self.heard = b''
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def speed(self) -> int:
        """Return the baud rate that the port is set to."""
        return TERMIOS2.unpack(fcntl.ioctl(self.slave, TCGETS2, bytes(TERMIOS2.size)))[-1]

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self.master, self._stop], [], [], 0.01)
            if self._stop in ready:
                return
            if self.master in ready:
                self.heard += os.read(self.master, 1024)
            if self.speed() != self.baud:
                continue
            if not self.sent or (self.heard.endswith(self.sent) and self.master in ready):
                os.write(self.master, self.reply)

    def close(self) -> None:
        """Pull it out."""
        os.eventfd_write(self._stop, 1)
        self._thread.join(5)
        for descriptor in (self.master, self.slave, self._stop):
            os.close(descriptor)


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    devices: list[Scripted] = []

    def plug(sent: bytes = b'', reply: bytes = b'', baud: int = 115200) -> Scripted:
        devices.append(Scripted(sent, reply, baud))
        return devices[-1]

    yield plug
    for device in devices:
        device.close()


@pytest.fixture
def wake() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK)
    yield descriptor
    os.close(descriptor)


def prober(device: Scripted | str) -> SerialProber:
    node = device if isinstance(device, str) else device.node
    return SerialProber(node, RULES, listen=0.06, reply=0.06)


def asked(serial: SerialProber, wake: int) -> Report:
    """Return what is reported after the port was asked."""
    serial.scan('first scan')
    report = serial.wait(0.0, wake)
    assert report is not None
    return report


# Devices --------------------------------------------------------------------------------------
def _bauds(sent: bytes) -> tuple[int, ...]:
    asked_at = (probe.baud for probe in RULES.serial_probes() if probe.send == sent)
    return next(asked_at, (115200,))  # some were asked by others what no rule asks


@pytest.mark.parametrize(('name', 'reading'), CAPTURES, ids=[name for name, _ in CAPTURES])
def test_every_capture_is_identified_over_the_line(name: str, reading: SerialReading, scripted, wake) -> None:
    device = scripted(reading.sent, reading.reply, _bauds(reading.sent)[0])
    claim = RULES.identify([reading])
    present = asked(prober(device), wake).present
    if not claim.candidates:
        assert not present, 'an answer that no rule knows is no device'
        return
    found, = present.values()
    assert found.type == claim.type and found.confidence == pytest.approx(claim.confidence)
    assert dict(found.properties)['baud'] == str(device.baud)


@pytest.mark.parametrize('baud', [4800, 9600, 38400, 115200])
def test_who_talks_is_never_asked(baud: int, scripted, wake) -> None:
    device = scripted(reply=GGA, baud=baud)
    found, = asked(prober(device), wake).present.values()
    assert found.type == 'gps' and 'serial' in found.capabilities and device.heard == b''


@pytest.mark.parametrize('baud', [115200, 256000, 1000000])
def test_any_baud_rate_is_tried(baud: int, scripted, wake) -> None:
    device = scripted(bytes.fromhex('a550'), RPLIDAR, baud)
    found, = asked(prober(device), wake).present.values()
    assert found.type == 'lidar' and dict(found.properties)['baud'] == str(baud)


def test_who_says_nothing_is_unknown_and_asked_once(scripted, wake) -> None:
    device = scripted()
    device.sent = b'never'
    serial = prober(device)
    report = asked(serial, wake)
    assert not report.present and report.problem == ''
    assert {probe.send for probe in RULES.serial_probes() if probe.send not in device.heard} == set()
    length = len(device.heard)
    serial.scan('periodic scan')
    assert serial.wait(0.0, wake) is None and len(device.heard) == length
    device.sent, device.reply = bytes.fromhex('a550'), RPLIDAR
    serial.scan('requested scan')
    assert [found.type for found in serial.wait(0.0, wake).present.values()] == ['lidar']


def test_noise_is_nothing(scripted, wake) -> None:
    device = scripted(reply=bytes(range(256)) * 3, baud=9600)
    assert not asked(prober(device), wake).present


def test_a_wake_up_interrupts_and_it_is_asked_again(scripted, wake) -> None:
    device = scripted(bytes.fromhex('a550'), RPLIDAR)
    serial = SerialProber(device.node, RULES, listen=60.0)
    serial.scan('first scan')
    os.eventfd_write(wake, 1)
    start = time.monotonic()
    assert serial.wait(60.0, wake) is None and time.monotonic() - start < 60.0
    os.eventfd_read(wake)
    serial = prober(device)
    assert asked(serial, wake).present


# Not moved, not held --------------------------------------------------------------------------
def test_no_modem_line_is_moved_and_settings_are_set_back(scripted, wake, monkeypatch) -> None:
    device = scripted()
    device.sent = b'never'
    before = list(TERMIOS2.unpack(fcntl.ioctl(device.slave, TCGETS2, bytes(TERMIOS2.size))))
    calls: list[tuple[int, object]] = []
    real = fcntl.ioctl

    def logged(descriptor: int, request: int, argument: object = 0) -> object:
        calls.append((request, argument))
        return real(descriptor, request, argument)

    monkeypatch.setattr(serial_line.fcntl, 'ioctl', logged)
    asked(prober(device), wake)
    monkeypatch.undo()
    assert {request for request, _ in calls} == {TCGETS2, TCSETS2, termios.TIOCEXCL, termios.TIOCNXCL}
    assert not {termios.TIOCMSET, termios.TIOCMBIS, termios.TIOCMBIC} & {request for request, _ in calls}
    controls = [TERMIOS2.unpack(argument)[2] for request, argument in calls if request == TCSETS2]
    assert len(controls) > 10 and not any(flags & (termios.HUPCL | termios.CRTSCTS) for flags in controls)
    after = list(TERMIOS2.unpack(fcntl.ioctl(device.slave, TCGETS2, bytes(TERMIOS2.size))))
    before[2] &= ~termios.HUPCL
    before[3] &= ~termios.ECHO
    assert after == before
    os.close(os.open(device.node, os.O_RDWR | os.O_NOCTTY))    # it is not exclusive any more


def test_a_port_that_another_process_has_open_is_left_alone(scripted, wake) -> None:
    device = scripted(reply=GGA, baud=9600)
    serial = prober(device)
    with subprocess.Popen(['sleep', '60'], stdin=device.slave) as other:
        report = asked(serial, wake)
        assert not report.present and f'is used by process {other.pid} (sleep)' in report.problem
        other.kill()
    serial.scan('periodic scan')
    assert serial.wait(0.0, wake) is None
    serial.scan('requested scan')
    report = serial.wait(0.0, wake)
    assert report.present and report.problem == ''


def test_a_port_that_is_locked_is_left_alone(scripted, wake) -> None:
    device = scripted(reply=GGA, baud=9600)
    fcntl.flock(device.slave, fcntl.LOCK_EX)
    report = asked(prober(device), wake)
    assert not report.present and 'locked by another program' in report.problem and device.heard == b''


def test_a_lock_file_counts_as_long_as_its_process_lives(tmp_path: Path) -> None:
    (tmp_path / 'LCK..ttyUSB7').write_text(f'{os.getpid():>10}\n')
    assert f'process {os.getpid()}' in holder_of('/dev/ttyUSB7', locks=(tmp_path,))
    (tmp_path / 'LCK..ttyUSB7').write_text('4194305\n')
    assert holder_of('/dev/ttyUSB7', locks=(tmp_path,)) == ''
    (tmp_path / 'LCK..ttyUSB7').write_bytes(b'\xff\xfe')
    assert holder_of('/dev/ttyUSB7', locks=(tmp_path,)) == ''


@pytest.mark.parametrize(('error', 'remedy'), [(PermissionError(13, 'Permission denied'), "group 'dialout'"),
                                               (OSError(16, 'Device or resource busy'), 'TIOCEXCL'),
                                               (OSError(5, 'Input/output error'), 'Input/output error')])
def test_a_port_that_cannot_be_opened_names_the_remedy(error: OSError, remedy: str, scripted, wake,
                                                       monkeypatch) -> None:
    def refused(*_: object) -> int:
        raise error

    device = scripted()
    monkeypatch.setattr(serial_line.os, 'open', refused)
    report = asked(prober(device), wake)
    assert not report.present and remedy in report.problem and device.node in report.problem


# Coming and going -----------------------------------------------------------------------------
def test_a_port_that_is_not_there_is_no_problem(wake) -> None:
    serial = prober('/dev/ttyUSB_none')
    report = serial.scan('first scan')
    assert not report.present and report.problem == '' and serial.wait(0.0, wake) is None


def test_a_port_that_is_pulled_out_and_plugged_in_is_asked_again(scripted, wake, tmp_path: Path) -> None:
    link = tmp_path / 'port'
    first, second = scripted(reply=GGA, baud=9600), scripted(bytes.fromhex('a550'), RPLIDAR)
    serial = prober(str(link))
    assert not serial.scan('first scan').present
    link.symlink_to(first.node)
    serial.scan('periodic scan')
    assert [found.type for found in serial.wait(0.0, wake).present.values()] == ['gps']
    assert serial.scan('periodic scan').present
    link.unlink()
    assert not serial.scan('periodic scan').present
    link.symlink_to(second.node)
    serial.scan('periodic scan')
    assert [found.type for found in serial.wait(0.0, wake).present.values()] == ['lidar']


def test_a_serial_device_that_answers_no_more_is_degraded_until_it_does(scripted, wake) -> None:
    device = scripted(bytes.fromhex('a550'), RPLIDAR)
    serial = prober(device)

    def look() -> tuple[str, Status]:
        serial.scan('requested scan')
        report = serial.wait(0.0, wake)
        assert report is not None and report.problem == ''
        found, = report.present.values()
        return found.type, found.status
    assert look() == ('lidar', Status.CONNECTED)
    device.sent = b'never'
    assert look() == look() == ('lidar', Status.DEGRADED)
    length = len(device.heard)
    serial.scan('periodic scan')
    assert serial.wait(0.0, wake) is None and len(device.heard) == length, 'asked at requested scans only'
    device.sent = bytes.fromhex('a550')
    assert look() == ('lidar', Status.CONNECTED)
    assert device.heard[length:] == device.sent, 'what was answered before is asked first'


def test_a_known_device_whose_port_is_used_stays_known(scripted, wake) -> None:
    device = scripted(reply=GGA, baud=9600)
    serial = prober(device)
    known = asked(serial, wake).present
    with subprocess.Popen(['sleep', '60'], stdin=device.slave) as other:
        serial.scan('requested scan')
        report = serial.wait(0.0, wake)
        other.kill()
    assert known and report.present == known and report.problem == ''


def test_a_port_that_is_pulled_out_while_it_is_asked(wake) -> None:
    master, slave = os.openpty()
    serial = SerialProber(os.ttyname(slave), RULES, listen=30.0)
    serial.scan('first scan')
    os.close(slave)
    reports: list[Report | None] = []
    thread = threading.Thread(target=lambda: reports.append(serial.wait(0.0, wake)))
    thread.start()
    wait_until(lambda: any(os.readlink(f'/proc/self/fd/{fd}') == serial._node for fd in _open_files()), 10,
               'the port to be opened')
    os.close(master)
    thread.join(10)
    report, = reports
    assert report is not None and not report.present and report.problem == ''


def _open_files() -> list[str]:
    found = []
    for name in os.listdir('/proc/self/fd'):
        if os.path.lexists(f'/proc/self/fd/{name}'):
            found.append(name)
    return found


@pytest.mark.parametrize('node', ['', 'ttyUSB0'])
def test_what_is_no_path_is_refused(node: str) -> None:
    with pytest.raises(ValueError, match='must be an absolute path'):
        SerialProber(node, RULES)


def test_the_settings_are_raw(scripted) -> None:
    device = scripted()
    with SerialLine(device.node) as line:
        line.set_baud(256000)
        iflag, oflag, cflag, lflag = TERMIOS2.unpack(fcntl.ioctl(line.fd, TCGETS2, bytes(TERMIOS2.size)))[:4]
        assert (iflag, oflag, lflag) == (0, 0, 0) and cflag & termios.CSIZE == termios.CS8
        assert device.speed() == 256000
        with pytest.raises(OSError, match='locked by another program'):
            SerialLine(device.node)
