"""The formulas of PPO: the KL penalty and token rewards, advantages (GAE), clipped losses, and moments of rewards.

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
"""Estimators of KL(pi || pi_ref), as functions of the log-ratio log pi - log pi_ref of a token sampled from pi.

The mean of either is the KL. k1 is the log-ratio; k3 = pi_ref / pi - 1 + log-ratio is never negative and varies less
(Schulman, joschu.net/blog/kl-approx.html).
"""


MAX_LOG_RATIO = 20.0
"""The largest log-ratio of new to old policy: beyond it float32 would soon overflow. A token that has become e^20 times
more probable is clipped, or as bad as it can be."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and variance of a set of numbers, or of N sets at once.

    Args:
        count: how many numbers there are.
        mean: 0 of an empty set.
        var: the mean squared distance from the mean, divided by `count`, not by one less.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    @classmethod
    def single(cls, values: Tensor) -> Moments:
        """The moments of each number alone, as a set of one: [N] -> [N] each"""
        return cls(torch.ones_like(values), values, torch.zeros_like(values))

    @classmethod
    def of_rows(cls, values: Tensor, mask: Tensor) -> Moments:
        """The moments of each row, over the values where the mask is True. values, mask: [N, ...] -> [N] each"""
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


def merge_moments(*sets: Moments) -> Moments:
    """The moments of all numbers of several sets together, exactly, however the numbers were split.

        N = sum n_i      mean = sum n_i mean_i / N      var = sum n_i (var_i + (mean_i - mean)^2) / N

    For two sets this is MOSS's `RunningMoments.update`. Empty sets add nothing.
    """
    columns = zip(*((moments.count, moments.mean, moments.var) for moments in sets), strict=True)
    count, mean, var = (torch.cat([part.reshape(-1) for part in column]) for column in columns)
    share = count / count.sum().clamp(min=1)
    whole = (share * mean).sum()
    return Moments(count.sum(), whole, (share * (var + (mean - whole) ** 2)).sum())


def adaptive_kl(kl_coef: Tensor, kl: Tensor, responses: Tensor, *, target: float, horizon: float) -> Tensor:
    """Adapt the weight of the KL penalty: it rises where the KL is above its target, and falls where it is below.

        e = clip(KL / target - 1, -.2, .2)        eta' = eta (1 + e * responses / horizon)

    Ziegler et al., arXiv:1909.08593, section 2.2; `responses / horizon` is the K = .1 of the paper as its program has
    it.

    Args:
        kl_coef: the weight eta in this rollout.
        kl: nats a response, the mean over the rollout's responses of the sum over their tokens.
        responses: how many the rollout has.
        target: the KL to reach, in nats a response.
        horizon: responses over which the weight may change by a fifth.

    Returns:
        The weight in the next rollout.
    """
    return kl_coef * (1 + (kl / target - 1).clamp(-0.2, 0.2) * responses / horizon)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: Tensor | float) -> Tensor:
    """The reward of every token: a KL penalty for leaving the reference, and at the last token the response's score.

        r_t = -eta KL_t + [t is the last token] score

    arXiv:2307.04964, Figure 5; the penalty comes after the score was normalised and clipped.

    Args:
        scores: [...], normalised and clipped.
        kl: [..., R], an estimate of the KL at each token (`KL_ESTIMATORS`), in nats.
        mask: [..., R] bool, the tokens that count.
        kl_coef: the weight eta.

    Returns:
        [..., R], 0 where the mask is False.
    """
    last = mask & (mask.cumsum(-1) == mask.sum(-1, keepdim=True))
    return (-kl_coef * kl).masked_fill(~mask, 0.0) + scores[..., None].masked_fill(~last, 0.0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Estimate the advantage of every token (generalised advantage estimation); returns are these plus the values.

        delta_t = r_t + gamma V_{t+1} - V_t        A_t = sum_l (gamma lam)^l delta_{t+l}

    arXiv:1506.02438, equation 16. V_t is read before token t is seen, and nothing follows the last token: its V_{t+1}
    is 0, also for a response that was truncated. A token that does not count is passed over, as if its neighbours
    stood side by side.

    Args:
        rewards: [..., R], such as `token_rewards`.
        values: [..., R], of the critic.
        mask: [..., R] bool, the tokens that count.
        gamma: discount of rewards a token.
        lam: lambda; 1 takes whole returns, 0 one step.

    Returns:
        [..., R], 0 where the mask is False.
    """
    following = carried = torch.zeros_like(rewards[..., 0] + values[..., 0])
    advantages = []
    for reward, value, counts in zip(*(x.unbind(-1)[::-1] for x in (rewards, values, mask)), strict=True):
        delta = reward + gamma * following - value
        carried = torch.where(counts, delta + gamma * lam * carried, carried)
        following = torch.where(counts, value, following)
        advantages.append(carried)
    return torch.stack(advantages[::-1], -1).masked_fill(~mask, 0.0)


def policy_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """The ratio rho_t = pi(y_t) / pi_old(y_t), 1 where the mask is False. All of one shape -> same shape"""
    return (logps - old_logps).masked_fill(~mask, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, *, cliprange: float) -> tuple[Tensor, Tensor]:
    """The policy's loss on each token, and whether clipping decided it.

        max(-A rho, -A clip(rho, 1 - eps, 1 + eps)),    rho = pi(y_t) / pi_old(y_t)

    arXiv:1707.06347, equation 7, negated.

    Args:
        ratio, advantages: of one shape.
        cliprange: eps.

    Returns:
        Loss, and bool, of the same shape.
    """
    free, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.maximum(free, clipped), clipped > free


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, cliprange: float | None
) -> tuple[Tensor, Tensor]:
    """The critic's loss on each token, and whether clipping decided it.

        1/2 max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2)

    arXiv:2307.04964, Figure 5.

    Args:
        values, old_values, returns: of one shape.
        cliprange: eps; None does not clip.

    Returns:
        Loss, and bool, of the same shape.
    """
    free = (values - returns) ** 2
    if cliprange is None:
        return free / 2, torch.zeros_like(free, dtype=torch.bool)
    clipped = (old_values + (values - old_values).clamp(-cliprange, cliprange) - returns) ** 2
    return torch.maximum(free, clipped) / 2, clipped > free


def explained_variance(logs: Mapping[str, float]) -> float:
    """How much of the variance of returns the critic's values explain: 1 - E (R - V)^2 / Var R.

    1 is a critic that knows every return, 0 one that says their mean.

    Args:
        logs: metrics of a rollout as means, "val/returns", "val/squared_returns" and "val/squared_error" among them.

    Returns:
        At most 1; NaN where returns do not vary.
    """
    variance = logs["val/squared_returns"] - logs["val/returns"] ** 2
    return 1 - logs["val/squared_error"] / variance if variance > 1e-6 * logs["val/squared_returns"] else float("nan")


def derived_metrics(logs: Mapping[str, float]) -> dict[str, float]:
    """Metrics that follow from means over tokens: perplexities, and the variance of returns that the critic explains.

    A perplexity is exp of the mean negative log-prob of a token sampled from the policy, at most e^700.

    Args:
        logs: metrics of a rollout as means.
    """
    nlls = {model: logs[f"nll/{model}"] for model in ("policy", "reference") if f"nll/{model}" in logs}
    metrics = {f"ppl/{model}": math.exp(min(nll, 700.0)) for model, nll in nlls.items()}
    if "val/squared_returns" in logs:
        metrics["val/explained_variance"] = explained_variance(logs)
    return metrics
