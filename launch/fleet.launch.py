# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Start a fleet of simulated robots in one world: `ros2 launch muster fleet.launch.py robots:=3`."""
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_context import LaunchContext
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from muster.bringup import default_params, LOG_LEVELS, NODES

FLAG = ['true', 'false']
MAX_ROBOTS = 32
BRINGUP = Path(__file__).parent / 'bringup.launch.py'


def arguments() -> list[DeclareLaunchArgument]:
    """Return the arguments, each described."""
    return [
        DeclareLaunchArgument('robots', default_value='3',
                              description=f'How many robots: robot_1, robot_2, ... (1..{MAX_ROBOTS}).'),
        DeclareLaunchArgument('params_file', default_value=str(default_params()),
                              description='Parameter file of all robots.'),
        DeclareLaunchArgument('nodes', default_value=' '.join(NODES),
                              description='Which nodes each robot runs, separated by spaces.'),
        DeclareLaunchArgument('composed', default_value='false', choices=FLAG,
                              description='Run the nodes of a robot in one process.'),
        DeclareLaunchArgument('use_respawn', default_value='true', choices=FLAG,
                              description='Start a node again after it ended.'),
        DeclareLaunchArgument('use_sim_time', default_value='false', choices=FLAG,
                              description='Let the world publish /clock and all nodes follow it.'),
        DeclareLaunchArgument('real_time_factor', default_value='1.0',
                              description='Seconds of simulated time in a second.'),
        DeclareLaunchArgument('log_level', default_value='info', choices=list(LOG_LEVELS),
                              description='Least severe messages to show.'),
        DeclareLaunchArgument('data', default_value='~/.local/state/muster/simulation',
                              description='Keep the durable data of each robot in <data>/<robot>.'),
    ]


def fleet(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return the world and the bring-up of each robot."""
    given = context.launch_configurations
    count = given['robots']
    if not count.isdecimal() or not 1 <= int(count) <= MAX_ROBOTS:
        raise RuntimeError(f"argument 'robots' must be within 1..{MAX_ROBOTS}, not '{count}'")
    names = [f'robot_{number}' for number in range(1, int(count) + 1)]
    simulated = given['use_sim_time'] == 'true'
    world = Node(package='muster', executable='world_node', output='screen',
                 parameters=[{'robots': names, 'publish_clock': simulated,
                              'real_time_factor': float(given['real_time_factor'])}],
                 ros_arguments=['--log-level', given['log_level']])
    handed_on = ('params_file', 'nodes', 'composed', 'use_respawn', 'use_sim_time', 'log_level', 'data')
    robots = [GroupAction([IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(BRINGUP)),
        launch_arguments={**{name: given[name] for name in handed_on},
                          'namespace': robot, 'members': ' '.join(names)}.items())]) for robot in names]
    return [world, *robots]


def generate_launch_description() -> LaunchDescription:
    """Return the description of the fleet."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=fleet)])
