"""Which position is read for which token: a value must not see its token, a score must; user turns do not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn

from prefopt import SFTConfig, SFTTrainer
from prefopt.data.collate import collate
from prefopt.models.forward import forward
from prefopt.models.heads import scorer_from_policy
from tests.helpers.models import tiny, tiny_llama
from tests.helpers.training import quiet

BOTH = frozenset({"values", "scores"})


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_value_does_not_see_its_token_and_a_score_does(family: str) -> None:
    scorer = scorer_from_policy(tiny(family, torch.float32))
    row = {"prompt_ids": [5, 6, 7], "response_ids": [[8, 9, 10, 11, 12], [13, 14, 15]]}
    before = forward(scorer, collate([row]), BOTH)
    for t in range(5):
        changed = [*row["response_ids"][0]]
        changed[t] = 40
        after = forward(scorer, collate([row | {"response_ids": [changed, row["response_ids"][1]]}]), BOTH)
        assert torch.equal(after.values[0, 0, : t + 1], before.values[0, 0, : t + 1])
        assert (after.values[0, 0, t + 1 :] != before.values[0, 0, t + 1 :]).all()
        assert after.scores[0, 0] != before.scores[0, 0]
        assert torch.equal(after.scores[0, 1], before.scores[0, 1])


def test_a_log_prob_sees_its_token_and_those_before() -> None:
    model = tiny("llama", torch.float32)
    response = [8, 9, 10, 11]
    before = forward(model, collate([{"prompt_ids": [5, 6], "response_ids": [response]}]), frozenset({"logps"})).logps
    for t in range(4):
        changed = [*response]
        changed[t] = 40
        rows = [{"prompt_ids": [5, 6], "response_ids": [changed]}]
        after = forward(model, collate(rows), frozenset({"logps"})).logps
        assert torch.equal(after[0, 0, :t], before[0, 0, :t])
        assert (after[0, 0, t:] != before[0, 0, t:]).all()


ROWS = [
    # Three assistant turns: what the user says in between is attended to, and not trained on.
    {
        "prompt_ids": [5, 6, 7],
        "response_ids": [[20, 21, 1, 30, 31, 32, 22, 1, 33, 23, 24, 25, 1]],
        "loss_mask": [[1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1]],
    },
    {"prompt_ids": [8], "response_ids": [[40, 1]], "loss_mask": [[1, 1]]},
]


def test_loss_over_three_turns_is_a_masked_cross_entropy(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny_llama(dtype=torch.float64)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in ROWS:
        ids, mask = row["prompt_ids"] + row["response_ids"][0], [0] * len(row["prompt_ids"]) + row["loss_mask"][0]
        labels = torch.tensor([i if m else -100 for i, m in zip(ids, mask, strict=True)])
        logits = model(torch.tensor([ids])).logits[0, :-1]
        total = total + nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
        count += sum(mask)
    args = SFTConfig(**quiet(tmp_path, per_device_eval_batch_size=2))
    rows = Dataset.from_list(ROWS)
    loss = SFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer).evaluate(rows)["eval_loss"]
    assert count == 11
    assert loss == pytest.approx((total / count).item(), rel=1e-9)


def test_words_of_a_later_user_turn_change_only_what_follows() -> None:
    model, batch = tiny("llama", torch.float32), collate(ROWS)
    logps = forward(model, batch, frozenset({"logps"})).logps
    batch["response_ids"] = batch.response_ids.clone()
    batch["response_ids"][0, 0, 4] = 50
    other = forward(model, batch, frozenset({"logps"})).logps
    assert torch.equal(other[0, 0, :4], logps[0, 0, :4]) and torch.equal(other[1], logps[1])
    assert (other[0, 0, 5:] != logps[0, 0, 5:]).all()
