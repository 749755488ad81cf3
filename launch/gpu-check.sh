#!/usr/bin/env bash
# Runs what only a GPU can show, within 8 minutes, and writes one file of results.
#
#   launch/gpu-check.sh [--out FILE.md] [--build DIR]
#
# Builds for this GPU in build-gpu/ (or DIR), then: every op against the reference in fp32 and bf16; the same under compute-sanitizer
# (memcheck, racecheck, initcheck); unit tests on the device; transformers' numbers in fp32 and bf16; a training run beside the CPU's; the
# quickstart (dense, upcycled, trained, evaluated, text, report); several ranks; the speed of the ops beside copy and product, and of a training step. FILE (gpu-check.md) is what belongs into docs/results/, with the
# machine, driver and date on top. A check that fails or runs out of its time is said and the next one begins; exit status 1 then.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
out=gpu-check.md build=build-gpu
while [ $# -gt 0 ]; do
  case $1 in
  --out) [ $# -ge 2 ] || exit 2; out=$2; shift ;;
  --build) [ $# -ge 2 ] || exit 2; build=$2; shift ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU || { echo "gpu-check: no NVIDIA driver or no GPU here" >&2; exit 2; }

begun=$SECONDS failed=0 deadline=$((SECONDS + 470))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
write() { printf '%s\n' "$@" >>"$out"; }

# check SECONDS TITLE COMMAND...: how it ended, and the last lines of what it prints. COMMAND may be a function of this script.
check() {
  local limit=$1 title=$2 rc=0 from=$SECONDS left=$((deadline - SECONDS)) how=passed
  shift 2
  echo "== $title"
  : >"$work/log"
  [ "$left" -ge "$limit" ] || limit=$left
  if [ "$limit" -le 0 ]; then
    rc=124
  else
    timeout --kill-after=5 "$limit" bash -c '"$@"' check "$@" >"$work/log" 2>&1 || rc=$?
  fi
  [ $rc -eq 0 ] || how="FAILED, status $rc"
  [ $rc -lt 124 ] || how="not done: out of time"
  [ $rc -eq 0 ] || failed=$((failed + 1))
  write "" "## $title" "" "\`$*\`: $how, $((SECONDS - from)) s" "" '```'
  tail -n "${lines:-25}" "$work/log" | cut -c1-200 >>"$out"
  write '```'
  echo "   $how"
}

capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
[ "$capability" != 90 ] || capability=90a
: >"$out"
write "# The CUDA backend on a GPU" "" "- $(date -u +%Y-%m-%dT%H:%M:%SZ), $(git rev-parse --short HEAD 2>/dev/null || echo no-git)" \
  "- $(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | sort | uniq -c | tr -s ' ')" \
  "- $(nvcc --version | tail -1), sm_$capability; $(nproc) cores"

# ---- build ----

build_all() {
  [ -e "$build/build.ninja" ] || meson setup "$build" -Dcuda=enabled -Dgpu_arch="$capability" || return
  ninja -C "$build" launch/switchyard tests/ops/test_ops tests/ops/speed_ops tests/unit/test_device tests/unit/test_rope \
    tests/unit/test_moe_layer tests/unit/test_router_identities tests/parity/test_parity tests/mpi/mpi_test_comm tests/mpi/mpi_test_grad_sync \
    tests/mpi/mpi_test_moe_layout
}
program=$build/launch/switchyard test_ops=$build/tests/ops/test_ops

config() {
  cat <<YAML
device: {backend: $1, precision: $2}
model: {vocab_size: 320, hidden: 256, layers: 4, heads: 8, kv_heads: 4, ffn_hidden: 512, seq_len: 256}
moe: {experts: 8, top_k: 2}
optim: {lr: 0.002, warmup_steps: 10, decay_steps: 100}
train: {steps: 100, global_batch: 8, micro_batch: 8, checkpoint_every: 50}
data: {tokenizer: bytes, train: [{path: $work/prose}]}
YAML
}
train() { config "$1" "$2" >"$work/$1-$2.yaml" && "$program" train "$work/$1-$2.yaml" --run-dir "$work/$1-$2"; }
compare() {
  python3 - "$work/cpu-fp32/metrics.jsonl" "$work/cuda-$1/metrics.jsonl" "$2" <<'PY'
import json, sys
cpu, gpu = ([json.loads(line)["train/loss"] for line in open(p, encoding="utf-8")] for p in sys.argv[1:3])
first = max(abs(a - b) / a for a, b in zip(cpu[:5], gpu[:5]))
last = abs(sum(cpu[-20:]) - sum(gpu[-20:])) / sum(cpu[-20:])
print(f"first 5 steps: at most {first:.2e} apart (bound {sys.argv[3]}); mean of the last 20: {last:.2e} apart (bound 1e-2)")
sys.exit(not (len(cpu) == len(gpu) == 100 and first < float(sys.argv[3]) and last < 1e-2))
PY
}

# What launch/quickstart.sh does, on one GPU.
quickstart() {
  local dir=$work/quickstart on=(--set device.backend=cuda --set "data.train=[{path: $work/prose}]" --set "data.valid=[{name: prose, path: $work/prose_valid}]")
  "$program" tokenize data/samples/prose_valid.txt -o "$work/prose_valid" --tokenizer bytes --append-eod &&
    "$program" train configs/quickstart_dense.yaml --run-dir "$dir/dense" "${on[@]}" &&
    "$program" upcycle "$dir/dense" -o "$dir/upcycled.h5" --experts 8 --top-k 2 &&
    "$program" train configs/quickstart_moe.yaml --init-from "$dir/upcycled.h5" --run-dir "$dir/moe" --set parallel.ep=1 "${on[@]}" &&
    "$program" eval "$dir/moe" --data "$work/prose_valid" --set device.backend=cuda &&
    "$program" generate "$dir/moe" --prompt "It is a truth" --max-tokens 100 --set device.backend=cuda &&
    "$program" report "$dir/moe"
}

# NCCL refuses a GPU that it sees twice on a host: every process says that it is a host.
ranks() {
  local n=$1
  shift
  SY_SHARE_GPU=1 SY_TEST_BACKEND=cuda NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 launch/mpirun.sh -n "$n" \
    bash -c 'NCCL_HOSTID=rank$OMPI_COMM_WORLD_RANK exec "$@"' rank "$@"
}

export build capability program work
export -f build_all config train compare ranks quickstart

lines=3 check 200 "Build" build_all

# ---- correctness ----

check 60 "Every op against ref" "$test_ops" --backend=cuda
for test in test_rope test_moe_layer test_router_identities; do
  lines=4 check 20 "Unit test $test on the device" env SY_TEST_BACKEND=cuda "$build/tests/unit/$test"
done
for form in fp32 bf16; do
  lines=20 check 60 "transformers' numbers, $form" env SY_TEST_BACKEND=cuda "$build/tests/parity/test_parity" tests/parity/fixtures in_$form
done

# ---- training ----

"$program" tokenize data/samples/prose.txt -o "$work/prose" --tokenizer bytes --append-eod >"$work/log" 2>&1
lines=3 check 90 "100 steps on the CPU" train cpu fp32
lines=3 check 60 "100 steps on the GPU, fp32" train cuda fp32
lines=3 check 10 "Losses, fp32 beside the CPU" compare fp32 1e-3
lines=3 check 60 "100 steps on the GPU, bf16" train cuda bf16
lines=3 check 10 "Losses, bf16 beside the CPU" compare bf16 1e-2

lines=12 check 90 "Quickstart on the GPU, bf16" quickstart

# ---- several ranks over NCCL, on this one GPU ----

for n in 2 4; do
  lines=6 check 60 "Collectives, $n ranks" ranks $n "$build/tests/mpi/mpi_test_comm"
  lines=6 check 30 "Gradients, $n ranks" ranks $n "$build/tests/mpi/mpi_test_grad_sync"
  lines=6 check 60 "Losses of layouts, $n ranks" ranks $n env 'SY_TEST_FILTER=losses_on_cpu*' "$build/tests/mpi/mpi_test_moe_layout"
done
lines=3 check 90 "100 steps, 2 ranks, fp32" ranks 2 "$program" train "$work/cuda-fp32.yaml" --set parallel.ep=2 --run-dir "$work/cuda-ranks"
lines=3 check 10 "Losses of 2 ranks beside the CPU" compare ranks 1e-3
lines=3 check 30 "Its checkpoint goes on on one rank" "$program" train "$work/cuda-fp32.yaml" --set train.steps=102 --run-dir "$work/cuda-ranks" --resume

# ---- speed ----

lines=40 check 60 "Speed of the ops" "$build/tests/ops/speed_ops" --backend=cuda
lines=30 check 60 "Mixtral's layer, 8192 tokens" "$program" bench layer --precision bf16 --set device.backend=cuda --set model.hidden=4096 \
  --set model.ffn_hidden=14336 --set model.heads=32 --set model.seq_len=4096 --set train.micro_batch=2
lines=30 check 60 "A training step of the mini model" "$program" bench step --precision bf16 --set device.backend=cuda

# ---- memory and races of the kernels ----

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck; do
    for op in gather_rows rmsnorm_backward plan_rows grouped_gemm attention attention_backward; do
      lines=4 check 25 "compute-sanitizer $tool, $op" compute-sanitizer --tool $tool --error-exitcode 3 "$test_ops" --backend=cuda --op=$op
    done
  done
else
  write "" "compute-sanitizer is not installed: skipped."
fi

write "" "$failed checks failed; $((SECONDS - begun)) s in all."
echo "gpu-check: $failed failed, $((SECONDS - begun)) s; $out"
[ $failed -eq 0 ]
