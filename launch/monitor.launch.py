# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Show the fleet in rviz: `ros2 launch muster monitor.launch.py`."""
from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory, PackageNotFoundError
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description() -> LaunchDescription:
    """Return rviz with the picture of the fleet, or what to install for it."""
    view = Path(get_package_share_directory('muster')) / 'config' / 'rviz' / 'fleet.rviz'
    argument = DeclareLaunchArgument('rviz_config', default_value=str(view),
                                     description='The picture that rviz shows.')
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError:
        return LaunchDescription([argument, LogInfo(
            msg='rviz2 is not installed: install it (apt install ros-$ROS_DISTRO-rviz2)')])
    return LaunchDescription([argument, Node(package='rviz2', executable='rviz2', output='screen',
                                             arguments=['-d', LaunchConfiguration('rviz_config')])])
