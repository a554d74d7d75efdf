# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Choosing and reserving devices, as functions of messages."""
from builtin_interfaces.msg import Duration
from muster.hardware import services
from muster.hardware.capabilities import CapabilityError, Offer
from muster.hardware.devices import Device, Report, Status
from muster.hardware.registry import Registry
from muster.hardware.reservations import Reservations
from muster.ros.interfaces import ErrorCode
from muster_interfaces.srv import NegotiateCapabilities, ReleaseDevice, ReserveDevice
import pytest

CAMERA = Device(id='usb-camera', name='a camera', bus='usb', type='camera', confidence=0.9,
                capabilities=('video_capture',), fallback_id='usb-1',
                offers=(Offer.of('video_capture', width=1280, height=720, fps=30),))
PORT = Device(id='usb-port', name='a port', bus='usb', type='serial_adapter', confidence=1.0,
              capabilities=('serial',), fallback_id='usb-2')


def negotiated(devices: list[Device], *required: str, preferred: tuple[str, ...] = ()) -> object:
    """Return the response for devices of one robot."""
    request = NegotiateCapabilities.Request(required=list(required), preferred=list(preferred))
    return services.answer_negotiation(*services.read_requirements(request),
                                       [('robot_1', device) for device in devices],
                                       NegotiateCapabilities.Response())


def test_the_best_device_is_told_with_its_robot_and_its_reasons() -> None:
    response = negotiated([CAMERA, PORT], 'video_capture{width>=1280}', preferred=('video_capture{fps>=60}',))
    assert response.success
    assert [(m.robot, m.device.id) for m in response.matches] == [('robot_1', 'usb-camera')]
    assert response.matches[0].score == pytest.approx(0.45)
    assert 'fps is 30' in response.matches[0].explanation
    assert "the best is 'a camera' (usb-camera) of robot_1" in response.message
    assert response.matches[0].device.offers[0].attributes[0].name == 'fps'


def test_what_is_missing_is_told_by_name() -> None:
    response = negotiated([CAMERA, PORT], 'video_capture{width>=1920}')
    assert (response.success, response.error_code) == (False, ErrorCode.NOT_FOUND)
    assert response.nearest == 'usb-camera'
    assert list(response.missing) == ['video_capture{width>=1920}: width is 1280']


def test_a_disconnected_device_cannot_be_chosen() -> None:
    gone = Device(**{**{f: getattr(CAMERA, f) for f in CAMERA.__slots__}, 'status': Status.DISCONNECTED})
    response = negotiated([gone], 'video_capture')
    assert response.message == 'no device is connected'
    assert list(response.missing) == ['video_capture: not offered']


@pytest.mark.parametrize('fields, told', [
    ({}, 'are empty'), ({'required': ['serial'], 'scope': 9}, 'scope must be'),
    ({'required': ['serial'] * 33}, 'more than 32'), ({'preferred': ['serial{baud>=fast}']}, 'number')])
def test_a_malformed_request_is_refused_by_name(fields: dict[str, object], told: str) -> None:
    with pytest.raises(CapabilityError, match=told):
        services.read_requirements(NegotiateCapabilities.Request(**fields))


def test_a_device_is_reserved_renewed_and_released() -> None:
    registry, table = Registry(), Reservations()
    registry.apply(Report('s', {'a': CAMERA}, 'scan'), 0.0, 0)

    def reserve(now: float, **fields: object) -> object:
        request = ReserveDevice.Request(id='usb-camera', owner='tracker', lease=Duration(sec=10))
        for name, value in fields.items():
            setattr(request, name, value)
        return services.reserve(registry, table, request, ReserveDevice.Response(), now)

    first = reserve(0.0)
    assert (first.success, first.holder, first.remaining.sec) == (True, 'tracker', 10)
    other = reserve(4.0, owner='mapper')
    assert (other.success, other.error_code, other.holder) == (False, ErrorCode.HELD, 'tracker')
    assert other.remaining.sec == 6
    assert reserve(5.0, token=first.token).remaining.sec == 10
    assert reserve(5.0, token=first.token + 1).error_code == ErrorCode.WRONG_TOKEN
    assert reserve(5.0, lease=Duration()).error_code == ErrorCode.INVALID
    assert reserve(5.0, id='nothing').error_code == ErrorCode.NOT_FOUND
    release = ReleaseDevice.Request(id='usb-camera', token=first.token)
    assert services.release(table, release, ReleaseDevice.Response(), 6.0).success
    again = services.release(table, release, ReleaseDevice.Response(), 6.0)
    assert again.error_code == ErrorCode.WRONG_TOKEN
    assert reserve(6.0, owner='mapper').success
