# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""From the chosen action to the fields of the command message, within the limits of the robot."""
from __future__ import annotations

import math
from typing import Any

from muster.learning.fields import make_room, parse_path, writer
from muster.learning.specification import Specification
import numpy as np
from numpy.typing import NDArray

#: Names of decisions that are not one of named actions.
SAFE, CONTINUOUS = 'safe', 'continuous'


class CommandError(Exception):
    """An action that no command can be made of; the message says why."""


class Commander:
    """
    Turns actions into command values, clamped and rate-limited after the policy.

    The rate limit counts from the last command. The safe action is not rate-limited: stopping must
    not wait. Where it is to hold the last command, the first one starts from what is measured.
    """

    def __init__(self, specification: Specification) -> None:
        """Prepare the tables."""
        action = specification.action
        self._specification = action
        limits = [pair or (-math.inf, math.inf) for pair in action.limits]
        self._low, self._high = np.array(limits, np.float64).T
        steps = [(limit or math.inf) / specification.rate for limit in action.rate_limits]
        self._step = np.array(steps) if min(steps) < math.inf else None
        self._actions = np.clip(np.array(action.values or [[0.0] * len(steps)], np.float64),
                                self._low, self._high)
        self._ranges = len(action.ranges)
        self._safe = None if action.safe is None else np.array(action.safe, np.float64)
        self._unknown = np.full(len(steps), np.nan)
        self._measured = _measurements(specification)
        self._last = self._safe
        paths = [parse_path(path) for path in action.fields]
        self._writers = [writer(path, action.joints) for path in paths]
        self._indexed = [path for path in paths if any(step.subscript is not None for step in path.steps)]
        self._prepared: Any = None

    def begin(self) -> None:
        """Forget the last command."""
        self._last = self._safe

    def command(self, action: int | NDArray[np.float32], observation: NDArray[np.float32]
                ) -> NDArray[np.float64]:
        """
        Return the values of an action, shape (fields,), in the units of the message.

        Raises CommandError on a number that is none of the actions, and on a vector of another
        shape or with values that are not finite.
        """
        wanted = self._continuous(action) if self._ranges else self._discrete(action)
        if self._last is None:
            index, scale, offset = self._measured
            self._last = (observation[index] - offset) / scale
        if self._step is not None:
            wanted = np.minimum(np.maximum(wanted, self._last - self._step), self._last + self._step)
        self._last = wanted
        return wanted

    def _discrete(self, action: Any) -> NDArray[np.float64]:
        names = self._specification.names
        if not isinstance(action, int) or not 0 <= action < len(names):
            raise CommandError(f'the policy chose {action!r}, not one of the actions 0..{len(names) - 1}')
        row: NDArray[np.float64] = self._actions[action]
        return row

    def _continuous(self, action: Any) -> NDArray[np.float64]:
        values = np.asarray(action, np.float64)
        if values.shape != (self._ranges,):
            raise CommandError(f'the policy gave values of shape {values.shape} instead of ({self._ranges},)')
        if not np.isfinite(values).all():
            raise CommandError('the policy gave a value that is not finite')
        if self._ranges < len(self._writers) and self._safe is not None:
            wanted = self._safe.copy()
            wanted[:self._ranges] = values
            values = wanted
        clamped: NDArray[np.float64] = np.minimum(np.maximum(values, self._low), self._high)
        return clamped

    def safe(self) -> NDArray[np.float64]:
        """Return the values of the safe action, shape (fields,); NaN where nothing is known to hold."""
        if self._safe is not None:
            self._last = self._safe
        return self._unknown if self._last is None else self._last

    def write(self, values: NDArray[np.float64], message: Any, stamp: Any = None) -> Any:
        """
        Write command values, and the stamp, into a message and return it; None if there are none.

        A message that is used again and again is prepared once. A JointTrajectory is not stamped:
        no stamp means to begin at once, whatever the clocks of the two sides show.
        """
        if message is not self._prepared:
            self._prepare(message)
        for write, value in zip(self._writers, values.tolist(), strict=True):
            if value != value:
                return None
            write(message, value)
        if stamp is not None and self._specification.time_from_start is None and hasattr(message, 'header'):
            message.header.stamp = stamp
        return message

    def _prepare(self, message: Any) -> None:
        """Fill in what is the same in every command."""
        action = self._specification
        for path in self._indexed:
            make_room(message, path, action.joints)
        if action.frame_id:
            message.header.frame_id = action.frame_id
        if action.time_from_start is not None:
            seconds = math.floor(action.time_from_start)
            duration = message.points[0].time_from_start
            duration.sec, duration.nanosec = seconds, round((action.time_from_start - seconds) * 1e9)
        self._prepared = message


def _measurements(specification: Specification) -> tuple[Any, Any, Any]:
    """Return where in the observation each field is measured, with the scale and offset of its term."""
    terms = {term.name: term for term in specification.observation}
    measured = [terms[name] for name in specification.action.measured]
    places = specification.places
    return ([places[term.name].start for term in measured], np.array([term.scale for term in measured]),
            np.array([term.offset for term in measured]))
