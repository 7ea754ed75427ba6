"""Run by itself or by torchrun: rejection sampling on however many ranks there are; prints JSON."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from datasets import Dataset

from prefopt import RejectionSamplingTrainer
from prefopt.testbed import preference_rows
from prefopt.testbed.model import build_tokenizer
from tests.helpers.iterations import config, vowels
from tests.helpers.models import untrained


def run(folder: Path, **settings: object) -> dict[str, object]:
    tokenizer = build_tokenizer()
    rows, held_out = (Dataset.from_list(preference_rows(24, seed=3, split=split)) for split in ("train", "test"))
    # A rank takes half a step's rows, so that the step is the same.
    each = 4 // int(os.environ.get("WORLD_SIZE", "1"))
    args = config(folder, **{"iterations": 2, "sampling_batch_size": 4, **settings})
    args.per_device_train_batch_size = each
    trainer = RejectionSamplingTrainer(
        untrained(tokenizer).double(),
        args,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        scorer=vowels,
    )
    trainer.train()
    found = ("pool/*.jsonl", "pool/scores/*/*.jsonl", "iteration-000/selection.jsonl")
    files = {f.name: hashlib.md5(f.read_bytes()).hexdigest() for g in found for f in sorted((folder / "run").glob(g))}
    return {
        "world": trainer.args.world_size,
        "files": {name: value for name, value in files.items() if "00001" not in name},
        "weights": [p.detach().sum().item() for p in trainer.model.parameters()],
        "evaluation": trainer.evaluate()["eval_response_length"],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    found = run(Path(given.pop("folder")), **given)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print("RESULT " + json.dumps(found))
