# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The Python API of the cluster: coordinators in this process are real members of a real cluster."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import subprocess
import sys
from typing import Any

from muster.cluster import create_cluster_coordinator
from muster.cluster.client import RequestRefused
from muster.cluster.coordinator import ClusterCoordinator
from processes import reserved_domain, wait_until
import pytest

READY = 60.0


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ClusterCoordinator]]:
    """Give a function that makes coordinators in one ROS domain; all are stopped afterwards."""
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    made: list[ClusterCoordinator] = []
    with reserved_domain() as domain:
        def create(name: str, **arguments: Any) -> ClusterCoordinator:
            made.append(create_cluster_coordinator(
                node_id=name, data_directory=str(tmp_path / name), domain_id=domain, **arguments))
            return made[-1]
        yield create
        for coordinator in made:
            coordinator.stop()


@pytest.mark.processes
def test_two_coordinators_are_one_cluster(make: Callable[..., ClusterCoordinator]) -> None:
    first, second = make('a'), make('b')
    with pytest.raises(RuntimeError, match="'a' does not take part in a cluster: start it first"):
        first.acquire_lock('dock')
    events: list[dict[str, Any]] = []
    first.on_event('lock_acquired', events.append)
    with pytest.raises(ValueError, match="there is no event 'lunch': lock_acquired, "):
        first.on_event('lunch', events.append)
    assert first.start(READY) and first.start()
    assert second.start(READY)
    assert (first.node_id, second.node_id) == ('a', 'b')
    wait_until(lambda: {first.get_cluster_status()['total_nodes'],
                        second.get_cluster_status()['total_nodes']} == {2}, READY, 'both are members')
    wait_until(lambda: {first.get_cluster_status()['leader'],
                        second.get_cluster_status()['leader']} == {'a'}, READY, 'both know their leader')

    assert first.acquire_lock('dock', timeout=READY)
    assert not second.acquire_lock('dock', timeout=0.5)
    assert not first.acquire_lock('dock')
    assert first.release_lock('dock') and not first.release_lock('dock')
    assert second.acquire_lock('dock', timeout=READY)
    wait_until(lambda: len(events) == 2, READY, 'both grants are told')
    assert [(e['subject'], e['owner'], e['type']) for e in events] == [
        ('dock', 'a', 'lock_acquired'), ('dock', 'b', 'lock_acquired')]

    second.registry.register_service('a', 'map', metadata={'port': 80})
    wait_until(lambda: first.registry.find_service('map'), READY, 'it is found')
    service, = first.registry.find_service('map')
    assert (service.robot, service.metadata) == ('a', {'port': 80})
    assert [s.name for s in second.registry.get_node_services('a')] == ['map']
    first.registry.unregister_service('a', 'map')
    with pytest.raises(RequestRefused, match="robot 'a' has no service 'map'"):
        first.registry.unregister_service('a', 'map')

    first.add_capability('arm')
    wait_until(lambda: first.get_cluster_status()['nodes']['a']['capabilities'] == ['arm'], READY, 'the arm')
    first.remove_capability('arm')
    task = second.submit_task(task_type='sweep', payload={'room': 1})
    assert second.get_task_status(task) == 'waiting'
    second.stop()
    second.stop()
    assert first.acquire_lock('dock', timeout=15.0), 'given back at the stop, long before its lease ends'


@pytest.mark.processes
def test_a_lone_coordinator_leads_and_remembers(make: Callable[..., ClusterCoordinator]) -> None:
    with make('solo') as alone:
        assert alone.get_cluster_status()['role'] == 'leader'
        alone.registry.register_service('solo', 'map')
        twin = make('solo')
        with pytest.raises(RuntimeError, match=r"'solo' could not begin: the data directory"):
            twin.start()
    with make('solo') as again:
        wait_until(lambda: again.registry.find_service('map'), READY, 'what was stored is there')


def test_names_and_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="node_id 'a b' must be letters"):
        create_cluster_coordinator(node_id='a b')
    with pytest.raises(AttributeError, match='create_coordinator'):
        from muster import cluster
        cluster.create_coordinator                          # noqa: B018


def test_the_core_needs_no_ros() -> None:
    program = ('import muster.cluster, muster.cluster.client, muster.cluster.execution, sys\n'
               'import muster.cluster.client.requests, muster.cluster.client.lease\n'
               'assert "rclpy" not in sys.modules and "muster_interfaces" not in sys.modules')
    subprocess.run([sys.executable, '-c', program], check=True, timeout=READY)
