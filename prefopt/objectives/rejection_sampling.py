"""Rejection-sampling fine-tuning: likelihood of the best of K responses sampled from the policy, in iterations.

Llama 2, arXiv:2307.09288, section 3.2.3. `training/iterative/loop.py` samples, scores and selects; the loss is here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..batch import Batch, Outputs
from .base import Loss, Objective
from .sampling_arguments import IterationArguments
from .sft import SFT


@dataclass(kw_only=True)
class RejectionSampling(IterationArguments, Objective):
    """Cross-entropy on the best response to each prompt of all that were ever sampled.

    Each iteration samples `responses_per_prompt` responses to each prompt from the newest policy, scores them, takes
    the best of all iterations and trains on these, from the base model as in the paper or from the previous policy.
    That earlier winners stay is the paper's remedy for abilities that it saw come and go from round to round; there
    only the top ones stayed (`prior_top_n`), here all do.
    """

    needs = frozenset({"scorer"})
    responses = 1

    def __post_init__(self) -> None:
        self.check_iterations()

    @property
    def offline(self) -> Objective:
        """SFT on the responses that were selected."""
        return SFT()

    @property
    def outputs(self) -> frozenset[str]:
        return self.offline.outputs

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """As of `SFT`, on the responses that were selected."""
        return self.offline.loss(out, batch)


NAMES = {"rejection-sampling": RejectionSampling()}
