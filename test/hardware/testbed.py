# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
A /sys, /dev and uevents of a test's own, which unmodified programs see instead of the kernel's.

The preload library of umockdev redirects the program's system calls into a folder (umockdev(7)):
files below it stand for those of /sys and /dev, datagrams to its `event*` sockets for the kernel's
uevents, and a socket below `ioctl` for the driver of a device node, as in src/libumockdev-preload.c.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
import contextlib
import ctypes
import ctypes.util
import errno
import json
import os
from pathlib import Path
import queue
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tty
from typing import Any

from camera import Camera
from i2c_bus import FakeBus
import pytest

PRELOAD = 'libumockdev-preload.so.0'
PROGRAM = Path(__file__).with_name('program_under_test.py')
BUSES = ('usb', 'pci', 'i2c', 'spi', 'hid', 'scsi')
#: How long (seconds) a program may take for anything.
PATIENCE = 20.0
#: linux/prctl.h, linux/capability.h
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def require_umockdev() -> None:
    """Skip the test where umockdev is not installed."""
    if ctypes.util.find_library('umockdev-preload') is None:
        pytest.skip("umockdev is not installed (Debian and Ubuntu: 'apt install umockdev')")


def with_modes_respected[Result](start: Callable[[], Result]) -> Result:
    """Return what `start` does; for programs that it starts modes of files count, even as root."""
    def limited() -> Result:
        libc = ctypes.CDLL(None)
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):      # of this thread and its children
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)     # fails where it is not needed
        return start()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(limited).result()


class Testbed:
    """A machine that a test makes; nothing of the real one is seen by programs that are run in it."""

    __test__ = False

    def __init__(self) -> None:
        """Begin with an empty machine, in a folder whose path is short enough for sockets."""
        require_umockdev()
        self.root = Path(tempfile.mkdtemp(prefix='bed'))
        for folder in ('sys/bus', 'sys/class', 'sys/devices', 'dev', 'ioctl/dev'):
            (self.root / folder).mkdir(parents=True)
        self._programs: list[Program] = []
        self._drivers: list[Driver] = []
        self._sequence = 0
        self.drive('_default', None)     # nodes without a driver of their own are what they are

    def close(self) -> None:
        """End its programs and remove everything."""
        for program in self._programs:
            program.end()
        for driver in self._drivers:
            driver.close()
        shutil.rmtree(self.root)

    # Devices ----------------------------------------------------------------------------------
    def plug(self, path: str, subsystem: str, device_type: str = '', node: str = '', driver: str = '',
             event: bool = True, **attributes: str | bytes) -> str:
        """Plug a device in at `path` (from /devices on); return that."""
        place, folder = self.root / f'sys{path}', self.root / 'making'
        folder.mkdir()      # the kernel tells of a device when it is complete
        told = {'DEVTYPE': device_type, 'DEVNAME': node.removeprefix('/dev/'), 'DRIVER': driver}
        (folder / 'uevent').write_text(''.join(f'{key}={value}\n' for key, value in told.items() if value))
        for name, value in attributes.items():
            (folder / name).write_bytes(value if isinstance(value, bytes) else value.encode() + b'\n')
        home = self.root / (f'sys/bus/{subsystem}' if subsystem in BUSES else f'sys/class/{subsystem}')
        listed = self._list(home, path)
        self._link(folder / 'subsystem', home, place)
        if driver:
            self._link(folder / 'driver', home / 'drivers' / driver, place)
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
        listed.parent.mkdir(parents=True, exist_ok=True)
        self._link(listed, place, listed.parent)
        if node:
            file = self.root / node.removeprefix('/')
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_symlink():
                file.touch()
        if event:
            self.event('add', path, subsystem, **told)
        return path

    def pull(self, path: str, event: bool = True) -> None:
        """Pull a device out, with everything that is part of it, the innermost first."""
        base = self.root / f'sys{path}'
        for folder in sorted((Path(at) for at, _, files in os.walk(base) if 'uevent' in files), reverse=True):
            subsystem = os.path.basename(os.readlink(folder / 'subsystem'))
            home = self.root / (f'sys/bus/{subsystem}' if subsystem in BUSES else f'sys/class/{subsystem}')
            told = dict(line.split('=', 1) for line in (folder / 'uevent').read_text().splitlines())
            inside = f"/{folder.relative_to(self.root / 'sys')}"
            self._list(home, inside).unlink()
            if 'DEVNAME' in told:
                (self.root / 'dev' / told['DEVNAME']).unlink()
            folder.rename(self.root / 'taken')
            shutil.rmtree(self.root / 'taken')
            if event:
                self.event('remove', inside, subsystem, **told)

    @contextlib.contextmanager
    def terminal(self, path: str, node: str) -> Iterator[int]:
        """Plug a serial port in and yield the other end of its line."""
        line, port = os.openpty()
        tty.setraw(port)
        (self.root / node.removeprefix('/')).symlink_to(os.ttyname(port))
        os.close(port)      # else somebody had the port
        self.plug(path, 'tty', node=node)
        yield line
        os.close(line)

    def event(self, action: str, path: str, subsystem: str, **told: str) -> None:
        """Send a uevent as the kernel does (lib/kobject_uevent.c) to everybody who listens."""
        self._sequence += 1
        fields = {'ACTION': action, 'DEVPATH': path, 'SUBSYSTEM': subsystem, 'SEQNUM': str(self._sequence),
                  **{key: value for key, value in told.items() if value}}
        message = '\0'.join([f'{action}@{path}', *(f'{key}={value}' for key, value in fields.items())]) + '\0'
        for listener in self.root.glob('event*'):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(PATIENCE)      # it waits while the listener's queue is full
                with contextlib.suppress(ConnectionRefusedError):    # of a program that has ended
                    sender.sendto(message.encode(), str(listener))

    @staticmethod
    def _list(home: Path, path: str) -> Path:
        name = os.path.basename(path)
        return home / 'devices' / name if home.parent.name == 'bus' else home / name

    @staticmethod
    def _link(link: Path, target: Path, home: Path) -> None:
        """Make a relative link that is to be seen in the folder `home`."""
        target.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, home))

    # Drivers and programs ---------------------------------------------------------------------
    def drive(self, node: str, answer: Answer | None) -> Driver:
        """Let `answer(client, request, argument)` be what ioctls on a node do; OSError is its error."""
        driver = Driver(self.root / 'ioctl' / node.removeprefix('/'), answer)
        self._drivers.append(driver)
        return driver

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables with which a program runs in this machine."""
        return {'LD_PRELOAD': PRELOAD, 'UMOCKDEV_DIR': str(self.root)}

    def run(self, *arguments: str) -> Program:
        """Start Muster's discovery in this machine; return when it has told of all that is there."""
        program = Program([sys.executable, str(PROGRAM), *arguments], {**os.environ, **self.environment})
        self._programs.append(program)
        last = program.ask('status')['events']      # some are told after the question only
        if not any(told.get('sequence') == last for told in program.past):
            program.until(lambda told: told.get('sequence') == last)
        return program


class Program:
    """A running program_under_test.py."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        """Start it."""
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                         env=dict(environment), bufsize=1)
        self._told: queue.Queue[dict[str, Any]] = queue.Queue()
        self.past: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def until(self, condition: Callable[[dict[str, Any]], object],
              patience: float = PATIENCE) -> dict[str, Any]:
        """Return the first thing it tells for which `condition` is true; all that came goes to `past`."""
        deadline = time.monotonic() + patience
        while True:
            try:
                told = self._told.get(timeout=max(0.001, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f'not told within {patience} s, but: {self.past[-5:]}') from None
            self.past.append(told)
            assert told['event'] != 'end', f'it ended by itself, exit code {self._process.wait(PATIENCE)}'
            if condition(told):
                return told

    def ask(self, *words: str) -> Any:
        """Return its answer to a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + '\n')
        return self.until(lambda told: told['event'] == 'answer')['answer']

    def devices(self) -> dict[str, dict[str, Any]]:
        """Return all devices by their ids."""
        return {device['id']: device for device in self.ask('list')}

    def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._told.put(json.loads(line))
        self._told.put({'event': 'end'})


class Client:
    """A program in the middle of an ioctl: its memory can be read and written."""

    READ_MEMORY, WRITE_MEMORY = 5, 6

    def __init__(self, connection: socket.socket) -> None:
        """Speak on a connection; `address` is what an I2C client has chosen."""
        self._connection = connection
        self.address = 0

    def receive(self, size: int) -> bytes:
        """Return so many bytes; EOFError where the program is gone."""
        data = b''
        while len(data) < size:
            part = self._connection.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def send(self, *words: int, data: bytes = b'') -> None:
        """Send three words of the machine, and bytes."""
        self._connection.sendall(struct.pack('=3Q', *(word & (1 << 64) - 1 for word in words)) + data)

    def read(self, address: int, size: int) -> bytes:
        """Read the program's memory."""
        self.send(self.READ_MEMORY, address, size)
        return self.receive(size)

    def write(self, address: int, data: bytes) -> None:
        """Write the program's memory."""
        self.send(self.WRITE_MEMORY, address, len(data), data=data)


Answer = Callable[[Client, int, int], int]


class Driver:
    """The driver of one device node: a socket where its ioctls arrive."""

    IOCTL, RESULT, DONE, RUN = 1, 2, 3, 4

    def __init__(self, path: Path, answer: Answer | None) -> None:
        """Listen at `path`; without `answer` everything is done to the file itself."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no further clients."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        client = Client(connection)
        with connection, contextlib.suppress(EOFError, ConnectionError):
            while True:
                command, request, argument = struct.unpack('=3Q', client.receive(24))
                if self._answer is None:
                    done = (self.DONE, request, argument) if command == self.RESULT else (self.RUN, 0, 0)
                    client.send(*done)
                    continue
                try:
                    if command != self.IOCTL:
                        raise OSError(errno.EIO, 'neither reads nor writes are expected')
                    client.send(self.DONE, self._answer(client, request, argument), 0)
                except OSError as error:
                    client.send(self.DONE, -1, error.errno or errno.EIO)


def camera_driver(camera: Camera) -> Answer:
    """Return the driver of a camera: structures go in and out as their size in the request says."""
    def answer(client: Client, request: int, argument: int) -> int:
        size = request >> 16 & 0x3FFF
        client.write(argument, camera.answer(request, client.read(argument, size)))
        return 0
    return answer


def i2c_driver(bus: FakeBus) -> Answer:
    """Return the driver i2c-dev of a bus (linux/i2c-dev.h, linux/i2c.h), which logs every transfer."""
    slave, force, funcs, smbus, pec = 0x0703, 0x0706, 0x0705, 0x0720, 0x0708

    def answer(client: Client, request: int, argument: int) -> int:
        if request in (slave, force):
            client.address = argument
            if request == slave and argument in bus.taken:
                raise OSError(errno.EBUSY, 'in use')
        elif request == funcs:
            client.write(argument, struct.pack('=Q', bus.funcs))
        elif request == smbus:
            reads, command, kind, data = struct.unpack('=BBxxIQ', client.read(argument, 16))
            _smbus(client, bus, bool(reads), command, kind, data)
        elif request != pec:
            raise OSError(errno.ENOTTY, 'not known')
        return 0
    return answer


def spi_driver(chip: Callable[[bytes], bytes], settings: dict[int, bytes]) -> Answer:
    """Return the driver spidev of a chip (linux/spi/spidev.h); `settings` are mode, speed and the like."""
    message, transfer = 0, 32

    def answer(client: Client, request: int, argument: int) -> int:
        number, size = request & 0xFF, request >> 16 & 0x3FFF
        if request >> 8 & 0xFF != ord('k'):
            raise OSError(errno.ENOTTY, 'not known')
        if number != message:
            if request >> 31:       # the direction, _IOC_READ
                client.write(argument, settings.get(number, b'').ljust(size, b'\0'))
            else:
                settings[number] = client.read(argument, size)
            return 0
        done = 0
        for offset in range(0, size, transfer):
            sent, received, length = struct.unpack('=QQI', client.read(argument + offset, 20))
            reply = chip(client.read(sent, length))
            client.write(received, reply)
            done += length
        return done
    return answer


def _smbus(client: Client, bus: FakeBus, reads: bool, command: int, kind: int, data: int) -> None:
    quick, byte, byte_data, block = 0, 1, 2, 8
    if kind == quick:
        bus.write_quick(client.address)
    elif kind == byte and reads:
        client.write(data, bytes((bus.read_byte(client.address),)))
    elif kind == byte_data and reads:
        client.write(data, bytes((bus.read_byte_data(client.address, command),)))
    elif kind == block and reads:
        length = client.read(data, 1)[0]
        told = bus.read_i2c_block_data(client.address, command, length)
        client.write(data, bytes((length, *told)))
    else:
        raise OSError(errno.EOPNOTSUPP, 'not expected')
