#!/usr/bin/env bash
# The figures of docs/results: steps of the mini model in four ways, exchange, matrix products. Run on an idle machine.
#
#   tools/measure.sh [PROGRAM]    (build/launch/switchyard)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=${1:-build/launch/switchyard}

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

printf 'date %s\nkernel %s\nprocessor %s, %s cores\n' "$(date -u +%F)" "$(uname -r)" \
  "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)"
for precision in fp32 bf16; do
  run "$program" bench step --precision $precision --threads 2 --repeats 7
  run launch/mpirun.sh -n 2 "$program" bench step --precision $precision --threads 1 --repeats 7 --set parallel.ep=2
done
run launch/mpirun.sh -n 2 "$program" bench dispatch
run "$program" bench gemm --threads 2
