# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A camera's driver as Video4Linux speaks (linux/videodev2.h): questions in, answers or errors out."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
import errno
import struct

QUERYCAP, ENUM_FMT, ENUM_FRAMESIZES, ENUM_FRAMEINTERVALS = 0x80685600, 0xC0405602, 0xC02C564A, 0xC034564B
CAPTURE, METADATA, STREAMING = 0x00000001, 0x00800000, 0x04000000
DEVICE_CAPS = 0x80000000

#: Pixel format -> sizes -> intervals (numerator, denominator), as a UVC webcam has them.
WEBCAM: Mapping[bytes, Mapping[tuple[int, int], Sequence[tuple[int, int]]]] = {
    b'YUYV': {(640, 480): [(1, 30), (1, 15)], (1280, 720): [(1, 10)]},
    b'MJPG': {(1280, 720): [(1, 30), (1001, 30000)], (1920, 1080): [(1, 30)]}}


class Camera:
    """Answers ioctls; `asked` counts them. A video node of other `capabilities` captures nothing."""

    def __init__(self, modes: Mapping = WEBCAM, capabilities: int = CAPTURE | STREAMING) -> None:
        """Take what it can do."""
        self.modes, self.capabilities, self.asked = modes, capabilities, 0

    def answer(self, request: int, question: bytes) -> bytes:
        """Return the answer to an ioctl; OSError where the driver has none."""
        self.asked += 1
        if request == QUERYCAP:
            whole = CAPTURE | METADATA | STREAMING | DEVICE_CAPS
            return struct.pack('=16s32s32s3I12x', b'uvcvideo', b'Webcam', b'usb-1', 0x060100, whole,
                               self.capabilities)
        index, second = struct.unpack_from('=2I', question)
        try:
            if request == ENUM_FMT:
                if second != 1:
                    raise OSError(errno.EINVAL, 'no such buffer type')
                code = list(self.modes)[index]
                return question[:44] + code + question[48:]
            code = struct.pack('=I', second)
            if request == ENUM_FRAMESIZES:
                return question[:8] + self._size(code, index)
            if request == ENUM_FRAMEINTERVALS:
                size = struct.unpack_from('=2I', question, 8)
                return question[:16] + self._interval(code, size, index)
        except LookupError as error:
            raise OSError(errno.EINVAL, 'no such index') from error
        raise OSError(errno.ENOTTY, 'not known')

    def _size(self, code: bytes, index: int) -> bytes:
        return struct.pack('=3I', 1, *list(self.modes[code])[index]).ljust(36, b'\0')

    def _interval(self, code: bytes, size: tuple[int, int], index: int) -> bytes:
        return struct.pack('=3I', 1, *self.modes[code][size][index]).ljust(36, b'\0')


class Stepwise(Camera):
    """A camera that takes every size from 32 x 32 to 4056 x 3040 by 2, at 1 to 60 images a second."""

    def _size(self, code: bytes, index: int) -> bytes:
        self._first(index)
        return struct.pack('=7I', 3, 32, 4056, 2, 32, 3040, 2).ljust(36, b'\0')

    def _interval(self, code: bytes, size: tuple[int, int], index: int) -> bytes:
        self._first(index)
        return struct.pack('=7I', 2, 1, 60, 1, 1, 1, 60).ljust(36, b'\0')

    @staticmethod
    def _first(index: int) -> None:
        if index:
            raise IndexError(index)
