"""DPO and its family: every method whose loss is a function of a pair's log-probs, and of their ratios to a reference.

The losses themselves are in `pair_losses.py`, what they read in `pairs.py`; here they get settings, units and names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.names import did_you_mean
from ..utils.options import option
from ..utils.tensors import wins
from .base import Loss, Metric, Objective, Term, mean_of
from .kto import KTO
from .pair_losses import DIVERGENCES, LOSSES
from .pairs import CROSS_BATCH, CrossBatchStatistic, Pairs

UNPAIRED = {"kto": "kto", "bco_pair": "bco", "apo_zero": "apo_zero_unpaired"}
"""Losses that unpaired rows have too -> what `KTO` calls them."""


@dataclass(kw_only=True)
class DPOArguments:
    """The hyperparameters of the DPO family, shared by the objective and `DPOConfig`; TRL's names."""

    loss_type: list[str] | str = option(
        lambda: ["sigmoid"], f"Loss, or several to add up with `loss_weights`. Any of: {', '.join(LOSSES)}."
    )
    loss_weights: list[float] | None = option(
        None, "Weights of several losses, in the order of `loss_type`; default 1."
    )
    beta: float = option(
        0.1,
        "How strongly the policy is held to its reference: the scale of the implicit reward. tau in IPO, lambda in "
        "ORPO, 1 / eta in SPPO.",
    )
    label_smoothing: float = option(
        0.0,
        "Probability that a label is flipped, in [0, 0.5). It is cDPO under `sigmoid`, `sigmoid_norm`, `aot`, "
        "`aot_unpaired`, `simpo` and `cpo`; the noise rate of `robust`; epsilon of `exo_pair` (1e-3 in its paper).",
    )
    f_divergence_type: str = option(
        "reverse_kl",
        "Divergence from the reference (f-DPO), for losses that are a function of the difference of two rewards.",
        choices=list(DIVERGENCES),
    )
    f_alpha_divergence_coef: float = option(0.5, "alpha of `alpha_divergence`: 1 is reverse KL, 0 forward KL.")
    ld_alpha: float | None = option(
        None, "LD-DPO: weight in [0, 1] of the tokens past the length of the pair's shorter response; default 1."
    )
    use_weighting: bool = option(False, "WPO: weigh each pair by how probable the policy finds it.")
    discopop_tau: float = option(0.05, "Temperature of `discopop`, in (0, 1].")
    simpo_gamma: float | None = option(None, "Target margin of `simpo`; default beta / 2, as its paper recommends.")
    cpo_alpha: float = option(1.0, "Weight of the chosen response's likelihood in `cpo`.")
    desirable_weight: float = option(1.0, "Weight of chosen responses in `kto`, and of good ones in unpaired rows.")
    undesirable_weight: float = option(1.0, "Weight of rejected responses in `kto`, and of bad ones in unpaired rows.")
    slic_delta: float = option(1.0, "Margin between the two log-probs in `slic`.")
    slic_lambda: float = option(0.1, "Weight of the chosen response's likelihood in `slic`.")
    bco_momentum: float | None = option(
        None,
        "Momentum in [0, 1) of the moving average that `bco_pair` shifts rewards by; default the mean of all so far.",
    )


@dataclass(kw_only=True)
class DPO(DPOArguments, Objective):
    """Preference optimisation from pairs: DPO, arXiv:2305.18290, and every loss in `LOSSES`.

    Rewards are beta times the log-ratio to the reference; without a reference beta times the log-prob, a mean per token
    where the loss reads means (`simpo`, `orpo`) and a sum where it reads sums (`cpo`, `slic`, `sft`). The likelihood of
    the chosen response, alone (`sft`), in mixtures and in `cpo`, `orpo` and `slic`, is a mean over its tokens; TRL's
    ORPO includes the prompt's. Batches that have labels in place of pairs are for `unpaired`, and handed over to it.
    """

    responses = 2

    def __post_init__(self) -> None:
        # Past __setattr__, which guards a value once it is made.
        names = [self.loss_type] if isinstance(self.loss_type, str) else list(self.loss_type)
        weights = None if self.loss_weights is None else list(self.loss_weights)
        self.__dict__.update(loss_type=names, loss_weights=weights)
        _check_names(self)
        _check_ranges(self)
        _check_combinations(self)

    @property
    def mixture(self) -> dict[str, float]:
        """The weight of each loss, those included that a method adds to its own, such as ORPO's likelihood."""
        total: dict[str, float] = {}
        for name, weight in zip(self.loss_type, self.loss_weights or [1.0] * len(self.loss_type), strict=True):
            total[name] = total.get(name, 0.0) + weight
            if (likelihood := LOSSES[name].likelihood) is not None:
                total["sft"] = total.get("sft", 0.0) + weight * likelihood(self)
        return total

    @property
    def reads(self) -> frozenset[str]:
        """The arguments that its losses read, as `pair_losses.py` names them."""
        return frozenset().union(*(LOSSES[name].reads for name in self.loss_type))

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        reference = {"reference"} if any(LOSSES[name].needs_reference for name in self.loss_type) else set()
        return frozenset(reference | ({"mismatched"} if "kto_z" in self.reads else set()))

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"log_sum_sq"} if self.use_weighting else ())

    @property
    def cross_batch(self) -> bool:  # type: ignore[override]
        return bool(self._statistics)

    @property
    def _statistics(self) -> list[CrossBatchStatistic]:
        return list(dict.fromkeys(CROSS_BATCH[name] for name in CROSS_BATCH if name in self.reads))

    @property
    def unpaired(self) -> KTO:
        """The same loss on rows of one response and a label.

        Raises:
            ValueError: it compares two responses, or is set in a way that only pairs can be.
        """
        name = self.loss_type[0]
        plain = self.mixture == {name: 1.0} and self.ld_alpha is None and not self.use_weighting
        if name not in UNPAIRED or not plain:
            raise ValueError(
                f"loss_type {', '.join(self.loss_type)} is set up for pairs, and these rows have one response and a "
                f"label: of the losses {', '.join(UNPAIRED)} each takes them, alone and without loss_weights, ld_alpha "
                "and use_weighting"
            )
        weights = {"desirable_weight": self.desirable_weight, "undesirable_weight": self.undesirable_weight}
        momentum = self.bco_momentum if name == "bco_pair" else None
        return KTO(loss_type=UNPAIRED[name], beta=self.beta, bco_momentum=momentum, **weights)

    def sizes(self, batch: Batch) -> dict[str, Tensor]:
        """The usual units, and "labelled": responses with a label, which KTO's mismatched ones have not."""
        if "label" in batch:
            return self.unpaired.sizes(batch)
        return {**super().sizes(batch), "labelled": batch.present[:, :2].sum()}

    def init_state(self) -> dict[str, Tensor]:
        """What `bco_pair` remembers: the mean log-ratio so far, and of how many responses."""
        return {name: torch.zeros(()) for statistic in self._statistics for name in statistic.state}

    def gather_statistics(self, out: Outputs, batch: Batch) -> dict[str, Tensor]:
        """What `aot`, `kto` and `bco_pair` must know of all pairs of a step: columns [G]."""
        if "label" in batch:
            return self.unpaired.gather_statistics(out, batch)
        pairs = self._pairs(out, batch)
        return {name: column for statistic in self._statistics for name, column in statistic.gather(pairs).items()}

    def apply_statistics(
        self, gathered: dict[str, Tensor], state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The columns of `CROSS_BATCH` that the losses read, [N], and the next state."""
        if "label" in gathered:
            return self.unpaired.apply_statistics(gathered, state)
        columns: dict[str, Tensor] = {}
        for statistic in self._statistics:
            added, state = statistic.apply(gathered, state, self.bco_momentum)
            columns |= added
        return columns, state

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """A term for each loss of `mixture`, rewards and accuracies of pairs as metrics, and rewards [G, 2]."""
        if "label" in batch:
            return self.unpaired.loss(out, batch)
        pairs = self._pairs(out, batch)
        terms = {name: self._term(name, weight, pairs) for name, weight in self.mixture.items()}
        return Loss(terms, self._metrics(pairs), self.beta * self._log_rewards(pairs)[0])

    def _pairs(self, out: Outputs, batch: Batch) -> Pairs:
        divergence = partial(DIVERGENCES[self.f_divergence_type], alpha=self.f_alpha_divergence_coef)
        return Pairs(out, batch, ld_alpha=self.ld_alpha, divergence=divergence)

    def _term(self, name: str, weight: float, pairs: Pairs) -> Term:
        spec = LOSSES[name]
        values = {read: getattr(pairs.batch if read in CROSS_BATCH else pairs, read) for read in spec.reads}
        rows = spec.function(**values, **{name: getattr(self, name) for name in spec.hyperparameters})
        if self.use_weighting and spec.weighable:
            rows = pairs.weight * rows
        return Term(rows.masked_fill(~pairs.present.any(-1), 0.0).sum(), spec.unit, weight)

    def _log_rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """[G, 2] rewards divided by beta, and [G] the size of the numbers they are differences of; detached."""
        if "reference" in self.needs:
            return pairs.ratios.detach(), pairs.logps.detach().abs().sum(-1)
        values = (pairs.means if "mean_w" in self.reads else pairs.logps).detach()
        return values, values.abs().sum(-1)

    def _metrics(self, pairs: Pairs) -> dict[str, Metric]:
        both, logps = pairs.present.all(-1), pairs.logps.detach()
        values, scale = self._log_rewards(pairs)
        rewards = self.beta * values
        metrics = {"rewards/accuracies": mean_of(wins(values[:, 0], values[:, 1], scale), both)}
        metrics["rewards/margins"] = mean_of(rewards[:, 0] - rewards[:, 1], both)
        for i, side in enumerate(("chosen", "rejected")):
            metrics[f"rewards/{side}"] = mean_of(rewards[:, i], pairs.present[:, i])
            metrics[f"logps/{side}"] = mean_of(logps[:, i], pairs.present[:, i])
        if "kto_z" in self.reads:
            metrics["kl"] = mean_of(pairs.batch.kto_z, pairs.present.any(-1))
        return metrics


def _check_names(dpo: DPO) -> None:
    names, weights = dpo.loss_type, dpo.loss_weights
    for name in names:
        if name not in LOSSES:
            meant = f" {did_you_mean(name, LOSSES)}".rstrip()
            raise ValueError(f"unknown loss_type {name!r}:{meant} known are {', '.join(LOSSES)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"loss_type={names}: name at least one loss, and each only once")
    if weights is not None and len(weights) != len(names):
        raise ValueError(f"loss_weights has {len(weights)} numbers for the {len(names)} losses {', '.join(names)}")


def _check_ranges(dpo: DPO) -> None:
    ranges = {
        "beta": (dpo.beta > 0, "must be above 0"),
        "label_smoothing": (0 <= dpo.label_smoothing < 0.5, "must lie in [0, 0.5): at one half a label says nothing"),
        "ld_alpha": (dpo.ld_alpha is None or 0 <= dpo.ld_alpha <= 1, "must lie in [0, 1]"),
        "discopop_tau": (0 < dpo.discopop_tau <= 1, "must lie in (0, 1]"),
        "bco_momentum": (dpo.bco_momentum is None or 0 <= dpo.bco_momentum < 1, "must lie in [0, 1)"),
        "f_divergence_type": (dpo.f_divergence_type in DIVERGENCES, f"must be one of {', '.join(DIVERGENCES)}"),
    }
    for name, (valid, rule) in ranges.items():
        if not valid:
            raise ValueError(f"{name}={getattr(dpo, name)!r} {rule}")
    if "exo_pair" in dpo.loss_type and not dpo.label_smoothing:
        raise ValueError("loss_type='exo_pair' takes the logarithm of label_smoothing: set it above 0, such as 1e-3")


def _check_combinations(dpo: DPO) -> None:
    """Each option must mean something for the losses it would reach; `sft`, which none of them changes, is free."""
    allowed = {
        "label_smoothing": (
            dpo.label_smoothing > 0,
            {n for n, s in LOSSES.items() if "label_smoothing" in s.hyperparameters},
        ),
        "f_divergence_type": (dpo.f_divergence_type != "reverse_kl", {n for n, s in LOSSES.items() if s.divergent}),
        "ld_alpha": (dpo.ld_alpha is not None, {n for n, s in LOSSES.items() if s.needs_reference and n != "kto"}),
        "use_weighting": (dpo.use_weighting, {n for n, s in LOSSES.items() if s.weighable}),
    }
    for setting, (used, names) in allowed.items():
        given = set(dpo.loss_type) - {"sft"}
        wrong = not given & names if setting == "label_smoothing" else not given <= names or not given
        if used and wrong:
            raise ValueError(
                f"{setting}={getattr(dpo, setting)!r} has no meaning for loss_type {', '.join(dpo.loss_type)}: "
                f"it applies to {', '.join(sorted(names))}"
            )


NAMES = {
    "dpo": DPO(),
    "sigmoid": DPO(),
    "cdpo": DPO(label_smoothing=0.1),
    "robust": DPO(loss_type="robust", label_smoothing=0.1),
    "sigmoid_norm": DPO(loss_type="sigmoid_norm", beta=5.0),
    "hinge": DPO(loss_type="hinge", beta=0.05),
    "ipo": DPO(loss_type="ipo"),
    "exo_pair": DPO(loss_type="exo_pair", label_smoothing=1e-3),
    "nca_pair": DPO(loss_type="nca_pair", beta=0.01),
    "bco_pair": DPO(loss_type="bco_pair", beta=0.01),
    "bco_pair_trl": DPO(loss_type="bco_pair_trl", beta=0.01),
    "sppo_hard": DPO(loss_type="sppo_hard", beta=0.001),
    "aot": DPO(loss_type="aot", beta=0.01),
    "aot_unpaired": DPO(loss_type="aot_unpaired", beta=0.01),
    "apo_zero": DPO(loss_type="apo_zero"),
    "apo_down": DPO(loss_type="apo_down"),
    "discopop": DPO(loss_type="discopop", beta=0.05),
    "simpo": DPO(loss_type="simpo", beta=2.0, simpo_gamma=1.0),
    "cpo": DPO(loss_type="cpo"),
    "orpo": DPO(loss_type="orpo"),
    "kto": DPO(loss_type="kto"),
    "slic": DPO(loss_type="slic"),
    # arXiv:2405.16436, arXiv:2404.19733, arXiv:2411.10442, arXiv:2406.11827, arXiv:2409.06411
    "rpo": DPO(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.005], beta=0.01),
    "irpo": DPO(loss_type=["sigmoid", "sft"]),
    "mpo": DPO(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0]),
    "wpo": DPO(use_weighting=True),
    "ld_dpo": DPO(ld_alpha=0.5),
}
"""The literature's defaults, each from the paper its loss cites (`sft` alone is in `sft.py`)."""
