# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The main program of every executable: spin nodes until SIGINT or SIGTERM, then end cleanly."""
from __future__ import annotations

from collections.abc import Callable
import signal
import sys
import threading

from muster.ros import interfaces as interfaces  # noqa: F401 (first: it explains missing types)
from muster.ros.middleware import avoid_shared_memory
from muster.ros.node import ManagedNode
import rclpy
from rclpy.exceptions import InvalidHandle, NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(*factories: Callable[[], ManagedNode], args: list[str] | None = None) -> None:
    """
    Run one node for each factory, each on an executor and thread of its own; exit 0 on a signal.

    rclpy's own signal handlers invalidate the context at once, and then nothing can be published
    any more. Here the context outlives the signal, so that nodes can make their outputs safe.
    """
    stop = threading.Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # a supervisor blocks them until here
    avoid_shared_memory(whole_process=True)
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # a remapping, parameter or file that rcl could not read
        sys.exit(f'muster: the ROS arguments were refused: {error}')
    others = remove_ros_args(args)[args is None:]  # the program's name comes first in sys.argv
    if others:
        sys.exit(f'muster: unknown arguments: {" ".join(others)}; ROS arguments stand behind --ros-args')
    nodes: list[ManagedNode] = []
    try:
        for factory in factories:
            nodes.append(factory())
        spin(nodes, stop)
    except NameValidationException as error:  # of a namespace, node or topic
        sys.exit(f'muster: {" ".join(str(error).split())}. Use letters, digits and underscores, '
                 'beginning with a letter')
    finally:
        for node in reversed(nodes):
            node.destroy_node()
        rclpy.try_shutdown()
        # Python restores the default actions when it ends: a second Ctrl-C would then kill it.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def spin(nodes: list[ManagedNode], stop: threading.Event) -> None:
    """Spin each node in a thread until `stop` is set or a spinning thread dies."""
    executors = [SingleThreadedExecutor() for _ in nodes]
    failures: list[BaseException] = []

    def own(executor: SingleThreadedExecutor) -> None:
        try:
            executor.spin()
        except BaseException as error:  # the main thread raises it again
            if stop.is_set() and isinstance(error, InvalidHandle):
                return  # rclpy ends an executor by taking from it what its last callback still triggers
            failures.append(error)
            stop.set()

    threads = []
    for executor, node in zip(executors, nodes, strict=True):
        executor.add_node(node)
        executor.create_task(node.start)
        threads.append(threading.Thread(target=own, args=[executor], name=node.get_name()))
    for thread in threads:
        thread.start()
    stop.wait()
    for executor in executors:
        executor.shutdown(timeout_sec=0)
    for thread in threads:
        thread.join()
    for node in reversed(nodes):
        try:
            node.stop()
        except Exception as error:  # the others are made safe too, and what came first is told
            failures.append(error)
    if failures:
        raise failures[0]
