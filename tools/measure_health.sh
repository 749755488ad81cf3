#!/usr/bin/env bash
# What the health of experts and the comparison of replicas cost, by timers inside the program: shares of the time of all steps.
# To be run on an idle machine. Usage: tools/measure_health.sh [CONFIG [RANKS [STEPS]]]; the programs are those of build/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
config=${1:-configs/mini.yaml} ranks=${2:-2} steps=${3:-200}
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
mpirun --oversubscribe --bind-to none -n "$ranks" build/launch/switchyard train "$config" --run-dir "$run/run" \
    --set train.steps="$steps" --set train.checkpoint_every=0 >/dev/null
python3 - "$run/run/metrics.jsonl" <<'PY'
import json
import sys

lines = [json.loads(line) for line in open(sys.argv[1])]
total = sum(r["perf/step_ms"] for r in lines)
print(f"{len(lines)} steps, {total / 1e3:.1f} s")
for key in ("perf/probe_ms", "perf/digest_ms", "perf/metrics_ms"):
    spent = sum(r.get(key) or 0 for r in lines)
    print(f"{key}: {spent:.1f} ms, {100 * spent / total:.3f} % of the steps")
PY
# The sums of a step: one of each per layer and micro-batch.
build/tests/ops/test_ops --backend=cpu --op=router_stats --time
build/tests/ops/test_ops --backend=cpu --op=row_squares --time
