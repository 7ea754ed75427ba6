"""RRHF: the log-probs of K responses learn the order of their scores, and the best response is imitated.

Rank Responses to Align Language Models with Human Feedback without tears, arXiv:2304.05302, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.options import changed, option
from ..utils.tensors import masked_sum, upcast, wins
from .base import Loss, Metric, Objective, Term, mean_of
from .sampling_arguments import IterationArguments

MODES = ("paper", "mean", "code")


def ranking_loss(values: Tensor, worse: Tensor) -> Tensor:
    """How far responses stand above better ones: sum over r_i < r_j of max(0, p_i - p_j).

    Equation 2: no margin, and no gradient from a pair that is in order or level.

    Args:
        values: [G, K], the p of each response.
        worse: [G, K, K] bool, True at i, j where r_i < r_j.

    Returns:
        [G]
    """
    gaps = values[:, :, None] - values[:, None, :]
    return F.relu(gaps).masked_fill(~worse, 0.0).sum((1, 2))


def known_scores(batch: Batch) -> Tensor:
    """The scores r by which a row's responses are ordered.

    A row without a single score, such as a preference pair, counts as ranked best first. Where others of its row have a
    score, a response without one is compared with none.

    Returns:
        [G, K], NaN for a response that has no place in the order.
    """
    present = batch.present
    listed_order = -torch.arange(present.shape[1], device=present.device, dtype=torch.float32)
    if "score" not in batch:
        return listed_order.expand(present.shape).masked_fill(~present, torch.nan)
    scores = upcast(batch.score).masked_fill(~present, torch.nan)
    unscored = scores.isnan().all(-1, keepdim=True)
    return torch.where(unscored & present, listed_order.to(scores.dtype), scores)


def best_mask(scores: Tensor) -> Tensor:
    """Which response of each row has the highest score; of several the one that is listed first.

    Args:
        scores: [G, K], NaN for a response that has no score.

    Returns:
        [G, K] bool, True at most once in a row.
    """
    highest = scores.masked_fill(scores.isnan(), -torch.inf).argmax(-1, keepdim=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, highest, True) & ~scores.isnan()


@dataclass(kw_only=True)
class RRHFArguments(IterationArguments):
    """The hyperparameters of RRHF, shared by the objective and `RRHFConfig`.

    Those of sampling have the paper's values (section 4.1): four responses beside the dataset's own two, sampled once.
    """

    responses_per_prompt: int = changed(IterationArguments, "responses_per_prompt", 4)
    iterations: int = changed(IterationArguments, "iterations", 1)
    prior_top_n: int | None = changed(IterationArguments, "prior_top_n", 0)
    dataset_responses: bool = changed(IterationArguments, "dataset_responses", True)

    rrhf_weight: float = option(
        1.0,
        "Weight of the ranking loss beside the likelihood of the best response. The paper and its scripts "
        "have 1 (there, 10 and 100 did worse), though the released code's own default is 100.",
    )
    mode: str = option(
        "paper",
        "`paper` ranks by log-prob per token and adds up the best response's tokens. `mean` averages over "
        "them instead, which leaves the ranking about as many times more weight as a response has tokens; `code` "
        "divides by the tokens of the prompt and its longest response, as the released code does, which ranks "
        "responses by their sums.",
        choices=list(MODES),
    )


@dataclass(kw_only=True)
class RRHF(RRHFArguments, Objective):
    """Ranking and likelihood of the best response, L = rrhf_weight L_rank + L_ft, arXiv:2304.05302, section 3.

        p_i = sum_t log pi(y_it | x, y_i<t) / |y_i|        L_rank = sum over r_i < r_j of max(0, p_i - p_j)

    `paper`, the default: L_ft is a sum over the best response's tokens, and both are means over prompts. `mean`: L_ft
    is a mean over the best responses' tokens, beside which the ranking weighs as much more as a response has tokens; it
    wants a smaller rrhf_weight, since nothing but L_ft keeps what the ranking pushes down from going anywhere.

    `code` is what the authors' program computes. A buffer that it changes in place makes it divide log-probs by the
    padded length of prompt and response, in place of |y_i|, and the likelihood is a mean over the same. As it has one
    prompt on a device, that is the prompt with its longest response, which is how it is defined here: the result does
    not depend on the batch. All responses to a prompt are then ranked by their *sums*.

    Without a scorer the dataset's responses are ranked. With one, `responses_per_prompt` more are sampled to each
    prompt and all are ranked by the scorer, in every iteration anew.

    Rows need two responses or more, in any order if they have scores; equal scores are not compared, and of equally
    good best responses the first listed is imitated. Without scores a row counts as ranked best first: a preference
    pair is the case K = 2. Rewards in the logs are p, `chosen` is the best response, `rejected` all others.
    """

    fewest = 2

    def __post_init__(self) -> None:
        self.check_iterations()
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r}: choose one of {', '.join(MODES)}")
        if not self.rrhf_weight >= 0:
            raise ValueError(f"rrhf_weight={self.rrhf_weight} must not be below 0: worse responses would rank higher")

    def sizes(self, batch: Batch) -> dict[str, Tensor]:
        """The usual units; "best_tokens" are those of the response with the highest score, wherever it stands."""
        best = best_mask(known_scores(batch))
        return {**super().sizes(batch), "best_tokens": batch.lengths.masked_fill(~best, 0).sum()}

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """The terms "rank" and "likelihood", and p as the rewards [G, K]."""
        logps = masked_sum(upcast(out.required("logps")), batch.loss_mask)
        values = logps / self.divisors(batch)
        scores = known_scores(batch)
        worse, best = scores[:, :, None] < scores[:, None, :], best_mask(scores)
        imitated = values if self.mode == "code" else logps
        likelihood = -imitated.masked_fill(~best, 0.0).sum()
        terms = {
            "rank": Term(ranking_loss(values, worse).sum(), "prompts", self.rrhf_weight),
            "likelihood": Term(likelihood, "best_tokens" if self.mode == "mean" else "prompts"),
        }
        return Loss(terms, rrhf_metrics(values.detach(), logps.detach(), worse, best, batch), values.detach())

    def divisors(self, batch: Batch) -> Tensor:
        """What sums of log-probs are divided by to give p: [G, K], or [G, 1] if responses of a prompt share it."""
        if self.mode != "code":
            return batch.lengths.clamp(min=1)
        lengths = batch.prompt_mask.sum(-1, keepdim=True) + batch.response_mask.sum(-1)
        return lengths.amax(-1, keepdim=True).clamp(min=1)


def rrhf_metrics(values: Tensor, logps: Tensor, worse: Tensor, best: Tensor, batch: Batch) -> dict[str, Metric]:
    """What is logged: DPO's metrics, with p as the reward and every ordered pair as a pair.

    `rank/active` is the share of pairs that the ranking loss still moves.

    Args:
        values: [G, K], the p of each response.
        logps: [G, K], sums over tokens.
        worse: [G, K, K] bool, True at i, j where r_i < r_j.
        best: [G, K] bool, the best response of each row.
    """
    low, high = values[:, :, None].expand(worse.shape), values[:, None, :].expand(worse.shape)
    metrics = {
        "rewards/accuracies": mean_of(wins(high, low), worse),
        "rewards/margins": mean_of(high - low, worse),
        "rank/active": mean_of((low > high).to(values.dtype), worse),
    }
    lengths = batch.lengths.to(values.dtype)
    for side, which in (("chosen", best), ("rejected", batch.present & ~best)):
        metrics[f"rewards/{side}"] = mean_of(values, which)
        metrics[f"logps/{side}"] = mean_of(logps, which)
        metrics[f"lengths/{side}"] = mean_of(lengths, which)
    return metrics


NAMES = {"rrhf": RRHF(), "rrhf-mean": RRHF(mode="mean"), "rrhf-code": RRHF(mode="code")}
