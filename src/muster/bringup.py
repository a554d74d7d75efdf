# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Start and supervise the nodes of one robot without the package `launch` (`muster up`).

Each node is a process in a session of its own, so that Ctrl-C in a terminal reaches the supervisor
alone, which then ends the group in order. Should the supervisor itself be killed, the kernel sends
each node SIGTERM (prctl(2), PR_SET_PDEATHSIG): SIGKILL would leave no chance to make the outputs
safe. The supervisor imports neither ROS nor NumPy; what needs them is checked in `preflight`.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
import contextlib
import ctypes
import os
from pathlib import Path
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from ament_index_python.packages import get_package_share_directory, PackageNotFoundError
from muster.supervision import Start, Supervisor

NODES = ('cluster', 'learning', 'hardware')
LOG_LEVELS = ('debug', 'info', 'warn', 'error', 'fatal')
#: Highest ROS domain id for which UDP has ports (ROS 2 documentation, "The ROS_DOMAIN_ID").
MAX_DOMAIN = 232
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_prctl = ctypes.CDLL(None, use_errno=True).prctl


# What both `muster up` and the launch files need ----------------------------------------------
def default_robot() -> str:
    """Return this machine's name as a robot's name: unique in a fleet without any set-up."""
    name = re.sub(r'[^A-Za-z0-9_]', '_', socket.gethostname().split('.')[0])[:57]
    return name if name[:1].isalpha() else f'robot_{name}'


def default_params() -> Path:
    """Return the configuration file that is installed with the package."""
    return Path(get_package_share_directory('muster')) / 'config' / 'robot.yaml'


def parse_nodes(text: str) -> tuple[str, ...]:
    """Return the nodes named in `text`, separated by spaces or commas; raise ValueError."""
    names = tuple(dict.fromkeys(text.replace(',', ' ').split()))
    unknown = [name for name in names if name not in NODES]
    if unknown or not names:
        raise ValueError(f"unknown node '{' '.join(unknown) or text}'; choose from: {' '.join(NODES)}")
    return names


def founders(members: Iterable[str]) -> dict[str, Any]:
    """Return the parameters of robots that found a cluster together, as a parameter file."""
    return {'/**/cluster': {'ros__parameters': {'bootstrap': 'members', 'members': list(members)}}}


# The command ----------------------------------------------------------------------------------
def checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return `parse` as a type of argparse that shows the message of its ValueError."""
    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return convert


def within(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], Any]:
    """Return a type of argparse: a number of `kind` within low..high."""
    def parse(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if low <= (number := kind(text)) <= high:
                return number
        raise ValueError(f"'{text}' is not within {low}..{high}")
    return checked(parse)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `muster up`."""
    parser.add_argument('--robot', default=default_robot(), metavar='NAME',
                        help='name of this robot and its ROS namespace (default: %(default)s)')
    parser.add_argument('--params', type=Path, metavar='FILE',
                        help='parameter file (default: config/robot.yaml of the package)')
    parser.add_argument('--nodes', type=checked(parse_nodes), default=NODES, metavar='LIST',
                        help=f'which nodes, separated by commas (default: {",".join(NODES)})')
    parser.add_argument('--composed', action='store_true', help='all nodes in one process')
    parser.add_argument('--data', default='', metavar='DIR',
                        help='keep durable data in DIR/<robot> (default: $MUSTER_HOME, else '
                        '~/.local/state/muster)')
    parser.add_argument('--domain', type=within(int, 0, MAX_DOMAIN), metavar='ID',
                        help='ROS domain id (default: $ROS_DOMAIN_ID)')
    parser.add_argument('--log-level', choices=LOG_LEVELS, default='info',
                        help='least severe messages to show (default: %(default)s)')


def up(options: argparse.Namespace) -> int:
    """
    Bring this machine up as one robot, until Ctrl-C.

    Returns the exit code: 0 after SIGINT, SIGTERM or SIGHUP, 2 where an argument was refused.
    """
    try:
        params = options.params or default_params()
    except PackageNotFoundError:
        sys.exit("muster: this package is not built or not sourced: run 'colcon build' and "
                 "'source install/setup.bash', or 'make shell' in a clone")
    preflight = subprocess.run([sys.executable, '-m', 'muster.preflight', options.robot, str(params)])
    if preflight.returncode:
        return preflight.returncode
    if options.domain is not None:
        os.environ['ROS_DOMAIN_ID'] = str(options.domain)
    if options.data:
        os.environ['MUSTER_HOME'] = str(Path(options.data).expanduser().absolute())
    arguments = ['--ros-args', '-r', f'__ns:=/{options.robot}', '--log-level', options.log_level,
                 '--params-file', str(params)]
    supervise(commands(options.nodes, options.composed, arguments), options.robot)
    return 0


def commands(nodes: Iterable[str], composed: bool, arguments: list[str]) -> dict[str, list[str]]:
    """Return the command line of each process by its name."""
    python = [sys.executable, '-m']
    if composed:
        return {'nodes': [*python, 'muster.composed', *nodes, *arguments]}
    return {node: [*python, f'muster.{node}.node', *arguments] for node in nodes}


def supervise(commands: dict[str, list[str]], robot: str) -> None:
    """
    Keep a process running for each command until a signal ends the group.

    Signals are not handled but waited for (sigtimedwait(2)): one thread, no polling, and nothing
    runs at an arbitrary point of the program.
    """
    watched = {*STOP_SIGNALS, signal.SIGCHLD}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        watched.discard(signal.SIGHUP)  # started by nohup
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    supervisor = Supervisor(commands, time.monotonic())
    running: dict[str, subprocess.Popen[bytes]] = {}
    say(f'{robot}: {", ".join(commands)}. Ctrl-C ends')
    while not supervisor.finished:
        effects = supervisor.advance(time.monotonic())
        wait = min(max(0.0, supervisor.next_deadline() - time.monotonic()), 3600.0)
        if not effects:
            received = signal.sigtimedwait(watched, wait)
            if received and received.si_signo in STOP_SIGNALS:
                say(f'{signal.Signals(received.si_signo).name}: ending')
                effects = supervisor.stop(time.monotonic())
        for effect in effects:
            if isinstance(effect, Start):
                running[effect.name] = spawn(commands[effect.name])
            else:
                os.killpg(running[effect.name].pid, effect.number)
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                report(name, process.returncode, supervisor.exited(name, time.monotonic()))


def spawn(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own that ends with this one."""
    parent = os.getpid()

    def prepare() -> None:  # runs in the child, before the command
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before it could be watched
            os._exit(1)
        # What ends a node waits until it is ready to end cleanly; `ros.main.run` lets it through.
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGINT, signal.SIGTERM})

    # `preexec_fn` is unsafe where other threads hold locks; this process has only one thread.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=prepare)


def report(name: str, code: int, delay: float | None) -> None:
    """Say how a process ended and what comes next."""
    how = f'killed by {signal.Signals(-code).name}' if code < 0 else f'ended with code {code}'
    if delay is not None:
        say(f'{name} {how}; it starts again in {delay:g} s')
    elif code:
        say(f'{name} {how}')


def say(text: str) -> None:
    """Print a line of the supervisor between those of the nodes."""
    print(f'[muster] {text}', file=sys.stderr, flush=True)
