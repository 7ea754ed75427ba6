"""Supervised fine-tuning: the likelihood of the best response, whether a row has one response or lists several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..batch import Batch, Outputs
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


@dataclass(kw_only=True)
class SFT(Objective):
    """Cross-entropy on the first response of each row, averaged over its tokens.

    Llama 2, arXiv:2307.09288, sections 3.1 (answer tokens only) and 3.2.3 (the best of K samples). Rows list their
    best response first, so no score is read here.
    """

    wants = frozenset({"top1"})
    responses = 1

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """The term "likelihood" per token of the best responses, and the share of tokens that were the likeliest."""
        logps, mask = upcast(out.required("logps"))[:, 0], batch.loss_mask[:, 0]
        nll, tokens = likelihood_loss(logps, mask).sum(), mask.sum()
        hits = masked_sum(upcast(out.required("top1"))[:, 0], mask).sum()
        return Loss({"likelihood": Term(nll, "best_tokens")}, {"mean_token_accuracy": Metric(hits.detach(), tokens)})


NAMES = {"sft": SFT()}

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"BestOf": "SFT"})
