"""The formulas of PPO: moments of rewards, token rewards, advantages, clipped losses. Tensors in, tensors out.

Secrets of RLHF part I, arXiv:2307.04964, and its program MOSS-RLHF.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.tensors import masked_mean

KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda log_ratio: log_ratio,
    "k3": lambda log_ratio: torch.expm1(-log_ratio) + log_ratio,
}
"""Of the log-ratio log pi - log pi_ref of a token that pi drew: the mean of both is KL(pi || pi_ref).

k1 is the log-ratio; k3 = pi_ref / pi - 1 + log-ratio is never negative and varies less
(Schulman, joschu.net/blog/kl-approx.html).
"""


FARTHEST = 20.0
"""Beyond this log-ratio of new to old policy float32 would soon overflow. What has become e^20 times more probable is
clipped, or as bad as it can be."""


@dataclass(frozen=True)
class Moments:
    """How many numbers there are, their mean and their variance (divided by count); or of several lots, [N] each."""

    count: Tensor
    mean: Tensor
    var: Tensor

    @classmethod
    def single(cls, values: Tensor) -> Moments:
        """Each number as a lot of one. values: [N]"""
        return cls(torch.ones_like(values), values, torch.zeros_like(values))

    @classmethod
    def of_rows(cls, values: Tensor, mask: Tensor) -> Moments:
        """Each row as a lot, 0 where it has nothing. values, mask: [N, ...] -> [N]"""
        flat, counted = values.flatten(1), mask.flatten(1)
        mean = masked_mean(flat, counted)
        return cls(counted.sum(-1).to(values.dtype), mean, masked_mean((flat - mean[:, None]) ** 2, counted))

    @property
    def std(self) -> Tensor:
        """Standard deviation of a sample, sqrt(var * count / (count - 1)); 1 where there is none to divide by.

        There is none for fewer than two numbers, nor where all are equal but for their rounding.
        """
        std = (self.var * self.count / (self.count - 1).clamp(min=1)).sqrt()
        return torch.where((self.count > 1) & (std > 1e-6 * self.mean.abs()), std, torch.ones_like(std))


def merge_moments(*lots: Moments) -> Moments:
    """Moments of all numbers in the lots together, exactly, however they were split.

        N = sum n_i      mean = sum n_i mean_i / N      var = sum n_i (var_i + (mean_i - mean)^2) / N

    For two lots this is MOSS's `RunningMoments.update`. Empty lots add nothing.
    """
    columns = zip(*((lot.count, lot.mean, lot.var) for lot in lots), strict=True)
    count, mean, var = (torch.cat([part.reshape(-1) for part in column]) for column in columns)
    share = count / count.sum().clamp(min=1)
    whole = (share * mean).sum()
    return Moments(count.sum(), whole, (share * (var + (mean - whole) ** 2)).sum())


def adaptive_kl(kl_coef: Tensor, kl: Tensor, responses: Tensor, *, target: float, horizon: float) -> Tensor:
    """The next weight of the KL penalty: up where the divergence is above its target, down where below.

        e = clip(KL / target - 1, -.2, .2)        eta' = eta (1 + e * responses / horizon)

    Ziegler et al., arXiv:1909.08593, section 2.2; `responses / horizon` is the K = .1 of the paper as its program has
    it. kl: mean over responses of the sum over their tokens, of `responses` many.
    """
    return kl_coef * (1 + (kl / target - 1).clamp(-0.2, 0.2) * responses / horizon)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: Tensor | float) -> Tensor:
    """The score where a response ends, and what every token pays for leaving the reference.

        r_t = -eta KL_t + [t is the last token] score

    arXiv:2307.04964, Figure 5; the penalty comes after the score was normalised and clipped. scores: [...]; kl, mask:
    [..., R] -> [..., R]
    """
    last = mask & (mask.cumsum(-1) == mask.sum(-1, keepdim=True))
    return (-kl_coef * kl).masked_fill(~mask, 0.0) + scores[..., None].masked_fill(~last, 0.0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Generalised advantage estimates; returns are these plus the values.

        delta_t = r_t + gamma V_{t+1} - V_t        A_t = sum_l (gamma lam)^l delta_{t+l}

    arXiv:1506.02438, equation 16. V_t is read before token t is seen, and nothing follows the last token: its V_{t+1}
    is 0, also for a response that was cut off. A token that does not count is passed over, as if its neighbours
    stood side by side. rewards, values, mask: [..., R] -> [..., R], 0 where the mask is.
    """
    following = carried = torch.zeros_like(rewards[..., 0] + values[..., 0])
    found = []
    for reward, value, counts in zip(*(x.unbind(-1)[::-1] for x in (rewards, values, mask)), strict=True):
        delta = reward + gamma * following - value
        carried = torch.where(counts, delta + gamma * lam * carried, carried)
        following = torch.where(counts, value, following)
        found.append(carried)
    return torch.stack(found[::-1], -1).masked_fill(~mask, 0.0)


def policy_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """rho_t = pi(y_t) / pi_old(y_t), 1 where the mask is. All of one shape -> same shape"""
    return (logps - old_logps).masked_fill(~mask, 0.0).clamp(-FARTHEST, FARTHEST).exp()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, *, cliprange: float) -> tuple[Tensor, Tensor]:
    """What the policy loses on each token, and whether clipping decided it.

        max(-A rho, -A clip(rho, 1 - eps, 1 + eps)),    rho = pi(y_t) / pi_old(y_t)

    arXiv:1707.06347, equation 7, negated. ratio, advantages: same shape -> same shape, bool of it
    """
    free, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.maximum(free, clipped), clipped > free


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, cliprange: float | None
) -> tuple[Tensor, Tensor]:
    """What the critic loses on each token, and whether clipping decided it; None does not clip.

        1/2 max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2)

    arXiv:2307.04964, Figure 5. All of one shape -> same shape, bool of it
    """
    free = (values - returns) ** 2
    if cliprange is None:
        return free / 2, torch.zeros_like(free, dtype=torch.bool)
    clipped = (old_values + (values - old_values).clamp(-cliprange, cliprange) - returns) ** 2
    return torch.maximum(free, clipped) / 2, clipped > free


def explained_variance(logs: Mapping[str, float]) -> float:
    """1 - E (R - V)^2 / Var R of the values before a rollout is learnt from, out of its metrics once they are means.

    1 is a critic that knows every return, 0 one that says their mean. NaN where returns do not vary.
    """
    variance = logs["val/squared_returns"] - logs["val/returns"] ** 2
    return 1 - logs["val/squared_error"] / variance if variance > 1e-6 * logs["val/squared_returns"] else float("nan")


def derived(logs: Mapping[str, float]) -> dict[str, float]:
    """What follows from means over tokens once they are known: perplexities, and the variance that the critic explains.

    A perplexity is exp of the mean negative log-prob of a token that the policy drew; beyond e^700 it is that.
    """
    spoken = {by: logs[f"nll/{by}"] for by in ("policy", "reference") if f"nll/{by}" in logs}
    found = {f"ppl/{by}": math.exp(min(nll, 700.0)) for by, nll in spoken.items()}
    if "val/squared_returns" in logs:
        found["val/explained_variance"] = explained_variance(logs)
    return found
