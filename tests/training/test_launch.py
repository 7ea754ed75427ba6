"""A run that would not be the one that was asked for is refused in a sentence, before it begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType
from torch.distributed.fsdp import StateDictType

from prefopt.training.launch import check_launch, check_saving, check_whole, check_world

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


def test_a_run_that_would_save_no_model_is_refused() -> None:
    def accelerator(**plugin: Any) -> Any:
        return SimpleNamespace(state=SimpleNamespace(**plugin))

    check_saving(accelerator())
    check_saving(accelerator(fsdp_plugin=SimpleNamespace(state_dict_type=StateDictType.FULL_STATE_DICT)))
    with pytest.raises(ValueError, match="SHARDED_STATE_DICT.*fsdp_state_dict_type: FULL_STATE_DICT"):
        check_saving(accelerator(fsdp_plugin=SimpleNamespace(state_dict_type=StateDictType.SHARDED_STATE_DICT)))


def test_a_policy_in_parts_is_refused_where_it_generates() -> None:
    check_whole(False)
    with pytest.raises(ValueError, match="without FSDP and DeepSpeed"):
        check_whole(True)
