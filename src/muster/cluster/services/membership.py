# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The services that change who belongs to the cluster and who leads it, and open sessions."""
from __future__ import annotations

from typing import Any

from muster.cluster.loop import Reply
from muster.cluster.services.desk import Desk, Row
from muster.cluster.state.commands import Answer, check_name, check_text, MAX_NAME, OpenSession
from muster_interfaces.srv import (
    ChangeMembership,
    OpenSession as OpenSessionService,
    TransferLeadership,
)


class MembershipServices:
    """Take a member out, let another lead, open a session."""

    def __init__(self, desk: Desk) -> None:
        """Serve through `desk`."""
        self._desk = desk
        self.rows: tuple[Row, ...] = (
            ('change_membership', ChangeMembership, self._change),
            ('transfer_leadership', TransferLeadership, self._transfer),
            ('open_session', OpenSessionService, self._open_session))

    def _change(self, request: Any, response: Any, reply: Reply) -> None:
        check_name('remove', request.remove)
        self._desk.engine.remove(
            request.remove, self._desk.patience, self._desk.answering(response, reply))

    def _transfer(self, request: Any, response: Any, reply: Reply) -> None:
        check_text('to', request.to, MAX_NAME)
        self._desk.engine.transfer(
            request.to, self._desk.patience, self._desk.answering(response, reply))

    def _open_session(self, request: Any, response: Any, reply: Reply) -> None:
        def fill(answer: Answer) -> None:
            response.session = str(answer.token) if answer.token else ''

        self._desk.submit(OpenSession(), '', response, reply, fill)
