# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The I2C source on buses without hardware: what it finds, and that it harms no chip."""
from collections.abc import Iterator
import errno
from pathlib import Path
import threading
import time

from captures import load
from hypothesis import given, settings, strategies as st
from i2c_bus import Chip, chip_of, FakeBus, forbidden, Latch, Transfer, Wires
from kernel import RULES
from muster.hardware.devices import Device, Status
from muster.hardware.evidence import I2cReading
from muster.hardware.sources import buses
from muster.hardware.sources.deadline import Deadline
from muster.hardware.sources.i2c import I2cSource
from muster.hardware.sources.i2c_probing import ADDRESSES, FUNC_I2C, FUNC_READ_BYTE, READ_ADDRESSES
from processes import wait_until
import pytest

MPU6050 = {0x75: 0x68}
BME280 = {0x88: 0x6B, 0xD0: 0x60}
FIXTURES = [item for name in ('seen', 'held_out') for capture in load(name) for item in capture.evidence
            if isinstance(item, I2cReading)]


@pytest.fixture
def wires(tmp_path: Path) -> Wires:
    return Wires(tmp_path)


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def source(wires: Wires, bus: int = 1, **settings) -> I2cSource:
    settings.setdefault('deadline', Deadline('patient', 10.0, 60.0))    # a loaded machine is no fault
    return I2cSource(bus, RULES, open_bus=wires.open, root=wires.root, **settings)


def found(source: I2cSource, reason: str = 'first scan') -> dict[str, Device]:
    report = source.scan(reason)
    assert report.complete
    return {device.id: device for device in report.present.values()}


def is_known_read(transfer: Transfer) -> bool:
    """Return whether the bytes written are the number of a register that the rules read there."""
    return any(transfer.wrote == read.register.to_bytes(read.address_bytes) and transfer.read == read.width
               for read in RULES.i2c_reads(transfer.address))


# What is found --------------------------------------------------------------------------------
def test_chips_are_identified_by_their_registers(wires: Wires) -> None:
    wires.adapter(1, {0x68: Chip(dict(MPU6050)), 0x76: Chip(dict(BME280), pointer=0x88)})
    devices = found(source(wires))
    assert set(devices) == {'i2c-1-0068', 'i2c-1-0076'}
    imu, weather = devices.values()
    assert imu.type == 'imu' and imu.status == Status.CONNECTED and imu.nodes == ('/dev/i2c-1',)
    assert any('MPU-6050' in candidate for candidate in imu.candidates)
    assert 'BME280' in weather.name and weather.confidence >= 0.9
    assert dict(weather.properties)['evidence'] == 'i2c 0x76 register 0xd0 = 0x60'


def test_an_unknown_chip_stays_unknown(wires: Wires) -> None:
    wires.adapter(1, {0x12: Chip()})
    device = found(source(wires))['i2c-1-0012']
    assert (device.type, device.confidence, device.status) == ('unknown', 0.0, Status.DISCOVERED)


def test_an_address_alone_names_nothing_for_sure(wires: Wires) -> None:
    wires.adapter(1, {0x40: Chip({}), 0x48: Chip({}), 0x20: Latch()})
    assert all(device.confidence < 0.9 for device in found(source(wires)).values())


@pytest.mark.parametrize('reading', FIXTURES, ids=lambda reading: f'0x{reading.address:02x}')
def test_every_capture_is_identified_over_the_bus(wires: Wires, reading: I2cReading) -> None:
    wires.adapter(1, {reading.address: chip_of(reading)})
    device = found(source(wires, permitted=True))[f'i2c-1-{reading.address:04x}']
    claim = RULES.identify([reading])
    assert device.type == claim.type or device.confidence < 0.9


def test_a_chip_that_comes_and_goes(wires: Wires) -> None:
    bus = wires.adapter(1)
    i2c = source(wires)
    assert not found(i2c)
    bus.chips[0x68] = Chip(dict(MPU6050))
    assert list(found(i2c, 'periodic scan')) == ['i2c-1-0068']
    del bus.chips[0x68]
    assert not found(i2c, 'periodic scan')


def test_a_known_chip_that_misses_a_request_is_not_gone(wires: Wires) -> None:
    bus = wires.adapter(1, {0x68: Chip(dict(MPU6050))})
    i2c = source(wires)
    found(i2c)
    bus.chips[0x68].missed = 2
    assert found(i2c, 'periodic scan')
    bus.chips[0x68].missed = 3
    assert not found(i2c, 'periodic scan')


def test_the_periodic_scan_reads_no_register_of_a_known_chip(wires: Wires) -> None:
    wires.adapter(1, {0x68: Chip(dict(MPU6050))})
    i2c = source(wires)
    found(i2c)
    wires.log.clear()
    found(i2c, 'periodic scan')
    assert wires.log and not any(transfer.wrote for transfer in wires.log)
    found(i2c, 'requested scan')
    assert any(transfer.wrote for transfer in wires.log)


def test_another_chip_at_the_address_is_seen_at_a_requested_scan(wires: Wires) -> None:
    bus = wires.adapter(1, {0x76: Chip(dict(BME280), pointer=0x88)})
    i2c = source(wires)
    found(i2c)
    bus.chips[0x76] = Chip({0x88: 1, 0xD0: 0x58}, pointer=0x88)
    assert 'BMP280' in found(i2c, 'requested scan')['i2c-1-0076'].name


# Drivers and multiplexers ---------------------------------------------------------------------
def test_ebusy_is_a_chip_of_a_kernel_driver(wires: Wires) -> None:
    wires.adapter(1, {0x68: Chip()})
    wires.client(1, 0x68, 'ds1307', 'rtc-ds1307')
    device = found(source(wires))['i2c-1-0068']
    assert dict(device.properties)['driver'] == 'rtc-ds1307' and device.status == Status.CONNECTED
    assert 'ds1307' in device.name.lower() and device.nodes == ()
    assert device.path.endswith('/i2c-1/1-0068')
    assert all(transfer.address != 0x68 for transfer in wires.log)


@pytest.mark.parametrize('idle', ['-2', '-1'])
def test_a_chip_behind_a_multiplexer_is_listed_once(wires: Wires, idle: str) -> None:
    wires.adapter(1, {0x70: Latch(), 0x40: Chip({})})
    wires.multiplexer(1, {5: {0x68: Chip(dict(MPU6050))}, 6: {0x76: Chip(dict(BME280), pointer=0x88)}}, idle)
    devices = found(source(wires))
    assert set(devices) == {'i2c-1-0040', 'i2c-1-0070', 'i2c-5-0068', 'i2c-6-0076'}
    assert dict(devices['i2c-5-0068'].properties)['multiplexer'] == '1-0070'
    assert dict(devices['i2c-1-0070'].properties)['driver'] == 'pca954x'


def test_equal_chips_on_two_channels_are_two(wires: Wires) -> None:
    wires.adapter(1, {0x70: Latch()})
    wires.multiplexer(1, {5: {0x29: Chip()}, 6: {0x29: Chip()}}, '-2')
    assert {'i2c-5-0029', 'i2c-6-0029'} <= set(found(source(wires)))


def test_a_driver_behind_a_multiplexer_is_on_its_channel(wires: Wires) -> None:
    bus = wires.adapter(1, {0x70: Latch()})
    wires.multiplexer(1, {5: {0x68: Chip()}, 6: {}}, '-2')
    wires.client(5, 0x68, 'ds1307', 'rtc-ds1307')
    bus.taken |= {0x68}                    # the kernel refuses it before the multiplexer as well
    assert set(found(source(wires))) == {'i2c-1-0070', 'i2c-5-0068'}


def test_channels_are_no_buses_of_their_own(wires: Wires) -> None:
    wires.adapter(1, {0x70: Latch()})
    wires.multiplexer(1, {5: {}, 6: {}})
    assert [adapter.number for adapter in buses.i2c_buses(wires.root)] == [1]
    assert not buses.i2c_buses(Path('/nowhere'))


@pytest.mark.parametrize('name', ['SMBus I801 adapter at efa0', 'SMBus PIIX4 adapter at 0b00',
                                  'AMDGPU DM i2c hw bus 0', 'NVIDIA i2c adapter 3 at 1:00.0',
                                  'i915 gmbus dpb', 'DPDDC-A', 'Radeon i2c bit bus 0x90'])
def test_buses_of_displays_and_chipsets_are_left_alone(wires: Wires, name: str) -> None:
    wires.adapter(0, name=name)
    wires.adapter(1, name='i2c-tiny-usb at bus 001 device 004', below='devices/usb1/1-2')
    assert [adapter.number for adapter in buses.i2c_buses(wires.root)] == [1]
    assert [adapter.number for adapter in buses.i2c_buses(wires.root, foreign=True)] == [0, 1]


def test_a_bus_below_a_display_controller_is_left_alone(wires: Wires) -> None:
    wires.adapter(3, name='some bus', below='devices/pci0000:00/0000:00:02.0')
    (wires.root / 'devices/pci0000:00/0000:00:02.0/class').write_text('0x030000\n')
    wires.adapter(20, name='fef04500.i2c', below='devices/platform/soc/fef04500.i2c')
    (wires.root / 'class/drm/card0-HDMI-A-1').mkdir(parents=True)
    (wires.root / 'class/drm/card0-HDMI-A-1/ddc').symlink_to(wires.root / 'bus/i2c/devices/i2c-20')
    assert not buses.i2c_buses(wires.root)
    reasons = [adapter.foreign for adapter in buses.i2c_buses(wires.root, foreign=True)]
    assert '0000:00:02.0' in reasons[0] and 'connector of a display' in reasons[1]


# No harm --------------------------------------------------------------------------------------
def test_which_address_is_asked_how(wires: Wires) -> None:
    wires.adapter(1)
    found(source(wires))
    assert [transfer.address for transfer in wires.log] == list(ADDRESSES)
    assert {transfer.address for transfer in wires.log if transfer.read} == set(READ_ADDRESSES)
    assert {0x30, 0x37, 0x50, 0x5F} <= READ_ADDRESSES and not READ_ADDRESSES & {0x2F, 0x38, 0x4F, 0x60, 0x69}


def test_a_controller_without_quick_writes_leaves_the_clock_chips_alone(wires: Wires) -> None:
    wires.adapter(1, {0x69: Chip(), 0x68: Chip(dict(MPU6050))}, funcs=FUNC_READ_BYTE | FUNC_I2C)
    assert set(found(source(wires))) == {'i2c-1-0068'}
    assert all(transfer.address != 0x69 for transfer in wires.log)


@pytest.mark.parametrize('address', [0x39, 0x76, 0x77])
def test_outputs_and_switches_keep_their_state(wires: Wires, address: int) -> None:
    latch = Latch()
    latch.state = 0x5A
    wires.adapter(1, {address: latch})
    device = found(source(wires))[f'i2c-1-{address:04x}']
    assert latch.state == 0x5A
    assert 'would take that for a write' in dict(device.properties)['doubt'] and device.confidence < 0.9


def test_wide_registers_need_permission_and_come_last(wires: Wires) -> None:
    wires.adapter(1, {0x29: Chip({0x010F: 0xEA, 0x0110: 0xCC}, wide=True)})
    device = found(source(wires))['i2c-1-0029']
    assert '16-bit registers were not read' in dict(device.properties)['doubt']
    assert all(len(transfer.wrote) < 2 for transfer in wires.log)
    assert 'VL53L1X' in found(source(wires, permitted=True))['i2c-1-0029'].name
    wires.log.clear()
    wires.buses[1].chips[0x29] = Chip({0xC0: 0xEE})
    assert 'VL53L0X' in found(source(wires, permitted=True))['i2c-1-0029'].name
    assert all(len(transfer.wrote) < 2 for transfer in wires.log)


@pytest.mark.parametrize('permitted', [False, True])
def test_after_a_scan_of_all_captures_nothing_was_written(wires: Wires, permitted: bool) -> None:
    for number, reading in enumerate(FIXTURES):
        wires.adapter(number, {reading.address: chip_of(reading)}, below=f'devices/adapter{number}')
        i2c = source(wires, number, permitted=permitted)
        for reason in ('first scan', 'periodic scan', 'requested scan'):
            assert found(i2c, reason)
    assert len(wires.log) > 100 * len(FIXTURES)
    assert not forbidden(wires.log, is_known_read)
    assert not any(t.address in READ_ADDRESSES and not t.read for t in wires.log)
    assert all(t.address in ADDRESSES for t in wires.log)


CHIPS = st.builds(Chip, st.dictionaries(st.integers(0, 255), st.integers(0, 255), max_size=20), st.booleans(),
                  st.integers(0, 255), st.sampled_from([0, 0, 0, errno.EREMOTEIO, errno.ENXIO, errno.EIO]),
                  noisy=st.booleans(), missed=st.integers(0, 9))
LATCHES = st.builds(Latch)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(list(range(128))), CHIPS | LATCHES, max_size=40), st.booleans())
def test_whatever_is_on_the_bus_nothing_is_written(tmp_path_factory, chips, permitted) -> None:
    wires = Wires(tmp_path_factory.mktemp('sys'))
    wires.adapter(1, chips)
    before = {address: dict(chip.registers) for address, chip in chips.items()
              if not isinstance(chip, Latch) and not chip.noisy and not chip.wide}
    i2c = source(wires, permitted=permitted)
    for reason in ('first scan', 'periodic scan', 'requested scan'):
        assert all(0.0 <= device.confidence <= 1.0 for device in found(i2c, reason).values())
    assert not forbidden(wires.log, is_known_read)
    assert not any(t.address in READ_ADDRESSES and not t.read for t in wires.log)
    assert not any(t.address not in ADDRESSES for t in wires.log)
    assert all(chips[address].registers == registers for address, registers in before.items()
               if not permitted)
    assert permitted or all(chip.state == 0 for address, chip in chips.items() if isinstance(chip, Latch)
                            and address in (*range(0x20, 0x28), *range(0x38, 0x40), *range(0x70, 0x78)))


# Faults ---------------------------------------------------------------------------------------
def test_sda_stuck_rejects_the_bus(wires: Wires) -> None:
    wires.adapter(1, stuck=True)
    report = source(wires).scan('first scan')
    assert not report.present and 'every address answers' in report.problem
    assert len(wires.log) < len(ADDRESSES) and not any(transfer.wrote for transfer in wires.log)


@pytest.mark.parametrize('fault', [errno.ETIMEDOUT, errno.EAGAIN, errno.ENODEV])
def test_a_controller_that_fails_is_left_alone_for_longer_each_time(wires: Wires, fault: int) -> None:
    bus = wires.adapter(1, {0x68: Chip(dict(MPU6050))})
    clock = Clock()
    i2c = source(wires, clock=clock)
    assert found(i2c)
    bus.fault = fault
    touched = []
    for clock.now in range(100):
        wires.log.clear()
        report = i2c.scan('periodic scan')
        assert errno.errorcode[fault] in report.problem
        assert [device.status for device in report.present.values()] == [Status.ERROR]
        if wires.log:
            touched.append(clock.now)
    assert touched == [0, 5, 15, 35, 75]
    bus.fault, clock.now = 0, 155
    report = i2c.scan('periodic scan')
    assert report.problem == '' and [d.status for d in report.present.values()] == [Status.CONNECTED]


@pytest.mark.parametrize('fault', [errno.EREMOTEIO, errno.ENXIO, errno.EIO])
def test_a_storm_of_refusals_is_an_empty_bus(wires: Wires, fault: int) -> None:
    wires.adapter(1, fault=fault)
    report = source(wires).scan('first scan')
    assert not report.present and report.problem == ''


@pytest.mark.parametrize('value', [0x00, 0xFF])
def test_registers_of_zeros_or_ones_are_doubted(wires: Wires, value: int) -> None:
    for address in (0x0D, 0x0E, 0x29, 0x40, 0x68):
        chip = Chip(dict.fromkeys(range(256), value))
        wires.adapter(address, {address: chip}, below=f'devices/adapter{address}')
        device = found(source(wires, address))[f'i2c-{address}-{address:04x}']
        assert device.confidence <= 0.5 and 'as an open line does' in dict(device.properties)['doubt']


def test_a_register_that_changes_is_doubted(wires: Wires) -> None:
    wires.adapter(1, {0x68: Chip({0x75: 0x67}, noisy=True)})
    device = found(source(wires))['i2c-1-0068']
    assert device.confidence <= 0.5 and 'register 0x75 changes (68, 69)' in dict(device.properties)['doubt']


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    """Return an event until which a chip hangs; it is set at the end."""
    event = threading.Event()
    yield event
    event.set()


def test_a_bus_that_hangs_is_given_up_and_delays_no_other(wires: Wires, hang: threading.Event) -> None:
    wires.adapter(1, {0x40: Chip(hang=hang)})
    wires.adapter(2, {0x68: Chip(dict(MPU6050))}, below='devices/other')
    clock = Clock()
    sick, well = source(wires, clock=clock, deadline=Deadline('sick')), source(wires, 2)
    took: dict[str, float] = {}

    def timed(name: str, i2c: I2cSource) -> None:
        start = time.monotonic()
        i2c.scan('first scan')
        took[name] = time.monotonic() - start

    threads = [threading.Thread(target=timed, args=pair) for pair in (('sick', sick), ('well', well))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert took['well'] < took['sick'] and took['sick'] >= 0.2
    assert 'no answer within 200 ms (address 0x40)' in sick.scan('periodic scan').problem
    before = threading.active_count()
    for clock.now in range(0, 2000, 10):                 # its thread is left behind, and only that one
        sick.scan('periodic scan')
    assert threading.active_count() == before
    assert wires.buses[1].closed == 0


def test_a_bus_that_hung_recovers(wires: Wires, hang: threading.Event) -> None:
    bus = wires.adapter(1, {0x68: Chip(dict(MPU6050))})
    clock = Clock()
    i2c = source(wires, clock=clock, deadline=Deadline('test'))
    assert found(i2c)
    bus.chips[0x68].hang = hang
    assert found(i2c, 'periodic scan')['i2c-1-0068'].status == Status.ERROR
    hang.set()
    closed = bus.closed
    wait_until(lambda: not i2c._deadline.hangs, 10, 'the end of the thread')
    assert bus.closed == closed + 1                      # the thread that was left behind cleaned up
    clock.now = 5.0
    assert found(i2c, 'periodic scan')['i2c-1-0068'].status == Status.CONNECTED


class Mute(Chip):
    """A chip that acknowledges its address, and no number of a register."""

    def write(self, data: bytes) -> None:
        """Refuse."""
        if data:
            raise OSError(errno.EREMOTEIO, 'Remote I/O error')


@pytest.mark.parametrize('silent', [Mute(), Chip(), Chip(dict.fromkeys(range(256), 0xFF))])
def test_a_chip_whose_registers_tell_nothing_any_more_is_degraded_until_they_do(wires: Wires,
                                                                                silent: Chip) -> None:
    chips = wires.adapter(1, {0x68: Chip(dict(MPU6050))}).chips
    i2c = source(wires)

    def chip(reason: str) -> tuple[str, Status]:
        device = found(i2c, reason)['i2c-1-0068']
        return device.type, device.status
    assert chip('first scan') == ('imu', Status.CONNECTED)
    chips[0x68] = silent
    assert chip('periodic scan') == ('imu', Status.CONNECTED), 'who is there is all that it asks'
    for reason in ('requested scan', 'periodic scan'):
        assert chip(reason) == ('imu', Status.DEGRADED)
    chips[0x68] = Chip(dict(MPU6050))
    assert chip('periodic scan') == ('imu', Status.CONNECTED)


def test_no_permission_names_the_group(wires: Wires) -> None:
    wires.adapter(1)
    wires.errors[1] = PermissionError(errno.EACCES, 'Permission denied')
    report = source(wires).scan('first scan')
    assert not report.present and "group 'i2c'" in report.problem and '/dev/i2c-1' in report.problem


def test_no_device_node_names_the_module(wires: Wires) -> None:
    wires.adapter(1)
    wires.errors[1] = FileNotFoundError(errno.ENOENT, 'No such file')
    assert 'modprobe i2c-dev' in source(wires).scan('first scan').problem


def test_an_adapter_is_pulled_out_and_plugged_in(wires: Wires) -> None:
    wires.adapter(1, {0x68: Chip(dict(MPU6050))})
    i2c = source(wires)
    assert found(i2c)
    wires.pull(1)
    report = i2c.scan('periodic scan')
    assert not report.present and report.problem == ''
    wires.adapter(1, {0x68: Chip(dict(MPU6050))}, below='devices/elsewhere')
    assert list(found(i2c, 'periodic scan')) == ['i2c-1-0068']


class Vanishing(FakeBus):
    """A bus whose adapter is pulled out in the middle of a scan."""

    left = 40
    at_end = staticmethod(lambda: None)

    def _transfer(self, address: int, wrote: bytes, count: int) -> bytes:
        self.left -= 1
        if self.left < 0:
            self.at_end()
            raise OSError(errno.ENODEV, 'No such device')
        return super()._transfer(address, wrote, count)


def test_an_adapter_is_pulled_out_in_the_middle_of_a_scan(wires: Wires) -> None:
    wires.adapter(1, {0x10: Chip()})
    i2c = source(wires)
    assert found(i2c)
    bus = wires.buses[1] = Vanishing(1, {0x10: Chip()}, wires.log)
    assert 'ENODEV' in i2c.scan('periodic scan').problem and bus.closed == 1
    i2c = source(wires)
    bus.left, bus.at_end = 40, lambda: wires.pull(1)
    report = i2c.scan('first scan')
    assert not report.present and report.problem == ''
