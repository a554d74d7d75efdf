# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The model store beside a running node: it blocks on the disk in a thread of its own."""
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future as Job, ThreadPoolExecutor
from pathlib import Path
import threading
from typing import Any

from muster.learning.agents.base import Agent
from muster.learning.checkpoint import Checkpoint
from muster.learning.models import ModelError, ModelNotFoundError, ModelStore, snapshot, Verdict, Version
from muster.learning.models.versions import Index
from muster.ros.interfaces import ErrorCode
import numpy as np
from rclpy.node import Node
from rclpy.task import Future

#: Model files being written or read at one time; more requests are answered BUSY.
MAXIMUM_JOBS = 4
AUTOSAVE = 'autosave'


def check_model_name(name: str) -> None:
    """Raise ModelError unless a model may have this name ('' = none)."""
    Index().check_name(name)


class ModelKeeper:
    """Saves and loads models, and remembers which version the robot acts by."""

    def __init__(self, node: Node, folder: Path, meaning: dict[str, Any]) -> None:
        """Keep models in `folder`, each bound to the `meaning` of the specification."""
        self._node, self._meaning = node, meaning
        self.store = ModelStore(folder)
        self.active: Version | None = None
        """The version that the robot acts by, or was saved as last."""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix='learning-models')
        self._jobs, self._lock = 0, threading.Lock()
        self._saved: tuple[Agent[Any], int] | None = None

    def close(self) -> None:
        """Finish writing."""
        self._worker.shutdown()

    def adopt(self, agent: Agent[Any], version: Version | None) -> None:
        """Take note that the robot acts by `agent`, which is as good as saved."""
        self.active, self._saved = version, (agent, agent.statistics.updates)

    def _saving(self, agent: Agent[Any], name: str) -> tuple[Any, ...]:
        """Return the store's work of saving the agent as it is now."""
        statistics = agent.statistics
        metrics: dict[str, float] = {'updates': statistics.updates, 'episodes': statistics.episodes}
        if statistics.returns:
            metrics['mean_return'] = float(np.mean(statistics.returns))
        parent = self.active.number if self.active else None
        return self.store.save, snapshot(agent, self._meaning), metrics, name, parent

    async def save(self, response: Any, agent: Agent[Any], name: str) -> Version | None:
        """Save the agent as a new version and return it, or None with the error in `response`."""
        updates = agent.statistics.updates
        version: Version | None = await self.on_disk(response, *self._saving(agent, name))
        if version is not None:
            self.active, self._saved = version, (agent, updates)
        return version

    def autosave(self, agent: Agent[Any]) -> None:
        """Save in the background, unless nothing was learned since, or the disk is busy."""
        if self._saved == (agent, agent.statistics.updates) or self._jobs >= MAXIMUM_JOBS:
            return
        self._saved = agent, agent.statistics.updates

        def report(job: Job[Version]) -> None:
            error = job.exception()
            if error is not None:
                self._node.get_logger().error(f'autosave failed: {error}')
            else:
                self.active = job.result()
        self._submit(*self._saving(agent, AUTOSAVE)).add_done_callback(report)

    def unchanged(self, agent: Agent[Any]) -> Version | None:
        """Return the version that the agent is, if nothing was learned since."""
        return self.active if self._saved == (agent, agent.statistics.updates) else None

    def judge(self, number: int, returns: list[float]) -> Verdict:
        """Record the evaluation of a version and promote it if it has earned it. Blocks; ModelError."""
        self.store.evaluate(number, returns)
        return self.store.promote(number)

    def load(self, selector: int | str) -> tuple[Checkpoint, Version | None]:
        """Read a model; a file put into the folder by hand has no version. Blocks; raises ModelError."""
        checkpoint = self.store.load(selector)
        try:
            return checkpoint, self.store.find(selector)
        except ModelNotFoundError:
            return checkpoint, None

    async def on_disk(self, response: Any, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do `work` in the worker thread; return its result, or None with the error in `response`."""
        if self._jobs >= MAXIMUM_JOBS:
            response.error_code = ErrorCode.BUSY
            response.message = f'{MAXIMUM_JOBS} models are being written or read already: repeat later'
            return None
        finished = Future(executor=self._node.executor)
        job = self._submit(work, *arguments)

        def wake(_: Job[Any]) -> None:
            finished.set_result(None)
            if self._node.executor is not None:
                self._node.executor.wake()
        job.add_done_callback(wake)
        await finished
        error = job.exception()
        if error is None:
            return job.result()
        response.message = str(error)
        if isinstance(error, ModelNotFoundError):
            response.error_code = ErrorCode.NOT_FOUND
        elif isinstance(error, ModelError):
            response.error_code = ErrorCode.STORAGE if error.storage else ErrorCode.INVALID
        else:
            response.error_code = ErrorCode.INTERNAL
            self._node.get_logger().error(f'{type(error).__name__}: {error}')
        return None

    def _submit(self, work: Callable[..., Any], *arguments: Any) -> Job[Any]:
        with self._lock:
            self._jobs += 1
        job = self._worker.submit(work, *arguments)
        job.add_done_callback(self._job_done)
        return job

    def _job_done(self, _: Job[Any]) -> None:
        with self._lock:
            self._jobs -= 1
