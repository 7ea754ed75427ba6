"""What pair losses are functions of: sums, means and log-ratios of a pair's responses, and cross-batch statistics.

Every name that a loss in `pair_losses.py` may have as an argument is a property of `Pairs` or a key of `CROSS_BATCH`.
Nothing is computed until it is read: a loss without a reference never touches one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.tensors import masked_mean, masked_sum, upcast

Columns = dict[str, Tensor]

REFERENCE_FREE = frozenset({"logp_w", "logp_l", "mean_w", "mean_l", "has_w", "has_l"})
"""Arguments of losses that can be computed without a reference."""

DIVERGENT = frozenset({"delta", "mean_delta"})
"""Arguments of losses that an f-divergence changes."""


class Pairs:
    """Computes the arguments of pair losses from a batch of pairs, chosen response first.

    Args:
        out: the model's outputs on the batch.
        batch: rows of two responses; a third one is KTO's mismatched response.
        ld_alpha: weight of the tokens past the length of the pair's shorter response, 1 by default (LD-DPO,
            arXiv:2409.06411).
        divergence: f' as a function of the log-ratio.

    Raises:
        ValueError: rows of fewer than two responses.
    """

    def __init__(
        self,
        out: Outputs,
        batch: Batch,
        *,
        ld_alpha: float | None = None,
        divergence: Callable[[Tensor], Tensor] = lambda a: a,
    ) -> None:
        if batch.response_mask.shape[1] < 2:
            raise ValueError(f"a pair has two responses, best first; these rows have {batch.response_mask.shape[1]}")
        self.out, self.batch, self.ld_alpha, self.divergence = out, batch, ld_alpha, divergence
        self.present, self.lengths = batch.present[:, :2], batch.lengths[:, :2]

    @cached_property
    def logps(self) -> Tensor:
        """log pi(y | x), summed over the response's tokens: [G, 2]"""
        return masked_sum(upcast(self.out.required("logps"))[:, :2], self.batch.loss_mask[:, :2])

    @cached_property
    def means(self) -> Tensor:
        """log pi(y | x) / |y|: [G, 2]"""
        return self.logps / self.lengths.clamp(min=1)

    @cached_property
    def policy(self) -> Tensor:
        """log pi(y | x) as it goes into log-ratios, with LD-DPO's weights: [G, 2]"""
        return self._weighed(self.out.required("logps"))

    @cached_property
    def reference(self) -> Tensor:
        """log pi_ref(y | x), with the same weights: [G, 2]"""
        return self._weighed(self.batch.ref_logps)

    @cached_property
    def ratios(self) -> Tensor:
        """log pi(y | x) / pi_ref(y | x): [G, 2]"""
        return self.policy - self.reference

    @cached_property
    def mismatched(self) -> Tensor:
        """Log-ratio of the row's third response, which is the answer to another prompt: [G]"""
        logps = upcast(self.out.required("logps"))[:, 2] - upcast(self.batch.ref_logps)[:, 2]
        return masked_sum(logps, self.batch.loss_mask[:, 2])

    @cached_property
    def weight(self) -> Tensor:
        """How probable the pair is under the policy, detached: [G]

        The product over both responses of exp(mean_t (log p_t - log sum_v p_v^2)). WPO, arXiv:2406.11827, equation 2.
        """
        aligned = upcast(self.out.required("logps")).detach() - upcast(self.out.required("log_sum_sq")).detach()
        return masked_mean(aligned[:, :2], self.batch.loss_mask[:, :2]).sum(-1).exp()

    def _weighed(self, logps: Tensor) -> Tensor:
        tokens, mask = upcast(logps)[:, :2], self.batch.loss_mask[:, :2]
        if self.ld_alpha is not None:
            shared = mask.cumsum(-1) <= self.lengths.amin(-1)[:, None, None]
            tokens = torch.where(shared, tokens, self.ld_alpha * tokens)
        return masked_sum(tokens, mask)

    # The arguments of the losses, [G] each; `pair_losses.py` says what they are.

    @property
    def logp_w(self) -> Tensor:
        return self.logps[:, 0]

    @property
    def logp_l(self) -> Tensor:
        return self.logps[:, 1]

    @property
    def mean_w(self) -> Tensor:
        return self.means[:, 0]

    @property
    def mean_l(self) -> Tensor:
        return self.means[:, 1]

    @property
    def a_w(self) -> Tensor:
        return self.ratios[:, 0]

    @property
    def a_l(self) -> Tensor:
        return self.ratios[:, 1]

    @property
    def has_w(self) -> Tensor:
        return self.present[:, 0].to(self.logps.dtype)

    @property
    def has_l(self) -> Tensor:
        return self.present[:, 1].to(self.logps.dtype)

    @property
    def policy_delta(self) -> Tensor:
        return self.policy[:, 0] - self.policy[:, 1]

    @property
    def reference_delta(self) -> Tensor:
        return self.reference[:, 0] - self.reference[:, 1]

    @property
    def delta(self) -> Tensor:
        scores = self.divergence(self.ratios)
        return scores[:, 0] - scores[:, 1]

    @property
    def mean_delta(self) -> Tensor:
        scores = self.divergence(self.ratios) / self.lengths.clamp(min=1)
        return scores[:, 0] - scores[:, 1]


class CrossBatchStatistic(NamedTuple):
    """A statistic over all rows of an optimizer step, as `Objective.gather_statistics` and `apply_statistics` have it.

    Args:
        gather: the pairs of a micro-batch -> columns [G].
        apply: gathered columns [N], state, `bco_momentum` -> columns to add [N], next state.
        state: names of the numbers that it remembers from step to step.
    """

    gather: Callable[[Pairs], Columns]
    apply: Callable[[Columns, Columns, float | None], tuple[Columns, Columns]]
    state: tuple[str, ...] = ()


def at_rank_of(x: Tensor, other: Tensor) -> Tensor:
    """For each number in `x` the number in `other` that has the same rank. x, other: [N] -> [N]"""
    return other.sort().values[x.argsort().argsort()]


def gather_aot(pairs: Pairs) -> Columns:
    return {"policy_delta": pairs.policy_delta, "reference_delta": pairs.reference_delta}


def apply_aot(gathered: Columns, state: Columns, _: float | None) -> tuple[Columns, Columns]:
    return {"aot_reference": at_rank_of(gathered["policy_delta"], gathered["reference_delta"])}, state


def gather_ratios(pairs: Pairs) -> Columns:
    return {"a_w": pairs.a_w, "a_l": pairs.a_l}


def apply_aot_unpaired(gathered: Columns, state: Columns, _: float | None) -> tuple[Columns, Columns]:
    chosen, rejected = gathered["a_w"], gathered["a_l"]
    return {"aot_rejected": at_rank_of(chosen, rejected), "aot_chosen": at_rank_of(rejected, chosen)}, state


def gather_kto(pairs: Pairs) -> Columns:
    present = pairs.batch.present[:, 2]
    return {"kto_ratio": pairs.mismatched, "kto_count": present.to(pairs.mismatched.dtype)}


def apply_kto(gathered: Columns, state: Columns, _: float | None) -> tuple[Columns, Columns]:
    """z = max(0, mean log-ratio of mismatched responses), which estimates KL(pi || pi_ref). arXiv:2402.01306."""
    ratio, count = gathered["kto_ratio"], gathered["kto_count"]
    z = (ratio.sum() / count.sum().clamp(min=1)).clamp(min=0)
    return {"kto_z": z.expand_as(ratio)}, state


def apply_bco(gathered: Columns, state: Columns, momentum: float | None) -> tuple[Columns, Columns]:
    """Mean log-ratio of all responses so far, this step's included; with `momentum` an exponential moving average.

    As in TRL's removed BCOTrainer and LLaMA-Factory: updated first, then used. BCO's delta is beta times this.
    """
    mean, state = running_mean(torch.cat([gathered["a_w"], gathered["a_l"]]), state, momentum)
    return {"bco_shift": mean.expand_as(gathered["a_w"])}, state


def running_mean(ratios: Tensor, state: Columns, momentum: float | None) -> tuple[Tensor, Columns]:
    """The mean of all log-ratios so far, those of this step included, and the next state.

    Args:
        ratios: [N], of the responses of a step.
        state: `bco_mean` and `bco_count`, of earlier steps.
        momentum: of an exponential moving average over steps in place of that mean.
    """
    mean, count_before = state["bco_mean"].to(ratios), state["bco_count"].to(ratios)
    count = count_before + len(ratios)
    rate = len(ratios) / count.clamp(min=1) if momentum is None or not count_before else 1 - momentum
    mean = mean + rate * (ratios.sum() / max(len(ratios), 1) - mean)
    next_state = {"bco_mean": mean.to(state["bco_mean"]), "bco_count": count.to(state["bco_count"])}
    return mean, {**state, **next_state}


AOT_UNPAIRED = CrossBatchStatistic(gather_ratios, apply_aot_unpaired)

CROSS_BATCH = {
    "aot_reference": CrossBatchStatistic(gather_aot, apply_aot),
    "aot_chosen": AOT_UNPAIRED,
    "aot_rejected": AOT_UNPAIRED,
    "kto_z": CrossBatchStatistic(gather_kto, apply_kto),
    "bco_shift": CrossBatchStatistic(gather_ratios, apply_bco, state=("bco_mean", "bco_count")),
}
"""The statistic that each column comes from, for losses of which one row depends on others."""
