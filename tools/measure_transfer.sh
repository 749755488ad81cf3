#!/usr/bin/env bash
# Bandwidth of import and export beside a plain copy of the same bytes in the same folder, alternating, each synced.
#
#   tools/measure_transfer.sh [FOLDER [REPEATS]]     FOLDER: 8 GB of room (default: a temporary one); REPEATS: 5
#
# SWITCHYARD names the program (default: build/launch/switchyard).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${SWITCHYARD:-$root/build/launch/switchyard}
folder=$(mktemp -d "${1:-${TMPDIR:-/tmp}}/transfer.XXXXXX")
trap 'rm -rf "$folder"' EXIT

# A Mixtral of 2.3 GB in bf16, its weights drawn once and repeated.
python3 - "$folder/hf" <<'PYTHON'
import json, os, random, struct, sys
H, I, L, E, V = 1024, 3584, 12, 8, 32000
tensors = {"model.embed_tokens.weight": [V, H], "lm_head.weight": [V, H], "model.norm.weight": [H]}
for layer in range(L):
    p = f"model.layers.{layer}."
    tensors |= {p + "input_layernorm.weight": [H], p + "post_attention_layernorm.weight": [H],
                p + "self_attn.q_proj.weight": [H, H], p + "self_attn.k_proj.weight": [H // 2, H],
                p + "self_attn.v_proj.weight": [H // 2, H], p + "self_attn.o_proj.weight": [H, H],
                p + "block_sparse_moe.gate.weight": [E, H]}
    for e in range(E):
        x = p + f"block_sparse_moe.experts.{e}."
        tensors |= {x + "w1.weight": [I, H], x + "w3.weight": [I, H], x + "w2.weight": [H, I]}
header, at = {"__metadata__": {"format": "pt"}}, 0
for name, shape in sorted(tensors.items()):
    n = 2
    for d in shape:
        n *= d
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
    at += n
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
block = bytearray(random.Random(1).randbytes(1 << 24))
block[1::2] = bytes((b & 0x80) | 0x3c for b in block[1::2])
os.mkdir(sys.argv[1])
with open(sys.argv[1] + "/model.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text)
    while at > 0:
        at -= f.write(block[:at])
config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": V, "hidden_size": H,
          "intermediate_size": I, "num_hidden_layers": L, "num_attention_heads": 16, "num_key_value_heads": 8,
          "head_dim": H // 16, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
          "num_local_experts": E, "num_experts_per_tok": 2, "tie_word_embeddings": False, "sliding_window": None}
json.dump(config, open(sys.argv[1] + "/config.json", "w"))
PYTHON

now() { date +%s.%N; }
rate() { awk -v b="$1" -v t="$2" 'BEGIN { printf "%.0f", b / t / 1e6 }'; }
timed() { # NAME COMMAND...: MB/s of the weights' bytes into $folder/NAME.rates
  local name=$1 begun
  shift
  sync
  begun=$(now)
  "$@" >/dev/null 2>&1
  rate "$bytes" "$(awk -v a="$begun" -v b="$(now)" 'BEGIN { print b - a }')" >>"$folder/$name.rates"
  echo >>"$folder/$name.rates"
}

bytes=$(stat -c %s "$folder/hf/model.safetensors")
for _ in $(seq "${2:-5}"); do
  timed copy dd if="$folder/hf/model.safetensors" of="$folder/copy" bs=4M conv=fsync
  rm "$folder/copy"
  timed import "$program" import "$folder/hf" -o "$folder/a.h5"
  timed export "$program" export "$folder/a.h5" -o "$folder/out"
  rm -r "$folder/a.h5" "$folder/out"
done
for name in copy import export; do
  printf '%-7s %s MB/s, median of %s\n' "$name" "$(sort -n "$folder/$name.rates" | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }')" \
    "$(tr '\n' ' ' <"$folder/$name.rates")"
done
