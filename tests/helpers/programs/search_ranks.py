"""Run by torchrun: a temperature search, and one whose scorer fails, on several ranks; prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from prefopt.testbed.model import build_tokenizer
from prefopt.utils.distributed import gathered, rank, world_size
from tests.helpers.models import stopping_llama
from tests.helpers.temperatures import letters, small


def on_ranks(folder: Path) -> dict[str, Any]:
    found = small(folder, stopping_llama(), build_tokenizer(), letters, halving=True)
    error = ""
    try:
        small(folder.with_name("bad"), stopping_llama(), build_tokenizer(), lambda prompts, responses: [float("nan")])
    except Exception as problem:
        error = type(problem).__name__
    return {"world": world_size(), "best": gathered(found.best), "error": gathered(error)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    result = on_ranks(Path(json.loads(sys.argv[1])["folder"]))
    if rank() == 0:
        print("RESULT " + json.dumps(result))
    torch.distributed.destroy_process_group()
