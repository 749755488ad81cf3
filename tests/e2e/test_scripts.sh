#!/usr/bin/env bash
# The shell scripts of launch/ and configs/ where they are used wrongly, and mpirun.sh as a user starts it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# expect STATUS WORDS COMMAND...: exit status and a text in what it prints
expect() {
  local status=$1 words=$2 rc=0
  shift 2
  "$@" >"$work/out" 2>&1 </dev/null || rc=$?
  if [ $rc -ne "$status" ] || { [ -n "$words" ] && ! grep -qF -- "$words" "$work/out"; }; then
    echo "FAIL: $*: exit status $rc, wanted $status and '$words'; it said:"
    sed 's/^/    /' "$work/out"
    failed=1
  fi
}

# one program, found by name and by nobody else
only() {
  rm -rf "${work:?}/bin"
  mkdir "$work/bin"
  local tool
  for tool in bash cat sed sort tr mktemp rm tail dirname "$@"; do
    ln -s "$(command -v "$tool")" "$work/bin/$tool"
  done
}

expect 2 "launch/mpirun.sh [OPTIONS] -n RANKS PROGRAM" launch/mpirun.sh
expect 2 "launch/mpirun.sh [OPTIONS] -n RANKS PROGRAM" launch/mpirun.sh -n 0 true
expect 2 "launch/mpirun.sh [OPTIONS] -n RANKS PROGRAM" launch/mpirun.sh -n 2
expect 2 "launch/mpirun.sh [OPTIONS] -n RANKS PROGRAM" launch/mpirun.sh --bind no -n 2 true
expect 1 "'no_such_mpirun' was not found" env MPIRUN=no_such_mpirun launch/mpirun.sh -n 2 true

# What ended jobs left on another host is removed before the next one starts there, and nobody else's.
echo 'elsewhere slots=1' >"$work/elsewhere"
# shellcheck disable=SC2016 # the script's arguments, not ours
printf '#!/bin/bash\nshift\nexec sh -c "$*"\n' >"$work/shell"
chmod +x "$work/shell"
left=/dev/shm/vader_segment.elsewhere.$(id -u)
touch "$left".7ffd0001.{0,1} "$left".7ffe0001.0
expect 0 "elsewhere 1" env SY_RSH="$work/shell" SY_ENDED_JOBS='7ffc0001 7ffd0001' launch/hosts.sh "$work/elsewhere" 1
expect 2 "" sh -c "ls $left.7ffd*"
expect 0 "" ls "$left".7ffe0001.0
rm -f "$left".7ff[de]*

ranks=$(($(nproc) + 2))
# shellcheck disable=SC2016 # the ranks' variable, not ours
expect 0 "rank $((ranks - 1)) of $ranks" env OMP_NUM_THREADS=$ranks launch/mpirun.sh -n "$ranks" bash -c 'echo "rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE"'
expect 75 "" launch/mpirun.sh -n 2 bash -c 'exit 75'

# hosts TEXT: writes a host file
hosts() { printf '%b' "$1" >"$work/hosts"; }
on_hosts() { SY_RSH=$work/rsh launch/mpirun.sh --hosts "$work/hosts" -n 2 "$@"; }
printf '#!/bin/sh\n[ "$1" != away ]\n' >"$work/rsh" # every host answers but one
chmod +x "$work/rsh"
expect 2 "cannot read the host file" on_hosts true
hosts '# mine\n\n'
expect 2 "no host is named in it" on_hosts true
hosts 'localhost\n# one more\nlocalhost slots=2\n'
expect 2 "line 3: host 'localhost' stands in line 1 already" on_hosts true
hosts 'localhost\n127.0.0.1\n'
expect 2 "line 2: host '127.0.0.1'" on_hosts true
hosts 'localhost\naway slots=2\n'
expect 2 "from 'away' (line 2)" on_hosts true
hosts 'localhost slots=0\n'
expect 2 "line 1: 'slots=0' is not understood" on_hosts true
hosts 'ssh;me\n'
expect 2 "line 1: 'ssh;me' is not the name" on_hosts true
hosts 'localhost slots=1\n'
expect 2 "has 1 slots, and 2 ranks are asked for" on_hosts true
hosts 'localhost\r\n\r\n'
expect 0 "here" on_hosts echo here
hosts 'localhost # this one'
expect 0 "here" on_hosts echo here

expect 2 "there is no suite 'unti'" launch/test.sh --suite unti
expect 2 "launch/test.sh [--long]" launch/test.sh --fast
expect 2 "launch/quickstart.sh [--no-install]" launch/quickstart.sh --fast
expect 2 "launch/deps.sh --no-install" launch/deps.sh --fast
expect 2 "launch/supervise.sh [OPTIONS] -n RANKS PROGRAM train" launch/supervise.sh
expect 2 "there is no launch/supervise.sh in 'nowhere'" env SWITCHYARD_HOME=nowhere launch/slurm.sbatch true
expect 0 "" launch/deps.sh --no-install

expect 2 'configs/btx/run.sh [--seeds "1 2"]' configs/btx/run.sh --fast
expect 2 'configs/btx/run.sh [--seeds "1 2"]' configs/btx/run.sh --seeds "1 two"
expect 1 "there is no program" env SWITCHYARD=nowhere configs/btx/run.sh --no-build --out "$work/btx"
if [ -n "${SY_TEST_LONG:-}" ]; then # everything, a few steps each
  expect 0 "| BTX, merged and trained |" configs/btx/run.sh --quick --no-build --out "$work/btx"
fi

# a machine with nothing: what is missing is named, and how to get it
only
expect 1 "packages are missing: build-essential" env PATH="$work/bin" launch/deps.sh --no-install
expect 1 "there is no apt-get here" env PATH="$work/bin" launch/deps.sh
only apt-get id
ln -sf /bin/false "$work/bin/apt-get"
printf '#!%s\necho 1000\n' "$(command -v bash)" >"$work/id"
chmod +x "$work/id"
mv "$work/id" "$work/bin/id"
expect 1 "neither root nor sudo is at hand" env PATH="$work/bin" launch/deps.sh

exit $failed
