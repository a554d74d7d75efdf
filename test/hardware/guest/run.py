# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Plugs emulated hardware in and out of a virtual machine, and prints what Muster saw and how fast.

What it needs is fetched into a folder and kept there. Its exit code is 0 where every device was seen
as what it is; delays are measured from the kernel's own event on, and printed without a judgement.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
from pathlib import Path
import queue
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from typing import Any

import image

ROOT = Path(__file__).resolve().parents[3]
#: Seconds until the first sign of life on real virtualisation, until the guest is ready, and for a device.
KVM_START, START, STEP = 15.0, 300.0, 120.0
COLUMNS = '{:<24} {:<7} {:<16} {:<40} {:>5} {:>9} {:>7} {:>9} {:>7}  {}'
HEADS = ('|||||plug|Muster|unplug|Muster|', 'device|via|type|name|conf.|kernel|beyond|kernel|beyond|')


class GuestError(RuntimeError):
    """The guest did not start, or stopped answering."""


class Guest:
    """A virtual machine: lines of JSON from its program, and the monitor of QEMU."""

    def __init__(self, accelerator: str, folder: Path, environment: dict[str, str], log: Path) -> None:
        """Start it; `folder` is for its sockets."""
        kernel, disk = environment.pop('kernel'), environment.pop('disk')
        words = ' '.join(f'{name}={value}' for name, value in environment.items())
        errors = (log.parent / 'qemu.log').open('w')
        self._process = subprocess.Popen([
            'qemu-system-x86_64', '-accel', accelerator, '-machine', 'pc', '-cpu', 'max', '-smp', '2',
            '-m', '1024', '-nodefaults', '-display', 'none', '-no-reboot', '-kernel', kernel, '-initrd', disk,
            '-append', f'console=ttyS0 quiet panic=-1 mitigations=off {words}',
            '-virtfs', 'local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap',
            '-serial', f'file:{log}', '-serial', 'stdio', '-qmp', f'unix:{folder}/qmp,server=on,wait=off',
            '-device', 'qemu-xhci,id=xhci', '-blockdev', 'driver=null-co,node-name=stick,size=67108864',
            '-audiodev', 'none,id=silence', '-netdev', 'hubport,id=wire,hubid=0',
        ], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        errors.close()  # QEMU has it
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._monitor: Any = None
        self._folder = folder

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put('')

    def hear(self, timeout: float) -> dict[str, Any]:
        """Return what the program tells next, carrying out what it asks of QEMU meanwhile."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise GuestError(f'the guest was silent for {timeout:.0f} s') from None
            if not line:
                raise GuestError('the guest stopped')
            with contextlib.suppress(json.JSONDecodeError):  # the firmware writes here as well
                told: dict[str, Any] = json.loads(line)
                if 'qmp' not in told:
                    return told
                self._answer(self._command(told['qmp']))

    def _answer(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + '\n')
        self._process.stdin.flush()

    def _command(self, command: dict[str, Any]) -> dict[str, Any]:
        if self._monitor is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(f'{self._folder}/qmp')
            self._monitor = connection.makefile('rw')
            self._monitor.readline()
            self._command({'execute': 'qmp_capabilities'})
        self._monitor.write(json.dumps(command) + '\n')
        self._monitor.flush()
        return next(answer for answer in map(json.loads, self._monitor) if 'event' not in answer)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def start(environment: dict[str, str], folder: Path, log: Path) -> Guest:
    """Return a guest whose program runs: on KVM, where one really starts on it, else emulated."""
    if os.access('/dev/kvm', os.R_OK | os.W_OK):
        guest = Guest('kvm', folder, dict(environment), log)
        try:
            guest.hear(KVM_START)
            return guest
        except GuestError as error:
            guest.stop()
            print(f'No guest starts on /dev/kvm ({error}): its processor is emulated.', flush=True)
    guest = Guest('tcg,thread=multi', folder, dict(environment), log)
    try:
        guest.hear(START)
    except GuestError:
        guest.stop()
        raise
    return guest


def show(row: dict[str, Any]) -> None:
    """Print a line of the table."""
    print(COLUMNS.format(
        row['label'], row['via'], row.get('type', '-'), row.get('name', '-')[:40],
        f"{row['confidence']:.2f}" if 'confidence' in row else '-',
        *(f'{row[key] * 1000:.0f} ms' if key in row else '-'
          for key in ('plug_kernel', 'plug_ours', 'unplug_kernel', 'unplug_ours')),
        row['fault'] or 'ok'), flush=True)


def summary(rows: list[dict[str, Any]], key: str) -> str:
    """Return the median and the worst of a delay."""
    values = sorted(row[key] * 1000 for row in rows if key in row)
    if not values:
        return 'none'
    return f'p50 {values[len(values) // 2]:.0f} ms, max {values[-1]:.0f} ms'


def run(environment: dict[str, str], log: Path) -> bool:
    """Exercise all devices; return whether all were seen as what they are."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        guest = start(environment, Path(folder), log)
        try:
            ready = guest.hear(START)
            print(f"Ready after {time.monotonic() - started:.1f} s: {ready['devices']} devices, events from "
                  f"{ready['sender']}.\n\n" + '\n'.join(COLUMNS.format(*head.split('|')) for head in HEADS))
            rows = []
            while 'row' in (told := guest.hear(STEP)):
                rows.append(told['row'])
                show(rows[-1])
        finally:
            guest.stop()
    wrong = sum(bool(row['fault']) for row in rows)
    print(f"\n{len(rows) - wrong} of {told['end']} devices were seen as what they are.")
    told_of = [row for row in rows if 'plug_kernel' in row]
    print(f"Plugged in, beyond the kernel: {summary(told_of, 'plug_ours')} (target 100 ms).")
    print(f"Pulled out, beyond the kernel: {summary(told_of, 'unplug_ours')} (target 150 ms); the node adds "
          'its `disconnect_grace` to that.')
    scanned = [row for row in rows if 'plug_kernel' not in row]
    print(f"Chips that only a scan finds, from its beginning on: {summary(scanned, 'plug_ours')}.")
    return not wrong and len(rows) == told['end']


def udevd() -> str:
    """Return the host's udevd, which the guest can run, too; raises MissingError where it has none."""
    found = shutil.which('systemd-udevd', path='/usr/lib/systemd:/lib/systemd')
    if found is None:
        raise image.MissingError('there is no systemd-udevd to run in the guest: apt install udev')
    return found


def main() -> int:
    """Prepare, run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--folder', type=Path, default=ROOT / '.qemu', help='where what is fetched is kept')
    parser.add_argument('--udevd', action='store_true', help="with the host's udevd running in the guest")
    parser.add_argument('--only', default='', metavar='TEXT', help='devices with TEXT in their labels')
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the guest ends, too
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'console.log'
    try:
        image.check_tools()
        unpacked = image.kernel(folder)
        packages = image.packages(folder)
        library = image.library(folder, packages)
        search = ['/run/library.zip', ROOT / 'src', packages, sysconfig.get_path('purelib')]
        environment = {
            'kernel': str(next((unpacked / 'boot').glob('vmlinuz-*'))),
            'disk': str(image.ram_disk(folder, unpacked, library)),
            'MUSTER_ROOT': str(ROOT), 'MUSTER_PYTHON': sys.executable, 'MUSTER_ONLY': arguments.only,
            'PYTHONPATH': os.pathsep.join(map(str, search)),
            'MUSTER_UDEVD': udevd() if arguments.udevd else ''}
        return 0 if run(environment, log) else 1
    except image.MissingError as error:
        print(error, file=sys.stderr)
    except GuestError as error:
        told = ''.join(file.read_text(errors='replace')[-2000:] for file in (log, folder / 'qemu.log'))
        print(f'{error}; its console, and what QEMU told:\n{told}', file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main())
