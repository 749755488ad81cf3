#!/usr/bin/env bash
# Installs what is missing, builds, runs every test suite.
#
#   launch/test.sh [--long] [--no-install] [--suite NAME]
#
#   --long         also what takes minutes
#   --no-install   install nothing
#   --suite NAME   only this one: lint unit ops mpi fuzz parity e2e (suites), check cuda sanitize (passes)
#
# check: unit and mpi tests of a device once more on the hostile CPU backend. cuda: those of ops, unit, mpi, parity and e2e that have a device on a GPU, where there is one.
# sanitize: unit and fuzz tests in a build with address and undefined sanitizers.
# The last line reads `N passed, N failed, N skipped`; exit status 0 only if nothing failed. Logs: build/meson-logs, build-asan/meson-logs.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
usage() { sed -n '2,12s/^# \{0,1\}//p' launch/test.sh >&2; exit 2; }

suites=(lint unit ops mpi fuzz parity e2e)
passes=(check cuda sanitize)
long=no install=() only=
while [ $# -gt 0 ]; do
  case $1 in
  --long) long=yes ;;
  --no-install) install=(--no-install) ;;
  --suite) [ $# -ge 2 ] || usage; only=$2; shift ;;
  *) usage ;;
  esac
  shift
done
if [ -n "$only" ] && [[ " ${suites[*]} ${passes[*]} " != *" $only "* ]]; then
  echo "test: there is no suite '$only'; there are: ${suites[*]} ${passes[*]}" >&2
  exit 2
fi

passed=0 failed=0 skipped=0 begun=$SECONDS
failures=()
say() { printf -- '-- %s (%d s)\n' "$*" $((SECONDS - begun)); }
wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }
finish() {
  if [ ${#failures[@]} -gt 0 ]; then
    say "failed:"
    printf '     %s\n' "${failures[@]}"
  fi
  printf '%d passed, %d failed, %d skipped\n' $passed $failed $skipped
  [ $failed -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
  exit
}
give_up() {
  failures+=("$1")
  failed=$((failed + 1))
  finish
}

# configure FOLDER OPTION...: meson setup where there is none yet
configure() {
  local folder=$1 log rc=0
  shift
  if [ -e "$folder/build.ninja" ]; then
    [ $# -eq 0 ] || meson configure "$folder" "$@"
    return
  fi
  rm -rf "$folder"
  log=$(mktemp)
  meson setup "$folder" "$@" >"$log" 2>&1 || rc=$?
  [ $rc -eq 0 ] || cat "$log"
  rm -f "$log"
  return $rc
}

# Adds the counts of one testlog.json, one JSON object per line, to the totals.
count() {
  local counts
  counts=$(python3 - "$1" "$2" <<'PY'
import json, sys
total = {"passed": 0, "failed": 0, "skipped": 0}
names = []
for line in open(sys.argv[1], encoding="utf-8"):
    test = json.loads(line)
    kind = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}.get(test["result"], "failed")
    total[kind] += 1
    if kind == "failed":
        names.append(f"{sys.argv[2]}: {test['name'].split(' / ')[-1]} ({test['result'].lower()})")
print(*total.values())
print("\n".join(names))
PY
  )
  local p f s
  read -r p f s <<<"${counts%%$'\n'*}"
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  while read -r name; do
    [ -z "$name" ] || failures+=("$name")
  done <<<"$(tail -n +2 <<<"$counts")"
}

# run NAME FOLDER SUITE...: builds what the suites need and runs them
run() {
  local name=$1 folder=$2 rc=0 suite options=()
  shift 2
  for suite in "$@"; do options+=(--suite "$suite"); done
  [ "$long" = yes ] || options+=(--no-suite long)
  say "$name"
  rm -f "$folder/meson-logs/testlog-$name.json"
  # Twice as many as cores: most tests wait more than they compute, for ranks that start and for disks.
  meson test -C "$folder" --num-processes "${processes:-$((2 * $(nproc)))}" --print-errorlogs --logbase "testlog-$name" "${options[@]}" || rc=$?
  if [ -s "$folder/meson-logs/testlog-$name.json" ]; then
    count "$folder/meson-logs/testlog-$name.json" "$name"
  elif [ $rc -ne 0 ]; then
    failures+=("$name: could not be run")
    failed=$((failed + 1))
  fi
}

has_gpu() { build/launch/switchyard --version | grep -q ' cuda' && nvidia-smi -L 2>/dev/null | grep -q GPU; }

main_build() {
  local werror=()
  [ "${CI:-}" != true ] || werror=(-Dwerror=true)
  say "building in build/"
  configure build "${werror[@]}" || give_up "meson setup build"
  ninja -C build || give_up "ninja -C build"
  for suite in "${suites[@]}"; do
    if wanted "$suite"; then
      run "$suite" build "$suite"
    fi
  done
  if wanted check; then
    SY_TEST_BACKEND=check run check build unit-device mpi-device
  fi
  if wanted cuda && has_gpu; then
    # Ranks share the GPU; each process takes some of its memory.
    SY_TEST_BACKEND=cuda SY_SHARE_GPU=1 NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 processes=8 \
      run cuda build ops-device unit-device mpi-device parity-device e2e-device
  elif wanted cuda; then
    say "cuda: skipped, there is no GPU or the program was built without CUDA"
    skipped=$((skipped + 1))
  fi
}

# Warnings are no errors here: sanitizers make the compiler see paths that are none.
# Kernels are compiled once, in build/.
sanitize() {
  say "configuring build-asan/"
  configure build-asan -Dsanitize=address,undefined -Dbuildtype=debugoptimized -Dcuda=disabled || give_up "meson setup build-asan"
  if [ "$long" = yes ]; then
    run sanitize build-asan unit fuzz ops
  else
    run sanitize build-asan unit fuzz
  fi
}

launch/deps.sh "${install[@]}" || give_up "deps"
if [ "$long" = yes ]; then
  export SY_TEST_LONG=1
fi
if [ "$only" != sanitize ]; then
  main_build
fi
if wanted sanitize; then
  sanitize
fi
finish
