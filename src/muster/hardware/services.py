# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The services that choose and reserve devices, as functions of the registry and of the messages."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from muster.hardware import messages
from muster.hardware.capabilities import Candidate, CapabilityError, negotiate, Requirement
from muster.hardware.devices import Device, Status
from muster.hardware.registry import Registry
from muster.hardware.reservations import HeldError, ReservationError, Reservations, UnknownTokenError
from muster.ros.durations import duration, nanoseconds
from muster.ros.interfaces import ErrorCode
from muster_interfaces.msg import DeviceMatch
from muster_interfaces.srv import NegotiateCapabilities

#: Requirements of one request, required and preferred each; devices that are told of an answer.
MAX_REQUIREMENTS, MAX_MATCHES = 32, 64
#: How much the status of a device is worth: what is not connected cannot be used.
WORTH = {Status.CONNECTED: 1.0, Status.DEGRADED: 0.5}


def candidate(key: str, device: Device) -> Candidate:
    """Return what a device brings to a negotiation."""
    return Candidate(key, device.every_offer, device.confidence * WORTH.get(device.status, 0.0))


def read_requirements(request: Any) -> tuple[list[Requirement], list[Requirement]]:
    """Return what is required and what is preferred; raise CapabilityError."""
    for name in ('required', 'preferred'):
        if len(getattr(request, name)) > MAX_REQUIREMENTS:
            raise CapabilityError(f"'{name}' has more than {MAX_REQUIREMENTS} requirements")
    if not request.required and not request.preferred:
        raise CapabilityError("'required' and 'preferred' are empty: name a capability, as serial")
    if request.scope not in (0, NegotiateCapabilities.Request.ROBOT, NegotiateCapabilities.Request.FLEET):
        raise CapabilityError(f'scope must be 1 (robot) or 2 (fleet), not {request.scope}')
    return ([Requirement.parse(text) for text in request.required],
            [Requirement.parse(text) for text in request.preferred])


def answer_negotiation(required: list[Requirement], preferred: list[Requirement],
                       devices: Iterable[tuple[str, Device]], response: Any) -> Any:
    """Fill in the response from (robot, device) pairs: usable ones only can match."""
    usable = {f'{robot}/{device.id}': (robot, device) for robot, device in devices
              if device.status in WORTH}
    found, nearest = negotiate(required, preferred,
                               (candidate(key, device) for key, (_, device) in usable.items()))
    for match in found[:MAX_MATCHES]:
        robot, device = usable[match.id]
        response.matches.append(DeviceMatch(robot=robot, device=messages.device_message(device),
                                            score=match.score, explanation=match.explanation))
    response.success = bool(found)
    if found:
        first = response.matches[0]
        response.message = (f'{len(found)} of {len(usable)} usable devices; the best is '
                            f'{first.device.name!r} ({first.device.id}) of {first.robot}: '
                            f'{first.explanation}')
        return response
    response.error_code = ErrorCode.NOT_FOUND
    if nearest is None:
        response.message = 'no device is connected'
        response.missing = [f'{requirement}: not offered' for requirement in required]
        return response
    response.nearest, response.missing = usable[nearest.id][1].id, list(nearest.missing)
    response.message = (f"none of {len(usable)} usable devices has it all; '{response.nearest}' of "
                        f"{usable[nearest.id][0]} is nearest but lacks {'; '.join(nearest.missing)}")
    return response


def reserve(registry: Registry, reservations: Reservations, request: Any, response: Any, now: float) -> Any:
    """Answer `reserve_device`."""
    device = registry.get(request.id)
    if device is None or device.status == Status.DISCONNECTED:
        return refuse(response, ErrorCode.NOT_FOUND, messages.no_device(request.id)
                      if device is None else f"device '{device.id}' is disconnected")
    try:
        held = reservations.reserve(device.id, request.owner, nanoseconds(request.lease) / 1e9,
                                    request.token, now)
    except HeldError as error:
        in_the_way = reservations.held[device.id]
        response.holder = in_the_way.owner
        response.remaining = duration(round((in_the_way.deadline - now) * 1e9))
        return refuse(response, ErrorCode.HELD, str(error))
    except UnknownTokenError as error:
        return refuse(response, ErrorCode.WRONG_TOKEN, str(error))
    except ReservationError as error:
        return refuse(response, ErrorCode.INVALID, str(error))
    response.success, response.token, response.holder = True, held.token, held.owner
    response.remaining = duration(round((held.deadline - now) * 1e9))
    response.message = f"'{held.owner}' uses '{device.id}': renew with token {held.token}"
    return response


def release(reservations: Reservations, request: Any, response: Any, now: float) -> Any:
    """Answer `release_device`."""
    try:
        held = reservations.release(request.id, request.token, now)
    except UnknownTokenError as error:
        return refuse(response, ErrorCode.WRONG_TOKEN, str(error))
    response.success, response.message = True, f"'{held.device}' is free"
    return response


def refuse(response: Any, code: int, message: str) -> Any:
    """Fill in why not."""
    response.success, response.error_code, response.message = False, code, message
    return response
