# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The ROS shell of a cluster member: topics, services, timer and disk around the pure core.

It has a small node, an executor and a thread of its own, because the cost of every wake grows with
the entities of an executor, and an election must not wait for a diagnostics timer. Everything here
runs on that thread; `call` brings work to it.
"""
from __future__ import annotations

from array import array
from collections.abc import Callable
import os
from pathlib import Path
import random
import secrets
import threading
import time
from typing import Any

from muster.cluster import protocol
from muster.cluster.member import ClusterMember, Effects
from muster.cluster.raft.core import Timing
from muster.cluster.raft.types import Entry
from muster.cluster.state.commands import Answer, Code, Operation
from muster.cluster.state.events import Event
from muster.cluster.state.locks import RequestId
from muster.cluster.storage import Storage, SyncFailed
from muster.cluster.writer import Writer
from muster.ros import interfaces as interfaces  # noqa: F401 (first: it explains missing types)
from muster_interfaces.msg import ClusterPacket
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future

#: Inboxes lose the oldest message when they overflow; the consensus repeats what was lost.
INBOX = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=64, reliability=ReliabilityPolicy.RELIABLE,
                   durability=DurabilityPolicy.VOLATILE)
#: How long a deactivating leader waits until another one took over, seconds.
HAND_OVER_TIMEOUT = 0.5
#: Messages that were refused are counted; so many different reasons are kept.
MAX_REASONS = 32


def now() -> int:
    """Return the time that leases are measured in: it goes on while a robot sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Engine:
    """A running member; made and ended with the node's lifecycle, active between `begin` and `end`."""

    def __init__(self, context: Any, namespace: str, cluster: str, member_id: str,
                 on_event: Callable[[Event, int], None], on_change: Callable[[], None],
                 on_failure: Callable[[Exception], None]) -> None:
        """Make the small node and start its thread; nothing is sent before `begin`."""
        # Global arguments would rename this node to the public node's name (`-r __node:=`).
        self.node = Node('_cluster_transport', namespace=namespace, context=context,
                         use_global_arguments=False, enable_rosout=False,
                         start_parameter_services=False)
        self.executor = SingleThreadedExecutor(context=context)
        self.requests = ReentrantCallbackGroup()
        self.member: ClusterMember | None = None
        self.rejected: dict[str, int] = {}
        self.member_id = member_id
        self._cluster = cluster
        self._on_event, self._on_change, self._on_failure = on_event, on_change, on_failure
        self._outboxes: dict[str, Any] = {}
        self._making = threading.Lock()
        self._waiting: dict[int, Future] = {}
        self._writer: Writer | None = None
        self._storage: Storage | None = None
        self._unwritten = 0
        self._seen: tuple[Any, ...] = ()
        self._not_leading = threading.Event()
        self._timer = self.node.create_timer(3600.0, self._on_timer, autostart=False)
        self._thread = threading.Thread(target=self._spin, name='cluster transport')
        self.executor.add_node(self.node)

    def every(self, period: float, work: Callable[[], None]) -> None:
        """Run `work` on the engine's thread each `period` seconds while the member is active."""
        self.node.create_timer(period, lambda: work() if self.member is not None else None)

    def start(self) -> None:
        """Begin to spin; every entity of the node exists by now."""
        self._thread.start()

    def _spin(self) -> None:
        try:
            self.executor.spin()
        except ExternalShutdownException:
            return
        except Exception as error:
            self._on_failure(error)

    def call(self, work: Callable[[], Any], timeout: float = 5.0) -> Any:
        """Run `work` on the engine's thread, wait for it, and return or raise its result."""
        done = threading.Event()
        task = self.executor.create_task(work)
        task.add_done_callback(lambda _: done.set())
        if not done.wait(timeout):
            raise TimeoutError('the cluster transport does not respond')
        return task.result()

    # Life --------------------------------------------------------------------------------------
    def begin(self, directory: Path, bootstrap: str, listed: tuple[str, ...], timing: Timing) -> None:
        """Open the data directory and take part; raise StorageError."""
        storage = Storage(directory, self.member_id, lambda: secrets.randbits(63))
        self.call(lambda: self._begin(storage, bootstrap, listed, timing))

    def _begin(self, storage: Storage, bootstrap: str, listed: tuple[str, ...], timing: Timing) -> None:
        self._storage = storage
        self._writer = Writer(storage, self._written)
        self.member = ClusterMember(
            storage.me, storage.cluster_id, bootstrap, listed, timing,
            random.Random(secrets.randbits(64)), now(), storage.hard_state, tuple(storage.entries))
        self._inboxes = [
            self.node.create_subscription(ClusterPacket, self._topic(name), self._on_packet, INBOX)
            for name in (self.member_id, '_hello')]
        self._flush()

    def end(self) -> None:
        """Hand over leadership where there is somebody to take it, and stop taking part."""
        if self.member is None:
            return
        self.call(self._hand_over)
        self._not_leading.wait(HAND_OVER_TIMEOUT)
        self.call(self._end)

    def _hand_over(self) -> None:
        if self.member is not None:
            self.member.hand_over()
            self._flush()

    def _end(self) -> None:
        self._timer.cancel()
        if self._writer:
            self._writer.close()
        self.member = None
        for future in self._waiting.values():
            future.set_result(Answer(Code.OUTCOME_UNKNOWN, 'the cluster node was deactivated meanwhile: '
                                     'repeat it with the same request_id'))
        self._waiting.clear()
        if self._storage:
            self._storage.close()
        self._writer = self._storage = None
        for subscription in self._inboxes:
            self.node.destroy_subscription(subscription)
        for publisher in self._outboxes.values():
            self.node.destroy_publisher(publisher)
        self._outboxes.clear()

    def close(self) -> None:
        """End the thread and destroy the node."""
        if self._thread.is_alive():
            self.end()
            self.executor.shutdown(timeout_sec=0)
            self._thread.join()
        self.node.destroy_node()

    # World to core -----------------------------------------------------------------------------
    def _on_packet(self, message: ClusterPacket) -> None:
        if self.member is None:
            return
        try:
            packet = protocol.decode(message.data.tobytes())
        except protocol.Rejected as error:
            reason = str(error)
            if reason in self.rejected or len(self.rejected) < MAX_REASONS:
                self.rejected[reason] = self.rejected.get(reason, 0) + 1
            return
        self.member.receive(packet, now())
        self._flush()

    def _on_timer(self) -> None:
        if self.member is not None:
            self.member.advance(now())
            self._flush()

    def submit(self, operation: Operation, request: RequestId | None, patience: int) -> Future:
        """Hand a request of a client to the core; the future brings its Answer."""
        future = Future(executor=self.executor)
        if self.member is None:
            future.set_result(Answer(Code.INACTIVE, 'the cluster node is not active: '
                                     "'ros2 lifecycle set' it to active"))
            return future
        ticket = self.member.submit(operation, request, patience, now())
        self._waiting[ticket] = future
        self._flush()
        return future

    # Core to world -----------------------------------------------------------------------------
    def _flush(self) -> None:
        """Carry out what the core decided, and set the timer to its next deadline."""
        if self.member is None:
            return
        effects = self.member.take_effects()
        for packet in effects.packets:
            self._send(packet)
        if effects.record or (effects.packets_when_durable and self._unwritten):
            assert self._writer is not None
            self._unwritten += 1
            self._writer.submit(effects.record, effects)
        else:
            for packet in effects.packets_when_durable:
                self._send(packet)
        for ticket, answer in effects.answers:
            future = self._waiting.pop(ticket, None)
            if future is not None:
                future.set_result(answer)
        for event in effects.events:
            self._on_event(event, self.member.machine.time)
        self._notice_change()
        self._timer.timer_period_ns = max(1, self.member.next_deadline() - now())
        self._timer.reset()

    def _notice_change(self) -> None:
        assert self.member is not None
        raft = self.member.raft
        seen = (raft.role, raft.term, raft.leader, raft.configuration) if raft else ()
        if seen != self._seen:
            self._seen = seen
            self._on_change()
            if raft is not None:
                # A publisher made when it is first needed loses its first messages to discovery;
                # an election cannot wait for that. Learners are reached by the leader only.
                for voter in raft.configuration.voters - {self.member.me}:
                    self._outbox(voter.id)
        if self.member.leads:
            self._not_leading.clear()
        else:
            self._not_leading.set()

    def _written(self, batch: list[object], error: Exception | None) -> None:
        """Learn on the writer's thread what became durable."""
        if isinstance(error, SyncFailed):
            # Nothing that happens in this process from here on could be trusted.
            os.write(2, f'muster: the disk did not confirm a write ({error}); ending\n'.encode())
            os._exit(os.EX_IOERR)
        # Acknowledgements leave from here: waking the executor first would cost a follower's
        # answer about as much as the sync itself.
        for effects in batch:
            assert isinstance(effects, Effects)
            for packet in effects.packets_when_durable:
                self._send(packet)
        self.executor.create_task(lambda: self._durable(batch, error))

    def _durable(self, batch: list[object], error: Exception | None) -> None:
        if error is not None:
            self._on_failure(error)
            return
        self._unwritten -= len(batch)
        last: Entry | None = None
        for effects in batch:
            assert isinstance(effects, Effects)
            last = effects.record.entries[-1] if effects.record.entries else last
        if self.member is not None and last is not None:
            self.member.persisted(last, now())
            self._flush()

    def _send(self, packet: protocol.Packet) -> None:
        outbox = self._outbox(packet.receiver.id or '_hello')
        outbox.publish(ClusterPacket(data=array('B', protocol.encode(packet))))

    def _outbox(self, name: str) -> Any:
        with self._making:  # the writer's thread may be the first to answer somebody
            if name not in self._outboxes:
                self._outboxes[name] = self.node.create_publisher(ClusterPacket, self._topic(name), INBOX)
            return self._outboxes[name]

    def _topic(self, name: str) -> str:
        return f'/muster/{self._cluster}/_raft/{name}'
