"""Step 0 of every kind of adapter, policy and reference: DPO's loss is ln 2, its accuracy one half, and then not so.

What cannot hold: log-probs that are precomputed on 8-bit layers with a threshold. There a row depends on the rest of
its batch, in evaluation and, on a GPU, in training (bitsandbytes 0.50): that is warned of.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig

from benchmarks.step_zero import KINDS, Kind, Maker, combinations, measured

FROM_FOLDERS = {"lora", "tied, both alike", "tokens, tied", "4-bit, tied alike"}
TABLE = [(name, origin) for name, origin in combinations() if origin != "folder" or name in FROM_FOLDERS]


@pytest.mark.parametrize("precomputed", [False, True], ids=["live", "precomputed"])
@pytest.mark.parametrize(("kind", "origin"), TABLE)
def test_the_policy_starts_from_its_reference(
    kind: str, origin: str, precomputed: bool, tmp_path: Path, tokenizer: Any
) -> None:
    found = measured(KINDS[kind], origin, tmp_path, tokenizer, precompute_ref_log_probs=precomputed)
    assert found.evaluated == pytest.approx(math.log(2), rel=1e-5)
    assert found.first == pytest.approx(math.log(2), rel=1e-5)
    assert found.accuracies == (0.5, 0.5)
    assert found.after < math.log(2) - 1e-3


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
