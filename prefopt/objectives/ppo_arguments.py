"""The hyperparameters of PPO, each with its help text and its range. Computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ..utils.options import changed, option
from .ppo_losses import KL_ESTIMATORS
from .sampling_arguments import SamplingArguments

REWARD_NORMS = ("none", "scale", "norm")
COLLAPSE_ACTIONS = ("warn", "stop", "restore")


@dataclass(kw_only=True)
class PPOArguments(SamplingArguments):
    """The hyperparameters of PPO, shared by the objective and `PPOConfig`. MOSS-RLHF's names stand in the help.

    Ours are those of TRL's removed `PPOConfig` where it had them; for its whiten_rewards, see reward_norm. Policy and
    critic start from the models that the trainer is given (MOSS: policy_model_path, critic_model_path).
    """

    responses_per_prompt: int = changed(SamplingArguments, "responses_per_prompt", 1)
    max_new_tokens: int = option(128, "Longest response, in tokens. See missing_eos_penalty. MOSS: maxlen_res.")

    # What is rewarded.
    kl_coef: float = option(0.05, "Weight eta of the penalty for leaving the reference. MOSS: kl_penalty_weight, .02.")
    kl_estimator: str = option(
        "k1",
        "What that penalty is on a token: `k1` is the log-ratio, whose sum has the right gradient on average; `k3` "
        "varies less, and has not.",
        choices=list(KL_ESTIMATORS),
    )
    target_kl: float | None = option(
        None, "Adapt kl_coef so that the KL of a response comes to this many nats (Ziegler et al. 2019)."
    )
    kl_horizon: float = option(10000.0, "Responses over which kl_coef may adapt by a fifth.")
    reward_norm: str = option(
        "norm",
        "Divide scores by the standard deviation of all seen so far (`scale`), after subtracting their mean (`norm`). "
        "MOSS: use_reward_scaling, and use_reward_norm with it.",
        choices=list(REWARD_NORMS),
    )
    reward_clip: float | None = option(
        0.8, "Clip scores to this on both sides, after reward_norm. MOSS: use_reward_clip, reward_clip, 10."
    )
    missing_eos_penalty: float | None = option(
        None, "What a truncated response loses of its score, in the scorer's units."
    )

    # How advantages follow from rewards.
    gamma: float = option(1.0, "Discount of rewards per token. MOSS: gamma.")
    lam: float = option(0.95, "lambda of generalised advantage estimation, .9 in the paper's appendix. MOSS: lam.")
    advantage_norm: bool = option(
        False,
        "Shift and scale the advantages of an optimizer step to mean 0 and standard deviation 1. MOSS: "
        "use_advantage_norm.",
    )
    advantage_clip: float | None = option(
        None, "Clip advantages to this on both sides, after advantage_norm. MOSS: use_advantage_clip, advantage_clip."
    )

    # What is learnt from them.
    cliprange: float = option(0.2, "How far the ratio to the old policy counts. MOSS: use_policy_loss_clip, pg_clip.")
    cliprange_value: float | None = option(
        0.2, "How far a value may move from the old one and gain. MOSS: use_critic_loss_clip, value_clip."
    )
    vf_coef: float = option(1.0, "Weight of the critic's loss; .1 in TRL. MOSS: vf_loss_weight.")
    entropy_coef: float = option(
        0.0,
        "Weight of a bonus for entropy. MOSS's |H - 35| (use_entropy_loss, entropy_loss_weight, entropy_clip) is the "
        "same: no token has an entropy of 35 nats.",
    )
    ptx_coef: float = option(
        0.0,
        "Weight of the likelihood of demonstrations that are mixed in (PPO-ptx). MOSS: use_ppo_pretrain_loss, "
        "ppo_pretrain_loss_weight.",
    )

    # How a rollout is used, and how training begins: for the trainer to read.
    num_ppo_epochs: int = option(1, "How often a rollout is learnt from.")
    num_mini_batches: int = option(
        4,
        "Optimizer steps in one pass over a rollout, which has this many times the prompts of a step. MOSS: "
        "num_rollouts / batch_size, 128 / 32.",
    )
    critic_pretrain_steps: int = option(
        50,
        "Optimizer steps, rounded up to whole rollouts, in which at most only the critic learns at first, and no more "
        "than half of all; 0 starts with both. MOSS has none.",
    )
    critic_pretrain_until: float = option(
        0.3, "Explained variance of returns by values at which that phase ends before."
    )
    critic_learning_rate: float | None = option(
        None,
        "Of the critic; None is 3.3 times learning_rate, as 1.65e-6 to 5e-7 in the paper, or 1.65e-6 where only the "
        "policy has an adapter. MOSS: critic_lr.",
    )
    share_critic: bool = option(
        False,
        "The critic is a second adapter on the policy's own backbone, with a head: far less memory. Needs an adapter "
        "on the policy.",
    )
    collapse_action: str = option(
        "warn",
        "When the policy seems to exploit the reward model (the KL rises, and length, perplexity and rewards say the "
        "same): `warn` and save; `stop`, too; or also go back to the last checkpoint before it (`restore`).",
        choices=list(COLLAPSE_ACTIONS),
    )

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps that a rollout is learnt from in."""
        return self.num_ppo_epochs * self.num_mini_batches

    def critic_alone(self, steps: int | float) -> int:
        """How many of so many optimizer steps the critic has to itself, at most: whole rollouts, within half of all."""
        wanted = -(-self.critic_pretrain_steps // self.steps_per_rollout)
        return min(wanted, int(steps / 2 // self.steps_per_rollout)) * self.steps_per_rollout

    def check_ppo(self) -> None:
        """Raise ValueError for a setting outside its range, or two that do not go together."""
        self.check_sampling()
        for name, (valid, rule) in _rules(self).items():
            if not valid:
                raise ValueError(f"{name}={getattr(self, name)!r} {rule}")


def _rules(ppo: PPOArguments) -> dict[str, tuple[bool, str]]:
    """Whether each hyperparameter is in its range, and what the range is."""
    above = ("cliprange", "kl_horizon")
    optional = ("target_kl", "reward_clip", "advantage_clip", "cliprange_value")
    at_least_0 = ("vf_coef", "entropy_coef", "ptx_coef", "critic_pretrain_steps")
    rules = {name: (getattr(ppo, name) > 0, "must be above 0") for name in above}
    for name in optional:
        value = getattr(ppo, name)
        rules[name] = (value is None or value > 0, "must be above 0, or None to leave it out")
    rules |= {name: (getattr(ppo, name) >= 0, "must be at least 0") for name in at_least_0}
    rules |= {name: (getattr(ppo, name) >= 1, "must be at least 1") for name in ("num_ppo_epochs", "num_mini_batches")}
    rules |= {name: (0 <= getattr(ppo, name) <= 1, "must lie in [0, 1]") for name in ("gamma", "lam")}
    kl_coef, penalty = ppo.kl_coef, ppo.missing_eos_penalty
    return rules | {
        "kl_coef": (kl_coef > 0 or (kl_coef == 0 and ppo.target_kl is None), "must be at least 0, above 0 to adapt it"),
        "kl_estimator": (ppo.kl_estimator in KL_ESTIMATORS, f"must be one of {', '.join(KL_ESTIMATORS)}"),
        "reward_norm": (ppo.reward_norm in REWARD_NORMS, f"must be one of {', '.join(REWARD_NORMS)}"),
        "missing_eos_penalty": (penalty is None or penalty >= 0, "must be at least 0: it is subtracted"),
        "critic_pretrain_until": (ppo.critic_pretrain_until <= 1, "must be at most 1, a critic without error"),
        "critic_learning_rate": (
            ppo.critic_learning_rate is None or ppo.critic_learning_rate > 0,
            "must be above 0, or None to follow learning_rate",
        ),
        "collapse_action": (ppo.collapse_action in COLLAPSE_ACTIONS, f"must be one of {', '.join(COLLAPSE_ACTIONS)}"),
        "source": (ppo.source == "sampling", "must be sampling: PPO learns from what the policy sampled"),
        "temperature": (ppo.temperature > 0, "must be above 0: PPO learns from what the policy sampled"),
    }
