# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The modes of cameras, asked of their drivers by Video4Linux (linux/videodev2.h); nothing is set."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
import errno
import fcntl
import os
import struct

from muster.hardware.evidence import Record, VideoMode
from muster.hardware.sources.deadline import Deadline, HungError, Step

VIDIOC_QUERYCAP, VIDIOC_ENUM_FMT = 0x80685600, 0xC0405602
VIDIOC_ENUM_FRAMESIZES, VIDIOC_ENUM_FRAMEINTERVALS = 0xC02C564A, 0xC034564B
CAPABILITY, FORMAT, SIZE, INTERVAL = 104, 64, 44, 52    # bytes of the structures
CAP_VIDEO_CAPTURE, CAP_VIDEO_CAPTURE_MPLANE, CAP_DEVICE_CAPS = 0x1, 0x1000, 0x80000000
BUF_VIDEO_CAPTURE, BUF_VIDEO_CAPTURE_MPLANE = 1, 9
DISCRETE = 1
#: What a driver that takes any size or rate within bounds is told to offer.
SIZES = ((320, 240), (640, 480), (800, 600), (1280, 720), (1280, 960), (1920, 1080), (2560, 1440),
         (3840, 2160))
RATES = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 60.0, 90.0, 120.0)
MAX_FORMATS, MAX_MODES, MAX_RATES, MAX_CAMERAS = 32, 64, 32, 256
#: What is answered where there is no next one, or where a driver does not know the question.
END = (errno.EINVAL, errno.ENOTTY, errno.ENODATA)
#: Opening a camera wakes it; one that takes longer (seconds) is asked again by the next full scan.
STEP_LIMIT, TOTAL_LIMIT = 0.2, 0.4
#: Why the modes of nodes are not known, and the remedy.
NOT_PERMITTED = "no permission for {}: add the user to the group 'video', or install the rules of config/udev"
HANGS = ('no answer from {} within 0.2 s, so that modes are not known: a scan asks again; pull it out and '
         'plug it in where that stays')
#: Nodes that a problem names; of more it gives the number.
MAX_NAMED = 8


class Cameras:
    """
    Asks each video node once for its modes, as long as it is plugged in.

    Its state and settings are not touched, and others may stream from it meanwhile. One that does
    not answer is left to a thread of its own, and not asked again before that has ended.
    """

    def __init__(self) -> None:
        """Begin without cameras."""
        self._known: dict[str, tuple[int, tuple[VideoMode, ...]]] = {}
        self._deadlines: dict[str, Deadline] = {}
        self._faults: dict[str, str] = {}               # why a node could not be asked, with the remedy

    def problem(self, records: Mapping[str, Record]) -> str:
        """Return which of the nodes in `records` (by their places in sysfs) could not be asked, and why."""
        nodes: dict[str, list[str]] = {}
        for path, fault in self._faults.items():
            if path in records:
                nodes.setdefault(fault, []).append(records[path].node)
        return '; '.join(fault.format(_listed(sorted(named))) for fault, named in nodes.items())

    def hangs(self, path: str) -> bool:
        """Return whether the node whose place in sysfs is `path` did not answer."""
        return self._faults.get(path) == HANGS

    def modes(self, path: str, node: str) -> tuple[VideoMode, ...]:
        """Return the modes of `node`, whose place in sysfs is `path`; none where it cannot be asked."""
        try:
            serial = os.stat(f'/sys{path}').st_ino      # another one for each device that comes
        except OSError:
            return ()
        number, known = self._known.get(path, (0, ()))
        if number == serial:
            return known
        if path not in self._deadlines and len(self._deadlines) >= MAX_CAMERAS:
            self._known.clear()
            self._faults.clear()
            self._deadlines = {at: deadline for at, deadline in self._deadlines.items() if deadline.hangs}
        deadline = self._deadlines.setdefault(path, Deadline(f'camera {node}', STEP_LIMIT, TOTAL_LIMIT))
        self._faults.pop(path, None)
        try:
            found = deadline.run(lambda step: read(node, step))
        except PermissionError:
            self._faults[path] = NOT_PERMITTED
            return ()
        except HungError:
            self._faults[path] = HANGS
            return ()
        except OSError:     # gone in between
            return ()
        self._known[path] = serial, found
        return found


def _listed(nodes: list[str]) -> str:
    more = len(nodes) - MAX_NAMED
    return ', '.join(nodes[:MAX_NAMED]) + (f' and {more} more' if more > 0 else '')


def read(node: str, step: Step) -> tuple[VideoMode, ...]:
    """Return the modes of a video node, none where it captures no video; OSError where it cannot be asked."""
    step(f'opening {node}')
    file = os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        modes: list[VideoMode] = []
        for mode in _modes(file, step):
            modes.append(mode)
            if len(modes) == MAX_MODES:
                break
        return tuple(modes)
    finally:
        os.close(file)


def _modes(file: int, step: Step) -> Iterator[VideoMode]:
    step('asking what it is')
    capability = _ask(file, VIDIOC_QUERYCAP, bytes(CAPABILITY))
    if capability is None:
        return
    whole, own = struct.unpack_from('=2I', capability, 84)
    can = own if whole & CAP_DEVICE_CAPS else whole
    if not can & (CAP_VIDEO_CAPTURE | CAP_VIDEO_CAPTURE_MPLANE):
        return      # the node of its metadata, or a display
    kind = BUF_VIDEO_CAPTURE if can & CAP_VIDEO_CAPTURE else BUF_VIDEO_CAPTURE_MPLANE
    for index in range(MAX_FORMATS):
        step('asking for formats')
        told = _ask(file, VIDIOC_ENUM_FMT, struct.pack('=2I', index, kind).ljust(FORMAT, b'\0'))
        if told is None:
            return
        pixel_format, = struct.unpack_from('=I', told, 44)
        for width, height in _sizes(file, pixel_format, step):
            step('asking for rates')
            yield VideoMode(fourcc(pixel_format), width, height, _rates(file, pixel_format, width, height))


def _sizes(file: int, pixel_format: int, step: Step) -> Iterator[tuple[int, int]]:
    """Yield the sizes of a format; of any within bounds the usual ones, and the largest."""
    for index in range(MAX_MODES):
        step('asking for sizes')
        told = _ask(file, VIDIOC_ENUM_FRAMESIZES, struct.pack('=2I', index, pixel_format).ljust(SIZE, b'\0'))
        if told is None:
            return
        kind, *sizes = struct.unpack_from('=7I', told, 8)
        if kind == DISCRETE:
            yield sizes[0], sizes[1]
            continue
        low_x, high_x, step_x, low_y, high_y, step_y = sizes
        yield from sorted({(high_x, high_y), *(
            (x, y) for x, y in SIZES if low_x <= x <= high_x and low_y <= y <= high_y
            and not (x - low_x) % max(1, step_x) and not (y - low_y) % max(1, step_y))})
        return


def _rates(file: int, pixel_format: int, width: int, height: int) -> tuple[float, ...]:
    """Return the rates (1/s) of a size, the slowest first."""
    rates: set[float] = set()
    for index in range(MAX_RATES):
        told = _ask(file, VIDIOC_ENUM_FRAMEINTERVALS,
                    struct.pack('=4I', index, pixel_format, width, height).ljust(INTERVAL, b'\0'))
        if told is None:
            break
        kind, *fractions = struct.unpack_from('=5I', told, 16)
        shortest, longest = _rate(*fractions[:2]), _rate(*fractions[2:])
        rates.add(shortest)
        if kind != DISCRETE:
            rates |= {longest, *(rate for rate in RATES if longest < rate < shortest)}
            break
    return tuple(sorted(rates - {0.0}))


def _rate(numerator: int, denominator: int) -> float:
    """Return the rate of an interval in seconds, as 1001/30000."""
    return round(denominator / numerator, 3) if numerator else 0.0


def fourcc(code: int) -> str:
    """Return the name of a pixel format; its highest bit tells the order of bytes."""
    text = ''.join(chr(code >> shift & 0x7F) for shift in (0, 8, 16, 24))
    return ''.join(c for c in text if c.isprintable()).strip()


def _ask(file: int, request: int, question: bytes) -> bytes | None:
    """Return the answer, or None where there is none (any more)."""
    buffer = bytearray(question)
    try:
        fcntl.ioctl(file, request, buffer)
    except OSError as error:
        if error.errno in END:
            return None
        raise
    return bytes(buffer)
