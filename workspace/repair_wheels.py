# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Point the CMake files of the ROS 2 wheels at this environment.

The wheels carry the absolute Python and NumPy include directories of the machine that built
them; `rosidl` passes both to the compiler of every interface package.
"""
from pathlib import Path
import sys
import sysconfig

import numpy

BUILD_PREFIX = '/opt/python/cp312-cp312'
REPLACEMENTS = {
    f'{BUILD_PREFIX}/lib/python3.12/site-packages/numpy/_core/include': numpy.get_include(),
    f'{BUILD_PREFIX}/include/python3.12': sysconfig.get_path('include'),
}


def main() -> None:
    """Rewrite both paths in every exported CMake file below `share`."""
    for path in (Path(sys.prefix) / 'share').glob('*/cmake/*.cmake'):
        text = repaired = path.read_text()
        for wrong, right in REPLACEMENTS.items():
            repaired = repaired.replace(wrong, right)
        if repaired != text:
            path.write_text(repaired)


if __name__ == '__main__':
    main()
