"""Reward modelling: the Bradley-Terry loss on pairs, with Llama 2's margins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch, Outputs
from ..grades import GRADES
from ..utils.options import option
from ..utils.tensors import masked_sum, upcast, wins
from .base import Loss, Metric, Objective, Term, mean_of

MARGINS = {
    "none": (0.0, 0.0, 0.0, 0.0),
    "small": (1.0, 2 / 3, 1 / 3, 0.0),
    "large": (3.0, 2.0, 1.0, 0.0),
}
"""The required gap m(r) between two scores for each of GRADES: Llama 2, arXiv:2307.09288, table 27."""


def bradley_terry_loss(scores: Tensor, margin: Tensor | float = 0.0, *, label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood that the chosen response wins, with a required margin.

        -(1 - a) log sigmoid(r_w - r_l - m)  -  a log sigmoid(-(r_w - r_l - m))

    Llama 2, arXiv:2307.09288, equations 1 and 2 (a = 0); label smoothing as in Secrets of RLHF part II,
    arXiv:2401.06080.

    Args:
        scores: [G, 2], the chosen response's first.
        margin: m, [G] or one number.
        label_smoothing: a, the probability that a label is flipped.

    Returns:
        [G]
    """
    gap = scores[:, 0] - scores[:, 1] - margin
    return -(1 - label_smoothing) * F.logsigmoid(gap) - label_smoothing * F.logsigmoid(-gap)


def centering_loss(scores: Tensor) -> Tensor:
    """Keep the mean score of a pair near zero: (r_w + r_l)^2, arXiv:2312.09244. scores: [G, 2] -> [G]"""
    return scores.sum(-1) ** 2


@dataclass(kw_only=True)
class RewardArguments:
    """The hyperparameters of a reward model, shared by the objective and `RewardConfig`."""

    margin: str = option(
        "auto",
        "Required gap between the scores of a pair. `column` takes the dataset's `margin`, `small` and "
        "`large` are Llama 2's tables for the `grade` column, `none` asks for no gap, `auto` takes what the "
        "dataset has: the margin column, else the small table, else none.",
        choices=["auto", "column", "small", "large", "none"],
    )
    label_smoothing: float = option(0.0, "Probability that a label is taken to be flipped, in [0, 0.5).")
    center_rewards_coefficient: float | None = option(
        None, "Weight of the mean squared sum of a pair's scores; 0.01 is usual."
    )
    lm_coefficient: float = option(
        0.0, "Weight of the language-modelling loss on the chosen response (Secrets of RLHF, eq. 2)."
    )


@dataclass(kw_only=True)
class BradleyTerry(RewardArguments, Objective):
    """A reward model that learns from pairs to score the chosen response higher (Bradley-Terry).

    Llama 2, arXiv:2307.09288, section 3.2.2, whose margins by grade it can have; Secrets of RLHF part II,
    arXiv:2401.06080, whose language-modelling loss it can have.
    """

    trains = "scorer"
    responses = 2

    def __post_init__(self) -> None:
        if self.margin not in ("auto", "column", *MARGINS):
            raise ValueError(f"margin={self.margin!r}: choose auto, column or one of {', '.join(MARGINS)}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing={self.label_smoothing} must lie in [0, 0.5)")

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"logps"} if self.lm_coefficient else ())

    def rows_lack(self, columns: frozenset[str]) -> str | None:
        """Say which column a margin is to be read from that is not there."""
        column = {"column": "margin", "small": "grade", "large": "grade"}.get(self.margin)
        if column is None or column in columns:
            return None
        values = f"one of {', '.join(GRADES)}" if column == "grade" else "a number"
        return (
            f"margin={self.margin!r} needs the column `{column}` with {values}, and these rows have only "
            f"{', '.join(sorted(columns))}: add it, or leave margin out, which takes what the rows have"
        )

    def rows_differ(self, columns: frozenset[str], held_out: frozenset[str]) -> str | None:
        """Say where `auto` finds margins in one of them, and none in the other or of another column."""
        source, other = (_margin_column(given) for given in (columns, held_out))
        if self.margin != "auto" or source == other:
            return None
        return (
            f"margin='auto' takes {f'margins from the column `{other}`' if other else 'no margins'} here, and "
            f"{f'from `{source}`' if source else 'none'} in the training rows: eval_loss is another measure than the "
            "training loss; give both the same columns, or set margin to none"
        )

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """The term "bradley_terry" and, where they have a weight, "centering" and "lm"; scores as rewards [G, 2]."""
        scores, pairs = upcast(out.required("scores")), batch.present.all(-1)
        losses = bradley_terry_loss(scores, self.margins(batch, scores), label_smoothing=self.label_smoothing)
        terms = {"bradley_terry": Term(losses[pairs].sum(), "prompts")}
        if self.center_rewards_coefficient:
            centering = centering_loss(scores)[pairs].sum()
            terms["centering"] = Term(centering, "prompts", self.center_rewards_coefficient)
        if self.lm_coefficient:
            nll = -masked_sum(out.required("logps")[:, 0], batch.loss_mask[:, 0]).sum()
            terms["lm"] = Term(nll, "best_tokens", self.lm_coefficient)
        return Loss(terms, reward_metrics(scores.detach(), batch), scores.detach())

    def margins(self, batch: Batch, scores: Tensor) -> Tensor | float:
        """The required gap between the scores of each pair.

        Args:
            scores: gives dtype and device.

        Returns:
            [G], or 0 where neither the settings nor the batch ask for a gap.

        Raises:
            ValueError: the dataset lacks the column that `margin` asks for.
        """
        if lacking := self.rows_lack(frozenset(batch)):
            raise ValueError(lacking)
        if self.margin in ("auto", "column") and "margin" in batch:
            return batch.margin.to(scores.dtype)
        if "grade" not in batch:
            return 0.0
        table = "small" if self.margin == "auto" else self.margin
        # The appended zero is what grade -1, unknown, picks.
        return scores.new_tensor((*MARGINS[table], 0.0))[batch.grade]


def _margin_column(columns: frozenset[str]) -> str | None:
    """From which column `auto` takes margins."""
    return next((name for name in ("margin", "grade") if name in columns), None)


def reward_metrics(scores: Tensor, batch: Batch) -> dict[str, Metric]:
    """What is logged: accuracy (a tie counts one half), margin, the range of scores, and accuracy by grade.

    Args:
        scores: [G, 2], the chosen response's first.
    """
    present = batch.present
    pairs, any_row = present.all(-1), present.sum()
    correct, gap = wins(scores[:, 0], scores[:, 1]), scores[:, 0] - scores[:, 1]
    metrics = {
        "accuracy": mean_of(correct, pairs),
        "margin": mean_of(gap, pairs),
        "mean_reward": mean_of(scores, present),
        "min_reward": Metric(scores.masked_fill(~present, torch.inf).min(), any_row, "min"),
        "max_reward": Metric(scores.masked_fill(~present, -torch.inf).max(), any_row, "max"),
    }
    if "grade" in batch:
        metrics |= {f"accuracy/{name}": mean_of(correct, pairs & (batch.grade == i)) for i, name in enumerate(GRADES)}
    return metrics


NAMES = {"reward": BradleyTerry()}
