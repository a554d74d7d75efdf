# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Every message, service and action is importable, commented, shaped alike, and served by a node."""
from __future__ import annotations

from importlib import import_module
from pathlib import Path
import re
from typing import Any

from processes import Graph
import pytest

ROOT = Path(__file__).resolve().parents[2] / 'src' / 'muster_interfaces'
FILES = sorted([*ROOT.glob('msg/*.msg'), *ROOT.glob('srv/*.srv'), *ROOT.glob('action/*.action')])
SERVICES = [path for path in FILES if path.suffix == '.srv']
#: A field needs no comment where its meaning is the same in every type.
CONVENTIONAL = {'stamp', 'success', 'message'}
FIELD = re.compile(r'^(?P<type>[\w/\[\]<>=]+) (?P<name>[a-z][a-z0-9_]*)\s*(?:#(?P<comment>.*))?$')
CONSTANT = re.compile(r'^(?P<type>u?int\d+) (?P<name>[A-Z][A-Z0-9_]*)=(?P<value>\d+)\s*(?:#.*)?$')
#: The names of the design, per node.
SERVED = {
    'cluster': {'acquire_lock': 'AcquireLock', 'renew_lock': 'RenewLock', 'release_lock': 'ReleaseLock',
                'list_locks': 'ListLocks', 'get_status': 'GetClusterStatus', 'list_events': 'ListEvents',
                'register_service': 'RegisterService', 'unregister_service': 'UnregisterService',
                'find_services': 'FindServices', 'set_capabilities': 'SetCapabilities',
                'submit_task': 'SubmitTask', 'cancel_task': 'CancelTask', 'get_task': 'GetTask',
                'list_tasks': 'ListTasks', 'change_membership': 'ChangeMembership',
                'transfer_leadership': 'TransferLeadership', 'open_session': 'OpenSession'},
    'learning': {'set_mode': 'SetLearningMode', 'save_model': 'SaveModel', 'activate_model': 'ActivateModel',
                 'list_models': 'ListModels', 'rollback_model': 'RollbackModel',
                 'get_model_chunk': 'GetModelChunk', 'consolidate': 'Consolidate'},
    'hardware': {'list_devices': 'ListDevices', 'get_device': 'GetDevice',
                 'negotiate_capabilities': 'NegotiateCapabilities', 'reserve_device': 'ReserveDevice',
                 'release_device': 'ReleaseDevice'},
}
TRIGGERED = {'learning': ('pause', 'reset', 'rearm'), 'hardware': ('scan',)}
PUBLISHED = {'cluster/status': 'ClusterStatus', 'cluster/events': 'ClusterEvent', 'cluster/tasks': 'TaskInfo',
             'learning/status': 'LearningStatus', 'learning/episodes': 'Episode', 'learning/action': 'Action',
             'hardware/devices': 'DeviceArray', 'hardware/events': 'DeviceEvent'}


def identity(path: Path) -> str:
    """Return the name of a type."""
    return path.stem


def lines(text: str) -> list[str]:
    """Return the lines that declare something."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith('#')]


def imported(path: Path) -> Any:
    """Return the generated class."""
    return getattr(import_module(f'muster_interfaces.{path.suffix[1:]}'), path.stem)


@pytest.mark.parametrize('path', FILES, ids=identity)
def test_the_type_is_importable_and_complete(path: Path) -> None:
    generated = imported(path)
    names = {'.srv': ['Request', 'Response'], '.action': ['Goal', 'Result', 'Feedback']}.get(path.suffix)
    parts = [getattr(generated, name) for name in names] if names else [generated]
    for part, text in zip(parts, path.read_text().split('---\n'), strict=True):
        fields = [match['name'] for line in lines(text) if (match := FIELD.match(line))]
        assert list(part.get_fields_and_field_types()) == fields


@pytest.mark.parametrize('path', FILES, ids=identity)
def test_the_type_and_every_field_are_commented(path: Path) -> None:
    text = path.read_text()
    assert text.startswith('# '), 'the purpose comes first'
    for line in lines(text.replace('---\n', '')):
        field = FIELD.match(line)
        assert field or CONSTANT.match(line), f'not understood: {line}'
        if field and field['name'] not in CONVENTIONAL:
            assert (field['comment'] or '').strip(), f'no comment: {line}'


@pytest.mark.parametrize('path', FILES, ids=identity)
def test_constants_stand_for_different_values_of_a_field(path: Path) -> None:
    groups: list[list[re.Match[str]]] = [[]]     # the constants of a field stand before it
    for line in lines(path.read_text()):
        constant = CONSTANT.match(line)
        if constant:
            groups[-1].append(constant)
        elif groups[-1]:
            groups.append([])
    for constants in groups:
        assert len({match['value'] for match in constants}) == len(constants)
        assert {match['type'] for match in constants} <= {'uint8', 'uint16'}


@pytest.mark.parametrize('path', SERVICES, ids=identity)
def test_every_response_begins_alike(path: Path) -> None:
    fields = list(imported(path).Response.get_fields_and_field_types().items())
    assert fields[:3] == [('success', 'boolean'), ('error_code', 'uint16'), ('message', 'string')]


@pytest.mark.processes
@pytest.mark.timeout(180)
def test_the_nodes_serve_every_service_under_the_name_of_the_design(graph: Graph) -> None:
    for node, names in SERVED.items():
        for name, kind in names.items():
            assert graph.services.get(f'/robot_1/{node}/{name}') == [f'muster_interfaces/srv/{kind}']
    for node, triggers in TRIGGERED.items():
        for name in triggers:
            (kind,) = graph.services.get(f'/robot_1/{node}/{name}', ['none'])
            assert kind in ('std_srvs/srv/Trigger', 'std_srvs/srv/SetBool')
    assert {kind for names in SERVED.values() for kind in names.values()} == {p.stem for p in SERVICES}


@pytest.mark.processes
@pytest.mark.timeout(180)
def test_the_nodes_publish_every_topic_of_the_design(graph: Graph) -> None:
    for name, kind in PUBLISHED.items():
        assert graph.topics.get(f'/robot_1/{name}') == [f'muster_interfaces/msg/{kind}']
    assert {f'/robot_1/{name}' for name in PUBLISHED} <= graph.published
    assert '/diagnostics' in graph.published
