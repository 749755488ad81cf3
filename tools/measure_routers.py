#!/usr/bin/env python3
"""Trains every routing method of configs/ on the bundled text, and variants of them, two seeds each.

    tools/measure_routers.py OUT [--program PROGRAM] [--group NAME]... [--seeds 1 2] [--only NAME]...
    tools/measure_routers.py OUT --table      only print what OUT holds, as the tables of docs/RESULTS.md

One process, one thread a run, 40 to 60 seconds each on an idle core. A run that OUT already holds is not
repeated, so the script can be stopped and started again, and several of them may share an OUT. Nothing
that is printed depends on how busy the machine is.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUTERS, EXPERTS, SMALL = ROOT / "configs/routers", ROOT / "configs/experts", ROOT / "configs/presets/small"
TOP_K = "mixtral_8x7b"  # what variants of plain top-k change
SHOWN = {"entropy", "confidence"}
FROM_DENSE = {"adapters", "R23 weights"}  # groups that go on from the dense run of the table of routers


def variant(name, config, **settings):
    return name, config, {key.replace("__", "."): value for key, value in settings.items()}


def experiments():
    """Group -> [(name, configuration, settings)]. R numbers are those of the published findings."""
    heads = {"model__kv_heads": 4}  # as the configurations of the other routers have
    groups = {"routers": [variant("dense", TOP_K, moe__experts=0, **heads), variant("topk", TOP_K, **heads)]}
    groups["routers"] += [variant(path.stem, path.stem) for path in sorted(ROUTERS.glob("*.yaml"))]
    adapters = [path.stem for path in sorted(EXPERTS.glob("*.yaml")) if "adapter_" in path.read_text()]
    groups["routers"] += [variant(path.stem, path.stem) for path in sorted(EXPERTS.glob("*.yaml")) if path.stem not in adapters]
    groups["presets"] = [variant(path.stem, path.stem) for path in sorted(SMALL.glob("*.yaml"))]
    groups["adapters"] = [variant("dense, trained on", TOP_K, moe__experts=0, **heads)]
    groups["adapters"] += [variant(name, name) for name in adapters]
    groups["R4 z-loss"] = [variant(f"z-loss {z}", TOP_K, moe__z_loss_coeff=z, moe__aux_loss_coeff=0.01)
                           for z in (0.0, 0.001, 0.01)]
    groups["R5 capacity"] = [
        variant(f"top-{k}, CF {factor}", TOP_K, moe__top_k=k, moe__expert_hidden=384 // k, moe__normalize_weights="false",
                moe__capacity_factor=factor / k, moe__eval_capacity_factor=factor / k)
        for k, factor in ((1, 0.75), (1, 1.0), (1, 1.25), (1, 2.0), (2, 0.75), (2, 1.0), (2, 1.25), (2, 2.0))]
    groups["R6 capacity in evaluation"] = [
        variant(f"top-{k}, CF 1.25, evaluated with 2", TOP_K, moe__top_k=k, moe__expert_hidden=384 // k,
                moe__normalize_weights="false", moe__capacity_factor=1.25 / k, moe__eval_capacity_factor=2 / k) for k in (1, 2)]
    groups["R10 and R12 balance"] = [
        variant("none", TOP_K, moe__aux_loss_coeff=0.0),
        variant("loss 0.01", TOP_K, moe__aux_loss_coeff=0.01),
        variant("loss 0.0005", TOP_K),
        variant("bias 0.001, sigmoid", TOP_K, moe__aux_loss_coeff=0.0, moe__score="sigmoid", moe__bias_update_rate=0.001),
        variant("bias 0.01, sigmoid", TOP_K, moe__aux_loss_coeff=0.0, moe__score="sigmoid", moe__bias_update_rate=0.01)]
    groups["R11 scope"] = [variant(f"{scope}", TOP_K, moe__aux_loss_coeff=0.01, moe__aux_loss_scope=scope)
                           for scope in ("sequence", "micro_batch", "global_batch")]
    groups["R22 MoE++"] = [variant(f"tau {tau}", "moepp", **{"moe__moepp__tau": tau}) for tau in (0.25, 0.5, 0.75, 1.0)]
    groups["R19 top-p"] = [variant(f"entropy {c}", "top_p", **{"moe__top_p__entropy_coeff": c})
                           for c in (0.0, 1e-3, 1e-2, 3e-2)]
    groups["R23 weights"] = [variant(f"after upcycling, weights {what}", TOP_K, moe__expert_hidden=384, train__log_every=1,
                                     moe__normalize_weights=value, **heads)
                             for what, value in (("normalised", "true"), ("not normalised", "false"))]
    return groups


def run_folder(out, group, name, seed):
    return out / group.replace(" ", "_") / f"{name.replace(' ', '_').replace(',', '')}-{seed}"


def lines(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def train(program, data, folder, config, settings, seed):
    """One run; its folder appears under its name only when it is whole."""
    part = folder.with_name(folder.name + ".part")
    subprocess.run(["rm", "-rf", part], check=True)
    chosen = {"run.seed": seed, "run.dir": part, "device.threads": 1, "device.backend": "cpu",
              "data.train": f"[{{path: {data}/prose}}]", "data.valid": f"[{{name: prose, path: {data}/prose_valid}}]",
              "train.checkpoint_keep": 1, **settings}
    path = next(f for f in (where / f"{config}.yaml" for where in (ROUTERS, EXPERTS, SMALL)) if f.exists())
    command = [program, "train", path]
    for key, value in chosen.items():
        command += ["--set", f"{key}={value}"]
    part.mkdir(parents=True)
    jobs = [command]
    if folder.parent.name in {name.replace(" ", "_") for name in FROM_DENSE}:
        jobs = begin_with_dense(program, folder, path, settings, seed, part, command)
    with open(part / "log.txt", "w") as log:
        for job in jobs:
            status = subprocess.run(job, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
            if status:
                break
    if status:
        print(f"{folder}: status {status}", (part / "log.txt").read_text()[-500:], file=sys.stderr)
        return False
    keep = [] if folder.name.startswith("dense-") else [part / "checkpoints"]  # adapters begin with it
    subprocess.run(["rm", "-rf", *keep, part / "upcycled.h5", part / "tensorboard"], check=True)
    part.rename(folder)
    return True


def begin_with_dense(program, folder, path, settings, seed, part, command):
    """Jobs that go on from the dense run: upcycle it with the settings of `moe`, then train."""
    dense = folder.parent.parent / "routers" / f"dense-{seed}"
    if settings.get("moe.experts") == 0:
        return [[*command, "--init-from", dense]]
    block = re.search(r"^moe:\n((?:  .*\n)+)", path.read_text(), re.M).group(1)
    moe = dict(re.findall(r"^  (\w+): (.*)$", block, re.M))
    moe.update({key[4:]: value for key, value in settings.items() if key.startswith("moe.")})
    grow = [program, "upcycle", dense, "-o", part / "upcycled.h5", "--experts", moe.pop("experts"), "--seed", str(seed)]
    grow += ["--top-k", moe.pop("top_k")] if "top_k" in moe else []
    for key, value in moe.items():
        grow += ["--set", f"moe.{key}={value}"]
    return [grow, [*command, "--init-from", part / "upcycled.h5"]]


def tokenize(program, out):
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    for name in ("prose", "prose_valid"):
        if not (data / f"{name}.idx").exists():
            subprocess.run([program, "tokenize", ROOT / "data/samples" / f"{name}.txt", "-o", data / name, "--tokenizer",
                            "bytes", "--append-eod"], check=True, stdout=subprocess.DEVNULL)
    return data


def active(folder):
    """Total and active parameters, from the line that training begins with."""
    for line in (folder / "log.txt").read_text().splitlines():
        if "M parameters" in line:
            words = line.split(": ", 1)[1].split()
            return words[0], words[3] if "active" in line else words[0]
    return "?", "?"


def row(folders):
    """Name-free cells of one method: what its seeds say."""
    logs = [lines(folder) for folder in folders]
    last = [log[-1] for log in logs]
    tail = [line for log in logs for line in log[-5:]]

    def mean(key, among=tail):
        values = [line[key] for line in among if isinstance(line.get(key), (int, float))]
        return statistics.fmean(values) if values else None

    def cell(value, form):
        return "" if value is None else format(value, form)
    own = sorted({key for line in tail for key in line if key.startswith("moe/router_") and key[11:] not in SHOWN})
    losses = [line["valid/prose/loss"] for line in last]
    total, used = active(folders[0])
    return [total, used, f"{statistics.fmean(log[0]['train/loss'] for log in logs):.3f}", *[f"{loss:.3f}" for loss in losses], f"{statistics.fmean(losses):.3f}",
            cell(mean("moe/load_max_over_mean"), ".2f"), cell(mean("moe/dead_experts"), ".1f"),
            cell(None if mean("moe/drop_fraction") is None else 100 * mean("moe/drop_fraction"), ".1f"),
            "; ".join(f"{key[11:]} {mean(key):.3g}" for key in own)]


def print_tables(out, seeds):
    for group, methods in experiments().items():
        head = ["method", "M parameters", "active", "first", *[f"loss, seed {seed}" for seed in seeds], "mean", "max/mean load",
                "dead", "dropped %", "its own"]
        print(f"\n### {group}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
        rows = []
        for name, _, _ in methods:
            folders = [run_folder(out, group, name, seed) for seed in seeds]
            if all(lines(folder) for folder in folders):
                rows.append((name, row(folders)))
        if group == "routers":
            rows.sort(key=lambda item: float(item[1][3 + len(seeds)]))
        for name, cells in rows:
            print(f"| {name} | {' | '.join(cells)} |")


def print_courses(out, seeds):
    """What changes in the course of a run: ReMoE's sparsity (R3), where in the sequence tokens are dropped (R20)."""
    for seed in seeds:
        remoe, switch = (lines(run_folder(out, "presets", name, seed)) for name in ("remoe", "switch"))
        print(f"\n### R3 and R20, seed {seed}\n\n| step | ReMoE: lambda | experts per token | Switch: dropped % | of them in the quarters of "
              f"the sequence |\n|{'---|' * 5}")
        for a, b in zip(remoe, switch):
            layers = [key for key in a if re.fullmatch(r"moe/layer_\d+/load", key)]
            tokens = a["tokens"] / a["step"]
            per_token = statistics.fmean(sum(a[key]) for key in layers) / tokens
            at = [statistics.fmean(b[key][i] for key in b if key.endswith("drop_position")) for i in range(8)]
            quarters = ", ".join(f"{at[i] + at[i + 1]:.2f}" for i in range(0, 8, 2))
            print(f"| {a['step']} | {a['moe/router_lambda']:.2g} | {per_token:.2f} | {100 * b['moe/drop_fraction']:.1f} | {quarters} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--program", type=Path, default=ROOT / "build/launch/switchyard")
    parser.add_argument("--group", action="append")
    parser.add_argument("--only", action="append")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    out = args.out.resolve()
    good = True
    if not args.table:
        data = tokenize(args.program.resolve(), out)
        for seed in args.seeds:
            for group, methods in experiments().items():
                for name, config, settings in methods:
                    folder = run_folder(out, group, name, seed)
                    wanted = (not args.group or group in args.group) and (not args.only or name in args.only)
                    if wanted and not folder.exists() and not folder.with_name(folder.name + ".part").exists():
                        good = train(args.program.resolve(), data, folder, config, settings, seed) and good
    print_tables(out, args.seeds)
    print_courses(out, args.seeds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
