# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A small managed node whose steps can be made to fail; also an executable for tests of `run`."""
from __future__ import annotations

import os
from typing import Any

from muster.ros import qos
from muster.ros.main import run
from muster.ros.node import ConfigurationError, ManagedNode
from muster.ros.parameters import ParameterSpec
from std_msgs.msg import String

PARAMETERS = (
    ParameterSpec('rate', 10.0, 'A bounded number.', minimum=0.1, maximum=100.0),
    ParameterSpec('count', 3, 'A whole number.', minimum=1, maximum=9),
    ParameterSpec('mode', 'idle', 'One of some words.', choices=('idle', 'busy')),
    ParameterSpec('names', [''], 'A list that may be empty.'),
    ParameterSpec('even', 2, 'A number with a rule.', check=lambda v: '' if v % 2 == 0 else 'must be even'),
    ParameterSpec('fixed', 'a', 'Fixed when the node starts.', read_only=True),
    ParameterSpec('signal', 0, 'Sends itself this signal while it is made.', read_only=True),
)


class Sample(ManagedNode):
    """Notes every step; a step whose name is in `broken` raises the error given there."""

    def __init__(self, **arguments: Any) -> None:
        """Make the node as all of Muster's are made."""
        self.steps: list[str] = []
        self.changes: list[dict[str, Any]] = []
        self.broken: dict[str, Exception] = {}
        super().__init__('sample', PARAMETERS, **arguments)
        if self.parameters['signal']:
            os.kill(os.getpid(), self.parameters['signal'])

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name in self.broken:
            raise self.broken[name]

    def configure(self) -> None:
        """Make a publisher."""
        self.words = self.create_lifecycle_publisher(String, 'words', qos.STATUS)
        self._step('configure')
        if self.parameters['mode'] == 'busy' and not self.parameters['names']:
            raise ConfigurationError("mode 'busy' needs names: set the parameter 'names'")

    def activate(self) -> None:
        """Say so."""
        self._step('activate')
        self.words.publish(String(data='active'))

    def deactivate(self) -> None:
        """Say a last word."""
        self._step('deactivate')
        self.words.publish(String(data='the last word'))

    def release(self) -> None:
        """Note it."""
        self._step('release')

    def parameters_changed(self, changed: dict[str, Any]) -> None:
        """Note it."""
        self.changes.append(changed)
        self._step('parameters_changed')


if __name__ == '__main__':
    run(Sample)
