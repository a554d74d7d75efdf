# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Whole clusters in virtual time: the real members on a hostile network, disks that forget, clocks that drift.

Everything follows from the seed. The members are the ones that run on robots; in one story of four
every packet goes through the wire format (which costs a third more). After every step the
invariants of `oracle` are checked, and at the end of a story the histories of its clients.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
import heapq
from random import Random
from typing import Any
from unittest import mock

from clients import LockClient, LOCKS, Watcher
from disks import Disk
import linearizability
from linearizability import Call, Read
from muster.cluster import protocol
from muster.cluster.caretaker import Care
from muster.cluster.member import ClusterMember, Policy
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.core import PROFILES
from muster.cluster.raft.types import Entry, Member, Refused
from muster.cluster.state import sessions
from muster.cluster.state.commands import Acquire, Answer, Code, Invalid, Operation, Release, Renew, Withdraw
from muster.cluster.state.events import EventType
from muster.cluster.state.locks import RequestId
from oracle import configurations, MAX_DRIFT, MILLISECOND, Oracle, SECOND, Violation
from taskers import TaskClient, Worker

TIMING = PROFILES['lan']
#: The inboxes of the transport keep so many messages (QoS depth).
INBOX = 64
#: Longest time without faults until a cluster must work again.
PATIENCE = 40 * SECOND
#: How often it is looked whether it does.
GLANCE = 20 * MILLISECOND
#: How often a full disk is tried again.
RETRY = SECOND // 4
#: Members are soon taken for dead, and dead voters replaced.
HASTY = Care(suspect_after=SECOND // 2, dead_after=SECOND, promotion_delay=SECOND // 2)
#: Events that tell the story.
NOTED = frozenset({EventType.LEADER_ELECTED, EventType.LOCK_ACQUIRED, EventType.MEMBER_PROMOTED,
                   EventType.MEMBER_ADDED, EventType.MEMBER_REMOVED, EventType.MEMBER_DEAD})
LOCK_OPERATIONS = (Acquire, Renew, Release, Withdraw)
#: A short story, as most searches tell it.
SHORT = 2 * SECOND


class Watched(ClusterMember):
    """A member that tells what it applies; all else is as it is."""

    def __init__(self, *arguments: Any) -> None:
        """Begin like any other."""
        self.just_applied: list[Entry] = []
        super().__init__(*arguments)

    def _apply(self, entry: Entry) -> None:
        self.just_applied.append(entry)
        super()._apply(entry)


class Robot:
    """One robot: its clock, its disk and, while it is up, its member."""

    def __init__(self, name: str, bootstrap: str, listed: tuple[str, ...], random: Random) -> None:
        """Come with an empty disk."""
        self.name, self.bootstrap, self.listed = name, bootstrap, listed
        self.rate = 1 + random.uniform(-MAX_DRIFT, MAX_DRIFT)
        self.offset = random.randrange(1000 * SECOND)
        self.disk = Disk(Member(name, random.getrandbits(63)))
        self.member: Watched | None = None
        self.run = 0                     # counts starts: what belongs to an earlier one is void
        self.paused = False
        self.inbox: deque[bytes | protocol.Packet] = deque(maxlen=INBOX)
        self.clients: dict[int, Callable[[Answer], None]] = {}
        self.wake_at = 0
        self.writing = False

    def clock(self, time: int) -> int:
        """Return what its clock shows at a time of the simulation."""
        return self.offset + int(time * self.rate)

    def when(self, clock: int) -> int:
        """Return the first time of the simulation at which its clock shows `clock`."""
        return max(0, int((clock - self.offset) / self.rate)) + 2


class Simulation:
    """A fleet in virtual time."""

    def __init__(self, seed: int) -> None:
        """Choose everything by the seed."""
        self.random = random = Random(seed)
        self._on_wire = seed % 4 == 0
        self.time = 0
        self.oracle = Oracle(TIMING)
        self.transcript: deque[str] = deque(maxlen=40)
        self.history: list[tuple[Call, RequestId]] = []   # and the request as the log has it
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.blocked: set[tuple[str, str]] = set()
        self.loss = random.choice((0.0, 0.0, 0.02, 0.1))
        self.slow_disk = random.choice((1, 5, 40, 200)) * MILLISECOND
        self.jitter = random.choice((1, 3, 30)) * MILLISECOND
        self.pace = random.choice((200, 500, 1200)) * MILLISECOND     # of faults
        self.leisure = random.choice((5, 30, 200)) * MILLISECOND      # of clients between requests
        # Where all that may delay a request is short, so may be the life of a session.
        self.haste = random.choice((1, 1, 5))
        if self.haste > 1:
            self.slow_disk = min(self.slow_disk, 40 * MILLISECOND)
        self.lifetime = sessions.LIFETIME if self.haste == 1 else 6 * SECOND // self.haste
        self.policy = Policy(random.choice((Care(), Care(), HASTY)), random.choice((20_000, 60, 12)))
        names = [f'r{i + 1}' for i in range(random.choice((1, 2, 3, 3, 3, 3, 4, 5)))]
        founders, mode = random.choice((
            (names, 'members'), (names, 'members'), (names[:1], 'alone'), (names, 'auto')))
        self.robots = {name: Robot(name, mode if name in founders else 'join',
                                   tuple(names) if mode == 'members' else (), random)
                       for name in names}
        for robot in self.robots.values():
            self.oracle.consensus.disks[robot.disk.me] = robot.disk
        self.clients: list[LockClient] = [LockClient(self, f'client{i}') for i in range(random.randint(1, 6))]
        if random.random() < 0.4:
            self.clients.append(Watcher(self, 'watcher'))
        self.homes = {client.name: random.choice(names) for client in self.clients}
        if random.random() < 0.4:
            giver = TaskClient(self, 'giver')
            self.clients.append(giver)
            self.homes[giver.name] = random.choice(names)
            for robot in self.robots.values():
                worker = Worker(self, robot)
                self.homes[worker.name] = robot.name
                self.after(random.randrange(SECOND), worker.look)
        self._faults = True
        for robot in self.robots.values():
            self.after(random.randrange(300 * MILLISECOND), lambda robot=robot: self.start(robot))
        for client in self.clients:
            self.after(random.randrange(SECOND), client.act)
        # Across a partition `auto` may found two clusters, which is then reported.
        self.peace = 5 * SECOND if mode == 'auto' else random.randrange(SECOND)
        self.after(self.peace, self.disturb)

    # Time --------------------------------------------------------------------------------------
    def after(self, delay: int, action: Callable[[], None]) -> None:
        """Schedule an action."""
        self._count += 1
        heapq.heappush(self._queue, (self.time + delay, self._count, action))

    def run(self, until: int, condition: Callable[[], bool] = lambda: False) -> bool:
        """Go from event to event; stop early and return True when the condition holds."""
        look_at = 0
        while self._queue and self._queue[0][0] <= until:
            self.time, _, action = heapq.heappop(self._queue)
            action()
            if self.time >= look_at:
                look_at = self.time + GLANCE
                if condition():
                    return True
        self.time = max(self.time, until)
        return condition()

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
        robot.member = Watched(
            disk.me, disk.cluster_id, robot.bootstrap, robot.listed, TIMING,
            Random(self.random.getrandbits(64)), robot.clock(self.time), disk.hard_state,
            tuple(disk.entries), disk.snapshot, self.policy)
        self.note(f'{disk.me} starts with entries {disk.base + 1} to {disk.last_index}, '
                  f'term {disk.hard_state.term}')
        self.flush(robot)

    def crash(self, robot: Robot) -> None:
        """Kill the process; of what was not durable yet, any prefix may be on disk."""
        if robot.member is None:
            return
        self.note(f'{robot.disk.me} crashes; {robot.disk.crash(self.random)}')
        self.oracle.consensus.forget(robot.disk, robot.member.cluster_id)
        robot.member, robot.writing, robot.paused = None, False, False
        robot.run += 1
        robot.wake_at = 0
        robot.inbox.clear()
        robot.clients.clear()

    def wipe(self, robot: Robot) -> None:
        """Kill the process and lose the disk: it comes back as another incarnation."""
        self.crash(robot)
        robot.disk.intact = False
        robot.disk = Disk(Member(robot.name, self.random.getrandbits(63)))
        self.oracle.consensus.disks[robot.disk.me] = robot.disk
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
                robot.wake_at = 0
                self.flush(robot)
        self.after(duration, resume)

    def flush(self, robot: Robot) -> None:
        """Carry out the effects of a step as the engine does, and check the invariants."""
        member = robot.member
        assert member is not None
        effects = member.take_effects()
        for packets in (effects.packets, effects.packets_when_durable):
            packets.sort(key=lambda packet: packet.receiver)  # sets have another order in each process
        events = self.oracle.check(member, robot.run, effects.record.entries, member.just_applied, self.time)
        member.just_applied.clear()
        for event in events:
            if event.type in NOTED:
                self.note(f'{robot.disk.me} commits {event.revision}: {event.type.name} {event.subject} '
                          f'{event.owner}')
        for packet in effects.packets:
            self._send(robot, packet)
        if effects.record or (effects.packets_when_durable and robot.disk.queue and not member.disk_problem):
            robot.disk.queue.append(effects)
            self._write(robot)
        elif not member.disk_problem:   # else what these promise cannot be kept
            for packet in effects.packets_when_durable:
                self._send(robot, packet)
        for ticket, answer in effects.answers:
            then = robot.clients.pop(ticket, None)
            if then is not None:
                then(answer)
        if robot.member is member:
            self._schedule(robot)

    def _schedule(self, robot: Robot) -> None:
        assert robot.member is not None
        at = max(self.time + 1, robot.when(robot.member.next_deadline()))
        if at == robot.wake_at:
            return  # it will wake then already
        robot.wake_at, run = at, robot.run

        def wake() -> None:
            if robot.run == run and robot.wake_at == at and not robot.paused and robot.member is not None:
                robot.wake_at = 0
                robot.member.advance(robot.clock(self.time))
                self.oracle.consensus.check_quorum_heard(robot.member, self.time)
                self.oracle.consensus.check_clock(robot.member, robot.clock(self.time))
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
            if robot.disk.full:
                robot.disk.write_in_part(self.random, [effects.record for effects in batch])
                if not robot.member.disk_problem:
                    robot.member.disk_stalled('no space', robot.clock(self.time))
                    self.flush(robot)
                self.after(RETRY, done)
                return
            last = None
            for effects in batch:
                assert robot.disk.queue.popleft() is effects
                robot.disk.write(effects.record)
                for packet in effects.packets_when_durable:
                    self._send(robot, packet)
                last = effects.record.entries[-1] if effects.record.entries else last
            robot.writing = False
            recovered = bool(robot.member.disk_problem)
            if recovered:
                robot.member.disk_stalled('', robot.clock(self.time))
            if last is not None:
                robot.member.persisted(last, robot.clock(self.time))
            if last is not None or recovered:
                self.flush(robot)
            if robot.disk.queue:
                self._write(robot)
        self.after(self.random.randrange(self.slow_disk), done)

    # Network -----------------------------------------------------------------------------------
    def _send(self, robot: Robot, packet: protocol.Packet) -> None:
        self.oracle.consensus.check_promise(robot.disk.me, packet)
        data = protocol.encode(packet) if self._on_wire else packet
        names = [packet.receiver.id] if packet.receiver.id else list(self.robots)
        learners_only = not packet.receiver.id and not isinstance(packet.body, protocol.Hello)
        random = self.random.random
        for name in names:
            if name == robot.name or (robot.name, name) in self.blocked or random() < self.loss:
                continue
            for _ in range(2 if random() < 0.02 else 1):
                delay = MILLISECOND // 5 + int(self.jitter * random())
                if random() < 0.01:
                    delay += int(SECOND // self.haste * random())
                self.after(delay, lambda name=name: self._deliver(name, data, learners_only))

    def _deliver(self, name: str, data: bytes | protocol.Packet, learners_only: bool) -> None:
        robot = self.robots[name]
        if robot.member is None:
            return
        raft = robot.member.raft
        if learners_only and (raft is None or raft.configuration.may_vote(robot.disk.me)):
            return
        if robot.paused:
            robot.inbox.append(data)
            return
        self._receive(robot, data)
        self.flush(robot)

    def _receive(self, robot: Robot, data: bytes | protocol.Packet) -> None:
        assert robot.member is not None
        packet = protocol.decode(data) if isinstance(data, bytes) else data
        self.oracle.consensus.hears(robot.disk.me, packet.sender, self.time)
        robot.member.receive(packet, robot.clock(self.time))

    # Clients -----------------------------------------------------------------------------------
    def request(self, client: str, operation: Operation | None, request: RequestId | None,
                then: Callable[[Answer], None]) -> None:
        """
        Send a request, or with None a read, to any running robot.

        `then` gets its answer, or OUTCOME_UNKNOWN, once.
        """
        up = [r for r in self.robots.values() if r.member is not None and not r.paused]
        if client.startswith('worker'):
            up = [r for r in up if r.name == self.homes[client]]   # it executes what its own robot is given
        if not up:
            self.after(100 * MILLISECOND, lambda: self.request(client, operation, request, then))
            return
        home = self.robots[self.homes[client]]
        robot = home if home in up and self.random.random() < 0.7 else self.random.choice(up)
        member = robot.member
        assert member is not None
        patience = self.random.randrange(300 * MILLISECOND, 2 * SECOND) // self.haste
        calls: list[Call] = []
        if operation is None:
            calls = [Call(client, Read(name), self.time) for name in LOCKS]
        elif isinstance(operation, LOCK_OPERATIONS):
            calls = [Call(client, operation, self.time, request)]
        asked = self.time
        answered = False

        def once(answer: Answer) -> None:
            nonlocal answered
            if answered:
                return
            answered = True
            for call in calls:
                if isinstance(call.operation, Read) and answer.code == Code.OK:
                    call.returns(_holder(member, call.operation.name), self.time, member.machine.applied)
                else:
                    call.returns(answer, self.time, member.machine.applied)
            # The answer travels back; meanwhile the client does not know.
            self.after(self.random.randrange(MILLISECOND) if self.time > asked else 1,
                       lambda: then(answer))
        if operation is None:
            ticket = member.read(patience, robot.clock(self.time))
        else:
            ticket = member.submit(operation, request, patience, robot.clock(self.time))
        robot.clients[ticket] = once
        refused = any(answered_now == ticket for answered_now, _ in member._requests.answers)
        # What is refused at the door (a full disk) has got no id; the last one is another call's.
        own = ('', ticket) if refused else (member._requests._session, member._requests._sequence)
        self.history += [(call, request or own) for call in calls]
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
                       self._fault_hand_over, self._fault_membership, self._fault_remove,
                       self._fault_full))(robot)
        self.after(random.randrange(self.pace), self.disturb)

    def _fault_crash(self, robot: Robot) -> None:
        self.crash(robot)
        self.after(self.random.randrange(2 * self.pace), lambda: self.start(robot))

    def _fault_pause(self, robot: Robot) -> None:
        self.pause(robot, self.random.randrange(max(SECOND, self.pace)) // self.haste)

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

    def _fault_full(self, robot: Robot) -> None:
        """Let a disk take nothing for a while."""
        disk, run = robot.disk, robot.run
        disk.full = True
        self.note(f'the disk of {robot.name} is full')

        def make_room() -> None:
            disk.full = False
            if robot.run == run:
                self.note(f'the disk of {robot.name} has room again')
        self.after(self.random.randrange(max(SECOND, self.pace)), make_room)

    def _fault_wipe(self, robot: Robot) -> None:
        """Lose a disk where the others can go on without it, whatever their leader does next."""
        if any(r.member is not None and r.member.leads for r in self.robots.values() if r is not robot) and \
                self._can_spare(robot, removed=False):
            self.wipe(robot)
            self.after(self.random.randrange(SECOND), lambda: self.start(robot))

    def _fault_remove(self, robot: Robot) -> None:
        """Remove a robot from the cluster, as an operator may; it joins anew with an empty disk."""
        other = next((r for r in self.robots.values() if r is not robot and r.member is not None
                      and not r.paused), None)
        if other is None or other.member is None or not self._can_spare(robot, removed=True):
            return
        try:
            other.member.remove(robot.name, SECOND, robot.clock(self.time))
        except Invalid:
            return
        self.note(f'{robot.name} shall be removed')
        self.flush(other)
        self.after(SECOND, self.replace_removed)

    def replace_removed(self) -> None:
        """Give the robots that were removed an empty disk."""
        removed = [c.removed for c in configurations(self.oracle.log)[-1:]]
        for robot in self.robots.values():
            if removed and robot.disk.me in removed[0]:
                self.wipe(robot)
                self.start(robot)

    def attend_removed(self) -> None:
        """Do so again and again: a removal may be under way."""
        self.replace_removed()
        self.after(2 * SECOND, self.attend_removed)

    def _can_spare(self, robot: Robot, *, removed: bool) -> bool:
        """Whether enough disks are left without this robot's, whatever may be in force soon."""
        lost = self._lost() | {robot.disk.me}
        for configuration in self._possible_configurations():
            voters = configuration.voters | configuration.outgoing
            spare = (len(configuration.voters) - 1 - removed) // 2
            # A leader that does not know it yet may make voters of learners whose disks are lost.
            if len(lost & voters) > spare or len(lost & configuration.members) > max(1, spare) or \
                    not configuration.has_quorum(voters - lost):
                return False
        return True

    def _lost(self) -> frozenset[Member]:
        return frozenset(m for m, disk in self.oracle.consensus.disks.items() if not disk.intact)

    def _possible_configurations(self) -> list[Configuration]:
        """Return what may be in force: the last one committed, and those in any log after it."""
        log = self.oracle.log
        possible = configurations(log)[-1:]
        for robot in self.robots.values():
            entries = list(robot.disk.entries)
            if robot.member is not None and robot.member.raft is not None:
                entries += robot.member.raft.log.slice(robot.member.raft.log.base + 1,
                                                       robot.member.raft.log.last_index)
            possible += configurations(e for e in entries if e.index > len(log))
        return possible

    def recoverable(self) -> bool:
        """Return whether disks of enough voters are left, in the newest configuration of the best log."""
        disks = [robot.disk for robot in self.robots.values() if robot.disk.cluster_id]
        best = max(disks, key=lambda d: (d.last_term, d.last_index), default=None)
        newest = configurations([*self.oracle.log, *(best.entries if best else [])])[-1:]
        return not newest or newest[0].has_quorum({disk.me for disk in disks})

    def _fault_membership(self, robot: Robot) -> None:
        """Order the leader to make other members voters, as an operator may at any time."""
        raft = robot.member.raft if robot.member is not None else None
        if raft is None or robot.paused or not robot.member.leads:
            return
        members = sorted(raft.configuration.members - self._lost())
        voters = frozenset(self.random.sample(members, self.random.randint(1, len(members))))
        try:
            raft.change_configuration(voters, raft.configuration.members - voters, robot.clock(self.time))
            self.note(f'{robot.name} is told that {sorted(m.id for m in voters)} shall vote')
        except Refused:
            return
        self.flush(robot)

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
            robot.disk.full = False
            self.start(robot)
        self.attend_removed()
        self.note('no more faults')
        index, done = len(self.oracle.log), [client.done for client in self.clients]
        if not self.run(self.time + PATIENCE, lambda: not self._missing(index, done)) and self.recoverable():
            raise Violation(f'{self._missing(index, done)} {PATIENCE / SECOND:g} s after the last fault')
        self.check_history()

    def check_history(self) -> None:
        """
        Check the clients' histories.

        What the clients do not know the log does: a call without outcome took effect until it was
        last executed, or never. That narrows the search, which otherwise grows with every such call.
        """
        settled = self.oracle.state.settled
        for call, request in self.history:
            call.latest = settled.get(request, 0)
        self.oracle.state.check_tasks_kept()
        linearizability.check([call for call, _ in self.history if call.answer or call.latest], MAX_DRIFT)

    def _missing(self, index: int, done: list[int]) -> str:
        """Return who has made no progress since then."""
        behind = [robot.name for robot in self.robots.values()
                  if robot.member is None or robot.member.machine.applied <= index]
        unserved = [client.name for client, before in zip(self.clients, done, strict=True)
                    if client.done == before]
        return f'no progress of {behind + unserved}' if behind or unserved else ''


def _holder(member: ClusterMember, lock: str) -> Answer:
    """Read who holds a lock; one that was withdrawn as it was granted ends with the next entry."""
    claim = member.machine.locks.holder(lock)
    held = claim is not None and claim.deadline > member.machine.time
    return Answer(Code.OK, token=claim.token if claim is not None and held else 0)


def tell(seed: int, duration: int = SHORT) -> Simulation:
    """Run one seed; a violation carries the end of the transcript."""
    simulation = Simulation(seed)
    try:
        with mock.patch.object(sessions, 'LIFETIME', simulation.lifetime):
            simulation.story(duration)
    except Exception as error:
        what = f'{type(error).__name__}: {error}'
        story = '\n'.join(simulation.transcript)
        raise Violation(f'seed {seed}: {what}\n{story}', what.splitlines()[0]) from error
    return simulation
