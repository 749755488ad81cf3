#!/usr/bin/env python3
"""Each wrong input ends in one sentence that names file, line, key or value, with status 2, on every rank."""

import shlex
import signal
import struct

import harness
from harness import snapshot, write_tokens


class Config(harness.Case):
    """The text of the configuration."""

    GOOD = """\
device:
  threads: 1
model:
  vocab_size: 256
  hidden: 32
  layers: 2
  heads: 4
  ffn_hidden: 48
  seq_len: 32
moe:
  experts: 4
  top_k: 2
train:
  steps: 2
data:
  train:
    - {path: TEXT}
"""

    def refused(self, line, words, old="", new="", text=None, ranks=0):
        path = self.folder / "run.yaml"
        good = self.GOOD.replace("TEXT", str(self.home / "text"))
        if old:
            self.assertEqual(good.count(old), 1)
        path.write_text(text if text is not None else good.replace(old, new) if old else good + new)
        where = [f"{path}:{line}: "] if line else [str(path)]
        words = words if isinstance(words, list) else [words]
        job = self.fails(2, where + words, "train", path, "--run-dir", self.folder / "run", ranks=ranks)
        self.assertFalse((self.folder / "run").exists(), "nothing is made for a configuration that is refused")
        self.assertLess(job.seconds, 10)

    def test_key_that_is_unknown_names_line_and_nearest(self):
        self.refused(12, ["moe.topk", "did you mean 'moe.top_k'?"], "top_k", "topk")
        self.refused(10, ["'meo'", "did you mean 'moe'?"], "moe:", "meo:")
        self.refused(12, ["moe.topk", "did you mean 'moe.top_k'?"], "top_k", "topk", ranks=3)

    def test_key_given_twice_names_both_lines(self):
        self.refused(13, ["'top_k'", "line 12"], "top_k: 2\n", "top_k: 2\n  top_k: 1\n")
        self.refused(18, ["'moe'", "line 10"], "", "moe: {top_k: 1}\n")

    def test_value_of_the_wrong_type_or_range_names_value(self):
        self.refused(12, ["moe.top_k", "'two'"], "top_k: 2", "top_k: two")
        self.refused(11, ["moe.experts", "'4.5'"], "experts: 4", "experts: 4.5")
        self.refused(11, ["moe.experts", "-4"], "experts: 4", "experts: -4")
        self.refused(14, ["train.steps"], "steps: 2", "steps: [1, 2]")
        self.refused(2, ["device.threads"], "threads: 1", "threads: 99999999999999999999")
        self.refused(10, ["moe"], "moe:\n  experts: 4\n  top_k: 2\n", "moe: 3\n")
        self.refused(14, ["train.recompute", "'al'", "none", "block"], "steps: 2", "recompute: al")
        self.refused(17, ["data.train"], "{path:", "{pth:")
        self.refused(16, ["data.train", "weight", "'-1'"], "text}", "text, weight: -1}")

    def test_key_that_is_needed_and_missing_is_named(self):
        self.refused(None, "model.hidden", "  hidden: 32\n", "")
        self.refused(None, "data.train", "data:\n  train:\n    - {path: %s}\n" % (self.home / "text"), "")

    def test_combinations_that_cannot_work_are_refused(self):
        self.refused(7, ["model.heads 5", "model.hidden 32"], "heads: 4", "heads: 5")
        self.refused(12, ["moe.top_k 5", "moe.experts 4"], "top_k: 2", "top_k: 5")
        self.refused(13, ["moe.normalize_weights", "gradient"], "top_k: 2\n",
                     "top_k: 1\n  normalize_weights: true\n")
        self.refused(13, "capacity_factor", "top_k: 2\n", "top_k: 2\n  pad_to_capacity: true\n")
        self.refused(4, ["model.vocab_size", "256"], "vocab_size: 256", "vocab_size: 100")
        self.refused(7, ["kv_heads", "heads"], "heads: 4", "kv_heads: 3\n  heads: 4")
        self.refused(13, "9", "top_k: 2\n", "top_k: 2\n  layers: [9]\n")

    def test_layout_that_does_not_fit_the_job_is_refused_on_all_ranks(self):
        self.refused(18, ["parallel.ep 2", "3 ranks"], "", "parallel: {ep: 2}\n", ranks=3)
        self.refused(18, ["moe.experts 4", "parallel.ep 3"], "", "parallel: {ep: 3}\n", ranks=3)
        self.refused(18, ["parallel.ep 2"], "", "parallel: {ep: 2}\n")

    def test_backend_that_is_not_there_is_refused(self):
        if not harness.has_gpu():  # not in this build, or no driver, or one that is too old
            self.refused(2, ["device.backend", "cuda"], "threads: 1", "backend: cuda", ranks=2)
        self.refused(2, ["'rfe'", "did you mean 'ref'?"], "threads: 1", "backend: rfe", ranks=2)
        self.refused(3, "fp64", "threads: 1", "backend: cpu\n  precision: fp64")

    def test_text_that_is_no_yaml_names_the_line(self):
        self.refused(None, "", text="model: {hidden: 32\n")
        self.refused(None, "", text="- a\n- b\n")
        self.refused(None, "", text="")
        self.refused(None, "", text="model:\n\thidden: 32\n")
        self.refused(None, "", text="a: &x [*x]\n")
        self.refused(None, "", text="\0\0\0")

    def test_text_that_a_checkpoint_could_not_give_back_is_refused(self):
        name = str(self.home) + "/." * 500 + "/text"  # a line for each default makes the text longer than it may be
        entries = ((1 << 20) - len(self.GOOD)) // (len(name) + 10)
        text = self.GOOD.replace("    - {path: TEXT}\n", "    [" + ",".join(["{path: %s}" % name] * entries) + "]\n")
        self.assertLess(len(text), 1 << 20)
        path = self.folder / "run.yaml"
        path.write_text(text)
        self.fails(2, ["as checkpoints keep it", "longer"], "train", path, "--run-dir", self.folder / "run", ranks=2)
        self.assertFalse((self.folder / "run").exists())

    def test_file_that_is_missing_or_a_folder_is_refused(self):
        self.fails(2, "none.yaml", "train", self.folder / "none.yaml", "--run-dir", self.folder / "run", ranks=2)
        self.fails(2, str(self.folder), "train", self.folder, "--run-dir", self.folder / "run")

    def test_override_that_is_wrong_names_itself(self):
        config = self.config()
        for text, words in (("moe.topk=1", "did you mean 'moe.top_k'?"), ("moe.top_k=9", "moe.experts 4"),
                            ("moe.top_k", "key=value"), ("moe.top_k=two", "'two'"), ("=3", ""), ("moe=3", "moe"),
                            ("device.backend=cpuu", "did you mean 'cpu'?"), ("moe.router=tpok", "did you mean 'topk'?")):
            with self.subTest(text):
                self.fails(2, ["--set " + text, words], "train", config, "--run-dir", self.folder / "run", "--set", text)

    def test_run_without_a_directory_is_refused(self):
        self.fails(2, ["run.name", "--run-dir"], "train", self.config(), cwd=self.folder)


class TokenFiles(harness.Case):
    def refused(self, words, prefix, ranks=0, **sections):
        sections.setdefault("data", {})["train"] = [{"path": str(prefix)}]
        job = self.fails(2, words, "train", self.config(**sections), "--run-dir", self.folder / "run", ranks=ranks)
        self.assertLess(job.seconds, 10)

    def tokens(self, name="tokens", **options):
        return write_tokens(self.folder / name, [bytes(range(256)) * 4], **options)

    def test_missing_file_is_named(self):
        self.refused("none.idx", self.folder / "none")
        self.refused("none.idx", self.folder / "none", ranks=3)
        prefix = self.tokens()
        self.refused("none.idx", self.folder / "none.bin")
        (self.folder / "tokens.bin").unlink()
        self.refused("tokens.bin", prefix)

    def test_empty_file_is_refused(self):
        prefix = self.tokens()
        (self.folder / "tokens.bin").write_bytes(b"")
        self.refused("tokens.bin", prefix)
        (self.folder / "tokens.idx").write_bytes(b"")
        self.refused("tokens.idx", prefix)

    def test_file_without_tokens_is_refused(self):
        self.refused("tokens", write_tokens(self.folder / "tokens", []))

    def test_truncated_file_is_refused(self):
        prefix = self.tokens()
        index, data = (self.folder / "tokens.idx").read_bytes(), (self.folder / "tokens.bin").read_bytes()
        for n in (4, 9, 17, 33, len(index) - 1):
            (self.folder / "tokens.idx").write_bytes(index[:n])
            self.refused("tokens.idx", prefix)
        (self.folder / "tokens.idx").write_bytes(index)
        for n in (1, len(data) // 2, len(data) - 1):
            (self.folder / "tokens.bin").write_bytes(data[:n])
            self.refused("tokens", prefix)

    def test_foreign_file_is_refused(self):
        prefix = self.tokens()
        (self.folder / "tokens.idx").write_bytes(b"once upon a time " * 100)
        self.refused(["tokens.idx"], prefix)
        index = bytearray((self.tokens().with_suffix(".idx")).read_bytes())
        index[9:17] = struct.pack("<Q", 7)
        (self.folder / "tokens.idx").write_bytes(index)
        self.refused(["tokens.idx", "7"], prefix)

    def test_folder_in_place_of_a_file_is_refused(self):
        (self.folder / "tokens.idx").mkdir()
        self.refused("tokens.idx", self.folder / "tokens")

    def test_id_beyond_the_vocabulary_is_refused(self):
        for at in (0, 500, 1023):
            ids = list(range(256)) * 4
            ids[at] = 256
            prefix = write_tokens(self.folder / f"tokens{at}", [ids])
            self.refused(["256", f"tokens{at}"], prefix)
        self.refused(["256", "tokens0"], self.folder / "tokens0", ranks=2)
        negative = write_tokens(self.folder / "negative", [[1, -5] * 600], code=4)
        self.refused(["-5", "negative"], negative)

    def test_held_out_file_that_is_missing_is_refused_before_training(self):
        config = self.config(data={"valid": [{"name": "v", "path": str(self.folder / "none")}]})
        self.fails(2, "none.idx", "train", config, "--run-dir", self.folder / "run", ranks=2)
        path = self.folder / "run/metrics.jsonl"
        self.assertFalse(path.exists() and path.read_text())

    def test_corpus_shorter_than_a_sequence_says_so_or_trains(self):
        prefix = write_tokens(self.folder / "short", [b"short"])
        job = self.job("train", self.config(data={"train": [{"path": str(prefix)}]}), "--run-dir", self.folder / "run")
        if job.status == 2:
            self.check_failure(job, 2, "short")
        else:
            self.assertEqual(job.status, 0, job.text())


class CommandLine(harness.Case):
    def test_wrong_words_are_named_with_the_nearest(self):
        for args, words in ((["trian"], "did you mean 'train'?"), (["nothing"], "--help"),
                            (["train", "--resum"], "did you mean '--resume'?"), (["train"], "CONFIG.yaml"),
                            (["train", "a", "b"], "'b'"), (["eval"], "CKPT"), (["eval", "x"], "--data"),
                            (["generate", "x"], "--prompt"), (["generate", "x", "--prompt"], "TEXT"),
                            (["inspect", "x", "--jsno"], "did you mean '--json'?"), (["tokenize"], "INPUT"),
                            (["inspect", "none"], "none"), (["report", "none"], "none"),
                            (["eval", "none", "--data", "x"], "none"), (["tokenize", "none", "-o", "x", "--tokenizer",
                                                                         "bytes"], "none")):
            with self.subTest(args):
                job = self.fails(2, words, *args, cwd=self.folder)
                self.assertEqual(job.stdout, "")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_no_command_prints_the_usage(self):
        self.assertEqual(self.job().status, 2)

    def test_unknown_command_ends_on_every_rank(self):
        self.fails(2, "did you mean 'train'?", "trian", ranks=3)

    def test_command_for_one_rank_refuses_more(self):
        self.fails(2, "one rank", "tokenize", "a", "-o", "b", "--tokenizer", "bytes", ranks=2)

    def test_fault_that_is_misspelled_is_refused(self):
        self.fails(2, ["SY_FAULT", "kil"], "train", self.config(), "--run-dir", self.folder / "run",
                   fault="train.step:1:kil")


class EveryRank(harness.Case):
    """Each rank's own exit status, seen by a shell around it that keeps it from mpirun."""

    SHELL = ["sh", "-c", '%s "$@"; echo $? >status.$OMPI_COMM_WORLD_RANK' % shlex.quote(harness.PROGRAM), "switchyard"]

    def statuses(self, *args, signal_to=None, **options):
        job = self.start("train", self.config(), "--run-dir", "run", *args, ranks=3, cwd=self.folder, program=self.SHELL,
                         **options)
        if signal_to is not None:
            self.wait_for_steps(job, "run", 3)
            job.kill_rank(signal_to, signal.SIGUSR1)
        job.wait(30)
        return [(self.folder / f"status.{rank}").read_text().strip() for rank in range(3)]

    def test_status_is_the_same_on_every_rank(self):
        self.assertEqual(self.statuses("--set", "moe.topk=1"), ["2"] * 3)
        self.assertEqual(self.statuses("--set", "parallel.ep=2"), ["2"] * 3)
        if not harness.has_gpu():
            self.assertEqual(self.statuses("--set", "device.backend=cuda"), ["2"] * 3)
        self.assertEqual(self.statuses(fault="train.step:3:fail:2"), ["1"] * 3)
        (self.folder / "bad.h5").write_bytes(b"no checkpoint")
        self.assertEqual(self.statuses("--resume", "bad.h5"), ["3"] * 3)
        self.assertEqual(self.statuses("--set", "train.steps=1000000", signal_to=2), ["75"] * 3)


class OtherRun(harness.Case):
    def test_run_directory_of_another_model_is_refused(self):
        self.train(self.config(train={"steps": 2}), "run")
        before = snapshot(self.folder / "run")
        other = self.config(model={"hidden": 64})
        self.fails(2, "model.hidden", "train", other, "--run-dir", self.folder / "run", "--resume")
        self.fails(2, "model.hidden", "train", other, "--run-dir", self.folder / "run", "--resume", ranks=2)
        self.fails(2, "--resume", "train", other, "--run-dir", self.folder / "run")
        self.assertEqual(snapshot(self.folder / "run"), before)

    def test_checkpoint_of_another_model_is_refused(self):
        self.train(self.config(train={"steps": 1}), "run")
        other = self.config(model={"hidden": 64}, train={"steps": 1})
        for option in ("--resume", "--init-from"):
            for ranks in (0, 2):
                self.fails(2, "", "train", other, "--run-dir", self.folder / f"other{ranks}", option, self.folder / "run",
                           ranks=ranks)
        deeper = self.config(model={"layers": 3}, train={"steps": 1})
        self.fails(2, "layers/002", "train", deeper, "--run-dir", self.folder / "deeper", "--init-from",
                   self.folder / "run")

    def test_checkpoint_that_is_missing_is_named(self):
        for option in ("--resume", "--init-from"):
            self.fails(2, "none.h5", "train", self.config(), "--run-dir", self.folder / "run", option,
                       self.folder / "none.h5", ranks=2)


if __name__ == "__main__":
    harness.main()
