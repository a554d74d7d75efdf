# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
A serial port, opened without moving more of it than Linux itself does.

What open(2) does to a serial port: when it is the first to open it, the kernel raises DTR and RTS
(tty_port_raise_dtr_rts in drivers/tty/tty_port.c), and no option of a program can prevent that; an
Arduino resets by that edge. That is why ports are opened only where the operator allowed it. All
the rest is avoided here: nothing sets the modem lines (pyserial does at every open); HUPCL is
cleared, so that the last close does not lower them and the next open makes no second edge; CRTSCTS
is off, so that RTS stays as it is while bytes come in. A port that somebody has open is not touched.
"""
from __future__ import annotations

import fcntl
import os
from pathlib import Path
import struct
import termios
from types import TracebackType

PROC = Path('/proc')
#: Where programs that follow the Filesystem Hierarchy Standard (section 5.9) lock a port by a file.
LOCKS = (Path('/run/lock'), Path('/var/lock'))
#: asm-generic/ioctls.h: settings with a baud rate that is any number (struct termios2).
TCGETS2, TCSETS2 = 0x802C542A, 0x402C542B
TERMIOS2 = struct.Struct('=4IB19s2I')
BOTHER, CBAUD = 0o010000, 0o010017
#: Processes whose open files are looked at.
MAX_PROCESSES = 32768


class PortInUseError(OSError):
    """Somebody else has the port; the message says who, as far as that can be known."""


class SerialLine:
    """
    An open port, raw, 8N1; a context manager, which sets back what it changed.

    Only HUPCL and ECHO stay off: a port that nobody reads would send back what the device says.
    """

    def __init__(self, node: str) -> None:
        """Open it; raises PortInUseError, or OSError."""
        holder = holder_of(node)
        if holder:
            raise PortInUseError(f'{node} is used by {holder}')
        self.fd = os.open(node, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            try:  # as pyserial (exclusive=True) and others do
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PortInUseError(f'{node} is locked by another program') from error
            self._before = TERMIOS2.unpack(fcntl.ioctl(self.fd, TCGETS2, bytes(TERMIOS2.size)))
            fcntl.ioctl(self.fd, termios.TIOCEXCL)  # who opens it meanwhile gets EBUSY, not half the bytes
        except OSError:
            os.close(self.fd)
            raise

    def __enter__(self) -> SerialLine:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Set it back and close it."""
        try:
            termios.tcflush(self.fd, termios.TCIOFLUSH)  # a close waits for what was not sent
            before = list(self._before)
            before[2] &= ~termios.HUPCL
            before[3] &= ~termios.ECHO
            fcntl.ioctl(self.fd, TCSETS2, TERMIOS2.pack(*before))
            fcntl.ioctl(self.fd, termios.TIOCNXCL)
        except (OSError, termios.error):
            pass  # it was pulled out
        finally:
            os.close(self.fd)

    def set_baud(self, baud: int) -> None:
        """Set the speed, discard what came at another; raises OSError."""
        flags = BOTHER | termios.CS8 | termios.CREAD | termios.CLOCAL
        characters = bytearray(self._before[5])
        characters[termios.VMIN], characters[termios.VTIME] = 0, 0
        fcntl.ioctl(self.fd, TCSETS2, TERMIOS2.pack(0, 0, flags, 0, 0, bytes(characters), baud, baud))
        try:
            termios.tcflush(self.fd, termios.TCIOFLUSH)
        except termios.error as error:
            raise OSError(*error.args) from error


def holder_of(node: str, proc: Path = PROC, locks: tuple[Path, ...] = LOCKS) -> str:
    """
    Return who has a port open, or an empty text.

    Of other users' processes only root sees the open files; of these the locks tell.
    """
    target = os.path.realpath(node)
    for folder in locks:
        lock = folder / f'LCK..{os.path.basename(target)}'
        try:
            number = lock.read_text().split()
        except (OSError, UnicodeDecodeError):
            continue
        if number and number[0].isdecimal() and (proc / number[0]).exists():
            return f'process {number[0]} ({lock})'
    own = str(os.getpid())
    others = [entry for entry in os.listdir(proc) if entry.isdecimal() and entry != own]
    for process in others[:MAX_PROCESSES]:
        if _has_open(proc / process / 'fd', target):
            return f'process {process} ({_command(proc / process)})'
    return ''


def _has_open(folder: Path, target: str) -> bool:
    try:
        return any(os.readlink(folder / name) == target for name in os.listdir(folder))
    except OSError:  # another user's, or ended in between
        return False


def _command(process: Path) -> str:
    try:
        return (process / 'comm').read_text().strip()
    except (OSError, UnicodeDecodeError):
        return 'unknown'
