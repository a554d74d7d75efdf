# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Group commit: a thread that makes records durable, all that wait with one sync."""
from __future__ import annotations

from collections.abc import Callable
import queue
import threading

from muster.cluster.member import Record
from muster.cluster.storage import Storage

#: Called on the writer's thread after a batch, with what was raised, None on success.
Done = Callable[[list[object], Exception | None], None]


class Writer:
    """Writes in the order of `submit`; after an error it writes nothing more."""

    def __init__(self, storage: Storage, done: Done) -> None:
        """Start the thread; `done(tags, error)` reports each batch."""
        self._storage, self._done = storage, done
        self._queue: queue.SimpleQueue[tuple[Record, object] | None] = queue.SimpleQueue()
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
            if not work:
                return
            try:
                self._storage.write([record for record, _ in work])
            except Exception as error:  # whatever it was, nothing of the batch may be acknowledged
                self._done([], error)
                return
            self._done([tag for _, tag in work], None)

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._queue.put(None)
        self._thread.join()
