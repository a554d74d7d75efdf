# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A managed node survives what goes wrong in its steps, and goes up and down in order."""
from __future__ import annotations

from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from muster.ros import qos
from muster.ros.node import ConfigurationError
from processes import Fleet, wait_until
import pytest
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from sample import Sample
from std_msgs.msg import String

Make = Callable[..., Sample]
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def state(node: Sample) -> str:
    """Return the lifecycle state."""
    label: str = node._state_machine.current_state[1]
    return label


def test_autostart_goes_to_active_and_stop_down_again(make: Make) -> None:
    node = make()
    node.start()
    assert node.is_active
    node.stop()
    assert node.steps == ['configure', 'activate', 'deactivate', 'release']
    assert not node.is_active


def test_without_autostart_the_operator_decides(make: Make) -> None:
    node = make('-p', 'autostart:=false')
    node.start()
    assert state(node) == 'unconfigured'
    assert node.steps == []
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert node.is_active


@pytest.mark.parametrize('error', [ConfigurationError('no such file'), ZeroDivisionError('by zero')])
def test_a_failed_configure_releases_and_can_be_repeated(make: Make, error: Exception) -> None:
    node = make()
    node.broken['configure'] = error
    node.start()
    assert state(node) == 'unconfigured'
    assert node.steps == ['configure', 'release']
    assert str(error) in node.failure
    node.broken.clear()
    node.start()
    assert node.is_active
    assert node.failure == ''


def test_a_failed_activate_stays_inactive_and_can_be_repeated(make: Make) -> None:
    node = make()
    node.broken['activate'] = RuntimeError('not yet')
    node.start()
    assert state(node) == 'inactive'
    assert 'not yet' in node.failure
    node.broken.clear()
    assert node.trigger_activate() == SUCCESS


def test_a_failed_deactivate_still_deactivates(make: Make) -> None:
    node = make()
    node.start()
    node.broken['deactivate'] = RuntimeError('stuck')
    assert node.trigger_deactivate() == SUCCESS
    assert state(node) == 'inactive'
    assert 'stuck' in node.failure


def test_the_whole_cycle_can_be_repeated(make: Make) -> None:
    node = make()
    for _ in range(3):
        for step in (node.trigger_configure, node.trigger_activate, node.trigger_deactivate,
                     node.trigger_cleanup):
            assert step() == SUCCESS
    assert node.steps == ['configure', 'activate', 'deactivate', 'release'] * 3
    assert state(node) == 'unconfigured'


@pytest.mark.parametrize('depth', [0, 1, 2])
def test_shutdown_is_possible_from_every_state(make: Make, depth: int) -> None:
    node = make()
    for step in (node.trigger_configure, node.trigger_activate)[:depth]:
        step()
    assert node.trigger_shutdown() == SUCCESS
    assert state(node) == 'finalized'
    assert node.steps[-1] == 'release'
    assert ('deactivate' in node.steps) == (depth == 2)


def test_work_is_run_while_the_node_spins_and_dropped_afterwards(make: Make) -> None:
    """A thread of the node may have something to say while the node goes down."""
    node, done = make(), []
    node.run_soon(lambda: done.append('nobody spins it yet'))
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    node.run_soon(lambda: done.append('spun'))
    executor.spin_once(timeout_sec=5)
    executor.shutdown()
    node.run_soon(lambda: done.append('too late'))
    assert done == ['spun']


def test_two_namespaces_do_not_meet(make: Make) -> None:
    first, second = make(), make(namespace='robot_2')
    first.start()
    second.start()
    assert [node.robot for node in (first, second, make(namespace=''))] == ['robot_1', 'robot_2', 'robot']
    assert [node.words.topic_name for node in (first, second)] == ['/robot_1/words', '/robot_2/words']


@pytest.mark.processes
def test_words_before_deactivation_and_diagnostics_arrive(fleet: Fleet) -> None:
    probe = fleet.probe
    words = probe.listen(String, '/robot_1/words', qos.STATUS)
    reports = probe.listen(DiagnosticArray, '/diagnostics', 10)
    node = Sample(context=probe.context, namespace='robot_1')
    try:
        node.start()
        wait_until(lambda: words, 20, 'the first word')
        assert words[-1].data == 'active'

        def own() -> DiagnosticStatus | None:
            node.publish_diagnostics()
            return next((s for s in reports[-1].status), None) if reports else None
        status = wait_until(own, 20, 'diagnostics')
        assert (status.name, status.level, status.message, status.hardware_id) == \
            ('/robot_1/sample: lifecycle', DiagnosticStatus.OK, 'active', 'robot_1')
        node.trigger_deactivate()
        wait_until(lambda: words[-1].data == 'the last word', 20, 'the last word')
        node.trigger_cleanup()
        node.broken['configure'] = ConfigurationError('the disk is full')
        node.trigger_configure()
        reports.clear()
        wait_until(lambda: (s := own()) and s.message == 'the disk is full'
                   and s.level == DiagnosticStatus.ERROR, 20, 'the failure in the diagnostics')
    finally:
        node.destroy_node()


@pytest.mark.processes
def test_a_node_with_a_thread_for_its_diagnostics_needs_no_executor_for_them(fleet: Fleet) -> None:
    reports = fleet.probe.listen(DiagnosticArray, '/diagnostics', 10)
    node = Sample(context=fleet.probe.context, namespace='robot_1', concerns_in_thread=True)
    try:
        wait_until(lambda: len(reports) > 1, 20, 'diagnostics')
        assert node.executor is None and reports[-1].status[0].message == 'unconfigured'
    finally:
        node.destroy_node()
    assert node._beat is not None and not node._beat.is_alive()
