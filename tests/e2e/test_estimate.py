#!/usr/bin/env python3
"""estimate: figures that must agree with each other and with a run, a measured machine, and what is refused. No time is judged."""

import json

import harness


class Estimate(harness.Case):
    def estimate(self, *args, **options):
        return json.loads(self.succeeds("estimate", *args, "--json", **options).stdout)

    def shape(self):
        path = self.folder / "shape.yaml"
        path.write_text("model: {vocab_size: 320, hidden: 32, layers: 2, heads: 2, ffn_hidden: 48, seq_len: 16}\n"
                        "moe: {experts: 4, top_k: 2}\n"
                        "train: {steps: 10, global_batch: 16, micro_batch: 2}\n"
                        "data: {tokenizer: bytes, train: [{path: /is/not/there}]}\n")
        return path

    def test_figures_agree_with_each_other(self):
        plot = self.folder / "plot.svg"
        o = self.estimate(self.shape(), "--gpus", 8, "--gpu", "h200", "--set", "parallel.ep=4", "--tokens", 1e9, "--plot", plot)
        self.assertEqual((o["ranks"], o["ep"], o["rounds"], o["precision"]), (8, 4, 1, "bf16"))
        self.assertEqual(sum(m["bytes"] for m in o["memory"]), o["memory_bytes"])
        self.assertAlmostEqual(o["tokens_per_s"] * o["step_ms"] / 1e3, 16 * 16, places=6)
        self.assertAlmostEqual(o["gpu_hours"], 1e9 / o["tokens_per_s"] / 3600 * 8, places=6)
        self.assertAlmostEqual(o["mfu_percent"], 100 * o["tokens_per_s"] * o["mflop_per_token"] * 1e6 / (8 * 989e12), places=9)
        # per layer: out and back, forward and backward; 2 x 16 tokens, 2 experts each, 32 numbers of 2 bytes
        sent = {c["what"]: c for c in o["collectives"]}
        for way in ("moe dispatch", "moe combine"):
            self.assertEqual((sent[way]["ranks"], sent[way]["calls"], sent[way]["bytes"]), (4, 4, 4 * 32 * 2 * 32 * 2))
        self.assertEqual({(x["ep"], x["micro_batch"]) for x in o["layouts"]}, {(e, b) for e in (1, 2, 4) for b in (1, 2)})
        self.assertIn((o["best"]["ep"], o["best"]["micro_batch"]), {(x["ep"], x["micro_batch"]) for x in o["layouts"] if x["fits"]})
        self.assertEqual([x["gpus"] for x in o["scaling"]], [2**i for i in range(3, 13)])
        self.assertTrue(plot.read_text().startswith("<svg xmlns="))

    def test_values_of_zero_are_gathered_beside_the_next_forward_pass(self):
        o = self.estimate(harness.ROOT / "configs/mini.yaml", "--gpus", 8, "--gpu", "h200", "--short", "--set", "model.seq_len=8192",
                          "--set", "train.micro_batch=2", "--set", "train.global_batch=16")
        taken = sum(c["ms"] for c in o["collectives"] if c["what"] == "parameters")
        seen = sum(p["ms"] for p in o["phases"] if p["phase"] == "parameters, gathered")
        self.assertTrue(0 < seen < taken / 2, f"{seen} of {taken} ms")

    def test_ranks_without_work_are_told_and_routers_on_the_host_take_time(self):
        said = self.succeeds("estimate", self.shape(), "--gpus", 24, "--short", "--set", "moe.router=sinkhorn").stderr
        self.assertIn("leaves 8 of 24 ranks without work", said)
        self.assertEqual(self.succeeds("estimate", self.shape(), "--gpus", 8, "--short").stderr, "")
        steps = [self.estimate(self.shape(), "--gpus", 8, "--short", "--set", f"moe.router={router}", "--set", "model.seq_len=4096")["step_ms"]
                 for router in ("sinkhorn", "noisy")]
        # per token, expert and layer 36 ns and 176 ns; two layers, 2 x 4096 tokens, 4 experts; noisy copies twice as many logits
        self.assertAlmostEqual(steps[1] - steps[0], (176 - 36) * 65536e-6, delta=2)

    def test_loads_of_a_run_are_an_imbalance(self):
        """Layer 0: ranks get 3 and 1 of 4 in the second half; layer 1 is even: 1.5 and 1, mean 1.25."""
        (self.folder / "run").mkdir()
        lines = [{"step": i, "moe/layer_0/load": [1, 1, 1, 1] if i < 3 else [2, 1, 1, 0], "moe/layer_1/load": [1, 1, 1, 1]} for i in range(1, 5)]
        (self.folder / "run/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        ask = [self.shape(), "--gpus", 8, "--short", "--set"]
        for ep, wanted in ((1, 1), (2, 1.25), (4, 1.5)):
            measured = self.estimate(*ask, f"parallel.ep={ep}", "--loads", self.folder / "run")
            said = self.estimate(*ask, f"parallel.ep={ep}", "--imbalance", wanted)
            self.assertEqual((measured["imbalance"], measured["step_ms"]), (wanted, said["step_ms"]))
        self.fails(2, "moe.experts is 8", "estimate", *ask, "moe.experts=8", "--loads", self.folder / "run")
        self.fails(2, "give one of them", "estimate", *ask, "parallel.ep=2", "--loads", self.folder / "run", "--imbalance", 2)

    def test_plot_leaves_no_number_of_gpus_out(self):
        o = self.estimate(self.shape(), "--gpus", 32, "--set", "moe.experts=16", "--set", "parallel.ep=16", "--set", "train.micro_batch=1",
                          "--short", "--plot", self.folder / "plot.svg")
        self.assertEqual([(x["gpus"], x["ep"], x["global_batch"]) for x in o["scaling"][:3]], [(8, 8, 4), (16, 16, 8), (32, 16, 16)])
        self.assertEqual(len(o["scaling"]), 10)

    def test_rows_of_an_expert_are_told(self):
        o = self.estimate(self.shape(), "--gpus", 8, "--short", "--set", "moe.capacity_factor=1.3", "--set", "moe.capacity_scope=global")
        self.assertEqual(o["capacity_slots"], 167)  # 1.3 x 8 x 32 tokens x 2 / 4
        self.assertEqual(o["capacity"], "167 rows per expert of 256 tokens, by position; eval: dropless")
        self.fails(2, ["moe.capacity_group 5", "4 and 8"], "estimate", self.shape(), "--gpus", 8, "--set", "moe.capacity_group=5",
                   "--set", "moe.capacity_factor=1")

    def test_nothing_fits_says_what_is_missing(self):
        big = ["--set", "model.hidden=16384", "--set", "model.ffn_hidden=65536", "--set", "model.layers=80", "--set", "model.heads=128"]
        o = self.estimate(self.shape(), "--gpus", 8, *big)
        self.assertFalse(o["fits"])
        self.assertNotIn("best", o)
        self.assertTrue(all("do not fit" in x["note"] for x in o["layouts"]))
        for word in ("ZeRO-3", "tensor or pipeline"):
            self.assertIn(word, o["missing"])

    def test_machine_is_measured(self):
        file = self.folder / "machine.json"
        ranks = 2 if harness.LONG else 1
        self.succeeds("bench", "machine", "--repeats", 1, "--threads", 1, "--precision", "fp32", "-o", file, ranks=ranks, seconds=400)
        machine = json.loads(file.read_text())
        self.assertEqual(machine["ranks"], ranks)
        self.assertGreater(machine["rates"]["fp32"]["grouped_gemm TN"]["gflops"], 0)
        self.assertGreater(machine["peak_gflops"]["fp32"], 0)
        self.assertEqual(len(machine["collectives"]), 4 if ranks > 1 else 0)
        o = self.estimate(self.shape(), "--gpus", ranks, "--bench", file)
        self.assertGreater(o["step_ms"], 0)
        self.fails(2, "has no figures for bf16", "estimate", self.shape(), "--gpus", ranks, "--bench", file, "--set", "device.precision=bf16")

    def machine(self):
        rate = {"call_us": 1.0, "gflops": 100.0, "gb_per_s": 10.0, "far_gb_per_s": 0.0}
        points = [{"bytes": b, "us": 1 + b / 1e3} for b in (1e3, 1e6)]
        return {"format": "switchyard machine", "version": 1, "name": "made up", "ranks": 2, "memory_bytes": 1e10, "program_bytes": 1e7,
                "workspace_share": 0.5, "near_bytes": 1e6, "call_us": 0.25, "peak_gflops": {"fp32": 200.0, "bf16": 400.0},
                "rates": {"fp32": {name: dict(rate) for name in ("add", "gemm NT", "copy")}, "bf16": {}},
                "collectives": {name: points for name in ("all_to_all", "all_reduce", "reduce_scatter", "all_gather")}}

    def test_measured_machine_is_read(self):
        file = self.folder / "machine.json"
        file.write_text(json.dumps(self.machine()))
        o = self.estimate(self.shape(), "--gpus", 2, "--bench", file, "--set", "parallel.ep=2")
        # streams of a CPU run at once: a step is the sum of its parts
        parts = o["work"] + [c for c in o["collectives"] if c["what"] != "step head"]
        self.assertAlmostEqual(o["step_ms"], sum(x["ms"] + x["calls"] * 0.25e-3 for x in parts), delta=1e-6 * o["step_ms"])
        for damage, says in ((lambda m: m.pop("near_bytes"), "near_bytes"), (lambda m: m.update(version=2), "version 2"),
                             (lambda m: m["rates"]["fp32"]["add"].update(call_us=-1), "call_us"),
                             (lambda m: m["collectives"].update(all_reduce=[]), "all_reduce"), (lambda m: m.update(format="x"), "no file of"),
                             (lambda m: m.update(ranks=1), "knows no collectives")):
            broken = self.machine()
            damage(broken)
            file.write_text(json.dumps(broken))
            self.fails(2, says, "estimate", self.shape(), "--gpus", 2, "--bench", file)
        file.write_text(json.dumps(self.machine())[:300])
        self.fails(2, "cannot be read", "estimate", self.shape(), "--gpus", 2, "--bench", file)

    def test_impossible_questions_are_refused(self):
        for says, args in (("did you mean 'h100'", ["--gpus", 8, "--gpu", "h10"]), ("--gpus N is missing", []),
                           ("'0' is not a whole number", ["--gpus", 0]), ("is not --nodes 2", ["--gpus", 8, "--nodes", 2]),
                           ("parallel.ep = 4 does not divide the 6 ranks", ["--gpus", 6, "--set", "parallel.ep=4"]),
                           ("neither with .svg", ["--gpus", 8, "--plot", "x.png"]), ("give one of them", ["--gpu", "h100", "--bench", "x", "--gpus", 1]),
                           ("cannot be read", ["--gpus", 8, "--bench", "/is/not/there"])):
            self.fails(2, says, "estimate", self.shape(), *args)


class ExplainLoss(harness.Case):
    """Numbers by hand; each code's formula is checked in tests/unit/test_convention.c."""

    shape = Estimate.shape

    def explain(self, *args):
        return json.loads(self.succeeds("explain-loss", self.shape(), "--json", *args).stdout)

    def test_coefficients_go_both_ways(self):
        o = self.explain("--set", "moe.aux_loss_coeff=0.02", "--set", "moe.router=top_p")
        self.assertEqual([(x["key"], x["coefficient"]) for x in o["losses"]],
                         [("moe.aux_loss_coeff", 0.02), ("moe.z_loss_coeff", 0.001), ("moe.top_p.entropy_coeff", 0.0001)])
        there = {x["code"]: (x["balance"], x.get("z")) for x in o["conversions"]}
        self.assertEqual({c: there[c] for c in ("megatron", "hf", "olmoe", "mesh")},
                         {"megatron": (0.02, 0.001), "hf": (0.02, None), "olmoe": (0.04, 0.004), "mesh": (0.02, 0.05)})
        here = self.explain("--from", "mesh", "--coeff", 0.02, "--z-coeff", 0.05)["from"]["set"]
        self.assertEqual(here, {"moe.aux_loss_coeff": 0.02, "moe.aux_loss_counts": "first", "moe.aux_loss_scope": "micro_batch",
                                "moe.z_loss_coeff": 0.001})

    def test_person_reads_formulas_and_what_to_write(self):
        out = self.succeeds("explain-loss", self.shape(), "--from", "flaxformer", "--coeff", 0.01, "--set", "moe.aux_loss_counts=first").stdout
        for text in ("2 MoE layers", "E sum_e f_e P_e, f of first choices", "moe.aux_loss_coeff: 0.01", "moe.aux_loss_counts: all"):
            self.assertIn(text, out)

    def test_router_without_a_balance_loss_has_nothing_to_convert(self):
        remoe = ("--set", "moe.router=remoe")
        self.assertEqual(self.explain(*remoe)["conversions"], [])
        out = self.succeeds("explain-loss", self.shape(), *remoe).stdout
        self.assertIn("remoe has no balance loss", out)
        for text in ("megatron", "choices  "):
            self.assertNotIn(text, out)

    def test_what_cannot_be_explained_is_refused(self):
        for says, args in (("did you mean 'megatron'", ("--from", "megatrom", "--coeff", 1)), ("--from names", ("--coeff", 1)),
                           ("has no z-loss", ("--from", "deepseek", "--z-coeff", 1)),
                           ("hash has no such balance loss", ("--from", "megatron", "--coeff", 1, "--set", "moe.router=hash")),
                           ("hash has no z-loss", ("--from", "megatron", "--z-coeff", 1, "--set", "moe.router=hash")),
                           ("says itself what", ("--from", "mesh", "--coeff", 1, "--set", "moe.router=moepp")), ("dense model", ("--set", "moe.experts=0"))):
            self.fails(2, says, "explain-loss", self.shape(), *args)


if __name__ == "__main__":
    harness.main()
