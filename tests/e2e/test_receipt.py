#!/usr/bin/env python3
"""The receipts of upcycle and merge: what they say, that it is true of the file, and that a lost expert has none."""

import json
import math
import re
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import harness
import hf_files


def offset_of(path, dataset):
    """Where the bytes of a dataset begin, as HDF5's own tool tells."""
    text = subprocess.run(["h5dump", "-p", "-H", "-d", dataset, str(path)], capture_output=True, text=True).stdout
    return int(re.search(r"OFFSET (\d+)", text)[1])


class Receipt(harness.Case):
    """Two dense models; each test makes something of them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("prepare")
        case.setUp()
        case.prepare()
        (case.folder / "a").rename(cls.home / "a")
        (case.folder / "b").rename(cls.home / "b")
        case.tearDown()

    def prepare(self):
        for name, seed in (("a", 1), ("b", 2)):
            self.train(self.config(run={"seed": seed}, moe={"experts": 0}, train={"steps": 3, "checkpoint_every": 0}), name)

    def source(self, name="a"):
        return next((self.home / name / "checkpoints").glob("step_*.h5"))

    def upcycle(self, *args, **options):
        out = self.folder / "moe.h5"
        out.unlink(missing_ok=True)
        return out, self.succeeds("upcycle", self.source(), "-o", out, "--experts", 4, *args, **options).stdout

    def receipt(self, path):
        return json.loads(self.succeeds("inspect", path, "--receipt").stdout)

    def nf4_error(self, path):
        """Every code is the nearest level of its weight, and every scale the largest of 64, from the bytes of both files."""
        def values(file, name, form, size):
            shape = {p["path"]: p["shape"] for p in json.loads(self.succeeds("inspect", file, "--json").stdout)["params"]}["/model/" + name]
            data = Path(file).read_bytes()[(at := offset_of(file, "/model/" + name)):at + math.prod(shape) * size]
            return shape, struct.unpack(f"<{math.prod(shape)}{form}", data)

        levels = (-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.1609302, 0.2461123,
                  0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)
        (rows, K), w = values(self.source(), "layers/001/mlp/down", "f", 4)
        (_, row_bytes), packed = values(path, "layers/001/moe/base/down_nf4", "B", 1)
        worst = 0.0
        for r in range(rows):
            row = bytes(packed[r * row_bytes:(r + 1) * row_bytes])
            for k in range(K):
                block = w[r * K + k // 64 * 64:r * K + min(K, k // 64 * 64 + 64)]
                scale = struct.unpack_from("<f", row, K // 2 + 4 * (k // 64))[0]
                x, code = w[r * K + k] / scale, row[k // 2] >> (4 * (k % 2)) & 15
                worst = max(worst, abs(scale - max(map(abs, block))), abs(x - levels[code]) - min(abs(x - v) for v in levels))
        return worst

    def nothing_is_left(self):
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), [])

    # ---- what it says ----

    def test_receipt_tells_where_every_tensor_went(self):
        out, text = self.upcycle(ranks=3)
        receipt = self.receipt(out)
        tensors = {t["name"]: t for t in receipt["sources"][0]["tensors"]}
        listed = json.loads(self.succeeds("inspect", self.source(), "--json").stdout)["params"]
        self.assertEqual({"/model/" + name for name in tensors}, {p["path"] for p in listed})
        gate = tensors["layers/001/mlp/gate"]["to"]
        self.assertEqual([(to["tensor"], to["experts"], to["cosine"]) for to in gate],
                         [("layers/001/moe/experts/gate", [0, 1, 2, 3], [1.0] * 4)])
        self.assertEqual(tensors["layers/001/attn/q"]["to"], [{"tensor": "layers/001/attn/q", "as": "copy"}])
        self.assertEqual(receipt["drawn"], ["layers/000/moe/router", "layers/001/moe/router"])
        self.assertEqual([run["compute"] for run in receipt["probe"]["runs"]], ["f32", "bf16"])
        for run, bound in zip(receipt["probe"]["runs"], (1e-5, 1e-2)):
            self.assertLessEqual(run["logits_relative"], bound)
            self.assertLessEqual(run["nll_relative"], bound)
        self.assertRegex(text, r"layers/\*/moe/experts/gate +2 +layers/\*/mlp/gate +4 +1\.0+ +1\.0+ +1\.0+")
        self.assertLess(len(text.splitlines()), 30)

    def test_digests_are_those_of_the_sources_bytes(self):
        """Every tensor here is one piece of its file, whose checksum stands in the file's table."""
        out, _ = self.upcycle()
        path = self.source()
        raw, table = path.read_bytes(), offset_of(path, "/integrity/xxh3_64")
        wanted = {}
        while (name := raw[table:table + 192].split(b"\0")[0].decode()) and "/" in name:
            wanted[name] = struct.unpack_from("<Q", raw, table + 208)[0]
            table += 216
        for t in self.receipt(out)["sources"][0]["tensors"]:
            self.assertEqual(int(t["xxh3_64"], 16), wanted["model/" + t["name"]], t["name"])

    def test_source_with_values_that_are_no_numbers_is_refused(self):
        folder, name = self.home / "nan", "model.layers.1.mlp.down_proj.weight"
        self.succeeds("export", self.source(), "-o", folder)
        tensors = hf_files.read(folder / "model.safetensors")
        raw = bytearray(tensors[name][2])
        raw[20:24] = struct.pack("<f", math.nan)
        tensors[name] = (*tensors[name][:2], bytes(raw))
        (folder / "model.safetensors").write_bytes(hf_files.pack(tensors))
        words, out = [folder, "layers/001/mlp/down", "not finite"], self.folder / "moe.h5"
        self.fails(2, words, "upcycle", folder, "-o", out, "--experts", 4, "--method", "drop")
        self.fails(2, words, "merge", "--method", "average", "--source", self.source(), "--source", folder, "-o", out)
        self.nothing_is_left()
        self.succeeds("import", folder, "-o", out)
        job = self.succeeds("eval", out, "--data", self.home / "held_out", "--json")
        self.assertIsNone(json.loads(job.stdout)["sets"][0]["loss"])

    def test_receipt_holds_of_a_bf16_model_whose_masters_come_along(self):
        """What is drawn or scaled was rounded from masters, which the model's own values do not tell."""
        dense = self.home / "narrow"
        self.train(self.config(device={"precision": "bf16"}, moe={"experts": 0}, train={"steps": 3, "checkpoint_every": 0}), dense)
        for args in (("noise",), ("copy", "--set", "model.vocab_size=260"),
                     ("granular", "--granularity", 2), ("granular", "--granularity", 3, "--top-k", 3)):
            out = self.folder / "moe.h5"
            self.succeeds("upcycle", dense, "-o", out, "--experts", 6, "--optimizer", "carry", "--method", *args)
            self.succeeds("verify", out)
            self.assertEqual(self.receipt(out)["probe"]["preserves"], args[0] != "noise")
            out.unlink()

    def test_adapters_begin_as_the_dense_model_that_they_change(self):
        """Whatever is drawn, and wherever they run: the proof is as strict as for copies."""
        soft = ("--set", "moe.router=soft", "--set")
        for args, drawn in ((("--set", "moe.adapter_rank=2"), "experts/gate_b"),
                            (("--set", "moe.adapter_kind=bottleneck", "--set", "moe.adapter_rank=2", "--top-k", 1,
                              "--set", "moe.aux_loss_coeff=0.01"), "experts/adapter_out"),
                            ((*soft, "moe.adapter_kind=molora", "--set", "moe.adapter_rank=2"), "adapters/down_b"),
                            ((*soft, "moe.adapter_kind=mov"), "adapters/scale"),
                            ((*soft, "moe.adapter_kind=mov", "--set", "moe.adapter_attention=true"), "adapters/k_router")):
            out, _ = self.upcycle(*args, ranks=2)
            receipt = self.receipt(out)
            self.assertIn("layers/001/moe/" + drawn, receipt["drawn"])
            for run, bound in zip(receipt["probe"]["runs"], (1e-5, 1e-2), strict=True):
                self.assertLessEqual(run["logits_relative"], bound)
        self.succeeds("verify", out)
        packed, _ = self.upcycle("--set", "moe.adapter_rank=2", "--set", "moe.adapter_base=nf4", ranks=2)
        run = self.receipt(packed)["probe"]["runs"][0]
        self.assertLess(1e-4, run["logits_relative"])
        self.assertLess(run["logits_relative"], 0.3)
        self.succeeds("verify", packed)
        self.assertLess(self.nf4_error(packed), 1e-6)
        self.fails(2, ["mov", "moe.router"], "upcycle", self.source(), "-o", self.folder / "no.h5", "--experts", 4, *soft[2:],
                   "moe.adapter_kind=mov")
        self.fails(2, "--method copy", "upcycle", self.source(), "-o", self.folder / "no.h5", "--experts", 4, "--method", "drop",
                   "--set", "moe.adapter_rank=2")
        self.fails(2, "adapters", "export", out, "-o", self.folder / "hf")
        out.unlink()

    def test_ratio_is_measured_where_the_function_is_not_kept(self):
        out, text = self.upcycle("--top-k", 1, ranks=2)
        ratio = self.receipt(out)["probe"]["ffn_ratio"]
        self.assertEqual(ratio["uniform_router"], 0.25)
        self.assertTrue(ratio["promised"])
        self.assertAlmostEqual(ratio["measured"], ratio["predicted"], delta=1e-4)
        self.assertLess(abs(ratio["measured"] - 0.25), 0.15)
        self.assertIn("for each token", text)
        self.upcycle("--method", "noise", "--noise-std", 0.1, "--shared-experts", 1)  # a factor in down
        self.upcycle("--method", "drop", "--drop-ratio", 0.5, "--shared-experts", 1)
        out, text = self.upcycle("--method", "drop", "--drop-ratio", 0.5)
        ratio = self.receipt(out)["probe"]["ffn_ratio"]
        self.assertFalse(ratio["promised"])
        self.assertAlmostEqual(ratio["predicted"], 0.5, delta=1e-6)
        self.assertAlmostEqual(ratio["measured"], 0.5, delta=0.25)
        for t in self.receipt(out)["sources"][0]["tensors"]:
            for to in t["to"]:
                for cosine, predicted in zip(to.get("cosine", []), to.get("predicted", [])):
                    self.assertTrue(0.2 < cosine < 0.8 and abs(cosine - predicted) < 0.3, (t["name"], cosine))

    def test_merge_tells_how_far_its_sources_are_apart(self):
        a, b, out = self.home / "a", self.home / "b", self.folder / "mix.h5"
        text = self.succeeds("merge", "--method", "btx", "--source", a, "--source", b, "-o", out, ranks=2).stdout
        receipt = self.receipt(out)
        self.assertEqual([s["path"] for s in receipt["sources"]], [str(self.source("a")), str(self.source("b"))])
        self.assertEqual(len(receipt["between_sources"]), 6)  # gate, up, down of two layers
        for pair in receipt["between_sources"]:
            (aa, ab), (ba, bb) = pair["cosine"]
            self.assertTrue(abs(aa - 1) < 1e-9 and abs(bb - 1) < 1e-9 and ab == ba and abs(ab) < 0.5, pair)
        self.assertEqual(receipt["probe"]["runs"], [])
        self.assertIn("no one model", text)
        up = {t["name"]: t["to"] for t in receipt["sources"][1]["tensors"]}["layers/000/mlp/up"]
        self.assertEqual([to["experts"] for to in up], [[1]])

    def test_equal_sources_are_proven_to_give_the_source(self):
        for method in ("btx", "average"):
            out = self.folder / f"{method}.h5"
            text = self.succeeds("merge", "--method", method, "--source", self.home / "a", "--source", self.home / "a",
                                 "-o", out, ranks=2).stdout
            self.assertIn("the sources are equal", text)
            self.assertTrue(self.receipt(out)["probe"]["preserves"])
            self.assertRegex(text, r"f32 +logits +\S+ +\S+ +1e-05")

    # ---- the file ----

    def test_receipt_is_part_of_a_whole_file(self):
        out, _ = self.upcycle()
        self.assertIn("receipt", self.succeeds("inspect", out).stdout)
        self.succeeds("verify", out)
        for dataset, place in (("/x/receipt", 100), ("/model/layers/001/moe/experts/up", 2 * 48 * 32 * 4 + 40)):
            damaged = self.folder / "damaged.h5"
            shutil.copy(out, damaged)
            with open(damaged, "r+b") as f:  # of expert 2, and of the receipt
                f.seek(offset_of(damaged, dataset) + place)
                f.write(b"\0" * 64)
            self.fails(3, dataset, "verify", damaged)
        self.fails(2, "no receipt", "inspect", self.source(), "--receipt")
        other, _ = out.rename(self.folder / "other.h5"), None
        again, _ = self.upcycle(ranks=4)
        self.assertIn("same", self.succeeds("diff", other, again).stdout)

    def test_lost_expert_is_named_and_nothing_is_published(self):
        """A fault point loses, or takes from elsewhere, the n-th expert that is written: down, gate, up by layer."""
        a, b, out = self.home / "a", self.home / "b", self.folder / "x.h5"
        lost = ("upcycle", self.source(), "-o", out, "--experts", 4)
        mix = ("merge", "--method", "btx", "--source", a, "--source", b, "-o", out)
        for command, fault, ranks, words in (
                (lost, "upcycle_lost_expert:6:nan", 0, ["layer 0", "layers/000/moe/experts/gate", "expert 1 was lost"]),
                (lost + ("--method", "noise"), "upcycle_lost_expert:1:nan", 0, ["layers/000/moe/experts/down", "expert 0"]),
                (lost + ("--method", "drop"), "upcycle_lost_expert:24:nan", 0, ["layers/001/moe/experts/up", "expert 3"]),
                (lost + ("--method", "granular", "--granularity", 2), "upcycle_lost_expert:13:nan", 0,
                 ["layer 1", "layers/001/moe/experts/down", "expert 0"]),
                (lost, "upcycle_lost_expert:1:nan:3", 4, ["was lost"]),
                (mix, "upcycle_wrong_expert:4:nan", 0, ["layers/000/moe/experts/gate", "expert 1 was lost"])):
            job = self.fails(1, words, *command, fault=fault, ranks=ranks)
            self.assertIn("nothing was written", job.errors()[0])
            self.nothing_is_left()

    def test_killed_at_any_moment_leaves_nothing_under_the_name_and_runs_again(self):
        command = ("upcycle", self.source(), "-o", self.folder / "a.h5", "--experts", 4)
        for fault in ("receipt_write:1:fail", "checkpoint_fsync:1:fail", "grow_rename:1:fail"):
            self.fails(1, fault.split(":")[0], *command, fault=fault, ranks=2)
        self.nothing_is_left()
        for fault in ("checkpoint_write:9:kill", "checkpoint_fsync:1:kill", "checkpoint_rename:1:kill",
                      "receipt_write:1:kill", "grow_rename:1:kill"):
            self.assertNotEqual(self.job(*command, fault=fault).status, 0)
            self.assertFalse((self.folder / "a.h5").exists(), fault)
            self.assertTrue((self.folder / ".a.h5.lock").exists(), fault)
            self.assertGreater(len(list(self.folder.iterdir())), 1, fault)  # the next run replaces it
        job = self.succeeds(*command)
        self.assertNotIn("lock", job.stderr)
        self.succeeds("verify", self.folder / "a.h5")
        self.assertEqual([p.name for p in self.folder.iterdir()], ["a.h5"])

    def stopped(self, command, fault):
        """The command, standing still there."""
        job = self.start(*command, fault=fault + ":1:stop")
        self.wait_for(self.folder / ".a.h5.unproven")
        end = time.monotonic() + 20
        while "T (stopped)" not in Path("/proc", str(job.process.pid), "status").read_text():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        return job

    def test_two_commands_do_not_write_one_file(self):
        out = self.folder / "a.h5"
        command = ("upcycle", self.source(), "-o", out, "--experts", 4)
        first = self.stopped(command, "receipt_write")
        other = ("merge", "--method", "ensemble", "--source", self.home / "a", "--source", self.home / "b", "-o", out)
        self.fails(2, ["another command is writing", out], *other, ranks=2)
        first.signal(signal.SIGCONT)
        self.assertEqual(first.wait().status, 0, first.text())
        self.succeeds("verify", out)
        out.unlink()
        first = self.stopped(command, "grow_rename")
        out.write_text("somebody's")
        first.signal(signal.SIGCONT)
        self.check_failure(first.wait(), 1, ["a.h5", "in the meantime"])
        self.assertEqual([(p.name, p.read_text()) for p in self.folder.iterdir()], [("a.h5", "somebody's")])


if __name__ == "__main__":
    harness.main()
