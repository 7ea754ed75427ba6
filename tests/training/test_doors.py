"""What a trainer refuses at its door, because it would train something else than was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from prefopt import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    PreferenceConfig,
    PreferenceTrainer,
    RRHFConfig,
    RRHFTrainer,
    SFTConfig,
    SFTTrainer,
)
from prefopt.data.batching import RowSampler
from prefopt.models.load import load_scorer
from prefopt.objectives.base import Loss, Objective, Term
from prefopt.objectives.dpo import DPO
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(12)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA folder beside the base it belongs to."""
    tiny_llama().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def dpo(model: Any, tmp_path: Path, tokenizer: Any, **args: Any) -> DPOTrainer:
    return DPOTrainer(model, None, DPOConfig(**quiet(tmp_path, **args)), train_dataset=ROWS, processing_class=tokenizer)


def test_an_adapter_that_transformers_loaded(adapter: Path, tmp_path: Path, tokenizer: Any) -> None:
    """It would train the whole base and then save the adapter alone."""
    with pytest.raises(ValueError, match="PeftModel.from_pretrained"):
        dpo(AutoModelForCausalLM.from_pretrained(adapter), tmp_path, tokenizer)


def test_a_frozen_adapter(adapter: Path, tmp_path: Path, tokenizer: Any) -> None:
    model = PeftModel.from_pretrained(tiny_llama(), adapter)
    with pytest.raises(ValueError, match="is_trainable=True"):
        dpo(model, tmp_path, tokenizer)


class BareTensor(Objective):
    """Returns what a training loop of one's own would want."""

    def loss(self, out: Any, batch: Any) -> Any:
        return out.required("logps").sum()


@pytest.mark.parametrize("run", ["train", "evaluate"])
def test_a_loss_that_is_a_tensor(run: str, tmp_path: Path, tokenizer: Any) -> None:
    trainer = PreferenceTrainer(
        tiny_llama(), BareTensor(), PreferenceConfig(**quiet(tmp_path)), ROWS, ROWS, processing_class=tokenizer
    )
    with pytest.raises(TypeError, match=r"BareTensor.loss returned a tensor of shape \[\], not a Loss"):
        getattr(trainer, run)()


class Undefined(Objective):
    """Divides zero by zero in one of its terms."""

    def loss(self, out: Any, batch: Any) -> Any:
        total = out.required("logps").sum()
        return Loss({"fine": Term(-total, "tokens"), "undefined": Term(total * 0 / 0, "tokens")})


def test_a_term_that_is_not_a_number_is_named(tmp_path: Path, tokenizer: Any) -> None:
    args = PreferenceConfig(**quiet(tmp_path, max_skipped_steps=1, per_device_train_batch_size=2))
    trainer = PreferenceTrainer(tiny_llama(), Undefined(), args, ROWS, None, tokenizer)
    with pytest.raises(FloatingPointError, match=r"rows \[\d+, \d+\], term undefined of the loss\), 1 times in a row"):
        trainer.train()


def test_a_need_that_nothing_meets(tmp_path: Path, tokenizer: Any) -> None:
    """Before a model is loaded."""

    class Needy(BareTensor):
        needs = frozenset({"ref"})

    with pytest.raises(ValueError, match="Needy.needs has 'ref'; did you mean reference"):
        PreferenceTrainer("no such model", Needy(), PreferenceConfig(**quiet(tmp_path)), ROWS, None, tokenizer)


def test_knobs_that_disagree_with_the_objective(tmp_path: Path, tokenizer: Any) -> None:
    args = DPOConfig(**quiet(tmp_path, beta=0.5, loss_type=["ipo"]))
    with pytest.raises(ValueError, match="DPOConfig has its own beta"):
        PreferenceTrainer(tiny_llama(), "dpo", args, ROWS, processing_class=tokenizer)
    same = PreferenceTrainer(tiny_llama(), DPO(beta=0.5, loss_type="ipo"), args, ROWS, processing_class=tokenizer)
    assert same.objective == DPO(beta=0.5, loss_type=["ipo"])


@pytest.mark.parametrize("name", ["precompute_ref_log_probs", "sync_ref_model"])
def test_reference_arguments_without_a_reference(name: str, tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}=True, but .* uses no reference"):
        dpo(tiny_llama(), tmp_path, tokenizer, loss_type=["simpo"], **{name: True})


def test_arguments_of_other_trainers(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        dpo(tiny_llama(), tmp_path, tokenizer, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="random"):
        PreferenceConfig(**quiet(tmp_path, train_sampling_strategy="group_by_length"))


@pytest.mark.parametrize("change", [{"data_seed": 7}, {"train_sampling_strategy": "sequential"}, {"model": 4}])
def test_resuming_what_would_go_on_differently(change: dict[str, Any], tmp_path: Path, tokenizer: Any) -> None:
    """Another row order repeats and skips rows; another starting model makes another reference."""
    steps = {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "per_device_train_batch_size": 4}
    dpo(tiny_llama(), tmp_path, tokenizer, **steps).train()
    model = tiny_llama(seed=change.pop("model", 0))
    with pytest.raises(ValueError, match="belongs to another run"):
        dpo(model, tmp_path, tokenizer, **steps | change).train(resume_from_checkpoint=True)


def test_rows_that_are_prepared_are_not_prepared_again(tmp_path: Path, tokenizer: Any) -> None:
    trainer = dpo(tiny_llama(), tmp_path, tokenizer, loss_type=["kto"])
    assert len(trainer.train_dataset[0]["response_ids"]) == 3
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] > 0


def test_a_row_that_has_nothing_to_rank(tmp_path: Path, tokenizer: Any) -> None:
    rows = Dataset.from_list([{"prompt_ids": [5], "response_ids": [[6, 1]] * count} for count in (3, 2, 1)])
    with pytest.raises(ValueError, match="row 2 has 1 responses and RRHF compares at least 2"):
        RRHFTrainer(tiny_llama(), RRHFConfig(**quiet(tmp_path)), train_dataset=rows, processing_class=tokenizer)


def test_lists_where_pairs_are_wanted(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="row 0 has 3 responses and DPO compares 2: give it pairs"):
        DPOTrainer(
            tiny_llama(),
            args=DPOConfig(**quiet(tmp_path)),
            train_dataset=ragged_pairs(2, k=3),
            processing_class=tokenizer,
        )


UNPAIRED = ragged_pairs(6, k=1, label=lambda rng: rng.random() < 0.5)


@pytest.mark.parametrize(("objective", "said"), [
    ("sft", "SFT does not learn from labels, .* take KTOTrainer, or leave out the bad ones and the column `label`"),
    ("reward", "BradleyTerry does not learn from labels"),
    ("simpo", "loss_type simpo is set up for pairs"),
    ("mpo", "loss_type sigmoid, bco_pair, sft is set up for pairs"),
])  # fmt: skip
def test_labels_where_nothing_reads_them(objective: str, said: str, tmp_path: Path, tokenizer: Any) -> None:
    """SFT would imitate the bad answers too."""
    with pytest.raises(ValueError, match=said):
        PreferenceTrainer(
            tiny_llama(), objective, PreferenceConfig(**quiet(tmp_path)), UNPAIRED, processing_class=tokenizer
        )


@pytest.mark.parametrize(("rows", "said"), [
    (ragged_pairs(4, k=1), r"row 0 has 1 responses and KTO takes one with a label \(prompt, .*\), or pairs without"),
    (ragged_pairs(4, k=3), "row 0 has 3 responses and KTO takes one with a label"),
    (ragged_pairs(4, label=lambda rng: True), "row 0 has 2 responses and KTO takes one with a label"),
])  # fmt: skip
def test_rows_that_are_not_unpaired(rows: Dataset, said: str, tmp_path: Path, tokenizer: Any) -> None:
    args = KTOConfig(**quiet(tmp_path))
    with pytest.raises(ValueError, match=said):
        KTOTrainer(tiny_llama(), args=args, train_dataset=rows, processing_class=tokenizer)


def test_sft_leaves_out_what_a_label_calls_bad(tmp_path: Path, tokenizer: Any) -> None:
    said = [{"role": "user", "content": "Bread?"}]
    rows = Dataset.from_list([{"prompt": said, "response": "Flour.", "label": good} for good in (True, False, True)])
    trainer = SFTTrainer(tiny_llama(), SFTConfig(**quiet(tmp_path)), train_dataset=rows, processing_class=tokenizer)
    assert len(trainer.train_dataset) == 2 and "label" not in trainer.train_dataset.column_names


def test_sft_takes_its_arguments_in_order(tmp_path: Path, tokenizer: Any) -> None:
    rows = Dataset.from_list([{"body": "one two three"}] * 4)
    args = SFTConfig(**quiet(tmp_path, max_steps=1))
    trainer = SFTTrainer(tiny_llama(), args, None, rows, None, tokenizer, formatting_func=lambda row: row["body"])
    assert len(trainer.train_dataset) == 4
    with pytest.raises(ValueError, match="load it first"):
        SFTTrainer(tiny_llama(), args, None, "rows.jsonl", None, tokenizer, formatting_func=lambda row: row["body"])


def test_the_order_of_rows() -> None:
    assert sorted(RowSampler(13, seed=0)) == list(range(13))
    assert list(RowSampler(13, seed=0)) != list(RowSampler(13, seed=0, epoch=lambda: 1))
    assert sorted(RowSampler(13, multiple=8, seed=0)) == [-1, -1, -1, *range(13)]
    dropped = list(RowSampler(13, multiple=8, drop=True, seed=0))
    assert len(dropped) == len(set(dropped)) == 8 and -1 not in dropped


@pytest.mark.parametrize("by_name", [True, False])
def test_a_reward_model_from_a_policy_with_an_adapter(by_name: bool, adapter: Path, tokenizer: Any) -> None:
    """`prefopt sft --use_peft` and then `prefopt reward`: the reward model starts from what the adapter learnt."""
    policy = PeftModel.from_pretrained(tiny_llama(), adapter)
    torch.nn.init.constant_(policy.get_base_model().model.layers[0].self_attn.q_proj.lora_B["default"].weight, 0.1)
    policy.save_pretrained(adapter)
    scorer = load_scorer(str(adapter) if by_name else policy, tokenizer)
    merged = policy.merge_and_unload()
    torch.testing.assert_close(scorer.model.state_dict(), merged.model.state_dict())
    assert scorer.score.out_features == 1 and not isinstance(scorer, PeftModel)


class MeanReward(Objective):
    """An objective of one's own that reads labels."""

    needs = frozenset({"reference", "label"})
    responses = 1

    def loss(self, out: Any, batch: Any) -> Loss:
        ratios = (out.required("logps") - batch.ref_logps).sum(-1)[:, 0]
        return Loss({"mean": Term((torch.where(batch.label, -1, 1) * ratios).sum(), "responses")})


@pytest.mark.parametrize("rows", [UNPAIRED, ragged_pairs(3)], ids=["unpaired", "pairs"])
def test_an_objective_of_ones_own_may_read_labels(rows: Dataset, tmp_path: Path, tokenizer: Any) -> None:
    args = PreferenceConfig(**quiet(tmp_path, learning_rate=1e-2, max_steps=3))
    trainer = PreferenceTrainer(tiny_llama(), MeanReward(), args, rows, rows, tokenizer)
    assert len(trainer.train_dataset) == 6
    assert trainer.evaluate()["eval_loss"] == pytest.approx(0, abs=1e-5)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < -0.1
