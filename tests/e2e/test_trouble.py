"""Steps that go wrong: what is not finite, spikes of loss; skipped by all ranks alike, named, gone back from, never learned twice.

Faults 31 to 33 of the reliability table; SY_TEST_LONG=1 takes more points, ranks and data.
"""

import random

import harness
from harness import LONG

SPIKES = {"spike_window": 8, "spike_sigma": 6}


class Trouble(harness.Case):
    def words_changed(self, run, a, b):
        files = [(self.folder / run / f"checkpoints/step_{step:08d}.h5").read_bytes() for step in (a, b)]
        self.assertEqual(len(files[0]), len(files[1]))
        return sum(files[0][i:i + 4] != files[1][i:i + 4] for i in range(0, len(files[0]), 4))

    def untouched(self, run, skipped, last):
        """The skipped steps changed counters, the others weights and moments."""
        for step in range(2, last + 1):
            changed = self.words_changed(run, step - 1, step)
            self.assertEqual(changed < 300, step in skipped, f"step {step}: {changed} words changed")

    def warnings(self, job, of):
        return [line for line in job.stderr.splitlines() if line.startswith("warning") and of in line]


class Nonfinite(Trouble):
    """Two ranks: 2 micro-batches of 2 layers on each, so 4 passages of a layer's fault point per step.
    The router passes 4 more before the first step, for the probe."""

    def test_one_bad_element_on_one_rank_skips_the_step_on_all_and_is_named(self):
        faults = {2: ("moe.logits:10:nan:1", "the router's scores of layer 1, on rank 1"),
                  3: ("moe.logits:13:inf:0", "the router's scores of layer 0, on rank 0"),
                  5: ("model.activation:17:nan:1", "what the MoE of layer 1 receives, on rank 1"),
                  6: ("model.activation:22:inf:0", "the loss, on rank 0"),
                  8: ("train.gradient:8:nan:1", "the gradient of model/embed, on rank 1")}
        for zero in (1, 0) if LONG else (1,):
            run = f"run{zero}"
            config = self.config(train={"checkpoint_every": 1, "steps": 9}, parallel={"ep": 2, "zero": zero})
            job = self.succeeds("train", config, "--run-dir", self.folder / run, ranks=2,
                                fault=",".join(f for f, _ in faults.values()))
            told = self.warnings(job, "skipped")
            self.assertEqual(len(told), len(faults), job.text())
            for line, (step, (_, words)) in zip(told, faults.items()):
                self.assertIn(f"step {step} skipped", line)
                if zero == 1 or step != 8:  # without ZeRO every rank holds the gradient
                    self.assertIn(words, line)
                self.assertIn(f"sequences {4 * (step - 1)} to {4 * step - 1}", line)
            self.assertEqual([int(r["train/skipped_steps"]) for r in self.metrics(run)],
                             [sum(s <= step for s in faults) for step in range(1, 10)])
            self.untouched(run, set(faults), 9)

    def test_so_many_in_a_row_end_the_run_with_the_facts(self):
        config = self.config(train={"skip_limit": 2, "checkpoint_every": 1})
        run = self.folder / "run"
        job = self.job("train", config, "--run-dir", run, fault="train.nonfinite:2:nan,train.nonfinite:4:nan,train.nonfinite:5:inf")
        self.check_failure(job, 1, ["step 5", "train.skip_limit"])
        self.assertIn("facts of step 5", job.stderr)
        self.assertEqual(len(self.metrics("run")), 5)
        self.succeeds("train", config, "--run-dir", run, "--resume")


class Spikes(Trouble):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        noise = random.Random(7)
        text = [b"the cat sat on the mat and went. "[i % 33] for i in range(400 * 32)]
        text[90 * 32:91 * 32] = [noise.randrange(256) for _ in range(32)]  # one poisoned sequence
        harness.write_tokens(cls.home / "poisoned", [text])

    def poisoned(self, name="config.yaml", **train):
        return self.config(name, train={"steps": 30, "checkpoint_every": 6, **SPIKES, **train}, run={"seed": 3},
                           optim={"lr": 0.02, "warmup_steps": 2, "decay_steps": 30},
                           data={"train": [{"path": str(self.home / "poisoned")}]})

    def step_of_spike(self, run):
        steps = [int(r["step"]) for r in self.metrics(run) if int(r["train/spikes"])]
        self.assertTrue(steps, "nothing was poisoned")
        return steps[0]

    def test_poisoned_batch_is_skipped_alike_on_any_ranks(self):
        warned = self.train(self.poisoned("w.yaml"), "warned")
        spike = self.step_of_spike("warned")
        self.assertIn("standard deviations above its mean", self.warnings(warned, f"step {spike}:")[0])
        for ranks in (0, 2, 3):
            run = f"run{ranks}"
            self.train(self.poisoned(f"{run}.yaml", spike="skip", checkpoint_every=1), run, ranks=ranks)
            records = self.metrics(run)
            self.assertEqual([int(r["train/skipped_steps"]) for r in records], [int(i + 1 >= spike) for i in range(30)])
            self.untouched(run, {spike}, 30)

    def test_rolled_back_run_never_sees_that_data_again_and_resumes_bit_for_bit(self):
        self.train(self.poisoned("s.yaml", spike="skip"), "skipped")
        spike = self.step_of_spike("skipped")
        saved = (spike - 1) // 6 * 6
        config = self.poisoned(spike="rollback", skip_batches=1)
        job = self.train(config, "whole", ranks=2)
        self.assertIn(f"back from step {spike} to the checkpoint of step {saved}", job.stderr)
        records = self.metrics("whole")
        self.assertEqual([int(r["step"]) for r in records], list(range(1, 31)))
        self.assertEqual([int(r["train/rollbacks"]) for r in records], [int(i >= saved) for i in range(30)])
        left_out = 4 * (spike - saved + 1)  # since the checkpoint, and one batch more
        self.assertEqual([int(r["train/skipped_sequences"]) for r in records], [left_out * (i >= saved) for i in range(30)])
        self.near(self.losses("whole")[:saved], self.losses("skipped")[:saved], 1e-4)

        killed = self.job("train", config, "--run-dir", self.folder / "again", ranks=2,
                          fault=f"train.step:{spike + 3}:kill:1")  # three steps behind the checkpoint again
        self.assertNotEqual(killed.status, 0)
        self.train(config, "again", "--resume", ranks=2)
        self.same_records("again", "whole")

    def test_window_goes_through_a_resume(self):
        config = self.poisoned(spike="skip")
        self.train(config, "whole")
        spike = self.step_of_spike("whole")
        self.rewind("whole", "again", (spike - 1) // 6 * 6)
        self.train(config, "again", "--resume")
        self.same_records("again", "whole")

    def test_batches_are_skipped_by_hand(self):
        """Nothing is learned, so a step's loss is that of its data."""
        config = self.config(optim={"lr": 1e-30}, train={"steps": 8, "checkpoint_every": 3})
        self.train(config, "plain")
        self.rewind("plain", "again", 3)
        job = self.train(config, "again", "--resume", "--skip-batches", "2")
        self.assertIn("sequence 20", job.stderr)
        self.near(self.losses("again")[3:6], self.losses("plain")[5:8], 1e-6)
        self.assertEqual([int(r["train/skipped_sequences"]) for r in self.metrics("again")], [0] * 3 + [8] * 5)
        self.rewind("again", "twice", 6)
        self.train(config, "twice", "--resume")
        self.same_records("twice", "again")
        self.fails(2, "--skip-batches", "train", config, "--run-dir", self.folder / "new", "--skip-batches", "2")


class Replicas(Trouble):
    """Fault 33: one bit of what several ranks hold alike flips on one of them."""

    def test_flipped_bit_is_found_and_the_run_goes_on_from_before_it(self):
        """Tied embeddings, so that every element has a gradient; one's lowest bits may be lost in the moments' rounding."""
        config = self.config(model={"tie_embeddings": True}, train={"digest_every": 3, "steps": 7}, parallel={"zero": 0})
        self.train(config, "clean", ranks=3)
        flips = [(point, bit) for point in ("weight", "moment", "reduced") for bit in range(32)] if LONG else [("weight", 3)]
        for point, bit in flips:
            with self.subTest(point=point, bit=bit):
                run = f"{point}{bit}"
                job = self.job("train", config, "--run-dir", self.folder / run, ranks=3, fault=f"train.{point}:5:flip={bit}:2")
                if job.status == 0 and point == "reduced" and bit < 8:
                    self.same_records(run, "clean")
                    continue
                self.check_failure(job, 1, ["step 6", "replicas are not alike", "rank 2 is not like the others"])
                self.assertIn("model/embed" if point == "weight" else "model/", job.errors()[0])
                self.assertEqual(self.checkpoints(run), ["latest", "step_00000003.h5"])
                self.train(config, run, "--resume", ranks=3)
                self.same_records(run, "clean")

    def test_with_zero_a_flip_is_found_in_the_step_that_uses_it(self):
        config = self.config(train={"digest_every": 1}, parallel={"ep": 2})
        for bit in range(32) if LONG else (30,):
            self.fails(1, ["step 4", "weights of model/embed", "ranks 0 and 1 differ"], "train", config, "--run-dir",
                       self.folder / f"run{bit}", ranks=2, fault=f"train.weight:4:flip={bit}:0")


if __name__ == "__main__":
    harness.main()
