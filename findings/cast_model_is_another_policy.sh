#!/usr/bin/env bash
# torch 2.13.0, transformers 5.23.0: a model that is cast to bfloat16 is another policy than the one loaded in bfloat16.
#
# Guess: `model.to(torch.bfloat16)` and `from_pretrained(..., dtype=torch.bfloat16)` give the same model.
# Seen: all parameters are equal, bit for bit. The cast also rounds the buffer `inv_freq`, from which positions are
#       computed, and loading leaves it in float32; it is not saved. The mean KL between the two is about .17 nats a
#       token at positions 900 to 1,000 and about 1 at 2,900 to 3,000, where most top tokens differ; against float32
#       the loaded one stays below .01. So what was trained after a cast is not what is loaded from its checkpoint.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import torch
import transformers
from torch.nn.functional import kl_div
from transformers import LlamaConfig, LlamaForCausalLM

print("torch", torch.__version__, "transformers", transformers.__version__)
torch.manual_seed(0)
sizes = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
config = LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.3, max_position_embeddings=4096)
LlamaForCausalLM(config).save_pretrained("model")
full = LlamaForCausalLM.from_pretrained("model", dtype=torch.float32).eval()
cast = LlamaForCausalLM.from_pretrained("model", dtype=torch.float32).to(torch.bfloat16).eval()
loaded = LlamaForCausalLM.from_pretrained("model", dtype=torch.bfloat16).eval()
assert all(torch.equal(a, b) for a, b in zip(cast.parameters(), loaded.parameters(), strict=True))
print("inv_freq:", cast.model.rotary_emb.inv_freq.dtype, "and", loaded.model.rotary_emb.inv_freq.dtype)

ids = torch.randint(1000, (1, 3000))
with torch.no_grad():
    logps = {name: model(ids).logits[0].float().log_softmax(-1) for name, model in [("full", full), ("cast", cast), ("loaded", loaded)]}


def kl(p, q, place):
    return float(kl_div(logps[q][place], logps[p][place], log_target=True, reduction="batchmean"))


for start in (0, 900, 2900):
    place = slice(start, start + 100)
    figures = kl("cast", "loaded", place), kl("full", "cast", place), kl("full", "loaded", place)
    print(f"tokens {start} to {start + 100}: KL(cast, loaded) {figures[0]:.3f}, from float32: cast {figures[1]:.3f}, loaded {figures[2]:.3f}")
assert cast.model.rotary_emb.inv_freq.dtype == torch.bfloat16 and loaded.model.rotary_emb.inv_freq.dtype == torch.float32
assert 0.05 < kl("cast", "loaded", slice(900, 1000)) < 0.5 < kl("cast", "loaded", slice(2900, 3000))
assert kl("full", "loaded", slice(2900, 3000)) < 0.02
print("as described")
PYTHON
