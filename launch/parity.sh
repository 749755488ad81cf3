#!/usr/bin/env bash
# Compares Switchyard with PyTorch and Hugging Face transformers, live.
#
#   launch/parity.sh [--venv DIR] [--seed N] [--no-install] [TEST...]
#
# Installs torch, transformers, safetensors, peft, h5py and tensorboard into a virtual environment (build/parity-venv, or DIR) unless they are
# there, builds, and runs tests/parity/live.py: fixtures of another seed, exports that transformers loads, and forms of files
# that transformers saves. TEST names some of its tests.
set -Eeuo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=build/parity-venv
install=yes
arguments=()

usage() { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case "$1" in
  --venv) [ $# -ge 2 ] || usage; venv=$2; shift ;;
  --seed) [ $# -ge 2 ] || usage; arguments+=(--seed "$2"); shift ;;
  --no-install) install=no ;;
  -*) usage ;;
  *) arguments+=("$1") ;;
  esac
  shift
done

packages="torch transformers safetensors h5py numpy peft tensorboard" # transformers 5 or later
has_packages() { "$venv/bin/python3" -c "import ${packages// /, }" 2>/dev/null; }

if ! has_packages; then
  if [ "$install" = no ]; then
    echo "parity: $venv lacks one of: $packages" >&2
    exit 1
  fi
  echo "parity: installing $packages into $venv"
  [ -x "$venv/bin/python3" ] || python3 -m venv "$venv"
  # The wheels without CUDA are a tenth as large; their index cannot be reached from everywhere.
  "$venv/bin/python3" -m pip install --quiet --retries 0 --index-url https://download.pytorch.org/whl/cpu torch 2>/dev/null ||
    "$venv/bin/python3" -m pip install --quiet torch
  "$venv/bin/python3" -m pip install --quiet "transformers>=5" safetensors h5py numpy peft tensorboard
fi

[ -e build/build.ninja ] || meson setup build
ninja -C build launch/switchyard tests/parity/test_parity
export SWITCHYARD=build/launch/switchyard TEST_PARITY=build/tests/parity/test_parity
"$venv/bin/python3" tests/parity/live_tensorboard.py
exec "$venv/bin/python3" tests/parity/live.py "${arguments[@]}"
