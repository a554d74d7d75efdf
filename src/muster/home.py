# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where a robot keeps what lasts."""
from __future__ import annotations

import os
from pathlib import Path


def state_directory(robot: str) -> Path:
    """Return `$MUSTER_HOME/<robot>`, or a folder below the XDG state home."""
    state = os.environ.get('XDG_STATE_HOME') or Path.home() / '.local' / 'state'
    home = os.environ.get('MUSTER_HOME') or Path(state) / 'muster'
    return Path(home).expanduser() / robot
