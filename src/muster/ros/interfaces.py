# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Stop with one clear line where the message types were not built.

Import it before anything of `muster_interfaces`. A class is imported, not the package: the source
folder alone is importable as an empty namespace package.
"""
try:
    from muster_interfaces.msg import ErrorCode as ErrorCode  # noqa: F401
except ImportError as error:
    raise SystemExit(
        'muster: the message types (muster_interfaces) are not built or not sourced. In a clone run '
        "'make shell'; in a colcon workspace run 'colcon build --packages-up-to muster' and "
        "'source install/setup.bash'.") from error
