"""What an optimizer remembers is on the disk, part by part, and back as it was. Two processes: `test_engines.py`."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from prefopt.training.sharded_optimizer import FOLDER, load_optimizer, save_optimizer

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is")
X = torch.arange(8.0).view(2, 4) / 8


def parts() -> tuple[nn.ModuleDict, AdamW]:
    torch.manual_seed(0)
    model = nn.ModuleDict({"policy": nn.Linear(4, 4), "critic": nn.Linear(4, 1)})
    return model, AdamW(model.parameters(), lr=1e-2)


def step(model: nn.ModuleDict, optimizer: AdamW, *learning: str) -> None:
    sum(model[name](X).square().sum() for name in learning).backward()  # type: ignore[union-attr]
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("learnt", [("critic",), ("policy", "critic")])
def test_a_run_goes_on_as_if_nothing_had_been_saved(learnt: tuple[str, ...], tmp_path: Path) -> None:
    """Also where a part has had no gradient yet: its first step is its first."""
    model, optimizer = parts()
    step(model, optimizer, *learnt)
    save_optimizer(model, optimizer, tmp_path)
    again, other = parts()
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    load_optimizer(again, other, tmp_path)
    for _ in range(2):
        step(model, optimizer, "policy", "critic")
        step(again, other, "policy", "critic")
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_part_of_what_belongs_to_a_weight_is_missed(tmp_path: Path) -> None:
    model, optimizer = parts()
    step(model, optimizer, "policy", "critic")
    del optimizer.state[model["policy"].weight]["exp_avg_sq"]
    save_optimizer(model, optimizer, tmp_path)
    with pytest.raises(ValueError, match=f"{FOLDER} has no exp_avg_sq of policy.weight"):
        load_optimizer(*parts(), tmp_path)


def test_what_cannot_be_written_is_an_error_of_the_file(tmp_path: Path) -> None:
    """Of torch's own kind it would pass by everyone who waits for an Exception."""
    model, optimizer = parts()
    step(model, optimizer, "policy", "critic")
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(FileExistsError, match=FOLDER):
        save_optimizer(model, optimizer, tmp_path)
