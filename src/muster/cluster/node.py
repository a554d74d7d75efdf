# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The cluster node: elects a leader among the robots; keeps the fleet's locks, registry and tasks."""
from __future__ import annotations

from collections.abc import Callable
import errno
import gc
from pathlib import Path
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from muster.cluster.bootstrap import MODES
from muster.cluster.caretaker import Care
from muster.cluster.engine import CALL_TIMEOUT, Engine, now
from muster.cluster.executor import Executor
from muster.cluster.member import Policy
from muster.cluster.raft.core import PROFILES, Timing
from muster.cluster.services import event_message, Services, task_message
from muster.cluster.state.commands import check_names, Invalid, MAX_CAPABILITIES, MAX_CAPACITY
from muster.cluster.state.events import Event, EventType
from muster.cluster.storage import StorageError
from muster.ros.main import run
from muster.ros.node import ConfigurationError, diagnostic, ManagedNode, NAME
from muster.ros.parameters import ParameterSpec
from muster.ros.qos import EVENTS, STATUS
from muster_interfaces.msg import ClusterEvent, ClusterStatus, TaskInfo
from rclpy.clock import Clock, ClockType

#: The transport's thread must get the interpreter quickly from the node's (docs/cluster.md).
SWITCH_INTERVAL = 0.0005
#: How seldom the garbage collector looks for cycles, of which a member makes few: a look at everything
#: would stop it for 30 ms for each 100,000 entries of the log.
GARBAGE_THRESHOLDS = 20_000, 10, 100
SECOND = 1_000_000_000
#: How often a node that found its disk full at the start tries again, seconds.
RETRY_PERIOD = 2.0
FULL = (errno.ENOSPC, errno.EDQUOT)
#: Age beyond which the engine's own report is stale, seconds.
HEALTH_LIFETIME = 3.0
TASK_EVENTS = (EventType.TASK_SUBMITTED, EventType.TASK_ASSIGNED, EventType.TASK_FINISHED,
               EventType.TASK_CANCEL_REQUESTED, EventType.TASK_RETURNED)
#: Level, concern, message and values of one diagnostic.
Row = tuple[bytes, str, str, dict[str, Any]]


def _name_problem(value: str) -> str:
    return '' if NAME.fullmatch(value) else \
        f"'{value}' must be letters, digits and underscores, beginning with a letter, 64 at most"


def _names_problem(values: list[str]) -> str:
    names = [v for v in values if v]
    if len(set(names)) < len(names):
        return 'a name is listed twice'
    return next((p for p in map(_name_problem, names) if p), '')


def _capabilities_problem(values: list[str]) -> str:
    try:
        check_names('it', tuple(v for v in values if v), MAX_CAPABILITIES)
    except Invalid as error:
        return str(error)
    return ''


PARAMETERS = (
    ParameterSpec('cluster', 'fleet', 'Name of the cluster; its members find one another by it.',
                  check=_name_problem, read_only=True),
    ParameterSpec('bootstrap', 'auto', 'How a robot with an empty data directory begins: found a cluster '
                  'alone, with the listed members, join one, or whatever fits after listening for 4 s.',
                  choices=MODES, read_only=True),
    ParameterSpec('members', [''], "Names of all founding robots, for bootstrap 'members'.",
                  check=_names_problem, read_only=True),
    ParameterSpec('data_directory', '',
                  'Where the log is kept; empty: cluster in $MUSTER_HOME/<robot>, else in '
                  '~/.local/state/muster/<robot>.',
                  read_only=True),
    ParameterSpec('profile', 'lan', 'Timing of the consensus: lan (50 ms heartbeat) or wifi (250 ms).',
                  choices=tuple(PROFILES), read_only=True),
    ParameterSpec('heartbeat', 0.0, 'Time between heartbeats, seconds; 0: as the profile.', 0.0, 10.0,
                  read_only=True),
    ParameterSpec('election_min', 0.0, 'Shortest election time-out, seconds; 0: as the profile.', 0.0, 60.0,
                  read_only=True),
    ParameterSpec('election_max', 0.0, 'Longest election time-out, seconds; 0: as the profile.', 0.0, 60.0,
                  read_only=True),
    ParameterSpec('request_timeout', 5.0, 'How long a request may wait for its confirmation, seconds.',
                  0.1, 60.0),
    ParameterSpec('capabilities', [''], 'What this robot can do, besides the tasks that it has workers for.',
                  check=_capabilities_problem, read_only=True),
    ParameterSpec('task_capacity', 4, 'How many tasks this robot executes at once.', 1, MAX_CAPACITY,
                  read_only=True),
    ParameterSpec('cancel_grace', 5.0, 'How long a worker may take to stop before another robot begins its '
                  'task, where the submitter does not say, seconds.', 0.0, 3600.0),
    ParameterSpec('suspect_after', 2.0, 'Silence before a member can be suspect, and gets no new tasks, '
                  'seconds.', 0.1, 3600.0, read_only=True),
    ParameterSpec('dead_after', 5.0, 'Silence before a member can be dead, and loses its registrations, '
                  'seconds.', 0.1, 3600.0, read_only=True),
    ParameterSpec('suspect_phi', 8.0, 'Confidence of the failure detector for suspect: 8 is one mistake in '
                  '10^8 silences, judged by how regular the member was.', 1.0, 300.0, read_only=True),
    ParameterSpec('dead_phi', 16.0, 'The same for dead.', 1.0, 300.0, read_only=True),
    ParameterSpec('promotion_delay', 120.0, 'How long a voter is dead before a learner replaces it; longer '
                  'than a reboot, seconds.', 1.0, 86400.0, read_only=True),
)


class ClusterNode(ManagedNode):
    """One member of the fleet's cluster."""

    def __init__(self, **arguments: Any) -> None:
        """Declare the parameters; `arguments` are those of an rclpy node."""
        super().__init__('cluster', PARAMETERS, concerns_in_thread=True, **arguments)
        #: Called with every event, on the transport's thread: they must not wait.
        self.listeners: list[Callable[[Event], None]] = []
        self._engine: Engine | None = None
        self._attempts: Executor | None = None
        self._health: tuple[list[Row], float] = ([], time.monotonic())
        self._retry = self.create_timer(RETRY_PERIOD, self._try_again, autostart=False,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))

    # Lifecycle ---------------------------------------------------------------------------------
    def configure(self) -> None:
        """Check the parameters and make topics, services and the transport."""
        problem = _name_problem(self.robot)
        if problem:
            raise ConfigurationError(f'the robot is named by the namespace: {problem}')
        members = self.parameters['members']
        if self.parameters['bootstrap'] == 'members' and self.robot not in members:
            raise ConfigurationError(f"parameter 'members' {members} must list this robot, '{self.robot}', "
                                     "for bootstrap 'members'")
        self._timing, self._policy = self._read_timing(), self._read_policy()
        self._status = self.create_lifecycle_publisher(ClusterStatus, 'cluster/status', STATUS)
        self._events = self.create_lifecycle_publisher(ClusterEvent, 'cluster/events', EVENTS)
        self._tasks = self.create_lifecycle_publisher(TaskInfo, 'cluster/tasks', EVENTS)
        cluster = self.parameters['cluster']
        self._engine = Engine(self.context, self.get_namespace(), cluster, self.robot,
                              self._publish_event, self._publish_status, self._look_after, self._broken)
        self._interface = Services(
            self._engine, self.get_fully_qualified_name(), cluster,
            lambda: int(self.parameters['request_timeout'] * SECOND),
            lambda: int(self.parameters['cancel_grace'] * SECOND),
            lambda: self.get_clock().now().to_msg())
        self._attempts = Executor(self, self._engine, tuple(self.parameters['capabilities']),
                                  self.parameters['task_capacity'])
        self._engine.loop.start()

    def activate(self) -> None:
        """Open the data directory and take part in the cluster."""
        assert self._engine is not None
        try:
            self._engine.begin(self._directory(), self.parameters['bootstrap'],
                               tuple(self.parameters['members']), self._timing, self._policy)
        except StorageError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
                self._retry.reset()
            raise ConfigurationError(str(error)) from error
        assert self._attempts is not None
        self._attempts.begin()

    def deactivate(self) -> None:
        """Stop the workers, hand over leadership and stop voting; what is durable stays."""
        if self._engine is not None:
            if self._attempts is not None:
                self._attempts.end()
            self._engine.end()
            self._status.publish(self._interface.status())

    def release(self) -> None:
        """End the transport and destroy the publishers."""
        if self._engine is not None:
            if self._attempts is not None:
                self._attempts.close()
                self._attempts = None
            self._engine.close()
            self._engine = None
            for publisher in (self._status, self._events, self._tasks):
                self.destroy_publisher(publisher)

    def _directory(self) -> Path:
        given = self.parameters['data_directory']
        return Path(given).expanduser() if given else self.state_directory / 'cluster'

    def _read_timing(self) -> Timing:
        profile = PROFILES[self.parameters['profile']]
        given = {name: int(self.parameters[name] * SECOND) or getattr(profile, name)
                 for name in ('heartbeat', 'election_min', 'election_max')}
        timing = Timing(**given)
        if not 2 * timing.heartbeat <= timing.election_min < timing.election_max:
            raise ConfigurationError(
                "parameters 'heartbeat', 'election_min' and 'election_max' must grow: the first at most half "
                f'of the second, the second below the third, not {[v / SECOND for v in given.values()]}')
        return timing

    def _read_policy(self) -> Policy:
        for before, after in (('suspect_after', 'dead_after'), ('suspect_phi', 'dead_phi')):
            if self.parameters[before] > self.parameters[after]:
                raise ConfigurationError(f"parameter '{before}' must not be above '{after}': a member is "
                                         'suspect before it is dead')
        suspect, dead, promotion = (int(self.parameters[name] * SECOND)
                                    for name in ('suspect_after', 'dead_after', 'promotion_delay'))
        return Policy(Care(self.parameters['suspect_phi'], self.parameters['dead_phi'],
                           suspect, dead, promotion))

    def status(self) -> ClusterStatus:
        """Return the cluster as this member sees it; from any thread, while the node is configured."""
        assert self._engine is not None
        found: ClusterStatus = self._engine.loop.call(self._interface.status, CALL_TIMEOUT)
        return found

    # From the engine's thread ------------------------------------------------------------------
    def _publish_event(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)
        if self._events.get_subscription_count():  # a message costs more than the entry behind it
            self._events.publish(event_message(event, self.get_clock().now().to_msg()))
        if event.type in TASK_EVENTS:
            self._publish_task(event.subject)
            if event.member == self.robot and self._attempts is not None:
                self._attempts.notice()

    def _publish_task(self, task_id: str) -> None:
        """Publish a task as it is now; several changes at once are published as the last of them."""
        if self._engine is None or self._engine.member is None or not self._tasks.get_subscription_count():
            return
        machine = self._engine.member.machine
        task = machine.tasks.get(task_id)
        if task is not None:
            self._tasks.publish(task_message(task, machine.time, self.get_clock().now().to_msg()))

    def _publish_status(self) -> None:
        self._status.publish(self._interface.status())

    def _look_after(self) -> None:
        assert self._engine is not None
        self._health = _health(self._engine), time.monotonic()
        self._publish_status()
        attempts = self._attempts    # another thread may release it
        if attempts is not None:
            attempts.look()

    def _broken(self, error: Exception) -> None:
        """End the process: an error inside the transport leaves nothing to rely on but the disk."""
        def end() -> None:
            raise error
        self.run_soon(end)

    def _try_again(self) -> None:
        self._retry.cancel()
        if not self.is_active and self._engine is not None:
            self.trigger_activate()

    # Diagnostics -------------------------------------------------------------------------------
    def concerns(self) -> list[DiagnosticStatus]:
        """Report the consensus, the clients' requests and refused messages."""
        rows, taken = self._health
        if time.monotonic() - taken > HEALTH_LIFETIME:
            rows = [(DiagnosticStatus.STALE, 'consensus', 'the transport thread does not respond', {})]
        prefix = self.get_fully_qualified_name()
        return [diagnostic(level, f'{prefix}: {concern}', message, self.robot, **values)
                for level, concern, message, values in rows]


def _health(engine: Engine) -> list[Row]:
    """Return the diagnostics of a running member; call it on the engine's thread."""
    member = engine.member
    if member is None:
        return []
    problems = member.problems(now())
    level, message = DiagnosticStatus.OK, f"led by '{member.leader}'"
    if problems:
        level, message = DiagnosticStatus.ERROR, '; '.join(problems)
    elif member.raft is None:
        level, message = DiagnosticStatus.WARN, 'looks for a cluster to join or to found'
    elif not member.leader:
        level, message = DiagnosticStatus.WARN, 'no leader: too few members can be reached'
    values = {'requests in flight': member.pending, 'locks': len(member.machine.locks)}
    if member.raft is not None:
        values |= {'term': member.raft.term, 'commit': member.raft.commit}
    rows = [(level, 'consensus', message, values)]
    if engine.rejected:
        most = max(engine.rejected.items(), key=lambda item: item[1])[0]
        rows.append((DiagnosticStatus.WARN, 'refused messages', most, dict(engine.rejected)))
    return rows


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    gc.freeze()  # modules and what they made stay for good
    run(ClusterNode, args=args)


if __name__ == '__main__':
    main()
