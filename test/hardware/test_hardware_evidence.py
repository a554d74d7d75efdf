# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""From what chips and serial devices answer to what they are."""
from pathlib import Path

import captures
from hypothesis import given, settings, strategies as st
from kernel import usb
from muster.hardware.evidence import I2cReading, RegisterRead, SerialReading, SpiReading
from muster.hardware.identification import Candidate, Claim, Rules, share
from muster.hardware.matching import CHECKS, reply_pattern
from muster.hardware.usb_names import usb_names
import pytest

# Without usb.ids: what is known must not depend on the machine.
RULES = Rules.load(sorted((Path(__file__).parents[2] / 'config' / 'devices').glob('*.yaml')), usb_names(()))


def chip(address: int, **registers: str) -> Claim:
    """Identify a chip by registers as r75='68'; their width is that of the value."""
    reads = {RegisterRead(1, int(name[1:], 16), len(value) // 2): bytes.fromhex(value)
             for name, value in registers.items()}
    return RULES.identify([I2cReading(address, reads)])


def names(claim: Claim) -> list[str]:
    """Return the candidates, most likely first."""
    return [candidate.name for candidate in claim.candidates]


def test_a_chip_with_an_id_of_its_own_is_named() -> None:
    claim = chip(0x76, rd0='60')
    assert (claim.type, claim.name) == ('environment', 'Bosch BME280') and claim.confidence > 0.9
    assert {'barometer', 'thermometer', 'hygrometer'} <= set(claim.capabilities)
    assert claim.candidates[0].evidence == 'i2c 0x76 register 0xd0 = 0x60'


def test_chips_with_the_same_id_stay_ambiguous_but_their_type_is_sure() -> None:
    claim = chip(0x68, r75='68')
    assert claim.type == 'imu' and claim.confidence > 0.9
    assert names(claim)[:3] == ['MPU-6050', 'MPU-6000', 'MPU-9150'] and claim.candidates[0].confidence < 0.5
    assert 'magnetometer' not in claim.capabilities, 'only one of them has it'
    assert claim.name == 'InvenSense MPU-6050 or InvenSense MPU-6000 or InvenSense MPU-9150'


def test_what_one_byte_tells_is_sure_of_the_type_and_not_of_the_name() -> None:
    claim = chip(0x76, r0d='10')
    assert {'DPS310', 'SPL06-001'} <= set(names(claim)) and claim.candidates[0].confidence < 0.5
    claim = chip(0x68, r75='71')
    assert claim.name == 'InvenSense MPU-9250' and 0.8 < claim.candidates[0].confidence < 0.9
    assert (claim.type, claim.confidence > 0.9) == ('imu', True)


def test_a_chip_that_several_rules_know_is_listed_once() -> None:
    lights = [c.name for c in chip(0x29, r86='a0', r87='05').candidates if c.name.startswith('LTR')]
    assert sorted(lights) == ['LTR303', 'LTR329']


def test_a_second_register_tells_apart_what_the_first_does_not() -> None:
    assert names(chip(0x77, rd0='61'))[:2] == ['BME680', 'BME688']
    claim = chip(0x77, rd0='61', rf0='01')
    assert claim.name == 'Bosch BME688' and claim.candidates[0].confidence > 0.9


def test_an_address_alone_identifies_nothing() -> None:
    claim = chip(0x40)
    assert (claim.type, claim.confidence, claim.name) == ('unknown', 0.0, '')
    assert {'PCA9685', 'INA219'} <= set(names(claim))


@pytest.mark.parametrize('value', ['00', 'ff'])
def test_a_register_that_reads_all_zeros_or_ones_names_no_strong_candidate(value: str) -> None:
    for address in range(0x08, 0x78):
        reads = {read: bytes.fromhex(value * read.width) for read in RULES.i2c_reads(address)}
        claim = RULES.identify([I2cReading(address, reads)])
        assert [c.title for c in claim.candidates if c.confidence > 0.6] == [], address


def test_the_revision_bits_of_an_id_do_not_count() -> None:
    assert chip(0x40, r3e='5449', r3f='2281').name == 'Texas Instruments INA228'
    assert chip(0x5a, r00='e8').name == 'Texas Instruments DRV2605L'


def test_spi_chips_are_named_by_their_reply_and_open_lines_are_none() -> None:
    send = bytes.fromhex('9f000000')
    assert RULES.identify([SpiReading(send, bytes.fromhex('ffef4018'))]).name == 'Winbond W25Q128'
    assert RULES.identify([SpiReading(send, bytes(4))]) == Claim()
    assert RULES.identify([SpiReading(send, b'\xff' * 4)]) == Claim()
    assert RULES.identify([SpiReading(send, b'\xef\x40\x18')]) == Claim(), 'too short'


def test_a_bridge_lists_what_may_be_behind_it_and_says_no_more() -> None:
    claim = RULES.identify(usb('1-1', '10c4', 'ea60', 'ff0000')[2:])
    assert (claim.type, claim.name) == ('serial_adapter', 'Silicon Labs CP210x')
    assert {'RPLIDAR', 'YDLIDAR'} <= set(names(claim))
    assert all(candidate.confidence <= 0.1 for candidate in claim.candidates[1:])


def test_the_answer_of_what_is_behind_a_bridge_outweighs_the_bridge() -> None:
    reply = SerialReading(b'\xa5\x50', bytes.fromhex('a55a140000000418190102') + bytes(16))
    claim = RULES.identify([*usb('1-1', '10c4', 'ea60', 'ff0000')[2:], reply])
    assert (claim.type, claim.name) == ('lidar', 'Slamtec RPLIDAR') and claim.confidence == 0.95
    assert set(claim.capabilities) >= {'scan_2d', 'serial'}
    other = SerialReading(b'\xa5\x90', reply.reply)
    assert RULES.identify([other]).name == 'YDLIDAR', 'the same reply to another question'


@pytest.mark.parametrize(('sent', 'reply', 'name'), [
    ('', b'\x00$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n',
     'GNSS receiver (NMEA 0183)'),
    ('56560a', b'VV\n00P\nVEND:Hokuyo Automatic Co.,Ltd.;[\n', 'Hokuyo URG or UTM'),
    ('690a', b'Hardware version: 3.6-56V\r\nFirmware version: 0.5.1\r\n', 'ODrive Robotics ODrive'),
    ('f079f7', bytes.fromhex('f079020553007400f7'), 'Firmata Firmata firmware'),
    ('fffffd00fe0300013142', bytes.fromhex('fffffd000107005500060426655d'),
     'ROBOTIS Dynamixel servo bus (U2D2)'),
    ('fffffe0201fe', bytes.fromhex('ffff010200fc'), 'Feetech Feetech servo bus')])
def test_serial_devices_are_named_by_what_they_say(sent: str, reply: bytes, name: str) -> None:
    claim = RULES.identify([SerialReading(bytes.fromhex(sent), reply)])
    assert claim.name == name and claim.confidence >= 0.8


@pytest.mark.parametrize(('check', 'frame'), [
    ('nmea', b'$GPGLL,3751.65,S,14507.36,E*77'),
    ('ubx', bytes.fromhex('b5620a0400000e34')),
    ('dynamixel', bytes.fromhex('fffffd00fe0300013142')),  # ROBOTIS e-Manual, protocol 2.0, ping
    ('feetech', bytes.fromhex('fffffe0201fe')),
    ('vesc', bytes.fromhex('020100000003')),
    ('mavlink', bytes.fromhex('fe0900ff00000000000006080004 03'.replace(' ', '')))])
def test_a_checksum_holds_for_its_frame_and_for_no_other(check: str, frame: bytes) -> None:
    if check == 'mavlink':
        frame += crc_x25(frame[1:] + b'\x32').to_bytes(2, 'little')
    assert CHECKS[check](frame + b'more')
    for position in range(2, len(frame)):
        broken = bytearray(frame)
        broken[position] ^= 0x01
        assert not CHECKS[check](bytes(broken)), position


def crc_x25(data: bytes) -> int:
    """Return CRC-16/MCRF4XX as the MAVLink guide writes it, byte by byte."""
    crc = 0xFFFF
    for byte in data:
        byte ^= crc & 0xFF
        byte = (byte ^ byte << 4) & 0xFF
        crc = (crc >> 8) ^ (byte << 8) ^ (byte << 3) ^ (byte >> 4)
    return crc


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(CHECKS)), st.binary(max_size=64))
def test_no_bytes_break_a_checksum(name: str, frame: bytes) -> None:
    assert CHECKS[name](frame) in (True, False)


def test_a_pattern_takes_time_in_proportion_to_what_it_searches() -> None:
    assert reply_pattern('"a" * "b" * "c"').search(b'a' * 1024) is None


@given(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.9, 0.95]), max_size=12))
def test_the_confidences_of_alternatives_add_up_to_one_at_most(confidences: list[float]) -> None:
    ranked = share(Candidate(str(n), '', 'x', c, '', '') for n, c in enumerate(confidences))
    assert sum(c.confidence for c in ranked) <= 1.0 + 1e-9
    assert [c.confidence for c in ranked] == sorted((c.confidence for c in ranked), reverse=True)
    assert len(ranked) == len(confidences)


@pytest.mark.parametrize(('sent', 'reply', 'name'), [
    ('AT+CGMM\r', 'AT+CGMM\r\r\nEM7455B\r\n', 'EM7455B'), ('AT+CGMM\r', '\r\nEC25\r\n\r\nOK\r\n', 'EC25'),
    ('\x02sRN DeviceIdent\x03', '\x02sRA DeviceIdent 8 LMS10x_F 10 V1.36\x03', 'SICK LMS10x_F'),
    ('AT+CGMM\r', 'AT+CGMM\r\r\nERROR\r\n', ''), ('AT+CGMM\r', 'AT+CGMM\r', '')])
def test_a_device_that_says_its_model_is_called_so(sent: str, reply: str, name: str) -> None:
    assert RULES.identify([SerialReading(sent.encode(), reply.encode())]).name == name


def test_what_was_known_while_the_rules_were_written_is_identified() -> None:
    result = captures.score(RULES, captures.load('seen'))
    assert result.absent == ('Realtek 802.11n',), 'the list tells more of it: 802.11b/g/n'
    assert result.wrong == () and result.share >= 0.8, result


def test_captures_not_looked_at_before_are_identified_or_stay_unknown() -> None:
    unseen = captures.load('held_out')
    everything = [*captures.load('seen'), *unseen]
    assert len(unseen) >= 0.2 * len(everything)
    assert captures.score(RULES, everything).share >= 0.8
    assert captures.score(RULES, unseen).wrong == ()
