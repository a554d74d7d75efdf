# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""From the chosen action to the fields of the command message, within the limits of the base."""
from __future__ import annotations

import math
from typing import Any

from muster.learning.fields import parse_path, writer
from muster.learning.specification import ActionSpecification
import numpy as np
from numpy.typing import NDArray


class Commander:
    """
    Turns action numbers into command values, clamped and rate-limited.

    The rate limit counts from the last command. The safe action is not rate-limited: stopping must
    not wait.
    """

    def __init__(self, specification: ActionSpecification, rate: float) -> None:
        """Prepare the tables; `rate` in commands per second."""
        limits = [pair or (-math.inf, math.inf) for pair in specification.limits]
        self._low, self._high = np.array(limits, np.float64).T
        self._step = np.array([(limit or math.inf) / rate for limit in specification.rate_limits])
        self._actions = np.array(specification.values, np.float64)
        self._safe = np.array(specification.safe, np.float64)
        self._last = self._safe
        self._writers = [writer(parse_path(path)) for path in specification.fields]

    def command(self, action: int) -> NDArray[np.float64]:
        """Return the values of an action, shape (fields,), in the units of the message."""
        wanted = np.minimum(np.maximum(self._actions[action], self._low), self._high)
        self._last = np.minimum(np.maximum(wanted, self._last - self._step), self._last + self._step)
        return self._last.copy()

    def safe(self) -> NDArray[np.float64]:
        """Return the values of the safe action, shape (fields,)."""
        self._last = self._safe
        return self._safe.copy()

    def write(self, values: NDArray[np.float64], message: Any) -> Any:
        """Write command values into a message and return it."""
        for write, value in zip(self._writers, values.tolist(), strict=True):
            write(message, value)
        return message
