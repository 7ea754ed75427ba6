"""Arguments that are given in order, and stand in one another's places, are named with where they belong."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from peft import LoraConfig
from transformers import TrainerCallback, TrainingArguments

from prefopt import DPOConfig, DPOTrainer, PPOTrainer, PreferenceConfig, PreferenceTrainer, SFTConfig
from prefopt.objectives.dpo import DPO
from prefopt.training.declarations import named_trainers
from prefopt.training.places import TAKES, arguments_in_order
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs

ROWS = ragged_pairs(4)
TRAINERS = list(named_trainers())
REFERENCED = [trainer for trainer in TRAINERS if arguments_in_order(trainer)[1] == "ref_model"]
OTHERS = [trainer for trainer in TRAINERS if trainer not in REFERENCED]


def config_of(trainer: Any, folder: Any) -> Any:
    return trainer.config(output_dir=str(folder), use_cpu=True, bf16=False, report_to=[])


def assert_said(error: pytest.ExceptionInfo[TypeError], *parts: str) -> None:
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("trainer", REFERENCED, ids=lambda trainer: trainer.__name__)
def test_arguments_where_the_reference_belongs(trainer: Any, tmp_path: Any, tokenizer: Any) -> None:
    """As the order of transformers' own Trainer, and of TRL's SFTTrainer, would have it."""
    args = config_of(trainer, tmp_path)
    for rest in ((), (ROWS,), (None, ROWS, None, tokenizer)):
        with pytest.raises(TypeError) as error:
            trainer(tiny_llama(), args, *rest)
        kind = trainer.config.__name__
        said = f"{trainer.__name__}: ref_model, argument 2, is training arguments ({kind}), which belongs to args. The"
        assert_said(error, said, "The order of arguments is model, ref_model, args, data_collator, train_dataset,")


@pytest.mark.parametrize("trainer", OTHERS, ids=lambda trainer: trainer.__name__)
def test_a_reference_where_the_arguments_belong(trainer: Any, tmp_path: Any) -> None:
    with pytest.raises(TypeError) as error:
        trainer(tiny_llama(), tiny_llama(), config_of(trainer, tmp_path))
    assert_said(
        error, f"{trainer.__name__}: args, argument 2, is a model (LlamaForCausalLM)", "order of arguments is mod"
    )


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.__name__)
def test_rows_where_the_collator_belongs(trainer: Any, tmp_path: Any, tokenizer: Any) -> None:
    before = (tiny_llama(), *([None] if trainer in REFERENCED else []), config_of(trainer, tmp_path))
    with pytest.raises(TypeError) as error:
        trainer(*before, ROWS, None, tokenizer)
    number = len(before) + 1
    assert_said(error, f"data_collator, argument {number}, is rows (Dataset), which belongs to train_dataset")


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.__name__)
@pytest.mark.parametrize("made", [
    ("train_dataset", lambda tokenizer: tokenizer, "is a tokenizer (", "belongs to processing_class"),
    ("eval_dataset", lambda tokenizer: tokenizer, "is a tokenizer (", "belongs to processing_class"),
    ("processing_class", lambda _: ROWS, "is rows (Dataset)", "belongs to train_dataset"),
    ("processing_class", lambda _: "model", "is text ('model'): load it with AutoTokenizer", ""),
    ("args", lambda _: ROWS, "is rows (Dataset)", "belongs to train_dataset"),
    ("args", lambda _: LoraConfig(), "is an adapter's config (LoraConfig)", "belongs to peft_config"),
    ("args", lambda _: DPO(), "is an objective (DPO), and this trainer has its own: take PreferenceTrainer", ""),
    ("args", lambda _: "rows.jsonl", "is text ('rows.jsonl')", ""),
    ("model", lambda tokenizer: tokenizer, "is a tokenizer (", "belongs to processing_class"),
    ("callbacks", lambda _: [{"prompt": "Hi", "response": "Hello"}], "is rows (list)", "belongs to train_dataset"),
    ("compute_metrics", lambda _: [{"prompt": "你好"}], "is rows (list)", "belongs to train_dataset"),
    ("tokenizer", lambda _: tiny_llama(), "is a model (LlamaForCausalLM)", ""),
    ("peft_config", lambda _: PreferenceConfig(use_cpu=True), "is training arguments (PreferenceConfig)", "to args"),
], ids=lambda made: f"{made[0]}-{made[2][:12]}")  # fmt: skip
def test_by_name_too(trainer: Any, made: Any, tmp_path: Any, tokenizer: Any) -> None:
    name, value, *said = made
    given = {"model": tiny_llama(), "args": config_of(trainer, tmp_path), "train_dataset": ROWS} | {
        name: value(tokenizer)
    }
    with pytest.raises(TypeError) as error:
        trainer(**given)
    assert_said(error, f"{trainer.__name__}: {name}", *said)


def test_the_one_trainer_takes_the_objective_second(tmp_path: Any, tokenizer: Any) -> None:
    args = config_of(DPOTrainer, tmp_path)
    for given, said in (
        (
            (tiny_llama(), args),
            "PreferenceTrainer: objective, argument 2, is training arguments (DPOConfig), which belo",
        ),
        ((tiny_llama(), tiny_llama(), args), "objective, argument 2, is a model (LlamaForCausalLM)"),
        ((tiny_llama(), "dpo", ROWS), "args, argument 3, is rows (Dataset), which belongs to train_dataset"),
        ((tiny_llama(), "dpo", args, tokenizer), "train_dataset, argument 4, is a tokenizer"),
        ((tiny_llama(), DPO), "objective is the class DPO: give an object, DPO(...)"),
        ((tiny_llama(), "dpo", DPOConfig), "args is the class DPOConfig: give an object, DPOConfig(...)"),
        ((tiny_llama(), "dpo", {"beta": 1}), "PreferenceTrainer takes args of type PreferenceConfig, not dict"),
        (
            (tiny_llama(), "dpo", TrainingArguments(use_cpu=True)),
            "args of type PreferenceConfig, not TrainingArguments",
        ),
        ((tiny_llama(), lambda out, batch: 0), "objective is a function: give a name, such as 'dpo', or an object"),
    ):
        with pytest.raises(TypeError) as error:
            PreferenceTrainer(*given)
        assert_said(error, said)


def test_a_callback_that_is_not_in_a_list(tmp_path: Any, tokenizer: Any) -> None:
    with pytest.raises(TypeError, match="callbacks is a callback .TrainerCallback.: give a list, callbacks=.TrainerCa"):
        DPOTrainer(
            tiny_llama(),
            args=config_of(DPOTrainer, tmp_path),
            train_dataset=ROWS,
            processing_class=tokenizer,
            callbacks=TrainerCallback(),  # type: ignore[arg-type]
        )


def test_what_ppo_calls_by_other_names_has_places_too(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match=r"PPOTrainer: scorer is rows \(Dataset\), which belongs to train_dataset"):
        PPOTrainer(tiny_llama(), config_of(PPOTrainer, tmp_path), reward_model=ROWS)
    with pytest.raises(TypeError, match=r"PPOTrainer: critic is a tokenizer|PPOTrainer: critic is training arguments"):
        PPOTrainer(
            tiny_llama(),
            config_of(PPOTrainer, tmp_path),
            train_dataset=ROWS,
            value_model=SFTConfig(output_dir=str(tmp_path), use_cpu=True),
            scorer=lambda prompts, responses: [0.0] * len(prompts),
        )


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.__name__)
def test_the_order_is_the_one_that_python_binds(trainer: Any) -> None:
    """Each argument that may be given in order gets the place that the message names, and has kinds that it takes."""
    order = arguments_in_order(trainer)
    own = [p.name for p in inspect.signature(trainer).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert order[: len(own)] == own and {"model", "args", "train_dataset"} <= set(order)
    assert set(order) <= set(TAKES)


def test_the_order_is_trls(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL 1.16: DPO and KTO take the reference second; SFT and the reward model, the arguments."""
    trl = pytest.importorskip("trl")
    for name in ("DPOTrainer", "KTOTrainer", "RewardTrainer", "SFTTrainer"):
        theirs = list(inspect.signature(getattr(trl, name).__init__).parameters)[1:]
        (ours,) = (arguments_in_order(trainer) for trainer in TRAINERS if trainer.__name__ == name)
        assert ours[:7] == theirs[:7]
