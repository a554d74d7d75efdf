# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Whole clusters in virtual time: the real members on a hostile network, disks that forget, clocks that drift.

Everything follows from the seed. The members are the ones that run on robots, every packet goes
through the wire format, and after every step the invariants of `Oracle` are checked.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
import heapq
from random import Random
from typing import Any

from muster.cluster import protocol
from muster.cluster.member import ClusterMember, Effects
from muster.cluster.raft.core import PROFILES
from muster.cluster.raft.types import BLANK, Entry, HardState, Member
from muster.cluster.state.commands import Acquire, Answer, Barrier, Code, Operation, Release, Renew, Withdraw
from muster.cluster.state.events import Event, EventType
from muster.cluster.state.locks import RequestId
from muster.cluster.state.machine import StateMachine

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND
TIMING = PROFILES['lan']
#: Two clocks drift apart by less than the 1 % that the leases allow for.
MAX_DRIFT = 0.0045
#: The inboxes of the transport keep so many messages (QoS depth).
INBOX = 64
#: Longest time without faults until a cluster must work again.
PATIENCE = 20 * SECOND


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class Disk:
    """What a robot has on disk, and the writes on their way there."""

    me: Member
    cluster_id: str = ''
    hard_state: HardState = BLANK
    entries: list[Entry] = field(default_factory=list)
    queue: deque[Effects] = field(default_factory=deque)

    def apply(self, parts: list[Any]) -> None:
        """Make parts of records durable, as the write-ahead log replays them."""
        for part in parts:
            if isinstance(part, str):
                self.cluster_id = part
            elif isinstance(part, HardState):
                self.hard_state = part
            else:
                del self.entries[part.index - 1:]
                self.entries.append(part)

    @staticmethod
    def parts(effects: Effects) -> list[Any]:
        """Return what one record writes, in its order."""
        record = effects.record
        return [part for part in (record.cluster_id, record.hard_state) if part] + record.entries


class Robot:
    """One robot: its clock, its disk and, while it is up, its member."""

    def __init__(self, name: str, bootstrap: str, listed: tuple[str, ...], random: Random) -> None:
        """Come with an empty disk."""
        self.name, self.bootstrap, self.listed = name, bootstrap, listed
        self.rate = 1 + random.uniform(-MAX_DRIFT, MAX_DRIFT)
        self.offset = random.randrange(1000 * SECOND)
        self.disk = Disk(Member(name, random.getrandbits(63)))
        self.member: ClusterMember | None = None
        self.run = 0                     # counts starts: what belongs to an earlier one is void
        self.paused = False
        self.inbox: deque[bytes] = deque(maxlen=INBOX)
        self.clients: dict[int, Callable[[Answer], None]] = {}
        self.wake_at = 0
        self.writing = False

    def clock(self, time: int) -> int:
        """Return what its clock shows at a time of the simulation."""
        return self.offset + int(time * self.rate)

    def when(self, clock: int) -> int:
        """Return the first time of the simulation at which its clock shows `clock`."""
        return max(0, int((clock - self.offset) / self.rate)) + 2


class Oracle:
    """What must hold whatever happens; it sees all members at once."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.log: list[Entry] = []
        self.digests: list[Any] = [None]
        self.cluster_id = ''
        self._reference = StateMachine()
        self._leaders: dict[tuple[str, int], Member] = {}
        self._checked: dict[tuple[str, int], int] = {}
        self._digested: dict[tuple[str, int], int] = {}
        self._holders: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._granted: dict[RequestId, int] = {}
        self._views: dict[str, tuple[str, int]] = {}

    def check(self, robot: Robot) -> None:
        """Check one member after its step."""
        member = robot.member
        if member is None or member.raft is None:
            return
        raft = member.raft
        if member.leads:
            key = member.cluster_id, raft.term
            new, other = key not in self._leaders, self._leaders.setdefault(key, member.me)
            if other != member.me:
                raise Violation(f'term {raft.term} has two leaders, {other} and {member.me}')
            missing = next((e for e in self.log if new and e.term < raft.term
                            and raft.log.term(e.index) != e.term), None)
            if missing:
                raise Violation(f'{robot.name} leads term {raft.term} without the committed {missing}')
        self._check_committed(robot, member)
        applied, run = member.machine.applied, (robot.name, robot.run)
        if applied == self._digested.get(run, 0):
            return
        self._digested[run] = applied
        if digest(member.machine) != self.digests[applied]:
            raise Violation(f'{robot.name} has another state at index {applied} than it must have')

    def _check_committed(self, robot: Robot, member: ClusterMember) -> None:
        raft = member.raft
        assert raft is not None
        if raft.commit and self.cluster_id != member.cluster_id:
            if self.cluster_id:
                raise Violation(f'two clusters work: {self.cluster_id} and {member.cluster_id}')
            self.cluster_id = member.cluster_id
        checked = self._checked.get((robot.name, robot.run), 0)
        for entry in raft.log.slice(checked + 1, raft.commit):
            if entry.index > len(self.log):
                self._commit(entry)
            elif self.log[entry.index - 1] != entry:
                raise Violation(f'{robot.name} committed {entry}, but {self.log[entry.index - 1]} was')
        self._checked[robot.name, robot.run] = raft.commit

    def _commit(self, entry: Entry) -> None:
        self.log.append(entry)
        for event in self._reference.apply(entry).events:
            self._check_event(event)
        self.digests.append(digest(self._reference))

    def _check_event(self, event: Event) -> None:
        name = event.subject
        if event.type == EventType.LOCK_ACQUIRED:
            if name in self._holders:
                raise Violation(f'{event} while token {self._holders[name]} holds it')
            if event.token <= self._tokens.get(name, 0):
                raise Violation(f'{event} after token {self._tokens[name]}')
            self._holders[name] = self._tokens[name] = event.token
            claim = self._reference.locks.holder(name)
            assert claim is not None
            if claim.request in self._granted:
                raise Violation(f'request {claim.request} was granted twice')
            self._granted[claim.request] = event.token
        elif event.type in (EventType.LOCK_RELEASED, EventType.LOCK_EXPIRED) and \
                self._holders.pop(name, 0) != event.token:
            raise Violation(f'{event} of a lock that this token does not hold')

    def view(self, lock: str, client: str, time: int, until: int) -> None:
        """Note that a client believes to hold a lock from `time` on."""
        other, end = self._views.get(lock, (client, 0))
        if other != client and time < end:
            raise Violation(f'{client} and {other} both believe to hold {lock}')
        self._views[lock] = client, until

    def gives_up(self, lock: str, client: str) -> None:
        """Note that a client no longer believes to hold a lock."""
        if self._views.get(lock, ('', 0))[0] == client:
            del self._views[lock]


def digest(machine: StateMachine) -> Any:
    """Return all that the replicated state consists of, comparable."""
    sessions = [(name, s.last_used, s.highest, len(s.answers))
                for name, s in machine.sessions._sessions.items()]
    return hash((machine.time, machine.term, tuple((h, tuple(w)) for h, w in machine.locks),
                 tuple(sessions), tuple(machine.events._events[-3:]), machine._configuration))


class Client:
    """A program that uses locks as the documentation tells it to."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        """Begin with an own clock and session."""
        self.simulation, self.name = simulation, name
        random = simulation.random
        self._random = random
        self._rate = 1 + random.uniform(-MAX_DRIFT, MAX_DRIFT)
        self._session, self._sequence = name, 0
        self._lock, self._token, self._lease = '', 0, 0
        self._until = 0               # end of its own view of the hold, simulation time
        self._robot: Robot | None = None
        self.done = 0                 # requests answered with OK

    def act(self) -> None:
        """Begin the next thing to do."""
        random = self._random
        if self._token and self.simulation.time < self._until:
            choice = random.random()
            if choice < 0.4:
                self._renew()
            elif choice < 0.8:
                self._release()
            else:
                self._later(self._until - self.simulation.time)
        elif random.random() < 0.15:
            self._read()
        else:
            self._acquire()

    def _later(self, delay: int = 0) -> None:
        self.simulation.after(delay + self._random.randrange(self.simulation.leisure), self.act)

    def _ask(self, operation: Operation, request: RequestId | None, then: Callable[[Answer], None]) -> None:
        self.simulation.request(self._random, operation, request, then)

    def _next_request(self) -> RequestId | None:
        if self._random.random() < 0.2:
            return None
        self._sequence += 1
        return self._session, self._sequence

    def _refused(self, answer: Answer) -> None:
        """Begin a new session where the old one has ended, or its first request was lost."""
        if answer.code == Code.SESSION_EXPIRED:
            self._session, self._sequence = f'{self.name}/{self.simulation.time}', 0
        self._later()

    def _believe(self, sent: int, length: int) -> None:
        """Count the lease from before the request was sent, less 1 %, on the own clock."""
        self._until = sent + int(0.99 * length / self._rate)
        if self._until > self.simulation.time:
            self.simulation.oracle.view(self._lock, self.name, self.simulation.time, self._until)

    def _acquire(self) -> None:
        random, sent = self._random, self.simulation.time
        self._token, self._lock = 0, random.choice('ab')
        self._lease = random.randrange(SECOND // 5, 2 * SECOND)
        wait = random.choice((0, 0, random.randrange(2 * SECOND)))
        operation = Acquire(self._lock, self.name, self._lease, wait)
        request = self._next_request()

        def answered(answer: Answer) -> None:
            if answer.code == Code.OK:
                self.done += 1
                self._token = answer.token
                if wait:
                    self._renew()      # when it was granted is not known
                    return
                self._believe(sent, self._lease)
            elif answer.code == Code.OUTCOME_UNKNOWN and request is not None:
                again = self._random.random()
                if again < 0.6:
                    self._ask(operation, request, answered)
                    return
                if again < 0.9:
                    self._ask(Withdraw(self._lock, *request), None, lambda _: self._later())
                    return
            self._refused(answer)
        self._ask(operation, request, answered)

    def _renew(self) -> None:
        sent, request = self.simulation.time, self._next_request()
        operation = Renew(self._lock, self._token, 0)

        def answered(answer: Answer) -> None:
            if answer.code == Code.OK:
                self.done += 1
                self._believe(sent, self._lease)
            elif answer.code == Code.OUTCOME_UNKNOWN and request is not None:
                self._ask(operation, request, answered)
                return
            self._refused(answer)
        self._ask(operation, request, answered)

    def _release(self) -> None:
        self.simulation.oracle.gives_up(self._lock, self.name)
        operation, request = Release(self._lock, self._token), self._next_request()
        self._token = 0
        self._ask(operation, request, self._refused)

    def _read(self) -> None:
        self._ask(Barrier(), None, lambda _: self._later())


class Simulation:
    """A fleet in virtual time."""

    def __init__(self, seed: int) -> None:
        """Choose everything by the seed."""
        self.random = Random(seed)
        self.time = 0
        self.oracle = Oracle()
        self.transcript: deque[str] = deque(maxlen=60)
        self.acknowledged = 0                # highest index whose effect a client was told
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.blocked: set[tuple[str, str]] = set()
        self.loss = self.random.choice((0.0, 0.0, 0.02, 0.1))
        self.slow_disk = self.random.choice((1, 5, 40, 200)) * MILLISECOND
        self.jitter = self.random.choice((1, 3, 30)) * MILLISECOND
        self.pace = self.random.choice((200, 500, 1200)) * MILLISECOND     # of faults
        self.leisure = self.random.choice((5, 30, 200)) * MILLISECOND      # of clients between requests
        names = [f'r{i + 1}' for i in range(self.random.choice((1, 2, 3, 3, 3, 3, 4, 5)))]
        founders, mode = self.random.choice((
            (names, 'members'), (names, 'members'), (names[:1], 'alone'), (names, 'auto')))
        self.robots = {name: Robot(name, mode if name in founders else 'join',
                                   tuple(names) if mode == 'members' else (), self.random)
                       for name in names}
        self.clients = [Client(self, f'client{i}') for i in range(self.random.randint(1, 6))]
        self._faults = True
        for robot in self.robots.values():
            self.after(self.random.randrange(300 * MILLISECOND), lambda robot=robot: self.start(robot))
        for client in self.clients:
            self.after(self.random.randrange(SECOND), client.act)
        # Across a partition `auto` may found two clusters, which is then reported.
        self.peace = 5 * SECOND if mode == 'auto' else self.random.randrange(SECOND)
        self.after(self.peace, self.disturb)

    # Time --------------------------------------------------------------------------------------
    def after(self, delay: int, action: Callable[[], None]) -> None:
        """Schedule an action."""
        self._count += 1
        heapq.heappush(self._queue, (self.time + delay, self._count, action))

    def run(self, until: int, condition: Callable[[], bool] = lambda: False) -> bool:
        """Go from event to event; stop early and return True when the condition holds."""
        while self._queue and self._queue[0][0] <= until:
            self.time, _, action = heapq.heappop(self._queue)
            action()
            if condition():
                return True
        self.time = max(self.time, until)
        return False

    def note(self, text: str) -> None:
        """Write a line of the transcript."""
        self.transcript.append(f'{self.time / SECOND:9.4f} {text}')

    # Robots ------------------------------------------------------------------------------------
    def start(self, robot: Robot) -> None:
        """Start a robot's process from what its disk holds."""
        if robot.member is not None:
            return
        robot.run += 1
        disk = robot.disk
        robot.member = ClusterMember(
            disk.me, disk.cluster_id, robot.bootstrap, robot.listed, TIMING,
            Random(self.random.getrandbits(64)), robot.clock(self.time), disk.hard_state,
            tuple(disk.entries))
        self.note(f'{disk.me} starts with {len(disk.entries)} entries, term {disk.hard_state.term}')
        self.flush(robot)

    def crash(self, robot: Robot) -> None:
        """Kill the process; of what was not durable yet, any prefix may be on disk."""
        if robot.member is None:
            return
        parts = [part for effects in robot.disk.queue for part in Disk.parts(effects)]
        kept = self.random.randint(0, len(parts))
        if not robot.disk.cluster_id and parts:
            # The identity is written last: a cluster is joined with the whole first record or not at all.
            kept = self.random.choice((0, max(kept, len(Disk.parts(robot.disk.queue[0])))))
        robot.disk.apply(parts[:kept])
        robot.disk.queue.clear()
        self.note(f'{robot.disk.me} crashes; {kept} of {len(parts)} unfinished writes are kept')
        robot.member, robot.writing, robot.paused = None, False, False
        robot.run += 1
        robot.inbox.clear()
        robot.clients.clear()

    def wipe(self, robot: Robot) -> None:
        """Kill the process and lose the disk: it comes back as another incarnation."""
        self.crash(robot)
        robot.disk = Disk(Member(robot.name, self.random.getrandbits(63)))
        if robot.bootstrap != 'members':
            robot.bootstrap = 'join'     # `alone` is an order to found another cluster
        self.note(f'{robot.name} loses its disk, and is {robot.disk.me} now')

    def pause(self, robot: Robot, duration: int) -> None:
        """Stop the process for a while, as SIGSTOP does."""
        if robot.member is None or robot.paused:
            return
        robot.paused, run = True, robot.run
        self.note(f'{robot.disk.me} stands still for {duration / SECOND:.3f} s')

        def resume() -> None:
            if robot.run == run:
                robot.paused = False
                self.note(f'{robot.disk.me} goes on')
                while robot.inbox:
                    self._receive(robot, robot.inbox.popleft())
                self.flush(robot)
        self.after(duration, resume)

    def flush(self, robot: Robot) -> None:
        """Carry out the effects of a step as the engine does, and check the invariants."""
        member = robot.member
        assert member is not None
        effects = member.take_effects()
        self.oracle.check(robot)
        for event in effects.events:
            if event.type in (EventType.LEADER_ELECTED, EventType.LOCK_ACQUIRED,
                              EventType.MEMBER_PROMOTED):
                self.note(f'{robot.disk.me} applies {event.revision}: {event.type.name} {event.subject}')
        for packet in effects.packets:
            self._send(robot, packet)
        if effects.record or (effects.packets_when_durable and robot.disk.queue):
            robot.disk.queue.append(effects)
            self._write(robot)
        else:
            for packet in effects.packets_when_durable:
                self._send(robot, packet)
        for ticket, answer in effects.answers:
            then = robot.clients.pop(ticket, None)
            if then is not None:
                then(answer)
                if answer.code == Code.OK:
                    self.acknowledged = max(self.acknowledged, member.machine.applied)
        if robot.member is member:
            self._schedule(robot)

    def _schedule(self, robot: Robot) -> None:
        assert robot.member is not None
        at = robot.wake_at = max(self.time + 1, robot.when(robot.member.next_deadline()))
        run = robot.run

        def wake() -> None:
            if robot.run == run and robot.wake_at == at and not robot.paused and robot.member is not None:
                robot.member.advance(robot.clock(self.time))
                self.flush(robot)
        self.after(at - self.time + self.random.randrange(MILLISECOND), wake)

    def _write(self, robot: Robot) -> None:
        """Write all that waits with one sync."""
        if robot.writing:
            return
        robot.writing, run, batch = True, robot.run, list(robot.disk.queue)

        def done() -> None:
            if robot.run != run or robot.member is None:
                return
            if robot.paused:
                self.after(10 * MILLISECOND, done)
                return
            last = None
            for effects in batch:
                assert robot.disk.queue.popleft() is effects
                robot.disk.apply(Disk.parts(effects))
                for packet in effects.packets_when_durable:
                    self._send(robot, packet)
                last = effects.record.entries[-1] if effects.record.entries else last
            robot.writing = False
            if last is not None:
                robot.member.persisted(last, robot.clock(self.time))
                self.flush(robot)
            if robot.disk.queue:
                self._write(robot)
        self.after(self.random.randrange(self.slow_disk), done)

    # Network -----------------------------------------------------------------------------------
    def _send(self, robot: Robot, packet: protocol.Packet) -> None:
        data = protocol.encode(packet)
        names = [packet.receiver.id] if packet.receiver.id else list(self.robots)
        for name in names:
            if name == robot.name or (robot.name, name) in self.blocked or \
                    self.random.random() < self.loss:
                continue
            for _ in range(2 if self.random.random() < 0.02 else 1):
                delay = MILLISECOND // 5 + self.random.randrange(self.jitter)
                if self.random.random() < 0.01:
                    delay += self.random.randrange(SECOND)
                self.after(delay, lambda name=name: self._deliver(name, data))

    def _deliver(self, name: str, data: bytes) -> None:
        robot = self.robots[name]
        if robot.member is None:
            return
        if robot.paused:
            robot.inbox.append(data)
            return
        self._receive(robot, data)
        self.flush(robot)

    def _receive(self, robot: Robot, data: bytes) -> None:
        assert robot.member is not None
        robot.member.receive(protocol.decode(data), robot.clock(self.time))

    # Clients -----------------------------------------------------------------------------------
    def request(self, random: Random, operation: Operation, request: RequestId | None,
                then: Callable[[Answer], None]) -> None:
        """Send a request to any running robot; `then` gets its answer, or OUTCOME_UNKNOWN, once."""
        up = [r for r in self.robots.values() if r.member is not None and not r.paused]
        if not up:
            self.after(100 * MILLISECOND, lambda: self.request(random, operation, request, then))
            return
        robot = random.choice(up)
        assert robot.member is not None
        patience = random.randrange(300 * MILLISECOND, 2 * SECOND)
        asked, known = self.time, self.acknowledged
        member, answered = robot.member, False

        def once(answer: Answer) -> None:
            nonlocal answered
            if answered:
                return
            answered = True
            if isinstance(operation, Barrier) and answer.code == Code.OK and member.machine.applied < known:
                raise Violation(f'{member.me} read index {member.machine.applied}, {known} was acknowledged')
            # The answer travels back; meanwhile the client does not know.
            self.after(random.randrange(MILLISECOND) if self.time > asked else 1, lambda: then(answer))
        ticket = robot.member.submit(operation, request, patience, robot.clock(self.time))
        robot.clients[ticket] = once
        wait = operation.wait if isinstance(operation, Acquire) else 0
        self.after(patience + wait + SECOND, lambda: once(Answer(Code.OUTCOME_UNKNOWN)))
        self.flush(robot)

    # Faults ------------------------------------------------------------------------------------
    def disturb(self) -> None:
        """Do one evil thing, and another one later."""
        if not self._faults:
            return
        random = self.random
        robots = list(self.robots.values())
        leaders = [r for r in robots if r.member is not None and r.member.leads]
        robot = random.choice(leaders if leaders and random.random() < 0.5 else robots)
        random.choice((self._fault_crash, self._fault_crash, self._fault_pause, self._fault_partition,
                       self._fault_partition, self._fault_one_way, self._fault_all, self._fault_wipe,
                       self._fault_hand_over))(robot)
        self.after(random.randrange(self.pace), self.disturb)

    def _fault_crash(self, robot: Robot) -> None:
        self.crash(robot)
        self.after(self.random.randrange(2 * self.pace), lambda: self.start(robot))

    def _fault_pause(self, robot: Robot) -> None:
        self.pause(robot, self.random.randrange(max(SECOND, self.pace)))

    def _fault_all(self, _: Robot) -> None:
        """All restart at once."""
        for robot in self.robots.values():
            self._fault_crash(robot)

    def _fault_partition(self, robot: Robot) -> None:
        names = list(self.robots)
        side = set(self.random.sample(names, self.random.randint(0, len(names) - 1)))
        if self.random.random() < 0.5:
            side = {robot.name}
        self.blocked = {(a, b) for a in names for b in names if (a in side) != (b in side)}
        self.note(f'the network is cut around {sorted(side)}')
        self.after(self.random.randrange(max(SECOND, self.pace)), self.heal)

    def _fault_one_way(self, robot: Robot) -> None:
        names = [n for n in self.robots if n != robot.name]
        deaf = self.random.random() < 0.5
        self.blocked |= {(n, robot.name) if deaf else (robot.name, n) for n in names}
        self.note(f'{robot.name} is {"deaf" if deaf else "mute"}')
        self.after(self.random.randrange(max(SECOND, self.pace)), self.heal)

    def _fault_hand_over(self, robot: Robot) -> None:
        if robot.member is not None and not robot.paused:
            robot.member.hand_over()
            self.flush(robot)

    def _fault_wipe(self, robot: Robot) -> None:
        """Lose a disk where the others can go on: one at a time, as long as all voters are alive."""
        for other in self.robots.values():
            if other is robot or other.member is None or not other.member.leads:
                continue
            raft = other.member.raft
            assert raft is not None
            configuration = raft.configuration
            alive = {r.disk.me for r in self.robots.values()}
            if raft.configuration_committed and not configuration.joint and \
                    configuration.voters <= alive and \
                    (len(configuration.voters) > 2 or robot.disk.me not in configuration.voters):
                self.wipe(robot)
                self.after(self.random.randrange(SECOND), lambda: self.start(robot))
                return

    def heal(self) -> None:
        """Join the network again."""
        self.blocked = set()
        self.note('the network is whole')

    # The whole story ---------------------------------------------------------------------------
    def story(self, duration: int) -> None:
        """Let faults happen for a while, end them, and see that the cluster works again."""
        self.run(self.peace + duration)
        self._faults = False
        self.loss = 0.0
        self.heal()
        for robot in self.robots.values():
            self.start(robot)
        self.note('no more faults')
        index, done = len(self.oracle.log), [client.done for client in self.clients]
        if not self.run(self.time + PATIENCE, lambda: not self._missing(index, done)):
            raise Violation(f'{self._missing(index, done)} {PATIENCE / SECOND:g} s after the last fault')

    def _missing(self, index: int, done: list[int]) -> str:
        """Return who has made no progress since then."""
        behind = [robot.name for robot in self.robots.values()
                  if robot.member is None or robot.member.machine.applied <= index]
        unserved = [client.name for client, before in zip(self.clients, done, strict=True)
                    if client.done == before]
        return f'no progress of {behind + unserved}' if behind or unserved else ''


def tell(seed: int, duration: int = 6 * SECOND) -> Simulation:
    """Run one seed; a violation carries the end of the transcript."""
    simulation = Simulation(seed)
    try:
        simulation.story(duration)
    except Exception as error:
        story = '\n'.join(simulation.transcript)
        raise Violation(f'seed {seed}: {type(error).__name__} {error}\n{story}') from error
    return simulation
