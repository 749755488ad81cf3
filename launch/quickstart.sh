#!/usr/bin/env bash
# From nothing to a trained Mixture-of-Experts language model on this machine's CPU, in a few minutes.
#
#   launch/quickstart.sh [--no-install]
#
# Installs what is missing, builds, tokenizes sample texts, trains a small dense model, upcycles it to 8 experts, trains those
# expert-parallel on 4 MPI ranks, stops and resumes on 2 ranks, evaluates, generates text and writes an HTML report.
# Everything it makes lies in build/ and runs/quickstart/.
set -Eeuo pipefail

install=()
case "${1:-}" in
"") ;;
--no-install) install=(--no-install) ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=runs/quickstart data=runs/quickstart/data samples=runs/quickstart/samples
program=build/launch/switchyard
export CUDA_VISIBLE_DEVICES= # the CPU, for as many ranks as it likes, also where there is a GPU
stop_at=80 # finished steps of the MoE run when it is asked to stop
begun=$SECONDS
training=

say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - begun)); }
fail() {
  printf '\nquickstart: %s\n' "$*" >&2
  exit 1
}
trap 'fail "failed in line $LINENO: $BASH_COMMAND"' ERR
trap '[ -z "$training" ] || kill "$training" 2>/dev/null || true' EXIT

build() {
  local log rc=0
  log=$(mktemp)
  if [ ! -e build/build.ninja ]; then
    rm -rf build
    meson setup build >"$log" 2>&1 || rc=$?
  fi
  if [ $rc -eq 0 ]; then
    ninja -C build launch/switchyard || rc=$?
  else
    cat "$log" >&2
  fi
  rm -f "$log"
  return $rc
}

tokenize() { "$program" tokenize "$1" -o "$data/$2" --tokenizer bytes --append-eod; }

# last RUN_DIR KEY: the last value of a metric, 0 if there is none yet
last() {
  python3 - "$1/metrics.jsonl" "$2" <<'PY'
import json, sys
value = 0
try:
    for line in open(sys.argv[1], encoding="utf-8"):
        if line.endswith("\n"):
            value = json.loads(line).get(sys.argv[2], value)
except FileNotFoundError:
    pass
print(value)
PY
}

# held_out CKPT: loss on the held-out prose
held_out() {
  launch/mpirun.sh -n 2 "$program" eval "$1" --data "$data/prose_valid" --json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["sets"][0]["loss"])'
}

# Train in the background, ask for a stop after stop_at steps, and see that it stops in order: exit status 75.
train_and_stop() {
  local rc=0
  launch/mpirun.sh "$@" &
  training=$!
  while kill -0 "$training" 2>/dev/null && [ "$(last $runs/moe step)" -lt $stop_at ]; do
    sleep 0.3
  done
  echo "kill -USR1 $training: stop and save"
  kill -USR1 "$training" 2>/dev/null || true
  wait "$training" || rc=$?
  training=
  [ $rc -eq 75 ] || fail "the run asked to stop ended with exit status $rc instead of 75"
}

say "packages"
launch/deps.sh "${install[@]}"
say "build"
build

say "tokenize: a novel, this project's source, arithmetic"
rm -rf "$runs"
mkdir -p "$samples" "$data"
python3 tools/make_samples.py "$samples"
cp data/samples/prose.txt data/samples/prose_valid.txt "$samples"
for name in prose prose_valid source arithmetic; do
  tokenize "$samples/$name.txt" "$name"
done

say "train a dense model on 2 ranks"
launch/mpirun.sh -n 2 "$program" train configs/quickstart_dense.yaml

say "upcycle it to 8 experts"
"$program" upcycle "$runs/dense" -o "$runs/upcycled.h5" --experts 8 --top-k 2 --method copy

say "train the experts on 4 ranks, 2 of 8 experts on each, and stop at step $stop_at"
train_and_stop -n 4 "$program" train configs/quickstart_moe.yaml --init-from "$runs/upcycled.h5"

say "resume from its checkpoint on 2 ranks"
launch/mpirun.sh -n 2 "$program" train configs/quickstart_moe.yaml --resume --set parallel.ep=2

say "for comparison: the dense model, as many further steps on the same batches"
launch/mpirun.sh -n 2 "$program" train configs/quickstart_moe.yaml --init-from "$runs/dense" --run-dir "$runs/dense_more" \
  --set run.name=quickstart_dense_more --set moe.experts=0 --set parallel.ep=1

say "generate"
"$program" generate "$runs/moe" --prompt "It is a truth universally acknowledged" --max-tokens 240 --temperature 0.7 --seed 1

say "evaluate on held-out prose, nats per byte"
moe=$(held_out "$runs/moe")
printf '   %-32s %.4f\n' \
  "dense, after its first training" "$(last $runs/dense valid/prose/loss)" \
  "dense, trained further" "$(last $runs/dense_more valid/prose/loss)" \
  "upcycled to 8 experts" "$moe"
"$program" report "$runs/moe" >/dev/null

say "done; the report is $PWD/$runs/moe/report.html"
