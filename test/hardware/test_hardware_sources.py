# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The sources on this machine's real kernel, and the worker that runs them."""
from collections.abc import Callable, Iterator
import errno
import os
from pathlib import Path
import queue
import shutil
import threading
import time

from kernel import RULES, Tap
from muster.hardware.devices import Device, Report
from muster.hardware.evidence import Record
from muster.hardware.registry import Registry
from muster.hardware.sources import sysfs, udev as udev_module, virtual
from muster.hardware.sources.serial import MAX_LINKS, SerialLinks
from muster.hardware.sources.udev import open_context, UdevSource
from muster.hardware.sources.worker import pause, PERIODIC, Source, Worker
from processes import wait_until
import pytest
import pyudev._ctypeslib.utils as pyudev_loader

SYS = Path('/sys')
HOUR = 3600.0


def expected_paths() -> set[str]:
    """Return what /sys of this machine says must be listed, found without Muster."""
    found = {str(p.resolve()) for p in (SYS / 'bus/pci/devices').glob('*')}
    found |= {str(p.resolve()) for p in (SYS / 'bus/usb/devices').glob('*') if (p / 'idVendor').exists()}
    interfaces = [p for p in (SYS / 'class/net').glob('*') if p.name != 'lo' and (p / 'uevent').exists()]
    interfaces += [p for p in (SYS / 'class/tty').glob('ttyS*') if (p / 'type').read_text().strip() != '0']
    interfaces += [p for p in (SYS / 'block').glob('*') if 'virtual' not in str(p.resolve())]
    for interface in (p.resolve() for p in interfaces):
        if not any(str(above) in found for above in interface.parents):
            found.add(str(interface))
    return found


@pytest.fixture
def udev() -> Iterator[UdevSource]:
    """Return the source of this machine's hardware."""
    source = UdevSource(RULES)
    yield source
    source.close()


@pytest.fixture
def started() -> Iterator[Callable[..., 'Started']]:
    """Return a function that starts a worker for a source; all are stopped afterwards."""
    running: list[Started] = []

    def start(source: Source, interval: float = HOUR) -> Started:
        running.append(Started(source, interval))
        return running[-1]

    yield start
    for one in running:
        one.worker.stop()


class Started:
    """A running worker and what it delivers."""

    def __init__(self, source: Source, interval: float) -> None:
        """Start it."""
        self.reports: queue.Queue[Report] = queue.Queue()
        self.worker = Worker(source, interval, self.reports.put)
        self.worker.start()

    def until(self, condition: Callable[[Report], object]) -> Report:
        """Return the first report for which `condition` is true."""
        deadline = time.monotonic() + 20
        while True:
            report = self.reports.get(timeout=max(0.01, deadline - time.monotonic()))
            if condition(report):
                return report


# udev -----------------------------------------------------------------------------------------
def test_the_list_equals_sys(udev: UdevSource) -> None:
    report = udev.scan('first scan')
    assert report.complete and report.problem == ''
    assert expected_paths() <= {device.path for device in report.present.values()}
    listed = ' '.join(node for device in report.present.values() for node in device.nodes)
    assert not any(name in listed for name in ('/dev/loop', '/dev/ram', '/dev/tty1', '/dev/ptmx'))
    assert len({device.id for device in report.present.values()}) == len(report.present)


def test_without_libudev_it_sees_the_same(udev: UdevSource, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError('No library named udev')

    with_udev = udev.scan('first scan')
    monkeypatch.setattr(udev_module, 'open_context', missing)
    without = UdevSource(RULES).scan('first scan')
    assert set(without.present) == set(with_udev.present)
    assert 'libudev was not found' in without.problem and 'apt install' in without.problem


def test_libudev_is_found_where_the_loader_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(name: str) -> None:
        return None

    monkeypatch.setattr(pyudev_loader, 'find_library', blind)
    assert list(open_context().list_devices(subsystem='tty'))
    assert pyudev_loader.find_library is blind


def test_without_netlink_it_scans(udev: UdevSource, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, 'Protocol not supported')

    monkeypatch.setattr(udev_module.pyudev.Monitor, 'from_netlink', refused)
    report = udev.scan('first scan')
    assert report.present and 'kernel events cannot be received' in report.problem


def test_a_real_interface_is_plugged_in_and_pulled_out(udev: UdevSource, started) -> None:
    worker = started(udev)
    worker.until(lambda report: report.complete)
    tap = Tap('muster_hot')
    path = '/devices/virtual/net/muster_hot'
    added = worker.until(lambda report: path in report.present)
    assert added.present[path].id == 'net-muster_hot' and not added.complete
    assert added.reason.startswith('kernel event add')
    tap.pull()
    assert 'remove' in worker.until(lambda report: path in report.gone).reason


def test_a_name_that_is_no_text_disturbs_nobody(udev: UdevSource, started) -> None:
    worker = started(udev)
    before = worker.until(lambda report: report.complete)
    tap = Tap(b'muster\xff\xfe')
    number = worker.worker.request_scan()
    present = worker.until(lambda report: report.scan >= number).present
    assert [device.id for key, device in present.items() if key not in before.present] == ['net-muster']
    tap.pull()
    number = worker.worker.request_scan()
    assert worker.until(lambda report: report.scan >= number).present.keys() == before.present.keys()


def test_a_change_event_without_a_change_is_no_news(udev: UdevSource, started) -> None:
    tap = Tap('muster_same')
    path = Path('/sys/class/net/muster_same/uevent')
    if not os.access(path, os.W_OK):
        pytest.skip('/sys is not writable here')
    registry = Registry()
    worker = started(udev)
    registry.apply(worker.until(lambda report: report.complete), 0.0, 0)
    path.write_text('change')
    report = worker.until(lambda report: 'change' in report.reason)
    assert registry.apply(report, 1.0, 0) == []
    tap.pull()


def test_a_dead_monitor_is_replaced_and_nothing_is_missed(udev: UdevSource, started) -> None:
    worker = started(udev)
    worker.until(lambda report: report.complete)
    udev._opened -= HOUR  # as if it had worked for long
    tap = Tap('muster_dead')
    worker.until(lambda report: '/devices/virtual/net/muster_dead' in report.present)
    read_end, write_end = os.pipe()
    os.close(write_end)
    os.dup2(read_end, udev._monitor.fileno())  # from now on poll says POLLHUP
    os.close(read_end)
    tap.pull()
    # The thread still waits on the old socket; a requested scan makes it poll the new, broken one.
    worker.worker.request_scan()
    lost = worker.until(lambda report: report.reason == 'kernel events were lost')
    assert lost.complete and lost.problem == '' and '/devices/virtual/net/muster_dead' not in lost.present
    again = Tap('muster_dead')
    worker.until(lambda report: '/devices/virtual/net/muster_dead' in report.present and not report.complete)
    again.pull()


def test_after_an_overflow_everything_is_read_again(udev: UdevSource) -> None:
    event = Path('/sys/class/net/lo/uevent')
    if not os.access(event, os.W_OK):
        pytest.skip('/sys is not writable here')
    udev.scan('first scan')
    udev._opened -= HOUR  # as if it had worked for long
    udev._monitor.set_receive_buffer_size(4096)
    for _ in range(100):  # nobody reads: the kernel drops what the socket cannot hold (netlink(7), ENOBUFS)
        event.write_text('change')
    tap = Tap('muster_flood')
    wake = os.eventfd(0)
    report = udev.wait(1.0, wake)
    assert report is not None and report.reason == 'kernel events were lost'
    assert report.complete and '/devices/virtual/net/muster_flood' in report.present
    tap.pull()
    gone = udev.wait(5.0, wake)
    assert gone is not None and '/devices/virtual/net/muster_flood' in gone.gone
    os.close(wake)


def test_a_monitor_that_dies_at_once_does_not_spin(udev: UdevSource) -> None:
    udev.scan('first scan')
    read_end, write_end = os.pipe()
    os.close(write_end)
    os.dup2(read_end, udev._monitor.fileno())
    os.close(read_end)
    wake = os.eventfd(0)
    report = udev.wait(1.0, wake)
    assert report is not None and not report.complete and 'kernel events were lost' in report.problem
    assert udev.wait(0.0, wake) is None, 'it waits for the next scan'
    assert udev.scan('periodic scan').problem == ''
    os.close(wake)


def test_without_events_it_polls_and_sees_both(
        udev: UdevSource, started, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, 'Protocol not supported')

    monkeypatch.setattr(udev_module.pyudev.Monitor, 'from_netlink', refused)
    worker = started(udev)  # the next periodic scan is an hour away
    worker.until(lambda report: report.complete)
    path = '/devices/virtual/net/muster_poll'
    tap = Tap('muster_poll')
    assert 'came or went' in worker.until(lambda report: path in report.present).reason
    tap.pull()
    worker.until(lambda report: path not in report.present)


def test_a_periodic_scan_reads_only_when_something_came_or_went(
        udev: UdevSource, monkeypatch: pytest.MonkeyPatch) -> None:
    first = udev.scan('first scan')
    reads: list[str] = []
    read = sysfs.read
    monkeypatch.setattr(sysfs, 'read', lambda path: reads.append(path) or read(path))
    again = udev.scan(PERIODIC)
    assert again.complete and again.present == first.present and not reads
    tap = Tap('muster_more')
    assert '/devices/virtual/net/muster_more' in udev.scan(PERIODIC).present and reads
    reads.clear()
    assert udev.scan(PERIODIC).present.keys() - first.present.keys() and not reads
    tap.pull()
    assert udev.scan(PERIODIC).present == first.present and reads
    reads.clear()
    udev._read_at -= udev_module.FULL_INTERVAL
    assert udev.scan(PERIODIC).complete and reads, 'drivers make no entries: once a minute all is read'
    reads.clear()
    assert udev.scan('requested scan').complete and reads


def test_a_device_that_was_replaced_by_its_like_changes_the_signature() -> None:
    seen = set()
    for _ in range(3):
        tap = Tap('muster_same')
        seen.add(sysfs.signature())
        tap.pull()
    assert len(seen) == 3


@pytest.fixture
def torn(tmp_path: Path) -> Iterator['Torn']:
    """Return a device that waits to be replaced in the middle of being read."""
    one = Torn(tmp_path)
    yield one
    one.reader.join(10)


class Torn:
    """A USB device of a /sys of its own; whoever reads it waits in the middle, at its product number."""

    PATH = '/devices/usb1/1-1'

    def __init__(self, root: Path) -> None:
        """Begin to read it."""
        self.root, self.folder = root, Path(f'{root}{self.PATH}')
        self.plug('1546', 'S1')
        (self.folder / 'idProduct').unlink()
        os.mkfifo(self.folder / 'idProduct')
        self.records: list[Record | None] = []
        self.reader = threading.Thread(target=lambda: self.records.append(sysfs.read(self.PATH, self.root)))
        self.reader.start()
        self._line = (self.folder / 'idProduct').open('w')     # opens when it is being read

    def plug(self, vendor: str, serial: str) -> None:
        """Put a device there."""
        self.folder.mkdir(parents=True)
        (self.folder / 'subsystem').symlink_to('../../bus/usb')
        for name, text in (('uevent', 'DEVTYPE=usb_device'), ('idVendor', vendor), ('idProduct', '0001'),
                           ('serial', serial)):
            (self.folder / name).write_text(f'{text}\n')

    def pull(self) -> None:
        """Take the device away."""
        self.folder.rename(self.root / 'taken')
        shutil.rmtree(self.root / 'taken')

    def read(self) -> Record | None:
        """Let the reader go on; return what it has read."""
        self._line.write('0001\n')
        self._line.close()
        self.reader.join(10)
        return self.records[0]


def test_a_device_that_is_replaced_while_it_is_read_is_read_again(torn: 'Torn') -> None:
    torn.pull()
    torn.plug('046d', 'S2')
    record = torn.read()
    assert record is not None
    assert (record.vendor_id, record.product_id, record.attributes['serial']) == ('046d', '0001', 'S2')


def test_a_device_that_is_pulled_out_while_it_is_read_is_gone(torn: 'Torn') -> None:
    torn.pull()
    assert torn.read() is None


def test_what_is_inside_a_device_that_is_gone_is_gone(udev: UdevSource) -> None:
    path = '/devices/pci0000:00/usb1/1-9'
    inside = Record(f'{path}/1-9:1.0', 'usb', 'usb_interface', '', '', {}, {})
    other = Record(f'{path}0', 'usb', 'usb_device', '', '', {}, {})
    udev._records = {record.path: record for record in (inside, other)}
    udev._update({path})
    assert udev._records == {other.path: other}


# worker ---------------------------------------------------------------------------------------
class Moody:
    """A source that fails or hangs when told to."""

    name = 'moody'

    def __init__(self) -> None:
        """Begin well."""
        self.failure: Exception | None = None
        self.scans = 0
        self.hang = threading.Event()
        self.hang.set()
        self.closed = False

    def scan(self, reason: str) -> Report:
        """Do as told."""
        self.hang.wait()
        self.scans += 1
        if self.failure:
            raise self.failure
        return Report(self.name, {}, reason)

    def wait(self, timeout: float, wake: int) -> Report | None:
        """Find nothing."""
        pause(timeout, wake)
        return None

    def close(self) -> None:
        """Remember."""
        self.closed = True


def test_a_scan_that_was_asked_for_is_answered(started) -> None:
    worker = started(Moody())
    assert worker.until(lambda report: True).reason == 'first scan'
    for _ in range(20):
        number = worker.worker.request_scan()
        assert worker.until(lambda report, number=number: report.scan >= number).reason == 'requested scan'


def test_a_source_that_raises_is_tried_again(started) -> None:
    source = Moody()
    source.failure = OSError(errno.EIO, 'bus on fire')
    worker = started(source, 0.02)
    failed = worker.until(lambda report: report.problem)
    assert 'bus on fire' in failed.problem and not failed.complete
    source.failure = None
    assert worker.until(lambda report: not report.problem).complete


def test_a_shorter_interval_counts_at_once(started) -> None:
    source = Moody()
    worker = started(source)
    worker.until(lambda report: report.complete)
    worker.worker.set_interval(0.01)
    wait_until(lambda: source.scans > 2, 20, 'scans that the old interval has not brought')
    assert worker.reports.empty(), 'none of them was a requested one'


def test_a_periodic_scan_without_news_is_not_delivered(started) -> None:
    source = Moody()
    worker = started(source, 0.01)
    worker.until(lambda report: report.complete)
    heard = worker.worker.heard
    wait_until(lambda: source.scans > 5 and worker.worker.heard > heard, 20, 'periodic scans')
    assert worker.reports.empty()
    source.failure = OSError(errno.EIO, 'bus on fire')
    worker.until(lambda report: report.problem)
    source.failure = None
    assert worker.until(lambda report: not report.problem).complete, 'nothing new but that it is well again'


def test_a_source_that_hangs_is_abandoned(started) -> None:
    source = Moody()
    source.hang.clear()
    worker = started(source)
    assert worker.worker.stop(timeout=0.05) is False
    source.hang.set()
    assert worker.worker.stop() is True and source.closed


# pseudo-terminals -----------------------------------------------------------------------------
def test_a_link_to_a_pseudo_terminal_is_a_simulated_serial_port(tmp_path: Path, started) -> None:
    controller, terminal = os.openpty()
    worker = started(SerialLinks([f'{tmp_path}/tty*']))
    assert not worker.until(lambda report: report.complete).present
    link = tmp_path / 'tty_gps'
    link.symlink_to(os.ttyname(terminal))
    found = worker.until(lambda report: report.present).present[str(link)]
    assert (found.bus, found.type, found.simulated) == ('tty', 'serial_port', True)
    assert found.nodes == (str(link), os.ttyname(terminal)) and '/' not in found.id
    os.close(terminal)
    os.close(controller)  # the other side went; the link dangles
    worker.until(lambda report: not report.present)


def test_other_files_and_endless_directories_are_not_serial_ports(tmp_path: Path) -> None:
    (tmp_path / 'tty_file').write_text('')
    (tmp_path / 'tty_loop').symlink_to(tmp_path / 'tty_loop')
    (tmp_path / 'tty_null').symlink_to('/dev/null')
    source = SerialLinks([f'{tmp_path}/tty*'])
    assert source.scan('first scan') == Report('serial_links', {}, 'first scan')
    for number in range(MAX_LINKS):
        (tmp_path / f'tty{number}').write_text('')
    assert f'more than {MAX_LINKS}' in source.scan('again').problem


# virtual devices ------------------------------------------------------------------------------
LIDAR = Device(id='virtual:robot_1:lidar', name='lidar', bus='virtual', type='lidar')


def test_virtual_devices_are_always_marked() -> None:
    (device,) = virtual.snapshot([LIDAR]).present.values()
    assert device.simulated and device.fallback_id == 'virtual-virtual:robot_1:lidar'


@pytest.mark.parametrize(('wrong', 'named'), [
    ({'id': ''}, 'id'), ({'id': 'x' * 300}, 'id'), ({'id': 'a\nb'}, 'id'), ({'id': '../x'}, 'id'),
    ({'name': 'x' * 300}, 'name'), ({'path': '\0'}, 'path'), ({'type': 'Li dar'}, 'type'),
    ({'capabilities': ('',)}, 'capabilities'), ({'capabilities': ('x',) * 65}, 'capabilities'),
    ({'nodes': ('x' * 257,)}, 'nodes'), ({'properties': (('k', 'v'),) * 65}, 'properties'),
    ({'confidence': float('nan')}, 'confidence'), ({'confidence': 2.0}, 'confidence')])
def test_a_wrong_virtual_device_is_refused_by_name(wrong: dict, named: str) -> None:
    fields = {'id': 'good', 'name': 'n', 'bus': '', **wrong}
    with pytest.raises(virtual.SnapshotError, match=named):
        virtual.snapshot([LIDAR, Device(**fields)])


def test_too_many_or_double_virtual_devices_are_refused() -> None:
    with pytest.raises(virtual.SnapshotError, match='twice'):
        virtual.snapshot([LIDAR, LIDAR])
    with pytest.raises(virtual.SnapshotError, match='more than 256'):
        virtual.snapshot(Device(id=f'd{n}', name='', bus='') for n in range(257))
