# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Group commit: a thread that makes records durable, all that wait with one sync."""
from __future__ import annotations

from collections.abc import Callable
import queue
import threading

from muster.cluster.member import Record
from muster.cluster.storage import Storage

#: How often a disk that takes nothing is tried again, seconds.
RETRY_PERIOD = 0.25
#: Called on the writer's thread after a batch, with what was raised, None on success.
Done = Callable[[list[object], Exception | None], None]
#: Called on the writer's thread when the disk takes nothing, and with None when it does again.
Stalled = Callable[[OSError | None], None]


class Writer:
    """
    Writes in the order of `submit`.

    A disk that takes nothing (full, or read-only) is tried again until it does: what waits is
    neither dropped nor acknowledged. A failed sync ends the thread.
    """

    def __init__(self, storage: Storage, done: Done, stalled: Stalled) -> None:
        """Start the thread; `done(tags, error)` reports each batch, `stalled(error)` a change of the disk."""
        self._storage, self._done, self._stalled = storage, done, stalled
        self._queue: queue.SimpleQueue[tuple[Record, object] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name='write-ahead log', daemon=True)
        self._thread.start()

    def submit(self, record: Record, tag: object) -> None:
        """Write a record; `tag` comes back when it is durable."""
        self._queue.put((record, tag))

    def _run(self) -> None:
        going_on = True
        while going_on:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            going_on = None not in batch
            work = [item for item in batch if item is not None]
            try:
                if not self._write([record for record, _ in work]):
                    return
            except Exception as error:  # whatever it was, nothing of the batch may be acknowledged
                self._done([], error)
                return
            if work:
                self._done([tag for _, tag in work], None)

    def _write(self, records: list[Record]) -> bool:
        """Write until the disk takes it; return False where the writer is closed before."""
        stalled = False
        while True:
            try:
                self._storage.write(records)
            except OSError as error:
                if not stalled:
                    self._stalled(error)
                stalled = True
                if self._closing.wait(RETRY_PERIOD):
                    return False
                continue
            if stalled:
                self._stalled(None)
            return True

    def close(self) -> None:
        """Finish what was submitted, unless the disk takes nothing, and end the thread."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
