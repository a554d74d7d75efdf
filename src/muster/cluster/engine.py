# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The ROS shell of a cluster member: topics, services, timer and disk around the pure core.

It has a small node, a loop and a thread of its own, because an election must not wait for a
diagnostics timer. What arrives is handed to the core; once all that has arrived is taken, `_settle`
carries out what the core decided. Everything here runs on that thread; `Loop.call` brings work to it.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
import os
from pathlib import Path
import random
import secrets
import threading
import time
from typing import Any

from muster.cluster import protocol
from muster.cluster.loop import Loop
from muster.cluster.member import ClusterMember, Effects, Policy
from muster.cluster.raft.core import Timing
from muster.cluster.state.commands import Answer, Code, Invalid, Operation
from muster.cluster.state.events import Event
from muster.cluster.state.locks import RequestId
from muster.cluster.storage import Storage, StorageError, SyncFailed
from muster.cluster.writer import Writer
from muster.ros import interfaces as interfaces  # noqa: F401 (first: it explains missing types)
from muster_interfaces.msg import ClusterPacket
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

#: Inboxes lose the oldest message when they overflow; the consensus repeats what was lost.
INBOX = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=64, reliability=ReliabilityPolicy.RELIABLE,
                   durability=DurabilityPolicy.VOLATILE)
#: How long a deactivating leader waits until another one took over, seconds.
HAND_OVER_TIMEOUT = 0.5
#: How often the core's own condition is looked at, nanoseconds.
CARE_PERIOD = 1_000_000_000
#: Patience with the transport's thread, seconds.
CALL_TIMEOUT = 5.0
#: Messages that were refused are counted; so many different reasons are kept.
MAX_REASONS = 32


def now() -> int:
    """Return the time that leases are measured in: it goes on while a robot sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Engine:
    """A running member; made and ended with the node's lifecycle, active between `begin` and `end`."""

    def __init__(self, context: Any, namespace: str, cluster: str, member_id: str,
                 on_event: Callable[[Event], None], on_change: Callable[[], None],
                 on_care: Callable[[], None], on_broken: Callable[[Exception], None]) -> None:
        """
        Make the small node; `loop.start` begins to serve, `begin` to take part.

        `on_broken` hears of an error inside the loop.
        """
        # Global arguments would rename this node to the public node's name (`-r __node:=`).
        self.node = Node('_cluster_transport', namespace=namespace, context=context,
                         use_global_arguments=False, enable_rosout=False, start_parameter_services=False,
                         parameter_overrides=[Parameter('start_type_description_service', value=False)])
        self.loop = Loop(self.node, self._settle, on_broken)
        self.member: ClusterMember | None = None
        self.rejected: dict[str, int] = {}
        self.member_id = member_id
        self._cluster = cluster
        self._on_event, self._on_change, self._on_care = on_event, on_change, on_care
        self._inboxes: list[Any] = []
        self._outboxes: dict[str, Any] = {}
        self._making = threading.Lock()
        self._waiting: dict[int, Callable[[Answer], None]] = {}
        self._writer: Writer | None = None
        self._storage: Storage | None = None
        self._unwritten = 0
        self._finished: deque[list[object]] = deque()   # batches of the writer, not yet told to the core
        self._impatient = False                         # whether the core can go on with them at once
        self._deadline = self._care_at = 0
        self._seen: tuple[Any, ...] = ()
        self._learning: Any = None         # the subscription to the learners' broadcast
        self._not_leading = threading.Event()

    # Life --------------------------------------------------------------------------------------
    def begin(self, directory: Path, bootstrap: str, listed: tuple[str, ...], timing: Timing,
              policy: Policy) -> None:
        """Open the data directory and take part; raise StorageError."""
        storage = Storage(directory, self.member_id, lambda: secrets.randbits(63))
        try:
            self.loop.call(lambda: self._begin(storage, bootstrap, listed, timing, policy), CALL_TIMEOUT)
        except Invalid as error:
            raise StorageError(f"the data directory '{directory}' cannot be used: {error}") from error

    def _begin(self, storage: Storage, bootstrap: str, listed: tuple[str, ...], timing: Timing,
               policy: Policy) -> None:
        self._storage = storage
        self._unwritten, self._deadline, self._seen = 0, 0, ()
        try:
            self.member = ClusterMember(
                storage.me, storage.cluster_id, bootstrap, listed, timing,
                random.Random(secrets.randbits(64)), now(), storage.hard_state, tuple(storage.entries),
                storage.snapshot, policy)
            storage.entries.clear()  # they are the member's now
            self._writer = Writer(storage, self._written, self._disk_changed)
            for name in (self.member_id, '_hello'):
                self._inboxes.append(
                    self.loop.listen(ClusterPacket, self._topic(name), self._on_message, INBOX))
        except Exception:
            self._end()     # it may be begun again when the cause is gone
            raise

    def end(self) -> None:
        """Hand over leadership where there is somebody to take it, and stop taking part."""
        if self.member is None:
            return
        if self.loop.call(self.member.hand_over, CALL_TIMEOUT):
            self._not_leading.wait(HAND_OVER_TIMEOUT)
        self.loop.call(self._end, CALL_TIMEOUT)

    def _end(self) -> None:
        if self._writer:
            self._writer.close()
        if self._storage:
            self._storage.close()
        self.member = self._writer = self._storage = None
        self._finished.clear()
        for answer in self._waiting.values():
            answer(Answer(Code.OUTCOME_UNKNOWN, 'the cluster node was deactivated meanwhile: '
                          'repeat it with the same request_id'))
        self._waiting.clear()
        self._listen(False)
        for subscription in self._inboxes:
            self.loop.leave(subscription)
        self._inboxes.clear()
        for publisher in self._outboxes.values():
            self.node.destroy_publisher(publisher)
        self._outboxes.clear()

    def close(self) -> None:
        """End the thread and destroy the node."""
        try:
            self.end()
        finally:
            self.loop.stop()
            self.node.destroy_node()

    # World to core -----------------------------------------------------------------------------
    def _on_message(self, message: bytes) -> None:
        if self.member is None:
            return
        try:
            packet = protocol.decode(protocol.unwrapped(message))
        except protocol.Rejected as error:
            reason = str(error)
            if reason in self.rejected or len(self.rejected) < MAX_REASONS:
                self.rejected[reason] = self.rejected.get(reason, 0) + 1
            return
        self.member.receive(packet, now())

    def read(self, patience: int, answer: Callable[[Answer], None]) -> None:
        """Call `answer` when the applied state holds all that was acknowledged before this call."""
        assert self.member is not None
        self._waiting[self.member.read(patience, now())] = answer

    def remove(self, member_id: str, patience: int, answer: Callable[[Answer], None]) -> None:
        """Remove a robot from the cluster; raise Invalid where that cannot be."""
        assert self.member is not None
        self._waiting[self.member.remove(member_id, patience, now())] = answer

    def transfer(self, to: str, patience: int, answer: Callable[[Answer], None]) -> None:
        """Let the leader hand over; raise Invalid where that cannot be."""
        assert self.member is not None
        self._waiting[self.member.transfer(to, patience, now())] = answer

    def submit(self, operation: Operation, request: RequestId | None, patience: int,
               answer: Callable[[Answer], None]) -> None:
        """Hand a client's request to the core; `answer` is called once, on this thread."""
        assert self.member is not None
        self._waiting[self.member.submit(operation, request, patience, now())] = answer

    # Core to world -----------------------------------------------------------------------------
    def _settle(self) -> int:
        """Carry out what the core decided; return the nanoseconds to its next deadline."""
        member = self.member
        if member is None:
            self.loop.eager = False
            return CARE_PERIOD
        time_now = now()
        while self._finished:
            self._persisted(member, self._finished.popleft(), time_now)
        if time_now >= self._deadline:
            member.advance(time_now)
        self._carry_out(member.take_effects(), stalled=bool(member.disk_problem))
        self._notice_change(member)
        if time_now >= self._care_at:
            self._care_at = time_now + CARE_PERIOD
            self._on_care()
        self._deadline = member.next_deadline()
        return self._patience(member)

    def _carry_out(self, effects: Effects, *, stalled: bool) -> None:
        """Do what the core decided; while the disk is stalled nothing is promised."""
        record = bool(effects.record)
        if not record:
            self._answer(effects)  # before the followers are told, which nobody waits for
        for packet in effects.packets:
            self._send(packet)
        if record or (effects.packets_when_durable and self._unwritten and not stalled):
            assert self._writer is not None
            self._unwritten += 1
            self._writer.submit(effects.record, effects)
        elif not stalled:  # else what these promise cannot be kept
            for packet in effects.packets_when_durable:
                self._send(packet)
        if record:
            self._answer(effects)
        for event in effects.events:
            self._on_event(event)

    def _answer(self, effects: Effects) -> None:
        for ticket, answer in effects.answers:
            waiting = self._waiting.pop(ticket, None)
            if waiting is not None:
                waiting(answer)

    def _notice_change(self, member: ClusterMember) -> None:
        raft = member.raft
        seen = (raft.role, raft.term, raft.leader, raft.configuration) if raft else ()
        if seen == self._seen:
            return
        self._seen = seen
        self._on_change()
        self._listen(raft is not None and not raft.configuration.may_vote(member.me))
        if raft is not None:
            # A publisher made when it is first needed loses its first messages to discovery;
            # an election cannot wait for that. Learners are reached by the leader only.
            for voter in raft.configuration.voters - {member.me}:
                self._outbox(voter.id)
        if member.leads:
            self._not_leading.clear()
        else:
            self._not_leading.set()

    def _listen(self, learns: bool) -> None:
        """Follow the broadcast for learners, as one of them only."""
        if learns and self._learning is None:
            self._learning = self.loop.listen(
                ClusterPacket, self._topic('_learners'), self._on_message, INBOX)
        elif not learns and self._learning is not None:
            self.loop.leave(self._learning)
            self._learning = None

    def _disk_changed(self, error: OSError | None) -> None:
        """Learn on the writer's thread that the disk takes nothing, or does again."""
        def change() -> None:
            if self.member is not None:
                self.member.disk_stalled(str(error) if error else '', now())
                self._on_change()
        self.loop.call_soon(change)

    def _patience(self, member: ClusterMember) -> int:
        """Return how long nothing is due; what became durable ends the wait only where it is waited for."""
        self._impatient = self._unwritten > 0 and member.waits_for_disk
        if self._impatient and self._finished:
            return 0  # the writer looked before it was told
        self.loop.eager = member.expectant
        return max(0, min(self._deadline, self._care_at) - now())

    def _written(self, batch: list[object], error: Exception | None) -> None:
        """Learn on the writer's thread what became durable."""
        if isinstance(error, SyncFailed):
            # Nothing that happens in this process from here on could be trusted.
            os.write(2, f'muster: the disk did not confirm a write ({error}); ending\n'.encode())
            os._exit(os.EX_IOERR)
        if error is not None:
            self.loop.call_soon(lambda: self._fail(error))
            return
        # Acknowledgements leave from here: a follower's answer need not wait for the loop.
        for effects in batch:
            assert isinstance(effects, Effects)
            for packet in effects.packets_when_durable:
                self._send(packet)
        self._finished.append(batch)
        if self._impatient:
            self.loop.wake()

    @staticmethod
    def _fail(error: Exception) -> None:
        """End the loop, and with it the process."""
        raise error

    def _persisted(self, member: ClusterMember, batch: list[object], time_now: int) -> None:
        """Tell the core what became durable."""
        self._unwritten -= len(batch)
        for effects in reversed(batch):
            assert isinstance(effects, Effects)
            if effects.record.entries:
                member.persisted(effects.record.entries[-1], time_now)
                return

    def _send(self, packet: protocol.Packet) -> None:
        to_all = '_hello' if isinstance(packet.body, protocol.Hello) else '_learners'
        outbox = self._outbox(packet.receiver.id or to_all)
        outbox.publish(protocol.wrapped(protocol.encode(packet)))

    def _outbox(self, name: str) -> Any:
        made = self._outboxes.get(name)
        if made is not None:
            return made
        with self._making:  # the writer's thread may be the first to answer somebody
            if name not in self._outboxes:
                self._outboxes[name] = self.node.create_publisher(ClusterPacket, self._topic(name), INBOX)
            return self._outboxes[name]

    def _topic(self, name: str) -> str:
        return f'/muster/{self._cluster}/_raft/{name}'
