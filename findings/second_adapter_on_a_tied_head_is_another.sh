#!/usr/bin/env bash
# peft 0.21.0, transformers 5.23.0, torch 2.13.0: the same adapter file, loaded a second time, is another policy.
#
# Guess: a LoRA with `ensure_weight_tying` on a head tied to the embeddings means the same under any adapter name, and
#        merging gives the model that it was.
# Seen: loaded first it is exact; loaded once more beside itself (as a reference or a later round is), it speaks otherwise,
#       logits 20 apart in a tiny model, and the first stays exact. `merge_and_unload` of the first is another model too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet peft==0.21.0 transformers==5.23.0 torch==2.13.0 numpy
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PYTHON'
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **sizes))


trained = get_peft_model(base(), LoraConfig(r=4, target_modules=["lm_head", "embed_tokens"], ensure_weight_tying=True))
torch.manual_seed(1)
with torch.no_grad():
    for name, weight in trained.named_parameters():
        if "lora" in name:
            weight.normal_(0, 0.3)
ids = torch.randint(0, 100, (1, 8))


@torch.no_grad()
def apart(model, said):
    return (model(ids).logits - said).abs().max().item()


with torch.no_grad():
    said = trained(ids).logits
trained.save_pretrained("adapter")
loaded = PeftModel.from_pretrained(base(), "adapter")
first = apart(loaded, said)
loaded.load_adapter("adapter", "again")
loaded.set_adapter("again")
again = apart(loaded, said)
loaded.set_adapter("default")
back = apart(loaded, said)
merged = apart(loaded.merge_and_unload(), said)
print(f"logits apart from those of the trained model: loaded {first:.2g}, loaded again beside it {again:.1f},")
print(f"the first one after that {back:.2g}, merged {merged:.1f}")
assert first < 1e-4 and back < 1e-4
assert again > 1 and merged > 1
print("as described")
PYTHON
