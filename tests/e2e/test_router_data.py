#!/usr/bin/env python3
"""Routers that begin with data: rows against what transformers computes (tests/parity/make_hidden.py), the same for any
number of ranks; tokens of a text find the expert that was trained on it; what makes no sense is refused."""

import json
import math
import random
import struct
import unittest

import harness
import hf_files
from harness import ROOT

FIXTURES = ROOT / "tests/parity/fixtures"
EXPECTED = json.loads((ROOT / "tests/parity/hidden.json").read_text())
TEXTS = (3000, 1700)


def token(text, i):
    """As in make_hidden.py."""
    return (i * i * 7 + (13 * text + 5) * i + i // (9 - 4 * text)) % 61


def rows(name, layer, scale):
    """The means, each of length scale over the root of the mean of |x|^2 over the texts."""
    texts = EXPECTED[name]
    length = scale / math.sqrt(sum(t["square"][layer] for t in texts) / len(texts))
    out = []
    for t in texts:
        mean = t["mean"][layer]
        norm = math.sqrt(sum(x * x for x in mean))
        out.append([x / norm * length for x in mean])
    return out


class Rows(harness.Case):
    def setUp(self):
        super().setUp()
        self.data = []
        for text, n in enumerate(TEXTS):
            prefix = harness.write_tokens(self.folder / f"text{text}", [[token(text, i) for i in range(n)]])
            self.data += ["--router-data", prefix]

    def routers(self, ckpt):
        """[layer][expert][H]"""
        out = self.folder / (ckpt.stem + "_hf")
        self.succeeds("export", ckpt, "-o", out, "--dtype", "fp32")
        found = []
        for name, (_, shape, raw) in sorted(hf_files.read(out / "model.safetensors").items()):
            if name.endswith(("block_sparse_moe.gate.weight", "mlp.gate.weight")):
                E, H = shape
                x = struct.unpack(f"<{E * H}f", raw)
                found.append([x[e * H:(e + 1) * H] for e in range(E)])
        return found

    def near(self, ours, theirs, relative):
        largest = max(map(abs, theirs))
        self.assertLessEqual(max(abs(a - b) for a, b in zip(ours, theirs, strict=True)), relative * largest)

    def test_rows_are_the_mean_hidden_states(self):
        """In fp32 and in double, of a model with and one without norms of q and k; half a text more than a chunk."""
        for name, scale, device, relative in (("llama", 1, [], 1e-5), ("qwen3", 2.5, [], 1e-5),
                                              ("llama", 1, ["--set", "device.backend=ref"], 1e-7)):
            with self.subTest(name, relative=relative):
                out = self.folder / f"{name}{len(device)}.h5"
                text = self.succeeds("upcycle", FIXTURES / name, "--experts", 2, "-o", out, *self.data, *device,
                                     "--router-scale", scale)
                self.assertIn("2976 tokens; expert 0", text.stdout)
                self.assertRegex(text.stdout, r"moe/router +2 +means of 2 texts")
                routers = self.routers(out)
                self.assertEqual(len(routers), len(EXPECTED[name][0]["square"]))
                for layer, router in enumerate(routers):
                    for ours, theirs in zip(router, rows(name, layer, scale), strict=True):
                        self.near(ours, theirs, relative)

    def test_copies_share_out_the_texts_and_differ(self):
        """Copy c has text c mod 2, and something drawn beside it, as there are several; shards of a copy have one row."""
        args = ["--experts", 8, "--method", "granular", "--granularity", 2, *self.data]
        one, many = self.folder / "one.h5", self.folder / "many.h5"
        self.succeeds("upcycle", FIXTURES / "llama", *args, "-o", one)
        self.succeeds("upcycle", FIXTURES / "llama", *args, "-o", many, ranks=3)
        lines = self.job("diff", one, many).stdout.splitlines()
        self.assertEqual([x for x in lines if "/model/" in x], [])
        for layer, router in enumerate(self.routers(one)):
            self.assertEqual(len({tuple(r) for r in router}), 4)
            for e, row in enumerate(router):
                self.assertEqual(row, router[e - e % 2])
                apart = [a - b for a, b in zip(row, rows("llama", layer, 1)[e // 2 % 2])]
                self.assertLess(max(map(abs, apart)), 0.0601)
                self.assertGreater(max(map(abs, apart)), 0.001)

    def refused(self, words, *args, command="upcycle"):
        self.fails(2, words, command, *args, "-o", self.folder / "out.h5")
        self.assertEqual([p.name for p in self.folder.iterdir() if "out" in p.name], [])

    def test_what_makes_no_sense_is_refused(self):
        base = FIXTURES / "llama"
        self.refused("3 experts cannot be shared out to 2 texts", base, "--experts", 3, *self.data)
        self.refused("one text", base, "--experts", 2, *self.data[:2])
        self.refused("--router-scale goes with --router-data", base, "--experts", 2, "--router-scale", 2)
        self.refused("nowhere", base, "--experts", 2, *self.data[:2], "--router-data", self.folder / "nowhere")
        harness.write_tokens(self.folder / "wide", [[60, 61, 5] * 30])
        self.refused(["wide", "61"], base, "--experts", 2, *self.data[:2], "--router-data", self.folder / "wide")
        sources = ["--source", base, "--source", base]
        self.refused("2 times for 3 sources", "--method", "btx", *sources, "--source", base, *self.data, command="merge")
        self.refused("--router-data", "--method", "average", *sources, *self.data, command="merge")
        self.refused("--router-data", "--method", "btx", "--equal", *sources, *self.data, command="merge")

    def test_equal_texts_are_warned_of(self):
        job = self.succeeds("upcycle", FIXTURES / "llama", "--experts", 2, "-o", self.folder / "a.h5", *self.data[:2],
                            *self.data[:2])
        self.assertIn("hard to tell apart in 2 of 2 MoE layers", job.stderr)


class Specialists(harness.Case):
    """A seed model, branched into prose and arithmetic."""

    def share(self, ckpt, text, expert):
        """Of the text's choices, over all layers, those of an expert, before anything is learned."""
        run = f"{ckpt.stem}_{text}"
        config = self.config(f"{run}.yaml", moe={"experts": 2, "top_k": 1, "normalize_weights": False},
                             train={"steps": 1, "global_batch": 16, "checkpoint_every": 0},
                             data={"train": [{"path": str(self.folder / f"{text}_new")}]})
        self.train(config, run, "--init-from", ckpt)
        lse = 1 + math.log(2)  # logits are at most about 1, which keeps the z-loss small
        self.assertLess(float(self.metrics(run)[0]["moe/z_loss"]), lse * lse)
        loads = [v for k, v in self.metrics(run)[0].items() if k.startswith("moe/") and k.endswith("/load")]
        self.assertEqual(len(loads), 2)
        return sum(float(x[expert]) for x in loads) / sum(float(v) for x in loads for v in x)

    def test_tokens_find_the_expert_of_their_text(self):
        draw = random.Random(1)
        prose = (ROOT / "data/samples/prose.txt").read_bytes()
        sums = "".join(f"{a}+{b}={a + b}\n" for a, b in ((draw.randrange(500), draw.randrange(500)) for _ in range(5000)))
        both = []
        for name, text in (("prose", prose), ("sums", sums.encode())):
            both.append({"path": str(harness.write_tokens(self.folder / name, [text[:30000]]))})
            harness.write_tokens(self.folder / f"{name}_new", [text[30000:40000]])
        seed = self.config("seed.yaml", moe={"experts": 0}, train={"steps": 25, "checkpoint_every": 0}, data={"train": both})
        self.train(seed, "seed")
        for data in both:
            config = self.config("one.yaml", moe={"experts": 0}, train={"steps": 10, "checkpoint_every": 0},
                                 data={"train": [data]})
            self.train(config, data["path"] + "_model", "--init-from", self.folder / "seed")
        routed = [x for data in both for x in ("--router-data", data["path"])]
        sources = [x for data in both for x in ("--source", data["path"] + "_model")]
        shares = {}
        for how, args in (("data", routed), ("random", [])):
            out = self.folder / f"{how}.h5"
            self.succeeds("merge", "--method", "btx", *sources, "--top-k", 1, *args, "-o", out, ranks=2)
            shares[how] = [self.share(out, name, e) for e, name in enumerate(("prose", "sums"))]
        for e in (0, 1):
            self.assertGreater(shares["data"][e], 0.8, shares)
            self.assertGreater(shares["data"][e], shares["random"][e] + 0.1, shares)


if __name__ == "__main__":
    harness.main()
