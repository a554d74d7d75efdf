# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the documents and the rviz file say of the simulation is true."""
from dataclasses import fields
from pathlib import Path
import re
import subprocess
import sys

from matplotlib.image import imread
from muster.simulation.devices import KINDS
from muster.simulation.world import WorldConfig
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / 'docs/simulation.md').read_text()


def test_the_documented_program_draws_the_documented_picture(tmp_path: Path) -> None:
    program = DOCUMENT.split('```python\n')[1].split('```')[0]
    subprocess.run([sys.executable, '-c', program], cwd=tmp_path, check=True, timeout=100)
    picture = imread(tmp_path / 'world.png')
    assert picture.shape == imread(ROOT / 'docs/images/world.png').shape
    assert 0.02 < (picture[..., :3] < 0.9).mean() < 0.5  # neither empty nor full


def test_the_document_names_every_kind_of_device() -> None:
    assert ', '.join(KINDS) in DOCUMENT


def test_every_setting_is_described_with_its_unit_or_as_a_number() -> None:
    for setting in fields(WorldConfig):
        assert re.search(r', (m|s|m/s|rad/s)\b|Number|beams|Reward', setting.metadata['description'])


def test_the_rviz_file_shows_topics_of_the_world() -> None:
    shown = yaml.safe_load((ROOT / 'config/rviz/fleet.rviz').read_text())['Visualization Manager']
    assert shown['Global Options']['Fixed Frame'] == 'world'
    topics = [d['Topic']['Value'] for d in shown['Displays'] if 'Topic' in d]
    assert topics == [f'/{name}/markers' for name in ('world', 'robot_1', 'robot_2', 'robot_3')]
