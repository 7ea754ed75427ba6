"""What TRL's configs and trainers can be told is taken here or refused in words; a new field of TRL's fails here."""

from __future__ import annotations

import copy
import inspect
import logging
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainingArguments

import prefopt
from prefopt.batch import Outputs
from prefopt.data.collate import collate
from prefopt.objectives.sft import SFT
from prefopt.testbed import sft_rows
from prefopt.training.trl_settings import SETTINGS, TRAINER_ARGUMENTS
from tests.helpers.commands import error_of
from tests.helpers.models import tiny_llama

OFF: dict[str, Any] = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "bf16": False}
CONFIGS = ("DPOConfig", "RewardConfig", "SFTConfig", "KTOConfig")
TRAINERS = ("DPOTrainer", "RewardTrainer", "SFTTrainer", "KTOTrainer")


def default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_trl_is_taken_at_its_default(name: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    defaults = {field.name: default(field) for field in fields(getattr(trl, name)) if field.init}
    known = {field.name for field in fields(getattr(prefopt, name))}
    assert set(defaults) - known == set(), "take them, or add them to SETTINGS in prefopt/training/trl_settings.py"
    args = getattr(prefopt, name)(**{**defaults, "output_dir": str(tmp_path), "use_cpu": True})
    same = {name for name, setting in SETTINGS.items() if name in defaults and setting.default == defaults[name]}
    assert same == SETTINGS.keys() & defaults.keys(), "TRL's defaults have changed"
    assert args.learning_rate == defaults["learning_rate"]


@pytest.mark.parametrize("name", TRAINERS)
def test_every_argument_of_trls_trainers_is_known_in_its_place(name: str) -> None:
    trl = pytest.importorskip("trl")
    theirs = [*inspect.signature(getattr(trl, name)).parameters]
    ours: dict[str, Any] = {}
    kinds = [kind for kind in getattr(prefopt, name).__mro__ if issubclass(kind, prefopt.PreferenceTrainer)]
    for kind in kinds:
        ours |= inspect.signature(kind.__init__).parameters
    assert set(theirs) - set(ours) == set()
    by_position = [
        argument.name
        for kind in kinds[:-1]  # which take arguments in TRL's order, and the one trainer in its own
        if "__init__" in vars(kind)
        for argument in inspect.signature(kind).parameters.values()
        if argument.kind is argument.POSITIONAL_OR_KEYWORD
    ]
    in_order = list(dict.fromkeys(by_position))
    assert in_order == theirs[: len(in_order)] and in_order[-1] == "optimizers"


OTHERWISE = {
    "activation_offloading": (True, "gradient_checkpointing"),
    "router_aux_loss_coef": (0.01, "set it to 0.0"),
    "padding_free": ("no", "without padding"),
    "packing": (True, "max_tokens_per_batch"),
    "packing_strategy": ("wrapped", "max_tokens_per_batch"),
    "eval_packing": (True, "max_tokens_per_batch"),
    "shuffle_dataset": ("no", "train_sampling_strategy=random"),
    "dataset_kwargs": ({"skip_prepare_dataset": True}, "prompt_ids and response_ids"),
    "use_liger_kernel": (True, "leave it out"),
    "label_smoothing_factor": (0.1, "label_smoothing"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_another_value_says_what_to_do_instead(name: str, tmp_path: Path) -> None:
    value, instead = OTHERWISE[name]
    with pytest.raises(ValueError, match=f"^{name}=.* is not offered: .*{instead}"):
        prefopt.SFTConfig(str(tmp_path), **OFF, **{name: value})
    for also in SETTINGS[name].also:
        prefopt.SFTConfig(str(tmp_path), **OFF, **{name: also})


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["sft", "--packing", "true"], "packing=True is not offered: rows always lie without padding"),
        (["sft", "--eval_packing", "true"], "set max_tokens_per_batch"),
        (["dpo", "--activation_offloading"], "gradient_checkpointing, on by default"),
        (["rrhf", "--packing", "true"], "unknown option --packing: rows always lie without padding"),
        (["dpo", "--pad_to_multiple_of", "x"], "give a number of tokens"),
    ],
)
def test_the_command_line_says_it_too(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in error_of(capsys, *argv, "--model_name_or_path", "m", "--dataset_name", "d", "--use_cpu")


@pytest.mark.parametrize(("given", "meant"), [("auto", None), ("none", None), (None, None), ("8", 8), (8, 8)])
def test_lengths_are_rounded_up_as_trl_writes_it(given: Any, meant: int | None, tmp_path: Path) -> None:
    assert prefopt.DPOConfig(str(tmp_path), **OFF, pad_to_multiple_of=given).pad_to_multiple_of == meant


def test_what_trl_alone_reads_of_a_checkpoints_arguments(tmp_path: Path) -> None:
    args = prefopt.DPOConfig(
        str(tmp_path), **OFF, gradient_checkpointing_kwargs={"selective": False, "use_reentrant": False}
    )
    assert args.gradient_checkpointing_kwargs == {"use_reentrant": False}
    with pytest.raises(ValueError, match="selective=True is not offered: leave it out"):
        prefopt.DPOConfig(str(tmp_path), **OFF, gradient_checkpointing_kwargs={"selective": True})


def test_rows_are_shuffled_or_read_in_order(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shuffle_dataset=True and train_sampling_strategy='sequential'.* choose one"):
        prefopt.SFTConfig(str(tmp_path), **OFF, shuffle_dataset=True, train_sampling_strategy="sequential")


# ---- SFT ---------------------------------------------------------------------------------------------------------


def test_dynamic_fine_tuning_is_trls(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Loss and gradient, on the same token ids."""
    trl = pytest.importorskip("trl")
    model = tiny_llama(vocab=len(tokenizer)).double()
    theirs = copy.deepcopy(model)
    rows = [([5, 6, 7], [8, 9, 1]), ([4], [11, 12, 13, 14, 1])]
    trainer = trl.SFTTrainer(
        model=theirs,
        args=trl.SFTConfig(str(tmp_path), **OFF, loss_type="dft", gradient_checkpointing=False),
        train_dataset=Dataset.from_list(
            [{"input_ids": p + r, "labels": [-100] * len(p) + r} for p, r in rows],
        ),
        processing_class=tokenizer,
    )
    want = trainer.compute_loss(theirs, trainer.data_collator([trainer.train_dataset[i] for i in range(2)]))
    want.backward()
    batch = collate([{"prompt_ids": p, "response_ids": [r]} for p, r in rows])
    objective = SFT(loss_type="dft")
    from prefopt.models.forward import forward

    out: Outputs = forward(model, batch, objective.outputs)
    got = objective.loss(out, batch).reduced(objective.sizes(batch))
    got.backward()
    assert got.item() == pytest.approx(want.item(), rel=1e-6)
    for (name, mine), other in zip(model.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-8, msg=name)


def test_the_losses_of_sft(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="chunked_nll"):
        assert prefopt.SFTConfig(str(tmp_path), **OFF, loss_type="chunked_nll").loss_type == "nll"
    with pytest.raises(ValueError, match="loss_type='ntl': choose one of nll, dft"):
        SFT(loss_type="ntl")


def texts(kind: str) -> Dataset:
    turns = [(row["prompt"][-1]["content"], row["response"]) for row in sft_rows(4, 0)]
    if kind == "text":
        return Dataset.from_list([{"text": f"{question} {answer}"} for question, answer in turns])
    return Dataset.from_list([{"prompt": question, "completion": answer} for question, answer in turns])


def test_training_on_prompts_too_is_for_bare_text(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    def trainer(kind: str) -> Any:
        args = prefopt.SFTConfig(str(tmp_path), **OFF, completion_only_loss=False)
        model = tiny_llama(vocab=len(tokenizer))
        return prefopt.SFTTrainer(model, args, None, texts(kind), processing_class=tokenizer)

    assert len(trainer("text").train_dataset) == 4
    with pytest.raises(ValueError, match="completion_only_loss=False trains on prompts too.* column `text`"):
        trainer("prompt-completion")


def test_sft_takes_transformers_own_arguments(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    args = TrainingArguments(str(tmp_path), **OFF, learning_rate=3e-4, max_steps=2, per_device_train_batch_size=2)
    model = tiny_llama(vocab=len(tokenizer))
    trainer = prefopt.SFTTrainer(model, args, train_dataset=texts("text"), processing_class=tokenizer)
    assert isinstance(trainer.args, prefopt.SFTConfig) and trainer.args.learning_rate == 3e-4
    assert trainer.train().global_step == 2
    with pytest.raises(TypeError, match="SFTTrainer takes args of type SFTConfig, not DPOConfig"):
        other = prefopt.DPOConfig(str(tmp_path), **OFF)
        prefopt.SFTTrainer(model, other, train_dataset=texts("text"), processing_class=tokenizer)


# ---- trainers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINER_ARGUMENTS)
def test_arguments_that_a_trainer_cannot_use(name: str, tmp_path: Path) -> None:
    args = prefopt.SFTConfig(str(tmp_path), **OFF)
    with pytest.raises(ValueError, match=f"{name} is not offered: "):
        prefopt.SFTTrainer("m", args, train_dataset=texts("text"), **{name: print})


def test_an_optimizer_by_its_class(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    args = prefopt.SFTConfig(str(tmp_path), **OFF, max_steps=1, per_device_train_batch_size=2)
    trainer = prefopt.SFTTrainer(
        tiny_llama(vocab=len(tokenizer)),
        args,
        train_dataset=texts("text"),
        processing_class=tokenizer,
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.25}),
    )
    trainer.train()
    optimizer = trainer.optimizer.optimizer  # inside accelerate's
    assert type(optimizer) is torch.optim.SGD and optimizer.param_groups[0]["initial_lr"] == 0.25


def test_arguments_for_loading_a_model_that_is_loaded(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    args = prefopt.SFTConfig(str(tmp_path), **OFF, model_init_kwargs={"dtype": "bfloat16"})
    with caplog.at_level(logging.WARNING, "prefopt"):
        prefopt.SFTTrainer(
            tiny_llama(vocab=len(tokenizer)), args, train_dataset=texts("text"), processing_class=tokenizer
        )
    assert "model_init_kwargs is for loading a model by its name" in caplog.text


@pytest.mark.parametrize(("coefficient", "told"), [(None, True), (0.0, False)])
def test_a_model_of_experts_is_not_balanced(
    coefficient: float | None,
    told: bool,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    model = MixtralForCausalLM(MixtralConfig(vocab_size=len(tokenizer), router_aux_loss_coef=0.02, **size, **heads))
    args = prefopt.SFTConfig(str(tmp_path), **OFF, router_aux_loss_coef=coefficient)
    with caplog.at_level(logging.WARNING, "prefopt"):
        prefopt.SFTTrainer(model, args, train_dataset=texts("text"), processing_class=tokenizer)
    assert ("router_aux_loss_coef=0.02, and no load-balancing loss is added here" in caplog.text) is told


def test_a_model_that_gives_its_router_logits_trains_as_one_that_does_not(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    losses = []
    for gives in (False, True):
        torch.manual_seed(0)
        config = MixtralConfig(vocab_size=len(tokenizer), output_router_logits=gives, **size, **heads)
        args = prefopt.SFTConfig(str(tmp_path / str(gives)), **OFF, max_steps=2, logging_steps=1)
        with caplog.at_level(logging.WARNING, "prefopt"):
            trainer = prefopt.SFTTrainer(
                MixtralForCausalLM(config), args, train_dataset=texts("text"), processing_class=tokenizer
            )
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        assert trainer.model.config.output_router_logits is gives
    assert len(losses[0]) == 2 and losses[0] == losses[1]
    assert "router_aux_loss_coef=0.001 and output_router_logits=True, and no load-balancing loss" in caplog.text
