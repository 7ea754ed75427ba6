"""RRHF against numbers worked by hand, against its published procedure on padded arrays, and at its edges."""

from __future__ import annotations

from math import nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefopt.batch import Batch, Outputs
from prefopt.objectives.rrhf import MODES, NAMES, RRHF, RRHFArguments
from tests.helpers.objectives import make, mapped, numbers

# Two prompts, all tokens counted. Sums of log-probs, lengths, log-probs per token, scores; the prompts have 3 and 5
# tokens:
#             y0                  y1                  y2
#   prompt 0  -2.0 of 4 = -.50    -3.0 of 2 = -1.5    -0.8 of 1 = -.80     scores 1, 3, 2
#   prompt 1  -1.5 of 3 = -.50    -0.5 of 2 = -.25    absent               scores 7, 5
LOGPS, LENGTHS = [[-2.0, -3.0, -0.8], [-1.5, -0.5, 0.0]], [[4, 2, 1], [3, 2, 0]]
SCORES, PROMPTS = [[1.0, 3.0, 2.0], [7.0, 5.0, 0.0]], [3, 5]
# Prompt 0, better over worse:
#   y1 over y0: max(0, -.50 + 1.5) = 1.0    y1 over y2: max(0, -.80 + 1.5) = .7    y2 over y0: max(0, -.50 + .80) = .3
# Prompt 1: y0 over y1: max(0, -.25 + .50) = .25
RANK = (1.0 + 0.7 + 0.3 + 0.25) / 2
# The best are y1 and y0: -3.0 of 2 tokens and -1.5 of 3.


def world(logps=LOGPS, lengths=LENGTHS, scores=SCORES, prompts=PROMPTS, dtype=torch.float64) -> tuple[Batch, Outputs]:
    """Rows whose responses have these sums, spread evenly over their tokens; no score column for None."""
    n, p = torch.tensor(lengths), torch.tensor(prompts)
    mask = torch.arange(int(n.max())) < n[..., None]
    spread = (torch.tensor(logps, dtype=dtype)[..., None] / n[..., None].clamp(min=1)).expand(mask.shape) * mask
    batch = Batch(response_mask=mask, loss_mask=mask, prompt_mask=torch.arange(int(p.max())) >= p.max() - p[:, None])
    if scores is not None:
        batch = batch.with_columns(score=torch.tensor(scores))
    return batch, Outputs(logps=spread.clone().requires_grad_())


def value(objective: RRHF, batch: Batch, out: Outputs) -> float:
    return float(objective.loss(out, batch).reduced(objective.sizes(batch)).detach())


def terms(objective: RRHF, batch: Batch, out: Outputs) -> dict[str, float]:
    """Each term over its units, unweighted."""
    units, loss = objective.sizes(batch), objective.loss(out, batch)
    return {name: float(term.total.detach() / units[term.unit]) for name, term in loss.terms.items()}


def metrics(objective: RRHF, batch: Batch, out: Outputs) -> dict[str, float]:
    return {name: float(m.total / m.count) for name, m in objective.loss(out, batch).metrics.items()}


def test_by_hand_per_token():
    """(3.0 + 1.5) / (2 + 3) tokens = .9"""
    assert terms(RRHF(mode="mean"), *world()) == pytest.approx({"rank": RANK, "likelihood": 0.9}, rel=1e-12)
    assert value(RRHF(mode="mean"), *world()) == pytest.approx(RANK + 0.9, rel=1e-12)
    assert value(RRHF(mode="mean", rrhf_weight=10.0), *world()) == pytest.approx(10 * RANK + 0.9, rel=1e-12)


def test_by_hand_as_in_the_paper():
    """(3.0 + 1.5) / 2 prompts = 2.25"""
    assert terms(RRHF(mode="paper"), *world()) == pytest.approx({"rank": RANK, "likelihood": 2.25}, rel=1e-12)


def test_by_hand_as_in_the_released_code():
    """Divided by 3 + 4 = 7 and 5 + 3 = 8 tokens.

    Prompt 0: y1 over y0: (-2.0 + 3.0) / 7, y1 over y2: (-0.8 + 3.0) / 7, y2 over y0: max(0, -2.0 + .8) = 0.
    Prompt 1: y0 over y1: (-0.5 + 1.5) / 8. Likelihoods: 3.0 / 7 and 1.5 / 8.
    """
    want = {"rank": ((1.0 + 2.2) / 7 + 1.0 / 8) / 2, "likelihood": (3.0 / 7 + 1.5 / 8) / 2}
    assert terms(RRHF(mode="code"), *world()) == pytest.approx(want, rel=1e-12)


def published(
    prompts: list[int], responses: list[list[list[float]]], scores: list[list[float]], weight: float
) -> float:
    """What the authors' program computes, one prompt on a device: pad, gather, divide by the padded length.

    Log-probs stand where the next token is predicted; padding and prompt have the label 0 by the time lengths are
    taken, so every position counts.
    """
    total = 0.0
    for prompt, candidates, rewards in zip(prompts, responses, scores, strict=True):
        width = max(prompt + len(candidate) for candidate in candidates)
        lines = [[0.0] * (prompt - 1) + c + [0.0] * (width - prompt + 1 - len(c)) for c in candidates]
        p = [sum(line) / len(line) for line in lines]
        pairs = [(i, j) for i in range(len(p)) for j in range(len(p))]
        rank = sum(p[i] - p[j] for i, j in pairs if rewards[j] - rewards[i] > 0 and p[j] - p[i] < 0)
        best = max(range(len(p)), key=lambda k: rewards[k])  # the first of several
        total += weight * rank - sum(lines[best]) / len(lines[best])
    return total / len(prompts)


@given(seed=st.integers(0, 2**16))
def test_code_mode_is_the_published_procedure(seed: int):
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, 5, (5,), generator=g).tolist()
    prompts = torch.randint(1, 9, (5,), generator=g).tolist()
    lengths = [[*torch.randint(1, 7, (k,), generator=g).tolist(), *[0] * (4 - k)] for k in counts]
    logps = -torch.rand(5, 4, 6, generator=g, dtype=torch.float64)
    scores = torch.randint(0, 4, (5, 4), generator=g).double()  # with ties
    batch, _ = world([[0.0] * 4] * 5, lengths, scores.tolist(), prompts)
    out = Outputs(logps=logps[..., : batch.loss_mask.shape[-1]])
    written = [[logps[i, k, : lengths[i][k]].tolist() for k in range(counts[i])] for i in range(5)]
    want = published(prompts, written, [row[:k] for row, k in zip(scores.tolist(), counts, strict=True)], weight=3.0)
    assert value(RRHF(mode="code", rrhf_weight=3.0), batch, out) == pytest.approx(want, rel=1e-12)


def test_two_responses_are_a_hinge_on_a_pair():
    """Per token -1 and -.5, -1 and -1.5: max(0, -.5 + 1) and max(0, -1.5 + 1); the chosen have 4 and 3 tokens."""
    pairs = world([[-4.0, -1.0], [-3.0, -3.0]], [[4, 2], [3, 2]], None, [1, 1])
    assert terms(RRHF(mode="mean"), *pairs) == pytest.approx(
        {"rank": (0.5 + 0.0) / 2, "likelihood": 7.0 / 7}, rel=1e-12
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_row_without_scores_is_ranked_best_first(mode: str):
    """No score column, a row whose scores are all unknown, and descending scores are the same."""
    batch, out = world(scores=None)
    want = numbers(RRHF(mode=mode).loss(out, batch))
    for scores in ([[nan] * 3] * 2, [[3.0, 2.0, 1.0], [nan, nan, 0.0]], [[9.0, 8.0, -1.0], [2.0, 1.0, 0.0]]):
        assert numbers(RRHF(mode=mode).loss(out, world(scores=scores)[0])) == want


def test_a_response_without_a_score_beside_others_is_compared_with_none():
    """y0 over y2: max(0, -.80 + .50) = 0, so prompt 0 adds nothing. Its best is y0: -2.0 of 4 tokens."""
    got = terms(RRHF(mode="mean"), *world(scores=[[3.0, nan, 2.0], SCORES[1]]))
    assert got == pytest.approx({"rank": 0.25 / 2, "likelihood": (2.0 + 1.5) / (4 + 3)}, rel=1e-12)


def test_equal_scores_are_skipped_and_the_first_of_the_best_is_imitated():
    """y1 over y0 and y2 over y0 remain of prompt 0: 1.0 + .3; y1 and y2 are both best. Prompt 1 is a tie."""
    batch, out = world(scores=[[1.0, 3.0, 3.0], [5.0, 5.0, 0.0]])
    assert terms(RRHF(mode="mean"), batch, out) == pytest.approx(
        {"rank": (1.0 + 0.3) / 2, "likelihood": 4.5 / 5}, rel=1e-12
    )
    loss = RRHF(mode="mean").loss(out, batch)
    assert {name: float(m.count) for name, m in loss.metrics.items() if name.startswith("rewards")} == {
        "rewards/accuracies": 2, "rewards/margins": 2, "rewards/chosen": 2, "rewards/rejected": 3,
    }  # fmt: skip


@pytest.mark.parametrize("scores", [[9.0, 2.0, 1.0], [-9.0, 2.0, 1.0], [nan, 2.0, 1.0]])
def test_an_absent_response_is_no_candidate_wherever_it_stands(scores: list[float]):
    """Whatever its score. y1 over y2: -.50 and -.25 per token."""
    batch, out = world([[0.0, -1.5, -0.5]], [[0, 3, 2]], [scores], [5])
    assert terms(RRHF(mode="mean"), batch, out) == pytest.approx({"rank": 0.25, "likelihood": 0.5}, rel=1e-12)
    assert terms(RRHF(mode="mean"), *world([[0.0, -1.5, -0.5]], [[0, 3, 2]], None, [5])) == pytest.approx(
        {"rank": 0.25, "likelihood": 0.5}, rel=1e-12
    )
    assert [float(m.count) for m in RRHF(mode="mean").loss(out, batch).metrics.values()] == [1] * 9


def test_the_gradient_of_a_pair():
    """Out of order: 1 / |y| on every token of the worse, -1 / |y| on the better. In order or level: none at all."""
    batch, _ = world([[0.0, 0.0]], [[2, 4]], [[1.0, 0.0]], [3])

    def gradient(better: float, worse: float) -> Tensor:
        logps = torch.tensor([[[better] * 2 + [0.0] * 2, [worse] * 4]], dtype=torch.float64, requires_grad=True)
        rank = RRHF(mode="mean").loss(Outputs(logps=logps), batch).terms["rank"].total
        return torch.autograd.grad(rank, logps)[0][0]

    torch.testing.assert_close(gradient(-2.0, -1.0), torch.tensor([[-0.5] * 2 + [0] * 2, [0.25] * 4]).double())
    assert not gradient(-1.0, -1.0).any() and not gradient(-1.0, -2.0).any()


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 2**16))
def test_with_scores_the_order_of_responses_changes_nothing(mode: str, seed: int):
    batch, out = make(RRHF(mode="mean"), seed=seed)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    moved = Batch({n: c[:, order] if n.startswith(("response", "loss", "score")) else c for n, c in batch.items()})
    objective = RRHF(mode=mode)
    want, got = (numbers(objective.loss(o, b)) for o, b in ((out, batch), (mapped(out, lambda v: v[:, order]), moved)))
    assert got == pytest.approx(want, rel=1e-12, abs=1e-12)
    assert objective.sizes(moved) == objective.sizes(batch)


def test_metrics_have_dpo_s_names_with_p_as_the_reward():
    """Of four ordered pairs none is in order; the gaps are -1.0, -.7, -.3 and -.25."""
    assert metrics(RRHF(mode="mean"), *world()) == pytest.approx({
        "rewards/accuracies": 0.0, "rewards/margins": -2.25 / 4, "rank/active": 1.0,
        "rewards/chosen": -(1.5 + 0.5) / 2, "rewards/rejected": -(0.50 + 0.80 + 0.25) / 3,
        "logps/chosen": -(3.0 + 1.5) / 2, "logps/rejected": -(2.0 + 0.8 + 0.5) / 3,
        "lengths/chosen": 2.5, "lengths/rejected": 7 / 3,
    })  # fmt: skip
    code = metrics(RRHF(mode="code"), *world())
    assert code["rewards/accuracies"] == 0.25 and code["rank/active"] == 0.75
    level = metrics(RRHF(mode="mean"), *world([[-1.0, -1.0 - 1e-9]], [[1, 1]], None, [1]))
    assert level["rewards/accuracies"] == 0.5


def test_half_precision_log_probs_are_summed_in_float32():
    batch, out = world(dtype=torch.bfloat16)
    loss = RRHF(mode="mean").loss(out, batch)
    assert loss.rewards.dtype == loss.terms["rank"].total.dtype == torch.float32


def test_whole_numbers_are_scores_too():
    batch, out = world()
    assert value(RRHF(mode="mean"), batch.with_columns(score=batch.score.long()), out) == value(
        RRHF(mode="mean"), batch, out
    )


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"mode": "papers"}, "mode='papers': choose one of paper, mean, code"),
        ({"rrhf_weight": -1.0}, "rrhf_weight=-1.0 must not be below 0"),
        ({"rrhf_weight": nan}, "rrhf_weight=nan must not be below 0"),
    ],
)
def test_what_makes_no_sense_is_refused(knobs: dict, message: str):
    with pytest.raises(ValueError, match=message):
        RRHF(**knobs)


def test_names_and_flags():
    from transformers import HfArgumentParser

    assert {name: objective.mode for name, objective in NAMES.items()} == {
        "rrhf": "paper", "rrhf-mean": "mean", "rrhf-code": "code",
    }  # fmt: skip
    parser = HfArgumentParser(RRHFArguments)
    (parsed,) = parser.parse_args_into_dataclasses(["--mode", "code", "--rrhf_weight", "100"])
    assert RRHF(**vars(parsed)) == RRHF(mode="code", rrhf_weight=100.0)
    assert RRHF(**vars(parser.parse_args_into_dataclasses([])[0])) == RRHF()
