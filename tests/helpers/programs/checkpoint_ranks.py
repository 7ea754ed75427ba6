"""Run by torchrun on a folder: a resumed run equals one that went through, on however many ranks there are."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from prefopt.objectives.dpo import DPO
from tests.helpers.checkpoints import assert_equal, build, by_tokens, logs, weights


def on_ranks(folder: Path) -> None:
    """Runs that go through and runs that are resumed, by rows and by tokens, on every rank."""
    for kind, make, step in (("rows", build, 4), ("tokens", by_tokens, 2)):
        whole, resumed = (
            make(folder / kind / name, objective=DPO(loss_type=["bco_pair"])) for name in ("whole", "resumed")
        )
        whole.train()
        resumed.train(resume_from_checkpoint=str(folder / kind / "whole" / "run" / f"checkpoint-{step}"))
        assert_equal(weights(resumed), weights(whole))
        assert_equal(resumed.step.state, whole.step.state)
        assert logs(resumed) == logs(whole) and len(logs(whole)) == 6
    (folder / f"rank-{whole.args.process_index}-of-{whole.args.world_size}").touch()


if __name__ == "__main__":
    torch.set_num_threads(1)
    on_ranks(Path(sys.argv[1]))
