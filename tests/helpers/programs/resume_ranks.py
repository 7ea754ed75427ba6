"""Run by torchrun on a folder: ranks agree on what they go on from; a run that one rank began goes on in two."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from tests.helpers.checkpoints import ROWS, assert_equal, build, logs, weights

HALF: dict[str, Any] = {"per_device_train_batch_size": 1}


def refused(folder: Path, **args: Any) -> str:
    """What a rank says of a run that it may not go on with."""
    try:
        build(folder, **HALF, **args).train(resume_from_checkpoint="auto")
    except (ValueError, RuntimeError) as error:
        return str(error)
    raise AssertionError("it went on")


def on_ranks(folder: Path) -> None:
    whole = build(folder / "split", **HALF)
    whole.train(resume_from_checkpoint="auto")
    assert whole.state.global_step == 6 and len(ROWS) == 12
    assert [log["step"] for log in logs(whole)] == [1, 2, 3, 4, 5, 6]
    assert "learning_rate: 0.01 -> 0.02" in refused(folder / "split", learning_rate=2e-2)
    if whole.args.process_index == 0:
        path = folder / "split" / "run" / "checkpoint-6" / "optimizer.pt"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    whole.accelerator.wait_for_everyone()
    resumed = build(folder / "split", **HALF)
    resumed.train(resume_from_checkpoint="auto")
    assert_equal(weights(resumed), weights(whole))
    resumed.save_model(str(folder / "final"))
    (folder / f"rank-{whole.args.process_index}-of-{whole.args.world_size}").touch()


if __name__ == "__main__":
    torch.set_num_threads(1)
    on_ranks(Path(sys.argv[1]))
