"""KTO, BCO and APO-zero on unpaired rows: a prompt, one response, and a label that says whether it is a good one.

Each loss is a function of m, by how much the reward is on the side of a reference point that the label asks for:

    m = beta (a - shift) of a good response, beta (shift - a) of a bad one,    a = log pi(y | x) - log pi_ref(y | x)

The losses of rows, times the weights of their labels, are averaged over all rows of the optimizer step, so that a step
may well have rows of one label only. The shift is one number for the whole step, and no gradient flows into it. On
pairs the same losses are in `pair_losses.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.options import option
from ..utils.tensors import masked_sum, upcast
from .base import Loss, Metric, Objective, Term, mean_of
from .pairs import apply_kto, running_mean


def kto(margin: Tensor) -> Tensor:
    """1 - sigmoid(m). arXiv:2402.01306, equation 7, where the shift is z.

    z = max(0, mean a of mismatched prompts and responses), which estimates KL(pi || pi_ref).
    """
    return (-margin).sigmoid()


def bco(margin: Tensor) -> Tensor:
    """-log sigmoid(m). Binary classifier optimisation, arXiv:2404.04656; the shift is the mean a of all rows so far."""
    return -F.logsigmoid(margin)


def apo_zero_unpaired(margin: Tensor) -> Tensor:
    """1 - sigmoid(m) with a shift of 0: each half of APO-zero, arXiv:2408.06266, equation 7, for rows that have it."""
    return (-margin).sigmoid()


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {f.__name__: f for f in (kto, bco, apo_zero_unpaired)}
"""Every name that `loss_type` takes."""

SHIFTS = {"kto": "kto_z", "bco": "bco_shift"}
"""The column that holds the shift of a loss; the others have none."""


@dataclass(kw_only=True)
class KTOArguments:
    """The hyperparameters of losses on unpaired rows, shared by the objective and `KTOConfig`; TRL's names."""

    loss_type: str = option(
        "kto",
        "`kto`, against an estimate of the KL divergence; `bco`, against the mean reward so far; or "
        "`apo_zero_unpaired`, against 0.",
        choices=list(LOSSES),
    )
    beta: float = option(
        0.1,
        "How strongly the policy is held to its reference: the scale of the implicit reward, 0.01 in BCO's recipes.",
    )
    desirable_weight: float = option(1.0, "Weight of the loss of good responses, against there being fewer of them.")
    undesirable_weight: float = option(1.0, "Weight of the loss of bad responses, against there being fewer of them.")
    bco_momentum: float | None = option(
        None,
        "Momentum in [0, 1) of the moving average that `bco` shifts rewards by; default the mean of all so far.",
    )


@dataclass(kw_only=True)
class KTO(KTOArguments, Objective):
    """Preference optimisation from labels: KTO, arXiv:2402.01306, BCO and APO-zero, one response to a prompt.

    Rewards are beta times the log-ratio to the reference. Pairs are split into two rows each.
    """

    responses = 1

    def __post_init__(self) -> None:
        if not isinstance(self.loss_type, str) or self.loss_type not in LOSSES:
            raise ValueError(f"loss_type={self.loss_type!r}: unpaired rows take one of {', '.join(LOSSES)}")
        if not self.beta > 0:
            raise ValueError(f"beta={self.beta} must be above 0")
        for name in ("desirable_weight", "undesirable_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, inf)")
        if self.bco_momentum is not None and not (self.loss_type == "bco" and 0 <= self.bco_momentum < 1):
            raise ValueError(f"bco_momentum={self.bco_momentum} must lie in [0, 1), and loss_type be bco")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"reference", "label", *(["mismatched"] if self.loss_type == "kto" else [])})

    @property
    def cross_batch(self) -> bool:  # type: ignore[override]
        return self.loss_type in SHIFTS

    def sizes(self, batch: Batch) -> dict[str, Tensor]:
        """The usual units, and "labelled": responses with a label, which KTO's mismatched ones have not."""
        return {**super().sizes(batch), "labelled": batch.present[:, 0].sum()}

    def init_state(self) -> dict[str, Tensor]:
        """What `bco` remembers: the mean log-ratio so far, and of how many responses."""
        return {name: torch.zeros(()) for name in ("bco_mean", "bco_count") if self.loss_type == "bco"}

    def gather_statistics(self, out: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The log-ratios of mismatched responses (`kto`) or of the rows' own (`bco`), with the labels: columns [G]."""
        ratios = _log_ratios(out, batch)
        if self.loss_type == "kto":
            mismatched = {"kto_ratio": ratios[:, 1], "kto_count": batch.present[:, 1].to(ratios.dtype)}
            return {"label": batch.label, **mismatched}
        return {"label": batch.label, "ratio": ratios[:, 0]}

    def apply_statistics(
        self, gathered: dict[str, Tensor], state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The shift of the step, [N] times the same number, and the next state."""
        if self.loss_type == "kto":
            return apply_kto(gathered, state, None)
        mean, state = running_mean(gathered["ratio"], state, self.bco_momentum)
        return {"bco_shift": mean.expand_as(gathered["ratio"])}, state

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """One term, named as the loss; rewards and log-probs by label as metrics, and rewards [G, 1]."""
        ratios, good = _log_ratios(out, batch)[:, 0], batch.label
        margins = self.beta * (ratios - self._shift(batch, ratios))
        weights = torch.where(good, self.desirable_weight, self.undesirable_weight).to(ratios.dtype)
        rows = weights * LOSSES[self.loss_type](torch.where(good, margins, -margins))
        term = Term(rows.masked_fill(~batch.present[:, 0], 0.0).sum(), "labelled")
        rewards = self.beta * ratios.detach()
        return Loss({self.loss_type: term}, self._metrics(rewards, out, batch), rewards[:, None])

    def _shift(self, batch: Batch, like: Tensor) -> Tensor:
        """The reference point of each row, as a log-ratio: [G]"""
        column = SHIFTS.get(self.loss_type)
        return torch.zeros_like(like) if column is None else batch[column]

    def _metrics(self, rewards: Tensor, out: Outputs, batch: Batch) -> dict[str, Metric]:
        """What TRL's KTOTrainer logs, as sums and counts; how many rows have each label; and BCO's delta."""
        present, logps = batch.present[:, 0], masked_sum(upcast(out.required("logps")), batch.loss_mask)[:, 0].detach()
        metrics = {}
        for side, where in (("chosen", batch.label & present), ("rejected", ~batch.label & present)):
            metrics[f"rewards/{side}"] = mean_of(rewards, where)
            metrics[f"logps/{side}"] = mean_of(logps, where)
            metrics[f"count/{side}"] = Metric(where.sum(), present.sum(), "sum")
        chosen = metrics["rewards/chosen"]
        metrics["rewards/margins"] = Metric(chosen.total, chosen.count, minus="rewards/rejected")
        if self.loss_type == "kto":
            metrics["kl"] = mean_of(batch.kto_z, present)
        elif self.loss_type == "bco":
            metrics["delta"] = mean_of(self.beta * batch.bco_shift, present)
        return metrics


def _log_ratios(out: Outputs, batch: Batch) -> Tensor:
    """log pi(y | x) - log pi_ref(y | x) of the row's own response and, if there is one, of the mismatched: [G, K]"""
    return masked_sum(upcast(out.required("logps")) - upcast(batch.ref_logps), batch.loss_mask)


NAMES = {
    "kto_unpaired": KTO(),
    "bco_unpaired": KTO(loss_type="bco", beta=0.01),
    "apo_zero_unpaired": KTO(loss_type="apo_zero_unpaired"),
}
"""The literature's defaults. `kto` and its kin on pairs are in `dpo.py`."""
