"""Run by itself or by torchrun: trains and evaluates cases of `cases` on however many ranks there are; prints JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from prefopt.testbed.model import build_tokenizer
from tests.helpers.cases import CASES, build, numbers


def measure(name: str, args: dict[str, Any]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(
            name,
            Path(folder),
            build_tokenizer(),
            per_device_eval_batch_size=3,
            num_train_epochs=2,
            optim="sgd",
            learning_rate=0.05,
            **args,
        )
        before = numbers(trainer.evaluate())
        trainer.train()
        logs = [numbers(log) for log in trainer.state.log_history if "loss" in log]
        weights = [p.detach().sum().item() for p in trainer.model.parameters()]
        return {"world": trainer.args.world_size, "eval": before, "logs": logs, "weights": weights}


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    found = {name: measure(name, given["args"]) for name in given["cases"] or CASES}
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print("RESULT " + json.dumps(found))
