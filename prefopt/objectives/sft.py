"""Likelihood of the best response: supervised fine-tuning is K = 1, rejection-sampling fine-tuning is K > 1."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.tensors import masked_sum, wide
from .base import Loss, Metric, Objective, Term


def likelihood_loss(logps: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of each response, -sum_t log pi(y_t | x, y_<t). logps, mask: [G, R] -> [G]."""
    return -masked_sum(logps, mask)


@dataclass(kw_only=True)
class BestOf(Objective):
    """Cross-entropy on the first response of each row, averaged over its tokens.

    Llama 2, arXiv:2307.09288, sections 3.1 (answer tokens only) and 3.2.3 (the best of K samples). Rows list their
    best response first, so this objective never looks at a score.
    """

    wants = frozenset({"top1"})
    responses = 1

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        logps, mask = wide(out.required("logps"))[:, 0], batch.loss_mask[:, 0]
        nll, tokens = likelihood_loss(logps, mask).sum(), mask.sum()
        hits = masked_sum(wide(out.required("top1"))[:, 0], mask).sum()
        return Loss({"likelihood": Term(nll, "best_tokens")}, {"mean_token_accuracy": Metric(hits.detach(), tokens)})


NAMES = {"sft": BestOf(), "best-of": BestOf()}
