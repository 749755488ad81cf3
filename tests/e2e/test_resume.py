#!/usr/bin/env python3
"""A run that stops and goes on is the run that never stopped: bit for bit at the same layout, within rounding at
another. What may change on the way, what may not, and what lies in the run directory afterwards."""

import shutil
import struct

import harness
from harness import snapshot, write_tokens


UL2 = {"model": {"vocab_size": 300},
       "data": {"objective": "ul2", "sentinels": 20, "sentinel_id": 299, "mode_ids": [257, 258, 259], "eod": 256}}

# Sums over rows and columns of some matrices, whole moments of others.
ADAFACTOR = {"optim": {"name": "adafactor", "adafactor": {"min_factored": 16, "momentum": 0.5}}, "moe": {"expert_hidden": 24, "extra_ffn": True},
             "model": {"activation": "swiglu_linear", "output_z_loss_coeff": 1e-3}}


def masked_crc(raw):
    """TFRecord's checksum: CRC-32C, turned and shifted."""
    crc = 0xffffffff
    for byte in raw:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    crc ^= 0xffffffff
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def doubles(raw):
    return list(struct.unpack(f"<{len(raw) // 8}d", raw))


def fields(raw):
    """A protocol buffer as lists of values by field number: integers, or bytes."""
    found = {}

    def varint():
        nonlocal raw
        x = shift = 0
        while True:
            byte, raw = raw[0], raw[1:]
            x |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return x
    while raw:
        tag = varint()
        n = {0: 0, 1: 8, 5: 4}.get(tag & 7)
        value = varint() if n == 0 else None
        if n != 0:
            n = varint() if n is None else n
            value, raw = raw[:n], raw[n:]
        found.setdefault(tag >> 3, []).append(value)
    return found


class SameLayout(harness.Case):
    def continues_bit_for_bit(self, ranks, **sections):
        config = self.config(**sections)
        self.train(config, "whole", ranks=ranks)
        self.rewind("whole", "again", 3)
        job = self.train(config, "again", "--resume", ranks=ranks)
        self.same_records("again", "whole")
        self.assertIn("step_00000003.h5", job.stderr)
        self.assertIn("behind step 3; the last line had no end", job.stderr)
        self.assertEqual(self.checkpoints("again"), self.checkpoints("whole"))

    def test_resume_fp32_one_process_continues_bit_for_bit(self):
        self.continues_bit_for_bit(0)

    def test_resume_fp32_two_ranks_sharing_experts_continues_bit_for_bit(self):
        self.continues_bit_for_bit(2, parallel={"ep": 2})

    def test_resume_uneven_batch_and_whole_states_continues_bit_for_bit(self):
        self.continues_bit_for_bit(3, parallel={"ep": 1, "zero": 0}, train={"global_batch": 5})

    def test_resume_amid_a_ramp_of_the_batch_continues_bit_for_bit(self):
        ramp = {"batch_ramp_from": 1, "batch_ramp_by": 1, "batch_ramp_tokens": 8 * 32}
        self.continues_bit_for_bit(2, parallel={"ep": 2}, train={"global_batch": 5, **ramp})
        self.assertEqual([r["train/global_batch"] for r in self.metrics("again")], [1, 1, 2, 3, 4, 5, 5, 5])

    def test_resume_ref_continues_bit_for_bit(self):
        self.continues_bit_for_bit(2, parallel={"ep": 1}, device={"backend": "ref"})

    def test_resume_bf16_with_all_kinds_of_state_continues_bit_for_bit(self):
        self.continues_bit_for_bit(
            2, parallel={"ep": 2}, device={"precision": "bf16"},
            moe={"bias_update_rate": 0.01, "score": "sigmoid", "jitter": 0.1, "shared_experts": 1, "shared_gate": True,
                 "capacity_factor": 1.0, "layers": [1]},
            model={"qk_norm": "head", "attention_bias": True, "tie_embeddings": True},
            train={"freeze": ["layers/000/attn/*"], "micro_batch": 2})

    def test_resume_in_megatron_s_order_continues_bit_for_bit(self):
        write_tokens(self.folder / "many", [bytes(range(40 + i)) for i in range(30)])
        paths = [{"path": str(self.folder / "many"), "weight": 3}, {"path": str(self.home / "text"), "part": "all"}]
        self.continues_bit_for_bit(2, parallel={"ep": 2}, data={"order": "megatron", "split": [9, 1, 0], "train": paths})

    def test_resume_in_megatron_s_order_with_other_steps_warns_where_the_order_is_another(self):
        """800 tokens are 24 sequences: 8 steps of 2 and 12 of 2 go through them once, 16 of 2 twice."""
        write_tokens(self.folder / "few", [bytes(range(200))] * 4)
        data = {"order": "megatron", "train": [{"path": str(self.folder / "few")}]}
        config = self.config(data=data, train={"steps": 8, "global_batch": 2})
        self.train(config, "whole")
        for steps, options, warned in ((12, [], False), (16, [], True), (16, ["--reset", "data"], False)):
            name = f"run{steps}{len(options)}"
            self.rewind("whole", name, 3)
            job = self.train(config, name, "--resume", "--set", f"train.steps={steps}", *options)
            self.assertEqual("order was made for 16 sequences" in job.stderr, warned, job.text())
            self.assertEqual("keep train.steps" in job.stderr, warned, job.text())

    def test_resume_beyond_megatron_s_order_is_refused(self):
        """A smaller batch makes a shorter order, in which the position of before does not exist."""
        write_tokens(self.folder / "few", [bytes(range(200))])
        data = {"order": "megatron", "train": [{"path": str(self.folder / "few")}]}
        self.train(self.config(data=data, train={"steps": 4, "global_batch": 8}), "run", "--set", "train.checkpoint_every=0")
        job = self.job("train", self.config(data=data, train={"steps": 4, "global_batch": 8}), "--run-dir", self.folder / "run",
                       "--resume", "--set", "train.global_batch=2", "--set", "train.steps=6")
        self.assertEqual(job.status, 2, job.text())
        self.assertIn("--reset data", job.text())

    def test_resume_with_denoisers_continues_bit_for_bit(self):
        self.continues_bit_for_bit(0, **UL2)

    def test_resume_with_adafactor_continues_bit_for_bit(self):
        self.continues_bit_for_bit(2, parallel={"ep": 1}, device={"precision": "bf16"}, **ADAFACTOR)
        self.succeeds("verify", self.folder / "again")

    def test_resume_twice_continues_bit_for_bit(self):
        config = self.config()
        self.train(config, "whole")
        for steps in (2, 5, 8):
            self.train(config, "parts", "--resume", "--set", f"train.steps={steps}")
        self.same_records("parts", "whole")

    def test_init_from_takes_weights_alone(self):
        config = self.config(train={"steps": 3, "checkpoint_every": 1})
        self.train(config, "first")
        self.train(config, "second", "--init-from", self.folder / "first")
        self.assertEqual([r["step"] for r in self.metrics("second")], [1, 2, 3])
        self.assertLess(self.losses("second")[0], self.losses("first")[0])

    def test_init_from_at_another_length_and_with_other_angles_takes_the_weights(self):
        self.train(self.config(train={"steps": 20, "checkpoint_every": 0}), "first")
        longer = {"seq_len": 64, "rope_scaling": "linear", "rope_factor": 2}
        config = self.config(model=longer, train={"steps": 1})
        self.train(config, "second", "--init-from", self.folder / "first")
        self.assertLess(self.losses("second")[0], self.losses("first")[10])


class OtherLayout(harness.Case):
    def continues_within(self, relative, layouts, **sections):
        self.train(self.config(parallel={"ep": 2}, **sections), "whole", ranks=2)
        for ranks, ep, zero in layouts:
            name = f"n{ranks}_ep{ep}_zero{zero}"
            self.rewind("whole", name, 3)
            self.train(self.config(parallel={"ep": ep, "zero": zero}, **sections), name, "--resume", ranks=ranks)
            self.assertEqual(self.metrics(name)[:3], self.metrics("whole")[:3])
            self.near(self.losses(name), self.losses("whole"), relative)

    def test_resume_ref_at_other_layouts_agrees(self):
        self.continues_within(1e-9, [(1, 1, 1), (3, 1, 1), (4, 4, 1), (4, 2, 0)], device={"backend": "ref"},
                              moe={"score": "sigmoid", "bias_update_rate": 0.01})

    def test_resume_ref_of_four_ranks_at_two_three_and_eight_agrees(self):
        self.train(self.config(parallel={"ep": 4}, device={"backend": "ref"}, moe={"experts": 8}), "whole", ranks=4)
        for ranks, ep in ((0, 1), (2, 2), (3, 1), (8, 8)):
            self.rewind("whole", f"n{ranks}", 3)
            self.train(self.config(parallel={"ep": ep}, device={"backend": "ref"}, moe={"experts": 8}), f"n{ranks}",
                       "--resume", ranks=ranks)
            self.near(self.losses(f"n{ranks}"), self.losses("whole"), 1e-9)

    def test_resume_with_adafactor_at_other_layouts_agrees(self):
        self.continues_within(1e-9, [(3, 1, 1), (4, 2, 0)], device={"backend": "ref"}, **ADAFACTOR)

    def test_resume_with_denoisers_at_other_layouts_agrees(self):
        """Padding and inputs without a loss, of other lengths on each rank."""
        self.continues_within(1e-9, [(0, 1, 1), (3, 1, 1)], device={"backend": "ref"}, **UL2)

    def test_resume_fp32_at_other_layouts_agrees(self):
        self.continues_within(1e-4, [(0, 1, 1), (4, 2, 1)])

    def test_resume_across_precisions_agrees(self):
        self.train(self.config(), "fp32")
        self.rewind("fp32", "ref", 3)
        self.train(self.config(device={"backend": "ref"}), "ref", "--resume")
        self.near(self.losses("ref"), self.losses("fp32"), 1e-4)
        self.rewind("ref", "back", 6)
        self.train(self.config(), "back", "--resume")
        self.near(self.losses("back"), self.losses("fp32"), 1e-4)

    def test_resume_across_bf16_and_fp32_agrees_within_their_rounding(self):
        for first, then in (("bf16", "fp32"), ("fp32", "bf16")):
            self.train(self.config(device={"precision": first}), first)
            self.rewind(first, f"{first}_{then}", 3)
            self.train(self.config(device={"precision": then}), f"{first}_{then}", "--resume")
            self.near(self.losses(f"{first}_{then}"), self.losses(first), 0.02)


class Files(harness.Case):
    def test_checkpoint_keep_leaves_the_newest(self):
        self.train(self.config(train={"checkpoint_every": 2, "checkpoint_keep": 2}), "run")
        self.assertEqual(self.checkpoints("run"), ["latest", "step_00000006.h5", "step_00000008.h5"])
        self.assertEqual((self.folder / "run/checkpoints/latest").readlink().name, "step_00000008.h5")

    def test_checkpoint_holds_the_loads_of_its_step(self):
        self.train(self.config(moe={"layers": [1]}), "run", ranks=2)
        for name, record in (("step_00000003.h5", 2), ("step_00000006.h5", 5)):
            loads = [int(float(x)) for x in self.metrics("run")[record]["moe/layer_1/load"]]
            self.assertGreater(sum(loads), 0)
            rows = [0] * len(loads) + loads  # layer 0 is dense
            whole = (self.folder / "run/checkpoints" / name).read_bytes()
            self.assertIn(struct.pack(f"<{len(rows)}q", *rows), whole)

    def events(self, run):
        """Scalars and histograms by step as TensorBoard shows them: what a later session says again is void."""
        shown = {}
        for file in sorted((self.folder / run / "tensorboard").iterdir(), key=lambda f: f.stat().st_mtime_ns):
            raw = file.read_bytes()
            while raw:
                n = struct.unpack_from("<Q", raw)[0]
                for begin, end in ((0, 8), (12, 12 + n)):
                    self.assertEqual(struct.unpack_from("<I", raw, end)[0], masked_crc(raw[begin:end]))
                event, raw = fields(raw[12:12 + n]), raw[16 + n:]
                step = event.get(2, [0])[0]
                if 7 in event:
                    shown = {s: values for s, values in shown.items() if s < step}
                for summary in event.get(5, []):
                    values = [fields(v) for v in fields(summary)[1]]
                    shown[step] = {v[1][0].decode(): struct.unpack("<f", v[2][0])[0] for v in values if 2 in v}
                    for v in values:
                        if 5 in v:
                            histogram = fields(v[5][0])
                            shown[step][v[1][0].decode()] = [doubles(histogram[i][0]) for i in range(1, 8)]
        return shown

    def test_tensorboard_shows_the_metrics(self):
        config = self.config()
        self.train(config, "run", ranks=2)
        for kept in (8, 6):
            shown = self.events("run")
            self.assertEqual(sorted(shown), [r["step"] for r in self.metrics("run")])
            for record in self.metrics("run"):
                for name in ("train/loss", "moe/aux_loss", "train/grad_norm"):
                    self.assertLessEqual(abs(shown[record["step"]][name] - float(record[name])), 1e-6 * float(record[name]))
                load = [float(n) for n in record["moe/layer_1/load"]]
                low, high, n, total, squares, limit, bucket = shown[record["step"]]["moe/layer_1/load"]
                self.assertEqual((low, high, n), ([0], [len(load)], [sum(load)]))
                self.assertEqual(limit, [e + 1 for e in range(len(load))])
                self.assertEqual(bucket, load)
                self.assertEqual(total, [sum(e * x for e, x in enumerate(load))])
                self.assertEqual(squares, [sum(e * e * x for e, x in enumerate(load))])
            self.rewind("run", f"again{kept}", 6)
            shutil.rmtree(self.folder / "run")
            (self.folder / f"again{kept}").rename(self.folder / "run")
            self.train(config, "run", "--resume")

    def test_checkpoint_every_zero_saves_at_the_end(self):
        self.train(self.config(train={"checkpoint_every": 0}), "run")
        self.assertEqual(self.checkpoints("run"), ["latest", "step_00000008.h5"])

    def test_finished_run_resumed_changes_nothing(self):
        config = self.config()
        self.train(config, "run")
        before = snapshot(self.folder / "run")
        self.train(config, "run", "--resume")
        after = snapshot(self.folder / "run")
        report = str(self.folder / "run/report.html")
        self.assertEqual({**before, report: ""}, {**after, report: ""})

    def test_log_every_writes_those_lines_and_the_last(self):
        config = self.config(train={"log_every": 3, "checkpoint_every": 4})
        self.train(config, "run", "--set", "train.steps=4")
        self.assertEqual([r["step"] for r in self.metrics("run")], [3, 4])
        self.train(config, "run", "--resume")
        self.assertEqual([r["step"] for r in self.metrics("run")], [3, 4, 6, 8])

    def test_resume_names_a_checkpoint_and_goes_on_from_it(self):
        config = self.config()
        self.train(config, "whole")
        shutil.copytree(self.folder / "whole", self.folder / "run", symlinks=True)
        named = self.folder / "run/checkpoints/step_00000003.h5"
        self.train(config, "run", "--resume", named)
        self.same_records("run", "whole")

    def test_named_checkpoint_from_elsewhere_is_what_a_killed_run_goes_on_from(self):
        config = self.config()
        self.train(config, "whole")
        other = self.config("other.yaml", optim={"lr": 0.02})
        self.train(other, "run", "--set", "train.steps=3")  # of the same step, and another line
        named = self.folder / "whole/checkpoints/step_00000003.h5"
        job = self.job("train", config, "--run-dir", self.folder / "run", "--resume", named, fault="train.step:2:kill")
        self.assertNotIn(job.status, (0, 1, 2, 3, 75), job.text())
        self.assertEqual(self.checkpoints("run"), ["latest", "step_00000003.h5", "step_00000003.h5.old"])
        self.train(config, "run", "--resume")
        self.assertEqual(self.metrics("run")[3:], self.metrics("whole")[3:])

    def test_resume_in_an_empty_folder_starts_at_zero(self):
        config = self.config(train={"steps": 2})
        (self.folder / "run").mkdir()
        job = self.train(config, "run", "--resume")
        self.assertIn("starting at step 0", job.stderr)
        self.assertEqual([r["step"] for r in self.metrics("run")], [1, 2])

    def test_leftovers_without_a_checkpoint_start_over(self):
        config = self.config(train={"steps": 2})
        checkpoints = self.folder / "run/checkpoints"
        checkpoints.mkdir(parents=True)
        (checkpoints / ".step_00000003.h5.tmp").write_bytes(b"half")
        (self.folder / "run/metrics.jsonl").write_text('{"step":1}\n{"step":2}\n')
        self.train(config, "run")
        self.assertEqual(len(self.metrics("run")), 2)
        self.assertIn("train/loss", self.metrics("run")[0])
        self.assertEqual(self.checkpoints("run"), ["latest", "step_00000002.h5"])

    def test_folder_with_checkpoints_without_resume_is_refused(self):
        config = self.config(train={"steps": 2})
        self.train(config, "run")
        before = snapshot(self.folder / "run")
        self.fails(2, ["--resume", self.folder / "run"], "train", config, "--run-dir", self.folder / "run")
        self.fails(2, ["--resume", self.folder / "run"], "train", config, "--run-dir", self.folder / "run", ranks=2)
        self.assertEqual(snapshot(self.folder / "run"), before)


class Rules(harness.Case):
    """What may change on resume (INTERFACES section 6)."""

    def setUp(self):
        super().setUp()
        self.train(self.config(train={"steps": 3}), "run")
        self.before = snapshot(self.folder / "run")

    def refused(self, words, *args, **sections):
        sections.setdefault("train", {}).setdefault("steps", 5)
        self.fails(2, words, "train", self.config(**sections), "--run-dir", self.folder / "run", "--resume", *args)
        self.assertEqual(snapshot(self.folder / "run"), self.before)

    def accepted(self, lines, *args, ranks=0, **sections):
        sections.setdefault("train", {}).setdefault("steps", 5)
        job = self.train(self.config(**sections), "run", "--resume", *args, ranks=ranks)
        for line in lines:
            self.assertIn(line, job.stderr)
        self.assertEqual([r["step"] for r in self.metrics("run")], [1, 2, 3, 4, 5])

    def test_resume_with_another_model_is_refused(self):
        self.refused("model.hidden", model={"hidden": 64})
        self.refused("model.layers", "--set", "model.layers=3")
        self.refused("moe.experts", "--set", "moe.experts=8")
        self.refused("moe.layers", "--set", "moe.layers=[1]")
        self.refused("model.rope_theta", "--set", "model.rope_theta=5000")

    def test_resume_with_another_seed_is_refused(self):
        self.refused("run.seed", run={"seed": 2})
        self.refused("run.seed", "--set", "run.seed=2")

    def test_resume_with_silent_changes_is_refused_and_names_set(self):
        self.refused(["optim.lr", "--set"], optim={"lr": 0.02})
        self.refused(["optim.decay_steps", "--set"], optim={"decay_steps": 30})
        self.refused(["train.global_batch", "--set"], train={"global_batch": 8})

    def test_resume_with_changes_by_set_prints_old_and_new(self):
        self.accepted(["optim.lr: 0.01 -> 0.02", "train.global_batch: 4 -> 8"], "--set", "optim.lr=0.02", "--set",
                      "train.global_batch=8")
        config = (self.folder / "run/config.yaml").read_text()
        self.assertIn("lr: 0.02", config)

    def test_resume_with_more_steps_another_layout_and_backend_is_accepted(self):
        self.accepted(["train.steps: 3 -> 5", "parallel.ep: 1 -> 2"], ranks=2, parallel={"ep": 2, "zero": 0},
                      device={"backend": "ref"}, train={"checkpoint_every": 1, "eval_every": 1})

    def test_resume_without_decay_steps_follows_more_steps(self):
        config = self.config(optim={"decay_steps": harness.UNSET})
        self.train(config, "other", "--set", "train.steps=3")
        job = self.train(config, "other", "--resume")
        self.assertIn("train.steps: 3 -> 8", job.stderr)
        self.assertEqual(len(self.metrics("other")), 8)


if __name__ == "__main__":
    harness.main()
