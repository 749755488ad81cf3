#!/usr/bin/env python3
"""Writes tests/parity/hidden.json: mean hidden states of fixtures as transformers computes them in double, for
test_router_data.py.

    python3 tests/parity/make_hidden.py [--out FILE]

Needs torch and transformers (launch/parity.sh installs them). Of every model and text: [layers][H] mean of the input of
the MLP (the output of post_attention_layernorm), and [layers] mean of its squared length, over sequences of S tokens that
lie evenly over the text.
"""
import argparse
import json
from pathlib import Path

import torch
import transformers

import witness

HERE = Path(__file__).resolve().parent
MODELS = ("llama", "qwen3")
TEXTS = (3000, 1700)  # tokens


def token(text, i):
    """As in test_router_data.py."""
    return (i * i * 7 + (13 * text + 5) * i + i // (9 - 4 * text)) % 61


def sequences(text, n, S):
    count = n // S
    begins = [int((n - S) * i / (count - 1)) for i in range(count)]
    return torch.tensor([[token(text, b + t) for t in range(S)] for b in begins])


def measure(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    S = model.config.max_position_embeddings
    state = witness.parameters_in_double(model)
    out = []
    with torch.no_grad(), witness.in_double(type(model)):
        wide = witness.to_double(type(model), model.config, state)
        for text, n in enumerate(TEXTS):
            seen = []
            hooks = [layer.post_attention_layernorm.register_forward_hook(lambda m, a, y: seen.append(y))
                     for layer in wide.model.layers]
            wide(sequences(text, n, S))
            for hook in hooks:
                hook.remove()
            flat = [y.flatten(0, 1) for y in seen]
            out.append({"mean": [y.mean(0).tolist() for y in flat], "square": [(y * y).sum(1).mean().item() for y in flat]})
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "hidden.json")
    args = parser.parse_args()
    args.out.write_text(json.dumps({name: measure(HERE / "fixtures" / name) for name in MODELS}, indent=None) + "\n")


if __name__ == "__main__":
    main()
