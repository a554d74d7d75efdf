# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The udev rules that are shipped."""
from pathlib import Path
import re

RULES = Path(__file__).resolve().parents[2] / 'config' / 'udev' / '70-muster.rules'
#: One assignment or comparison of a rule, udev(7).
ITEM = re.compile(r'(SUBSYSTEM|KERNEL)=="[^"]+"|(GROUP|MODE|ENV\{[A-Z_]+\})="[^"]+"')
#: Every kernel interface that is opened, and the group that may.
GROUPS = {'i2c-dev': 'i2c', 'spidev': 'spi', 'gpio': 'gpio', 'video4linux': 'video',
          'hidraw': 'input', 'tty': 'dialout'}


def test_every_rule_gives_one_interface_to_one_group() -> None:
    given = {}
    for line in RULES.read_text().splitlines():
        if not line or line.startswith('#'):
            continue
        items = [item.strip() for item in line.split(',')]
        assert all(ITEM.fullmatch(item) for item in items), line
        fields = dict(re.split('==?', item, maxsplit=1) for item in items)
        assert fields['MODE'] == '"0660"', 'readable by the group, not by everybody'
        given[fields['SUBSYSTEM'].strip('"')] = fields['GROUP'].strip('"')
    assert given == GROUPS
