#!/usr/bin/env python3
"""upcycle as a command: what it writes can be used, what it refuses leaves nothing behind."""

import json
import re
import shutil

import harness
import hf_files
from harness import snapshot


class Upcycle(harness.Case):
    """A dense model that has learned something; each test makes its own MoE of it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("prepare")
        case.setUp()
        case.prepare()
        cls.dense = cls.home / "dense"
        (case.folder / "run").rename(cls.dense)
        case.tearDown()

    def prepare(self):
        self.train(self.config(moe={"experts": 0}, train={"steps": 20, "checkpoint_every": 0}), "run")

    def upcycle(self, name, *args, experts=4, ranks=0):
        out = self.folder / name
        job = self.succeeds("upcycle", self.dense, "-o", out, "--experts", experts, *args, ranks=ranks)
        return out, job.stdout

    def refused(self, words, *args, source=None, out="moe.h5"):
        before = snapshot(self.home)
        self.fails(2, words, "upcycle", source or self.dense, "-o", self.folder / out, *args)
        self.assertEqual(snapshot(self.home), before)

    def inspect(self, path):
        return json.loads(self.succeeds("inspect", path, "--json").stdout)

    def loss(self, path, *args, ranks=0):
        job = self.succeeds("eval", path, "--data", self.home / "held_out", "--json", *args, ranks=ranks)
        return json.loads(job.stdout)["sets"][0]["loss"]

    def test_moe_says_what_the_dense_model_says(self):
        out, text = self.upcycle("moe.h5")
        self.assertRegex(text, r"logits +\d\.\d+e-\d\d")
        dense = self.loss(self.dense)
        self.assertAlmostEqual(self.loss(out), dense, delta=1e-5)
        self.assertAlmostEqual(self.loss(out, ranks=4), dense, delta=1e-5)

    def test_file_does_not_depend_on_the_ranks(self):
        alone, _ = self.upcycle("alone.h5")
        four, _ = self.upcycle("four.h5", ranks=4)
        three, _ = self.upcycle("three.h5", ranks=3)
        digests = [self.inspect(path) for path in (alone, four, three)]
        self.assertEqual(digests[0], digests[1])
        self.assertEqual(digests[0], digests[2])
        self.assertEqual(self.loss(alone), self.loss(four))

    def test_file_is_a_model_with_the_new_configuration(self):
        out, _ = self.upcycle("moe.h5", "--top-k", 3, "--layers", "1", "--set", "moe.aux_loss_coeff=0.05")
        info = self.inspect(out)
        self.assertEqual(info["kind"], "model")
        self.assertEqual(info["step"], 20)
        for line in ("experts: 4", "top_k: 3", "layers: [1]", "aux_loss_coeff: 0.05", "normalize_weights: true"):
            self.assertRegex(info["config"], r"(?m)^  " + re.escape(line) + "$")
        shapes = {p["path"].strip("/"): p["shape"] for p in info["params"]}
        self.assertEqual(shapes["model/layers/001/moe/experts/gate"], [4, 48, 32])
        self.assertEqual(shapes["model/layers/001/moe/experts/down"], [4, 32, 48])
        self.assertEqual(shapes["model/layers/001/moe/router"], [4, 32])
        self.assertEqual(shapes["model/layers/000/mlp/gate"], [48, 32])
        self.assertNotIn("model/layers/001/mlp/gate", shapes)

    def test_training_and_generation_go_on_from_it(self):
        out, _ = self.upcycle("moe.h5")
        config = self.config(train={"steps": 3, "checkpoint_every": 0}, parallel={"ep": 2})
        self.train(config, "run", "--init-from", out, ranks=2)
        fresh = self.config("fresh.yaml", train={"steps": 1, "checkpoint_every": 0})
        self.train(fresh, "fresh")
        self.assertLess(self.losses("run")[0], self.losses("fresh")[0] - 0.3)
        self.assertTrue(self.succeeds("generate", out, "--prompt", "the ", "--max-tokens", 3).stdout.startswith("the "))

    def test_copy_that_is_not_exact_says_so_and_is_written(self):
        out, text = self.upcycle("moe.h5", "--top-k", 1)
        self.assertIn("no bound", text)
        self.assertRegex(self.inspect(out)["config"], r"(?m)^  normalize_weights: false$")

    def test_router_whose_weights_are_its_own_promises_nothing(self):
        """The comparison knows top-k's weights; hash has no router matrix at all."""
        for router in ("hash", "base"):
            out, text = self.upcycle(f"{router}.h5", "--top-k", 1, "--set", f"moe.router={router}", "--set", "moe.aux_loss_coeff=0",
                                     "--set", "moe.z_loss_coeff=0")
            self.assertIn("no bound", text)
            self.assertNotIn("predicted", text)

    def test_other_methods_say_what_they_keep(self):
        whole, text = self.upcycle("whole.h5", "--method", "granular", "--granularity", 2)
        self.assertNotIn("no bound", text)
        self.assertAlmostEqual(self.loss(whole), self.loss(self.dense), delta=1e-5)
        self.assertIn("top_k: 4", self.inspect(whole)["config"])
        self.assertIn("expert_hidden: 24", self.inspect(whole)["config"])
        part, text = self.upcycle("part.h5", "--method", "granular", "--granularity", 2, "--top-k", 3)
        self.assertIn("no bound", text)
        granular = ("--method", "granular", "--granularity", 3, "--shuffle")
        whole, text = self.upcycle("shuffled.h5", *granular, experts=6, ranks=3)
        self.assertNotIn("no bound", text)
        self.assertAlmostEqual(self.loss(whole), self.loss(self.dense), delta=1e-5)
        part, text = self.upcycle("rest.h5", *granular, "--drop-ratio", 0.5, experts=7)
        self.assertIn("no bound", text)
        three, _ = self.upcycle("rest3.h5", *granular, "--drop-ratio", 0.5, experts=7, ranks=3)
        self.assertIn("same", self.succeeds("diff", part, three).stdout)
        for method, option in (("noise", "--noise-std"), ("drop", "--drop-ratio")):
            alone, text = self.upcycle(f"{method}.h5", "--method", method)
            self.assertIn("no bound", text)
            three, _ = self.upcycle(f"{method}3.h5", "--method", method, ranks=3)
            self.assertIn("same", self.succeeds("diff", alone, three).stdout)
            none, text = self.upcycle(f"{method}0.h5", "--method", method, option, 0)
            self.assertNotIn("no bound", text)
            self.assertAlmostEqual(self.loss(none), self.loss(self.dense), delta=1e-5)
            self.assertNotAlmostEqual(self.loss(alone), self.loss(self.dense), delta=1e-5)

    def test_shared_expert_is_made_of_the_dense_mlp(self):
        plain, text = self.upcycle("plain.h5", "--shared-experts", 1)
        self.assertNotIn("no bound", text)
        self.assertAlmostEqual(self.loss(plain), self.loss(self.dense), delta=1e-5)
        gated, text = self.upcycle("gated.h5", "--shared-experts", 2, "--set", "moe.shared_gate=true", ranks=2)
        self.assertNotIn("no bound", text)
        self.assertAlmostEqual(self.loss(gated), self.loss(self.dense), delta=1e-5)
        shapes = {p["path"].strip("/"): p["shape"] for p in self.inspect(gated)["params"]}
        self.assertEqual(shapes["model/layers/000/moe/shared/gate"], [48, 32])
        self.succeeds("verify", plain, gated)
        config = self.config(moe={"shared_experts": 1}, train={"steps": 2, "checkpoint_every": 0}, parallel={"ep": 2})
        self.train(config, "run", "--init-from", plain, ranks=2)

    def test_vocabulary_grows_and_keeps_its_logits(self):
        out, text = self.upcycle("moe.h5", "--set", "model.vocab_size=300", ranks=3)
        self.assertRegex(text, r"logits +\S+ +\S+ +1e-05")
        self.assertRegex(text, r"nll +\S+ +\S+ +1e-05")
        shapes = {p["path"].strip("/"): p["shape"] for p in self.inspect(out)["params"]}
        self.assertEqual(shapes["model/embed"], [300, 32])
        self.assertEqual(shapes["model/head"], [300, 32])
        grown = self.loss(out)  # what the new tokens take of the probabilities: 44 like the mean of 256
        self.assertTrue(self.loss(self.dense) < grown < self.loss(self.dense) + 0.1, grown)
        self.train(self.config(model={"vocab_size": 300}, train={"steps": 1}), "run", "--init-from", out)

    def test_longer_sequences_come_with_their_rotary_angles(self):
        longer = ("--set", "model.seq_len=64", "--set", "model.rope_theta=500000", "--set", "model.rope_scaling=linear",
                  "--set", "model.rope_factor=2")
        out, text = self.upcycle("moe.h5", *longer, ranks=2)
        self.assertIn("64 random tokens", text)
        self.assertRegex(text, r"both with model.rope_theta: 10000\S* -> 500000")
        self.assertRegex(text, r"both with model.seq_len: 32 -> 64")
        kept = json.loads(self.succeeds("inspect", out, "--receipt").stdout)["probe"]["set_anew"]
        self.assertIn("model.seq_len: 32 -> 64", kept)
        self.assertEqual(len(kept), 4)
        dense = self.loss(self.dense, *longer)
        self.assertAlmostEqual(self.loss(out), dense, delta=1e-5)
        self.assertNotAlmostEqual(self.loss(self.dense), dense, delta=1e-4)
        model = {"seq_len": 64, "rope_theta": 500000, "rope_scaling": "linear", "rope_factor": 2}
        self.train(self.config(model=model, train={"steps": 1}), "run", "--init-from", out)

    def test_optimizer_state_that_is_carried_over_goes_on_where_the_dense_run_was(self):
        out, _ = self.upcycle("carried.h5", "--optimizer", "carry", ranks=2)
        self.assertEqual(self.inspect(out)["kind"], "training")
        self.succeeds("verify", out)
        steps = {"steps": 24, "checkpoint_every": 0}
        shutil.copytree(self.dense, self.folder / "dense", symlinks=True)
        self.train(self.config("dense.yaml", moe={"experts": 0}, train=steps), "dense", "--resume")
        config = self.config(train=steps, parallel={"ep": 2})
        self.train(config, "moe", "--resume", out, ranks=2)
        dense, moe = self.metrics("dense")[20:], self.metrics("moe")
        self.assertEqual([r["step"] for r in moe], [21, 22, 23, 24])
        for a, b in zip(dense, moe):
            for key in ("step", "tokens", "train/lr"):
                self.assertEqual(a[key], b[key])
            self.assertAlmostEqual(float(a["train/loss"]), float(b["train/loss"]), delta=0.02)
        self.assertAlmostEqual(float(dense[0]["train/loss"]), float(moe[0]["train/loss"]), delta=1e-5)
        self.train(config, "anew", "--resume", out, "--reset", "schedule,data", "--set", "train.steps=21", ranks=2)
        self.assertEqual(float(self.metrics("anew")[0]["train/lr"]), 0.005)  # the first of two steps of warm-up
        self.refused("no checkpoint of kind training", "--experts", 4, "--optimizer", "carry",
                     source=harness.ROOT / "tests/parity/fixtures/llama")
        average = self.folder / "average.h5"
        self.succeeds("merge", "--method", "average", "--source", self.dense, "--source", self.dense, "-o", average)
        self.refused("no checkpoint of kind training", "--experts", 4, "--optimizer", "carry", source=average)
        self.refused(["carry", "fresh", "kept"], "--experts", 4, "--optimizer", "kept")
        frozen = self.config("frozen.yaml", moe={"experts": 0}, train={"steps": 1, "freeze": ["layers/*/mlp/*"]})
        self.train(frozen, "frozen")
        self.refused(["layers/000/mlp/down", "freeze"], "--experts", 4, "--optimizer", "carry",
                     source=self.folder / "frozen")
        self.succeeds("upcycle", self.folder / "frozen", "-o", self.folder / "fresh.h5", "--experts", 4)
        self.succeeds("verify", self.folder / "fresh.h5")

    def test_hugging_face_folder_is_a_source(self):
        source = harness.ROOT / "tests/parity/fixtures/llama"
        job = self.succeeds("upcycle", source, "-o", self.folder / "a.h5", "--experts", 4, ranks=2)
        self.assertNotIn("no bound", job.stdout)
        self.succeeds("export", self.folder / "a.h5", "-o", self.folder / "hf", "--architecture", "MixtralForCausalLM")

    def test_killed_upcycle_leaves_no_final_name_and_runs_again(self):
        for fault in ("checkpoint_write:20:kill", "checkpoint_rename:1:kill"):
            job = self.job("upcycle", self.dense, "-o", self.folder / "a.h5", "--experts", 4, fault=fault)
            self.assertNotEqual(job.status, 0)
            self.assertFalse((self.folder / "a.h5").exists())
        self.upcycle("a.h5")
        self.assertEqual([p.name for p in self.folder.iterdir() if "a.h5" in p.name and p.name != "a.h5"], [])

    def test_what_cannot_be_done_is_refused(self):
        experts = ("--experts", 4)
        out, _ = self.upcycle("there.h5")
        self.refused(["there.h5", "exists"], *experts, out="there.h5")
        self.refused(["already", "4 experts"], *experts, source=out)
        self.refused(["granularity", "granular"], *experts, "--granularity", 2)
        self.refused("--granularity G", *experts, "--method", "granular")
        self.refused(["granularity 5", "48"], *experts, "--method", "granular", "--granularity", 5)
        self.refused(["--drop-ratio", "drop"], *experts, "--drop-ratio", 0.5)
        self.refused(["--drop-ratio", "--shuffle"], *experts, "--method", "granular", "--granularity", 2,
                     "--drop-ratio", 0.5)
        self.refused(["--shuffle", "granular"], *experts, "--shuffle")
        self.refused(["4 are not whole copies of 3", "--shuffle"], *experts, "--method", "granular", "--granularity", 3)
        self.refused("--drop-ratio", *experts, "--method", "drop", "--drop-ratio", 1.5)
        self.refused("did you mean 'copy'", *experts, "--method", "coppy")
        self.refused("--experts", out="moe.h5")
        self.refused(["moe.experts", "--experts"], *experts, "--set", "moe.experts=8")
        self.refused("top_k 5 is larger", *experts, "--top-k", 5)
        self.refused("no layer 2", *experts, "--layers", "2")
        self.refused("layers", *experts, "--layers", "every:9")
        self.refused(["moe.layers", "too long"], *experts, "--layers", "0" + " " * 5000 + ",1")
        self.refused("--shared-experts", *experts, "--set", "moe.shared_experts=1")
        self.refused(["shared_hidden 24", "48"], *experts, "--shared-experts", 1, "--set", "moe.shared_hidden=24")
        self.refused(["200", "smaller than the 256"], *experts, "--set", "model.vocab_size=200",
                     "--set", "data.tokenizer=none")
        self.refused("embed", *experts, "--set", "model.hidden=16")
        self.refused(["another value", "model.activation: swiglu -> geglu"], *experts, "--set", "model.activation=geglu")
        self.refused("nowhere", *experts, out="nowhere/moe.h5")
        self.refused("nothing.h5", *experts, source=self.folder / "nothing.h5")

    def test_damaged_source_is_exit_3(self):
        damaged = self.folder / "damaged.h5"
        whole = next((self.dense / "checkpoints").glob("step_*.h5")).read_bytes()
        flipped = bytearray(whole)
        at = whole.find(self.some_weights())
        flipped[at + 5] ^= 16
        for raw in (whole[:len(whole) // 2], flipped):
            damaged.write_bytes(raw)
            self.fails(3, "damaged.h5", "upcycle", damaged, "-o", self.folder / "moe.h5", "--experts", 4, "--method",
                       "drop", "--optimizer", "carry", ranks=2)
            self.assertEqual([p.name for p in self.folder.iterdir() if "moe" in p.name], [])

    def some_weights(self):
        """Bytes of the last layer's down, which upcycling reads late."""
        self.succeeds("export", self.dense, "-o", self.folder / "hf")
        name = "model.layers.1.mlp.down_proj.weight"
        return hf_files.read(self.folder / "hf/model.safetensors")[name][2][:64]


if __name__ == "__main__":
    harness.main()
