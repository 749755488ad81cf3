#!/usr/bin/env python3
"""Writes tests/parity/adapters/: LoRA adapters of fixtures, and what PEFT merges them into, for test_adapter.py.

    python3 tests/parity/make_adapters.py [--out DIR] [--seed N]

Needs torch, transformers, safetensors and peft (launch/parity.sh installs them). A folder holds adapter_config.json and
adapter_model.safetensors as PEFT saves them, but for base_model_name_or_path, which names no path, and
merged.safetensors, the model that merge_and_unload gives.
"""
import argparse
import json
import shutil
import warnings
from pathlib import Path

import peft
import torch
import transformers

HERE = Path(__file__).resolve().parent
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# name: the fixture that is its base, what PEFT is asked for.
ADAPTERS = {
    "plain": ("llama", dict(r=3, lora_alpha=5, target_modules=LINEAR)),
    "other": ("llama", dict(r=2, lora_alpha=7, target_modules=r".*\.mlp\.(gate|up|down)_proj")),
    "patterns": ("qwen2_rope_linear", dict(
        r=4, lora_alpha=8, target_modules=LINEAR, use_rslora=True, rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 3},
        alpha_pattern={"k_proj": 3, "^model.layers.0.self_attn.v_proj": 11}, bias="all", modules_to_save=["lm_head"])),
    "embeddings": ("llama", dict(r=2, lora_alpha=3, target_modules=["embed_tokens", "lm_head", "o_proj"])),
    "one_layer": ("qwen2_rope_linear", dict(r=2, lora_alpha=4, target_modules=["k_proj", "o_proj"], layers_to_transform=[1],
                                            bias="lora_only")),
    "of_a_mixture": ("granite_moe_shared", dict(r=3, lora_alpha=2, target_modules=[
        "q_proj", "shared_mlp.input_linear", "shared_mlp.output_linear"])),
}


def write(name, folder, seed):
    """Returns the merged model."""
    base, asked = ADAPTERS[name]
    torch.manual_seed(1000 * list(ADAPTERS).index(name) + seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(HERE / "fixtures" / base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **asked))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"nowhere/{base}"
    for key in ("target_modules", "modules_to_save"):  # PEFT holds them as sets
        config[key] = sorted(config[key]) if isinstance(config[key], list) else config[key]
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    merged = model.merge_and_unload()
    merged.save_pretrained(folder / "merged")  # by the names that files have
    (folder / "merged/model.safetensors").rename(folder / "merged.safetensors")
    shutil.rmtree(folder / "merged")
    for path in folder.iterdir():
        path.chmod(0o644)
    return merged


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "adapters")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ADAPTERS:
        write(name, args.out / name, args.seed)


if __name__ == "__main__":
    main()
