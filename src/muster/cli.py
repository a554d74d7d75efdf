# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The `muster` command: bring a robot up, and ask the robots of a fleet."""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import os
from pathlib import Path
import runpy
import sys
import time
from typing import Any, NoReturn

from muster import bringup
from rich.console import Console
from rich.markup import escape
from rich.table import Table


#: How often a task that is waited for is looked at, seconds.
WAIT_PERIOD = 0.2
TASK_STATUSES = ('waiting', 'running', 'succeeded', 'failed', 'canceled')


class Failure(Exception):
    """What the operator asked for did not work; the message says why."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and a line that names the problem and where help is."""
        self.exit(2, f"{self.prog}: {message} (see '{self.prog} --help')\n")


class Caller:
    """Calls the services of one robot, each call bounded in time."""

    def __init__(self, node: Any, executor: Any, robot: str, timeout: float) -> None:
        """Ask `robot` through `node`; `timeout` [s] bounds discovery and answer together."""
        self._node, self._executor, self._robot, self._timeout = node, executor, robot, timeout
        self._clients: dict[str, Any] = {}

    def __call__(self, kind: Any, service: str, **fields: Any) -> Any:
        """Return the response; raise Failure where there is none or it is not a success."""
        from muster.ros.servers import is_served
        name = f'/{self._robot}/{service}'
        deadline = time.monotonic() + self._timeout
        if name not in self._clients:
            self._clients[name] = self._node.create_client(kind, name)
        client = self._clients[name]
        if not self._spin(lambda: is_served(self._node, client), deadline):
            raise Failure(f'{name} was not found within {self._timeout:g} s; {self._seen(service)}')
        future = client.call_async(kind.Request(**fields))
        if not self._spin(future.done, deadline):
            raise Failure(f'{name} did not answer within {self._timeout:g} s')
        response = future.result()
        if not response.success:
            raise Failure(f'{name}: {response.message}')
        return response

    def _spin(self, condition: Any, deadline: float) -> bool:
        while not condition() and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)  # discovery itself wakes nobody
        return bool(condition())

    def _seen(self, service: str) -> str:
        node = service.split('/')[0]
        robots = sorted({space.strip('/') for name, space in self._node.get_node_names_and_namespaces()
                         if name == node and space != '/'})
        return f'robots seen: {", ".join(robots)}' if robots else \
            "no robot seen: is it running ('muster up'), in this ROS_DOMAIN_ID?"


@contextmanager
def calling(options: argparse.Namespace) -> Iterator[Caller]:
    """Give a Caller for the robot of the command line."""
    from muster.ros import interfaces as interfaces  # noqa: F401  first: it explains missing types
    from muster.ros.node import NAME
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions
    if not NAME.fullmatch(options.robot):
        raise Failure(f"'{options.robot}' is no robot name: use letters, digits and underscores, "
                      'beginning with a letter')
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Node(f'muster_cli_{os.getpid()}', enable_rosout=False, start_parameter_services=False)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        yield Caller(node, executor, options.robot, options.timeout)
    finally:
        rclpy.shutdown()


# The commands ---------------------------------------------------------------------------------
def status(options: argparse.Namespace) -> Table:
    """Show the cluster as one robot sees it."""
    answer = _status(options)
    from muster_interfaces.msg import ClusterMember, ClusterStatus
    roles, own = constants(ClusterMember, 'VOTER', 'LEARNER'), constants(ClusterStatus).get(answer.role, '?')
    return table(
        f'cluster {answer.cluster} {answer.cluster_id[:8]}',
        ('member', 'role', 'health', 'reachable', 'tasks', 'stored up to'),
        [(m.id + (' (leader)' if m.id == answer.leader else ''), roles.get(m.role, '?'), _health(m),
          'yes' if m.reachable else 'no', f'{m.running} of {m.capacity}', m.match_index or '')
         for m in answer.members],
        f'{answer.member} is {own}, leader {answer.leader or "unknown"}, term {answer.term}, '
        f'committed {answer.commit_index}, applied {answer.applied_index}, locks {answer.locks}')


def members(options: argparse.Namespace) -> Table:
    """Show the members and what they can do, remove one, or let another lead."""
    from muster.ros import interfaces as interfaces  # noqa: F401  first: it explains missing types
    from muster_interfaces.srv import ChangeMembership, TransferLeadership
    if options.remove:
        with calling(options) as call:
            call(ChangeMembership, 'cluster/change_membership', remove=options.remove)
    if options.lead is not None:
        with calling(options) as call:
            call(TransferLeadership, 'cluster/transfer_leadership', to=options.lead)
    answer = _status(options)
    return table('members', ('member', 'health', 'tasks', 'capabilities'),
                 [(m.id + (' (leader)' if m.id == answer.leader else ''), _health(m),
                   f'{m.running} of {m.capacity}', ', '.join(m.capabilities)) for m in answer.members],
                 f'{len(answer.members)} members')


def _status(options: argparse.Namespace) -> Any:
    with calling(options) as call:
        from muster_interfaces.srv import GetClusterStatus
        return call(GetClusterStatus, 'cluster/get_status').status


def _health(member: Any) -> str:
    return constants(type(member), 'ALIVE', 'SUSPECT', 'DEAD').get(member.health, '?')


def services(options: argparse.Namespace) -> Table:
    """Show the services that the robots of the fleet offer."""
    with calling(options) as call:
        from muster_interfaces.srv import FindServices
        answer = call(FindServices, 'cluster/find_services', name=options.name, type=options.type,
                      capability=options.capability, robot=options.of, limit=options.limit)
    return table('services', ('name', 'robot', 'type', 'capabilities', 'metadata', 'remaining'),
                 [(s.name, s.robot, s.type, ', '.join(s.capabilities), s.metadata,
                   f'{seconds(s.remaining):.1f} s' if seconds(s.time_to_live) else '')
                  for s in answer.services],
                 f'{len(answer.services)} of {answer.total}')


def tasks(options: argparse.Namespace) -> Table:
    """Show the tasks of the fleet, the newest first, or cancel one."""
    from muster.ros import interfaces as interfaces  # noqa: F401  first: it explains missing types
    from muster_interfaces.msg import TaskInfo
    from muster_interfaces.srv import CancelTask, ListTasks
    kinds = constants(TaskInfo)
    if options.cancel:
        with calling(options) as call:
            call(CancelTask, 'cluster/cancel_task', task_id=options.cancel)
    with calling(options) as call:
        status = {name: value for value, name in kinds.items()}.get(options.status, 0)
        answer = call(ListTasks, 'cluster/list_tasks', type=options.type, robot=options.of, status=status,
                      limit=options.limit)
    return table('tasks', ('task', 'status', 'robot', 'progress', 'attempts', 'note'),
                 [(t.task_id, kinds.get(t.status, '?') + (' (cancel)' if t.cancel_requested and t.status == 2
                                                          else ''), t.robot, f'{t.progress:.0%}',
                   f'{t.attempts} of {t.max_attempts}', t.message or t.note) for t in answer.tasks],
                 f'{len(answer.tasks)} of {answer.total}')


def submit(options: argparse.Namespace) -> int:
    """Give the fleet a task; print its id, or with --wait its result."""
    from muster.ros import interfaces as interfaces  # noqa: F401  first: it explains missing types
    from muster.ros.durations import duration
    from muster_interfaces.msg import TaskInfo
    from muster_interfaces.srv import GetTask, SubmitTask
    with calling(options) as call:
        task_id = call(SubmitTask, 'cluster/submit_task', type=options.type, payload=options.payload,
                       required_capabilities=options.require, priority=options.priority,
                       max_attempts=options.attempts, deadline=duration(int(options.deadline * 1e9))).task_id
        print(task_id, flush=True)
        if not options.wait:
            return 0
        while (task := call(GetTask, 'cluster/get_task', task_id=task_id).task).status <= TaskInfo.RUNNING:
            time.sleep(WAIT_PERIOD)
    if task.status != TaskInfo.SUCCEEDED:
        raise Failure(f'{task_id} {constants(TaskInfo)[task.status]}: {task.message}')
    print(task.result)
    return 0


def locks(options: argparse.Namespace) -> Table:
    """Show the locks that are held."""
    with calling(options) as call:
        from muster_interfaces.srv import ListLocks
        answer = call(ListLocks, 'cluster/list_locks', prefix=options.prefix, limit=options.limit)
    return table('locks', ('name', 'owner', 'member', 'token', 'remaining', 'waiting'),
                 [(k.name, k.owner, k.member, k.fencing_token, f'{seconds(k.remaining):.1f} s',
                   ', '.join(k.waiters)) for k in answer.locks],
                 f'{len(answer.locks)} of {answer.total}')


def devices(options: argparse.Namespace) -> Table:
    """Show the hardware of one robot."""
    with calling(options) as call:
        from muster_interfaces.msg import Device
        from muster_interfaces.srv import ListDevices
        answer = call(ListDevices, 'hardware/list_devices', type=options.type, bus=options.bus,
                      capability=options.capability)
    states = constants(Device)
    return table('devices', ('id', 'name', 'type', 'sure', 'bus', 'status', 'nodes'),
                 [(d.id, d.name + (' (simulated)' if d.simulated else ''), d.type, f'{d.confidence:.0%}',
                   d.bus, states.get(d.status, '?'), ' '.join(d.nodes)) for d in answer.devices],
                 f'{len(answer.devices)} devices')


def models(options: argparse.Namespace) -> Table:
    """Show the versions of a robot's model, or save one, act by one, or go back first."""
    with calling(options) as call:
        from muster_interfaces.msg import ModelInfo
        from muster_interfaces.srv import ActivateModel, ListModels, RollbackModel, SaveModel
        if options.save is not None:
            call(SaveModel, 'learning/save_model', name=options.save)
        if options.activate is not None:
            chosen = {'version': int(options.activate)} if options.activate.isdecimal() \
                else {'name': options.activate}
            call(ActivateModel, 'learning/activate_model', **chosen)
        if options.rollback:
            call(RollbackModel, 'learning/rollback_model')
        answer = call(ListModels, 'learning/list_models', name=options.name, limit=options.limit)
    roles = constants(ModelInfo)
    return table('models', ('version', 'name', 'agent', 'role', 'evaluated', 'parent', 'created', 'size'),
                 [(f'{m.version}' + (' (active)' if m.version == answer.active else ''), m.name, m.agent,
                   roles.get(m.role, '?'),
                   f'{m.mean_evaluation:.4g} in {m.evaluations}' if m.evaluations else '', m.parent or '',
                   time.strftime('%Y-%m-%d %H:%M', time.localtime(m.created.sec)), f'{m.size / 1024:.0f} KiB')
                  for m in answer.models],
                 f'{len(answer.models)} of {answer.total}')


def events(options: argparse.Namespace) -> Table:
    """Show what happened in the cluster."""
    with calling(options) as call:
        from muster_interfaces.msg import ClusterEvent
        from muster_interfaces.srv import ListEvents
        answer = call(ListEvents, 'cluster/list_events', since_revision=options.since, limit=options.limit)
    kinds = constants(ClusterEvent)
    return table('events', ('revision', 'time', 'event', 'subject', 'owner', 'member', 'token'),
                 [(e.revision, f'{seconds(e.cluster_time):.1f} s', kinds.get(e.type, '?'), e.subject, e.owner,
                   e.member, e.fencing_token or '') for e in answer.events],
                 f'continue with --since {answer.next_revision}'
                 + (f'; none is kept before {answer.compacted_before}' if answer.compacted_before else ''))


def train(options: argparse.Namespace) -> Table | int:
    """Learn a specification off-line, in the simulated world or Gymnasium; save the model for the node."""
    from muster.offline.command import listed, run, TrainingError
    try:
        return listed(options) if options.list else run(options)
    except TrainingError as error:
        raise Failure(str(error)) from error


def demo(options: argparse.Namespace) -> None:
    """Run the demonstration."""
    sys.argv = ['muster demo', *options.arguments]
    runpy.run_module('muster.demo', run_name='__main__')


# Presentation ---------------------------------------------------------------------------------
def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str) -> Table:
    """Return a table; every text came over the network and is shown as it is, not as markup."""
    made = Table(title=escape(title), caption=escape(caption), title_justify='left', caption_justify='left')
    for column in columns:
        made.add_column(column, overflow='fold')
    for row in rows:
        made.add_row(*(escape(str(cell)) for cell in row))
    return made


def constants(kind: Any, *names: str) -> dict[int, str]:
    """Return the name of each constant of a message type (default: all), for people, by its value."""
    return {value: name.lower().replace('_', ' ') for name in names or dir(kind)
            if name.isupper() and isinstance(value := getattr(kind, name), int)}


def seconds(duration: Any) -> float:
    """Return a ROS duration in seconds."""
    return float(duration.sec + duration.nanosec * 1e-9)


# The command line -----------------------------------------------------------------------------
def parser() -> Parser:
    """Return the parser of the whole command."""
    top = Parser(prog='muster', description=__doc__)
    commands = top.add_subparsers(metavar='command', required=True)

    def add(name: str, act: Any, example: str, remote: bool = True) -> argparse.ArgumentParser:
        summary = str(act.__doc__).strip().splitlines()[0]
        made: argparse.ArgumentParser = commands.add_parser(
            name, help=summary, description=summary, epilog=f'example: {example}', add_help=act is not demo)
        made.set_defaults(act=act)
        if remote:
            made.add_argument('--robot', default=bringup.default_robot(), metavar='NAME',
                              help='the robot that is asked (default: %(default)s)')
            made.add_argument('--timeout', type=bringup.within(float, 0.1, 3600), default=5.0,
                              metavar='SECONDS', help='patience for an answer (default: %(default)s)')
        return made

    bringup.add_arguments(add('up', bringup.up, 'muster up --robot robot_1 --data /var/lib/muster', False))
    add('demo', demo, 'muster demo --headless', False)
    _train(add('train', train, 'muster train --config goal_seeking.yaml --plot curve.png', False))
    add('status', status, 'muster status --robot robot_1')
    made = add('members', members, 'muster members --robot robot_1 --remove robot_3')
    made.add_argument('--remove', default='', metavar='MEMBER', help='take this member out for good')
    made.add_argument('--lead', nargs='?', const='', metavar='MEMBER',
                      help='let this voter lead, without a name whoever is best')
    made = add('locks', locks, 'muster locks --robot robot_1 --prefix dock')
    made.add_argument('--prefix', default='', help='only names that begin with it')
    _limit(made)
    made = add('services', services, 'muster services --robot robot_1 --type navigation')
    for name in ('name', 'type', 'capability'):
        made.add_argument(f'--{name}', default='', help=f'only services with this {name}')
    made.add_argument('--of', default='', metavar='ROBOT', help='only services of this robot')
    _limit(made)
    made = add('tasks', tasks, 'muster tasks --robot robot_1 --status running')
    made.add_argument('--type', default='', help='only tasks of this type')
    made.add_argument('--of', default='', metavar='ROBOT', help='only tasks that this robot executes or did')
    made.add_argument('--status', default='', choices=('', *TASK_STATUSES), metavar='STATUS',
                      help=f'only tasks that are: {", ".join(TASK_STATUSES)}')
    made.add_argument('--cancel', default='', metavar='TASK', help='ask for the end of this task first')
    _limit(made)
    made = add('submit', submit, 'muster submit --robot robot_1 patrol \'{"points": ["gate"]}\' --wait')
    made.add_argument('type', help='what kind of task: some robot must have a worker for it')
    made.add_argument('payload', nargs='?', default='', help='JSON for the worker (default: {})')
    made.add_argument('--require', action='append', default=[], metavar='CAPABILITY',
                      help='what the robot needs besides; may be given several times')
    made.add_argument('--priority', type=bringup.within(int, 0, 255), default=0, metavar='0..255',
                      help='255 is the most urgent (default: %(default)s)')
    made.add_argument('--attempts', type=bringup.within(int, 1, 100), default=3, metavar='1..100',
                      help='it has failed after so many (default: %(default)s)')
    made.add_argument('--deadline', type=bringup.within(float, 0, 2592000), default=0.0, metavar='SECONDS',
                      help='it fails if it has not ended by then; 0: no deadline')
    made.add_argument('--wait', action='store_true', help='wait for its end and print its result')
    made = add('devices', devices, 'muster devices --robot robot_1 --type camera')
    for name in ('type', 'bus', 'capability'):
        made.add_argument(f'--{name}', default='', help=f'only devices of this {name}')
    made = add('models', models, 'muster models --robot robot_1 --save monday')
    made.add_argument('--name', default='', help='only versions of this name')
    made.add_argument('--save', nargs='?', const='', metavar='NAME',
                      help='save what the robot has learned as a new version first')
    made.add_argument('--activate', metavar='MODEL',
                      help="act by this first: a version, a name, 'latest' or 'champion'")
    made.add_argument('--rollback', action='store_true', help='go back to the champion before first')
    _limit(made)
    made = add('events', events, 'muster events --robot robot_1 --since 120')
    made.add_argument('--since', type=bringup.within(int, 0, 2**64 - 1), default=0,
                      metavar='REVISION', help='first revision shown')
    _limit(made)
    return top


def _train(made: argparse.ArgumentParser) -> None:
    made.add_argument('--config', required=True, metavar='FILE',
                      help='specification; also one of those in share/muster/config/learning')
    made.add_argument('--environment', default='', metavar='ID',
                      help='a Gymnasium environment with the same elements and actions, as '
                           'package.module:Name-v0 (default: the simulated world)')
    made.add_argument('--steps', type=bringup.within(int, 1, 10**9), default=100_000, metavar='N',
                      help='control cycles (default: %(default)s)')
    made.add_argument('--seed', type=bringup.within(int, 0, 2**31 - 1), default=1, metavar='N',
                      help='fixes the agent and the worlds it learns in (default: %(default)s)')
    made.add_argument('--robot', default=bringup.default_robot(), metavar='NAME',
                      help='whose store gets the model (default: %(default)s)')
    made.add_argument('--models', type=Path, metavar='DIR',
                      help="store of the models (default: that of the robot's node)")
    made.add_argument('--name', default='trained', metavar='NAME',
                      help='name of the model (default: %(default)s)')
    made.add_argument('--checks', type=bringup.within(int, 0, 1000), default=10, metavar='N',
                      help='tests on the way in the simulated world; the best state is kept; '
                           '0: the last (default: %(default)s)')
    made.add_argument('--evaluate', type=bringup.within(int, 0, 100_000), default=200, metavar='N',
                      help='starts in unseen worlds at the end; 0: none (default: %(default)s)')
    made.add_argument('--plot', type=Path, metavar='FILE', help='draw the learning curve into this PNG')
    made.add_argument('--list', action='store_true',
                      help="show the agent's hyper-parameters, each of them an option too, and train nothing")


def _limit(made: argparse.ArgumentParser) -> None:
    made.add_argument('--limit', type=bringup.within(int, 1, 1000), default=100, metavar='1..1000',
                      help='at most so many (default: %(default)s)')


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 1 where it failed, 2 where it was not understood."""
    command_line = parser()
    args = sys.argv[1:] if args is None else args
    if any('\udc80' <= letter <= '\udcff' for letter in ''.join(args)):
        command_line.error('an argument is not UTF-8')
    options, others = command_line.parse_known_args(args)
    options.arguments = others
    if others and options.act not in (demo, train):
        command_line.error(f'unknown argument: {" ".join(others)}')
    try:
        shown = options.act(options)
    except Failure as failure:
        print(f'muster: {failure}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if isinstance(shown, Table):
        Console().print(shown)
        return 0
    return int(shown or 0)


if __name__ == '__main__':
    sys.exit(main())
