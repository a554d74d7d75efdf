# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
#
# Source it (bash): this clone's Python, ROS 2 and build on the paths. `make shell` does it for you.
_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$_root/.venv/bin/activate"
if [ -z "${ROS_DISTRO:-}" ]; then
  # The wheels keep packages below the environment, and their libraries in folders that their
  # bootstrapper adds by running Python a second time: doing it here saves that at every start.
  export AMENT_PREFIX_PATH="$VIRTUAL_ENV" CMAKE_PREFIX_PATH="$VIRTUAL_ENV"
  for _libs in "$VIRTUAL_ENV"/lib "$VIRTUAL_ENV"/lib/python3.12/site-packages/ros_*.libs; do
    LD_LIBRARY_PATH="$_libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  done
  export LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE=1 ROS_VERSION=2 ROS_PYTHON_VERSION=3
fi
[ ! -f "$_root/install/local_setup.bash" ] || . "$_root/install/local_setup.bash"
unset _root _libs
