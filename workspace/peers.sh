#!/usr/bin/env bash
# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
#
# Makes .peers: the libraries that the benchmarks of learning compare with, away from what Muster
# itself needs. Two environments, because Avalanche needs torchvision, and that another torch; what
# cannot be installed is left out, and its figures with it. PEERS_TORCH names the torch to install,
# as PEERS_TORCH='torch --index-url https://download.pytorch.org/whl/cpu' for one without CUDA.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\033[1m[peers]\033[0m %s\n' "$*"; }

find_python() {
  local candidate
  for candidate in "${PEERS_PYTHON:-python3.11}" /usr/bin/python3.11 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.11*/bin/python3.11 python3; do
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then echo "$candidate"; return; fi
  done
  say "no Python with venv was found: install it (apt install python3-venv)" >&2; exit 1
}

environment() {  # environment NAME FIRST THEN...: FIRST decides which torch it is
  local folder=.peers/$1 first=$2; shift 2
  [ ! -f "$folder/.made" ] || return 0
  say "$folder: $first, then $* (details in .peers/install.txt)"
  rm -rf "$folder"
  "$python" -m venv "$folder"
  # Unquoted: it may be a package with options.
  "$folder/bin/pip" install --disable-pip-version-check $first >> .peers/install.txt 2>&1 || { say "$first could not be installed"; return 0; }
  local package
  for package; do
    "$folder/bin/pip" install --disable-pip-version-check "$package" >> .peers/install.txt 2>&1 || say "$package could not be installed: no such peer"
  done
  touch "$folder/.made"
}

python=$(find_python)
mkdir -p .peers
environment reinforcement "${PEERS_TORCH:-torch==2.13.0}" gymnasium stable-baselines3 tianshou
environment continual "torch==2.14.1 torchvision==0.29.1" avalanche-lib scikit-learn
say "made: $(ls -d .peers/*/ | tr '\n' ' ')"
