"""A run that would not be the one that was asked for is refused in a sentence, before it begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule

from prefopt.models.sharding import _check_parts
from prefopt.objectives.ppo import PPO
from prefopt.objectives.rejection_sampling import RejectionSampling
from prefopt.objectives.reward import BradleyTerry
from prefopt.training.launch import check_engine, check_launch, check_sampling, check_world

SIMPLE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}
"""What accelerate's launcher for one process sets (`prepare_simple_launcher_cmd_env`), accelerate 1.15."""
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "torchrun without an accelerator": ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "2 processes.*use_cpu"),
    "mpirun": ({"OMPI_COMM_WORLD_SIZE": "4"}, "4 processes"),
    "accelerate launch --cpu --num_processes 2": ({**SIMPLE, "MASTER_ADDR": "127.0.0.1"}, "torchrun"),
}
TAKEN: dict[str, tuple[int, dict[str, str]]] = {
    "one process": (1, {}),
    "torchrun of one": (1, {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}),
    "two that know of one another": (2, {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}),
    "accelerate launch --cpu": (1, SIMPLE),
    "a cluster that sets an address": (1, {"MASTER_ADDR": "node-1"}),
    "accelerate launch --multi_gpu of one": (1, {**SIMPLE, "MASTER_ADDR": "127.0.0.1", "RANK": "0"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_processes_that_know_nothing_of_one_another_are_refused(case: str) -> None:
    environment, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        check_world(1, "add --use_cpu true", environment)


@pytest.mark.parametrize("case", TAKEN)
def test_the_world_that_was_asked_for_is_taken(case: str) -> None:
    world, environment = TAKEN[case]
    check_world(world, "", environment)


def given(kind: DistributedType, fsdp: Any = None) -> Any:
    return SimpleNamespace(world_size=1, fsdp=fsdp, distributed_state=SimpleNamespace(distributed_type=kind))


def test_an_fsdp_config_that_is_not_applied_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    check_launch(given(DistributedType.NO))
    for kind in (DistributedType.NO, DistributedType.MULTI_CPU):
        with pytest.raises(ValueError, match="FSDP.*accelerators"):
            check_launch(given(kind, fsdp=["full_shard"]))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_launch(given(DistributedType.MULTI_GPU))
    with pytest.raises(ValueError, match="FSDP"):
        check_launch(given(DistributedType.NO))


def accelerator(**state: Any) -> Any:
    return SimpleNamespace(state=SimpleNamespace(**state), is_fsdp2=state.get("version") == 2)


FSDP2 = {"fsdp_plugin": SimpleNamespace(fsdp_version=2), "version": 2}


def test_the_first_kind_of_fsdp_is_refused() -> None:
    check_engine(accelerator(), BradleyTerry())
    check_engine(accelerator(**FSDP2), BradleyTerry())
    with pytest.raises(ValueError, match="fsdp_version 1 is not supported: set fsdp_version: 2 in"):
        check_engine(accelerator(fsdp_plugin=SimpleNamespace(fsdp_version=1)), BradleyTerry())


def test_a_second_head_is_refused_where_weights_are_spread() -> None:
    second = BradleyTerry(lm_coefficient=0.1)
    check_engine(accelerator(), second)
    check_engine(accelerator(deepspeed_plugin=SimpleNamespace(zero_stage=2)), second)
    for state in (FSDP2, {"deepspeed_plugin": SimpleNamespace(zero_stage=3)}):
        with pytest.raises(ValueError, match="lm_coefficient=0.1.*set lm_coefficient=0, or .*ddp.yaml"):
            check_engine(accelerator(**state), second)


@pytest.mark.parametrize(("rows", "processes"), [(4, 3), (4, 8), (8, 6)])
def test_weights_that_leave_a_process_without_a_part_are_refused(rows: int, processes: int) -> None:
    adapters = nn.Sequential(nn.Linear(8, rows, bias=False), nn.Linear(8, rows, bias=False))
    _check_parts(adapters, 2)
    with pytest.raises(ValueError, match=f"0.weight has {rows} rows, too few for a part in each of {processes}"):
        _check_parts(adapters, processes)


class InParts(FSDPModule, nn.Linear):
    """As FSDP2 makes it."""

    def __new__(cls, *_: Any) -> Any:
        return nn.Module.__new__(cls)


REFUSED_SAMPLING: dict[str, tuple[dict[str, Any], Any, str]] = {
    "DeepSpeed": ({"is_deepspeed_enabled": True}, RejectionSampling(), "ddp.yaml or fsdp2.yaml"),
    "loaded in parts": ({"model": InParts(1, 1)}, RejectionSampling(), "under accelerate's FSDP2"),
    "checkpointing by FSDP": (
        {
            "is_fsdp_enabled": True,
            "accelerator": accelerator(fsdp_plugin=SimpleNamespace(activation_checkpointing=True)),
        },
        RejectionSampling(),
        "fsdp_activation_checkpointing does not work.*--gradient_checkpointing",
    ),
    "offload": (
        {
            "is_fsdp_enabled": True,
            "accelerator": accelerator(fsdp_plugin=SimpleNamespace(cpu_offload=CPUOffloadPolicy())),
        },
        RejectionSampling(),
        "fsdp_offload_params does not work",
    ),
    "beam search": (
        {"is_fsdp_enabled": True},
        RejectionSampling(source="mixed", responses_per_prompt=4),
        "source=.mixed.*sampling",
    ),
}


@pytest.mark.parametrize("case", REFUSED_SAMPLING)
def test_a_policy_in_parts_is_refused_where_it_cannot_generate(case: str) -> None:
    given, objective, said = REFUSED_SAMPLING[case]
    whole = {"is_deepspeed_enabled": False, "is_fsdp_enabled": False, "model": nn.Linear(1, 1)}
    whole["accelerator"] = accelerator()
    check_sampling(SimpleNamespace(**whole), objective)
    spread = SimpleNamespace(**{**whole, "is_fsdp_enabled": True, "model": InParts(1, 1)})
    for generating in (RejectionSampling(), PPO()):
        check_sampling(spread, generating)
    with pytest.raises(ValueError, match=said):
        check_sampling(SimpleNamespace(**{**whole, **given}), objective)
