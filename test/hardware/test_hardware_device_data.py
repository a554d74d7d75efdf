# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The identification data: what it says, and the strictness with which it is read."""
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
import re

from kernel import usb
from muster.hardware.capabilities import Offer
from muster.hardware.device_data import MAX_FILE, read_rules, RuleError
from muster.hardware.evidence import Record
from muster.hardware.identification import Rules
from muster.hardware.matching import KernelMatch
from muster.hardware.usb_names import LISTED, no_names, TABLE, usb_names, UsbName
import pytest

DATA = sorted((Path(__file__).parents[2] / 'config' / 'devices').glob('*.yaml'))
KERNEL = "- {match: {subsystem: usb, vendor_id: '1234'}, type: lidar, confidence: 0.9, source: x, name: X}\n"
I2C = ('- {match: {i2c: {address: 0x68, registers: [{register: 0x75, value: 0x68}]}}, type: imu, name: M, '
       'confidence: 0.9, source: maker}\n')
SPI = ("- {match: {spi: {send: '9f 00', reply: '00 ef', mask: '00 ff'}}, type: flash, name: W, "
       'confidence: 0.9, source: x}\n')
SERIAL = ("- {match: {serial: {send: 'a5 50', reply: 'a5 5a', baud: 115200}}, type: lidar, name: R, "
          'confidence: 0.9, source: x}\n')


def rules(tmp_path: Path, text: str, name: str = 'mine.yaml') -> Path:
    """Write a rule file."""
    file = tmp_path / name
    file.write_text(text)
    return file


@pytest.mark.parametrize(('text', 'line', 'key', 'remedy'), [
    ('rules: 5\n', 1, 'rules', 'must be a list'),
    ('rule: []\n', 1, 'rule', 'known: rules'),
    ('[]\n', 1, 'file', 'must be a mapping'),
    ('rules:\n' + KERNEL + KERNEL.replace('type:', 'tpye:'), 3, 'tpye', 'known: match, type'),
    ('rules:\n' + KERNEL.replace('type: lidar', 'type: Li-dar'), 2, 'type', 'lower-case'),
    ('rules:\n' + KERNEL.replace('type: lidar, ', ''), 2, 'type', 'add it'),
    ('rules:\n' + KERNEL.replace('subsystem: usb, ', ''), 2, 'subsystem', 'usb, i2c, spi, serial'),
    ('rules:\n' + KERNEL.replace("'1234'", '1234'), 2, 'vendor_id', "quote it as '1234'"),
    ('rules:\n' + KERNEL.replace('0.9', '1.5'), 2, 'confidence', 'up to 1'),
    ('rules:\n' + KERNEL.replace('0.9', 'nan'), 2, 'confidence', 'up to 1'),
    ('rules:\n' + KERNEL.replace('0.9', '[]'), 2, 'confidence', 'up to 1'),
    ('rules:\n' + KERNEL.replace('name: X', 'name: X, name: Y'), 2, 'name', 'remove one'),
    ('rules:\n' + KERNEL.replace('name: X', f'name: {"X" * 257}'), 2, 'name', '1..256'),
    ('rules:\n' + KERNEL.replace('name: X', 'capabilities: gnss'), 2, 'capabilities', 'must be a mapping'),
    ('rules:\n' + KERNEL.replace('name: X', 'capabilities: {GNSS: {}}'), 2, 'GNSS', 'lower-case'),
    ('rules:\n' + KERNEL.replace('name: X', 'capabilities: {scan: {rate: 10 hurz}}'), 2, 'rate', 'as 12 Hz'),
    ('rules:\n' + KERNEL.replace('name: X', 'capabilities: {scan: {axes: .inf}}'), 2, 'axes', 'as 12'),
    ('rules:\n' + KERNEL.replace('name: X', 'capabilities: {scan: {fpps: 1}}'), 2, 'fpps', 'known: width'),
    ('rules:\n' + KERNEL.replace('name: X', 'bridge: perhaps'), 2, 'bridge', 'true or false'),
    ('rules:\n' + KERNEL.replace('subsystem: usb, vendor_id', 'usb'), 2, 'usb', "as '1a86:7523'"),
    ('rules:\n' + KERNEL.replace('subsystem: usb', "usb: '1234:5678'"), 2, 'usb', 'goes together'),
    ('rules:\n' + KERNEL.replace("vendor_id: '1234'", 'spi: {}'), 2, 'spi', 'make two rules'),
    ('rules:\n' + I2C.replace('address: 0x68', 'address: 0x78'), 2, 'address', '0x08..0x77'),
    ('rules:\n' + I2C.replace('address: 0x68', 'address: 0x50-0x40'), 2, 'address', '0x08..0x77'),
    ('rules:\n' + I2C.replace('value: 0x68', 'value: 0x168'), 2, 'value', 'from 0 to 255'),
    ('rules:\n' + I2C.replace('value: 0x68', 'value: 0x68, mask: 0xf0'), 2, 'value', 'clear them'),
    ('rules:\n' + I2C.replace('value: 0x68', 'value: 0x68, width: 9'), 2, 'width', 'from 1 to 4'),
    ('rules:\n' + I2C.replace('register: 0x75, ', ''), 2, 'register', 'add it'),
    ('rules:\n' + I2C.replace('name: M, ', ''), 2, 'name', 'has a name'),
    ('rules:\n' + SPI + SPI.replace("'00 ef'", "'00'"), 3, 'reply', 'must be 2 bytes'),
    ('rules:\n' + SPI.replace("'9f 00'", "'9f 0'"), 2, 'send', 'hexadecimal'),
    ('rules:\n' + SERIAL.replace("'a5 5a'", "'a5 5'"), 2, 'reply', '?? for any byte'),
    ('rules:\n' + SERIAL.replace("'a5 5a'", "'* a5 * a5 * 00'"), 2, 'reply', 'two * for any few'),
    ('rules:\n' + SERIAL.replace("'a5 5a'", "'?? ??'"), 2, 'reply', '?? for any byte'),
    ('rules:\n' + SERIAL.replace('baud: 115200', 'baud: fast'), 2, 'baud', 'from 300'),
    ('rules:\n' + SERIAL.replace('baud: 115200', 'baud: 9600, check: parity'), 2, 'check', 'one of nmea'),
    ('rules:\n' + SERIAL.replace(', baud: 115200', ''), 2, 'baud', 'add it')])
def test_a_wrong_rule_is_named_with_file_line_key_and_remedy(tmp_path: Path, text: str, line: int, key: str,
                                                             remedy: str) -> None:
    with pytest.raises(RuleError) as error:
        read_rules(rules(tmp_path, text))
    assert f"mine.yaml:{line}: '{key}' " in str(error.value) and remedy in str(error.value)


@pytest.mark.parametrize('text', [
    'rules: [', '[' * 2000, '[' * 900_000, '- ' * 400_000, 'a: &a [*a]', '\0', '&x', '- 1',
    'rules: !!python/object/apply:os.system [x]'], ids=lambda text: str(text)[:12].strip('\0'))
def test_what_is_no_rule_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RuleError, match=r'mine\.yaml'):
        read_rules(rules(tmp_path, text))


def test_a_missing_binary_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r'absent\.yaml: cannot be read'):
        read_rules(tmp_path / 'absent.yaml')
    binary = tmp_path / 'binary.yaml'
    binary.write_bytes(b'\xff\xfe\x00rules')
    with pytest.raises(RuleError, match=r'binary\.yaml'):
        read_rules(binary)
    with pytest.raises(RuleError, match='larger than'):
        read_rules(rules(tmp_path, '#' * MAX_FILE + '\n'))


def test_capabilities_carry_values_with_units(tmp_path: Path) -> None:
    file = rules(tmp_path, 'rules:\n' + KERNEL.replace(
        'name: X', 'capabilities: {scan_2d: {range: 12.5 m, rate: 10 Hz}, disk: {removable: true}}'))
    assert read_rules(file)[0].capabilities == (
        Offer.of('scan_2d', range=12.5, rate=10.0), Offer.of('disk', removable=True))


def test_a_later_file_replaces_what_is_said_of_the_same_match(tmp_path: Path) -> None:
    ours = rules(tmp_path, 'rules:\n' + KERNEL, 'ours.yaml')
    theirs = rules(tmp_path, 'rules:\n' + KERNEL.replace('lidar', 'servo').replace('name: X', 'name: Y'))
    claim = Rules.load([ours, theirs]).identify(usb('1-1', '1234', '0001'))
    assert (claim.type, claim.name, len(claim.candidates)) == ('servo', 'Y', 1)


def test_two_rules_of_one_file_for_the_same_match_stay_ambiguous(tmp_path: Path) -> None:
    file = rules(tmp_path, 'rules:\n' + KERNEL + KERNEL.replace('name: X', 'name: Y'))
    claim = Rules.load([file]).identify(usb('1-1', '1234', '0001'))
    assert (claim.type, claim.confidence, claim.name) == ('lidar', 0.9, 'X or Y')
    assert [c.confidence for c in claim.candidates] == [0.45, 0.45]


@pytest.mark.parametrize('file', DATA, ids=lambda file: file.name)
def test_every_rule_has_a_source_and_every_named_one_quotes_it(file: Path) -> None:
    read = read_rules(file)
    assert read and len({f'{rule.match}{rule.vendor}{rule.name}' for rule in read}) == len(read)
    assert [rule.place for rule in read if rule.name and not rule.quote] == []


def test_a_device_is_spelled_alike_in_all_rules() -> None:
    spellings: defaultdict[str, set[str]] = defaultdict(set)
    for rule in (rule for file in DATA for rule in read_rules(file)):
        spellings[re.sub(r'[^a-z0-9]', '', rule.name.lower())].add(rule.name)
    assert {bare for bare, names in spellings.items() if bare and len(names) > 1} == set()


def test_the_data_is_read_in_an_instant_and_knows_every_bus() -> None:
    known = Rules.load(DATA)
    assert known.i2c_reads(0x68) and known.spi_probes() and known.serial_probes()
    assert all(not read.register for read in known.i2c_reads(0x77) if read.address_bytes == 2)
    assert [read.address_bytes for read in known.i2c_reads(0x29)] == sorted(
        read.address_bytes for read in known.i2c_reads(0x29)), 'the risky reads come last'
    assert known.serial_probes()[0].send == b'', 'listening comes first'


def test_a_usb_rule_matches_the_device_and_not_its_interfaces(tmp_path: Path) -> None:
    file = rules(tmp_path, "rules:\n- {match: {usb: '1234:0001'}, type: lidar, confidence: 0.9, source: x}\n")
    match = read_rules(file)[0].match
    assert isinstance(match, KernelMatch)
    fitting = [record for record in usb('1-1', '1234', '0001', 'ff0000') if match.describe(record)]
    assert [record.device_type for record in fitting] == ['usb_device']


IDS = b"""#
# List of USB ID's
0001  Fry's Electronics
\t7778  Counterfeit flash drive [Kingston]

046d  Logitech, Inc.
# a comment
\t082d  HD Pro Webcam C920
\t\t00  an interface
1546  U-Blox AG
\t01a8  [u-blox 8]
C 00  (Defined at Interface level)
"""


def test_names_come_from_usb_ids_where_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / 'usb.ids'
    file.write_bytes(IDS + b'\xff\xfe\n')
    names = usb_names((tmp_path / 'absent', file), tmp_path / 'absent')
    assert names('046d', '082d') == (UsbName('Logitech, Inc.', 'HD Pro Webcam C920'),)
    assert names('1546', '01a8') == (UsbName('U-Blox AG', '[u-blox 8]'),)
    assert names('0001', '082d') == (UsbName("Fry's Electronics"),), 'the product of another vendor'
    assert names('dead', 'beef') == names('', '') == names('046', 'd  L') == ()
    file.unlink()
    assert names('0001', '7778') != (), 'it was read at the beginning'
    assert usb_names((file,), tmp_path / 'absent') is no_names


def test_the_table_knows_types_and_sources_and_comes_before_usb_ids(tmp_path: Path) -> None:
    table, file = tmp_path / 'names.tsv', tmp_path / 'usb.ids'
    table.write_bytes(b'# a 0.96 a driver\n# c 0.70 a list\n0001:0002\tcut off\n'
                      b'046d:082d\tlidar\tUs\tOur name (its chip)\tac\n046d:082d\tlidar\t\tTwin\tc\n'
                      b'1546:01a8\tgps\t\tStick\tb\n')
    file.write_bytes(IDS)
    names = usb_names((file,), table)
    assert names('046d', '082d') == (
        UsbName('Us', 'Our name (its chip)', 'lidar', 'a driver; a list', 0.96),
        UsbName('', 'Twin', 'lidar', 'a list', 0.7))
    assert names('1546', '01a8')[0][:3] == ('', 'Stick', 'gps'), 'its source is missing'
    assert names('0001', '7778')[0].product.startswith('Counterfeit') and not names('0001', '0002')[0].product
    assert usb_names((), table)('0001', '7778') == ()


def test_every_line_of_the_table_is_sound() -> None:
    lines = TABLE.read_text(encoding='utf-8').splitlines()
    heads = [re.match(r'# (\w) ([\d.]+) \S', line) for line in lines]
    sources = {found[1]: float(found[2]) for found in heads if found}
    rows = [line.split('\t') for line in lines if not line.startswith('#')]
    assert all(0.5 <= confidence < 1.0 for confidence in sources.values())
    for number, kind, vendor, product, given in rows:
        assert re.fullmatch('[0-9a-f]{4}(:[0-9a-f]{4})?', number), number
        assert re.fullmatch('[a-z][a-z0-9_]*', kind), number
        assert 0 < len(product if ':' in number else vendor) <= 128 and given and set(given) <= set(sources)
        assert ':' in number or (kind, product) == ('unknown', ''), number
    numbers = [row[0] for row in rows]
    assert len(rows) > 30_000 and numbers == sorted(numbers)
    assert len({tuple(row[:4]) for row in rows}) == len(rows)
    names = usb_names((), TABLE)
    for number, _, _, product, given in (row for row in rows[::997] + rows[-1:] if ':' in row[0]):
        assert (product, sources[given[0]]) in [(n.product, n.confidence) for n in names(*number.split(':'))]


def test_a_device_that_no_rule_knows_is_called_as_usb_ids_and_its_descriptors_do(tmp_path: Path) -> None:
    file = tmp_path / 'usb.ids'
    file.write_bytes(IDS)
    told = Record('/devices/usb1/1-1', 'usb', 'usb_device', attributes={
        'idVendor': '0001', 'idProduct': '7778', 'product': 'Stick', 'manufacturer': 'Me'})
    claim = Rules([], usb_names((file,), tmp_path / 'absent')).identify([told])
    assert (claim.type, claim.confidence) == ('unknown', 0.0)
    assert [(c.title, c.source) for c in claim.candidates] == [
        ('Me Stick', 'the descriptors of the device'),
        ("Fry's Electronics Counterfeit flash drive [Kingston]", 'usb.ids')]
    claim = Rules([], usb_names((file,), tmp_path / 'absent')).identify([replace(told, attributes={
        **told.attributes, 'product': 'USB Device'})])
    assert claim.candidates[0].source == 'usb.ids', 'nobody names a device so'


def test_of_a_device_without_a_name_at_least_the_maker_is_told(tmp_path: Path) -> None:
    table = tmp_path / 'names.tsv'
    table.write_bytes(b'# a 0.80 a list\n0001\tunknown\tA list\t\ta\n')
    main, *rest = usb('1-1', '0001', '7778', '0e0100')[2:]
    records = [replace(main, attributes={**main.attributes, 'manufacturer': 'Me'}), *rest]
    claim = Rules.load(DATA, usb_names((), table)).identify(records)
    assert (claim.type, claim.name) == ('camera', ''), 'that is no name of a device'
    assert [(c.title, c.type) for c in claim.candidates] == [('Me', 'camera'), ('A list', 'camera')]


@pytest.mark.parametrize('numbers', [
    '0483:5740', '2e8a:000a', '303a:1001', '10c4:ea60', '0403:6001', '1d50:606f'])
def test_an_id_that_others_build_in_is_certain_of_the_part_and_not_of_the_product(numbers: str) -> None:
    records = usb('1-1', *numbers.split(':'), 'ff0000')[2:]
    claim = Rules.load(DATA).identify(records)
    assert claim.confidence > 0.9 and 0.5 <= claim.candidates[0].confidence < 0.85


def test_models_that_share_an_id_are_all_listed() -> None:
    claim = Rules.load(DATA).identify(usb('1-1', '8086', '0ad6', '0e0100')[2:])
    assert {'RealSense D415', 'RealSense D435'} <= {c.name for c in claim.candidates}
    assert claim.type == 'depth_camera' and claim.candidates[0].confidence < 0.5


@pytest.mark.parametrize(('product', 'name'), [
    ('CP2102N USB to UART Bridge Controller', 'Silicon Labs CP210x'), ('', 'Silicon Labs CP210x'),
    ('USB2.0-Serial', 'Silicon Labs CP210x'), ('Zigbee Dongle Plus', 'ITead Zigbee Dongle Plus')])
def test_a_bridge_with_a_name_of_its_own_is_called_by_it_and_stays_a_bridge(product: str, name: str) -> None:
    bridge = Record('/devices/usb1/1-1', 'usb', 'usb_device', attributes={
        'idVendor': '10c4', 'idProduct': 'ea60', 'product': product, 'manufacturer': 'ITead'})
    claim = Rules.load(DATA).identify([bridge])
    assert (claim.name, claim.type) == (name, 'serial_adapter')
    assert any(c.name == 'RPLIDAR' for c in claim.candidates), 'what is often behind it stays possible'


def test_what_its_descriptors_call_it_does_not_cast_doubt_on_its_type() -> None:
    told = Record('/devices/usb1/1-1', 'usb', 'usb_device', attributes={
        'idVendor': '0001', 'idProduct': '7778', 'product': 'Speedy', 'manufacturer': 'Me'})
    claim = Rules([], lambda *_: (UsbName('A list', 'Stick', 'wifi', 'a list', 0.8),)).identify([told])
    assert (claim.type, claim.confidence, claim.name) == ('wifi', 0.8, 'Me Speedy')


def test_products_with_the_id_of_a_bridge_are_possible_and_no_more() -> None:
    claim = Rules.load(DATA, usb_names(())).identify(usb('1-1', '10c4', 'ea60', 'ff0000')[2:])
    boards = [c for c in claim.candidates if c.name == 'ESP32-DevKitC']
    assert claim.name == 'Silicon Labs CP210x' and boards and boards[0].confidence <= 0.1


def test_of_ids_that_are_lent_to_many_the_device_knows_its_name_better() -> None:
    gadget = Record('/devices/usb1/1-1', 'usb', 'usb_device', attributes={
        'idVendor': '16c0', 'idProduct': '05dc', 'product': 'USBasp', 'manufacturer': 'www.fischl.de'})
    claim = Rules.load(DATA, lambda *_: (UsbName('VOTI', 'shared ID', confidence=LISTED),)).identify([gadget])
    assert [c.name for c in claim.candidates] == ['USBasp', 'shared ID']
