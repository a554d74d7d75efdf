# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Members and services of the replicated state."""
from __future__ import annotations

from hypothesis import given, strategies as st
from muster.cluster.raft.configuration import Configuration
from muster.cluster.raft.types import Kind, Member
from muster.cluster.state import members as members_module, registry as registry_module
from muster.cluster.state.commands import Code, Health, Register, SetCapabilities, SetHealth, Unregister
import pytest
from state_fleet import Fleet, SECOND


def names(fleet: Fleet, **terms: str) -> list[tuple[str, str]]:
    """Return robot and name of the services that are found."""
    return [(service.robot, service.name) for service in fleet.machine.registry.find(**terms)]


def test_services_are_found_by_all_that_is_asked_for() -> None:
    fleet = Fleet('r1', 'r2')
    fleet.do(Register('r1', 'map', 'map_server', ('maps', 'floor'), '{"a": 1}', 0))
    fleet.do(Register('r2', 'map', 'map_server', ('maps',), '{}', 0))
    fleet.do(Register('r2', 'arm', 'driver', (), '{}', 0))
    assert fleet.happened == ['SERVICE_REGISTERED']
    assert (fleet.last.events[0].subject, fleet.last.events[0].member) == ('arm', 'r2')
    assert names(fleet) == [('r2', 'arm'), ('r1', 'map'), ('r2', 'map')]
    assert names(fleet, name='map') == names(fleet, type='map_server') == names(fleet, capability='maps')
    assert names(fleet, capability='floor') == [('r1', 'map')]
    assert names(fleet, robot='r2', name='map') == [('r2', 'map')]
    assert names(fleet, robot='r2', capability='floor') == names(fleet, name='none') == []


def operation_robot(operation: Register | SetCapabilities | SetHealth) -> str:
    """Return the robot that an operation is about."""
    return operation.member if isinstance(operation, SetHealth) else operation.robot


TERMS = st.sampled_from(('', 'a', 'b'))


@given(st.lists(st.tuples(st.sampled_from(('r1', 'r2')), st.sampled_from('ab'), TERMS,
                          st.sets(st.sampled_from('ab')), st.booleans()), max_size=20),
       TERMS, TERMS, TERMS, st.sampled_from(('', 'r1', 'r2')))
def test_the_indexes_find_what_a_search_finds(
        changes: list[tuple[str, str, str, set[str], bool]], name: str, kind: str, capability: str,
        robot: str) -> None:
    fleet = Fleet('r1', 'r2')
    for owner, called, type_, capabilities, there in changes:
        fleet.do(Register(owner, called, type_, tuple(sorted(capabilities)), '{}', 0) if there
                 else Unregister(owner, called))
    registry = fleet.machine.registry
    assert registry.find(name, kind, capability, robot) == [
        s for s in registry.find() if name in ('', s.name) and kind in ('', s.type)
        and (not capability or capability in s.capabilities) and robot in ('', s.robot)]
    for owner in ('r1', 'r2'):
        registry.drop(owner)
    assert not registry._index          # nothing is left behind


def test_a_service_goes_with_its_time_to_live_unless_it_registers_again() -> None:
    fleet = Fleet('r1')
    fleet.do(Register('r1', 'map', '', (), '{}', 4 * SECOND))
    fleet.do(Register('r1', 'stays', '', (), '{}', 0))
    assert fleet.machine.clock_interval() is not None
    assert fleet.wait(3 * SECOND) == []
    fleet.do(Register('r1', 'map', '', (), '{}', 4 * SECOND))
    assert fleet.wait(3 * SECOND) == []
    assert fleet.wait(SECOND) == ['SERVICE_REMOVED']
    assert names(fleet) == [('r1', 'stays')]
    assert fleet.machine.clock_interval() is None


def test_unregistering_what_is_not_there_is_refused() -> None:
    fleet = Fleet('r1')
    fleet.do(Register('r1', 'map', '', (), '{}', 0))
    assert fleet.do(Unregister('r1', 'map')).code == Code.OK
    assert fleet.happened == ['SERVICE_REMOVED']
    answer = fleet.do(Unregister('r1', 'map'))
    assert answer.code == Code.NOT_FOUND and "'map'" in answer.message


def test_only_members_announce_anything() -> None:
    fleet = Fleet('r1')
    for operation in (Register('r9', 'map', '', (), '{}', 0), SetCapabilities('r9', ('a',), (), 0),
                      SetHealth('r9', 1, Health.DEAD), SetHealth('r1', 2, Health.DEAD)):
        answer = fleet.do(operation)
        assert (answer.code == Code.NOT_FOUND and 'r9' in answer.message) or 'r1' in answer.message
    assert fleet.machine.members['r1'].health == Health.ALIVE


def test_registry_and_capabilities_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, 'MAX_SERVICES', 3)
    monkeypatch.setattr(registry_module, 'MAX_ROBOT_SERVICES', 2)
    monkeypatch.setattr(members_module, 'MAX_ROBOT_CAPABILITIES', 2)
    fleet = Fleet('r1', 'r2')
    codes = [fleet.do(Register(robot, name, '', (), '{}', 0)).code
             for robot, name in zip(('r1', 'r1', 'r1', 'r2', 'r2', 'r1'), 'abcaba', strict=True)]
    assert codes == [Code.OK, Code.OK, Code.BUSY, Code.OK, Code.BUSY, Code.OK]
    assert fleet.do(SetCapabilities('r1', ('a', 'b'), (), 0)).code == Code.OK
    assert fleet.do(SetCapabilities('r1', ('c',), (), 0)).code == Code.BUSY
    assert fleet.do(SetCapabilities('r1', ('c',), ('a',), 0)).code == Code.OK
    assert fleet.machine.members['r1'].capabilities == {'b', 'c'}


def test_capabilities_and_capacity_are_set() -> None:
    fleet = Fleet('r1')
    assert fleet.machine.members['r1'].capacity == 4
    fleet.do(SetCapabilities('r1', ('arm', 'task:lift'), (), 2))
    assert fleet.happened == ['CAPABILITIES_CHANGED'] and fleet.last.events[0].subject == 'r1'
    fleet.do(SetCapabilities('r1', ('arm',), ('none',), 0))
    assert fleet.happened == []         # nothing changed
    robot = fleet.machine.members['r1']
    assert (robot.capabilities, robot.capacity, robot.running) == ({'arm', 'task:lift'}, 2, 0)


def test_a_dead_robot_loses_what_it_announced_and_gets_it_to_announce_again() -> None:
    fleet = Fleet('r1', 'r2')
    announced = [Register('r1', 'arm', 't', ('c',), '{}', 9 * SECOND), Register('r1', 'map', '', (), '{}', 0),
                 SetCapabilities('r1', ('arm', 'task:lift'), (), 2)]
    for operation in announced:
        fleet.do(operation)
    fleet.do(Register('r2', 'map', '', (), '{}', 0))
    assert fleet.health('r1', Health.SUSPECT) == ['MEMBER_SUSPECT'] and fleet.last.orphaned == []
    assert fleet.health('r1', Health.SUSPECT) == []
    assert fleet.health('r1', Health.DEAD) == [
        'MEMBER_DEAD', 'SERVICE_REMOVED', 'SERVICE_REMOVED', 'CAPABILITIES_CHANGED']
    assert fleet.last.orphaned == announced
    assert names(fleet) == [('r2', 'map')] and not fleet.machine.members['r1'].capabilities
    for operation in announced:        # not before it is declared alive
        assert fleet.do(operation).code == Code.BUSY
    assert fleet.health('r1', Health.ALIVE) == ['MEMBER_ALIVE'] and fleet.last.orphaned == []
    for operation in announced:
        assert fleet.do(operation).code == Code.OK
    assert len(names(fleet)) == 3 and fleet.machine.members['r1'].capacity == 2


def test_a_removed_robot_loses_what_it_announced() -> None:
    fleet = Fleet('r1', 'r2')
    fleet.do(Register('r1', 'map', '', (), '{}', 0))
    fleet.can('r1', 'arm')
    assert fleet.configure(['r2']) == ['MEMBER_REMOVED', 'SERVICE_REMOVED', 'CAPABILITIES_CHANGED']
    assert [type(operation) for operation in fleet.last.orphaned] == [Register, SetCapabilities]
    assert list(fleet.machine.members) == ['r2'] and names(fleet) == []


def test_a_new_incarnation_begins_anew_and_the_old_one_says_nothing_about_it() -> None:
    """A voter that lost its disk comes back as a learner beside what is left of it."""
    fleet = Fleet('r1', 'r2')
    fleet.can('r1', 'arm')
    fleet.health('r1', Health.DEAD)
    old, other, new = Member('r1', 1), Member('r2', 1), Member('r1', 2)
    joined = Configuration(frozenset((old, other)), learners=frozenset((new,)))
    fleet.feed(Kind.CONFIGURATION, joined.encode())
    robot = fleet.machine.members['r1']
    assert (robot.incarnation, robot.health, robot.capabilities) == (2, Health.ALIVE, frozenset())
    assert fleet.do(SetHealth('r1', 1, Health.DEAD)).code == Code.NOT_FOUND
    fleet.can('r1', 'arm')
    fleet.feed(Kind.CONFIGURATION, Configuration(frozenset((new, other))).encode())    # the old one goes
    assert fleet.machine.members['r1'].capabilities == {'arm'}
    assert fleet.last.orphaned == []


def test_a_new_incarnation_that_goes_again_leaves_the_old_one() -> None:
    fleet = Fleet('r1', 'r2')
    voters = frozenset((Member('r1', 1), Member('r2', 1)))
    fleet.feed(Kind.CONFIGURATION, Configuration(voters, learners=frozenset((Member('r1', 2),))).encode())
    assert fleet.machine.members['r1'].incarnation == 2
    fleet.feed(Kind.CONFIGURATION, Configuration(voters).encode())
    assert fleet.machine.members['r1'].incarnation == 1
