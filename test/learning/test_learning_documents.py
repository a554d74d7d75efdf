# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What docs/learning.md says is so."""
from dataclasses import fields
import os
from pathlib import Path
import re
import subprocess
import sys

from muster.learning.node import PARAMETERS
from muster.learning.specification import load_specification
from muster.learning.specification.loader import AGENTS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / 'docs' / 'learning.md').read_text()


def test_every_parameter_and_hyperparameter_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r'^\| ((?:`\w+`(?:, )?)+) \| (\S+) \|', TEXT, re.MULTILINE))
    documented = {name: default for names, default in rows.items() for name in re.findall(r'\w+', names)}
    hyperparameters = {item.name for kind in AGENTS.values() for item in fields(kind)}
    for spec in (spec for spec in PARAMETERS if spec.name not in hyperparameters):
        default = str(spec.default).lower() if isinstance(spec.default, bool) else spec.default
        written = documented[spec.name].strip('`')
        assert written == (default or "''") if isinstance(default, str) else float(written) == default
    for kind in AGENTS.values():
        assert all(f'`{item.name}' in TEXT for item in fields(kind))


def test_the_training_example_makes_a_model(tmp_path: Path) -> None:
    example = re.search(r'```python\n(.*?)```', TEXT, re.DOTALL)
    assert example is not None and 'steps=60_000' in example[1]
    code = example[1].replace('60_000', '3_000')
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, timeout=100,
                          env={**os.environ, 'HOME': str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / '.local/state/muster/robot_1/models/v000001.npz').exists()


def test_the_keys_of_the_shipped_file_are_documented() -> None:
    content = (ROOT / 'config' / 'learning' / 'goal_seeking.yaml').read_text()
    plain = re.sub(r' *#.*', '', content)
    keys = set(re.findall(r'^ *(?:- )?{?(\w+):|[{,] *(\w+): ', plain, re.MULTILINE))
    actions = load_specification(ROOT / 'config' / 'learning' / 'goal_seeking.yaml').action.names
    for key in {first or second for first, second in keys} - set(actions):
        assert f'`{key}`' in TEXT or f'`{key}:' in TEXT, key
