"""Models whose rotary frequencies depend on how long the input is: a row's outputs are those that it has alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from prefopt.data.collate import collate
from prefopt.models import load_scorer
from prefopt.models.forward import forward
from prefopt.models.layout_selection import request_layout, select_layout
from tests.helpers.rope import MODELS, alone, make


def rows() -> list[dict[str, Any]]:
    """Responses on both sides of the limit, at it and one beyond, some to the same prompt; and an absent row."""
    torch.manual_seed(1)
    lengths = [(5, [4, 30]), (12, [8, 9]), (7, [2, 3]), (25, [6, 1]), (1, [19]), (30, [40, 2])]

    def ids(count: int) -> list[int]:
        return torch.randint(2, 61, (count,)).tolist()

    present = [{"prompt_ids": ids(prompt), "response_ids": [ids(n) for n in counts]} for prompt, counts in lengths]
    return [*present[:2], {"prompt_ids": [], "response_ids": []}, *present[2:]]


@pytest.mark.parametrize("layout", ["auto", "padded", "segments", "dense"])
@pytest.mark.parametrize("name", MODELS)
def test_log_probs_are_those_of_each_row_alone(name: str, layout: str) -> None:
    model, batch = make(name), collate(rows())
    pristine = copy.deepcopy(model)
    request_layout(model, layout)
    for _ in range(2):  # the second time after the longest row of the first
        logps = forward(model, batch, frozenset({"logps"})).required("logps")
        for row, of_row in zip(rows(), logps, strict=True):
            for response, of_response in zip(row["response_ids"], of_row, strict=False):
                expected = alone(pristine, row["prompt_ids"], response)
                torch.testing.assert_close(of_response[: len(response)], expected, rtol=1e-6, atol=1e-6)
                assert not of_response[len(response) :].any()
    if layout == "auto":
        selection = select_layout(model, torch.device("cpu"), lambda compute: compute())
        assert selection.layout == "segments", "packed rows would be right here too"


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_as_transformers_runs_it_differs(name: str) -> None:
    """What this is about: if transformers computes by rows one day, the room can go."""
    model, (short, long) = make(name), torch.randint(2, 61, (1, 68)).split([8, 60], 1)
    ids = torch.cat([torch.nn.functional.pad(short, (52, 0)), long])
    mask = torch.ones_like(ids)
    mask[0, :52] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[0, 52:]
        expected = make(name)(input_ids=short).logits[0]
    assert (together - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_rows_alone(name: str) -> None:
    model, expected = make(name), make(name)
    model.gradient_checkpointing_enable()
    model.train()
    forward(model, collate(rows()), frozenset({"logps"})).required("logps").sum().backward()
    for row in rows():
        for response in row["response_ids"]:
            fresh = make(name)
            ids = torch.tensor([row["prompt_ids"] + response])
            logps = fresh(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            logps[-len(response) :].sum().backward()
            for total, part in zip(expected.parameters(), fresh.parameters(), strict=True):
                total.grad = part.grad if total.grad is None else total.grad + part.grad
    for (_, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["llama, dynamic", "phi3, longrope"])
def test_scores_are_those_of_each_row_alone(name: str) -> None:
    scorer: Any = load_scorer(make(name))
    nn.init.normal_(scorer.score.weight)
    pristine = copy.deepcopy(scorer)
    scores = forward(scorer, collate(rows()), frozenset({"scores"})).required("scores")
    for row, of_row in zip(rows(), scores, strict=True):
        for response, score in zip(row["response_ids"], of_row, strict=False):
            states = copy.deepcopy(pristine).model(input_ids=torch.tensor([row["prompt_ids"] + response]))[0]
            expected = pristine.score(states[0, -1].float())[0]
            torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)
