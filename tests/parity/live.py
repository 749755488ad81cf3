#!/usr/bin/env python3
"""Parity with the transformers that is installed here: other seeds, exports that it loads, variants that it saves.

    SWITCHYARD=build/launch/switchyard TEST_PARITY=build/tests/parity/test_parity python3 tests/parity/live.py
        [--seed N] [NAME OF A TEST...]

Exit status 77 where torch, transformers, safetensors or h5py is missing; launch/parity.sh installs them.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import h5py
    import numpy
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError as missing:
    print(f"skipped: {missing}; launch/parity.sh installs what the live comparison needs", file=sys.stderr)
    sys.exit(77)

import witness

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("SWITCHYARD", str(ROOT / "build/launch/switchyard"))
TEST = os.environ.get("TEST_PARITY", str(ROOT / "build/tests/parity/test_parity"))
ENV = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
       "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "OMP_NUM_THREADS": "1"}
EXACT = ["--set", "device.backend=ref", "--set", "device.precision=fp64"]
SEED = 7001

# A model of each family: what is trained, and what it is exported as.
MODEL = {"vocab_size": 257, "hidden": 24, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn_hidden": 36,
         "seq_len": 16, "init_std": 0.3}
MOE = {"experts": 6, "top_k": 2, "expert_hidden": 20}
WHOLE = {"head_dim": 6}  # where the architecture has no key for it
LATENT = {"kv_heads": 4, "head_dim": 10, "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5,
          "rope_interleaved": True, "norm_eps": 1e-6}
TRAINED = {
    "llama": ({}, {}, "LlamaForCausalLM"),
    "llama_tied": ({"tie_embeddings": True, "rope_theta": 500.0}, {}, "LlamaForCausalLM"),
    "qwen2": ({"attention_bias": True, **WHOLE}, {}, "Qwen2ForCausalLM"),
    "qwen3": ({"qk_norm": "head"}, {}, "Qwen3ForCausalLM"),
    "mixtral": ({}, MOE, "MixtralForCausalLM"),
    "qwen2_moe": ({"attention_bias": True, **WHOLE},
                  {**MOE, "shared_experts": 1, "shared_gate": True, "normalize_weights": False, "layers": [0, 2]},
                  "Qwen2MoeForCausalLM"),
    "qwen3_moe": ({"qk_norm": "head"}, {**MOE, "top_k": 3, "layers": ["every:2"]}, "Qwen3MoeForCausalLM"),
    "olmoe": ({"qk_norm": "full", **WHOLE}, {**MOE, "normalize_weights": False}, "OlmoeForCausalLM"),
    "granite": ({**WHOLE}, {**MOE, "shared_experts": 2, "shared_hidden": 28}, "GraniteMoeSharedForCausalLM"),
    "deepseek_v2": ({**LATENT}, {**MOE, "shared_experts": 2, "normalize_weights": False, "layers": ["from:1"]}, "DeepseekV2ForCausalLM"),
    "deepseek_v3": ({**LATENT, "q_lora_rank": 14},
                    {**MOE, "shared_experts": 1, "score": "sigmoid", "routed_scale": 2.5, "bias_update_rate": 0.01, "router": "grouped",
                     "grouped": {"groups": 3, "groups_kept": 2, "group_score": "top2"}}, "DeepseekV3ForCausalLM"),
    "unnormalised": ({**WHOLE}, {**MOE, "top_k": 1}, "Qwen2MoeForCausalLM"),  # a shared expert of zeros is added
}


def run(*args, ranks=0):
    command = (["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks else []) + [str(a) for a in args]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise AssertionError(f"exit {done.returncode}: {' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def datasets(path):
    """{path: (type, values as they stand)} of everything below /model."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = (str(item.id.get_type().get_size()), item[()])
    with h5py.File(path) as f:
        f["model"].visititems(visit)
    return found


def tensors(folder):
    """{name: tensor} of a saved model, sharded or not."""
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        if path.name != "expected.safetensors":
            found.update(load_file(path))
    return found


def bits(t):
    return t.contiguous().flatten().view(torch.uint8)


def load(folder):
    """In fp32, with the library's own plain attention and experts."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    return model.eval()


def config_of(folder):
    """What transformers makes of a config.json, without what says nothing about the model, and with one way to say how
    large a head is and which layers are MoE."""
    config = transformers.AutoConfig.from_pretrained(folder).to_dict()
    # the last line: what DeepSeek's files say, and the classes of transformers do not read
    for key in ("transformers_version", "_name_or_path", "dtype",
                "aux_loss_alpha", "seq_aux", "scoring_func", "moe_layer_freq", "topk_method" if "v3" in config["model_type"] else ""):
        config.pop(key, None)
    step, only = config.pop("decoder_sparse_step", 1), config.pop("mlp_only_layers", [])
    config["moe_layers"] = [i for i in range(config["num_hidden_layers"]) if i not in only and (i + 1) % step == 0]
    config["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return config


def scope_of(config):
    return "sequence" if any(getattr(config, key, 0) for key in ("num_experts", "num_local_experts")) else None


class Live(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp(prefix="sy_parity_"))
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        cls.fixtures = cls.dir / "fixtures"
        print(f"seed {SEED}; torch {torch.__version__}, transformers {transformers.__version__}", flush=True)
        witness.write_fixtures(cls.fixtures, SEED)

    def folders(self):
        return sorted(p for p in self.fixtures.iterdir() if p.is_dir())

    def path(self, name):
        """A path where nothing is yet."""
        path = self.dir / name
        (shutil.rmtree if path.is_dir() else Path.unlink)(path) if path.exists() else None
        return path

    def assert_same_checkpoint(self, a, b, what):
        x, y = datasets(a), datasets(b)
        self.assertEqual(sorted(x), sorted(y), what)
        for name in x:
            self.assertEqual(x[name][0], y[name][0], f"{what}: type of {name}")
            self.assertTrue(numpy.array_equal(x[name][1], y[name][1]), f"{what}: {name}")

    # ---- other weights ----

    def test_fixtures_of_another_seed_agree(self):
        print(run(TEST, self.fixtures))
        run(TEST, self.fixtures, ranks=2)

    # ---- in and out ----

    def round_trip(self, folder, what, ranks=0):
        ckpt, back = self.path("trip.h5"), self.path("trip")
        run(PROGRAM, "import", folder, "-o", ckpt, ranks=ranks)
        run(PROGRAM, "export", ckpt, "-o", back, "--architecture", config_of(folder)["architectures"][0], ranks=ranks)
        a, b = tensors(folder), tensors(back)
        self.assertEqual(sorted(a), sorted(b), what)
        for name in a:
            self.assertEqual(a[name].dtype, b[name].dtype, f"{what}: {name}")
            self.assertTrue(torch.equal(bits(a[name]), bits(b[name])), f"{what}: {name}")
        a, b = config_of(folder), config_of(back)
        self.assertEqual(a, {key: b.get(key) for key in a}, what)
        added = {key: b[key] for key in b if key not in a}  # what other architectures have, said to be off
        self.assertFalse(any(added.values()), f"{what}: {added}")
        ids = torch.arange(2 * 11).view(2, 11)
        with torch.no_grad():
            self.assertTrue(torch.equal(load(folder)(ids).logits, load(back)(ids).logits), what)

    def test_import_then_export_returns_every_bit(self):
        for folder in self.folders():
            self.round_trip(folder, folder.name)
        self.round_trip(folder, folder.name, ranks=3)

    def test_half_precision_returns_every_bit(self):
        for folder in self.folders():
            for dtype in (torch.bfloat16, torch.float16):
                half = self.path("half")
                load(folder).to(dtype).save_pretrained(half)
                self.round_trip(half, f"{folder.name} in {dtype}")

    # ---- forms of one model ----

    def import_of(self, name, save):
        folder, ckpt = self.path(name), self.path(name + ".h5")
        folder.mkdir()
        save(folder)
        run(PROGRAM, "import", folder, "-o", ckpt)
        return ckpt

    def test_shards_are_the_same_model(self):
        for folder in self.folders():
            model = load(folder)
            one = self.import_of("one", model.save_pretrained)
            many = self.import_of("many", lambda to: model.save_pretrained(to, max_shard_size="20KB"))
            self.assertGreater(len(list((self.dir / "many").glob("*.safetensors"))), 1)
            self.assert_same_checkpoint(one, many, folder.name)

    def test_fused_experts_are_the_same_model(self):
        """Names and shapes as transformers has them in memory."""
        n = 0
        for folder in self.folders():
            model = load(folder)
            fused = {key: p.detach().contiguous() for key, p in model.named_parameters()}
            if not any("gate_up_proj" in key for key in fused):
                continue

            def save(to):
                model.config.save_pretrained(to)
                save_file(fused, to / "model.safetensors", metadata={"format": "pt"})
            self.assert_same_checkpoint(self.import_of("one", model.save_pretrained), self.import_of("fused", save),
                                        folder.name)
            n += 1
        self.assertGreaterEqual(n, 7)

    def test_half_precision_is_the_model_that_was_rounded(self):
        for folder in self.folders():
            for dtype in (torch.bfloat16, torch.float16):
                half = self.import_of("half", load(folder).to(dtype).save_pretrained)
                wide = self.import_of("wide", load(folder).to(dtype).to(torch.float32).save_pretrained)
                x, y = datasets(half), datasets(wide)
                self.assertEqual(sorted(x), sorted(y))
                for name in x:
                    self.assertEqual(x[name][0], "2", f"{folder.name}: {name}")  # as in the folder
                    self.assertTrue(numpy.array_equal(x[name][1].astype(numpy.float32), y[name][1]),
                                    f"{folder.name} in {dtype}: {name}")

    # ---- adapters ----

    def test_adapters_of_another_seed_are_what_peft_merges(self):
        """Every weight, and logits of the folder that we write and of the model that PEFT has in memory."""
        try:
            import make_adapters
        except ImportError as missing:
            self.skipTest(str(missing))
        ids = torch.arange(2 * 11).view(2, 11)
        for name, (base, _) in make_adapters.ADAPTERS.items():
            folder, ckpt, out = self.path("adapter"), self.path("adapter.h5"), self.path("merged")
            merged = make_adapters.write(name, folder, SEED)
            run(PROGRAM, "import", folder, "--adapter-base", make_adapters.HERE / "fixtures" / base, "-o", ckpt)
            run(PROGRAM, "export", ckpt, "-o", out)
            theirs = load_file(folder / "merged.safetensors")
            for key, ours in tensors(out).items():
                apart = (ours - theirs[key]).abs().max() / theirs[key].abs().max()
                self.assertLess(apart, 1e-6, f"{name}: {key}")
            with torch.no_grad():
                ours, theirs = load(out)(ids).logits, merged.eval()(ids).logits
            apart = ((ours - theirs).abs().max() / theirs.abs().max()).item()
            print(f"{name:14} logits apart {apart:.1e}", flush=True)
            self.assertLess(apart, 1e-5, name)

    # ---- routers that begin with data ----

    def test_router_rows_are_mean_hidden_states_of_any_dense_model(self):
        """As tests/e2e/test_router_data.py, of every dense fixture of this seed, in double."""
        import make_hidden
        data = []
        for text, n in enumerate(make_hidden.TEXTS):
            raw = bytes(make_hidden.token(text, i) for i in range(n))
            (self.dir / f"t{text}.txt").write_bytes(raw)
            run(PROGRAM, "tokenize", self.dir / f"t{text}.txt", "-o", self.dir / f"t{text}", "--tokenizer", "bytes")
            data += ["--router-data", self.dir / f"t{text}"]
        for folder in self.folders():
            if scope_of(transformers.AutoConfig.from_pretrained(folder)):
                continue
            ckpt = self.path("routed.h5")
            run(PROGRAM, "upcycle", folder, "--experts", 2, "-o", ckpt, *data, *EXACT)
            texts, worst = make_hidden.measure(folder), 0
            for name, (_, ours) in datasets(ckpt).items():
                if name.endswith("moe/router"):
                    layer = int(name.split("/")[1])
                    mean = numpy.array([t["mean"][layer] for t in texts])
                    length = numpy.mean([t["square"][layer] for t in texts]) ** -0.5
                    theirs = mean / numpy.linalg.norm(mean, axis=1, keepdims=True) * length
                    worst = max(worst, numpy.abs(ours - theirs).max() / numpy.abs(theirs).max())
            print(f"{folder.name:18} rows apart {worst:.1e}", flush=True)
            self.assertLess(worst, 1e-6, folder.name)  # they are stored in fp32

    # ---- trained here ----

    def train(self, name, precision, **more):
        text = (ROOT / "data/samples/prose.txt").read_bytes()[:20000]
        (self.dir / "text.txt").write_bytes(text)
        run(PROGRAM, "tokenize", self.dir / "text.txt", "-o", self.dir / "text", "--tokenizer", "bytes")
        model, moe, _ = TRAINED[name]
        config = {"device": {"backend": "cpu", "precision": precision, "threads": 1}, "model": {**MODEL, **model, **more},
                  "moe": moe, "optim": {"lr": 0.01}, "train": {"steps": 8, "global_batch": 4, "micro_batch": 2},
                  "data": {"train": [{"path": str(self.dir / "text")}]}}
        (self.dir / "config.yaml").write_text(json.dumps(config))
        run_dir = self.path("run")
        run(PROGRAM, "train", self.dir / "config.yaml", "--run-dir", run_dir)
        return run_dir / "checkpoints/latest"

    def our_loss(self, ckpt):
        out = run(PROGRAM, "eval", ckpt, "--data", self.dir / "valid", "--json", *EXACT)
        return json.loads(out)["sets"][0]["loss"]

    def their_loss(self, folder):
        """Of the same sequences, in double."""
        S = MODEL["seq_len"]
        stream = torch.tensor(list(self.valid), dtype=torch.int64)
        tokens = torch.stack([stream[i:i + S + 1] for i in range(0, len(stream) - S, S)])
        model = load(folder)
        state = witness.parameters_in_double(model)
        with torch.no_grad(), witness.in_double(type(model)):
            wide = witness.to_double(type(model), model.config, state)
            return witness.run(None, wide, tokens)["ce"].item()

    def write_valid(self):
        text = (ROOT / "data/samples/prose_valid.txt").read_bytes()
        self.valid = text[:20 * MODEL["seq_len"] + 1]
        (self.dir / "valid.txt").write_bytes(self.valid)
        run(PROGRAM, "tokenize", self.dir / "valid.txt", "-o", self.dir / "valid", "--tokenizer", "bytes")

    def test_module_that_predicts_further_is_deepseeks_own_layer(self):
        """Its loss in a step of ours, and that of the exported weights by DeepSeek's names: enorm of the next token's embedding before
        hnorm of what the model says, through eh_proj, a layer of transformers, shared_head."""
        S = MODEL["seq_len"]
        ckpt, out, again = self.train("deepseek_v3", "fp32", mtp_layers=1), self.path("ahead"), self.path("again")
        run(PROGRAM, "export", ckpt, "-o", out)
        text = (ROOT / "data/samples/prose_valid.txt").read_bytes()[:S + 1]
        (self.dir / "one.txt").write_bytes(text)
        run(PROGRAM, "tokenize", self.dir / "one.txt", "-o", self.dir / "one", "--tokenizer", "bytes")
        run(PROGRAM, "train", self.dir / "config.yaml", "--run-dir", again, "--init-from", ckpt, *EXACT, "--set", "train.steps=1",
            "--set", "train.global_batch=1", "--set", "train.micro_batch=1", "--set", f"data.train=[{{path: {self.dir / 'one'}}}]")
        ours = json.loads((again / "metrics.jsonl").read_text().splitlines()[0])
        model, w = load(out), tensors(out)
        n, H = model.config.num_hidden_layers, model.config.hidden_size
        ahead = {k[len(f"model.layers.{n}."):]: t for k, t in w.items() if k.startswith(f"model.layers.{n}.")}
        config = transformers.AutoConfig.from_pretrained(out, num_hidden_layers=1, first_k_dense_replace=0)
        module = type(model)._from_config(config, attn_implementation="eager").eval()
        fused = {}
        for which in ("gate", "up", "down"):
            fused[which] = torch.stack([ahead[f"mlp.experts.{e}.{which}_proj.weight"] for e in range(config.n_routed_experts)])
        state = {f"model.layers.0.{k}": t for k, t in ahead.items() if ".experts." not in k and k.split(".")[0] in
                 ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")}
        state |= {"model.layers.0.mlp.experts.gate_up_proj": torch.cat([fused["gate"], fused["up"]], 1),
                  "model.layers.0.mlp.experts.down_proj": fused["down"], "model.norm.weight": ahead["shared_head.norm.weight"],
                  "lm_head.weight": ahead["shared_head.head.weight"], "model.embed_tokens.weight": ahead["embed_tokens.weight"]}
        module.load_state_dict(state)
        norm = lambda x, weight: torch.nn.functional.rms_norm(x, (H,), weight, config.rms_norm_eps)
        ids = torch.tensor([list(text)])
        with torch.no_grad():
            main = model.model(ids[:, :-1]).last_hidden_state
            said = torch.nn.functional.cross_entropy(model.lm_head(main)[0], ids[0, 1:]).item()
            e = norm(ahead["embed_tokens.weight"][ids[:, 1:-1]], ahead["enorm.weight"])
            x = torch.cat([e, norm(main[:, :-1], ahead["hnorm.weight"])], -1) @ ahead["eh_proj.weight"].T
            theirs = torch.nn.functional.cross_entropy(module(inputs_embeds=x).logits[0], ids[0, 2:]).item()
        print(f"mtp            losses {ours['train/loss']:.6f} {said:.6f}, further {ours['train/mtp_loss_1']:.6f} {theirs:.6f}", flush=True)
        self.assertAlmostEqual(ours["train/loss"], said, delta=1e-5)
        self.assertAlmostEqual(ours["train/mtp_loss_1"], theirs, delta=1e-5)

    def test_export_of_a_trained_model_says_the_same(self):
        """Loss in double of both, on the same text: ours of the checkpoint, theirs of the folder. Then the folder as
        a fixture: all its logits, gradients and 20 more steps."""
        self.write_valid()
        trained = self.path("trained")
        trained.mkdir()
        for name, (_, _, arch) in TRAINED.items():
            ckpt, out = self.train(name, "fp32"), trained / name
            run(PROGRAM, "export", ckpt, "-o", out)
            self.assertEqual(config_of(out)["architectures"], [arch])
            ours, theirs = self.our_loss(ckpt), self.their_loss(out)
            print(f"{name:14} {arch:30} loss {ours:.6f}, apart {abs(ours - theirs) / theirs:.1e}", flush=True)
            self.assertLess(abs(ours - theirs) / theirs, 1e-10, name)
            model = load(out)
            tokens = witness.draw_tokens(MODEL["vocab_size"], torch.Generator().manual_seed(SEED))
            expected, _ = witness.expect(model, scope_of(model.config), tokens, None, margins=False)
            witness.write_expected(out, expected, scope_of(model.config))
        print(run(TEST, trained, "on_ref"))

    def test_export_of_a_model_trained_in_bf16_says_the_same(self):
        """The router is kept in fp32 and leaves in bf16, so the folder is compared with what it is imported as. In
        fp32 it holds the optimizer's masters."""
        self.write_valid()
        for name in ("llama", "mixtral", "granite"):
            ckpt = self.train(name, "bf16")
            for dtype, size in (("bf16", 2), ("fp32", 4)):
                out, again = self.path("out"), self.path("again.h5")
                run(PROGRAM, "export", ckpt, "-o", out, "--dtype", dtype)
                self.assertEqual({t.element_size() for t in tensors(out).values()}, {size})
                run(PROGRAM, "import", out, "-o", again, "--set", f"model.seq_len={MODEL['seq_len']}")
                ours, theirs = self.our_loss(again), self.their_loss(out)
                self.assertLess(abs(ours - theirs) / theirs, 1e-10, f"{name} in {dtype}")

    def test_other_architectures_that_hold_a_model_say_the_same(self):
        """With what has to be filled in or folded into other weights for it."""
        self.write_valid()
        for name, arch in (("mixtral", "Qwen2MoeForCausalLM"), ("mixtral", "GraniteMoeSharedForCausalLM"),
                           ("granite", "Qwen2MoeForCausalLM"), ("llama", "MistralForCausalLM")):
            model, moe, own = TRAINED[name]
            TRAINED["tmp"] = ({**model, **WHOLE}, moe, own)
            ckpt, out = self.train("tmp", "fp32"), self.path("out")
            del TRAINED["tmp"]
            run(PROGRAM, "export", ckpt, "-o", out, "--architecture", arch)
            ours, theirs = self.our_loss(ckpt), self.their_loss(out)
            self.assertLess(abs(ours - theirs) / theirs, 1e-9, f"{name} as {arch}")


if __name__ == "__main__":
    if "--seed" in sys.argv:
        at = sys.argv.index("--seed")
        SEED = int(sys.argv[at + 1])
        del sys.argv[at:at + 2]
    sys.argv[1:] = [a if "." in a or a.startswith("-") else "Live." + a for a in sys.argv[1:]]
    unittest.main(verbosity=2)
