"""What transformers and PyTorch compute of a tiny model: the oracle of the parity tests.

Needs torch, transformers and safetensors. make_fixtures.py stores what it says, live.py asks it anew.
"""
import contextlib
import copy
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import modeling_rope_utils

STEPS, B, S = 20, 3, 11
V, H, L = 61, 20, 2
OPTIM = {"lr": 0.005, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 2.0}
AUX_COEFF, Z_COEFF = 0.05, 0.01

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# Uneven in every direction. head_dim differs from hidden / heads where the architecture has the key.
BASE = dict(vocab_size=V, hidden_size=H, intermediate_size=28, num_hidden_layers=L, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, rms_norm_eps=1e-5, hidden_act="silu",
            tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, pad_token_id=None,
            rope_parameters={"rope_type": "default", "rope_theta": 700.0})
# Without that key: 24 = 4 heads of 6.
WHOLE_HEADS = dict(BASE, hidden_size=24, rms_norm_eps=1e-6)
MOE = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=12)

LATENT = dict(WHOLE_HEADS, num_key_value_heads=4, num_hidden_layers=3, kv_lora_rank=10, qk_nope_head_dim=6,
              qk_rope_head_dim=4, v_head_dim=5, first_k_dense_replace=1, moe_intermediate_size=12)

# name: (class, configuration, scope in which our balance loss counts)
MODELS = {
    "llama": ("LlamaForCausalLM", dict(BASE, head_dim=6), None),
    # Wavelengths 6, 20, 63 and 199: below 16, between, and above 64.
    "llama_rope_llama3": ("LlamaForCausalLM", dict(
        BASE, head_dim=8, rope_parameters={
            "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}), None),
    "llama_tied": ("LlamaForCausalLM", dict(BASE, head_dim=6, tie_word_embeddings=True), None),
    "mistral": ("MistralForCausalLM", dict(BASE, head_dim=6, sliding_window=None), None),
    "qwen2_rope_linear": ("Qwen2ForCausalLM", dict(
        WHOLE_HEADS, rope_parameters={"rope_type": "linear", "rope_theta": 700.0, "factor": 2.5}), None),
    "qwen3": ("Qwen3ForCausalLM", dict(BASE, head_dim=6), None),
    "mixtral": ("MixtralForCausalLM", dict(
        BASE, head_dim=6, intermediate_size=12, num_local_experts=5, num_experts_per_tok=2,
        sliding_window=None), "micro_batch"),
    "qwen2_moe": ("Qwen2MoeForCausalLM", dict(
        WHOLE_HEADS, **MOE, shared_expert_intermediate_size=10, norm_topk_prob=False), "sequence"),
    "qwen2_moe_one": ("Qwen2MoeForCausalLM", dict(
        WHOLE_HEADS, **MOE, num_hidden_layers=3, mlp_only_layers=[0, 2],
        shared_expert_intermediate_size=10, norm_topk_prob=True), "micro_batch"),
    "qwen3_moe": ("Qwen3MoeForCausalLM", dict(
        BASE, **dict(MOE, num_experts=6, num_experts_per_tok=3), head_dim=6, norm_topk_prob=True),
        "sequence"),
    "qwen3_moe_one": ("Qwen3MoeForCausalLM", dict(
        BASE, **MOE, head_dim=6, num_hidden_layers=3, decoder_sparse_step=2, norm_topk_prob=False),
        "micro_batch"),
    "olmoe": ("OlmoeForCausalLM", dict(
        WHOLE_HEADS, intermediate_size=12, num_experts=5, num_experts_per_tok=2, norm_topk_prob=False),
        "global_batch"),
    "granite_moe_shared": ("GraniteMoeSharedForCausalLM", dict(
        WHOLE_HEADS, intermediate_size=12, num_local_experts=6, num_experts_per_tok=2,
        shared_intermediate_size=10, embedding_multiplier=1.75, residual_multiplier=0.6,
        attention_multiplier=0.3, logits_scaling=1.5, tie_word_embeddings=True), "sequence"),
    "deepseek_v2": ("DeepseekV2ForCausalLM", dict(
        LATENT, q_lora_rank=None, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=2, n_group=3,
        topk_group=2, topk_method="group_limited_greedy", routed_scaling_factor=1.75), "sequence"),
    # Six pairs in a head: of YaRN some stay, some go over, some are stretched.
    "deepseek_v3": ("DeepseekV3ForCausalLM", dict(
        LATENT, q_lora_rank=14, qk_rope_head_dim=12, n_routed_experts=8, num_experts_per_tok=3,
        n_shared_experts=1, n_group=4, topk_group=2, routed_scaling_factor=2.5, num_nextn_predict_layers=0,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "beta_fast": 4.0, "beta_slow": 0.5,
            "mscale": 0.6, "mscale_all_dim": 0.9, "original_max_position_embeddings": 64}), "sequence"),
}
BIAS_RATE = 0.001  # DeepSeek-V3's, and what import sets


# ---- a model and its data ----

def new_model(cls, config):
    """In the default float type, with the library's own plain attention and experts."""
    model = cls(config)
    model.set_attn_implementation("eager")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model.eval()  # no dropout anywhere; gradients are computed all the same


def random_model(name, generator):
    """Every parameter is drawn anew, larger than the default, so that attention, norms, biases and
    routing are far from their trivial values."""
    cls_name, config, _ = MODELS[name]
    cls = getattr(transformers, cls_name)
    model = new_model(cls, cls.config_class(**config))
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            p.copy_(draw(key, p.shape, generator))
        for key, p in router_biases(model):
            p.copy_(draw(key, p.shape, generator))
    return model


def router_biases(model):
    """DeepSeek-V3's choose beside the scores, and are no parameters."""
    return sorted((key, b) for key, b in model.named_buffers() if key.endswith("e_score_correction_bias"))


def draw(key, shape, generator):
    x = torch.randn(shape, generator=generator, dtype=torch.float32)
    if "embed_tokens" in key:
        return x * 0.8
    if "norm" in key:
        return 1 + 0.3 * x
    if len(shape) == 1:
        return 0.4 * x  # a bias
    is_router = key.endswith(("gate.weight", "router.weight", "shared_expert_gate.weight"))
    return x * ((2.0 if is_router else 1.1) / shape[-1] ** 0.5)


def draw_tokens(vocab_size, generator):
    """[STEPS, B, S + 1] I32. Every sequence begins and ends with token 0, so that they can be laid end
    to end in any order, one sharing a token with the next."""
    tokens = torch.randint(0, vocab_size, (STEPS, B, S + 1), generator=generator, dtype=torch.int32)
    tokens[:, :, 0] = tokens[:, :, S] = 0
    return tokens


# ---- in double ----

class _WideTorch:
    """torch, where float32 means float64."""
    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class _NoNarrow(TorchDispatchMode):
    """Refuses every operation that yields a float type narrower than double."""
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.is_floating_point() and t.dtype != torch.float64:
                raise AssertionError(f"{func} computed in {t.dtype}, not in double")
        return out


@contextlib.contextmanager
def in_double(cls):
    """transformers computes norms, softmax, angles and router probabilities in float32 whatever the
    model's type. In here those places mean float64, and nothing narrower is computed."""
    modules = [sys.modules[cls.__module__], modeling_rope_utils]
    old = [(m, m.torch) for m in modules]
    old_float, old_default = torch.Tensor.float, torch.get_default_dtype()
    try:
        for m in modules:
            m.torch = _WideTorch()
        torch.Tensor.float = torch.Tensor.double
        torch.set_default_dtype(torch.float64)
        with _NoNarrow():
            yield
    finally:
        torch.set_default_dtype(old_default)
        torch.Tensor.float = old_float
        for m, t in old:
            m.torch = t


def to_double(cls, config, state):
    """These parameters in a model that was built in double (angles included). Inside in_double."""
    wide = new_model(cls, config)
    with torch.no_grad():
        for key, p in wide.named_parameters():
            p.copy_(state[key])
        for key, p in router_biases(wide):
            p.copy_(state[key])
    return wide


def parameters_in_double(model):
    return {key: p.detach().double() for key, p in [*model.named_parameters(), *router_biases(model)]}


# ---- losses ----

def top_k(model):
    return getattr(model.config, "num_experts_per_tok", 0)


def is_deepseek(model):
    return model.config.model_type.startswith("deepseek")


def choose(model, z, bias):
    """(choices, the smallest distance to another choice) of DeepSeek's groups, by the papers: V2 2.1.2 counts a
    group by its best score, V3 2.1.2 by the sum of its two best of sigmoid + bias."""
    c, E = model.config, z.shape[-1]
    s = z if bias is None else torch.sigmoid(z) + bias  # the softmax has the order of its logits
    members = torch.sort(s.view(-1, c.n_group, E // c.n_group), -1, descending=True).values
    groups = members[..., 0] if bias is None else members[..., :2].sum(-1)
    ranked = torch.sort(groups, -1, descending=True)
    kept = torch.zeros_like(groups).scatter_(1, ranked.indices[:, :c.topk_group], 1.0)
    s = s.masked_fill(kept.repeat_interleave(E // c.n_group, 1) == 0, -1e3)
    best = torch.sort(s, -1, descending=True)
    k = c.num_experts_per_tok
    gap = float((best.values[:, k - 1] - best.values[:, k]).min())
    if c.topk_group < c.n_group:
        gap = min(gap, float((ranked.values[:, c.topk_group - 1] - ranked.values[:, c.topk_group]).min()))
    return best.indices[:, :k], gap


def balance_loss(z, k, scope, n_sequences, choices=None, sigmoid=False):
    """House convention: E sum_e f_e P_e, f the share of choices, P the mean probability, both over the
    scope (a sequence, or the batch); the mean over scopes. f is a count: no gradient. Of a sigmoid P is its
    share of the token's sum, and f counts the choices without bias and groups (DeepSeek-V3 2.1.2)."""
    E = z.shape[-1]
    p = torch.softmax(z, -1)
    if sigmoid:
        p = torch.sigmoid(z) / torch.sigmoid(z).sum(-1, keepdim=True)
    n = n_sequences if scope == "sequence" else 1
    choices = torch.topk(p, k).indices if choices is None else choices
    hit = torch.zeros_like(p).scatter_(1, choices, 1.0).detach()
    f = hit.view(n, -1, E).mean(1) / k
    return E * (f * p.view(n, -1, E).mean(1)).sum(-1).mean()


def run(scope, model, tokens, want_hf_aux=False):
    """One micro-batch [B, S+1]: logits, mean cross-entropy, per-layer aux and z, margins of the choices."""
    ids, targets = tokens[:, :-1].long(), tokens[:, 1:].long()
    if scope and is_deepseek(model):
        return run_deepseek(scope, model, ids, targets)
    kwargs = {"output_router_logits": True} if scope else {}
    out = model(input_ids=ids, use_cache=False, **kwargs)
    r = {"logits": out.logits, "ce": F.cross_entropy(out.logits.flatten(0, 1), targets.reshape(-1)),
         "router": [], "total": None}
    r["total"] = r["ce"]
    if scope:
        k = top_k(model)
        r["router"] = [z.view(-1, z.shape[-1]) for z in out.router_logits]
        r["aux"] = [balance_loss(z, k, scope, len(tokens)) for z in r["router"]]
        r["z"] = [(torch.logsumexp(z, -1) ** 2).mean() for z in r["router"]]
        r["total"] = r["ce"] + AUX_COEFF * sum(r["aux"]) + Z_COEFF * sum(r["z"])
        if want_hf_aux:
            r["hf_aux"] = out.aux_loss
    return r


def run_deepseek(scope, model, ids, targets):
    """run, with the routers' logits caught as they pass."""
    seen = []
    hooks = [m.register_forward_hook(lambda _m, _in, out: seen.append(out[0].view(-1, out[0].shape[-1])))
             for m in model.modules() if type(m).__name__.endswith("TopkRouter")]
    out = model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    biases = [b for _, b in router_biases(model)] or [None] * len(seen)
    r = {"logits": out.logits, "ce": F.cross_entropy(out.logits.flatten(0, 1), targets.reshape(-1)),
         "router": seen, "chosen": [choose(model, z.detach(), b) for z, b in zip(seen, biases)]}
    k = top_k(model)
    r["aux"] = [balance_loss(z, k, scope, len(ids), c if b is None else None, b is not None)
                for z, b, (c, _) in zip(seen, biases, r["chosen"])]
    r["z"] = [(torch.logsumexp(z, -1) ** 2).mean() for z in seen]
    r["total"] = r["ce"] + AUX_COEFF * sum(r["aux"]) + Z_COEFF * sum(r["z"])
    return r


def update_biases(model, r):
    """b_e += rate sign(mean load - load_e), once per step (DeepSeek-V3 2.1.2)."""
    for (_, b), (chosen, _) in zip(router_biases(model), r.get("chosen", [])):
        load = torch.bincount(chosen.flatten(), minlength=len(b)).to(b.dtype)
        b += BIAS_RATE * torch.sign(load.mean() - load)


def least_margin(model, r, every=1):
    """Of the tokens 0, every, ..."""
    if "chosen" not in r:
        return margin([z[::every] for z in r["router"]], top_k(model))
    biases = [b for _, b in router_biases(model)] or [None] * len(r["router"])
    return min(choose(model, z.detach()[::every], b)[1] for z, b in zip(r["router"], biases))


def margin(router_logits, k):
    """The smallest distance between the last chosen and the first not chosen expert."""
    least = float("inf")
    for z in router_logits:
        top = torch.sort(z.detach(), -1, descending=True).values
        least = min(least, float((top[:, k - 1] - top[:, k]).min()))
    return least


# ---- training ----

def decays(p):
    return p.ndim >= 2  # matrices, experts and routers; neither norms nor biases


def train(scope, model, tokens):
    """STEPS of AdamW. Returns curves, and the smallest margin that was met."""
    params = list(model.parameters())
    groups = [{"params": [p for p in params if decays(p)], "weight_decay": OPTIM["weight_decay"]},
              {"params": [p for p in params if not decays(p)], "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=OPTIM["lr"], betas=OPTIM["betas"], eps=OPTIM["eps"], foreach=False)
    curve = {"loss": [], "grad_norm": [], "aux": [], "z": [], "margin": []}
    for step in range(len(tokens)):
        opt.zero_grad()
        r = run(scope, model, tokens[step])
        r["total"].backward()
        for p in params:  # an expert that no token chose
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        norm = torch.sqrt(sum((p.grad ** 2).sum() for p in params))
        scale = min(1.0, OPTIM["clip_norm"] / float(norm))
        for p in params:
            p.grad.mul_(scale)
        opt.step()
        gap = least_margin(model, r) if r["router"] else 0
        update_biases(model, r)
        curve["loss"].append(r["ce"].item())
        curve["grad_norm"].append(float(norm))
        if r["router"]:
            curve["aux"].append([a.item() for a in r["aux"]])
            curve["z"].append([a.item() for a in r["z"]])
            curve["margin"].append(gap)
    return curve


def gradients(scope, model, tokens):
    """{parameter: gradient of the total loss}; the model keeps its parameters."""
    model.zero_grad()
    run(scope, model, tokens)["total"].backward()
    grads = {key: torch.zeros_like(p) if p.grad is None else p.grad.clone()
             for key, p in model.named_parameters()}
    model.zero_grad()
    return grads


def check_differences(scope, model, tokens, grads, generator):
    """Central differences along a random direction of each parameter, against its gradient. Agreement to
    1e-7 is out of reach for anything computed in float32."""
    worst, h = 0.0, 2.0 ** -16
    with torch.no_grad():
        for key, p in model.named_parameters():
            d = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            d /= d.norm()  # so small a step changes no choice
            total = {}
            for sign in (1, -1, 2, -2):
                p.add_(d, alpha=sign * h)
                total[sign] = run(scope, model, tokens)["total"].item()
                p.add_(d, alpha=-sign * h)
            fd = (8 * (total[1] - total[-1]) - (total[2] - total[-2])) / (12 * h)
            gap = abs(fd - float((grads[key] * d).sum())) / float(grads[key].norm())
            worst = max(worst, gap)
            if gap > 1e-7:
                raise AssertionError(f"{key}: gradient and differences are {gap:.1e} apart")
    return worst


# ---- files ----

def on_disk(cls, config, tensors):
    """Tensors by their names in memory -> by the names, shapes and splits of a saved model. The library
    does it: a model that holds them instead of its parameters is saved and read back."""
    carrier = new_model(cls, config).to(torch.float64)
    with torch.no_grad():
        for key, p in carrier.named_parameters():
            p.copy_(tensors[key])
    with tempfile.TemporaryDirectory() as folder:
        carrier.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def settings(scope):
    """What a run of ours needs beside the model, as arguments of --set."""
    lines = [f"model.seq_len={S}", "optim.schedule=constant", f"optim.lr={OPTIM['lr']!r}",
             f"optim.betas=[{OPTIM['betas'][0]!r}, {OPTIM['betas'][1]!r}]", f"optim.eps={OPTIM['eps']!r}",
             f"optim.weight_decay={OPTIM['weight_decay']!r}", f"optim.clip_norm={OPTIM['clip_norm']!r}",
             f"train.steps={STEPS}", f"train.global_batch={B}"]
    if scope:
        lines += [f"moe.aux_loss_coeff={AUX_COEFF!r}", f"moe.z_loss_coeff={Z_COEFF!r}",
                  f"moe.aux_loss_scope={scope}"]
    return "".join(line + "\n" for line in lines)


class NearTie(Exception):
    """Two experts nearly tie for some token: rounding alone might choose the other."""


# That fp32 chooses as double does in all steps. bf16 may choose otherwise for a token or two: its router
# logits are off by about 0.07, and no fixture is that far from a tie everywhere. But all sequences begin
# with the same token and all others look at it, so that one has to be clear.
MARGIN, FIRST_MARGIN = 1e-3, 0.3
# DeepSeek chooses groups too; V3's are of scores, not of logits.
GROUPED_MARGIN, FIRST_SCORE_MARGIN = 2e-4, 0.06


def expect(model, scope, tokens, generator, margins=True):
    """(tensors of expected.safetensors, a line about them). scope None: a dense model. NearTie, if
    margins are asked for, where the model does not separate its experts."""
    cls, config = type(model), model.config
    with torch.no_grad():
        fp32 = run(scope, model, tokens[0])
        hf_loss = model(input_ids=tokens[0].long(), labels=tokens[0].long()).loss  # shifts by itself
        bf16 = run(scope, copy.deepcopy(model).to(torch.bfloat16), tokens[0])
    if scope and margins and least_margin(model, fp32, S) < (FIRST_SCORE_MARGIN if router_biases(model)
                                                             else FIRST_MARGIN):
        raise NearTie()

    out = {"tokens": tokens, "logits_fp32": fp32["logits"].contiguous(),
           "logits_bf16": bf16["logits"].contiguous(), "loss_fp32": hf_loss.view(1)}
    state = parameters_in_double(model)
    with in_double(cls):
        wide = to_double(cls, config, state)
        r = run(scope, wide, tokens[0], want_hf_aux=True)
        grads = gradients(scope, wide, tokens[0])
        curve = train(scope, copy.deepcopy(wide), tokens)
        if scope and margins and min(curve["margin"]) < (GROUPED_MARGIN if is_deepseek(model) else MARGIN):
            raise NearTie()
        gap = check_differences(scope, wide, tokens[0], grads, generator) if margins else 0
    out["logits"] = r["logits"].detach().contiguous()
    for key in ("loss", "grad_norm", "aux", "z"):
        if curve[key]:
            out[key] = torch.tensor(curve[key], dtype=torch.float64)
    if scope == "micro_batch" and len(r["router"]) == 1:
        # With several layers the library pools f and P over all of them before it multiplies, which is
        # another number than the sum (or mean) of per-layer losses. With one it is K times ours.
        out["hf_aux_loss"] = r["hf_aux"].detach().view(1)
    out.update({f"grad/{key}": g for key, g in on_disk(cls, config, grads).items()})
    about = (f"loss {curve['loss'][0]:.4f} -> {curve['loss'][-1]:.4f}, gradient norm "
             f"{min(curve['grad_norm']):.2f} .. {max(curve['grad_norm']):.2f}, differences {gap:.0e}"
             + (f", margin {min(curve['margin']):.4f}" if scope else ""))
    return out, about


def write_expected(folder, out, scope):
    """Beside a saved model."""
    save_file(out, Path(folder) / "expected.safetensors")
    (Path(folder) / "expected.safetensors").chmod(0o644)
    (Path(folder) / "settings").write_text(settings(scope))


def write_fixture(name, folder, seed):
    """Everything about one model into a folder; returns a line about it. NearTie: try another seed."""
    scope = MODELS[name][2]
    generator = torch.Generator().manual_seed(1000 * list(MODELS).index(name) + seed)
    model, tokens = random_model(name, generator), draw_tokens(V, generator)
    out, about = expect(model, scope, tokens, generator)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    write_expected(folder, out, scope)
    return f"{name}: seed {seed}, {about}"


def write_fixtures(root, seed, names=None, log=print):
    for name in names or MODELS:
        for s in range(seed, seed + 300):
            try:
                log(write_fixture(name, Path(root) / name, s))
                break
            except NearTie:
                continue
        else:
            raise SystemExit(f"{name}: no seed of {seed} .. {seed + 299} keeps the experts apart")
