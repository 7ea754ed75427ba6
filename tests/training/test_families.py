"""Every family trains: DPO starts at ln 2, learns, and what is saved is what was trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prefopt import DPOConfig, DPOTrainer
from prefopt.models.forward import forward
from prefopt.models.load import load_policy
from tests.helpers.families import TEXT, WITH_IMAGES, tiny_family
from tests.helpers.models import VOCAB
from tests.helpers.rows import ragged, ragged_pairs
from tests.helpers.training import quiet

LOGPS = frozenset({"logps"})
ONE_OF_EACH_KIND = ["GptOss", "DeepseekV3", "Mamba2", "Jamba", "RecurrentGemma", "Rwkv", "Qwen3Next", "Qwen2_5_VL"]


def train(name: str, folder: Path, tokenizer: Any, **args: Any) -> DPOTrainer:
    config = DPOConfig(**quiet(folder, max_steps=2, learning_rate=1e-2, per_device_train_batch_size=4, **args))
    rows, held_out = ragged_pairs(8, vocab=VOCAB), ragged_pairs(4, seed=1, vocab=VOCAB)
    trainer = DPOTrainer(
        tiny_family(name), args=config, train_dataset=rows, eval_dataset=held_out, processing_class=tokenizer
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5) and math.isfinite(losses[1])
    return trainer


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ONE_OF_EACH_KIND else pytest.mark.slow) for n in [*TEXT, *WITH_IMAGES]],
)
def test_dpo_trains_and_what_is_saved_is_what_was_trained(name: str, tmp_path: Path, tokenizer: Any) -> None:
    trainer = train(name, tmp_path, tokenizer)
    assert math.isfinite(trainer.evaluate()["eval_loss"])  # in evaluation mode, in which it is then saved
    trainer.save_model(str(tmp_path / "saved"))
    saved, before = load_policy(str(tmp_path / "saved")), tiny_family(name)
    with torch.no_grad():
        trained = forward(trainer.model.eval(), ragged(k=2), LOGPS).logps
        assert torch.equal(forward(saved.eval(), ragged(k=2), LOGPS).logps, trained)
        assert (forward(before, ragged(k=2), LOGPS).logps - trained).abs().max() > 0.01
    assert trainer.args.ddp_find_unused_parameters == (True if name in WITH_IMAGES else None)


@pytest.mark.parametrize("name", ["Mamba", "RecurrentGemma"])
def test_layers_that_are_computed_again(name: str, tmp_path: Path, tokenizer: Any) -> None:
    """Activation checkpointing, which is on by default, of layers that carry a state."""
    plain = train(name, tmp_path / "plain", tokenizer)
    again = train(name, tmp_path / "again", tokenizer, gradient_checkpointing=True)
    for (key, weight), other in zip(plain.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-4, msg=key)
