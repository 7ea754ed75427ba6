#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: a resumed run of a model with experts goes on without the experts that it saved.
#
# Guess: Trainer's resume_from_checkpoint, and load_best_model_at_end, put back every weight that its checkpoint holds.
# Seen: save_pretrained writes a matrix for each expert, the model holds one tensor of all, and Trainer compares the names
#       as they are: the experts (of Mixtral the router, too) stay as the model in memory has them, beside attention and
#       norms of the checkpoint. Two warnings list names, and training goes on. A run of Llama resumes to the bit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet transformers==5.23.0 torch==2.13.0 accelerate==1.15.0 numpy
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PYTHON'
import shutil

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

print("transformers", transformers.__version__, "torch", torch.__version__)
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
FAMILIES = {
    "llama": {},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}
numbers = torch.Generator().manual_seed(1)
ROWS = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 64, (32, 12), generator=numbers)]


def trained(family, resume=None, **more):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **HEADS, **FAMILIES[family]))
    args = TrainingArguments(
        "run", max_steps=4, save_steps=2, learning_rate=1e-2, lr_scheduler_type="constant", use_cpu=True,
        report_to=[], disable_tqdm=True, logging_strategy="no", **more,
    )
    Trainer(model, args, train_dataset=ROWS, eval_dataset=ROWS).train(resume_from_checkpoint=resume)
    return model.state_dict()


def differing(found, expected):
    return {name for name, weight in expected.items() if not torch.allclose(found[name], weight, atol=1e-6)}


for family in FAMILIES:
    shutil.rmtree("run", ignore_errors=True)
    whole = trained(family)
    resumed = trained(family, "run/checkpoint-2")
    differ = differing(resumed, whole)
    experts = {name for name in whole if "experts" in name}
    print(f"{family}: after resuming {len(differ)} of {len(whole)} weights differ, {len(differ & experts)} of experts")
    assert bool(differ) == (family != "llama") and experts <= differ

    shutil.rmtree("run")
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    loaded = trained(family, eval_strategy="steps", eval_steps=2, **best)  # the worse loss is that of step 2
    saved = AutoModelForCausalLM.from_pretrained("run/checkpoint-2").state_dict()
    differ = differing(loaded, saved)
    print(f"{family}: of the best model {len(differ)} weights are not its own, {len(differ & experts)} of experts")
    assert bool(differ) == (family != "llama") and experts <= differ
print("as described")
PYTHON
