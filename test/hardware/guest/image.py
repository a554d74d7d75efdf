# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the guest boots: Debian's kernel and an initial RAM disk that makes the host's files its root."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
import os
from pathlib import Path
import shutil
import subprocess
import sys
from types import MappingProxyType
import zipfile

#: Debian's package that always depends on the newest kernel image.
META = 'linux-image-amd64'
#: The file of a kernel image.
PACKAGE = 'linux-image-[0-9]*.deb'
#: From PyPI: what the guest needs and the project does not.
PACKAGES = ('usbip==0.7.0',)
TOOLS = {'qemu-system-x86_64': 'qemu-system-x86', 'busybox': 'busybox-static', 'cpio': 'cpio',
         'depmod': 'kmod', 'dpkg-deb': 'dpkg', 'apt-get': 'apt', 'apt-cache': 'apt'}
#: Prints the files of the modules, and the folders of the packages, that the guest's programs import; but
#: no package with libraries in C, or with parts that are in Python itself: no archive can hold all of it.
LIST_MODULES = """
import os, sys, inside, usb_devices, witness
origins = {name: getattr(vars(module).get('__spec__'), 'origin', None) or ''
           for name, module in sys.modules.items()}
mixed = {name.partition('.')[0] for name, origin in origins.items()
         if origin.endswith('.so') or origin == 'frozen'}
for name, origin in origins.items():
    if origin.endswith('.py') and '.' not in name and name not in {'__main__', *mixed}:
        print(os.path.dirname(origin) if origin.endswith('__init__.py') else origin)
"""
#: The way to the host's files, the controllers, and the drivers: a robot that boots has them loaded.
MODULES = ('virtio_pci', '9p', '9pnet_virtio',
           'xhci_pci', 'vhci_hcd', 'dummy_hcd', 'libcomposite', 'usb_f_acm',
           'usbhid', 'hid_generic', 'hid_dr', 'evdev', 'joydev', 'xpad', 'usb_storage', 'sd_mod', 'uvcvideo',
           'snd_usb_audio', 'cdc_acm', 'cdc_ether', 'rndis_host', 'cp210x', 'ch341', 'ftdi_sio', 'gs_usb',
           'i2c_dev', 'i2c_tiny_usb', 'i2c_piix4', 'i2c_stub', 'at24', 'lm75')


class MissingError(RuntimeError):
    """Something that is needed is not there; the message says what to do."""


def check_tools() -> None:
    """Raise MissingError naming all tools that are not installed."""
    paths = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=paths) is None})
    if missing:
        raise MissingError(f"install first: apt install {' '.join(missing)}")


def kernel(folder: Path) -> Path:
    """Return the folder of the kernel package's files, fetched and unpacked if it is not there."""
    unpacked = folder / 'kernel'
    if not (unpacked / 'complete').exists():
        shutil.rmtree(unpacked, ignore_errors=True)
        package = next(iter(folder.glob(PACKAGE)), None) or _download(folder)
        _run('dpkg-deb', '-x', package, unpacked)
        version, = (unpacked / 'lib' / 'modules').iterdir()
        _run('depmod', '-b', unpacked, version.name)
        (unpacked / 'complete').touch()
    return unpacked


def packages(folder: Path) -> Path:
    """Return the folder of the Python packages, fetched if they are not there."""
    target = folder / 'packages'
    wanted = '\n'.join(PACKAGES)
    if not (target / 'complete').exists() or (target / 'complete').read_text() != wanted:
        shutil.rmtree(target, ignore_errors=True)
        _run(sys.executable, '-m', 'pip', 'install', '--disable-pip-version-check', '--quiet', '--no-deps',
             '--target', target, *PACKAGES, remedy='is the network (PyPI) reachable?')
        (target / 'complete').write_text(wanted)
    return target


def library(folder: Path, packages: Path) -> Path:
    """
    Return an archive of the Python modules that the guest imports, compiled.

    It reads one file instead of asking the host for hundreds, which takes half a minute.
    """
    told = _run(sys.executable, '-S', '-c', LIST_MODULES, environment={
        'PYTHONPATH': os.pathsep.join([str(Path(__file__).parent), *sys.path[1:], str(packages)])})
    file = folder / 'library.zip'
    with zipfile.PyZipFile(str(file), 'w') as archive:
        for source in told.splitlines():
            archive.writepy(source)
    return file


def ram_disk(folder: Path, unpacked: Path, library: Path) -> Path:
    """Make the initial RAM disk; return the file."""
    root = folder / 'ram_disk'
    shutil.rmtree(root, ignore_errors=True)
    for name in ('bin', 'proc', 'sys', 'dev', 'modules', 'host'):
        (root / name).mkdir(parents=True)
    shutil.copy(str(shutil.which('busybox')), root / 'bin' / 'busybox')
    shutil.copy(Path(__file__).with_name('init.sh'), root / 'init')
    (root / 'init').chmod(0o755)
    shutil.copy(library, root / 'library.zip')
    for number, module in enumerate(_in_order(next((unpacked / 'lib' / 'modules').iterdir()))):
        shutil.copy(module, root / 'modules' / f'{number:03}-{module.name}')
    file = folder / 'ram_disk.cpio'
    names = '\n'.join(str(path.relative_to(root)) for path in sorted(root.rglob('*')))
    with file.open('wb') as output:
        subprocess.run(['cpio', '--quiet', '-o', '-H', 'newc', '-R', '0:0'], cwd=root, input=names.encode(),
                       stdout=output, check=True)
    return file


def _in_order(modules: Path) -> list[Path]:
    """Return the files of MODULES and what they need, each after what it needs (modules.dep(5))."""
    needs = {}
    for line in (modules / 'modules.dep').read_text().splitlines():
        module, _, rest = line.partition(':')
        needs[module] = rest.split()
    names = {Path(module).name.partition('.')[0].replace('-', '_'): module for module in needs}

    def chain(module: str) -> Iterator[str]:
        yield from reversed(needs[module])
        yield module
    return [modules / module for module in dict.fromkeys(m for name in MODULES for m in chain(names[name]))]


def _download(folder: Path) -> Path:
    """Fetch Debian's kernel package, which is not installed; return the file."""
    told = _run('apt-cache', 'depends', META, remedy=f'{META} is a package of Debian: run it there, or put a '
                f'linux-image-*-amd64_*.deb of Debian into {folder}')
    name = told.partition('Depends: ')[2].partition('\n')[0]
    _run('apt-get', 'download', name, cwd=folder,
         remedy=f'is the network reachable, and were the lists read (apt update)? Or put it into {folder}')
    return next(iter(folder.glob(PACKAGE)))


def _run(*command: str | Path, remedy: str = '', cwd: Path | None = None,
         environment: Mapping[str, str] = MappingProxyType({})) -> str:
    everything = {**os.environ, 'PATH': f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", 'LC_ALL': 'C',
                  **environment}
    ran = subprocess.run([str(word) for word in command], cwd=cwd, env=everything, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if ran.returncode:
        raise MissingError(f"'{' '.join(map(str, command))}' failed: {ran.stdout.strip()[-400:]}\n{remedy}")
    return ran.stdout
