# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The learning node, with an agent that raises in the method that the file `$MUSTER_HOME/fail` names."""
import os
from pathlib import Path
from typing import Any

from muster.learning import node
from muster.learning.agents.q_learning import QLearning

SWITCH = Path(os.environ['MUSTER_HOME']) / 'fail'


def breakable(name: str) -> None:
    """Let a method of the agent raise while the file names it."""
    whole = getattr(QLearning, name)

    def method(self: QLearning, *arguments: Any) -> Any:
        if SWITCH.exists() and SWITCH.read_text() == name:
            raise RuntimeError(f'{name} failed on purpose')
        return whole(self, *arguments)
    setattr(QLearning, name, method)


if __name__ == '__main__':
    for method in ('act', 'observe', 'learn', 'interrupt'):
        breakable(method)
    node.main()
