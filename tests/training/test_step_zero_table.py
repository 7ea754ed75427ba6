"""Step 0 of every kind of adapter, policy and reference: DPO's loss is ln 2, its accuracy one half, and then not so.

What cannot hold: log-probs that are precomputed on 8-bit layers with a threshold. There a row depends on the rest of
its batch, in evaluation and, on a GPU, in training (bitsandbytes 0.50): that is warned of.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig

from prefopt import DPOConfig, DPOTrainer
from prefopt.models import load_policy, merge_adapter
from prefopt.models.load import add_adapter
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(12)
EXACT_8_BIT = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
ALIKE = {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}
TOKENS = {"trainable_token_indices": [5, 6, 7, 8, 9, 10]}


class Kind(NamedTuple):
    adapter: dict[str, Any] | None
    """Of a `LoraConfig`; None trains the model in full."""
    tied: bool = False
    quantised: Any = None
    biased: bool = False


KINDS = {
    "full": Kind(None),
    "full, tied": Kind(None, tied=True),
    "lora": Kind({}),
    "lora, all linear layers": Kind({"target_modules": "all-linear"}),
    "lora, head": Kind({"target_modules": ["q_proj", "lm_head"]}),
    "lora, biases": Kind({"bias": "all"}, biased=True),
    "lora, embeddings in full": Kind({"modules_to_save": ["embed_tokens"]}, tied=True),
    "dora": Kind({"use_dora": True}),
    "tied, head": Kind({"target_modules": ["q_proj", "lm_head"]}, tied=True),
    "tied, both alike": Kind(ALIKE, tied=True),
    "tied, in full alike": Kind({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, tied=True),
    "tokens": Kind(TOKENS),
    "tokens, tied": Kind(TOKENS, tied=True),
    "4-bit": Kind({}, quantised=BitsAndBytesConfig(load_in_4bit=True)),
    "4-bit, tied alike": Kind(ALIKE, tied=True, quantised=BitsAndBytesConfig(load_in_4bit=True)),
    "8-bit": Kind({}, quantised=EXACT_8_BIT),
    "8-bit, biases": Kind({"bias": "all"}, quantised=EXACT_8_BIT, biased=True),
}
ORIGINS = ["fresh", "carried", "folder", "merged", "second round"]
FROM_FOLDERS = {"lora", "tied, both alike", "tokens, tied", "4-bit, tied alike"}
TABLE = [
    (name, origin)
    for name, kind in KINDS.items()
    for origin in ORIGINS
    if (kind.adapter is not None or origin in ("fresh", "second round"))
    and (origin != "folder" or name in FROM_FOLDERS)
]


class Maker:
    """Makes policies of one kind, from one base on disk, and trainers of them."""

    def __init__(self, kind: Kind, folder: Path, tokenizer: Any, **args: Any):
        self.kind, self.folder, self.tokenizer, self.args = kind, folder, tokenizer, args
        self.base = str(folder / "base")
        model = tiny_llama(  # 4-bit blocks hold 64 weights
            hidden_size=64, intermediate_size=128, tie_word_embeddings=kind.tied, attention_bias=kind.biased
        )
        model.save_pretrained(self.base)

    def lora(self) -> LoraConfig | None:
        if self.kind.adapter is None:
            return None
        usual = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
        return LoraConfig(**usual | self.kind.adapter)

    def fresh(self) -> Any:
        return load_policy(self.base, quantization_config=self.kind.quantised)

    def carried(self) -> PeftModel:
        """An adapter that is not the identity."""
        model = add_adapter(self.fresh(), self.lora(), gradient_checkpointing=False)  # type: ignore[arg-type]
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        return model

    def trainer(self, model: Any, peft_config: Any = None) -> DPOTrainer:
        args = quiet(self.folder, max_steps=3, learning_rate=1e-2, per_device_train_batch_size=6, **self.args)
        return DPOTrainer(
            model,
            args=DPOConfig(**args),
            train_dataset=ROWS,
            eval_dataset=ROWS,
            processing_class=self.tokenizer,
            peft_config=peft_config,
        )

    def start(self, origin: str) -> DPOTrainer:
        if origin == "fresh":
            return self.trainer(self.fresh(), self.lora())
        if origin == "carried":
            return self.trainer(self.carried())
        if origin == "folder":
            self.carried().save_pretrained(self.folder / "adapter")
            return self.trainer(load_policy(str(self.folder / "adapter"), quantization_config=self.kind.quantised))
        if origin == "merged":
            return self.trainer(merge_adapter(self.carried()))
        first = self.trainer(self.fresh(), self.lora())
        first.train()
        return self.trainer(first.model)


@pytest.mark.parametrize("precomputed", [False, True], ids=["live", "precomputed"])
@pytest.mark.parametrize(("kind", "origin"), TABLE)
def test_the_policy_starts_from_its_reference(
    kind: str, origin: str, precomputed: bool, tmp_path: Path, tokenizer: Any
) -> None:
    trainer = Maker(KINDS[kind], tmp_path, tokenizer, precompute_ref_log_probs=precomputed).start(origin)
    before = trainer.evaluate()
    trainer.train()
    first = next(log for log in trainer.state.log_history if "loss" in log)
    assert before["eval_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert before["eval_rewards/accuracies"] == first["rewards/accuracies"] == 0.5
    assert trainer.evaluate()["eval_loss"] < math.log(2) - 1e-3


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_what_precomputing_on_8_bit_layers_cannot_give_is_said(
    threshold: float, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Training's rows are exact on the CPU, whose 8-bit layers quantise no inputs in training mode."""
    quantised = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
    with caplog.at_level(logging.WARNING):
        maker = Maker(Kind({}, quantised=quantised), tmp_path, tokenizer, precompute_ref_log_probs=True)
        trainer = maker.start("fresh")
    assert ("llm_int8_threshold=6.0: where an activation reaches it" in caplog.text) == (threshold > 0)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)


def test_a_row_of_8_bit_layers_depends_on_its_batch_only_with_a_threshold(tmp_path: Path) -> None:
    """bitsandbytes' own layer: one token with a large activation changes what the layer says of another."""
    import bitsandbytes as bnb

    torch.manual_seed(0)
    row, other = torch.randn(1, 64), torch.randn(1, 64)
    other[0, 3] = 9.0
    for threshold, differs in ((6.0, True), (0.0, False)):
        torch.manual_seed(1)
        layer = bnb.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False, threshold=threshold).to("cpu").eval()
        alone, beside = (layer(torch.cat([row, mate]))[0] for mate in (row, other))
        assert (alone - beside).abs().max().item() > 0 if differs else torch.equal(alone, beside)
