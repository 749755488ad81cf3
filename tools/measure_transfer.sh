#!/usr/bin/env bash
# Bandwidth of import and export beside a plain copy of the same bytes in the same folder, alternating, each synced; or of
# upcycling a dense model of 1.9 GB to 8 experts beside plain writing of as many bytes, with the most anonymous memory.
#
#   tools/measure_transfer.sh [FOLDER [REPEATS [upcycle [RANKS]]]]     FOLDER: 8 GB of room, 22 GB for upcycle (default: a
#                                                                      temporary one); REPEATS: 5; RANKS: without mpirun
#
# SWITCHYARD names the program (default: build/launch/switchyard).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${SWITCHYARD:-$root/build/launch/switchyard}
folder=$(mktemp -d "${1:-${TMPDIR:-/tmp}}/transfer.XXXXXX")
trap 'rm -rf "$folder"' EXIT

repeats=${2:-5}
what=${3:-transfer}
ranks=${4:-0}

# A Mixtral of 2.3 GB, or a Llama of 1.9 GB, in bf16, its weights drawn once and repeated.
python3 - "$folder/hf" "$what" <<'PYTHON'
import json, os, random, struct, sys
dense = sys.argv[2] == "upcycle"
H, I, L, E, V = (2048, 5632, 16, 0, 32000) if dense else (1024, 3584, 12, 8, 32000)
tensors = {"model.embed_tokens.weight": [V, H], "lm_head.weight": [V, H], "model.norm.weight": [H]}
for layer in range(L):
    p = f"model.layers.{layer}."
    tensors |= {p + "input_layernorm.weight": [H], p + "post_attention_layernorm.weight": [H],
                p + "self_attn.q_proj.weight": [H, H], p + "self_attn.k_proj.weight": [H // 2, H],
                p + "self_attn.v_proj.weight": [H // 2, H], p + "self_attn.o_proj.weight": [H, H],
                **({} if dense else {p + "block_sparse_moe.gate.weight": [E, H]})}
    if dense:
        tensors |= {p + "mlp.gate_proj.weight": [I, H], p + "mlp.up_proj.weight": [I, H], p + "mlp.down_proj.weight": [H, I]}
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
if dense:
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    del config["num_local_experts"], config["num_experts_per_tok"], config["sliding_window"]
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

median() { sort -n "$folder/$1.rates" | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'; }

if [ "$what" = upcycle ]; then
  run=(env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none -n "$ranks" "$program")
  [ "$ranks" != 0 ] || run=("$program")
  for _ in $(seq "$repeats"); do
    sync
    "${run[@]}" upcycle "$folder/hf" -o "$folder/moe.h5" --experts 8 >"$folder/said" 2>/dev/null &
    job=$!
    while kill -0 $job 2>/dev/null; do # every rank's anonymous memory
      for pid in $job $(pgrep -P $job || true); do
        grep -hs RssAnon "/proc/$pid/status" | awk '{ print $2 }' >>"$folder/anon" || true
      done
      sleep 0.05
    done
    wait $job
    bytes=$(stat -c %s "$folder/moe.h5")
    # "wrote FILE: ...; 18.0 s, 535.78 MB/s, and 20.1 s for the receipt"
    sed -n 's/^wrote.*; \([0-9.]*\) s, .* and \([0-9.]*\) s for the receipt$/\1 \2/p' "$folder/said" >"$folder/times"
    read -r written proven <"$folder/times"
    echo "$(rate "$bytes" "$written")" >>"$folder/writing.rates"
    echo "$(rate "$bytes" "$(awk -v a="$written" -v b="$proven" 'BEGIN { print a + b }')")" >>"$folder/receipt.rates"
    rm "$folder/moe.h5"
    timed plain python3 -c 'import os, sys
block, left = os.urandom(4 << 20), int(sys.argv[2])
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
while left > 0:
    left -= os.write(fd, block[:left])
os.fsync(fd)' "$folder/plain" "$bytes"
    rm "$folder/plain"
  done
  for name in plain writing receipt; do
    printf '%-8s %s MB/s, median of %s\n' "$name" "$(median $name)" "$(tr '\n' ' ' <"$folder/$name.rates")"
  done
  printf 'anon     %s MB at most in a rank\n' "$(sort -n "$folder/anon" | awk 'END { print int($1 / 1000) }')"
  exit
fi

bytes=$(stat -c %s "$folder/hf/model.safetensors")
for _ in $(seq "$repeats"); do
  timed copy dd if="$folder/hf/model.safetensors" of="$folder/copy" bs=4M conv=fsync
  rm "$folder/copy"
  timed import "$program" import "$folder/hf" -o "$folder/a.h5"
  timed export "$program" export "$folder/a.h5" -o "$folder/out"
  rm -r "$folder/a.h5" "$folder/out"
done
for name in copy import export; do
  printf '%-7s %s MB/s, median of %s\n' "$name" "$(median $name)" "$(tr '\n' ' ' <"$folder/$name.rates")"
done
