"""The trainers that are compared: TRL's and prefopt's, on the same token ids, with the same optimizer and order.

TRL's DPO has no door for rows that are already encoded, so its `_prepare_dataset` is replaced by one that returns them
as they are; its reward trainer takes `chosen_ids` and `rejected_ids`.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from material import Row, rows_of, tokenizer_of
from measuring import Measurement, Stopwatch
from transformers import PrinterCallback, TrainerCallback

from prefopt.data.collate import collate

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def measure_trainer(run: Measurement) -> dict[str, float]:
    """Train on one repeat's pairs and say what a pair cost, the reference pass included."""
    warm_up, timed = rows_of(run.setting, run.repeat, grouped=run.method == "trl-grouped")
    # A token budget decides how many pairs a step has: the warm-up is then a whole epoch on the same pairs.
    by_tokens = "max_tokens_per_batch" in run.options
    rows, changes = (timed, {"num_train_epochs": 2}) if by_tokens else (warm_up + timed, {})
    watch = Stopwatch()
    watch.count_tokens()
    trainer = build(run, rows, watch=watch, **changes)
    trainer.add_callback(Laps(watch, warm_up_epoch=by_tokens))
    trainer.train()
    return watch.per_pair(len(timed), len(rows))


class Laps(TrainerCallback):
    """Times from the end of the first step, or of the first epoch, to the end of the last step.

    Not from the beginning of the second step: by then prefopt's trainer has already run the reference on its batch.
    """

    def __init__(self, watch: Stopwatch, *, warm_up_epoch: bool):
        self.watch, self.warm_up_epoch = watch, warm_up_epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.warm_up_epoch and state.epoch <= 1 or state.global_step == 1:
            self.watch.start()
        else:
            self.watch.lap()


def build(
    run: Measurement, rows: list[Row], *, model: Any = None, reference: Any = None, watch: Stopwatch | None = None,
    **changes: Any,
) -> Any:  # fmt: skip
    """The trainer of one method on these rows, in this order. `changes` are arguments of either library."""
    torch.manual_seed(0)
    make = _prefopt if run.method == "prefopt" else _trl
    frozen = {"ref_model": reference} if reference is not None else {}
    adapter = {"peft_config": _lora(run)} if run.setting.lora else {}
    common = {"processing_class": tokenizer_of(run.setting.model), **frozen, **adapter}
    trainer = make(run, rows, model or run.setting.model, arguments(run, changes), common, watch or Stopwatch())
    trainer.remove_callback(PrinterCallback)
    return trainer


def arguments(run: Measurement, changes: dict[str, Any]) -> dict[str, Any]:
    """What both libraries are told; with precision `defaults` each keeps its own bf16 and gradient checkpointing."""
    exact = {"bf16": False, "gradient_checkpointing": False} if run.setting.precision == "fp32" else {}
    return {
        "output_dir": "out",
        "per_device_train_batch_size": run.setting.batch,
        "num_train_epochs": 1,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential",
        "max_length": run.setting.max_length,
        "model_init_kwargs": {"dtype": "float32"},
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **exact,
        **changes,
    }


def _lora(run: Measurement) -> Any:
    from peft import LoraConfig

    kind = "SEQ_CLS" if run.setting.work == "reward" else "CAUSAL_LM"
    return LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type=kind)


def _prefopt(run: Measurement, rows: list[Row], model: Any, args: dict, common: dict, watch: Stopwatch) -> Any:
    import prefopt
    from prefopt.training.reference_logps import ReferencePass

    kind = "Reward" if run.setting.work == "reward" else "DPO"
    trainer, config = getattr(prefopt, f"{kind}Trainer"), getattr(prefopt, f"{kind}Config")
    if run.options.get("precompute_ref_log_probs"):
        ReferencePass.added_to = _aside(watch, ReferencePass.added_to, before=_first_call)
    return trainer(model, args=config(**{**args, **run.options}), train_dataset=Dataset.from_list(rows), **common)


def _trl(run: Measurement, rows: list[Row], model: Any, args: dict, common: dict, watch: Stopwatch) -> Any:
    import trl
    import trl.trainer.utils

    if run.method == "trl-response-head":  # TRL does so on GPUs only: log-probs of response tokens, not of all
        trl.trainer.utils._use_triton = lambda device: True
    if run.setting.work == "reward":
        dataset = Dataset.from_list([_whole(row) for row in rows])
        return trl.RewardTrainer(model, args=trl.RewardConfig(**args), train_dataset=dataset, **common)

    class Encoded(trl.DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
            return dataset

        _precompute_ref_logps = _aside(watch, trl.DPOTrainer._precompute_ref_logps)

    precompute = run.method == "trl-precomputed"
    config = trl.DPOConfig(**args, precompute_ref_log_probs=precompute, precompute_ref_batch_size=run.setting.batch)
    return Encoded(model, args=config, train_dataset=Dataset.from_list([_sides(row) for row in rows]), **common)


def _aside(watch: Stopwatch, function: Any, before: Any = None) -> Any:
    """`function`, timed as a pass before training; `before` is called first and not timed."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args)
        with watch.aside():
            return function(*args, **kwargs)

    return timed


def _first_call(reference: Any, dataset: Any) -> None:
    """A model's first call tries its layouts, once however many pairs follow: part of the warm-up."""
    if dataset is not None:
        reference.step.annotate(reference.model, collate([dataset[0]]))


def _sides(row: Row) -> Row:
    chosen, rejected = row["response_ids"]
    return {"prompt_ids": row["prompt_ids"], "chosen_ids": chosen, "rejected_ids": rejected}


def _whole(row: Row) -> Row:
    chosen, rejected = (row["prompt_ids"] + response for response in row["response_ids"])
    return {"chosen_ids": chosen, "rejected_ids": rejected}
