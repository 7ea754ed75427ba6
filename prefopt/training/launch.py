"""Is this run what was asked for? Said before anything is trained: processes, sharding, and what could not be saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule

from ..data.batching import sequence_lengths
from ..models.rope_lengths import length_rules
from ..models.wrappers import unwrap
from ..utils.peers import started

UNSHARDED = (DistributedType.NO, DistributedType.MULTI_CPU)
"""Where accelerate applies no FSDP plugin (`AcceleratorState.__init__`)."""


def check_launch(args: Any) -> None:
    """Refuse a run that would not be the one that its launcher was asked for.

    Raises:
        ValueError: each process would train alone, or with all weights; the message says how to launch it.
    """
    check_world(args.world_size, "add --use_cpu true (use_cpu=True) to train together on CPUs")
    asked = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if asked and args.distributed_state.distributed_type in UNSHARDED:
        raise ValueError(
            "FSDP was asked for, and accelerate applies it only to several processes with accelerators: every process "
            "would hold and train all weights; launch this without an FSDP config"
        )


def check_world(world: int, remedy: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse processes that were started together and know nothing of one another.

    Args:
        world: how many processes this one knows of.
        remedy: what to do about it.

    Raises:
        ValueError: there are others, which would all do the same in one folder.
    """
    asked = started(environment)
    if world == 1 < asked:
        raise ValueError(
            f"{asked} processes were started, and each of them would run alone, all into one folder: torch finds no "
            f"accelerator here; {remedy}, or start one process"
        )
    # accelerate's launcher sets this address for several processes, and then starts one, which gets no rank.
    simple = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    if simple and not asked and not {"LOCAL_RANK", "RANK"} & environment.keys():
        raise ValueError(
            "accelerate launch was asked for several processes and has started one, as it does with --cpu: use "
            "torchrun --nproc_per_node N with --use_cpu true, or --num_processes 1 (and unset MASTER_ADDR)"
        )


def check_saving(accelerator: Accelerator) -> None:
    """Refuse a run of which no model would be saved: transformers writes weights under FULL_STATE_DICT alone.

    Raises:
        ValueError: it is one; the message says which setting to change.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    kind = str(getattr(plugin, "state_dict_type", "FULL_STATE_DICT"))
    if "FULL_STATE_DICT" not in kind:
        raise ValueError(
            f"FSDP with {kind.rpartition('.')[2]} ends without a model: transformers saves weights under "
            "FULL_STATE_DICT alone; set fsdp_state_dict_type: FULL_STATE_DICT in accelerate's config"
        )


def check_whole(sharded: bool) -> None:
    """Refuse a policy in parts where it generates: rejection sampling would end after all was sampled and scored.

    Raises:
        ValueError: FSDP or DeepSpeed holds its weights.
    """
    if sharded:
        raise ValueError(
            "the policy generates its responses itself, for which every process needs all of its weights: train "
            "without FSDP and DeepSpeed; an adapter on the policy saves memory, with PPO share_critic too"
        )


def check_lengths(model: nn.Module, train_dataset: Any, eval_dataset: Any, spread: bool) -> None:
    """Refuse rows for which processes would run a model whose weights they share unequally often, and hang.

    Args:
        eval_dataset: rows, or a dict of them; those that are not encoded, as prompts for a scorer, are not looked at.
        spread: the weights will be spread over processes, if they are not so already.

    Raises:
        ValueError: rows go beyond the length at which the model's rotary frequencies change.
    """
    limits = [rule.limit for rule in length_rules(unwrap(model))]
    if not limits or not (spread or any(isinstance(module, FSDPModule) for module in model.modules())):
        return
    evaluation = eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}
    encoded = [
        rows for rows in (train_dataset, *evaluation.values()) if "prompt_ids" in getattr(rows, "column_names", ())
    ]
    longest = max((length for rows in encoded for length in sequence_lengths(rows)), default=0)
    if longest > min(limits):
        raise ValueError(
            f"a row has {longest:,} tokens, and beyond {min(limits):,} this model's rotary frequencies depend on the "
            "length of each row, by which processes that share its weights would run it unequally often: set "
            f"--max_length {min(limits)}, or train without FSDP and DeepSpeed"
        )
