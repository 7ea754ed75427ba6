#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: with dynamic RoPE what a model says of a text depends on texts that it saw before.
#
# Guess: frequencies are computed for the input at hand, or else set back once a text fits the model's own context.
# Seen: they are set back only for a text that is shorter than the context. After one of 24 tokens, a text of exactly the
#       context's 16 keeps the frequencies of the 24, also in evaluation mode and without a cache; a text of 15 puts them
#       back, after which the 16 say again what they said first. In one batch, all rows take those of the longest.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet transformers==5.23.0 torch==2.13.0 numpy
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PYTHON'
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
CONTEXT = 16
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=CONTEXT,
    initializer_range=0.3,
    rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
)
model = LlamaForCausalLM(config).eval()
ids = torch.randint(0, 100, (1, 24))


@torch.no_grad()
def logp(length):
    """The log-prob of the text's tokens after the first, in nats."""
    text = ids[:, :length]
    logits = model(text, use_cache=False).logits[:, :-1].log_softmax(-1)
    return logits.gather(-1, text[:, 1:, None]).sum().item()


first = logp(CONTEXT)
logp(24)
after_longer = logp(CONTEXT)
logp(CONTEXT - 1)
after_shorter = logp(CONTEXT)
print(f"16 tokens at first {first:.3f}, after 24 {after_longer:.3f}, after 15 {after_shorter:.3f}")
assert abs(first - after_longer) > 0.1
assert first == after_shorter
print("as described")
PYTHON
