"""Run by torchrun: trains a few cases with all weights on each rank (DDP) or spread over ranks (FSDP2); prints JSON."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from prefopt import PreferenceConfig, PreferenceTrainer
from prefopt.objectives.base import load
from prefopt.testbed.model import build_tokenizer
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "simpo": ("simpo", {}, {}),
    "simpo, tied head": ("simpo", {"tie_word_embeddings": True}, {}),
    "dpo, precomputed": ("dpo", {}, {"precompute_ref_log_probs": True}),
    "dpo, tied, checkpointed": (
        "dpo",
        {"tie_word_embeddings": True},
        {"precompute_ref_log_probs": True, "gradient_checkpointing": True},
    ),
    "simpo, padded": ("simpo", {}, {"layout": "padded"}),
}


def train(name: str, sharded: bool, folder: Path) -> dict[str, Any]:
    objective, changes, args = CASES[name]
    tiny_llama(dtype=torch.float64, **changes).save_pretrained(folder / "model")
    torch.distributed.barrier()
    how = {"distributed_config": DistributedConfig(fsdp_size=2)} if sharded else {}
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64, **how)
    step = {"per_device_train_batch_size": 2, "max_steps": 3, "optim": "sgd", "learning_rate": 0.05}
    trainer = PreferenceTrainer(
        model,
        load(objective),
        PreferenceConfig(**quiet(folder, **step, **args)),
        ragged_pairs(13),
        None,
        build_tokenizer(),
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    weights = [p.full_tensor() if isinstance(p, DTensor) else p for p in trainer.model.parameters()]
    return {
        "wrapper": type(trainer.model_wrapped).__name__,
        "world": trainer.args.world_size,
        "losses": [log["loss"] for log in logs],
        "norms": [log["grad_norm"] for log in logs],
        "weights": [weight.detach().square().sum().item() for weight in weights],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as temporary:
        shared = [temporary]
        torch.distributed.broadcast_object_list(shared)  # transformers saves a model on rank 0 alone
        os.environ["PREFOPT_CACHE"] = shared[0]
        cases = list(enumerate(CASES))
        found = {case: train(case, folder=Path(shared[0], str(i)), **json.loads(sys.argv[1])) for i, case in cases}
        if torch.distributed.get_rank() == 0:
            print("RESULT " + json.dumps(found))
        torch.distributed.destroy_process_group()
