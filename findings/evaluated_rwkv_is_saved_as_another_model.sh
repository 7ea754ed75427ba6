#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: an RWKV that has said anything in evaluation mode is saved as another model.
#
# Guess: the forward pass leaves the weights alone, and a row's cached state is its own.
# Seen: with the default `rescale_every`, the first forward pass in evaluation mode divides output weights in place, a block
#       more each few layers. The model itself makes up for it; `save_pretrained` writes the divided ones, and what is
#       loaded divides them again. Called in training mode first, it is saved as it was. And in a batch of two, the last
#       token read with the state of those before it has other logits than the same row read whole; alone it has not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet transformers==5.23.0 torch==2.13.0 numpy
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PYTHON'
import torch
import transformers
from transformers import RwkvConfig, RwkvForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)
sizes = {"vocab_size": 100, "hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 64, "context_length": 64}
model = RwkvForCausalLM(RwkvConfig(num_hidden_layers=12, **sizes))  # rescale_every stays 6
with torch.no_grad():
    for weight in model.parameters():
        weight.add_(torch.randn_like(weight) * 0.3)
ids = torch.randint(0, 100, (2, 16))


@torch.no_grad()
def logits(model, ids):
    return model(ids, use_cache=False).logits


def apart_when_loaded(folder):
    model.save_pretrained(folder)
    loaded = RwkvForCausalLM.from_pretrained(folder).eval()
    return (logits(loaded, ids) - said).abs().max().item()


weights = {name: weight.clone() for name, weight in model.state_dict().items()}
said = logits(model.eval(), ids)
changed = [name for name, weight in model.state_dict().items() if not torch.equal(weight, weights[name])]
print(f"{len(changed)} weights changed by a forward pass in evaluation mode, such as {changed[0]}")
after_evaluation = apart_when_loaded("after_evaluation")
logits(model.train(), ids)
after_training = apart_when_loaded("after_training")
print(f"logits of the saved model, apart by {after_evaluation:.2f} after evaluation, {after_training:.2g} after training mode")


@torch.no_grad()
def last_by_state(rows):
    state = model(rows[:, :-1], use_cache=True).state
    return model(rows[:, -1:], state=state, use_cache=True).logits[:, -1]


model.eval()
alone = (last_by_state(ids[1:]) - said[1:, -1]).abs().max().item()
batched = (last_by_state(ids)[1] - said[1, -1]).abs().max().item()
print(f"the last token by the cached state, apart by {alone:.2g} alone and {batched:.2f} in a batch of two")
assert changed
assert after_evaluation > 0.1
assert after_training < 1e-4
assert alone < 1e-3 and batched > 0.1
print("as described")
PYTHON
