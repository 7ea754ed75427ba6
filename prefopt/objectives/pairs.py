"""What pair losses are functions of: sums, means and log-ratios of a pair's two responses, and what other rows say.

A property of `Pairs` or a key of `COUPLINGS` for every name that a loss in `pair_losses.py` may have as an argument. It
knows tensors only, and computes nothing until it is read: a loss without a reference never touches one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.tensors import masked_mean, masked_sum, wide

Columns = dict[str, Tensor]

REFERENCE_FREE = frozenset({"logp_w", "logp_l", "mean_w", "mean_l", "has_w", "has_l"})
"""What can be read without a reference."""

DIVERGENT = frozenset({"delta", "mean_delta"})
"""What an f-divergence changes."""


class Pairs:
    """The pairs of one batch, chosen first; [G, 2] unless it says otherwise.

    `ld_alpha` weighs the tokens past the length of the pair's shorter response (LD-DPO, arXiv:2409.06411);
    `divergence` is f' as a function of the log-ratio.
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
        """log pi(y | x)."""
        return masked_sum(wide(self.out.required("logps"))[:, :2], self.batch.loss_mask[:, :2])

    @cached_property
    def means(self) -> Tensor:
        """log pi(y | x) / |y|."""
        return self.logps / self.lengths.clamp(min=1)

    @cached_property
    def policy(self) -> Tensor:
        """log pi(y | x) as log-ratios take it: with LD-DPO's weights."""
        return self._weighed(self.out.required("logps"))

    @cached_property
    def reference(self) -> Tensor:
        """log pi_ref(y | x), likewise."""
        return self._weighed(self.batch.ref_logps)

    @cached_property
    def ratios(self) -> Tensor:
        """log pi(y | x) / pi_ref(y | x)."""
        return self.policy - self.reference

    @cached_property
    def mismatched(self) -> Tensor:
        """[G]: log-ratio of the row's third response, the answer to another prompt."""
        logps = wide(self.out.required("logps"))[:, 2] - wide(self.batch.ref_logps)[:, 2]
        return masked_sum(logps, self.batch.loss_mask[:, 2])

    @cached_property
    def weight(self) -> Tensor:
        """[G]: how probable the pair is under the policy, detached.

        The product over both responses of exp(mean_t (log p_t - log sum_v p_v^2)). WPO, arXiv:2406.11827, equation 2.
        """
        aligned = wide(self.out.required("logps")).detach() - wide(self.out.required("log_sum_sq")).detach()
        return masked_mean(aligned[:, :2], self.batch.loss_mask[:, :2]).sum(-1).exp()

    def _weighed(self, logps: Tensor) -> Tensor:
        tokens, mask = wide(logps)[:, :2], self.batch.loss_mask[:, :2]
        if self.ld_alpha is not None:
            shared = mask.cumsum(-1) <= self.lengths.amin(-1)[:, None, None]
            tokens = torch.where(shared, tokens, self.ld_alpha * tokens)
        return masked_sum(tokens, mask)

    # The arguments of the losses, [G] each.

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


class Coupling(NamedTuple):
    """How the rows of an optimizer step tell one another something: `Objective.observe` and `couple` in two parts."""

    observe: Callable[[Pairs], Columns]
    couple: Callable[[Columns, Columns, float | None], tuple[Columns, Columns]]
    """observed columns, state, `bco_momentum` -> columns to add, next state"""
    state: tuple[str, ...] = ()


def at_rank_of(x: Tensor, other: Tensor) -> Tensor:
    """For each entry of `x` the entry of `other` with the same rank. x, other: [N] -> [N]"""
    return other.sort().values[x.argsort().argsort()]


def observe_aot(pairs: Pairs) -> Columns:
    return {"policy_delta": pairs.policy_delta, "reference_delta": pairs.reference_delta}


def couple_aot(seen: Columns, state: Columns, _: float | None) -> tuple[Columns, Columns]:
    return {"aot_reference": at_rank_of(seen["policy_delta"], seen["reference_delta"])}, state


def observe_ratios(pairs: Pairs) -> Columns:
    return {"a_w": pairs.a_w, "a_l": pairs.a_l}


def couple_aot_unpaired(seen: Columns, state: Columns, _: float | None) -> tuple[Columns, Columns]:
    chosen, rejected = seen["a_w"], seen["a_l"]
    return {"aot_rejected": at_rank_of(chosen, rejected), "aot_chosen": at_rank_of(rejected, chosen)}, state


def observe_kto(pairs: Pairs) -> Columns:
    present = pairs.batch.present[:, 2]
    return {"kto_ratio": pairs.mismatched, "kto_count": present.to(pairs.mismatched.dtype)}


def couple_kto(seen: Columns, state: Columns, _: float | None) -> tuple[Columns, Columns]:
    """z = max(0, mean log-ratio of mismatched responses), which estimates KL(pi || pi_ref). arXiv:2402.01306."""
    ratio, count = seen["kto_ratio"], seen["kto_count"]
    z = (ratio.sum() / count.sum().clamp(min=1)).clamp(min=0)
    return {"kto_z": z.expand_as(ratio)}, state


def couple_bco(seen: Columns, state: Columns, momentum: float | None) -> tuple[Columns, Columns]:
    """Mean log-ratio of all responses so far, this step's included; with `momentum` an exponential moving average.

    As in TRL's removed BCOTrainer and LLaMA-Factory: updated first, then used. BCO's delta is beta times this.
    """
    ratios = torch.cat([seen["a_w"], seen["a_l"]])
    mean, seen_before = state["bco_mean"].to(ratios), state["bco_count"].to(ratios)
    count = seen_before + len(ratios)
    rate = len(ratios) / count.clamp(min=1) if momentum is None or not seen_before else 1 - momentum
    mean = mean + rate * (ratios.sum() / max(len(ratios), 1) - mean)
    next_state = {"bco_mean": mean.to(state["bco_mean"]), "bco_count": count.to(state["bco_count"])}
    return {"bco_shift": mean.expand_as(seen["a_w"])}, {**state, **next_state}


AOT_UNPAIRED = Coupling(observe_ratios, couple_aot_unpaired)

COUPLINGS = {
    "aot_reference": Coupling(observe_aot, couple_aot),
    "aot_chosen": AOT_UNPAIRED,
    "aot_rejected": AOT_UNPAIRED,
    "kto_z": Coupling(observe_kto, couple_kto),
    "bco_shift": Coupling(observe_ratios, couple_bco, state=("bco_mean", "bco_count")),
}
"""Who brings which column; a loss that reads one of these couples rows."""
