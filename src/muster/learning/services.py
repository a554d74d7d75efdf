# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The services of the learning node: each request is checked, carried out, and answered in words."""
from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
import json
import os
from typing import Any, TYPE_CHECKING
import zlib

from builtin_interfaces.msg import Time
from muster.learning.agents.base import LearningMode
from muster.learning.models import ModelFileError, Version
from muster.ros import qos
from muster.ros.interfaces import ErrorCode
from muster_interfaces.msg import ModelInfo
from muster_interfaces.srv import (
    ActivateModel, Consolidate, GetModelChunk, ListModels, RollbackModel, SaveModel, SetLearningMode)
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

if TYPE_CHECKING:
    from muster.learning.node import LearningNode

#: The largest piece of a model file in one answer, bytes.
MAXIMUM_CHUNK = 65536
MAXIMUM_LIST, DEFAULT_LIST = 1000, 100
LATEST = 'latest'
ROLES = {'challenger': ModelInfo.CHALLENGER, 'champion': ModelInfo.CHAMPION,
         'predecessor': ModelInfo.PREDECESSOR, 'rejected': ModelInfo.REJECTED}


class Services:
    """Answers while the node is configured; INACTIVE unless it is active."""

    def __init__(self, node: LearningNode) -> None:
        """Create the services on `node`."""
        self._node = node
        waiting = ReentrantCallbackGroup()  # these wait for the disk, and others must be served meanwhile
        self._services = [
            node.create_service(kind, f'~/{name}', self._when_active(answer), qos_profile=qos.SERVICES,
                                callback_group=waiting)
            for kind, name, answer in (
                (SetLearningMode, 'set_mode', self._set_mode), (SetBool, 'pause', self._pause),
                (Trigger, 'reset', self._reset), (Trigger, 'rearm', self._rearm),
                (Consolidate, 'consolidate', self._consolidate), (SaveModel, 'save_model', self._save),
                (ActivateModel, 'activate_model', self._activate),
                (ListModels, 'list_models', self._list), (RollbackModel, 'rollback_model', self._rollback),
                (GetModelChunk, 'get_model_chunk', self._chunk))]

    def close(self) -> None:
        """Serve no more."""
        while self._services:
            self._node.destroy_service(self._services.pop())

    def _when_active(self, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def served(request: Any, response: Any) -> Any:
            if self._node.is_active:
                await answer(request, response)
            else:
                _refuse(response, ErrorCode.INACTIVE,
                        f'{self._node.get_fully_qualified_name()} is not active: activate it first')
            return response
        return served

    # How it acts ------------------------------------------------------------------------------
    async def _set_mode(self, request: Any, response: Any) -> None:
        if request.mode not in set(LearningMode):
            known = ', '.join(f'{mode.value} ({mode.name.lower()})' for mode in LearningMode)
            _refuse(response, ErrorCode.INVALID, f'mode must be one of {known}, not {request.mode}')
            return
        name = LearningMode(request.mode).name.lower()
        self._node.set_parameters([Parameter('mode', value=name)])
        later = ', once the training is over' if self._node.training.running else ''
        response.success, response.message = True, f'mode {name}{later}'

    async def _pause(self, request: Any, response: Any) -> None:
        self._node.pause(request.data)
        response.success, response.message = True, 'paused' if request.data else 'running'

    async def _rearm(self, request: Any, response: Any) -> None:
        response.success, response.message = self._node.rearm()

    async def _reset(self, request: Any, response: Any) -> None:
        self._node.replace_agent(self._node.new_agent(), None, 'the agent was reset')
        response.success, response.message = True, 'everything learned is forgotten; saved models are kept'

    async def _consolidate(self, request: Any, response: Any) -> None:
        try:
            task = self._node.consolidate(request.task)
        except ValueError as error:
            _refuse(response, ErrorCode.INVALID, str(error))
            return
        agent = self._node.control.agent
        response.success, response.consolidated = True, task
        response.message = f"learning task '{agent.task}'" if agent.task != task else 'consolidated'
        if agent.transfer is not None and agent.transfer.stages:
            response.score = agent.transfer.stages[-1][1].get(task, 0.0)
            response.backward_transfer = agent.transfer.backward_transfer
            response.forgetting = agent.transfer.forgetting

    # Models -----------------------------------------------------------------------------------
    async def _save(self, request: Any, response: Any) -> None:
        keeper = self._node.keeper
        version = await keeper.save(response, self._node.control.agent, request.name)
        if version is not None:
            response.success, response.message = True, f'saved as {version.label}'
            response.version, response.path = version.number, str(keeper.store.path(version))

    async def _activate(self, request: Any, response: Any) -> None:
        await self._act_by(response, request.version or request.name or LATEST)

    async def _rollback(self, request: Any, response: Any) -> None:
        keeper = self._node.keeper
        version: Version | None = await keeper.on_disk(response, keeper.store.rollback)
        if version is not None:
            response.version, response.name = version.number, version.name
            await self._act_by(response, version.number)

    async def _act_by(self, response: Any, selector: int | str) -> None:
        found = await self._node.keeper.on_disk(response, self._node.load_agent, selector)
        if found is None:
            return
        agent, version = found
        label = version.label if version else f"model '{selector}'"
        if not self._node.is_active:
            _refuse(response, ErrorCode.INACTIVE, f'{label} came too late: the node is not active any more')
            return
        self._node.replace_agent(agent, version, f'{label} was activated')
        response.success, response.version = True, version.number if version else 0
        response.message = f'acting by {label}: {agent.statistics.updates} updates'

    async def _list(self, request: Any, response: Any) -> None:
        if request.limit > MAXIMUM_LIST:
            _refuse(response, ErrorCode.INVALID,
                    f'limit must be within 0..{MAXIMUM_LIST}, not {request.limit}')
            return
        keeper = self._node.keeper
        versions: list[Version] | None = await keeper.on_disk(response, keeper.store.versions)
        if versions is None:
            return
        matching = [v for v in reversed(versions) if request.name in ('', v.name)]
        response.success, response.total = True, len(matching)
        response.models = [model_info(v) for v in matching[:request.limit or DEFAULT_LIST]]
        response.active = keeper.active.number if keeper.active else 0

    async def _chunk(self, request: Any, response: Any) -> None:
        if request.length > MAXIMUM_CHUNK:
            _refuse(response, ErrorCode.INVALID,
                    f'length must be within 0..{MAXIMUM_CHUNK} bytes, not {request.length}')
            return
        length = request.length or MAXIMUM_CHUNK
        found = await self._node.keeper.on_disk(response, self._read, request.version, request.offset, length)
        if found is None:
            return
        version, data = found
        if request.offset > version.size:
            _refuse(response, ErrorCode.INVALID,
                    f'offset {request.offset} is beyond the end of {version.label}: {version.size} bytes')
            return
        response.success, response.data, response.crc32 = True, data, zlib.crc32(data)
        response.size, response.sha256 = version.size, version.sha256

    def _read(self, number: int, offset: int, length: int) -> tuple[Version, bytes]:
        """Return a version and a piece of its file. Blocks; raises ModelError."""
        store = self._node.keeper.store
        version = store.find(number)
        path = store.path(version)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), 'rb') as file:
                return version, os.pread(file.fileno(), length, min(offset, version.size))
        except OSError as error:
            raise ModelFileError(f'{path}: cannot be read: {error.strerror}') from error


def model_info(version: Version) -> ModelInfo:
    """Return the message that tells of a version."""
    return ModelInfo(
        version=version.number, name=version.name, parent=version.parent or 0, created=_time(version.created),
        agent=version.kind, specification=version.specification, role=ROLES[version.role],
        hyperparameters=json.dumps(version.hyperparameters), metrics=json.dumps(version.metrics),
        evaluations=len(version.returns), mean_evaluation=version.mean_return if version.returns else 0.0,
        size=version.size, sha256=version.sha256)


def _time(text: str) -> Time:
    try:
        return Time(sec=int(datetime.fromisoformat(text).timestamp()))
    except (ValueError, AssertionError):  # a manifest that somebody else wrote
        return Time()


def _refuse(response: Any, code: int, message: str) -> None:
    response.message = message
    if hasattr(response, 'error_code'):
        response.error_code = code
