#!/usr/bin/env bash
# Is plain top-k as fast as before there were other routers? Builds two commits and runs `bench step` of both in turn, each first in every
# other round, without and with a capacity; prints medians, and the ratio of the pairs with its spread. Where both commits
# have `bench layer`, that too. Needs an idle machine and no install: about 3 minutes per round beside the builds.
#
#   tools/measure_topk.sh [ROUNDS [BEFORE [AFTER]]]     ROUNDS: 7; BEFORE: 8fffc7e, the last commit that builds before the
#                                                       table of routers (f5ea7e8; the one between does not); AFTER: HEAD
#
# THREADS: of the rank (default 1). KEEP=FOLDER keeps the two builds there for the next time.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rounds=${1:-7}
commits=("${2:-8fffc7e}" "${3:-HEAD}")
names=(before after)
folder=${KEEP:-$(mktemp -d "${TMPDIR:-/tmp}/topk.XXXXXX")}
mkdir -p "$folder"

clean() {
    [ -n "${KEEP:-}" ] && return
    for name in "${names[@]}"; do
        git -C "$root" worktree remove --force "$folder/$name" 2> /dev/null || true
    done
    rm -rf "$folder"
}
trap clean EXIT

for i in 0 1; do
    tree=$folder/${names[i]}
    commit=$(git -C "$root" rev-parse --verify --quiet "${commits[i]}^{commit}") || { echo "there is no commit '${commits[i]}'" >&2; exit 2; }
    if [ ! -d "$tree" ]; then
        git -C "$root" worktree add --quiet --detach "$tree" "$commit"
        meson setup "$tree/build" "$tree" > /dev/null
    fi
    git -C "$tree" checkout --quiet --detach "$commit"
    ninja -C "$tree/build" launch/switchyard > "$folder/build.log" || { cat "$folder/build.log" >&2; exit 1; }
    echo "${names[i]}: $(git -C "$tree" log -1 --format='%h %s')"
done

benchmarks=(step)
"$folder/before/build/launch/switchyard" bench --help | grep -q 'layer|' && benchmarks+=(layer)
for benchmark in "${benchmarks[@]}"; do
    for case in dropless capacity; do
        set=()
        [ "$case" = capacity ] && set=(--set moe.capacity_factor=1.25)
        for round in $(seq "$rounds"); do
            order=("${names[@]}")
            [ $((round % 2)) = 0 ] && order=(after before)
            for name in "${order[@]}"; do
                "$folder/$name/build/launch/switchyard" bench "$benchmark" --threads "${THREADS:-1}" --precision fp32 --repeats 5 "${set[@]}" --json \
                    > "$folder/$benchmark-$case-$name-$round.json"
            done
        done
        python3 - "$folder/$benchmark-$case" "$rounds" "$benchmark, $case" <<'PYTHON'
import json, statistics, sys
path, rounds, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def ms(name, i):
    o = json.load(open(f"{path}-{name}-{i}.json"))
    return o["step_ms"] if "step_ms" in o else o["layer_ms"]


before, after = ([ms(name, i) for i in range(1, rounds + 1)] for name in ("before", "after"))
ratio = sorted(a / b for a, b in zip(after, before))
middle = statistics.median(ratio)
error = statistics.stdev(ratio) / rounds**0.5 if rounds > 1 else float("nan")
print(f"{what}: before {statistics.median(before):.2f} ms, after {statistics.median(after):.2f} ms; after/before {middle:.4f} "
      f"(+- {error:.4f}, {ratio[0]:.4f} to {ratio[-1]:.4f})")
PYTHON
    done
done
