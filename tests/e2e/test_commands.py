#!/usr/bin/env python3
"""The commands around training: what they print is what the contract says, and does not depend on ranks or batches."""

import array
import json
import math
import re
import subprocess

import harness
from harness import write_tokens

COMMANDS = ["train", "eval", "generate", "upcycle", "inspect", "tokenize", "check", "bench", "report"]


class Trained(harness.Case):
    """A small model that has learned something, on cpu."""

    TRAIN = {"steps": 40, "global_batch": 8, "micro_batch": 4, "checkpoint_every": 0}
    SECTIONS = {}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("prepare")
        case.setUp()
        case.prepare()
        cls.run_dir = cls.home / "trained"
        (case.folder / "run").rename(cls.run_dir)
        cls.records = [json.loads(line) for line in (cls.run_dir / "metrics.jsonl").read_text().splitlines()]
        case.tearDown()

    def prepare(self):
        valid = [{"name": "held_out", "path": str(self.home / "held_out")}]
        self.train(self.config(train=self.TRAIN, data={"valid": valid}, **self.SECTIONS), "run")


class Eval(Trained):
    def evaluate(self, *args, ranks=0, data=None):
        data = data or [self.home / "held_out"]
        job = self.succeeds("eval", self.run_dir, "--data", *data, "--json", *args, ranks=ranks)
        return json.loads(job.stdout)

    def loss(self, *args, ranks=0):
        return self.evaluate(*args, ranks=ranks)["sets"][0]["loss"]

    def test_eval_json_has_the_fields_of_the_contract(self):
        result = self.evaluate(data=[self.home / "held_out", self.home / "text"])
        self.assertEqual(set(result), {"checkpoint", "step", "sets"})
        self.assertTrue(result["checkpoint"].endswith("checkpoints/step_00000040.h5"))
        self.assertEqual(result["step"], 40)
        self.assertEqual([s["name"] for s in result["sets"]], ["held_out", "text"])
        for one in result["sets"]:
            self.assertEqual(set(one), {"name", "path", "tokens", "loss", "perplexity", "drop_fraction", "routed"})
            self.assertEqual([set(g) for g in one["routed"]], [{"label", "share", "layers"}] * 4)
            self.assertAlmostEqual(one["perplexity"], math.exp(one["loss"]), delta=1e-9 * one["perplexity"])
            self.assertEqual(one["drop_fraction"], 0)
        self.assertEqual(result["sets"][0]["tokens"], 2999)
        self.assertEqual(result["sets"][1]["tokens"], 59999)

    def test_eval_is_what_training_reported(self):
        self.assertAlmostEqual(self.loss(), self.records[-1]["valid/held_out/loss"], delta=1e-6)
        self.assertLess(self.records[-1]["valid/held_out/loss"], 4.0)

    def test_eval_does_not_depend_on_ranks_or_ep(self):
        one = self.loss()
        for ranks, ep in ((1, None), (2, None), (2, 1), (2, 2), (3, None), (4, 4)):
            with self.subTest(ranks=ranks, ep=ep):
                args = ["--set", f"parallel.ep={ep}"] if ep else []
                self.assertAlmostEqual(self.loss(*args, ranks=ranks), one, delta=1e-6)

    def test_eval_does_not_depend_on_batch_mates(self):
        losses = [self.loss("--set", f"train.micro_batch={b}", "--set", f"train.global_batch={g}")
                  for b, g in ((1, 1), (1, 8), (2, 2), (3, 7), (8, 8))]
        for loss in losses:
            self.assertAlmostEqual(loss, losses[0], delta=1e-6)

    def test_eval_of_parts_adds_up_to_the_whole(self):
        prose = (harness.ROOT / "data/samples/prose.txt").read_bytes()[60000:63000]
        cut = 32 * 40  # at a sequence's edge: the two files hold the sequences of the one
        parts = [write_tokens(self.folder / "a", [prose[:cut + 1]]), write_tokens(self.folder / "b", [prose[cut:]])]
        whole = self.evaluate()["sets"][0]
        sets = self.evaluate(data=parts)["sets"]
        self.assertEqual(sum(s["tokens"] for s in sets), whole["tokens"])
        self.assertAlmostEqual(sum(s["tokens"] * s["loss"] for s in sets), whole["tokens"] * whole["loss"], delta=1e-2)

    def test_eval_with_a_capacity_drops_and_says_how_much(self):
        result = self.evaluate("--set", "moe.eval_capacity_factor=0.5", "--set", "moe.min_capacity=1")["sets"][0]
        self.assertGreater(result["drop_fraction"], 0.3)
        self.assertLess(result["drop_fraction"], 0.9)

    def test_eval_on_ref_agrees(self):
        self.assertAlmostEqual(self.loss("--set", "device.backend=ref"), self.loss(), delta=1e-5)


class Choices(Trained):
    """A choice is scored as eval measures the loss of the same tokens."""

    TEXT = b"It is a truth universally acknowledged, that a single man."

    def total(self, text, *args):
        write_tokens(self.folder / "few", [text])
        found = json.loads(self.succeeds("eval", self.run_dir, "--data", self.folder / "few", "--json", *args).stdout)
        return found["sets"][0]["loss"] * found["sets"][0]["tokens"], found["sets"][0]["tokens"]

    def ask(self, *questions, ranks=0, args=()):
        path = self.folder / "questions.jsonl"
        path.write_text("".join(json.dumps(q) + "\n" for q in questions))
        out = self.succeeds("eval", self.run_dir, "--choices", path, "--json", *args, ranks=ranks).stdout
        return json.loads(out)["choices"][0]

    def question(self, context, *choices, answer=0):
        return {"context": context.decode(), "choices": [c.decode() for c in choices], "answer": answer}

    def test_choices_have_the_loss_of_their_tokens(self):
        question = self.question(self.TEXT[:1], self.TEXT[1:30], b"zzzz")
        for ranks in (0, 3):
            found = self.ask(question, ranks=ranks)
            self.assertEqual(found["questions"], 1)
            self.assertLess(abs(found["nll"] / self.total(self.TEXT[:30])[0] - 1), 1e-5)

    def test_stride_gives_each_token_the_longest_context(self):
        """33 tokens fill a sequence of the model, the 9 after them are seen with the 24 before."""
        text = self.TEXT[:42]
        first = self.total(text[:33])[0]
        second = self.ask(self.question(text[9:33], text[33:], b"zz"))["nll"]
        total, tokens = self.total(text, "--stride", 9)
        self.assertEqual(tokens, 41)
        self.assertLess(abs(total / (first + second) - 1), 1e-5)
        self.assertEqual(self.total(text), self.total(text, "--stride", 32))
        self.fails(2, ["--stride", "model.seq_len 32"], "eval", self.run_dir, "--data", self.folder / "few", "--stride", 33)

    def test_choices_that_are_likely_are_chosen_by_sum_and_by_byte(self):
        likely, unlikely = b" the", b"\x01\x02\x03\x04"
        questions = [self.question(b"in all", likely, unlikely), self.question(b"of all", unlikely, likely, answer=1),
                     self.question(b"of all", unlikely, likely, answer=0),
                     self.question(b"in all", likely, likely + unlikely[:1] + likely * 3, answer=1)]
        one = self.ask(*questions)
        self.assertEqual((one["questions"], one["accuracy"]), (4, 0.5))
        self.assertIn(one["accuracy_per_byte"], (0.5, 0.75))
        self.assertEqual({k: v for k, v in self.ask(*questions, ranks=2).items() if k != "nll"},
                         {k: v for k, v in one.items() if k != "nll"})

    def test_questions_that_are_none_are_refused_with_their_line(self):
        good = json.dumps(self.question(b"a", b"b", b"c"))
        for bad, words in [("{", "line 2"), ('{"context": "a"}', "line 2"), ('{"context": "a", "choices": ["b"], "answer": 0}', "1 choices"),
                           ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "answer 2"),
                           ('{"context": "", "choices": ["b", "c"], "answer": 0}', "line 2"),
                           ('{"context": "a", "choices": ["b", ""], "answer": 0}', "line 2: choice 1 is empty"),
                           ('{"context": "a", "choices": ["b", "%s"], "answer": 0}' % ("c" * 33), "model.seq_len 32"),
                           ('{"context": "a", "choices": ["b", 3], "answer": 0}', "choice 1 is no text")]:
            with self.subTest(bad[:60]):
                (self.folder / "bad.jsonl").write_text(good + "\n" + bad + "\n")
                self.fails(2, ["bad.jsonl", words], "eval", self.run_dir, "--choices", self.folder / "bad.jsonl", ranks=2)
        (self.folder / "empty.jsonl").write_text("\n\n")
        self.fails(2, "no questions", "eval", self.run_dir, "--choices", self.folder / "empty.jsonl")
        self.fails(2, "none.jsonl", "eval", self.run_dir, "--choices", self.folder / "none.jsonl", ranks=2)
        (self.folder / "good.jsonl").write_text(good)
        self.fails(2, "--stride goes with --data", "eval", self.run_dir, "--choices", self.folder / "good.jsonl", "--stride", 4)


class Generate(Trained):
    PROMPT = "It was the "

    def text(self, *args, prompt=PROMPT, ranks=0, run=None):
        job = self.succeeds("generate", run or self.run_dir, "--prompt", prompt, *args, ranks=ranks)
        self.assertTrue(job.stdout.startswith(prompt), job.stdout)
        self.assertTrue(job.stdout.endswith("\n"))
        return job.stdout[:-1]

    def test_generate_is_the_same_for_a_seed_and_not_for_another(self):
        options = ["--max-tokens", "20", "--temperature", "1.2"]
        one = self.text(*options, "--seed", "7")
        self.assertEqual(one, self.text(*options, "--seed", "7"))
        self.assertNotEqual(one, self.text(*options, "--seed", "8"))
        self.assertEqual(self.text(*options, "--top-p", "0"), self.text("--max-tokens", "20", "--temperature", "0"))

    def test_generate_does_not_depend_on_ranks(self):
        for options in (["--temperature", "0"], ["--temperature", "1", "--seed", "3", "--top-p", "0.9"]):
            options += ["--max-tokens", "20", "--set", "device.backend=ref"]
            one = self.text(*options)
            self.assertEqual(self.text(*options, ranks=2), one)
            self.assertEqual(self.text(*options, "--set", "parallel.ep=1", ranks=3), one)

    def test_generate_stops_at_the_length_of_the_model(self):
        self.assertEqual(len(self.text("--max-tokens", "1000", "--temperature", "0").encode()), 32 + 1)
        self.assertEqual(self.text("--max-tokens", "0"), self.PROMPT)
        self.assertEqual(len(self.text("--max-tokens", "3", "--temperature", "0", prompt="x" * 32)), 33)

    def test_generate_refuses_a_prompt_that_is_too_long_or_empty(self):
        for ranks in (0, 2):
            job = self.fails(2, ["33", "32"], "generate", self.run_dir, "--prompt", "x" * 33, ranks=ranks)
            self.assertEqual(job.stdout, "", "nothing is printed for a prompt that is refused")
        self.fails(2, "empty", "generate", self.run_dir, "--prompt", "")

    def test_generate_refuses_numbers_out_of_range(self):
        for option, value in (("--temperature", "-1"), ("--top-p", "1.5"), ("--max-tokens", "many"), ("--seed", "-1")):
            self.fails(2, [option, value], "generate", self.run_dir, "--prompt", "a", f"{option}={value}")


class Cache(Trained):
    """The key/value cache. Large random weights, so that each token hangs on every token before it and on its place."""

    TRAIN = {**Trained.TRAIN, "steps": 1}
    SECTIONS = {"model": {"init_std": 0.5}, "optim": {"lr": 1e-6}, "run": {"seed": 2}}
    PROMPT = b"It was the "

    def continuation(self, prompt, n):
        """The n likeliest tokens after a prompt, one by one, as bytes."""
        job = self.succeeds("generate", self.run_dir, "--prompt", prompt, "--max-tokens", n, "--temperature", "0",
                            "--set", "device.backend=ref")
        self.assertEqual(len(job.stdout_bytes), len(prompt) + n + 1)
        return job.stdout_bytes[len(prompt):-1]

    def test_generate_cache_equals_reading_the_text_anew(self):
        whole = self.continuation(self.PROMPT, 21)
        self.assertGreater(len(set(whole)), 8, "a text that repeats itself proves little")
        self.assertNotIn(0, whole, "no text of an argument; take another seed")
        for n in (1, 5, 13, 20):
            self.assertEqual(self.continuation(self.PROMPT + whole[:n], 21 - n), whole[n:])

    def test_generate_takes_the_token_that_eval_finds_likeliest(self):
        """eval runs whole sequences and knows no cache: of all 256 continuations the one generated has the least loss."""
        for n in (1, 2, 12):
            text = self.PROMPT + self.continuation(self.PROMPT, n)
            sets = [write_tokens(self.folder / f"c{i}", [text[:-1] + bytes([i])]) for i in range(256)]
            job = self.succeeds("eval", self.run_dir, "--json", "--set", "device.backend=ref", "--data", *sets)
            losses = [s["loss"] for s in json.loads(job.stdout)["sets"]]
            self.assertEqual(losses.index(min(losses)), text[-1])


class Describe(Trained):
    def test_inspect_json_has_the_fields_of_the_contract(self):
        result = json.loads(self.succeeds("inspect", self.run_dir, "--json").stdout)
        self.assertEqual(set(result), {"kind", "step", "config", "params"})
        self.assertEqual((result["kind"], result["step"]), ("training", 40))
        self.assertIn("experts: 4", result["config"])
        params = {p["path"]: p for p in result["params"]}
        for p in params.values():
            self.assertEqual(set(p), {"path", "shape", "dtype"})
        shapes = {"/model/embed": [256, 32], "/model/head": [256, 32], "/model/norm": [32],
                  "/model/layers/000/attn_norm": [32], "/model/layers/000/ffn_norm": [32],
                  "/model/layers/001/attn/q": [32, 32], "/model/layers/001/attn/k": [16, 32],
                  "/model/layers/001/attn/v": [16, 32], "/model/layers/001/attn/o": [32, 32],
                  "/model/layers/000/moe/router": [4, 32], "/model/layers/000/moe/experts/gate": [4, 48, 32],
                  "/model/layers/000/moe/experts/up": [4, 48, 32], "/model/layers/000/moe/experts/down": [4, 32, 48]}
        for path, shape in shapes.items():
            self.assertEqual(params[path]["shape"], shape, path)

    def test_inspect_takes_a_run_a_link_and_a_file(self):
        for path in ("", "checkpoints/latest", "checkpoints/step_00000040.h5"):
            job = self.succeeds("inspect", self.run_dir / path)
            self.assertIn("step", job.stdout)
            self.assertIn("vocab_size: 256", job.stdout)
        self.assertIn("moe/experts/gate", self.succeeds("inspect", self.run_dir, "--params").stdout)

    def test_report_is_one_page_that_is_well_formed(self):
        for page in (self.run_dir / "report.html", self.folder / "page.html"):
            if not page.exists():
                self.assertIn(str(page), self.succeeds("report", self.run_dir, "-o", page).stdout)
            found = harness.Page(page.read_text())
            self.assertEqual(found.faults, [])
            self.assertLessEqual({"html", "head", "body", "svg", "title"}, found.tags)

    def test_config_of_the_run_trains_again(self):
        self.succeeds("train", self.run_dir / "config.yaml", "--run-dir", self.folder / "again", "--set",
                      "train.steps=2", "--set", "optim.decay_steps=20")
        again = [json.loads(line) for line in (self.folder / "again/metrics.jsonl").read_text().splitlines()]
        self.assertEqual([r["train/loss"] for r in again], [r["train/loss"] for r in self.records[:2]])

    def test_metrics_have_the_names_of_the_contract(self):
        names = {"step", "tokens", "time_s", "train/loss", "train/grad_norm", "train/lr", "train/skipped_steps",
                 "moe/aux_loss", "moe/z_loss", "moe/drop_fraction", "moe/load_max_over_mean", "moe/router_entropy",
                 "moe/dead_experts", "moe/layer_0/load", "moe/layer_1/load", "perf/tokens_per_s", "perf/step_ms",
                 "perf/mfu", "perf/data_wait_ms", "perf/dispatch_ms", "perf/combine_ms", "perf/experts_ms", "perf/checkpoint_stall_ms",
                 "perf/forward_ms", "perf/backward_ms", "perf/grad_sync_wait_ms", "perf/optimizer_ms",
                 "perf/param_gather_ms", "perf/sync_ms", "perf/metrics_ms",
                 "mem/peak_bytes", "mem/params_bytes", "mem/grads_bytes", "mem/optim_bytes", "mem/saved_bytes"}
        phases = ["data_wait", "sync", "forward", "backward", "grad_sync_wait", "optimizer", "param_gather"]
        for record in self.records:
            self.assertEqual(names - set(record), set())
            accounted = sum(record[f"perf/{phase}_ms"] for phase in phases)
            self.assertLessEqual(accounted, record["perf/step_ms"] * 1.001)
            inside = sum(record[f"perf/{part}_ms"] for part in ("dispatch", "combine", "experts"))
            self.assertLess(inside, record["perf/forward_ms"] + record["perf/backward_ms"])
            for layer in (0, 1):
                self.assertEqual(sum(record[f"moe/layer_{layer}/load"]), 8 * 32 * 2)
        accounted = sum(r[f"perf/{phase}_ms"] for phase in phases for r in self.records)
        self.assertGreater(accounted, 0.8 * sum(r["perf/step_ms"] for r in self.records))
        self.assertEqual([r["tokens"] for r in self.records], [8 * 32 * (i + 1) for i in range(40)])
        self.assertIn("valid/held_out/loss", self.records[-1])
        self.assertLess(self.records[-1]["train/loss"], self.records[0]["train/loss"] - 1)


class Tokenize(harness.Case):
    def read(self, prefix):
        items = array.array("H")
        items.frombytes((self.folder / f"{prefix}.bin").read_bytes())
        return items.tolist()

    def documents(self, prefix):
        index = (self.folder / f"{prefix}.idx").read_bytes()
        self.assertEqual(index[:9], b"MMIDIDX\0\0")
        lengths = array.array("i")
        n = int.from_bytes(index[18:26], "little")
        lengths.frombytes(index[34:34 + 4 * n])
        return lengths.tolist()

    def tokenize(self, *args):
        return self.succeeds("tokenize", *args, "--tokenizer", "bytes", cwd=self.folder)

    def test_tokenize_bytes_keeps_every_byte(self):
        text = bytes(range(256)) * 5 + "\u00fcber \u4e2d\u6587\n".encode()
        (self.folder / "a.txt").write_bytes(text)
        (self.folder / "b.txt").write_bytes(b"second")
        self.tokenize("a.txt", "b.txt", "-o", "out")
        self.assertEqual(bytes(self.read("out")), text + b"second")
        self.assertEqual(self.documents("out"), [len(text), 6])

    def test_tokenize_appends_the_end_of_each_document(self):
        (self.folder / "a.txt").write_bytes(b"one")
        (self.folder / "b.txt").write_bytes(b"two")
        self.tokenize("a.txt", "b.txt", "-o", "out", "--append-eod")
        self.assertEqual(self.read("out"), [*b"one", 256, *b"two", 256])

    def test_tokenize_jsonl_takes_one_document_per_line(self):
        lines = [{"text": "one\n"}, {"text": "zw\u00f6lf", "other": 3}, {"text": "three", "body": "x"}]
        (self.folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.tokenize("a.jsonl", "-o", "out")
        self.assertEqual(bytes(self.read("out")).decode(), "one\nzw\u00f6lfthree")
        self.assertEqual(self.documents("out"), [4, 6, 5])
        self.fails(2, ["a.jsonl:1", "body"], "tokenize", "a.jsonl", "-o", "other", "--tokenizer", "bytes", "--jsonl-key",
                   "body", cwd=self.folder)
        (self.folder / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
        self.fails(2, "bad.jsonl:2", "tokenize", "bad.jsonl", "-o", "other", "--tokenizer", "bytes", cwd=self.folder)
        self.assertFalse((self.folder / "other.idx").exists())

    def test_tokenize_output_is_the_same_for_any_number_of_workers(self):
        for i in range(5):
            (self.folder / f"{i}.txt").write_bytes(bytes([65 + i]) * (1000 * i + 1))
        inputs = [f"{i}.txt" for i in range(5)]
        self.tokenize(*inputs, "-o", "one")
        self.tokenize(*inputs, "-o", "four", "--workers", "4")
        for end in (".bin", ".idx"):
            self.assertEqual((self.folder / ("one" + end)).read_bytes(), (self.folder / ("four" + end)).read_bytes())

    def test_tokenize_refuses_what_it_cannot_read_or_write(self):
        (self.folder / "a.txt").write_bytes(b"one")
        self.fails(2, "nowhere", "tokenize", "a.txt", "-o", "nowhere/out", "--tokenizer", "bytes", cwd=self.folder)
        self.fails(2, "did you mean 'bytes'?", "tokenize", "a.txt", "-o", "out", "--tokenizer", "byte", cwd=self.folder)
        self.fails(2, "PREFIX", "tokenize", "a.txt", "--tokenizer", "bytes", cwd=self.folder)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["a.txt"])


class Samples(harness.Case):
    def shown(self, **sections):
        out = self.succeeds("data", "--config", self.config(**sections), "--samples", 2).stdout
        first = out.split("sequence 1, ")[0].splitlines()
        return first[0], [line.split("  ", 3)[2:] for line in first[1:]]

    def test_data_of_a_configuration_shows_what_is_learned(self):
        documents = [bytes(range(97, 123)) * 2, bytes(range(65, 91)) * 2]
        data = {"train": [{"path": str(write_tokens(self.folder / "letters", documents))}]}
        head, lines = self.shown(data=data)
        self.assertEqual(head, "sequence 0, of step 1: 32 of 32 tokens have a loss")
        self.assertEqual([word.strip() for word, *_ in lines], ["given", "learned"])
        text = b"".join(documents).decode()
        self.assertIn("".join(x[-1].strip() for x in lines), text)
        head, lines = self.shown(data={**data, "objective": "prefix_lm", "mode_ids": [251, 252, 253]})
        self.assertEqual([word.strip() for word, *_ in lines], ["given", "learned"])
        whole = "".join(x[-1].strip() for x in lines)
        self.assertEqual(len(lines[1][-1].strip()), int(head.split(": ")[1].split()[0]))
        self.assertIn(whole[1:], text)
        train = {"steps": 4, "global_batch": 4, "micro_batch": 2}
        data["order"] = "megatron"
        out = self.succeeds("data", "--config", self.config(data=data, train=train), "--samples", 40).stdout
        self.assertEqual([line.split(":")[0] for line in out.splitlines() if line.startswith("sequence")],
                         [f"sequence {k}, of step {k // 4 + 1}" for k in range(16)])


class Help(harness.Case):
    def test_help_lists_every_command_and_each_has_its_own(self):
        text = self.succeeds("--help").stdout
        for command in COMMANDS:
            self.assertRegex(text, rf"(?m)^  {command} ")
            mine = self.succeeds(command, "--help").stdout
            self.assertRegex(mine, rf"^Usage: switchyard {command}(?! \s)")
            self.assertEqual([line for line in (mine + text).splitlines() if len(line) > 100], [])
        self.assertIn("--resume", self.succeeds("train", "--help").stdout)

    def test_help_is_printed_once_by_many_ranks(self):
        self.assertEqual(self.succeeds("--help", ranks=2).stdout.count("Usage:"), 1)
        self.assertEqual(self.succeeds("train", "--help", ranks=2).stdout.count("Usage:"), 1)

    def test_completion_knows_commands_options_their_words_and_keys(self):
        script = self.succeeds("completion", "bash").stdout
        for typed, wanted in ((["upcy"], "upcycle"), (["upcycle", "--top"], "--top-k"), (["upcycle", "--method", "gra"], "granular"),
                              (["check", "gr"], "gradients"), (["train", "--set", "moe.shared_e"], "moe.shared_experts="),
                              (["train", "--resume", "x"], "")):
            words = " ".join(["switchyard", *typed])
            ask = f"\nCOMP_WORDS=({words}); COMP_CWORD={len(typed)}; _switchyard; echo \"${{COMPREPLY[*]}}\""
            said = subprocess.run(["bash", "-c", script + ask], text=True, capture_output=True, check=True).stdout
            self.assertEqual(said, wanted + "\n", words)
        self.fails(2, "bash, zsh, fish", "completion", "csh")

    def test_version_names_backends_and_libraries(self):
        text = self.succeeds("--version").stdout
        self.assertRegex(text, r"switchyard \d+\.\d+\.\d+")
        for word in ("cpu", "ref", "Open MPI", "HDF5", "oneDNN"):
            self.assertIn(word, text)

    def test_help_config_prints_every_key_with_default_and_meaning(self):
        text = self.succeeds("train", "--help-config").stdout
        keys = {"run": "name dir seed deterministic", "device": "backend precision threads",
                "model": "vocab_size hidden layers heads kv_heads head_dim ffn_hidden seq_len rope_theta rope_scaling "
                         "rope_factor rope_low_freq_factor rope_high_freq_factor rope_original_seq_len "
                         "embedding_multiplier residual_multiplier attention_multiplier logits_scaling norm_eps qk_norm "
                         "attention_bias tie_embeddings init_std",
                "moe": "experts top_k expert_hidden layers shared_experts router score normalize_weights routed_scale "
                       "jitter capacity_factor eval_capacity_factor min_capacity drop_policy pad_to_capacity recv_factor "
                       "shared_hidden shared_gate aux_loss_coeff aux_loss_scope z_loss_coeff bias_update_rate "
                       "force_balance",
                "parallel": "ep zero overlap_chunks timeout_s",
                "optim": "name lr min_lr betas eps weight_decay clip_norm schedule warmup_steps decay_steps",
                "train": "steps global_batch micro_batch recompute log_every eval_every eval_batches checkpoint_every "
                         "checkpoint_keep checkpoint_async nonfinite freeze",
                "data": "tokenizer objective mask_documents order split train valid"}
        for section, names in keys.items():
            for name in names.split():
                self.assertTrue(re.search(rf"\b{section}\.{name}\b", text) or
                                re.search(rf"(?ms)^{section}\b.*?^\s+{name}\b", text), f"{section}.{name}")


class Data(harness.Case):
    def test_data_says_what_is_in_a_token_file(self):
        prefix = write_tokens(self.folder / "tokens", [b"aab\n", b"", b"abcdefgh"])
        out = self.succeeds("data", prefix, "--samples", 1, "--seq-len", 6).stdout
        self.assertIn("12 tokens in 3 documents", out)
        self.assertIn("0 % 0  5 % 0  25 % 0  50 % 4  75 % 4  95 % 4  100 % 8", out)
        self.assertIn('9 different ids, the largest 104', out)
        self.assertIn('97 "a" 25.0 %, 98 "b" 16.7 %', out)
        self.assertIn('    "aab\\n"\n    | "ab"\n', out)
        (self.folder / "e.txt").write_text("ab")
        self.succeeds("tokenize", self.folder / "e.txt", "-o", self.folder / "e", "--tokenizer", "bytes", "--append-eod")
        out = self.succeeds("data", self.folder / "e", "--samples", 1, "--seq-len", 2).stdout
        self.assertIn('256 "<256>" 33.3 %', out)
        write_tokens(self.folder / "u", [[97, 300, 98], [256, 99, 100]])
        self.assertIn('    "a<300>b"\n    | "<256>c"\n', self.succeeds("data", self.folder / "u", "--samples", 1, "--seq-len", 5).stdout)
        raw = self.folder / "raw.bin"
        raw.write_bytes(bytes(b for x in (5, 6, 9, 7, 8, 9, 300, 1) for b in (x % 256, x // 256)))
        out = self.succeeds("data", raw, "--tokenizer", "none", "--eod", 9, "--samples", 1, "--seq-len", 7).stdout
        self.assertIn("    5 6 9\n    | 7 8 9\n    | 300\n", out)
        self.fails(2, ["u33", "u32"], "data", raw, "--raw-type", "u33")
        self.fails(2, "--config", "data")
        self.fails(2, "--set goes with --config", "data", raw, "--set", "run.seed=1")
        self.fails(2, "none.idx", "data", self.folder / "none")


if __name__ == "__main__":
    harness.main()
