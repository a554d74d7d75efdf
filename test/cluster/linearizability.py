# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Whether the calls of concurrent clients can have taken effect one after the other, each while it ran.

The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", JPDC 1993) with
the memory of configurations seen by Lowe ("Testing for linearizability", CCPE 2017). Two things
are added. A call whose outcome nobody knows may take effect at any time after it began, or never.
And the specification knows time: a step tells the earliest moment at which it may happen, so that
a lease ends by itself, but not before it may. Taking every step as early as possible loses
nothing, because nothing that was allowed becomes forbidden by waiting less.
"""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from muster.cluster.state.commands import Acquire, Answer, Code, Operation, Release, Renew, Withdraw
from muster.cluster.state.locks import RequestId

#: When a call returned that never did, as far as its client knows.
FOREVER = 1 << 62
#: Configurations that one search may visit.
MAX_VISITED = 200_000
#: Nanoseconds that conversions between clocks may take from a lease.
ROUNDING = 10
#: Answers that promise that this call did nothing.
_NOTHING = frozenset({Code.INVALID, Code.NO_QUORUM, Code.BUSY, Code.SESSION_EXPIRED, Code.STORAGE})


class NotLinearizable(AssertionError):
    """The history has no explanation; the message is the shortest prefix that has none."""


class Undecided(AssertionError):
    """The search was given up."""


class Read(NamedTuple):
    """Look, linearizably, who holds a lock: the answer has its token, 0 where nobody does."""

    name: str


@dataclass(eq=False)
class Call:
    """One call of a client; times are those of one clock that sees all clients."""

    client: str
    operation: Operation | Read
    invoked: int
    request: RequestId | None = None
    returned: int = FOREVER
    answer: Answer | None = None     # None: nobody knows whether it took effect
    index: int = 0                   # log index up to which its server had applied when it answered
    latest: int = FOREVER            # it is known that it did not take effect later

    def returns(self, answer: Answer, time: int, index: int = 0) -> None:
        """Note the answer; OUTCOME_UNKNOWN is none."""
        if answer.code != Code.OUTCOME_UNKNOWN:
            self.answer, self.returned, self.index = answer, time, index

    def __str__(self) -> str:
        """Return one line of a counter-example."""
        values = ', '.join(f'{name}={value}' for name, value in self.operation._asdict().items()
                           if name not in ('name', 'owner'))
        request = f' {self.request[0]}:{self.request[1]}' if self.request else ''
        until = 'never   ' if self.returned == FOREVER else f'{self.returned / 1e9:.6f}'
        answer = 'unknown' if self.answer is None else \
            f'{self.answer.code.name}' + (f' token {self.answer.token}' if self.answer.token else '')
        return (f'{self.invoked / 1e9:.6f} to {until} {self.client}{request}: '
                f'{type(self.operation).__name__}({values}) -> {answer}')


class Model(Protocol):
    """A sequential specification; its states are hashable."""

    def initial(self) -> Any:
        """Return the state before the first call."""

    def step(self, state: Any, call: Call, now: int) -> Iterable[tuple[int, Any]]:
        """Yield when, `now` or later, the call may take effect with its answer, and the state after."""


class Point(NamedTuple):
    """A configuration of the search: what has taken effect, and the state that came of it."""

    low: int         # of the answered calls, all before this one took effect,
    above: int       # and of the others those whose bit is set, counted from `low`
    unknown: int     # bits of the calls without an answer that took effect
    now: int
    state: Any


def explain(model: Model, calls: Sequence[Call]) -> Point | None:
    """Return None where the calls are linearizable, else the furthest point of the search."""
    answered = sorted((c for c in calls if c.answer is not None), key=lambda c: c.invoked)
    unknown = sorted((c for c in calls if c.answer is None), key=lambda c: c.invoked)
    furthest = point = Point(0, 0, 0, 0, model.initial())
    seen = {point}
    stack = [_continuations(model, answered, unknown, point)]
    reached = -1
    while stack:
        point = next(stack[-1], None)
        if point is None:
            stack.pop()
            continue
        if point in seen:
            continue
        seen.add(point)
        if len(seen) > MAX_VISITED:
            raise Undecided(f'{len(calls)} calls: given up after {MAX_VISITED} configurations')
        if point.low == len(answered):
            return None
        if (progress := point.low + point.above.bit_count()) > reached:
            furthest, reached = point, progress
        stack.append(_continuations(model, answered, unknown, point))
    return furthest if answered else None


def _continuations(model: Model, answered: list[Call], unknown: list[Call],
                   point: Point) -> Iterator[Point]:
    """Yield the points one step further, likely ones first."""
    low, above, taken, now, state = point
    deadline, ready = FOREVER, []
    for position in range(low, len(answered)):
        call = answered[position]
        if call.invoked > deadline:
            break
        if not above >> (position - low) & 1:
            deadline = min(deadline, call.returned)
            ready.append((call.returned, position))
    for _, position in sorted(ready):
        call = answered[position]
        for at, after in model.step(state, call, max(now, call.invoked)):
            if at <= deadline:
                yield _advanced(low, above | 1 << (position - low), taken, at, after)
    for position, call in enumerate(unknown):
        if call.invoked > deadline:
            break
        if now <= call.latest and not taken >> position & 1:
            for at, after in model.step(state, call, max(now, call.invoked)):
                if at <= min(deadline, call.latest) and after != state:
                    yield Point(low, above, taken | 1 << position, at, after)


def _advanced(low: int, above: int, taken: int, now: int, state: Any) -> Point:
    while above & 1:
        low, above = low + 1, above >> 1
    return Point(low, above, taken, now, state)


# Locks -----------------------------------------------------------------------------------------
class Hold(NamedTuple):
    """Somebody holds the lock."""

    request: Any
    token: int       # 0 as long as no answer has told it
    lease: int
    delay: int
    ends: int        # it does not end by itself before


class Lock(NamedTuple):
    """One lock, as its clients may know it."""

    hold: Hold | None = None
    token: int = 0          # the greatest that was told
    closed: bool = False    # the last hold expired, and its delay may not be over
    opens: int = 0          # it is over at this time at the earliest
    #: Requests that are made again: what became of each, and the token where one was told.
    served: frozenset[tuple[Any, str, int]] = frozenset()


class LockModel:
    """
    The sequential specification of one lock.

    A waiting acquire takes effect when it is granted, or when its wait ends; that waiters are
    served in their order is not part of it (the order in the log is, see `oracle`). A lease ends
    at any time after its length, as a cluster without leader counts no time, but never before; it may
    begin with the call, because what a leader stamps takes effect when a quorum has it.
    """

    def __init__(self, calls: Iterable[Call], drift: float) -> None:
        """Know which requests are made more than once, and how much too fast a clock may go."""
        counts = Counter(c.request for c in calls if c.request is not None)
        self._repeated = {request for request, count in counts.items() if count > 1}
        self._repeated |= {(c.operation.session, c.operation.sequence) for c in calls
                           if isinstance(c.operation, Withdraw)}
        self._rate = 1 + drift

    def initial(self) -> Lock:
        """Return a lock that nobody has held yet."""
        return Lock()

    def step(self, state: Lock, call: Call, now: int) -> Iterator[tuple[int, Lock]]:
        """Yield what the call may do, to the hold as it is and to one that has expired."""
        yield from self._effect(state, call, now)
        hold = state.hold
        if hold is not None:
            ended = state._replace(hold=None, closed=hold.delay > 0, opens=self._end(hold.ends, hold.delay))
            yield from self._effect(ended, call, max(now, hold.ends))

    def _effect(self, state: Lock, call: Call, now: int) -> Iterator[tuple[int, Lock]]:
        operation, answer = call.operation, call.answer
        if isinstance(operation, Acquire):
            yield from self._acquire(state, call, operation, now)
        elif isinstance(operation, Read):
            assert answer is not None, 'a read without answer changes nothing and is left out'
            yield from ((now, after) for after in _named(state, answer.token))
        elif (before := _served(state, call.request)[0]):
            if answer is not None and answer.code.name == before:
                yield now, state  # a retry is answered as before, and does nothing
        elif isinstance(operation, Withdraw):
            yield from self._withdraw(state, call, operation, now)
        elif isinstance(operation, Renew | Release):
            yield from self._use(state, call, operation, now)

    def _acquire(self, state: Lock, call: Call, operation: Acquire, now: int) -> Iterator[tuple[int, Lock]]:
        answer, hold, request = call.answer, state.hold, call.request or id(call)
        before, token = _served(state, request)
        if before == 'granted':
            if hold and hold.request == request:
                if answer and answer.code == Code.OK:
                    yield from ((now, after) for after in _named(state, answer.token))
            elif answer and answer.code == Code.NOT_FOUND:
                yield now, state
            elif answer and answer.code == Code.OK and token in (0, answer.token):
                # A member that lags answers by the entry that executed the request, whose hold may
                # have ended meanwhile: a lease is counted from before the request was made first.
                yield now, _told(state, request, answer.token)
        elif before == 'ended':
            if answer and answer.code in (Code.HELD, Code.NOT_FOUND):
                yield now, state
        else:
            if hold is None and (answer is None or (answer.code == Code.OK and answer.token > state.token)):
                at, token = max(now, state.opens), answer.token if answer else 0
                taken = Hold(request, token, operation.lease, getattr(operation, 'delay', 0),
                             self._end(call.invoked, operation.lease))
                yield at, self._serve(Lock(taken, max(token, state.token), served=state.served),
                                      request, 'granted', token)
            if (hold or state.closed) and (answer is None or answer.code == Code.HELD):
                yield now, self._serve(state, request, 'ended')

    def _use(self, state: Lock, call: Call, operation: Renew | Release,
             now: int) -> Iterator[tuple[int, Lock]]:
        if call.answer is None and isinstance(operation, Renew) and call.request not in self._repeated:
            return  # that a lease ends later explains nothing
        outcomes = [(Code.OK, self._used(held, operation, call.invoked))
                    for held in _named(state, operation.token) if held.hold]
        if state.hold is None:
            outcomes.append((Code.NOT_FOUND, state))
        elif state.hold.token != operation.token:
            outcomes.append((Code.WRONG_TOKEN, state))
        for code, after in outcomes:
            if call.answer is None or call.answer.code == code:
                yield now, self._serve(after, call.request, code.name)

    def _used(self, state: Lock, operation: Renew | Release, start: int) -> Lock:
        hold = state.hold
        if hold is None or isinstance(operation, Release):
            return state._replace(hold=None)
        lease = operation.lease or hold.lease
        return state._replace(hold=hold._replace(lease=lease, ends=self._end(start, lease)))

    def _withdraw(self, state: Lock, call: Call, operation: Withdraw, now: int) -> Iterator[tuple[int, Lock]]:
        """End what a request holds or waits for; afterwards it is never granted."""
        hold, acquire = state.hold, (operation.session, operation.sequence)
        code = Code.NOT_FOUND
        if hold and hold.request == acquire:
            code, state = Code.OK, state._replace(hold=None)
        elif call.answer is None or call.answer.code == Code.OK:
            if _served(state, acquire)[0] or not (hold or state.closed):
                return
            code, state = Code.OK, self._serve(state, acquire, 'ended')  # it was waiting
        if call.answer is None or call.answer.code == code:
            yield now, self._serve(state, call.request, code.name)

    def _end(self, start: int, lease: int) -> int:
        """Return when a lease ends at the earliest; the conversions of clocks round."""
        return start + int(lease / self._rate) - ROUNDING

    def _serve(self, state: Lock, request: Any, what: str, token: int = 0) -> Lock:
        if request not in self._repeated:
            return state
        return state._replace(served=state.served | {(request, what, token)})


def _served(state: Lock, request: Any) -> tuple[str, int]:
    return next(((what, token) for known, what, token in state.served if known == request), ('', 0))


def _told(state: Lock, request: Any, token: int) -> Lock:
    """Return the state where a grant has got its token."""
    served = frozenset((r, what, token if r == request else t) for r, what, t in state.served)
    return state._replace(served=served)


def _named(state: Lock, token: int) -> Iterator[Lock]:
    """Yield the state where an answer with this token agrees with it."""
    hold = state.hold
    if token == (hold.token if hold else 0):
        yield state
    elif hold is not None and not hold.token and token > state.token:
        yield _told(state._replace(hold=hold._replace(token=token), token=token), hold.request, token)


# Histories -------------------------------------------------------------------------------------
def check(calls: Iterable[Call], drift: float = 0.0) -> None:
    """Raise NotLinearizable where the history of the clients of some locks has no explanation."""
    calls = [_forgotten(c) for c in calls if c.answer is None or c.answer.code not in _NOTHING]
    check_order(calls)
    locks: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.answer is not None or not isinstance(call.operation, Read):
            locks[call.operation.name].append(call)
    for name, some in sorted(locks.items()):
        model = LockModel(some, drift)
        if explain(model, some) is not None:
            raise NotLinearizable(_counter_example(model, name, some))


def _forgotten(call: Call) -> Call:
    """
    Return an acquire that is answered NOT_FOUND as one whose outcome is unknown, until then.

    Members repeat a request, too: the first copy may have got a hold or wait that has ended since.
    """
    if not isinstance(call.operation, Acquire) or call.answer is None or call.answer.code != Code.NOT_FOUND:
        return call
    return Call(call.client, call.operation, call.invoked, call.request, latest=call.returned)


def check_order(calls: Iterable[Call]) -> None:
    """
    Raise where something did not grow that grows with time, for the clients of all locks together.

    Who answers a read has applied the log at least as far as anybody had who answered before the
    read began, and a lock that is asked for later is granted with a greater token.
    """
    calls = sorted(calls, key=lambda c: c.invoked)
    begun: dict[RequestId, int] = {}
    for call in calls:
        if call.request is not None:
            begun.setdefault(call.request, call.invoked)
    grants = []
    answered = [c for c in calls if c.answer is not None]
    for call in answered:
        assert call.answer is not None
        if isinstance(call.operation, Acquire) and call.answer.code == Code.OK:
            grants.append((begun.get(call.request or ('', 0), call.invoked), call.returned,
                           call.answer.token, call))
    for what, items in (('index', [(c.invoked, c.returned, c.index, c) for c in answered if c.index]),
                        ('token', grants)):
        _check_growth(what, items)


def _check_growth(what: str, items: list[tuple[int, int, int, Call]]) -> None:
    """Check that no value is below one that was known before its call began (a token not equal either)."""
    returns = sorted(items, key=lambda item: item[1])
    most, position = -1, 0
    greatest: Call | None = None
    for invoked, _, value, call in sorted(items, key=lambda item: item[0]):
        while position < len(returns) and returns[position][1] < invoked:
            if returns[position][2] > most:
                most, greatest = returns[position][2], returns[position][3]
            position += 1
        same = greatest is not None and call.request is not None and call.request == greatest.request
        if what == 'index' and not isinstance(call.operation, Read):
            continue  # a member that lags answers by the entry that executed the request
        if value < most or (what == 'token' and value == most and not same):
            raise NotLinearizable(f'{what} {value} was answered after {most} was known:\n'
                                  f'  {greatest}\n  {call}')


def _counter_example(model: Model, name: str, calls: list[Call], shown: int = 9) -> str:
    """Cut the history short where it becomes inexplicable, and tell what came before."""
    times = sorted(c.returned for c in calls if c.answer is not None)
    least, most = 0, len(times) - 1
    while least < most:  # a prefix of a linearizable history is linearizable
        middle = (least + most) // 2
        if explain(model, _until(calls, times[middle])) is None:
            least = middle + 1
        else:
            most = middle
    prefix = _until(calls, times[least])
    point = explain(model, prefix)
    last = max((c for c in prefix if c.answer is not None), key=lambda c: c.returned)
    before = sorted((c for c in prefix if c is not last), key=lambda c: min(c.returned, times[least]))
    unknown = [c for c in before if c.answer is None][-shown // 3:]
    told = [c for c in before if c.answer is not None][-shown:]
    lines = [f"no order of the calls on lock '{name}' explains the last of these:",
             *(f'  {c}' for c in sorted([*unknown, *told], key=lambda c: c.invoked)), f'  {last}']
    if point is not None:
        lines.append(f'  the search got to {point.state}')
    return '\n'.join(lines)


def _until(calls: Iterable[Call], time: int) -> list[Call]:
    """Return the history as it was known at a time."""
    prefix = []
    for call in calls:
        if call.returned <= time:
            prefix.append(call)
        elif call.invoked <= time and not isinstance(call.operation, Read):
            prefix.append(Call(call.client, call.operation, call.invoked, call.request, latest=call.latest))
    return prefix
