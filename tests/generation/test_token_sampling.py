"""Tokens are sampled from the distribution that was asked for, and each row's by its own number alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from prefopt.generation._token_sampling import BLOCK, NUCLEUS, Distribution, uniform_stream

PLAIN = Distribution()


def logits_of(rows: int, vocab: int, dtype: torch.dtype = torch.float64, scale: float = 3.0) -> torch.Tensor:
    return (torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale).to(dtype)


def test_a_stream_depends_on_every_part_of_its_key_and_not_on_its_length() -> None:
    keys = [(0, 1, 2), (1, 1, 2), (0, 2, 1), (0, 12), (0, 1, 3), (0, 1, 1, 2), (0, "1", 2)]
    assert len({tuple(uniform_stream(4, *key).tolist()) for key in keys}) == len(keys)
    assert torch.equal(uniform_stream(99, 0, 1, 2)[:40], uniform_stream(40, 0, 1, 2))


def test_streams_stay_what_they_were() -> None:
    """Responses that are already on disk were sampled by these numbers."""
    assert uniform_stream(2, 0, 1, 2).tolist() == [0.5848922434555381, 0.8920124471088479]


@pytest.mark.parametrize("vocab", [1, 5, BLOCK, 1000, 3 * BLOCK + 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_token_lies_at_its_quantile(vocab: int, dtype: torch.dtype) -> None:
    logits, uniforms = logits_of(500, vocab, dtype), torch.rand(500, dtype=torch.float64)
    tokens, logps = PLAIN.sample(logits, uniforms)
    cumulative = torch.cat([torch.zeros(500, 1), logits.double().softmax(-1).cumsum(-1)], 1)
    below, upto = (cumulative.gather(1, tokens[:, None] + i)[:, 0] for i in (0, 1))
    slack = 1e-12 if dtype == torch.float64 else 1e-5
    assert bool(((below - slack <= uniforms) & (uniforms <= upto + slack)).all())
    expected = logits.double().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logps.double(), expected, atol=10 * slack, rtol=0)
    assert logps.dtype == torch.promote_types(dtype, torch.float32)


def test_a_row_does_not_depend_on_the_others() -> None:
    logits, uniforms = logits_of(64, 1000, torch.float32), torch.rand(64, dtype=torch.float64)
    together = PLAIN.sample(logits, uniforms)
    for row in range(64):
        alone = PLAIN.sample(logits[row : row + 1], uniforms[row : row + 1])
        assert all(torch.equal(a, b[row : row + 1]) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("gap", [1, BLOCK])
def test_a_token_without_probability_is_never_sampled(gap: int) -> None:
    """Not at the ends of the interval either; the other tokens have an interval each, in the order of their ids."""
    scores = torch.full((4, 4 * gap + 1), -torch.inf)
    scores[:, gap], scores[:, 3 * gap] = math.log(0.25), math.log(0.75)
    quantiles = torch.tensor([0.0, 0.2, 0.3, 1 - 2**-53], dtype=torch.float64)
    tokens, logps = PLAIN.sample(scores, quantiles)
    assert tokens.tolist() == [gap, gap, 3 * gap, 3 * gap]
    torch.testing.assert_close(logps.exp(), torch.tensor([0.25, 0.25, 0.75, 0.75]))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 7},
        {"top_k": 10**6},
        {"top_p": 0.5},
        {"top_p": 0.999},
        {"top_p": 1e-9},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.8},
        {"temperature": 1.4, "top_k": 300, "top_p": 0.9, "repetition_penalty": 1.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_shape_is_that_of_transformers(settings: dict[str, Any], scale: float) -> None:
    logits = logits_of(6, 1000, scale=scale)
    ids = torch.randint(0, 1000, (6, 30), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(6, 1000, dtype=torch.bool).scatter(1, ids, True)
    made = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
    }
    processors = LogitsProcessorList([make(settings[name]) for name, make in made.items() if name in settings])
    torch.testing.assert_close(Distribution(**settings).adjusted(logits, seen), processors(ids, logits.clone()))


def test_a_nucleus_may_be_large_and_keeps_ties() -> None:
    kept = Distribution(top_p=0.5).adjusted(torch.zeros(2, 10 * NUCLEUS)).isfinite()
    assert bool(kept.all())
    flat = torch.linspace(0, 0.01, 100 * NUCLEUS, dtype=torch.float64)[None]
    assert int(Distribution(top_p=0.5).adjusted(flat).isfinite().sum()) == pytest.approx(50 * NUCLEUS, rel=0.01)


def test_log_probs_are_the_policys_own_whatever_is_sampled_from() -> None:
    logits, uniforms = logits_of(50, 300), torch.rand(50, dtype=torch.float64)
    seen = logits > 1
    for settings in ({"temperature": 0.5}, {"temperature": 0}, {"top_k": 2, "repetition_penalty": 2.0}, {"top_p": 0.3}):
        tokens, logps = Distribution(**settings).sample(logits, uniforms, seen)
        torch.testing.assert_close(logps, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0])


def test_greedy_takes_the_likeliest_after_the_penalty() -> None:
    logits = torch.tensor([[2.0, 1.5, -1.0], [-1.0, -1.2, -3.0]])
    greedy, seen = Distribution(temperature=0, repetition_penalty=1.5), torch.tensor([[True, False, False]] * 2)
    assert greedy.sample(logits, torch.zeros(2), seen)[0].tolist() == [1, 1]
    assert Distribution(temperature=0).sample(logits, torch.zeros(2))[0].tolist() == [0, 0]


@pytest.mark.parametrize(("name", "value"), [("repetition_penalty", 0.0), ("top_p", 0.0), ("temperature", math.nan)])
def test_settings_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Distribution(**{name: value})
