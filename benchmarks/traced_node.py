# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The cluster node with marks: what passes on its way, noted around the engine's own methods."""
from __future__ import annotations

from collections.abc import Callable
import json
import time
from typing import Any

from muster.cluster import protocol
from muster.cluster.engine import Engine
from muster.cluster.loop import Loop
from muster.cluster.node import main
from muster.cluster.raft.types import Append, AppendReply
from muster.cluster.storage import Storage

#: Begins the line with the marks that is printed at the end.
BEGIN = 'marks: '
marks: dict[str, list[int]] = {}


def marked(cls: type, method: str, *, before: str = '', after: str = '',
           where: Callable[..., bool] = lambda *_: True) -> None:
    """Let a method note when it begins or ends, by name, where its arguments are of interest."""
    original = getattr(cls, method)

    def traced(*arguments: Any, **named: Any) -> Any:
        begun = time.monotonic_ns()
        result = original(*arguments, **named)
        if where(*arguments):
            if before:
                marks.setdefault(before, []).append(begun)
            if after:
                marks.setdefault(after, []).append(time.monotonic_ns())
        return result

    setattr(cls, method, traced)


def says_something(_: Any, message: bytes) -> bool:
    """Return whether a message carries entries or acknowledges them: heartbeats are left out."""
    body = protocol.decode(protocol.unwrapped(message)).body
    if isinstance(body, Append):
        return bool(body.entries)
    return isinstance(body, AppendReply) and not body.round


def run() -> None:
    """Be a node, and print the marks at its end."""
    marked(Engine, 'submit', before='asked')
    marked(Engine, '_on_message', before='heard', where=says_something)
    marked(Engine, '_send', before='published',
           where=lambda _, packet: isinstance(packet.body, Append) and bool(packet.body.entries))
    marked(Engine, '_send', before='acknowledged',
           where=lambda _, packet: isinstance(packet.body, AppendReply) and not packet.body.round)
    marked(Storage, 'write', before='writing', after='written')
    marked(Loop, '_reply', before='answered')
    try:
        main()
    finally:
        print(BEGIN + json.dumps(marks), flush=True)


if __name__ == '__main__':
    run()
