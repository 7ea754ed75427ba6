"""Run by torchrun on a folder: a run with a bad row on several ranks, each of which writes what it did."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import torch

from tests.helpers.nonfinite import BAD, build, unchanged, with_margins


def on_ranks(folder: Path) -> None:
    """One row of twelve is bad, and only one rank sees it; then three steps in a row that only the other one sees."""
    logging.basicConfig(level=logging.WARNING)
    rank = int(os.environ["RANK"])
    trainer = build(folder, with_margins(BAD))  # rows 4 and 5 are the first rank's
    trainer.train()
    try:
        build(folder, with_margins(2, 6, 10), max_steps=3).train()
        stopped = ""
    except FloatingPointError as error:
        stopped = str(error)
    found = {
        "world": trainer.args.world_size,
        "unchanged": unchanged(trainer),
        "weights": trainer.watch.weights[-1].double().sum().item(),
        "stopped": stopped,
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    on_ranks(Path(sys.argv[1]))
