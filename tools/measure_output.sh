#!/usr/bin/env bash
# What a run's own output costs, by its own timers: medians over the steps of the mini model, on two ranks and on one with two
# threads. metrics.jsonl, TensorBoard, health and progress at every step, which is the dearest.
#
#   tools/measure_output.sh [STEPS [--set KEY=VALUE...]]    (10)
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
steps=${1:-10}
shift $(($# > 0))
program=build/launch/switchyard
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$program" tokenize data/samples/prose.txt -o "$scratch/prose" --tokenizer bytes 2>/dev/null
sed "s#runs/quickstart/data/prose#$scratch/prose#" configs/mini.yaml >"$scratch/mini.yaml"
train=(train "$scratch/mini.yaml" --set train.steps="$steps" --set train.checkpoint_every=0 "$@")
launch/mpirun.sh -n 2 "$program" "${train[@]}" --run-dir "$scratch/two" --set parallel.ep=2 2>/dev/null
"$program" "${train[@]}" --run-dir "$scratch/one" --set device.threads=2 2>/dev/null
python3 - "$scratch/two" "$scratch/one" <<'PY'
import json, statistics, sys
for run in sys.argv[1:]:
    records = [json.loads(line) for line in open(run + "/metrics.jsonl")][2:]
    median = {k[5:-3]: statistics.median(r[k] for r in records) for k in records[0] if k.startswith("perf/") and k.endswith("_ms")}
    print(f"{run[run.rindex('/') + 1:]}: " + ", ".join(f"{k} {v:.3g} ms" for k, v in median.items()))
    print(f"  metrics and progress output: {100 * median['metrics'] / median['step']:.3f} % of a step")
PY
