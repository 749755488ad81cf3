#!/usr/bin/env python3
"""The CUDA backend: what a machine without a driver says; whole runs on a GPU where SY_TEST_BACKEND asks for it, else on the
emulator of the tests."""

import json
import subprocess

import harness

# What is enqueued on all streams of the emulator, or on the first, runs once somebody waits for it: a missing wait shows.
LATE, UNEVEN = {"EMULATOR_ORDER": "late"}, {"EMULATOR_ORDER": "uneven"}


class NoDriver(harness.Case):
    backend = "cpu"

    def setUp(self):
        super().setUp()
        shown = subprocess.run([harness.PROGRAM, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
        self.built = " cuda" in shown
        if harness.has_gpu():
            self.skipTest("this machine has a GPU")

    def test_auto_takes_the_cpu(self):
        self.succeeds("train", self.config(device={"backend": "auto"}), "--run-dir", self.folder / "run", "--set",
                      "train.steps=1")

    def test_cuda_is_refused_with_the_reason_on_all_ranks(self):
        words = ["device.backend"] + (["driver", "device.backend: cpu"] if self.built else ["-Dcuda=enabled"])
        self.fails(2, words, "train", self.config(device={"backend": "cuda"}), "--run-dir", self.folder / "run", ranks=2)


class OnDevice(harness.Case):
    backend = harness.BACKEND if harness.BACKEND == "cuda" else "cuda_emulated"
    CPU = {"backend": "cpu"}

    def setUp(self):
        super().setUp()
        if self.backend == "cuda_emulated" and not harness.EMULATED:
            self.skipTest("no C++ compiler, so no emulator")


def grouped(**more):
    return {"router": "grouped", "experts": 8, "grouped": {"groups": 4, "groups_kept": 2, **more}}


class Runs(OnDevice):
    def test_run_has_the_losses_of_the_cpu_and_its_checkpoint_is_read_there(self):
        config = {"train": {"steps": 3, "checkpoint_every": 2},
                  "moe": {**grouped(group_score="top2"), "score": "sigmoid", "bias_update_rate": 0.01}}
        self.train(self.config(**config, device=self.CPU), "cpu")
        self.train(self.config(**config), "run", env=LATE)
        self.near(self.losses("run"), self.losses("cpu"), 2e-4)
        self.train(self.config(**config, device=self.CPU), "run", "--resume", "--set", "train.steps=4")
        self.assertEqual(len(self.losses("run")), 4)
        self.assertLess(abs(self.loss("run", self.backend) / self.loss("run", "cpu") - 1), 1e-4)
        self.assertEqual(self.text("run", self.backend), self.text("run", "cpu"))

    def asked(self, command, run, backend, *args):
        on = ["--set", f"device.backend={backend}", "--set", "device.precision=fp32"]
        return self.succeeds(command, self.folder / run, *args, *on).stdout

    def loss(self, run, backend):
        few = harness.write_tokens(self.folder / "few", [b"It is a truth universally acknowledged, that a single man"])
        return json.loads(self.asked("eval", run, backend, "--data", few, "--json"))["sets"][0]["loss"]

    def text(self, run, backend):
        return self.asked("generate", run, backend, "--prompt", "It is", "--max-tokens", 4, "--temperature", 0)

    def test_several_ranks_over_nccl_have_the_losses_of_the_cpu(self):
        padded = {"capacity_factor": 1.0, "pad_to_capacity": True}
        v2 = {**grouped(group_loss_coeff=0.05, comm_loss_coeff=0.02), "shared_experts": 1}
        rows = [(4, 1, 3, v2, LATE), (2, 0, 1, padded, {**UNEVEN, "EMULATOR_NCCL_OLD": "1"}), (2, 2, 1, {}, LATE)]
        for i, (ranks, zero, chunks, moe, env) in enumerate(rows):
            config = {"train": {"steps": 3}, "parallel": {"ep": 2, "zero": zero}, "moe": moe}
            self.train(self.config(**config, device=self.CPU), f"cpu{i}", ranks=ranks)
            config["parallel"].update({"overlap_chunks": chunks, "register_buffers": True})
            job = self.train(self.config(**config), f"run{i}", ranks=ranks, env=env)
            if self.backend == "cuda_emulated":
                self.assertRegex(job.stderr, " 0.0 MiB of a rank registered; that" if i == 1 else " 0.[1-9] MiB of a rank registered\n")
            self.near(self.losses(f"run{i}"), self.losses(f"cpu{i}"), 2e-4)
        ours, theirs = ([float(r["moe/router_loss"]) for r in self.metrics(run)] for run in ("run0", "cpu0"))
        self.near(ours, theirs, 2e-3)  # a choice may fall otherwise
        self.assertGreater(min(theirs), 0)

    def test_two_ranks_on_one_gpu_are_refused_unless_asked_for(self):
        self.fails(2, ["ranks 0 and 1", "the same GPU", "SY_SHARE_GPU"], "train", self.config(), "--run-dir", self.folder / "run",
                   ranks=2, env={"SY_SHARE_GPU": "0", "CUDA_VISIBLE_DEVICES": "0"})


class Refused(OnDevice):
    """What only an emulator can be told to do."""

    backend = "cuda_emulated"

    def refused(self, status, words, config, **options):
        self.fails(status, words, "train", config, "--run-dir", self.folder / "run", **options)

    def test_model_too_large_is_refused_with_what_takes_how_much(self):
        self.refused(2, ["GPU memory", "params", "train.micro_batch", "are free for it"], self.config(), env={"EMULATOR_MIB": "65"})

    def test_gpus_that_differ_are_refused(self):
        self.refused(2, ["another GPU (an emulation, 9.0", "rank 1", "(an older one, 9.0"], self.config(parallel={"ep": 2}),
                     ranks=2, env={"EMULATOR_GPU": "an older one"})

    def test_versions_of_nccl_that_differ_are_refused(self):
        self.refused(2, ["the version of NCCL", "21800", "22809"], self.config(parallel={"ep": 2}), ranks=2,
                     env={"EMULATOR_NCCL_VERSION": "21800"})

    def test_error_that_nobody_waits_for_ends_the_job_and_is_named(self):
        words = ["step 2", "over ep", "of layer", "failed under way on rank 1 of 2", "unhandled system error"]
        self.refused(1, words, self.config(parallel={"ep": 2, "timeout_s": 30}), ranks=2, env={"EMULATOR_NCCL_FAULT": "60"})


if __name__ == "__main__":
    harness.main()
