# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Hardware: what devices there are, what they are, and what they can do; importable without ROS."""
from muster.hardware.discovery import HardwareAutoDiscoverySystem, HardwareType

__all__ = ['HardwareAutoDiscoverySystem', 'HardwareType']
