#!/usr/bin/env bash
# What `estimate` predicts of this machine beside what training does here: five configurations on 1, 2 and (with cores enough) 4 ranks, from one
# `bench machine` for each number of ranks. Run on an idle machine; about five minutes on two cores. docs/ESTIMATE.md explains the columns.
#
#   tools/measure_estimate.sh [PROGRAM] [RANKS...]    (build/launch/switchyard; 1 2, and 4 where there are four cores)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=$(realpath "${1:-build/launch/switchyard}")
shift || true
cores=$(nproc)
counts=("$@")
[ ${#counts[@]} -gt 0 ] || counts=(1 2)
[ $# -gt 0 ] || [ "$cores" -lt 4 ] || counts+=(4)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

data="data: {tokenizer: bytes, train: [{path: $folder/random}]}"
common="optim: {lr: 1.0e-4}"
cat > "$folder/dense.yaml" << END
model: {vocab_size: 8192, hidden: 320, layers: 6, heads: 5, ffn_hidden: 1280, seq_len: 256}
train: {steps: 9, global_batch: 16, micro_batch: 4}
$common
$data
END
cat > "$folder/mini.yaml" << END
model: {vocab_size: 32000, hidden: 512, layers: 8, heads: 8, kv_heads: 2, ffn_hidden: 1792, seq_len: 256}
moe: {experts: 8, top_k: 2}
train: {steps: 7, global_batch: 4, micro_batch: 2}
$common
$data
END
cat > "$folder/fine.yaml" << END
model: {vocab_size: 16000, hidden: 448, layers: 4, heads: 7, ffn_hidden: 224, seq_len: 256}
moe: {experts: 64, top_k: 8, shared_experts: 1}
train: {steps: 7, global_batch: 8, micro_batch: 4}
$common
$data
END
cat > "$folder/wide-bf16.yaml" << END
model: {vocab_size: 12000, hidden: 640, layers: 3, heads: 10, ffn_hidden: 2560, seq_len: 384}
moe: {experts: 4, top_k: 1, layers: "every:2"}
device: {precision: bf16}
train: {steps: 9, global_batch: 8, micro_batch: 4}
$common
$data
END
cat > "$folder/long.yaml" << END
model: {vocab_size: 4096, hidden: 256, layers: 3, heads: 4, ffn_hidden: 640, seq_len: 3072}
moe: {experts: 8, top_k: 2}
train: {steps: 7, global_batch: 2, micro_batch: 1}
$common
$data
END

python3 - "$folder/random.txt" << 'END'
import random, sys
random.seed(1)
with open(sys.argv[1], "wb") as f:
    f.write(bytes(random.choice(b"abcdefghijklmnopqrstuvwxyz0123456789 ,.") for _ in range(600000)))
END
"$program" tokenize "$folder/random.txt" -o "$folder/random" --tokenizer bytes > "$folder/log" 2>&1

printf 'date %s\nprocessor %s, %s cores, load %s\n' "$(date -u +%F)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$cores" \
  "$(cut -d ' ' -f 1 /proc/loadavg)"
run() { # RANKS ARGUMENTS: one rank needs no launcher
  local ranks=$1
  shift
  if [ "$ranks" = 1 ]; then "$program" "$@"; else launch/mpirun.sh -n "$ranks" "$program" "$@"; fi
}
for ranks in "${counts[@]}"; do
  threads=$((cores / ranks > 0 ? cores / ranks : 1))
  run "$ranks" bench machine --threads "$threads" -o "$folder/machine-$ranks.json" > "$folder/bench-$ranks" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
  head -n 2 "$folder/bench-$ranks"
  for config in dense mini fine wide-bf16 long; do
    ep=$([ $config = dense ] && echo 1 || echo "$ranks")
    set=(--set "parallel.ep=$ep" --set "device.threads=$threads")
    # the micro-batch stays, so that every rank has at least one
    batch=$(sed -n 's/.*global_batch: \([0-9]*\), micro_batch: \([0-9]*\).*/\1 \2/p' "$folder/$config.yaml" | awk -v r="$ranks" '{ b = $2; while (b > 1 && b * r > $1) b /= 2; print b }')
    set+=(--set "train.micro_batch=$batch")
    run "$ranks" train "$folder/$config.yaml" --run-dir "$folder/run-$config-$ranks" "${set[@]}" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
    ask=("$program" estimate "$folder/$config.yaml" --gpus "$ranks" --bench "$folder/machine-$ranks.json" --short --json "${set[@]}")
    "${ask[@]}" > "$folder/estimate-$config-$ranks.json"
    loads=()
    [ $config = dense ] || loads=(--loads "$folder/run-$config-$ranks")
    "${ask[@]}" "${loads[@]}" > "$folder/uneven-$config-$ranks.json"
    rm -rf "$folder/run-$config-$ranks/checkpoints"
  done
done

python3 - "$folder" "${counts[@]}" << 'END'
import json, statistics, sys

folder, counts = sys.argv[1], sys.argv[2:]
print("\n| ranks | configuration | step ms | balanced | ratio | with its loads | ratio | fullest rank / mean | memory MiB | predicted | ratio |")
print("|---|---|---|---|---|---|---|---|---|---|---|")
phases, steps_off, uneven_off, memory_off = [], [], [], []
for ranks in counts:
    for config in ("dense", "mini", "fine", "wide-bf16", "long"):
        lines = [json.loads(line) for line in open(f"{folder}/run-{config}-{ranks}/metrics.jsonl")]
        lines = [x for x in lines if "perf/step_ms" in x][2:]  # the first ones build kernels and touch memory
        estimate = json.load(open(f"{folder}/estimate-{config}-{ranks}.json"))
        uneven = json.load(open(f"{folder}/uneven-{config}-{ranks}.json"))
        step = statistics.median(x["perf/step_ms"] for x in lines)
        memory = lines[-1]["mem/peak_bytes"] / 2**20
        predicted, wanted = estimate["step_ms"], estimate["memory_bytes"] / 2**20
        steps_off.append(abs(predicted / step - 1))
        memory_off.append(abs(wanted / memory - 1))
        uneven_off.append(abs(uneven["step_ms"] / step - 1))
        print(f"| {ranks} | {config} | {step:.1f} | {predicted:.1f} | {predicted / step:.3f} | {uneven['step_ms']:.1f} | {uneven['step_ms'] / step:.3f} | "
              f"{uneven['imbalance']:.2f} | {memory:.0f} | {wanted:.0f} | {wanted / memory:.3f} |")
        of = {x["phase"]: x["ms"] for x in estimate["phases"]}
        for name, key in (("forward", "forward"), ("backward", "backward"), ("grad_sync_wait", "gradients, not hidden"), ("optimizer", "optimizer"),
                          ("param_gather", "parameters, gathered"), ("sync", "norm and sums"), ("experts", "in these: experts"),
                          ("dispatch", "in these: dispatch"), ("combine", "in these: combine")):
            measured = statistics.median(x.get(f"perf/{name}_ms", 0) for x in lines)
            if measured > 0.01 * step:
                phases.append(f"| {ranks} | {config} | {name} | {measured:.1f} | {of[key]:.1f} | {of[key] / measured:.3f} |")
print(f"\nstep time off by at most {100 * max(steps_off):.1f} %, {100 * statistics.mean(steps_off):.1f} % on average (target 15 %); "
      f"with the loads of the run by at most {100 * max(uneven_off):.1f} %, {100 * statistics.mean(uneven_off):.1f} % on average; "
      f"memory by at most {100 * max(memory_off):.1f} % (target 10 %)")
print("\n| ranks | configuration | phase | ms | predicted | ratio |\n|---|---|---|---|---|---|\n" + "\n".join(phases))
END
