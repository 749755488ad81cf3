"""train --profile: a trace of some steps of every rank, as ui.perfetto.dev reads it. The oracle is the metrics of the
same steps, and what a collective is: nobody leaves an all-reduce before everybody has come."""

import json
import math
import subprocess

import harness

RANKS = 3
# Rank 1 lives on a node whose clock began 1000 s earlier.
SHIFTED = 'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then exec unshare -T --monotonic 1000 "$0" "$@"; fi; exec "$0" "$@"'


def has_time_namespaces():
    probe = ["unshare", "-T", "--monotonic", "1000", "true"]
    try:
        return subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


class Profile(harness.Case):
    def profile(self, option, run="run", **train):
        config = self.config(moe={"experts": 6}, parallel={"ep": 3}, model={"seq_len": 64, "hidden": 64},
                             train={"steps": 6, "global_batch": 6, "checkpoint_every": 4, "checkpoint_async": True, **train})
        program = ["bash", "-c", SHIFTED, harness.PROGRAM] if has_time_namespaces() else None
        self.train(config, run, "--profile", option, ranks=RANKS, program=program)
        trace = json.loads((self.folder / run / "trace.json").read_text(), parse_constant=self.fail)
        self.check_format(trace)
        self.records = [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]
        return trace["traceEvents"]

    def check_format(self, trace):
        """The Trace Event Format's rules for the two kinds of events that we write: complete ones, and names."""
        self.assertIsInstance(trace["traceEvents"], list)
        self.assertIn(trace.get("displayTimeUnit", "ms"), ("ms", "ns"))
        named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
        for e in trace["traceEvents"]:
            self.assertIs(type(e["name"]), str)
            self.assertEqual((type(e["pid"]), type(e.get("tid", 0))), (int, int), e)
            self.assertIn(type(e.get("args", {})), (dict,), e)
            if e["ph"] == "M":
                self.assertIn(e["name"], ("process_name", "process_labels", "process_sort_index", "thread_name", "thread_sort_index"))
                key = {"name": "name", "labels": "labels", "index": "sort_index"}[e["name"].rsplit("_", 1)[1]]
                self.assertIn(type(e["args"][key]), (int,) if key == "sort_index" else (str,), e)
            else:
                self.assertEqual((e["ph"], type(e["cat"])), ("X", str), e)
                self.assertTrue(math.isfinite(e["ts"]) and math.isfinite(e["dur"]) and e["dur"] >= 0, e)
                self.assertIn((e["pid"], e["tid"]), named, "spans of a thread without a name")

    def spans(self, events, rank, thread=0):
        spans = [e for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == (rank, thread)]
        return sorted(spans, key=lambda e: (e["ts"], -e["dur"]))

    def check_nesting(self, spans):
        """Each lies inside another or beside it. Times are written to the nanosecond."""
        open_until = []
        for e in spans:
            end = e["ts"] + e["dur"]
            while open_until and open_until[-1] <= e["ts"] + 0.002:
                open_until.pop()
            self.assertTrue(not open_until or end <= open_until[-1] + 0.002, e)
            open_until.append(end)

    def inside(self, spans, outer):
        return [e for e in spans if e is not outer and outer["ts"] <= e["ts"] and
                e["ts"] + e["dur"] <= outer["ts"] + outer["dur"] + 0.002]

    def total_ms(self, spans, *names):
        return sum(e["dur"] for e in spans if e["name"] in names) / 1e3

    def check_rank(self, events, rank):
        spans = self.spans(events, rank)
        self.check_nesting(spans)
        steps = [e for e in spans if e["cat"] == "step"]
        self.assertEqual([e["name"] for e in steps], ["step 3", "step 4"])
        for step in steps:
            parts = self.inside(spans, step)
            for name, n in (("forward", 2), ("backward", 2), ("layer 0", 4), ("moe", 8), ("attention", 8),
                            ("route", 4), ("head", 2), ("optimizer", 2), ("step head", 1)):
                # the op of attention bears the name of its sublayer
                self.assertEqual(len([e for e in parts if e["name"] == name and e["cat"] != "op"]), n, name)
            sent = [e["args"] for e in parts if e["name"] == "moe dispatch"]
            # 2 micro-batches, 2 layers, there and back; each of 64 tokens has 2 rows of 64 floats
            self.assertEqual([a["bytes"] for a in sent], [64 * 2 * 64 * 4] * 8)
            self.assertEqual([a["layer"] for a in sent], [0, 1, 1, 0] * 2)
        return steps

    def check_sums(self, events):
        """What the metrics say of the same steps, on rank 0. A machine under load may stop us between two clocks: one
        step that agrees is enough."""
        spans, apart = self.spans(events, 0), {}
        for step in [e for e in spans if e["cat"] == "step"]:
            record = self.records[int(step["name"].split()[1]) - 1]
            parts = self.inside(spans, step)
            for of_trace, of_metrics in (("forward", "forward"), ("backward, gradient sync", "backward, grad_sync_wait"),
                                         ("optimizer", "optimizer"), ("dispatch", "dispatch"), ("combine", "combine"),
                                         ("parameter gather", "param_gather"), (step["name"], "step")):
                total = self.total_ms([step, *parts], *of_trace.split(", "))
                said = sum(record[f"perf/{name}_ms"] for name in of_metrics.split(", "))
                apart[of_metrics] = min(abs(total - said) - 0.1 * total - 0.5, apart.get(of_metrics, 1e9))
        self.assertLess(max(apart.values()), 0, apart)

    def check_clocks(self, events):
        """Every all-reduce of a step: the last rank to come comes before the first one leaves."""
        calls = [[e for e in self.spans(events, rank) if e["name"] in ("step head", "step sums")] for rank in range(RANKS)]
        self.assertEqual([len(c) for c in calls], [4] * RANKS)
        apart = max(max(e["ts"] for e in together) - min(e["ts"] + e["dur"] for e in together) for together in zip(*calls))
        self.assertLess(apart, 2e5, "clocks are 0.2 s apart")

    def test_trace_holds_every_rank_and_agrees_with_the_metrics(self):
        events = self.profile("2")
        self.assertEqual({e["pid"] for e in events}, set(range(RANKS)))
        names = {(e["pid"], e["args"]["name"]) for e in events if e["name"] in ("process_name", "thread_name")}
        for rank in range(RANKS):
            self.assertLessEqual({(rank, f"rank {rank}"), (rank, "main"), (rank, "sy-data")}, names)
            self.check_rank(events, rank)
        self.assertEqual(self.total_ms(events, "checkpoint: open") > 0, True)
        times = [(e["ts"], e["ts"] + e["dur"]) for e in events if e["ph"] == "X"]
        self.assertGreater(min(t[0] for t in times), -1e5)
        self.assertLess(max(t[1] for t in times), 1e6 * self.records[-1]["time_s"] + 1e6)
        self.check_sums(events)
        self.check_clocks(events)

    def test_trace_of_a_run_that_ends_or_stops_early(self):
        config = self.config(train={"steps": 3})
        self.train(config, "late", "--profile", "9@3")
        events = json.loads((self.folder / "late/trace.json").read_text())["traceEvents"]
        self.assertEqual([e["name"] for e in events if e.get("cat") == "step"], ["step 3"])
        for option, words in (("0", "N@STEP"), ("3@", "N@STEP"), ("x", "N@STEP"), ("2@4", "step 1 to step 3")):
            self.fails(2, words, "train", config, "--run-dir", self.folder / "none", "--profile", option)


if __name__ == "__main__":
    harness.main()
