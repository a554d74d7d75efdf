# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A robot's worker whose tasks take no time: what remains is what it costs to hand them out."""
from __future__ import annotations

from typing import Any

from muster.cluster.worker import Work, Worker


class Nothing(Worker):
    """Does nothing."""

    task_type = 'nothing'
    capacity = 64

    def execute(self, task: Work) -> Any:
        """End at once."""


if __name__ == '__main__':
    Nothing.main()
