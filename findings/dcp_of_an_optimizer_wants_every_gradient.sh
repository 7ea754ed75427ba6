#!/usr/bin/env bash
# torch 2.13.0: what torch.distributed.checkpoint saved of an optimizer it cannot load if a weight had no gradient yet.
#
# Guess: get_optimizer_state_dict, dcp.save, dcp.load and set_optimizer_state_dict bring back an optimizer as it was; a
#       weight that had no gradient so far has no state before and none after. What fails raises an Exception.
# Seen: loading asks for state of every weight and finds none of that one. With allow_partial_load=True it has one that no
#       one wrote, a step that was never taken, so that its first step afterwards is another. And the error derives from
#       BaseException: `except Exception`, as around a save on a full disk, does not see it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy
cd "$folder"
venv/bin/python - 2>/dev/null <<'PYTHON'
import torch
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

print("torch", torch.__version__)
X = torch.ones(2, 4)


def parts():
    torch.manual_seed(0)
    model = nn.ModuleDict({"policy": nn.Linear(4, 4), "critic": nn.Linear(4, 1)})
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def step(model, optimizer, *learning):
    sum(model[name](X).sum() for name in learning).backward()
    optimizer.step()
    optimizer.zero_grad()


model, optimizer = parts()
step(model, optimizer, "critic")
states = [name for name, weight in model.named_parameters() if weight in optimizer.state]
print("the optimizer has states of", states)
assert states == ["critic.weight", "critic.bias"]
dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id="saved")

again, other = parts()
state = {"optimizer": get_optimizer_state_dict(again, other)}
try:
    dcp.load(state, checkpoint_id="saved")
except BaseException as error:
    print(type(error).__name__, "an Exception:", isinstance(error, Exception))
    print(str(error).strip().splitlines()[-1])
    assert not isinstance(error, Exception)
else:
    raise SystemExit("it was loaded")

again, other = parts()
state = {"optimizer": get_optimizer_state_dict(again, other)}
dcp.load(state, checkpoint_id="saved", planner=DefaultLoadPlanner(allow_partial_load=True))
set_optimizer_state_dict(again, other, state["optimizer"])
again.load_state_dict(model.state_dict())
taken = other.state[again["policy"].weight]["step"].item()
for each in ((model, optimizer), (again, other)):
    step(*each, "policy", "critic")
apart = {name: (model[name].weight - again[name].weight).abs().max().item() for name in model}
print(f"partly loaded: steps of the policy {taken:.0f}, apart after the next step {apart}")
assert taken == 1 and apart["policy"] > 1e-3 and apart["critic"] == 0
print("as described")
PYTHON
