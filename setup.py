# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Build the ament_python package `muster`; run by colcon, not by hand."""
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'muster'
ROOT = Path(__file__).resolve().parent


def share(*folders: str) -> list[tuple[str, list[str]]]:
    """Return data_files rows that install whole folders under share/muster."""
    rows = []
    for folder in folders:
        for directory in sorted({p.parent for p in (ROOT / folder).rglob('*') if p.is_file()}):
            files = [str(p.relative_to(ROOT)) for p in sorted(directory.iterdir())
                     if p.is_file() and p.suffix != '.pyc']
            if files:
                rows.append((f'share/{PACKAGE}/{directory.relative_to(ROOT)}', files))
    return rows


setup(
    name=PACKAGE,
    version='0.1.0',
    package_dir={'': 'src'},
    packages=find_packages('src', include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={f'{PACKAGE}.hardware': ['usb_names.tsv'], f'{PACKAGE}.ros': ['profiles/*.xml']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        ('bin', ['resource/bin/muster']),
        *share('launch', 'config'),
    ],
    install_requires=['setuptools'],
    extras_require={'test': ['pytest'], 'onnx': ['onnxruntime']},
    zip_safe=True,
    maintainer='Muster maintainers',
    maintainer_email='maintainers@muster-robotics.org',
    description='Turns single ROS 2 robots into a fleet.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'cluster_node = muster.cluster.node:main',
            'learning_node = muster.learning.node:main',
            'hardware_node = muster.hardware.node:main',
            'world_node = muster.simulation.node:main',
            'composed_node = muster.composed:main',
            'muster = muster.cli:main',
        ],
    },
)
