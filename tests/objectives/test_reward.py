"""The reward model's loss on literal numbers: each expected value was worked out by hand, beside its formula."""

from __future__ import annotations

import math

import pytest
import torch

from prefopt.batch import Batch, Outputs
from prefopt.grades import GRADES
from prefopt.objectives.reward import MARGINS, BradleyTerry, bradley_terry_loss, centering_loss


def softplus(x: float) -> float:
    """-log sigmoid(-x)."""
    return math.log1p(math.exp(x))


def pairs(scores: list[list[float]], **columns: torch.Tensor) -> tuple[Outputs, Batch]:
    """Pairs of one-token responses whose scores are known."""
    count = len(scores)
    mask = torch.ones(count, 2, 1, dtype=torch.bool)
    prompts = torch.ones(count, 1, dtype=torch.long)
    masks = {"prompt_mask": prompts.bool(), "response_mask": mask, "loss_mask": mask}
    batch = Batch(prompt_ids=prompts, response_ids=mask.long(), index=torch.arange(count), **masks, **columns)
    return Outputs(scores=torch.tensor(scores, dtype=torch.float64)), batch


def test_bradley_terry() -> None:
    """-log sigmoid(r_w - r_l - m): for 2 against 0.5, softplus(-1.5), and softplus(-1.5 + 1) with a margin of 1."""
    scores = torch.tensor([[2.0, 0.5], [0.5, 2.0]], dtype=torch.float64)
    assert bradley_terry_loss(scores).tolist() == pytest.approx([softplus(-1.5), softplus(1.5)], rel=1e-12)
    assert bradley_terry_loss(scores, 1.0).tolist() == pytest.approx([softplus(-0.5), softplus(2.5)], rel=1e-12)
    own = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert bradley_terry_loss(scores, own).tolist() == pytest.approx([softplus(-0.5), softplus(-0.5)], rel=1e-12)


def test_label_smoothing() -> None:
    """0.9 softplus(-1.5) + 0.1 softplus(1.5), with the margin on both sides of it."""
    scores = torch.tensor([[2.0, 0.5]], dtype=torch.float64)
    expected = 0.9 * softplus(-1.5) + 0.1 * softplus(1.5)
    assert bradley_terry_loss(scores, label_smoothing=0.1).item() == pytest.approx(expected, rel=1e-12)
    expected = 0.9 * softplus(-0.5) + 0.1 * softplus(0.5)
    assert bradley_terry_loss(scores, 1.0, label_smoothing=0.1).item() == pytest.approx(expected, rel=1e-12)


def test_centering() -> None:
    """(r_w + r_l)^2: 2.5^2 and 0."""
    assert centering_loss(torch.tensor([[2.0, 0.5], [1.5, -1.5]])).tolist() == [6.25, 0.0]


def test_the_margins_are_llama_2s() -> None:
    """Table 27: the surer the preference, the larger the gap."""
    assert GRADES == ("significantly", "better", "slightly", "negligibly")
    assert MARGINS["small"] == pytest.approx((1.0, 2 / 3, 1 / 3, 0.0))
    assert MARGINS["large"] == (3.0, 2.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("margin", "gaps"),
    [
        ("none", [0.0] * 5),
        ("small", [1.0, 2 / 3, 1 / 3, 0.0, 0.0]),
        ("large", [3.0, 2.0, 1.0, 0.0, 0.0]),
        ("auto", [1.0, 2 / 3, 1 / 3, 0.0, 0.0]),
    ],
)
def test_each_grade_has_its_gap(margin: str, gaps: list[float]) -> None:
    """The last pair's grade is not known."""
    out, batch = pairs([[1.0, 0.0]] * 5, grade=torch.tensor([0, 1, 2, 3, -1]))
    loss = BradleyTerry(margin=margin).loss(out, batch)
    assert loss.terms["bradley_terry"].total.item() == pytest.approx(sum(softplus(gap - 1) for gap in gaps), rel=1e-12)


@pytest.mark.parametrize("margin", ["column", "auto"])
def test_the_margin_column_counts(margin: str) -> None:
    out, batch = pairs([[1.0, 0.0], [1.0, 0.0]], margin=torch.tensor([0.25, 2.0]))
    total = BradleyTerry(margin=margin).loss(out, batch).terms["bradley_terry"].total.item()
    assert total == pytest.approx(softplus(-0.75) + softplus(1.0), rel=1e-12)


def test_the_terms_and_their_weights() -> None:
    """Two pairs: sums of both terms over pairs, with the weight of the second beside it."""
    out, batch = pairs([[2.0, 0.5], [-1.0, 0.0]])
    loss = BradleyTerry(center_rewards_coefficient=0.01, label_smoothing=0.2).loss(out, batch)
    expected = 0.8 * (softplus(-1.5) + softplus(1.0)) + 0.2 * (softplus(1.5) + softplus(-1.0))
    assert loss.terms["bradley_terry"].total.item() == pytest.approx(expected, rel=1e-12)
    centering = loss.terms["centering"]
    assert (centering.total.item(), centering.weight, centering.unit) == (6.25 + 1.0, 0.01, "prompts")
