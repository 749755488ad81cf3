#!/usr/bin/env python3
"""bench: what it says has the right shape, warm steps allocate nothing, and it leaves nothing behind. No figure is judged."""

import json
import os

import harness


class Bench(harness.Case):
    def bench(self, *args, **options):
        # a job's own TMPDIR shows what it leaves there; MPI keeps its sockets elsewhere, as their paths may not be long
        (self.folder / "tmp").mkdir(exist_ok=True)
        env = {"TMPDIR": str(self.folder / "tmp"), "OMPI_MCA_orte_tmpdir_base": "/tmp"}
        job = self.succeeds("bench", *args, "--json", env=env, **options)
        self.assertEqual([f for f in os.listdir(self.folder / "tmp") if f.startswith("switchyard")], [])
        return json.loads(job.stdout)

    def check_step(self, o, ranks, precision):
        self.assertEqual((o["ranks"], o["threads"], o["precision"]), (ranks, 1, precision))
        self.assertEqual(o["batch"], "4 x 32, micro 1")
        self.assertAlmostEqual(o["tokens_per_s"] * o["step_ms"] / 1e3, 4 * 32, delta=1e-6)
        self.assertAlmostEqual(o["model_gflops"], o["tokens_per_s"] * o["mflop_per_token"] / 1e3, delta=1e-6)
        self.assertEqual(len(o["step_times_s"]), 3)
        for ours in ("sy_allocs", "device_allocs"):
            self.assertEqual(o[ours], 0, o)
        self.assertGreater(o["peak_gflops"], 0)

    def test_step_allocates_nothing_of_its_own(self):
        config = self.config()
        for precision, name in (("fp32", "f32"), ("bf16", "bf16")):
            args = ["step", "--config", config, "--threads", 1, "--repeats", 3, "--precision", precision]
            self.check_step(self.bench(*args), 1, name)
            self.check_step(self.bench(*args, "--set", "parallel.ep=2", ranks=2), 2, name)

    def test_layer_measures_the_first_layer_of_a_configuration(self):
        config = self.config(moe={"layers": "every:2", "capacity_factor": 1.0}, train={"freeze": ["layers/001/*"]})
        o = self.bench("layer", "--config", config, "--threads", 1, "--repeats", 3, "--set", "parallel.ep=2", ranks=2)
        self.assertEqual((o["ranks"], o["ep"], o["tokens"], o["hidden"]), (2, 2, 64, 32))
        per_token = 6 * (4 * 32 + 2 * 3 * 32 * 48)  # the router, and two experts of three matrices
        self.assertAlmostEqual(o["gflops"] * 1e9 * o["layer_ms"] / 1e3, 64 * per_token, delta=1)
        self.assertGreaterEqual(o["load_max_over_mean"], 1)
        self.assertGreater(o["peak_gflops"], 0)
        self.fails(2, "moe.experts", "bench", "layer", "--set", "moe.experts=0")

    def test_gemm_measures_all_forms(self):
        o = self.bench("gemm", "--shape", "64x48x32", "--shape", "64x48x32x4", "--repeats", 1, "--threads", 1)
        self.assertEqual([(p["experts"], p["precision"], p["form"][:2]) for p in o["products"]],
                         [(g, p, f) for p in ("f32", "bf16") for g in (0, 4) for f in ("NT", "NN", "TN")])
        self.assertTrue(all(p["gflops"] > 0 and p["peak_gflops"] > 0 for p in o["products"]))

    def test_dispatch_measures_each_size(self):
        o = self.bench("dispatch", "--bytes", 4096, "--bytes", 65536, "--repeats", 3, ranks=3)
        self.assertEqual([s["bytes_per_pair"] for s in o["sizes"]], [4096, 65536])
        for s in o["sizes"]:
            self.assertAlmostEqual(s["gb_per_s"] * s["us"] * 1e3, 2 * 2 * s["bytes_per_pair"], delta=1)

    def test_checkpoint_measures_each_way_and_leaves_no_file(self):
        folder = self.folder / "disk"
        folder.mkdir()
        o = self.bench("checkpoint", "--dir", folder, "--size", 1000000, "--repeats", 2, "--threads", 1, ranks=2)
        self.assertEqual((o["ranks"], o["bytes_per_rank"]), (2, 983040))  # whole rows
        self.assertEqual([f["figure"] for f in o["figures"]],
                         ["save", "load, cold", "load, warm", "verify, cold", "verify, warm"])
        for f in o["figures"]:
            self.assertAlmostEqual(f["percent_of_plain"], 100 * f["plain_s"] / f["s"], delta=1e-6)
            self.assertAlmostEqual(f["mb_per_s"] * f["s"], 2 * 0.98304, delta=1e-6)
        self.assertAlmostEqual(o["stall"]["percent_of_blocking"],
                               100 * o["stall"]["stall_ms"] / o["stall"]["blocking_ms"], delta=1e-6)
        self.assertEqual(os.listdir(folder), [])

    def test_wrong_use_is_refused(self):
        self.fails(2, ["'stp'", "step"], "bench", "stp")
        self.fails(2, "at least two ranks", "bench", "dispatch")
        self.fails(2, ["--size", "3"], "bench", "checkpoint", "--size", 3)
        self.fails(2, self.folder / "nowhere", "bench", "checkpoint", "--size", 1000000, "--dir", self.folder / "nowhere", ranks=2)
        self.fails(2, ["--shape", "3x"], "bench", "gemm", "--shape", "3x")
        self.fails(2, ["moe.expert", "moe.experts"], "bench", "step", "--set", "moe.expert=3")
        self.fails(2, ["parallel.ep"], "bench", "step", "--config", self.config(), "--set", "parallel.ep=3", ranks=2)


if __name__ == "__main__":
    harness.main()
