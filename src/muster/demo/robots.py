# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The processes of the demo: one `muster up` for each robot, and the simulated world."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import signal
import subprocess
import sys

from muster.bringup import default_params
import psutil
import yaml

#: Domains that the demo may take; tests use lower ones.
DOMAINS = range(70, 90)
#: Seconds in which a robot must have ended after SIGINT.
END_TIMEOUT = 20.0


class Robots:
    """Three robots and a world, each node a process of its own."""

    def __init__(self, names: tuple[str, ...], folder: Path, domain: int) -> None:
        """Write the configuration; nothing is started yet."""
        self.names, self.folder = names, folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        os.environ |= {'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
                       'ROS_LOG_DIR': str(folder / 'log'), 'OPENBLAS_NUM_THREADS': '1'}
        parameters = yaml.safe_load(default_params().read_text())
        parameters['/**/cluster']['ros__parameters'] |= {'bootstrap': 'members', 'members': list(names)}
        self._parameters = folder / 'robot.yaml'
        self._parameters.write_text(yaml.safe_dump(parameters))

    def start(self) -> None:
        """Start the world and every robot."""
        self._start('world', '-m', 'muster.simulation.node', '--ros-args',
                    '-p', f'robots:=[{",".join(self.names)}]', '-p', "virtual_devices:=['lidar']")
        for name in self.names:
            self._start(name, '-m', 'muster.cli', 'up', '--robot', name, '--params',
                        str(self._parameters), '--data', str(self.folder / 'data'))

    def models(self, robot: str) -> Path:
        """Return where a robot keeps its models."""
        return self.folder / 'data' / robot / 'models'

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f'{name}.txt').open('wb') as output:
            self._running[name] = subprocess.Popen(
                [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True)

    def node(self, robot: str, node: str) -> psutil.Process | None:
        """Return the process of one node of a robot, None where it does not run."""
        module = f'muster.{node}.node'
        supervisor = psutil.Process(self._running[robot].pid)
        return next((child for child in supervisor.children(recursive=True)
                     if module in child.cmdline()), None)

    def processes(self) -> int:
        """Return how many node processes run."""
        nodes = [self.node(robot, node) for robot in self.names
                 for node in ('cluster', 'learning', 'hardware')]
        return sum(1 for node in nodes if node is not None)

    def end(self) -> dict[str, int]:
        """Ask all to end; return their exit codes, negative where force was needed."""
        for process in self._running.values():
            process.send_signal(signal.SIGINT)
        codes = {}
        for name, process in self._running.items():
            try:
                codes[name] = process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = -signal.SIGKILL
        self._running.clear()
        return codes


@contextmanager
def reserved_domain() -> Iterator[int]:
    """Reserve a ROS domain for this demo, so that two on one machine do not meet."""
    import socket
    for domain in DOMAINS:
        guard = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            guard.bind(f'\0muster-demo-domain-{domain}')  # abstract: vanishes with the process
        except OSError:
            guard.close()
            continue
        with guard:
            yield domain
        return
    sys.exit(f'muster demo: all ROS domains {DOMAINS.start}..{DOMAINS.stop - 1} are taken by other demos')
