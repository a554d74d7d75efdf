# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The emergency stop: in force at once, known after a crash, and over by `rearm` alone."""
from __future__ import annotations

from muster.learning.safety import StopRecord


class EmergencyStop:
    """
    The state of the stop, and its record on disk.

    Where the record cannot be written the stop is in force all the same, and `failure` says that a
    restart would forget it; then it is tried again whenever the stop is pressed.
    """

    def __init__(self, record: StopRecord) -> None:
        """Begin as the record says."""
        self._record = record
        self.pressed = False
        """Whether the last message asked for the stop."""
        self.engaged = record.engaged
        """Whether the robot has to stand still."""
        self.failure = ''

    def press(self, pressed: bool) -> bool:
        """Take a message; return whether there is a stop to make and then to `record`."""
        self.pressed = pressed
        if not pressed or (self.engaged and not self.failure):
            return False
        self.engaged = True
        return True

    def record(self) -> None:
        """Make the stop durable; blocks on the disk, so the robot must have been told before."""
        try:
            self._record.engage()
            self.failure = ''
        except OSError as error:
            self.failure = f'the stop is not recorded, a restart would forget it: {error}'

    def recall(self) -> None:
        """Look at the record again, which another process may have written; a stop never ends by it."""
        self.engaged |= self._record.engaged

    def rearm(self) -> tuple[bool, str]:
        """End the stop; return whether it is over, and a word about it."""
        if self.pressed:
            return False, 'the emergency stop is still engaged: publish false on emergency_stop first'
        try:
            self._record.clear()
        except OSError as error:
            return False, f'the record of the stop could not be removed: {error}'
        was_engaged, self.engaged, self.failure = self.engaged, False, ''
        return True, 'armed' if was_engaged else 'was armed already'
