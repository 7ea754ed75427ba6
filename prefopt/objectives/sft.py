"""Supervised fine-tuning: the likelihood of the best response, whether a row has one response or lists several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.options import option
from ..utils.renamed import renamed
from ..utils.tensors import masked_sum, upcast
from .base import Loss, Metric, Objective, Term


def likelihood_loss(logps: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of each response: -sum_t log pi(y_t | x, y_<t).

    Args:
        logps: [G, R]
        mask: [G, R] bool, the tokens that count.

    Returns:
        [G]
    """
    return -masked_sum(logps, mask)


def dynamic_loss(logps: Tensor, mask: Tensor) -> Tensor:
    """Likelihood loss of dynamic fine-tuning: each token counts as much as the model finds it probable.

        -sum_t sg[pi(y_t | x, y_<t)] log pi(y_t | x, y_<t)

    DFT, arXiv:2508.05629; sg stops the gradient.

    Args:
        logps: [G, R]
        mask: [G, R] bool, the tokens that count.

    Returns:
        [G]
    """
    return -masked_sum(logps.detach().exp() * logps, mask)


LOSSES = {"nll": likelihood_loss, "dft": dynamic_loss}


@dataclass(kw_only=True)
class SFTArguments:
    """The hyperparameters of supervised fine-tuning, shared by the objective and `SFTConfig`; TRL's names."""

    loss_type: str = option(
        "nll",
        "`nll` is the likelihood of the answer; `dft` weighs each token of it by its probability (arXiv:2508.05629).",
    )


@dataclass(kw_only=True)
class SFT(SFTArguments, Objective):
    """Cross-entropy on the first response of each row, averaged over its tokens.

    Llama 2, arXiv:2307.09288, sections 3.1 (answer tokens only) and 3.2.3 (the best of K samples). Rows list their
    best response first, so no score is read here.
    """

    wants = frozenset({"top1"})
    responses = 1

    def __post_init__(self) -> None:
        if self.loss_type not in LOSSES:
            raise ValueError(f"loss_type={self.loss_type!r}: choose one of {', '.join(LOSSES)}")

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """The term "likelihood" per token of the best responses, and the share of tokens that were the likeliest."""
        logps, mask = upcast(out.required("logps"))[:, 0], batch.loss_mask[:, 0]
        total, tokens = LOSSES[self.loss_type](logps, mask).sum(), mask.sum()
        hits = masked_sum(upcast(out.required("top1"))[:, 0], mask).sum()
        return Loss({"likelihood": Term(total, "best_tokens")}, {"mean_token_accuracy": Metric(hits.detach(), tokens)})


NAMES = {"sft": SFT()}

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"BestOf": "SFT"})
