"""The losses of the DPO family, formula by formula: pure functions from log-probs of pairs to one loss for each pair.

Every argument is [G] in float32 or wider, and every result is one loss per row, [G]. The arguments' names say what a
loss reads, and mean the same in all of them (`pairs.py` computes them); w is the chosen response, l the rejected one:

    logp_w, logp_l      log pi(y | x), summed over the response's tokens
    mean_w, mean_l      log pi(y | x) / |y|
    a_w, a_l            log pi(y | x) - log pi_ref(y | x)
    delta               f'(a_w) - f'(a_l), which is a_w - a_l for the usual divergence (`DIVERGENCES` below)
    mean_delta          f'(a_w) / |y_w| - f'(a_l) / |y_l|
    policy_delta        logp_w - logp_l
    has_w, has_l        1 where the response exists (KTO takes rows with only one)
    aot_*, kto_z, bco_shift    cross-batch statistics (`pairs.py`, CROSS_BATCH); no gradient flows into these

Keyword arguments are the fields of `DPOArguments` with those names. ls is log sigmoid throughout. A new loss is one
function here and one line in `LOSSES` at the end.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.tensors import log1mexp
from .pairs import DIVERGENT, REFERENCE_FREE


def sigmoid(delta: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """DPO: -(1 - e) ls(beta delta) - e ls(-beta delta).

    arXiv:2305.18290, equation 7 (e = 0); e > 0 is cDPO, ericmitchell.ai/cdpo.pdf, equation 3. TRL 1.16 ignores
    `label_smoothing` under this name.
    """
    logits = beta * delta
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def sigmoid_norm(mean_delta: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """Length-normalised DPO: -ls(beta (a_w / |y_w| - a_l / |y_l|)), with cDPO's smoothing.

    Tulu 3, arXiv:2411.15124 (there with beta 5: a ratio per token is small).
    """
    return sigmoid(mean_delta, beta=beta, label_smoothing=label_smoothing)


def hinge(delta: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 - beta delta). RSO's hinge-norm, arXiv:2309.06657 (SLiC on normalised likelihoods)."""
    return torch.relu(1 - beta * delta)


def ipo(mean_delta: Tensor, *, beta: float) -> Tensor:
    """(delta - 1 / (2 tau))^2 with tau = beta. arXiv:2310.12036, equation 17.

    The paper writes sums over tokens; with its authors' consent TRL, HALOs and LLaMA-Factory take means per token, as
    here, or the target would depend on length. The original DPO code and OpenRLHF take sums.
    """
    return (mean_delta - 1 / (2 * beta)) ** 2


def exo_pair(delta: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """KL(q || p) with q = (sigmoid(beta delta), its complement) and p = (1 - e, e). arXiv:2402.00856, equation 16."""
    logits = beta * delta
    chosen = logits.sigmoid() * (F.logsigmoid(logits) - math.log1p(-label_smoothing))
    rejected = (-logits).sigmoid() * (F.logsigmoid(-logits) - math.log(label_smoothing))
    return chosen + rejected


def nca_pair(a_w: Tensor, a_l: Tensor, *, beta: float) -> Tensor:
    """-ls(beta a_w) - ls(-beta a_w) / 2 - ls(-beta a_l) / 2. NCA for two responses, arXiv:2402.05369."""
    chosen, rejected = beta * a_w, beta * a_l
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def robust(delta: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """[-(1 - e) ls(beta delta) + e ls(-beta delta)] / (1 - 2e): unbiased for DPO's loss under flipped labels.

    rDPO, arXiv:2403.00409.
    """
    logits = beta * delta
    noisy = -(1 - label_smoothing) * F.logsigmoid(logits) + label_smoothing * F.logsigmoid(-logits)
    return noisy / (1 - 2 * label_smoothing)


def bco_pair(a_w: Tensor, a_l: Tensor, bco_shift: Tensor, *, beta: float) -> Tensor:
    """-ls(beta a_w - d) - ls(-(beta a_l - d)), d = beta bco_shift the running mean of all rewards.

    Binary classifier optimisation, arXiv:2404.04656. TRL 1.16 computes `bco_pair_trl` under this
    name; its removed BCOTrainer and LLaMA-Factory keep d.
    """
    return -F.logsigmoid(beta * (a_w - bco_shift)) - F.logsigmoid(-beta * (a_l - bco_shift))


def bco_pair_trl(a_w: Tensor, a_l: Tensor, *, beta: float) -> Tensor:
    """-ls(beta a_w) - ls(-beta a_l): BCO without its reward shift, which is what TRL 1.16 calls `bco_pair`."""
    return -F.logsigmoid(beta * a_w) - F.logsigmoid(-beta * a_l)


def sppo_hard(a_w: Tensor, a_l: Tensor, *, beta: float) -> Tensor:
    """(a_w - 1 / (2 beta))^2 + (a_l + 1 / (2 beta))^2.

    SPPO, arXiv:2405.00675, equation 4.7 with the win probability set to 1 and 0, and beta = 1 / eta.
    """
    return (a_w - 0.5 / beta) ** 2 + (a_l + 0.5 / beta) ** 2


def aot(policy_delta: Tensor, aot_reference: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """DPO between two sorted samples: the policy's log pi_w / pi_l and the reference's, matched by rank.

    Alignment via optimal transport, arXiv:2406.05882, over the whole optimizer step (TRL: each
    micro-batch). aot_reference is the reference's log-ratio whose rank is that of this row's policy_delta.
    """
    return sigmoid(policy_delta - aot_reference, beta=beta, label_smoothing=label_smoothing)


def aot_unpaired(
    a_w: Tensor, a_l: Tensor, aot_chosen: Tensor, aot_rejected: Tensor, *, beta: float, label_smoothing: float
) -> Tensor:
    """DPO between the sorted a_w and the sorted a_l of the step. arXiv:2406.05882, unpaired form.

    aot_rejected is the a_l whose rank is that of this row's a_w, aot_chosen the a_w whose rank is that of its a_l. Each
    matched pair is thus seen from both of its rows: from either with full gradient, so that the step's gradient is that
    of sorting, and with half its value.
    """
    as_chosen = sigmoid(a_w - aot_rejected, beta=beta, label_smoothing=label_smoothing)
    as_rejected = sigmoid(aot_chosen - a_l, beta=beta, label_smoothing=label_smoothing)
    both = as_chosen + as_rejected
    return both - 0.5 * both.detach()


def apo_zero(a_w: Tensor, a_l: Tensor, *, beta: float) -> Tensor:
    """1 - sigmoid(beta a_w) + sigmoid(beta a_l): raise the chosen, lower the rejected. arXiv:2408.06266, equation 7."""
    return (-beta * a_w).sigmoid() + (beta * a_l).sigmoid()


def apo_down(a_w: Tensor, a_l: Tensor, *, beta: float) -> Tensor:
    """sigmoid(beta a_w) + 1 - sigmoid(beta (a_w - a_l)): lower both, the rejected more.

    arXiv:2408.06266, equation 8: for pairs whose chosen response is worse than what the policy says.
    """
    return (beta * a_w).sigmoid() + (-beta * (a_w - a_l)).sigmoid()


def discopop(delta: Tensor, *, beta: float, discopop_tau: float) -> Tensor:
    """-(1 - s) ls(beta delta) + s e^(-beta delta), s = sigmoid(beta delta / tau). arXiv:2406.08414, equation 5.

    s e^-x is computed as e^(ls(x / tau) - x): apart, the factors are 0 and infinity for a badly ranked pair.
    """
    logits = beta * delta
    logistic = -(-logits / discopop_tau).sigmoid() * F.logsigmoid(logits)
    return logistic + (F.logsigmoid(logits / discopop_tau) - logits).exp()


def simpo(mean_w: Tensor, mean_l: Tensor, *, beta: float, simpo_gamma: float | None, label_smoothing: float) -> Tensor:
    """-ls(beta (mean_w - mean_l) - gamma), with cDPO's smoothing; gamma None is beta / 2. arXiv:2405.14734, eq. 6."""
    gamma = 0.5 * beta if simpo_gamma is None else simpo_gamma
    return sigmoid(mean_w - mean_l - gamma / beta, beta=beta, label_smoothing=label_smoothing)


def cpo(logp_w: Tensor, logp_l: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """-ls(beta (logp_w - logp_l)), with cDPO's smoothing: CPO's preference part. arXiv:2401.08417, equation 3."""
    return sigmoid(logp_w - logp_l, beta=beta, label_smoothing=label_smoothing)


def orpo(mean_w: Tensor, mean_l: Tensor, *, beta: float) -> Tensor:
    """-lambda ls(log odds_w - log odds_l), odds = p / (1 - p), log p = mean, lambda = beta.

    ORPO's odds-ratio part, arXiv:2403.07691, equations 4 and 7. NLL is added to it (`Spec.likelihood`).
    """
    log_odds = mean_w - mean_l - log1mexp(mean_w) + log1mexp(mean_l)
    return -beta * F.logsigmoid(log_odds)


def kto(
    a_w: Tensor, a_l: Tensor, has_w: Tensor, has_l: Tensor, kto_z: Tensor,
    *, beta: float, desirable_weight: float, undesirable_weight: float,
) -> Tensor:  # fmt: skip
    """l_D [1 - sigmoid(beta (a_w - z))] + l_U [1 - sigmoid(beta (z - a_l))], averaged over responses, not pairs.

    arXiv:2402.01306, equation 7. z estimates KL(pi || pi_ref) from mismatched prompts and responses.
    """
    chosen = desirable_weight * (-beta * (a_w - kto_z)).sigmoid()
    rejected = undesirable_weight * (-beta * (kto_z - a_l)).sigmoid()
    return has_w * chosen + has_l * rejected


def slic(logp_w: Tensor, logp_l: Tensor, *, slic_delta: float) -> Tensor:
    """max(0, delta - logp_w + logp_l): SLiC-HF's calibration part. arXiv:2305.10425."""
    return torch.relu(slic_delta - logp_w + logp_l)


def sft(logp_w: Tensor) -> Tensor:
    """-logp_w: the likelihood of the chosen response, averaged over tokens (its `Spec` says so), not rows."""
    return -logp_w


# f-DPO, arXiv:2309.16240, table 1: the implicit reward is beta f'(u), u = pi / pi_ref, here as a function of a = log u.
# f' is shifted so that f'(1) = 0, which cancels in `delta` and keeps `mean_delta` 0 where the policy is its reference.


def reverse_kl(a: Tensor, alpha: float) -> Tensor:
    """f'(u) = log u: DPO."""
    return a


def forward_kl(a: Tensor, alpha: float) -> Tensor:
    """f'(u) = 1 - 1 / u."""
    return -_expm1(-a)


def js_divergence(a: Tensor, alpha: float) -> Tensor:
    """f'(u) = log(2u / (1 + u))."""
    return math.log(2) + F.logsigmoid(a)


def alpha_divergence(a: Tensor, alpha: float) -> Tensor:
    """f'(u) = (u^(alpha - 1) - 1) / (alpha - 1), as TRL has it: alpha = 1 is reverse KL, alpha = 0 forward KL.

    The paper's table, (1 - u^-alpha) / alpha, counts from the other end: its alpha is 1 - ours.
    """
    return a if alpha == 1 else _expm1((alpha - 1) * a) / (alpha - 1)


DIVERGENCES = {f.__name__: f for f in (reverse_kl, forward_kl, js_divergence, alpha_divergence)}
"""Every name that `f_divergence_type` takes."""


def _expm1(x: Tensor, limit: float = 30.0) -> Tensor:
    """e^x - 1, continued by its tangent above `limit`: a log-ratio of -1000 must not become an infinite loss."""
    return torch.expm1(x.clamp(max=limit)) + math.exp(limit) * (x - limit).clamp(min=0)


@dataclass(frozen=True)
class Spec:
    """A loss of the DPO family and what `DPO` must know of it; its arguments are read off its function's signature.

    Args:
        function: the loss.
        unit: what it is a mean over, a name in `DPO.sizes`.
        likelihood: `DPOArguments` -> the weight of the chosen response's likelihood, in a method that adds that to
            this loss.
        weighable: whether WPO may weigh it row by row.
    """

    function: Callable[..., Tensor]
    unit: str = "prompts"
    likelihood: Callable[[Any], float] | None = None
    weighable: bool = True

    @cached_property
    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.function).parameters.values())

    @cached_property
    def reads(self) -> frozenset[str]:
        """Names of the tensors that it takes."""
        return frozenset(p.name for p in self._parameters if p.kind is not p.KEYWORD_ONLY)

    @cached_property
    def hyperparameters(self) -> frozenset[str]:
        """Names of the fields of `DPOArguments` that it takes."""
        return frozenset(p.name for p in self._parameters if p.kind is p.KEYWORD_ONLY)

    @property
    def needs_reference(self) -> bool:
        """Whether it takes anything that is computed from a reference."""
        return not self.reads <= REFERENCE_FREE

    @property
    def divergent(self) -> bool:
        """Whether an f-divergence has a meaning for it."""
        return self.reads <= DIVERGENT


LOSSES = {
    "sigmoid": Spec(sigmoid),
    "sigmoid_norm": Spec(sigmoid_norm),
    "hinge": Spec(hinge),
    "ipo": Spec(ipo),
    "exo_pair": Spec(exo_pair),
    "nca_pair": Spec(nca_pair),
    "robust": Spec(robust),
    "bco_pair": Spec(bco_pair),
    "bco_pair_trl": Spec(bco_pair_trl),
    "sppo_hard": Spec(sppo_hard),
    "aot": Spec(aot, weighable=False),
    "aot_unpaired": Spec(aot_unpaired, weighable=False),
    "apo_zero": Spec(apo_zero),
    "apo_down": Spec(apo_down),
    "discopop": Spec(discopop),
    "sft": Spec(sft, unit="best_tokens", weighable=False),
    "simpo": Spec(simpo),
    "cpo": Spec(cpo, likelihood=lambda arguments: arguments.cpo_alpha),
    "orpo": Spec(orpo, likelihood=lambda arguments: 1.0),
    "kto": Spec(kto, unit="labelled", weighable=False),
    "slic": Spec(slic, likelihood=lambda arguments: arguments.slic_lambda),
}
"""Every name that `loss_type` takes."""
