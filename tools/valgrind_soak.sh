#!/usr/bin/env bash
# Fault 38 of the reliability table: 50 steps with saves and evaluations on 2 ranks under valgrind; every error, and every byte that is lost at exit and
# is not Open MPI's (tools/valgrind.supp), fails. Then a few steps on the CPU backend. Takes two minutes on an idle machine.
#
#   tools/valgrind_soak.sh [PROGRAM [STEPS]]    (build/launch/switchyard 50)
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=$(realpath "${1:-build/launch/switchyard}") steps=${2:-50}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none OMP_NUM_THREADS=1
valgrind=(valgrind --fair-sched=yes --keep-debuginfo=yes --leak-check=full --show-leak-kinds=definite,indirect
  --errors-for-leak-kinds=definite,indirect --error-exitcode=9 --num-callers=40 --suppressions=tools/valgrind.supp)

"$program" tokenize data/samples/prose.txt -o "$folder/text" --tokenizer bytes >"$folder/log" 2>&1
cat >"$folder/soak.yaml" <<END
model: {vocab_size: 256, hidden: 16, layers: 2, heads: 4, kv_heads: 2, ffn_hidden: 48, seq_len: 16}
moe: {experts: 4, top_k: 2}
parallel: {timeout_s: 0}
train: {global_batch: 4, micro_batch: 1, checkpoint_every: 10, checkpoint_keep: 2, eval_every: 25, eval_batches: 1}
data: {tokenizer: bytes, train: [{path: $folder/text}], valid: [{name: held, path: $folder/text}]}
END

# soak RANKS BACKEND STEPS
soak() {
  local rc=0 run="$folder/$2"
  mpirun --oversubscribe --bind-to none -n "$1" "${valgrind[@]}" --log-file="$folder/$2.%p" "$program" train "$folder/soak.yaml" --run-dir "$run" \
    --set device.backend="$2" --set device.threads=1 --set parallel.ep="$1" --set train.steps="$3" >"$folder/log" 2>&1 || rc=$?
  echo "backend $2, $1 rank(s), $(wc -l <"$run/metrics.jsonl") steps, exit status $rc"
  sed -n 's/^==[0-9]*== \(ERROR SUMMARY.*\| *definitely lost.*\)/  \1/p' "$folder/$2".*
  [ $rc -eq 0 ] || { grep -hA 24 -E 'are definitely lost|uninit|Invalid' "$folder/$2".* | head -n 120; return 1; }
}

failed=0
soak 2 ref "$steps" || failed=1
# valgrind 3.19 knows no AVX-512, and code that oneDNN writes takes seconds per step
DNNL_MAX_CPU_ISA=SSE41 soak 1 cpu 5 || failed=1
exit $failed
