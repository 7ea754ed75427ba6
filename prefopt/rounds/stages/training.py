"""The trainings of the policy: v0, and those of each round."""

from __future__ import annotations

import os
from typing import Any

from datasets import Dataset

from ...compare.plan import TESTBED
from ...compare.run import adapter, arguments, trained, write_log
from ...testbed.model import build_policy, build_tokenizer
from ...training.trainers import SFTConfig, SFTTrainer
from ...utils import jsonl
from ...utils.extensions import load_named
from ..context import StageContext
from ..labels import GIVEN
from ..training_stage import make_trainer, training_stage
from .files import LABELS, SELECTED, Result, saved
from .round_prompts import prompts_for


def start(context: StageContext) -> Result:
    """v0, or a policy that the plan names: trained, or taken as it is."""
    settings, policy = context.inputs["settings"], os.path.expanduser(context.inputs["policy"][0])
    if settings is None:
        return {"policy": policy}
    args = SFTConfig(**arguments(context, settings))
    tokenizer = build_tokenizer() if policy == TESTBED else None
    model: Any = build_policy(tokenizer, context.seed) if tokenizer is not None else policy
    more = {"train_dataset": context.rows.demonstrations, "processing_class": tokenizer, **adapter(context, "policy")}
    trainer, cost = trained(context, lambda: SFTTrainer(model, args, **more))
    return saved(context, trainer, cost)


def train(context: StageContext) -> Result:
    """A training of the round; the policy is written into `model`."""
    stage = training_stage(context.inputs["given"], context.inputs["training"], "train")
    if context.inputs.get("stage"):
        return dict(load_named(context.inputs["stage"], "train:")(context, stage) or {})
    more: dict[str, Any] = {"train_dataset": _training_rows(context), **adapter(context, stage.trains)}
    if stage.on_policy:
        more["scorer"] = context.scorer()
    if "ref_model" in context.task.needs:
        more["ref_model"] = context.policy_at("ref_model")
    if stage.spec is not None and stage.settings.get("ptx_coef"):
        more["ptx_dataset"] = context.rows.demonstrations
    model = context.policy_at("policy")
    trainer, cost = trained(context, lambda: make_trainer(stage, model, arguments(context, {}), **more))
    history = trainer.state.log_history
    write_log(context, trainer)
    lineage = {"init": context.task.needs["policy"].key, "rows": len(more["train_dataset"])}
    if "ref_model" in context.task.needs:
        lineage["reference"] = context.task.needs["ref_model"].key
    lineage["encoding"] = {name: count for name, count in trainer.health.encoding.items() if count}
    first = next((entry["loss"] for entry in history if "loss" in entry), None)
    return {**saved(context, trainer, cost), **lineage, "first loss": first}


def _training_rows(context: StageContext) -> Dataset:
    if (folder := context.folder_of("selected")) is not None:
        return Dataset.from_list(list(jsonl.read(folder / SELECTED)))
    if "prompts" in context.task.needs:
        return Dataset.from_list([{"prompt": prompt} for prompt in prompts_for(context, "sample")])
    labels = [
        row
        for role, task in context.task.needs.items()
        if role.startswith("labels ")
        for row in jsonl.read(task.folder(context.out) / LABELS)
    ]
    return Dataset.from_list([{name: row[name] for name in GIVEN if name in row} for row in labels])
