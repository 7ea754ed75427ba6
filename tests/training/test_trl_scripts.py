"""Scripts written for TRL run after changing the import, and behave where prefopt differs on purpose."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import prefopt
from prefopt.testbed import preference_rows, sft_rows
from tests.helpers.models import tiny_llama


@pytest.fixture
def checkpoint(tmp_path: Path, tokenizer: Any) -> str:
    """A tiny model with its tokenizer, as a folder that stands for a hub id."""
    tiny_llama(vocab=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def small(**changes: Any) -> dict[str, Any]:
    return {"max_steps": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, **changes}


CONVERSATIONAL = Dataset.from_list(
    [
        {
            "prompt": row["prompt"],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in preference_rows(24, 0)
    ]
)
STANDARD = CONVERSATIONAL.map(
    lambda row: {
        "prompt": row["prompt"][-1]["content"],
        "chosen": " " + row["chosen"][0]["content"],
        "rejected": " " + row["rejected"][0]["content"],
    }
)
IMPLICIT = CONVERSATIONAL.map(
    lambda row: {"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]},
    remove_columns=["prompt"],
)


@pytest.mark.parametrize("rows", [CONVERSATIONAL, STANDARD, IMPLICIT], ids=["conversational", "standard", "implicit"])
def test_dpo_script(rows: Dataset, checkpoint: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    training_args = prefopt.DPOConfig(output_dir=str(tmp_path / "DPO"), **small(eval_strategy="steps", eval_steps=2))
    trainer = prefopt.DPOTrainer(
        model=model, args=training_args, processing_class=tokenizer, train_dataset=rows, eval_dataset=rows
    )
    trainer.train()
    logged = trainer.state.log_history
    names = {
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "num_tokens",
    }
    assert names <= set(logged[0])
    assert {f"eval_{name}" for name in names - {"num_tokens"}} | {"eval_loss"} <= set(logged[-2])
    assert logged[0]["rewards/accuracies"] == 0.5
    trainer.save_model(str(tmp_path / "saved"))
    AutoModelForCausalLM.from_pretrained(tmp_path / "saved")


def test_dpo_script_by_name_with_lora_and_metrics(checkpoint: str, tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def compute_metrics(prediction: Any) -> dict[str, float]:
        logps, rewards = prediction.predictions
        seen.append(logps.shape)
        return {"longest": float(np.min(logps)), "gap": float((rewards[:, 0] - rewards[:, 1]).mean())}

    trainer = prefopt.DPOTrainer(
        checkpoint,
        args=prefopt.DPOConfig(str(tmp_path / "DPO"), **small(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5])),
        train_dataset=CONVERSATIONAL,
        eval_dataset={"one": CONVERSATIONAL, "two": STANDARD},
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert seen == [(24, 2), (24, 2)]
    assert metrics["eval_two_gap"] == pytest.approx(metrics["eval_two_rewards/margins"], rel=1e-5)


UNPAIRED = Dataset.from_list(
    [
        {"prompt": row["prompt"], "response": row[side], "label": side == "chosen"}
        for i, row in enumerate(preference_rows(24, 0))
        for side in (("chosen", "rejected"), ("chosen",))[i % 2]
    ]
)


UNPAIRED_CONVERSATIONAL = UNPAIRED.map(
    lambda row: {"completion": [{"role": "assistant", "content": row["response"]}]}, remove_columns=["response"]
)
UNPAIRED_STANDARD = UNPAIRED.map(
    lambda row: {"prompt": row["prompt"][-1]["content"], "completion": " " + row["response"]},
    remove_columns=["prompt", "response"],
)


@pytest.mark.parametrize(
    "rows",
    [UNPAIRED, UNPAIRED_CONVERSATIONAL, UNPAIRED_STANDARD, CONVERSATIONAL],
    ids=["loaded", "conversational", "standard", "pairs"],
)
def test_kto_script(rows: Dataset, checkpoint: str, tmp_path: Path) -> None:
    """TRL's trainer takes unpaired rows, and pairs, which it splits."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    trainer = prefopt.KTOTrainer(
        model=model,
        args=prefopt.KTOConfig(str(tmp_path / "KTO"), **small(eval_strategy="steps", eval_steps=2)),
        processing_class=AutoTokenizer.from_pretrained(checkpoint),
        train_dataset=rows,
        eval_dataset=rows,
    )
    trainer.train()
    logged = trainer.state.log_history
    names = {f"{kind}/{side}" for kind in ("rewards", "logps", "count") for side in ("chosen", "rejected")}
    names |= {"rewards/margins", "kl"}
    assert names | {"num_tokens"} <= set(logged[0])
    metrics = trainer.evaluate()
    assert {f"eval_{name}" for name in names} | {"eval_loss"} <= set(metrics)
    margin = metrics["eval_rewards/chosen"] - metrics["eval_rewards/rejected"]
    assert metrics["eval_rewards/margins"] == pytest.approx(margin, rel=1e-9)
    counts = [metrics[f"eval_count/{side}"] for side in ("chosen", "rejected")]
    assert counts == ([24, 24] if rows is CONVERSATIONAL else [24, 12])
    assert logged[0]["loss"] == pytest.approx(0.5, abs=1e-6)  # 1 - sigmoid(0), since policy and reference are the same


@pytest.mark.parametrize(("loss", "unpaired"), [("kto", "kto"), ("bco_pair", "bco"), ("apo_zero", "apo_zero_unpaired")])
def test_dpo_trainer_takes_unpaired_rows(loss: str, unpaired: str, checkpoint: str, tmp_path: Path) -> None:
    """And trains and evaluates as KTOTrainer does."""
    settings = small(beta=0.3, undesirable_weight=1.5, learning_rate=1e-2, eval_strategy="epoch", max_steps=3)
    given = {"train_dataset": UNPAIRED_CONVERSATIONAL, "eval_dataset": UNPAIRED_STANDARD}
    logs = []
    for trainer_type, config, name in (
        (prefopt.DPOTrainer, prefopt.DPOConfig, loss),
        (prefopt.KTOTrainer, prefopt.KTOConfig, unpaired),
    ):
        trainer: Any = trainer_type(
            checkpoint, args=config(str(tmp_path / trainer_type.__name__), **settings, loss_type=name), **given
        )
        trainer.train()
        steps = [log for log in trainer.state.log_history if "loss" in log or "eval_loss" in log]
        logs.append([{k: v for k, v in log.items() if "runtime" not in k and "per_second" not in k} for log in steps])
    assert logs[0] == logs[1] and len(logs[0]) == 4
    assert logs[0][0]["rewards/margins"] == pytest.approx(0, abs=1e-5) and logs[0][3]["eval_rewards/margins"] > 0.01


def test_the_defaults_of_kto_are_trl_s(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="needs TRL, which the test extra installs")
    theirs, ours = trl.KTOConfig(str(tmp_path), **small()), prefopt.KTOConfig(str(tmp_path), **small())
    names = "loss_type beta desirable_weight undesirable_weight learning_rate max_length disable_dropout logging_steps"
    names += (
        " gradient_checkpointing precompute_ref_log_probs sync_ref_model ref_model_mixup_alpha ref_model_sync_steps"
    )
    for name in names.split():
        assert getattr(ours, name) == getattr(theirs, name), name


def test_reward_script(checkpoint: str, tmp_path: Path) -> None:
    trainer = prefopt.RewardTrainer(
        model=checkpoint,
        args=prefopt.RewardConfig(output_dir=str(tmp_path / "RM"), **small(center_rewards_coefficient=1e-2)),
        train_dataset=CONVERSATIONAL,
        eval_dataset=CONVERSATIONAL,
    )
    trainer.train()
    assert {"accuracy", "margin", "mean_reward", "min_reward", "max_reward"} <= set(trainer.state.log_history[0])
    trainer.save_model(str(tmp_path / "saved"))
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").config.num_labels == 1


@pytest.mark.parametrize("shape", ["prompt-completion", "messages", "text", "formatting_func"])
def test_sft_script(shape: str, checkpoint: str, tmp_path: Path) -> None:
    rows = sft_rows(24, 0)
    both = [[*row["prompt"], {"role": "assistant", "content": row["response"]}] for row in rows]
    text = Dataset.from_list([{"text": " ".join(turn["content"] for turn in turns)} for turns in both])
    datasets: dict[str, tuple[Dataset, Any]] = {
        "prompt-completion": (
            Dataset.from_list([{"prompt": turns[:-1], "completion": turns[-1:]} for turns in both]),
            None,
        ),
        "messages": (Dataset.from_list([{"messages": turns} for turns in both]), None),
        "text": (text, None),
        "formatting_func": (text.rename_column("text", "body"), lambda row: row["body"]),
    }
    dataset, formatting = datasets[shape]
    trainer = prefopt.SFTTrainer(
        model=checkpoint,
        args=prefopt.SFTConfig(output_dir=str(tmp_path / "SFT"), **small()),
        train_dataset=dataset,
        formatting_func=formatting,
    )
    trainer.train()
    assert {"loss", "mean_token_accuracy", "num_tokens"} <= set(trainer.state.log_history[0])


SCRIPTS = Path(__file__).parents[1] / "helpers" / "programs"
LOGGED = {
    "trl_dpo": {"loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"},
    "trl_reward": {"loss", "grad_norm", "accuracy", "margin", "mean_reward", "min_reward", "max_reward"},
    "trl_sft": {"loss", "grad_norm", "mean_token_accuracy", "num_tokens"},
}


@pytest.mark.parametrize("library", ["trl", "prefopt"])
@pytest.mark.parametrize("name", LOGGED)
def test_a_script_runs_with_either_import(
    name: str, library: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "trl":
        pytest.importorskip("trl")
    script = (SCRIPTS / f"{name}.py").read_text()
    assert script.count("from trl import") == 1
    out = tmp_path / library
    monkeypatch.setattr(sys, "argv", [name, checkpoint, str(out)])
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(script.replace("from trl import", f"from {library} import"), name, "exec"), variables)
    logged = variables["trainer"].state.log_history
    assert LOGGED[name] <= set(logged[0])
    assert type(variables["trainer"]).__module__.split(".")[0] == library
    if name == "trl_reward":
        assert json.loads((out / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    else:
        assert AutoModelForCausalLM.from_pretrained(out).config.model_type == "llama"


@pytest.mark.parametrize("name", ["trl_dpo", "trl_sft"])
def test_a_script_computes_the_same_with_either_import(
    name: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss of the first step: rows come in another order, so of one step over all of them."""
    pytest.importorskip("trl")
    script = (
        (SCRIPTS / f"{name}.py").read_text().replace("per_device_train_batch_size=8", "per_device_train_batch_size=24")
    )
    losses = {}
    for library in ("trl", "prefopt"):
        monkeypatch.setattr(sys, "argv", [name, checkpoint, str(tmp_path / library)])
        variables: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(script.replace("from trl import", f"from {library} import"), name, "exec"), variables)
        losses[library] = [row["loss"] for row in variables["trainer"].state.log_history if "loss" in row]
    assert losses["prefopt"] == pytest.approx(losses["trl"], rel=2e-3)


def test_command_line_script(checkpoint: str, tmp_path: Path) -> None:
    from prefopt import ModelConfig, ScriptArguments, TrlParser, get_peft_config

    flags = f"--model_name_or_path {checkpoint} --dataset_name rows --output_dir {tmp_path} --use_peft --lora_r 4"
    flags += " --beta 0.3"
    parser = TrlParser((ScriptArguments, prefopt.DPOConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config(flags.split())
    assert (script_args.dataset_name, training_args.beta) == ("rows", 0.3)
    assert get_peft_config(model_args).r == 4


def test_old_arguments_are_taken_and_named(checkpoint: str, tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="sft"):
        args = prefopt.DPOConfig(str(tmp_path), rpo_alpha=0.5, **small())
    assert (args.loss_type, args.loss_weights) == (["sigmoid", "sft"], [1.0, 0.5])
    with pytest.warns(FutureWarning, match="cpo"):
        assert prefopt.DPOConfig(str(tmp_path), reference_free=True, **small()).loss_type == ["cpo"]
    with pytest.warns(FutureWarning, match="dtype"):
        args = prefopt.DPOConfig(str(tmp_path), model_init_kwargs={"torch_dtype": "bfloat16"}, **small())
        assert args.init_kwargs["dtype"] == "bfloat16"
    with pytest.warns(FutureWarning, match="processing_class"):
        prefopt.DPOTrainer(
            checkpoint,
            args=prefopt.DPOConfig(str(tmp_path), **small()),
            train_dataset=CONVERSATIONAL,
            tokenizer=AutoTokenizer.from_pretrained(checkpoint),
        )


def test_what_is_not_offered_says_what_to_do(checkpoint: str, tmp_path: Path) -> None:
    args = prefopt.DPOConfig(str(tmp_path), **small())
    with pytest.raises(ValueError, match="encode_dataset"):
        prefopt.DPOTrainer(checkpoint, args=args, train_dataset=CONVERSATIONAL, data_collator=lambda rows: rows)
    with pytest.raises(TypeError, match="DPOConfig"):
        prefopt.DPOTrainer(checkpoint, args=prefopt.SFTConfig(str(tmp_path), **small()), train_dataset=CONVERSATIONAL)
    with pytest.raises(ValueError, match="best-of|simpo|known are"):
        prefopt.PreferenceTrainer(checkpoint, "sipmo", train_dataset=CONVERSATIONAL)
    with pytest.raises(ValueError, match="row 0 has 4 responses"):
        lists = Dataset.from_list([{"query": "hi", "responses": list("abcd"), "scores": [4.0, 3.0, 2.0, 1.0]}])
        prefopt.DPOTrainer(checkpoint, args=args, train_dataset=lists)
