# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a member makes of the answers to what it sent."""
from __future__ import annotations

from random import Random

from muster.cluster.raft.types import Member
from muster.cluster.requests import Requests
from muster.cluster.state.commands import Acquire, Answer, Code
import pytest

SECOND = 1_000_000_000


@pytest.mark.parametrize(('repeated', 'code'), [(False, Code.SESSION_EXPIRED), (True, Code.OUTCOME_UNKNOWN)])
def test_an_expired_session_says_nothing_of_a_copy_that_was_sent_before(repeated: bool, code: Code) -> None:
    requests = Requests(Member('a', 1), SECOND, Random(1))
    ticket, pending = requests.add(Acquire('dock', 'me', SECOND, SECOND), ('57', 1), SECOND, 0)
    assert pending is not None
    pending.proposed, pending.repeated = True, repeated
    requests.applied(('57', 1), Answer(Code.SESSION_EXPIRED, 'it is over'))
    (answered, answer), = requests.take_answers()
    assert answered == ticket and answer.code == code and not len(requests)
