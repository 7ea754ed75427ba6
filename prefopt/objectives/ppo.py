"""PPO-max, and the vanilla PPO that it is measured against: one objective and its switches. Knows no model, no trainer.

Secrets of RLHF part I, arXiv:2307.04964, Figure 5; what has a star there is on in `ppo-max`. The formulas are in
`actor_critic.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.tensors import masked_sum, wide
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
"""What models say of a rollout."""

Columns = dict[str, Tensor]
Part = tuple[dict[str, Term], dict[str, Metric]]


@dataclass(kw_only=True)
class PPO(PPOArguments, Objective):
    """PPO on responses that the policy has just drawn, judged by a scorer. `ppo` and `ppo-max` differ in switches only.

    Once per rollout, without gradient, a trainer adds what it measured to the batch:

    ============ ========= ===================================================================================
    score        [G, K]    what the scorer gave
    finished     [G, K]    bool: the response ended by itself
    old_logps    [G, K, R] log-probs under the policy that drew it
    old_values   [G, K, R] what the critic said before each token
    ref_logps    [G, K, R] under the reference
    ============ ========= ===================================================================================

    then `state = update(observed, state)` with what `observe_rollout` says of the rows of all processes, and then
    `batch.with_columns(**experience(batch, state))`. Moments include the rollout that they normalise, as in MOSS. The
    reference is there without a KL penalty too: how far the policy has gone is the first thing to watch.

    Two more columns are for minibatches. `ptx` [G], bool, marks rows that are demonstrations: their best response's
    likelihood counts with `ptx_coef`, and nothing else of them; rows that were drawn have no part in that. Where
    there is a column `frozen_policy`, whatever is in it, the critic learns alone, and kl_coef does not adapt.
    """

    trains = "actor-critic"
    on_policy = True
    needs = frozenset({"scorer", "reference"})
    observes_outputs = False
    free = frozenset({"sampling_batch_size", "collapse_action"})

    def __post_init__(self) -> None:
        self.check_ppo()

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"entropy"} if self.entropy_coef else ())

    @property
    def couples(self) -> bool:  # type: ignore[override]
        return self.advantage_norm

    def outputs_on(self, batch: Batch) -> frozenset[str]:
        return frozenset({"values"}) if "frozen_policy" in batch else self.outputs

    def init_state(self) -> Columns:
        """Moments of scores; the step from which on the policy learns, -1 while that is not known; where it adapts, the
        weight of the KL penalty in this rollout and in the next."""
        adapted = () if self.target_kl is None else ("kl_coef", "next_kl_coef")
        state = {name: torch.zeros(()) for name in ("count", "mean", "var")}
        state["policy_start"] = torch.tensor(-1.0 if self.critic_pretrain_steps else 0.0)
        return state | {name: torch.tensor(self.kl_coef) for name in adapted}

    # ---- once per rollout ------------------------------------------------------------------------------------------

    def observe_rollout(self, batch: Batch) -> Columns:
        """What `update` must know of these rows: columns [G, ...], to be put together row by row over processes."""
        columns = {"index": batch.index, "present": batch.present, "score": self._scores(batch)}
        columns |= {name: masked_sum(wide(batch[name]), batch.loss_mask) for name in MEASURED}
        if self.target_kl is not None and "frozen_policy" not in batch:
            columns["kl"] = masked_sum(_log_ratios(batch), batch.loss_mask)
        return columns

    def update(self, observed: Columns, state: Columns) -> Columns:
        """The state in which a rollout is rewarded, from all its rows and the state before.

        Raises:
            ValueError: a number that is not finite; the state before is as it was.
        """
        _check_finite(observed)
        present = observed["present"]
        moments = merge_moments(_moments(state), Moments.single(observed["score"][present]))
        return state | vars(moments) | self._adapted(observed, state)

    def _adapted(self, observed: Columns, state: Columns) -> Columns:
        """The weight of the KL penalty that this rollout pays, and the next."""
        if self.target_kl is None:
            return {}
        kl_coef = after = state["next_kl_coef"]
        if "kl" in observed and (present := observed["present"]).any():
            kl = observed["kl"][present].mean()
            after = adaptive_kl(kl_coef, kl, present.sum(), target=self.target_kl, horizon=self.kl_horizon)
        return {"kl_coef": kl_coef, "next_kl_coef": after}

    def _kl_coef(self, state: Columns) -> Tensor | float:
        return self.kl_coef if self.target_kl is None else state["kl_coef"]

    def begun(self, state: Columns, explained: float, step: int, steps: int) -> Columns:
        """The state, in which the policy begins to learn if the critic has learnt enough alone.

        Args:
            explained: `explained_variance` of the rollout that the next steps learn from.
            step: how many steps there were.
            steps: how many there will have been: half of them are the policy's at least.
        """
        waits = step < min(self.critic_pretrain_steps, steps / 2) and not explained > self.critic_pretrain_until
        if state["policy_start"] >= 0 or waits:
            return state
        return state | {"policy_start": torch.full_like(state["policy_start"], float(step))}

    def experience(self, batch: Batch, state: Columns) -> Columns:
        """Advantages and returns of a rollout, [G, K, R]; `state` is what `update` returned for it."""
        mask, values = batch.loss_mask, wide(batch.old_values).masked_fill(~batch.loss_mask, 0.0)
        penalty = torch.zeros_like(values)
        if self.kl_coef:
            penalty = KL_ESTIMATORS[self.kl_estimator](_log_ratios(batch))
        rewards = token_rewards(self._shaped(batch, state), penalty, mask, kl_coef=self._kl_coef(state))
        advantages = gae(rewards, values, mask, gamma=self.gamma, lam=self.lam)
        return {"advantages": advantages, "returns": advantages + values}

    def _scores(self, batch: Batch) -> Tensor:
        """[G, K]: scores less what unfinished responses lose, 0 where there is no response."""
        scores = wide(batch.score)
        if self.missing_eos_penalty is not None:
            scores = torch.where(batch.finished, scores, scores - self.missing_eos_penalty)
        return scores.masked_fill(~batch.present, 0.0)

    def _shaped(self, batch: Batch, state: Columns) -> Tensor:
        """[G, K]: scores, normalised and clipped."""
        scores = self._scores(batch)
        if self.reward_norm == "norm":
            scores = scores - state["mean"]
        if self.reward_norm != "none":
            scores = scores / _moments(state).std
        return scores if self.reward_clip is None else scores.clamp(-self.reward_clip, self.reward_clip)

    def rollout_metrics(self, batch: Batch, state: Columns) -> dict[str, Metric]:
        """TRL's names, as means over responses. Scores are as the scorer gave them.

        `objective/rlhf_reward` takes from them what a missing EOS and the KL cost. With reward_norm, training weighs
        the KL against scores of another scale. What is a mean over tokens, `derived` turns into perplexities and into
        the variance of `returns`, where there, that the critic explains.
        """
        present, mask = batch.present, batch.loss_mask
        scores, penalised = wide(batch.score), self._scores(batch)
        found = {"objective/scores": scores, "objective/entropy": -masked_sum(wide(batch.old_logps), mask)}
        kinds = {name: masked_sum(kind(_log_ratios(batch)), mask) for name, kind in KL_ESTIMATORS.items()}
        found |= {"objective/kl": kinds["k1"], "objective/kl3": kinds["k3"]}
        paid = -self._kl_coef(state) * kinds[self.kl_estimator]
        found |= {"objective/non_score_reward": paid, "objective/rlhf_reward": penalised + paid}
        found |= {"val/num_eos_tokens": batch.finished.to(scores.dtype), "lengths/response": batch.lengths}
        metrics = {name: mean_of(values, present) for name, values in found.items()}
        spoken = {"nll/policy": batch.old_logps, "nll/reference": batch.ref_logps}
        metrics |= {name: mean_of(-wide(logps), mask) for name, logps in spoken.items()}
        if "returns" in batch:
            error = (batch.returns - wide(batch.old_values)) ** 2
            squares = {"returns": batch.returns, "squared_returns": batch.returns**2, "squared_error": error}
            metrics |= {f"val/{name}": mean_of(values, mask) for name, values in squares.items()}
        return metrics

    # ---- every optimizer step --------------------------------------------------------------------------------------

    def sizes(self, batch: Batch) -> Columns:
        """The usual ones of the rows that were drawn, and "ptx_tokens" of the demonstrations."""
        return {**super().sizes(_drawn(batch)), "ptx_tokens": _demonstrated(batch).sum()}

    def observe(self, out: Outputs, batch: Batch) -> Columns:
        return vars(Moments.of_rows(wide(batch.advantages), _drawn(batch).loss_mask))

    def couple(self, observed: Columns, state: Columns) -> tuple[Columns, Columns]:
        rows, whole = observed["mean"], merge_moments(Moments(**observed))
        return {"advantage_mean": whole.mean.expand(rows.shape), "advantage_std": whole.std.expand(rows.shape)}, state

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        drawn = _drawn(batch)
        terms, metrics = self._critic_part(out, drawn)
        if "frozen_policy" in batch:  # a trainer logs the terms of a loss if there are several
            return Loss(
                terms, metrics | {"loss/value_avg": Metric(terms["value_avg"].total.detach(), drawn.lengths.sum())}
            )
        policy_terms, policy_metrics = self._policy_part(out, drawn)
        if self.ptx_coef and "ptx" in batch:
            nll = likelihood_loss(wide(out.required("logps"))[:, 0], _demonstrated(batch)).sum()
            policy_terms["ptx"] = Term(nll, "ptx_tokens", self.ptx_coef)
        return Loss(policy_terms | terms, policy_metrics | metrics)

    def _critic_part(self, out: Outputs, batch: Batch) -> Part:
        mask, values = batch.loss_mask, wide(out.required("values"))
        losses, clipped = clipped_value_loss(values, batch.old_values, batch.returns, cliprange=self.cliprange_value)
        metrics = {"val/clipfrac_avg": mean_of(clipped.to(losses.dtype), mask)}
        return {"value_avg": Term(masked_sum(losses, mask).sum(), "tokens", self.vf_coef)}, metrics

    def _policy_part(self, out: Outputs, batch: Batch) -> Part:
        mask, logps = batch.loss_mask, wide(out.required("logps"))
        ratio = policy_ratio(logps, batch.old_logps, mask)
        losses, clipped = clipped_surrogate(ratio, self._advantages(batch), cliprange=self.cliprange)
        terms = {"policy_avg": Term(masked_sum(losses, mask).sum(), "tokens")}
        # Without the entropy itself, which costs a pass over the vocabulary, an estimate from the tokens drawn.
        entropy = -ratio.detach() * logps.detach()
        if self.entropy_coef:
            entropy = wide(out.required("entropy"))
            terms["entropy"] = Term(-masked_sum(entropy, mask).sum(), "tokens", self.entropy_coef)
        found = {
            "policy/approxkl_avg": ratio.log() ** 2 / 2,
            "policy/clipfrac_avg": clipped.to(losses.dtype),
            "policy/entropy_avg": entropy,
            "val/ratio": ratio,
        }
        return terms, {name: mean_of(values, mask) for name, values in found.items()}

    def _advantages(self, batch: Batch) -> Tensor:
        """[G, K, R]: normalised and clipped."""
        advantages = wide(batch.advantages)
        if self.advantage_norm:
            advantages = (advantages - batch.advantage_mean[:, None, None]) / batch.advantage_std[:, None, None]
        if self.advantage_clip is None:
            return advantages
        return advantages.clamp(-self.advantage_clip, self.advantage_clip)


def _moments(state: Columns) -> Moments:
    return Moments(state["count"], state["mean"], state["var"])


def _log_ratios(batch: Batch) -> Tensor:
    """[G, K, R]: log pi_old - log pi_ref, 0 where nothing counts."""
    return (wide(batch.old_logps) - wide(batch.ref_logps)).masked_fill(~batch.loss_mask, 0.0)


def _drawn(batch: Batch) -> Batch:
    """The batch as if its demonstrations were absent."""
    if "ptx" not in batch:
        return batch
    keep = ~batch.ptx[:, None, None]
    return batch.with_columns(response_mask=batch.response_mask & keep, loss_mask=batch.loss_mask & keep)


def _demonstrated(batch: Batch) -> Tensor:
    """[G, R] bool: tokens of the demonstrations' best responses."""
    return batch.loss_mask[:, 0] & (batch.ptx[:, None] if "ptx" in batch else False)


def _check_finite(observed: Columns) -> None:
    for name, what in {"score": "the scorer's score", **MEASURED}.items():
        column = observed[name]
        for row, response in (observed["present"] & ~column.isfinite()).nonzero().tolist():
            raise ValueError(
                f"{what} of response {response} to row {observed['index'][row].item()} is "
                f"{column[row, response].item()}, and this rollout cannot be learnt from: see what that model makes of "
                "the row, or leave it out"
            )


NAMES = {
    "ppo-max": PPO(),
    "ppo": PPO(kl_coef=0.0, reward_norm="none", reward_clip=None, cliprange_value=None, critic_pretrain_steps=0),
    # As MOSS-RLHF's program is set. It draws from another distribution than the policy's own, of which the log-probs
    # are: the KL of what is drawn may then be negative. It exempts the prompt from its repetition penalty.
    "ppo-moss": PPO(temperature=0.8, top_p=0.9, repetition_penalty=1.1, kl_coef=0.02, reward_clip=10.0),
}
