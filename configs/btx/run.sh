#!/usr/bin/env bash
# Branch-Train-MiX (Sukhbaatar et al. 2024, arXiv 2403.07816) on this machine's CPU, from nothing to a table.
#
#   configs/btx/run.sh [--seeds "1 2"] [--quick] [--ranks N] [--out FOLDER] [--no-build]
#
# A small dense seed model is trained on three domains (prose, code, arithmetic); three copies of it go on, each with one
# domain, as jobs that know nothing of each other; their MLPs become the experts of one model, which is trained on the mixture.
# Beside it stand what else the same models and the same compute give: each specialist, their average, their ensemble (BTM),
# the seed model trained on, and the seed model upcycled and trained on. The table, nats per byte on held-out text, goes to
# FOLDER/table.md (FOLDER: runs/btx). --quick: a few steps of everything, to see that it works. --ranks: of the two jobs that
# run alone (2); the others are beside each other, on one rank each.
set -Eeuo pipefail

usage() {
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
seeds=1 build=yes out='' quick='' ranks=2
while [ $# -gt 0 ]; do
  case "$1" in
  --seeds) [[ "${2-}" =~ ^[0-9]+(\ +[0-9]+)*$ ]] || usage; seeds=$2; shift 2 ;;
  --ranks) [[ "${2-}" =~ ^[1-9][0-9]*$ ]] || usage; ranks=$2; shift 2 ;;
  --out) [ -n "${2-}" ] || usage; out=$2; shift 2 ;;
  --quick) quick=yes; shift ;;
  --no-build) build=; shift ;;
  *) usage ;;
  esac
done
[ -z "$out" ] || out=$(realpath -m "$out")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${out:-runs/btx}
program=${SWITCHYARD:-build/launch/switchyard}
domains=(prose code arithmetic)
begun=$SECONDS

seed_steps=1000 branch_steps=150 mix_steps=160 # updates of 16 sequences of 128 bytes
eval_batches=32                                # of 16 such sequences, of each domain at most
[ -z "$quick" ] || seed_steps=4 branch_steps=1 mix_steps=2 eval_batches=1

say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - begun)); }
fail() {
  printf '\nbtx: %s\n' "$*" >&2
  exit 1
}
trap 'fail "failed in line $LINENO"' ERR
jobs_of_mine() { jobs -pr | while read -r pid; do kill "$pid" 2>/dev/null || true; done; }
trap jobs_of_mine EXIT

# flops_per_token: of forward and backward of the dense model and of the MoE, from the two configurations' shapes
# (docs/BENCH.md): 6 times the parameters that a token meets, and attention's scores
flops() {
  python3 - <<'PY'
H, L, F, V, S, experts, top_k = 128, 4, 384, 320, 128, 3, 2
rest = 6 * (H * (L * 4 * H + V)) + 6 * L * S * H
print(rest + 6 * L * 3 * H * F, rest + 6 * L * (H * experts + top_k * 3 * H * F))
PY
}

data_of() { # data_of DOMAIN...: the --set that trains on these, each as likely
  local list='' name
  for name in "$@"; do list+="${list:+, }{path: $out/data/$name}"; done
  printf 'data.train=[%s]' "$list"
}
valid=(--set "data.valid=[{name: prose, path: $out/data/prose_valid}, {name: code, path: $out/data/code_valid}, {name: arithmetic, path: $out/data/arithmetic_valid}]")

train() { # train RANKS CONFIG RUN_DIR LR STEPS ARGUMENTS...
  local n=$1 config=$2 dir=$3 lr=$4 steps=$5
  shift 5
  ${exec-} launch/mpirun.sh -n "$n" "$program" train "configs/btx/$config" --run-dir "$dir" --set "run.name=$(basename "$dir")" \
    --set "run.seed=$seed" --set device.threads=1 --set "optim.lr=$lr" --set "train.steps=$steps" \
    ${quick:+--set train.eval_batches=1} "$@"
}

beside() { # beside CONFIG NAME STEPS CKPT "DOMAINS" ARGUMENTS...: train from a checkpoint, as a job of its own on one core
  local names
  read -ra names <<<"$5"
  exec='exec' train 1 "$1" "$here/$2" 1e-3 "$3" --init-from "$4" --set "$(data_of "${names[@]}")" "${valid[@]}" "${@:6}" \
    >"$here/$2.log" 2>&1 &
  pids+=($!)
}

evaluate() { # evaluate NAME CKPT: a row of the table
  launch/mpirun.sh -n "$ranks" "$program" eval "$2" --data "$out"/data/{prose,code,arithmetic}_valid --json \
    --set device.threads=1 --set "train.eval_batches=$eval_batches" >"$here/eval/$1.json"
}

table() { # all seeds: markdown
  python3 - "$out" "$seeds" "$dense_flops" "$moe_flops" "$seed_steps" "$branch_steps" "$mix_steps" "$dense_steps" "$moe_steps" <<'PY'
import json, sys
out, seeds = sys.argv[1], sys.argv[2].split()
dense, moe, seed, branch, mix, dense_more, moe_more = map(float, sys.argv[3:])
ratio = moe / dense
rows = [("seed", "seed model", seed),
        ("prose", "specialist, prose", seed + branch), ("code", "specialist, code", seed + branch),
        ("arithmetic", "specialist, arithmetic", seed + branch),
        ("average", "average of the specialists", seed + 3 * branch),
        ("ensemble", "BTM: ensemble of the specialists", seed + 3 * branch),
        ("btx_untrained", "BTX, merged", seed + 3 * branch),
        ("btx", "BTX, merged and trained", seed + 3 * branch + ratio * mix),
        ("dense_more", "dense, seed trained on", seed + dense_more),
        ("upcycled", "sparse upcycled, seed trained on", seed + ratio * moe_more)]
def losses(s, name):
    with open(f"{out}/{s}/eval/{name}.json", encoding="utf-8") as f:
        one = [x["loss"] for x in json.load(f)["sets"]]
    return one + [sum(one) / len(one)]
head = ["prose", "code", "arithmetic", "mean"]
print("| model | compute | " + " | ".join(f"{h}, seed {s}" if len(seeds) > 1 else h for s in seeds for h in head) + " |")
print("|---|---|" + "---|" * (len(head) * len(seeds)))
for name, text, steps in rows:
    figures = [f"{x:.3f}" for s in seeds for x in losses(s, name)]
    print(f"| {text} | {steps:.0f} | " + " | ".join(figures) + " |")
PY
}

read -r dense_flops moe_flops < <(flops)
total=$((3 * branch_steps + mix_steps * moe_flops / dense_flops)) # dense steps that branching and the mixture cost
dense_steps=$total
moe_steps=$((total * dense_flops / moe_flops))

if [ -n "$build" ]; then
  say "build"
  [ -e build/build.ninja ] || meson setup build >/dev/null
  ninja -C build launch/switchyard
fi
[ -x "$program" ] || fail "there is no program '$program'"

say "three domains, each with a held-out part"
rm -rf "${out:?}"/{samples,data,table.md}
mkdir -p "$out/samples" "$out/data"
python3 tools/make_samples.py "$out/samples"
cp data/samples/prose{,_valid}.txt "$out/samples"
mv "$out/samples/source.txt" "$out/samples/code.txt"
mv "$out/samples/source_valid.txt" "$out/samples/code_valid.txt"
for name in {prose,code,arithmetic}{,_valid}; do
  "$program" tokenize "$out/samples/$name.txt" -o "$out/data/$name" --tokenizer bytes --append-eod
done
printf 'compute: %d FLOP per token of the dense model, %d of the MoE: three branches of %d steps and %d of the MoE are %d dense steps or %d of the MoE\n' \
  "$dense_flops" "$moe_flops" "$branch_steps" "$mix_steps" "$dense_steps" "$moe_steps"

for seed in $seeds; do
  here=$out/$seed
  rm -rf "${here:?}"
  mkdir -p "$here/eval"

  say "random seed $seed: the seed model, $seed_steps steps on the mixture"
  train "$ranks" dense.yaml "$here/seed" 4e-3 "$seed_steps" --set "$(data_of "${domains[@]}")"

  say "branch: a job for each domain, $branch_steps steps; and two for comparison: the seed model, and it upcycled, on the mixture"
  "$program" upcycle "$here/seed" -o "$here/upcycled.h5" --experts 3 --top-k 2 --method copy --seed "$seed" >"$here/upcycle.txt"
  pids=()
  for name in "${domains[@]}"; do
    beside dense.yaml "$name" "$branch_steps" "$here/seed" "$name"
  done
  beside dense.yaml dense_more "$dense_steps" "$here/seed" "${domains[*]}"
  beside moe.yaml upcycled "$moe_steps" "$here/upcycled.h5" "${domains[*]}" --set moe.expert_labels=null
  for pid in "${pids[@]}"; do wait "$pid" || fail "a job failed; see $here/*.log"; done

  say "merge: experts side by side, the average, the ensemble"
  sources=(--source "$here/prose" --source "$here/code" --source "$here/arithmetic")
  "$program" merge --method btx "${sources[@]}" --top-k 2 --seed "$seed" -o "$here/btx.h5"
  "$program" merge --method average "${sources[@]}" -o "$here/average.h5"
  "$program" merge --method ensemble "${sources[@]}" -o "$here/ensemble.h5"

  say "train the merged model on the mixture, $mix_steps steps"
  train "$ranks" moe.yaml "$here/btx" 1e-3 "$mix_steps" --init-from "$here/btx.h5" --set "$(data_of "${domains[@]}")" "${valid[@]}"

  say "evaluate on held-out text"
  for name in seed "${domains[@]}" btx dense_more upcycled; do evaluate "$name" "$here/$name"; done
  evaluate average "$here/average.h5"
  evaluate ensemble "$here/ensemble.h5"
  evaluate btx_untrained "$here/btx.h5"
done

say "nats per byte; compute in dense steps"
table | tee "$out/table.md"
say "done; the table is $out/table.md, how the experts are used stands in $out/*/btx/report.html"
