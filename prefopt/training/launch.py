"""Is this run what was asked for? Said before anything is trained: processes, sharding."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule

from ..data.batching import sequence_lengths
from ..models.precision import training_dtype
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


def check_engine(accelerator: Accelerator, objective: Any) -> None:
    """Refuse what an engine cannot do: the first kind of FSDP, whose flattened weights could be neither compared, saved
    nor taken up again here; and a second head, which would be spread apart from the embeddings that it may be tied to.

    Raises:
        ValueError: it is one of these; the message says what to change.
    """
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if getattr(objective, "lm_coefficient", 0) and (accelerator.is_fsdp2 or (deepspeed and deepspeed.zero_stage == 3)):
        raise ValueError(
            f"lm_coefficient={objective.lm_coefficient}: the language-model head that a reward model keeps for it "
            "cannot be spread over processes: set lm_coefficient=0, or launch this with examples/accelerate/ddp.yaml"
        )
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and not accelerator.is_fsdp2:
        raise ValueError(
            f"fsdp_version {plugin.fsdp_version} is not supported: set fsdp_version: 2 in accelerate's config (as in "
            "examples/accelerate/fsdp2.yaml)"
        )


def check_sampling(host: Any, objective: Any) -> None:
    """Refuse a policy in parts where it could not generate: all would be sampled and scored before that fails.

    Args:
        host: the trainer.

    Raises:
        ValueError: its weights are spread in a way under which it cannot generate; the message says how to launch it.
    """
    model = host.model
    if host.is_deepspeed_enabled or (isinstance(model, FSDPModule) and not host.is_fsdp_enabled):
        raise ValueError(
            "the policy generates its responses itself, which it can do whole or under accelerate's FSDP2: launch this "
            "with examples/accelerate/ddp.yaml or fsdp2.yaml; an adapter on the policy saves memory, with PPO "
            "share_critic too"
        )
    plugin = getattr(host.accelerator.state, "fsdp_plugin", None) if host.is_fsdp_enabled else None
    settings = {
        "fsdp_activation_checkpointing": getattr(plugin, "activation_checkpointing", False),
        "fsdp_offload_params": isinstance(getattr(plugin, "cpu_offload", None), CPUOffloadPolicy),
    }
    for name, is_set in settings.items():
        if is_set:
            raise ValueError(
                f"{name} does not work where the policy generates its responses itself: set it to false in "
                "accelerate's config (--gradient_checkpointing saves the same memory)"
            )
    if host.is_fsdp_enabled and objective.searched:
        raise ValueError(
            f"source={objective.source!r}: beam search needs whole weights in every process: set source='sampling', or "
            "launch this with examples/accelerate/ddp.yaml"
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


def launch_in_words(accelerator: Accelerator, args: Any, rows: int, model: nn.Module) -> str:
    """What a run is trained on, for people.

    Args:
        rows: of an optimizer step, in all processes; a mean where batches are cut by tokens.
        model: what trains.
    """
    world = accelerator.num_processes
    engine, place = _engine(accelerator)
    computed = {"no": "", "bf16": ", computed in bfloat16", "fp16": ", computed in float16"}.get(_precision(args), "")
    about, budget = ("about ", args.max_tokens_per_batch) if args.max_tokens_per_batch else ("", None)
    batches = f" in batches of at most {budget:,} tokens" if isinstance(budget, int) else ""
    processes = "one process" if world == 1 else f"{world} processes"
    dtype = str(training_dtype(model)).removeprefix("torch.")
    weights = f"{dtype} weights{computed}" + (f", {place}" if world > 1 else "")
    return f"{processes} on {accelerator.device.type}{engine}; {about}{rows} rows a step{batches}; {weights}"


def _engine(accelerator: Accelerator) -> tuple[str, str]:
    """The engine, and where under it weights are."""
    if accelerator.is_fsdp2:
        return " under FSDP2", "spread over the processes with gradients, optimizer and reference"
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if plugin is not None:
        spread = {1: "optimizer", 2: "gradients and optimizer"}.get(plugin.zero_stage)
        if plugin.zero_stage == 3:
            return " under DeepSpeed ZeRO-3", "spread over the processes with gradients and optimizer"
        return f" under DeepSpeed ZeRO-{plugin.zero_stage}", f"whole in each, {spread} spread over the processes"
    return ("", "") if accelerator.num_processes == 1 else (" under DDP", "whole in each")


def _precision(args: Any) -> str:
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
