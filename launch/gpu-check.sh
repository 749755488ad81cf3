#!/usr/bin/env bash
# Runs what only a GPU can show, within 8 minutes, and writes one file of results.
#
#   launch/gpu-check.sh [--out FILE.md] [--build DIR] [--minutes N] [--backend NAME]
#
# Builds for this GPU in build-gpu/ (or DIR), then: every op against the reference in fp32 and bf16, unit tests on the device, transformers'
# numbers in fp32 and bf16, a training run beside the CPU's, the quickstart (dense, upcycled, trained, evaluated, text, report); several
# ranks; the speed of the ops beside copy and product, and of a training step; at last the ops under compute-sanitizer (memcheck,
# racecheck, initcheck). What does not measure runs side by side. FILE (gpu-check.md) is what belongs into docs/results/, with the machine,
# driver and date on top. A check that fails or runs out of its time is said and the rest goes on; exit status 1 then.
# --backend cuda_emulated rehearses all of it without a GPU, with small models, on the emulation of the tests: take --minutes 30.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
out=gpu-check.md build=build-gpu minutes=8 backend=cuda
while [ $# -gt 0 ]; do
  case $1 in
  --out | --build | --minutes | --backend) [ $# -ge 2 ] || exit 2; declare "${1#--}=$2"; shift ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
emulated='' cuda=enabled
if [ "$backend" = cuda_emulated ]; then
  emulated=_emulated cuda=disabled
elif ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
  echo "gpu-check: no NVIDIA driver or no GPU here" >&2
  exit 2
fi

begun=$SECONDS failed=0 deadline=$((SECONDS + 60 * minutes - 10)) n=0 first=1
work=$(mktemp -d)
clean() {
  local job
  for job in $(jobs -p); do
    pkill -P "$job"
    kill "$job"
  done 2>/dev/null
  rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM
write() { printf '%s\n' "$@" >>"$out"; }

# ---- checks ----

titles=() commands=() tails=()

# limited SECONDS NUMBER COMMAND...: runs it, and leaves what it prints, its status and its seconds
limited() {
  local limit=$1 number=$2 from=$SECONDS left=$((deadline - SECONDS)) rc=124
  shift 2
  [ "$left" -ge "$limit" ] || limit=$left
  if [ "$limit" -gt 0 ]; then
    timeout --kill-after=5 "$limit" bash -c '"$@"' check "$@" >"$work/log.$number" 2>&1 </dev/null
    rc=$?
  fi
  echo "$rc $((SECONDS - from))" >"$work/end.$number"
}

# begin SECONDS TITLE COMMAND...: starts a check beside those that run, with SECONDS of the 8 minutes at most (the longest of each group make 470). COMMAND may be a function of this script; `lines` of its end are kept.
begin() {
  local limit=$(($1 * minutes / 8))
  n=$((n + 1))
  titles[n]=$2 tails[n]=${lines:-25}
  shift 2
  commands[n]=$*
  : >"$work/log.$n"
  limited "$limit" $n "$@" &
}

# Waits for all that was begun, and writes what became of it.
collect() {
  local rc seconds how
  wait
  for (( ; first <= n; first++)); do
    read -r rc seconds <"$work/end.$first"
    case $rc in
    0) how=passed ;;
    77) how=skipped ;;
    124 | 137) how="not done: out of time" ;;
    *) how="FAILED, status $rc" ;;
    esac
    [[ $how == passed || $how == skipped ]] || failed=$((failed + 1))
    write "" "## ${titles[first]}" "" "\`${commands[first]}\`: $how, $seconds s" "" '```'
    tail -n "${tails[first]}" "$work/log.$first" | cut -c1-200 >>"$out"
    write '```'
    echo "$how, $seconds s: ${titles[first]}"
  done
}

# One by itself.
check() {
  begin "$@"
  collect
}

# ---- this machine ----

capability=90a gpus="no GPU: backend $backend"
if [ -z "$emulated" ]; then
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  [ "$capability" != 90 ] || capability=90a
  gpus=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | sort | uniq -c | tr -s ' ')
fi
PATH=$PATH:/usr/local/cuda/bin # nvcc, compute-sanitizer
: >"$out"
write "# The CUDA backend on a GPU" "" "- $(date -u +%Y-%m-%dT%H:%M:%SZ), $(git rev-parse --short HEAD 2>/dev/null || echo no-git)" \
  "- $gpus" "- $(nvcc --version 2>/dev/null | tail -1), sm_$capability; $(nproc) cores"

# ---- build ----

program=$build/launch/switchyard
[ -z "$emulated" ] || program=$build/tests/emulator/switchyard_emulated
ops=$build/tests/ops/test_ops$emulated speed=$build/tests/ops/speed_ops$emulated parity=$build/tests/parity/test_parity$emulated
unit_tests=(test_checkpoint test_moe_layer test_multipliers test_rope test_router_extremes test_router_identities test_saver)
rank_tests=(test_comm test_grad_sync test_checkpoint_reshard test_moe_layout)

targets=()
for path in "$program" "$ops" "$speed" "$parity" "${unit_tests[@]/#/$build/tests/unit/}" "${rank_tests[@]/#/$build/tests/mpi/mpi_}"; do
  path=${path#"$build"/}
  targets+=("${path%_emulated}$emulated")
done
build_all() {
  [ -e "$build/build.ninja" ] || meson setup "$build" -Dcuda="$cuda" -Dgpu_arch="$capability" || return
  ninja -C "$build" "$@"
}

# ---- what is run ----

# The emulator is slow: small models, few steps.
model='hidden: 256, layers: 4, heads: 8, kv_heads: 4, ffn_hidden: 512, seq_len: 256' steps=100 valid=10M
small=() step_sizes=() speed_sizes=() layer_sizes=(--set model.hidden=4096 --set model.ffn_hidden=14336 --set model.heads=32 --set model.seq_len=4096 --set train.micro_batch=2)
if [ -n "$emulated" ]; then
  model='hidden: 32, layers: 2, heads: 4, kv_heads: 2, ffn_hidden: 48, seq_len: 32' steps=6 valid=400
  step_sizes=(--set train.micro_batch=2 --set model.hidden=32 --set model.ffn_hidden=48 --set model.seq_len=32)
  small=(--set train.steps=4 --set train.global_batch=4 "${step_sizes[@]}")
  speed_sizes=(--tokens=64 --hidden=64 --ffn=48 --size=64)
  layer_sizes=(--set model.hidden=32 --set model.ffn_hidden=48 --set model.heads=4 --set model.seq_len=32 --set train.micro_batch=1)
fi

config() {
  cat <<YAML
device: {backend: $1, precision: $2, threads: 4}
model: {vocab_size: 320, $model}
moe: {experts: 8, top_k: 2}
optim: {lr: 0.002, warmup_steps: 10, decay_steps: 100}
train: {steps: $steps, global_batch: 8, micro_batch: 8, checkpoint_every: $((steps / 2))}
data: {tokenizer: bytes, train: [{path: $work/prose}]}
YAML
}
train() { config "$1" "$2" >"$work/$3.yaml" && "$program" train "$work/$3.yaml" --run-dir "$work/$3"; }
compare() {
  python3 - "$work/cpu/metrics.jsonl" "$work/$1/metrics.jsonl" "$2" "$steps" <<'PY'
import json, sys
cpu, gpu = ([json.loads(line)["train/loss"] for line in open(p, encoding="utf-8")] for p in sys.argv[1:3])
bound, steps = float(sys.argv[3]), int(sys.argv[4])
first = max(abs(a - b) / a for a, b in zip(cpu[:5], gpu[:5]))
last = abs(sum(cpu[-20:]) - sum(gpu[-20:])) / sum(cpu[-20:])
print(f"first 5 steps: at most {first:.2e} apart (bound {bound}); mean of the last 20: {last:.2e} apart (bound 1e-2)")
sys.exit(not (len(cpu) == len(gpu) == steps and first < bound and last < 1e-2))
PY
}

# What launch/quickstart.sh does, on one GPU; further options for training.
quickstart() {
  local dir=$work/quickstart on=(--set "device.backend=$backend" --set device.precision=bf16) data
  data=(--set "data.train=[{path: $work/prose}]" --set "data.valid=[{name: prose, path: $work/prose_valid}]" "$@")
  "$program" train configs/quickstart_dense.yaml --run-dir "$dir/dense" "${on[@]}" "${data[@]}" &&
    "$program" upcycle "$dir/dense" -o "$dir/upcycled.h5" --experts 8 --top-k 2 &&
    "$program" train configs/quickstart_moe.yaml --init-from "$dir/upcycled.h5" --run-dir "$dir/moe" --set parallel.ep=1 "${on[@]}" "${data[@]}" &&
    "$program" eval "$dir/moe" --data "$work/prose_valid" "${on[@]}" &&
    "$program" generate "$dir/moe" --prompt "It is a truth" --max-tokens 100 "${on[@]}" &&
    "$program" report "$dir/moe"
}

# Several ranks on one GPU, over NCCL and the loopback.
ranks() {
  local n=$1
  shift
  SY_SHARE_GPU=1 NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 launch/mpirun.sh -n "$n" "$@"
}
# tokenize NAME BYTES
tokenize() { head -c "$2" "data/samples/$1.txt" >"$work/$1.txt" && "$program" tokenize "$work/$1.txt" -o "$work/$1" --tokenizer bytes --append-eod; }

export SY_TEST_BACKEND=$backend OMP_NUM_THREADS=4 backend build capability cuda program work model steps
export -f build_all config train compare quickstart ranks

lines=3 check 115 "Build" build_all "${targets[@]}"
tokenize prose 10M >/dev/null 2>&1 && tokenize prose_valid "$valid" >/dev/null 2>&1

# ---- correctness and training, side by side ----

begin 70 "Every op against ref" env SY_HOPPER=1 "$ops" --backend="$backend"
lines=4 begin 60 "Experts' products without Hopper's kernel" env SY_HOPPER=0 "$ops" --backend="$backend" --op=grouped_gemm
for op in attention attention_backward; do lines=4 begin 60 "Op $op, without cuDNN" env SY_CUDNN=0 "$ops" --backend="$backend" --op=$op; done
for test in "${unit_tests[@]}"; do
  lines=4 begin 70 "Unit test $test on the device" "$build/tests/unit/$test$emulated"
done
for form in fp32 bf16; do
  lines=20 begin 70 "transformers' numbers, $form" "$parity" tests/parity/fixtures in_$form
done
lines=3 begin 70 "$steps steps on the CPU" train cpu fp32 cpu
lines=3 begin 70 "$steps steps on the GPU, fp32" train "$backend" fp32 fp32
lines=3 begin 70 "$steps steps on the GPU, bf16" train "$backend" bf16 bf16
lines=12 begin 70 "Quickstart on the GPU, bf16" quickstart "${small[@]}"
collect
lines=3 begin 5 "Losses, fp32 beside the CPU" compare fp32 1e-3
lines=3 begin 5 "Losses, bf16 beside the CPU" compare bf16 1e-2
collect

# ---- several ranks over NCCL, on this one GPU, side by side ----

for n_ranks in 2 4; do
  for test in "${rank_tests[@]}"; do
    lines=6 begin 75 "$test, $n_ranks ranks" ranks $n_ranks "$build/tests/mpi/mpi_$test$emulated"
  done
done
lines=3 begin 75 "$steps steps, 2 ranks, fp32" ranks 2 "$program" train "$work/fp32.yaml" --set parallel.ep=2 --run-dir "$work/ranks"
collect
lines=3 begin 20 "Losses of 2 ranks beside the CPU" compare ranks 1e-3
lines=3 begin 20 "Its checkpoint goes on on one rank" "$program" train "$work/fp32.yaml" --set train.steps=$((steps + 2)) --run-dir "$work/ranks" --resume
collect

# ---- speed, one by one ----

on=(--set "device.backend=$backend" --precision bf16)
lines=40 check 30 "Speed of the ops" "$speed" --backend="$backend" "${speed_sizes[@]}"
lines=12 check 15 "Speed of the experts' products without Hopper's kernel" env SY_HOPPER=0 "$speed" --backend="$backend" --only=experts "${speed_sizes[@]}"
lines=30 check 40 "Mixtral's layer, 8192 tokens" "$program" bench layer "${on[@]}" "${layer_sizes[@]}"
lines=30 check 30 "A training step of the mini model" "$program" bench step "${on[@]}" "${step_sizes[@]}"

# ---- memory and races of the kernels, side by side ----

if [ -z "$emulated" ] && ! command -v compute-sanitizer >/dev/null; then
  write "" "compute-sanitizer is not installed: skipped."
else
  sanitizer=(env SY_CUDNN=0 compute-sanitizer --error-exitcode 3 --tool) # our own kernels, not cuDNN's
  [ -z "$emulated" ] || sanitizer=(echo)
  for tool in memcheck racecheck initcheck; do
    lines=6 begin 70 "compute-sanitizer $tool, every op" "${sanitizer[@]}" $tool "$ops" --backend="$backend" --quick
  done
  collect
fi

write "" "$failed checks failed; $((SECONDS - begun)) s in all."
echo "gpu-check: $failed failed, $((SECONDS - begun)) s; $out"
[ $failed -eq 0 ]
