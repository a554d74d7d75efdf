# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Why an operation is refused; a refused operation has changed nothing."""
from __future__ import annotations


class Refused(Exception):
    """The operation is refused and changed nothing; the message says why and what to do."""


class NotFound(Refused):
    """What the operation names does not exist, or does no longer."""


class WrongToken(Refused):
    """The token is not that of the present hold or attempt."""


class Busy(Refused):
    """There are as many as may be, or it cannot be now."""
