# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Start the nodes of one robot: `ros2 launch muster bringup.launch.py namespace:=robot_1`."""
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.launch_context import LaunchContext
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.logging import launch_config
from launch_ros.actions import Node
from muster.bringup import default_params, default_robot, founders, LOG_LEVELS, NODES, parse_nodes
import yaml

FLAG = ['true', 'false']
RESPAWN_DELAY = 2.0


def arguments() -> list[DeclareLaunchArgument]:
    """Return the arguments, each described."""
    return [
        DeclareLaunchArgument('namespace', default_value=default_robot(),
                              description='Name of the robot, unique in the fleet.'),
        DeclareLaunchArgument('params_file', default_value=str(default_params()),
                              description='Parameter file of all nodes.'),
        DeclareLaunchArgument('nodes', default_value=' '.join(NODES),
                              description='Which nodes, separated by spaces.'),
        DeclareLaunchArgument('composed', default_value='false', choices=FLAG,
                              description='Run the nodes in one process instead of one process each.'),
        DeclareLaunchArgument('autostart', default_value='true', choices=FLAG,
                              description='Let each node configure and activate itself.'),
        DeclareLaunchArgument('use_respawn', default_value='true', choices=FLAG,
                              description=f'Start a node again {RESPAWN_DELAY:g} s after it ended.'),
        DeclareLaunchArgument('use_sim_time', default_value='false', choices=FLAG,
                              description='Take the time from /clock.'),
        DeclareLaunchArgument('log_level', default_value='info', choices=list(LOG_LEVELS),
                              description='Least severe messages to show.'),
        DeclareLaunchArgument('data', default_value='',
                              description='Keep durable data in <data>/<namespace>; empty: $MUSTER_HOME, '
                              'else ~/.local/state/muster.'),
        DeclareLaunchArgument('members', default_value='',
                              description='Robots that found the cluster together, separated by spaces; '
                              'empty: see params_file.'),
    ]


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return a process for each node, or one for all."""
    given = context.launch_configurations
    robot = given['namespace'].strip('/')
    parameters: list[object] = [given['params_file']]
    if given['members']:  # written beside the logs; one file serves the composed process, too
        path = Path(launch_config.log_dir) / f'{robot}.yaml'
        path.write_text(yaml.safe_dump(founders(given['members'].split())))
        parameters.append(str(path))
    parameters.append({'use_sim_time': given['use_sim_time'] == 'true',
                       'autostart': given['autostart'] == 'true'})
    names = parse_nodes(given['nodes'])
    composed = given['composed'] == 'true'
    processes = [('composed_node', list(names))] if composed else [(f'{name}_node', []) for name in names]
    entities: list[LaunchDescriptionEntity] = []
    if given['data']:
        home = Path(given['data']).expanduser().absolute()
        entities.append(SetEnvironmentVariable('MUSTER_HOME', str(home)))
    for executable, selected in processes:
        entities.append(Node(
            package='muster', executable=executable, arguments=selected, namespace=robot,
            parameters=parameters, ros_arguments=['--log-level', given['log_level']], output='screen',
            respawn=given['use_respawn'] == 'true', respawn_delay=RESPAWN_DELAY))
    return entities


def generate_launch_description() -> LaunchDescription:
    """Return the description of one robot."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=nodes)])
