"""PPO: rewards with a KL penalty, advantages, and the losses of policy and critic; PPO-max is a choice of its switches.

Secrets of RLHF part I, arXiv:2307.04964, Figure 5; what has a star there is on in `ppo-max`. The formulas, that of the
KL penalty among them, are in `ppo_losses.py`; the loop that collects rollouts and learns from them is in
`training/ppo/loop.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.tensors import masked_sum, upcast
from .base import Loss, Metric, Objective, Term, mean_of
from .ppo_arguments import PPOArguments
from .ppo_losses import (
    KL_ESTIMATORS,
    Moments,
    adaptive_kl,
    clipped_surrogate,
    clipped_value_loss,
    gae,
    merge_moments,
    policy_ratio,
    token_rewards,
)
from .sft import likelihood_loss

MEASURED = {
    "old_logps": "the policy's log-prob",
    "old_values": "the sum of the critic's values",
    "ref_logps": "the reference's log-prob",
}
"""Columns that models compute of a rollout, and how a message calls them."""

Columns = dict[str, Tensor]
Part = tuple[dict[str, Term], dict[str, Metric]]


@dataclass(kw_only=True)
class PPO(PPOArguments, Objective):
    """PPO on responses just sampled from the policy and scored. `ppo` and `ppo-max` differ in switches only.

    Once per rollout, without gradient, a trainer adds these columns to the batch:

    ============ ========= ===================================================================================
    score        [G, K]    what the scorer gave
    finished     [G, K]    bool: the response ended by itself, and was not truncated
    old_logps    [G, K, R] log-probs under the policy that the response was sampled from
    old_values   [G, K, R] the critic's value before each token
    ref_logps    [G, K, R] log-probs under the reference
    ============ ========= ===================================================================================

    and then, with the rows of all processes,

        state = ppo.update_state(ppo.rollout_statistics(batch), state)
        batch = batch.with_columns(**ppo.compute_advantages(batch, state))

    Moments include the rollout that they normalise, as in MOSS. The reference is needed without a KL penalty too: how
    far the policy has gone from it is the first thing to watch.

    Two more columns are for mini-batches. `ptx` [G], bool, marks rows that are demonstrations: the likelihood of their
    best response counts with `ptx_coef`, and nothing else of them; sampled rows have no part in that. Where there is a
    column `frozen_policy`, whatever is in it, the critic learns alone, and kl_coef does not adapt.
    """

    trains = "actor-critic"
    on_policy = True
    needs = frozenset({"scorer", "reference"})
    statistics_need_outputs = False
    free = frozenset({"sampling_batch_size", "collapse_action"})

    def __post_init__(self) -> None:
        self.check_ppo()

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"entropy"} if self.entropy_coef else ())

    @property
    def cross_batch(self) -> bool:  # type: ignore[override]
        return self.advantage_norm

    def outputs_on(self, batch: Batch) -> frozenset[str]:
        """Log-probs and values; values alone while only the critic learns."""
        return frozenset({"values"}) if "frozen_policy" in batch else self.outputs

    def init_state(self) -> Columns:
        """What PPO remembers from rollout to rollout, as scalars.

        Returns:
            "count", "mean" and "var" of all scores so far; "policy_start", the optimizer step from which on the policy
            learns, -1 while that is not known; where the weight of the KL penalty adapts, "kl_coef" in this rollout and
            "next_kl_coef" in the next.
        """
        adapted = () if self.target_kl is None else ("kl_coef", "next_kl_coef")
        state = {name: torch.zeros(()) for name in ("count", "mean", "var")}
        state["policy_start"] = torch.tensor(-1.0 if self.critic_pretrain_steps else 0.0)
        return state | {name: torch.tensor(self.kl_coef) for name in adapted}

    # ---- once per rollout ------------------------------------------------------------------------------------------

    def rollout_statistics(self, batch: Batch) -> Columns:
        """Compute what `update_state` must know of a rollout's rows.

        Returns:
            Columns [G, ...], to be put together row by row over processes.
        """
        columns = {"index": batch.index, "present": batch.present, "score": self._scores(batch)}
        columns |= {name: masked_sum(upcast(batch[name]), batch.loss_mask) for name in MEASURED}
        if self.target_kl is not None and "frozen_policy" not in batch:
            columns["kl"] = masked_sum(_log_ratios(batch), batch.loss_mask)
        return columns

    def update_state(self, statistics: Columns, state: Columns) -> Columns:
        """Bring the moments of scores and the weight of the KL penalty up to date with a rollout.

        Args:
            statistics: `rollout_statistics` of all rows of the rollout.
            state: before the rollout; it stays as it is.

        Returns:
            The state in which the rollout is rewarded.

        Raises:
            ValueError: a number that is not finite.
        """
        _check_finite(statistics)
        present = statistics["present"]
        moments = merge_moments(_moments(state), Moments.single(statistics["score"][present]))
        return state | vars(moments) | self._kl_coefs(statistics, state)

    def _kl_coefs(self, statistics: Columns, state: Columns) -> Columns:
        """The weight of the KL penalty in this rollout, and in the next one."""
        if self.target_kl is None:
            return {}
        kl_coef = next_kl_coef = state["next_kl_coef"]
        if "kl" in statistics and (present := statistics["present"]).any():
            kl = statistics["kl"][present].mean()
            next_kl_coef = adaptive_kl(kl_coef, kl, present.sum(), target=self.target_kl, horizon=self.kl_horizon)
        return {"kl_coef": kl_coef, "next_kl_coef": next_kl_coef}

    def _kl_coef(self, state: Columns) -> Tensor | float:
        """The weight of the KL penalty in this rollout."""
        return self.kl_coef if self.target_kl is None else state["kl_coef"]

    def start_policy(self, state: Columns, explained: float, step: int, steps: int) -> Columns:
        """Let the policy begin to learn, if it has not yet, once the critic has learnt enough alone.

        Args:
            state: of the rollout that the next steps learn from.
            explained: `explained_variance` of that rollout.
            step: optimizer steps so far.
            steps: optimizer steps of the whole run, in at least half of which the policy learns: the critic has no
                rollout to itself that would end beyond that.

        Returns:
            The state, with "policy_start" set to `step` if the policy begins now.
        """
        limit = min(self.critic_pretrain_steps, self.critic_alone(steps))
        critic_alone = step < limit and not explained > self.critic_pretrain_until
        if state["policy_start"] >= 0 or critic_alone:
            return state
        return state | {"policy_start": torch.full_like(state["policy_start"], float(step))}

    def compute_advantages(self, batch: Batch, state: Columns) -> Columns:
        """Reward a rollout: token rewards with the KL penalty, and advantages and returns that follow from them.

        Args:
            batch: the rollout, with the columns that are described above.
            state: what `update_state` returned for this rollout.

        Returns:
            The columns "advantages" and "returns", [G, K, R] each.
        """
        mask, values = batch.loss_mask, upcast(batch.old_values).masked_fill(~batch.loss_mask, 0.0)
        penalty = torch.zeros_like(values)
        if self.kl_coef:
            penalty = KL_ESTIMATORS[self.kl_estimator](_log_ratios(batch))
        rewards = token_rewards(self._normalised_scores(batch, state), penalty, mask, kl_coef=self._kl_coef(state))
        advantages = gae(rewards, values, mask, gamma=self.gamma, lam=self.lam)
        return {"advantages": advantages, "returns": advantages + values}

    def _scores(self, batch: Batch) -> Tensor:
        """Scores less the penalty of truncated responses, 0 where there is no response: [G, K]"""
        scores = upcast(batch.score)
        if self.missing_eos_penalty is not None:
            scores = torch.where(batch.finished, scores, scores - self.missing_eos_penalty)
        return scores.masked_fill(~batch.present, 0.0)

    def _normalised_scores(self, batch: Batch, state: Columns) -> Tensor:
        """Scores, normalised and clipped: [G, K]"""
        scores = self._scores(batch)
        if self.reward_norm == "norm":
            scores = scores - state["mean"]
        if self.reward_norm != "none":
            scores = scores / _moments(state).std
        return scores if self.reward_clip is None else scores.clamp(-self.reward_clip, self.reward_clip)

    def rollout_metrics(self, batch: Batch, state: Columns) -> dict[str, Metric]:
        """What is logged of a rollout: scores, KL, entropy, lengths; under TRL's names, as means over responses.

        Scores are as the scorer gave them. `objective/rlhf_reward` is the score less what a missing EOS and the KL
        cost; with reward_norm, training weighs the KL against scores of another scale. Of the means over tokens
        `derived_metrics` makes perplexities and, where the batch has `returns`, the variance that the critic explains.

        Args:
            batch: the rollout.
            state: what `update_state` returned for it.
        """
        present, mask = batch.present, batch.loss_mask
        scores, penalised = upcast(batch.score), self._scores(batch)
        by_response = {"objective/scores": scores, "objective/entropy": -masked_sum(upcast(batch.old_logps), mask)}
        kls = {name: masked_sum(estimator(_log_ratios(batch)), mask) for name, estimator in KL_ESTIMATORS.items()}
        by_response |= {"objective/kl": kls["k1"], "objective/kl3": kls["k3"]}
        penalty = -self._kl_coef(state) * kls[self.kl_estimator]
        by_response |= {"objective/non_score_reward": penalty, "objective/rlhf_reward": penalised + penalty}
        by_response |= {"val/num_eos_tokens": batch.finished.to(scores.dtype), "lengths/response": batch.lengths}
        metrics = {name: mean_of(values, present) for name, values in by_response.items()}
        by_token = {"nll/policy": batch.old_logps, "nll/reference": batch.ref_logps}
        metrics |= {name: mean_of(-upcast(logps), mask) for name, logps in by_token.items()}
        if "returns" in batch:
            error = (batch.returns - upcast(batch.old_values)) ** 2
            squares = {"returns": batch.returns, "squared_returns": batch.returns**2, "squared_error": error}
            metrics |= {f"val/{name}": mean_of(values, mask) for name, values in squares.items()}
        return metrics

    # ---- every optimizer step --------------------------------------------------------------------------------------

    def sizes(self, batch: Batch) -> Columns:
        """The usual units of the sampled rows, and "ptx_tokens" of the demonstrations."""
        return {**super().sizes(_sampled(batch)), "ptx_tokens": _demonstrated(batch).sum()}

    def gather_statistics(self, out: Outputs, batch: Batch) -> Columns:
        """Moments of each row's advantages, for `advantage_norm`: columns [G]."""
        return vars(Moments.of_rows(upcast(batch.advantages), _sampled(batch).loss_mask))

    def apply_statistics(self, gathered: Columns, state: Columns) -> tuple[Columns, Columns]:
        """Mean and standard deviation of all advantages of the step, the same for every row: columns [N]."""
        rows, step = gathered["mean"], merge_moments(Moments(**gathered))
        return {"advantage_mean": step.mean.expand(rows.shape), "advantage_std": step.std.expand(rows.shape)}, state

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Terms "policy_avg", "value_avg" and, where they have a weight, "entropy" and "ptx"; the critic's term alone
        while only the critic learns."""
        sampled = _sampled(batch)
        terms, metrics = self._critic_part(out, sampled)
        if "frozen_policy" in batch:  # a trainer logs the terms of a loss if there are several
            value_loss = Metric(terms["value_avg"].total.detach(), sampled.lengths.sum())
            return Loss(terms, metrics | {"loss/value_avg": value_loss})
        policy_terms, policy_metrics = self._policy_part(out, sampled)
        if self.ptx_coef and "ptx" in batch:
            nll = likelihood_loss(upcast(out.required("logps"))[:, 0], _demonstrated(batch)).sum()
            policy_terms["ptx"] = Term(nll, "ptx_tokens", self.ptx_coef)
        return Loss(policy_terms | terms, policy_metrics | metrics)

    def _critic_part(self, out: Outputs, batch: Batch) -> Part:
        mask, values = batch.loss_mask, upcast(out.required("values"))
        losses, clipped = clipped_value_loss(values, batch.old_values, batch.returns, cliprange=self.cliprange_value)
        metrics = {"val/clipfrac_avg": mean_of(clipped.to(losses.dtype), mask)}
        return {"value_avg": Term(masked_sum(losses, mask).sum(), "tokens", self.vf_coef)}, metrics

    def _policy_part(self, out: Outputs, batch: Batch) -> Part:
        mask, logps = batch.loss_mask, upcast(out.required("logps"))
        ratio = policy_ratio(logps, batch.old_logps, mask)
        losses, clipped = clipped_surrogate(ratio, self._advantages(batch), cliprange=self.cliprange)
        terms = {"policy_avg": Term(masked_sum(losses, mask).sum(), "tokens")}
        # Without the entropy itself, which costs a pass over the vocabulary, an estimate from the sampled tokens.
        entropy = -ratio.detach() * logps.detach()
        if self.entropy_coef:
            entropy = upcast(out.required("entropy"))
            terms["entropy"] = Term(-masked_sum(entropy, mask).sum(), "tokens", self.entropy_coef)
        by_token = {
            "policy/approxkl_avg": ratio.log() ** 2 / 2,
            "policy/clipfrac_avg": clipped.to(losses.dtype),
            "policy/entropy_avg": entropy,
            "val/ratio": ratio,
        }
        return terms, {name: mean_of(values, mask) for name, values in by_token.items()}

    def _advantages(self, batch: Batch) -> Tensor:
        """Advantages, normalised and clipped: [G, K, R]"""
        advantages = upcast(batch.advantages)
        if self.advantage_norm:
            advantages = (advantages - batch.advantage_mean[:, None, None]) / batch.advantage_std[:, None, None]
        if self.advantage_clip is None:
            return advantages
        return advantages.clamp(-self.advantage_clip, self.advantage_clip)


def _moments(state: Columns) -> Moments:
    return Moments(state["count"], state["mean"], state["var"])


def _log_ratios(batch: Batch) -> Tensor:
    """log pi_old - log pi_ref of each token, 0 of tokens that do not count: [G, K, R]"""
    return (upcast(batch.old_logps) - upcast(batch.ref_logps)).masked_fill(~batch.loss_mask, 0.0)


def _sampled(batch: Batch) -> Batch:
    """The batch with its demonstrations masked out."""
    if "ptx" not in batch:
        return batch
    keep = ~batch.ptx[:, None, None]
    return batch.with_columns(response_mask=batch.response_mask & keep, loss_mask=batch.loss_mask & keep)


def _demonstrated(batch: Batch) -> Tensor:
    """Which tokens are of a demonstration's best response: [G, R] bool"""
    return batch.loss_mask[:, 0] & (batch.ptx[:, None] if "ptx" in batch else False)


def _check_finite(statistics: Columns) -> None:
    for name, what in {"score": "the scorer's score", **MEASURED}.items():
        column = statistics[name]
        for row, response in (statistics["present"] & ~column.isfinite()).nonzero().tolist():
            raise ValueError(
                f"{what} of response {response} to row {statistics['index'][row].item()} is "
                f"{column[row, response].item()}, and this rollout cannot be learnt from: see what that model makes of "
                "the row, or leave it out"
            )


NAMES = {
    "ppo-max": PPO(),
    "ppo": PPO(kl_coef=0.0, reward_norm="none", reward_clip=None, cliprange_value=None, critic_pretrain_steps=0),
    # As MOSS-RLHF's program is set. It samples from another distribution than the policy's own, of which the log-probs
    # are: the KL of what is sampled may then be negative. It exempts the prompt from its repetition penalty.
    "ppo-moss": PPO(temperature=0.8, top_p=0.9, repetition_penalty=1.1, kl_coef=0.02, reward_clip=10.0),
}
