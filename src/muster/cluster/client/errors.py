# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong for a user of the fleet; each error says whether anything may have happened."""


class FleetError(Exception):
    """Something that was asked of the fleet did not happen as asked."""


class FleetUnavailable(FleetError):
    """No robot could do it in time; nothing was changed, and asking again is safe."""


class OutcomeUnknown(FleetError):
    """It was sent and not confirmed in time: it may or may not have happened. Look before asking again."""


class RequestRefused(FleetError):
    """The fleet refused it, and nothing was changed; `code` is one of muster_interfaces/msg/ErrorCode."""

    def __init__(self, message: str, code: int) -> None:
        """Keep the error code beside the message."""
        super().__init__(message)
        self.code = code


class LockTimeout(FleetError, TimeoutError):
    """Somebody else held the lock for as long as was waited for it."""


class LockLost(FleetError):
    """The lock is not held any more: its lease could not be renewed in time, or somebody released it."""


class StaleToken(FleetError):
    """A resource was asked with a fencing token older than one that it has seen."""


class TaskFailed(FleetError):
    """The task ended without success; the message says why."""
