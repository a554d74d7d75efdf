# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Manifests, versions, dependencies and data files agree with each other and with the sources."""
from __future__ import annotations

import ast
from pathlib import Path
import re
import runpy
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

from catkin_pkg.package import Package, parse_package
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INTERFACES = ROOT / 'src' / 'muster_interfaces'
MANIFESTS = [ROOT, INTERFACES]
#: Importable module → rosdep key, where the two differ.
KEYS = {'catkin_pkg': 'python3-catkin-pkg', 'smbus2': 'python3-smbus2-pip',
        'spidev': 'python3-spidev-pip',
        **{module: f'python3-{module}' for module in (
            'hypothesis', 'matplotlib', 'msgpack', 'numpy', 'psutil', 'pytest', 'pyudev', 'rich', 'serial',
            'yaml')}}
OWN = {'muster', 'muster_interfaces'}
#: Without a rosdep key, and needed by the one module that imports it alone.
OPTIONAL = {'gymnasium'}


def imported(*folders: str) -> dict[str, Path]:
    """
    Return the modules of others that the sources below some folders import, and where.

    Without the folders `peers` and `guest`: what is in them runs elsewhere, with packages of its own
    (`make peers`, `make test-qemu`).
    """
    found: dict[str, Path] = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob('*.py')):
        if path.parent.name in ('peers', 'guest'):
            continue
        local = {p.stem for p in path.parent.iterdir()} | {'processes'}
        if path.is_relative_to(ROOT / 'benchmarks'):  # its subfolder imports from it, and all from the tests
            local |= {p.stem for folder in ('benchmarks', 'test', 'test/hardware')
                      for p in (ROOT / folder).iterdir()}
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for module in {name.split('.')[0] for name in names}:
                if module not in sys.stdlib_module_names and module != 'muster' \
                        and module not in local | OPTIONAL:
                    found.setdefault(module, path)
    return found


def depends(package: Package, *kinds: str) -> set[str]:
    """Return the names of the dependencies of some kinds."""
    return {depend.name for kind in kinds for depend in getattr(package, f'{kind}_depends')}


@pytest.mark.parametrize('folder', MANIFESTS, ids=lambda folder: folder.name)
def test_the_manifest_is_well_formed(folder: Path) -> None:
    warnings: list[str] = []
    package = parse_package(str(folder), warnings=warnings)  # validates, also the e-mail addresses
    assert warnings == []
    assert package.package_format == 3
    assert package.licenses == ['Apache-2.0'], 'an SPDX identifier'
    assert {url.type for url in package.urls} >= {'website', 'repository'}
    assert ElementTree.parse(folder / 'package.xml').getroot().findtext('name') == package.name


def test_the_licence_is_there() -> None:
    assert 'Apache License\n                           Version 2.0' in (ROOT / 'LICENSE').read_text()


@pytest.mark.parametrize('folder', MANIFESTS, ids=lambda folder: folder.name)
def test_the_changelog_ends_at_the_version_of_the_manifest(folder: Path) -> None:
    changes = (folder / 'CHANGELOG.rst').read_text()
    versions = re.findall(r'^(\d+\.\d+\.\d+) \(.+\)\n-+$', changes, re.MULTILINE)
    assert versions[0] == parse_package(str(folder)).version


def test_setup_py_says_what_the_manifest_says() -> None:
    ran = subprocess.run([sys.executable, 'setup.py', '--quiet', '--name', '--version', '--license',
                          '--maintainer', '--maintainer-email'],
                         cwd=ROOT, capture_output=True, text=True, check=True)
    package = parse_package(str(ROOT))
    maintainer, = package.maintainers
    assert ran.stdout.split('\n')[:5] == [package.name, package.version, package.licenses[0],
                                          maintainer.name, maintainer.email]


def test_both_packages_have_one_version() -> None:
    assert len({parse_package(str(folder)).version for folder in MANIFESTS}) == 1


def test_every_import_has_a_dependency() -> None:
    package = parse_package(str(ROOT))
    run_time = depends(package, 'exec')
    for module, path in imported('src/muster', 'launch').items():
        assert KEYS.get(module, module) in run_time, f'{path} imports {module}'
    everything = run_time | depends(package, 'test')
    for module, path in imported('test', 'benchmarks', 'examples').items():
        assert KEYS.get(module, module) in everything, f'{path} imports {module}'


def test_every_dependency_is_imported() -> None:
    modules = {KEYS.get(module, module) for module in imported('src/muster', 'launch')}
    assert depends(parse_package(str(ROOT)), 'exec') <= modules


def test_the_interfaces_declare_the_packages_they_use() -> None:
    cmake = (INTERFACES / 'CMakeLists.txt').read_text()
    used = {match for path in INTERFACES.glob('[ms][sr][gv]/*')
            for match in re.findall(r'^(\w+)/\w+(?:\[\d*\])? ', path.read_text(), re.MULTILINE)} - OWN
    assert used
    assert used <= depends(parse_package(str(INTERFACES)), 'build', 'exec')
    for name in used:
        assert f'find_package({name} REQUIRED)' in cmake


def test_yaml_files_parse() -> None:
    found = [*(ROOT / 'config').rglob('*.yaml'), *ROOT.glob('*.yaml'), ROOT / 'colcon.meta']
    assert len(found) > 3
    for path in found:
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


def test_what_setup_py_installs_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setattr('setuptools.setup', given.update)
        runpy.run_path(str(ROOT / 'setup.py'))
    installed = {file for _, files in given['data_files'] for file in files}
    assert [name for name in installed if not (ROOT / name).is_file()] == []
    assert installed >= {str(path.relative_to(ROOT)) for folder in ('config', 'launch')
                         for path in (ROOT / folder).rglob('*') if path.is_file() and path.suffix != '.pyc'}
