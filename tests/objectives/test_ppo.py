"""PPO against numbers worked by hand: a rollout, a minibatch, every switch. Its formulas have a file of their own."""

from __future__ import annotations

import dataclasses
from math import nan
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefopt.batch import Batch, Outputs, fill_rows
from prefopt.objectives.base import Loss
from prefopt.objectives.ppo import NAMES, PPO
from prefopt.objectives.ppo_arguments import PPOArguments
from tests.helpers.objectives import make, mapped, numbers, rows, with_statistics

PLAIN: dict[str, Any] = {"kl_coef": 0.0, "reward_norm": "none", "reward_clip": None}


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def state_of(objective: PPO) -> dict[str, Tensor]:
    return {name: value.double() for name, value in objective.init_state().items()}


def drawn(scores: list[list[float]], lengths: list[list[int]], **columns: Tensor) -> Batch:
    """A rollout of responses with these scores and lengths, all finished; log-probs and values are 0 if not given."""
    counts = torch.tensor(lengths)
    mask = torch.arange(int(counts.max())) < counts[..., None]
    zeros = {name: torch.zeros(mask.shape, dtype=torch.float64) for name in ("old_logps", "ref_logps", "old_values")}
    batch = Batch(response_mask=mask, loss_mask=mask, index=torch.arange(len(mask)), score=tensor(scores), **zeros)
    return batch.with_columns(**{"finished": torch.ones_like(counts, dtype=torch.bool)} | columns)


def rewarded(objective: PPO, batch: Batch, state: dict[str, Tensor] | None = None) -> tuple[Batch, dict[str, Tensor]]:
    """What a trainer does with a rollout."""
    state = objective.update_state(objective.rollout_statistics(batch), state or state_of(objective))
    return batch.with_columns(**objective.compute_advantages(batch, state)), state


def means(metrics: dict) -> dict[str, float]:
    return {name: float(metric.total / metric.count) for name, metric in metrics.items() if metric.count}


def floats(columns: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(column) for name, column in columns.items()}


def value(objective: PPO, loss: Loss, batch: Batch) -> float:
    return float(loss.reduced(objective.sizes(batch)).detach())


# ---- a rollout -----------------------------------------------------------------------------------------------------

# One response of three tokens, log-ratios to the reference .4, -.2, .6, values .1, .2, .3, score 1, unfinished.
TOKENS = {
    "old_logps": tensor([[[-1.0, -1.2, -0.4]]]),
    "ref_logps": tensor([[[-1.4, -1.0, -1.0]]]),
    "old_values": tensor([[[0.1, 0.2, 0.3]]]),
}


def test_a_rollout_by_hand():
    """eta = .5, the penalty for no EOS .7: rewards -.2, .1, -.3 + (1 - .7) = 0; gamma lambda = .5.

    delta    -.2 + .2 - .1 = -.1     .1 + .3 - .2 = .2      0 - .3 = -.3
    A        -.1 + .5 * .05 = -.075  .2 - .5 * .3 = .05     -.3
    """
    objective = PPO(**PLAIN | {"kl_coef": 0.5}, lam=0.5, missing_eos_penalty=0.7)
    batch, state = rewarded(objective, drawn([[1.0]], [[3]], **TOKENS, finished=torch.tensor([[False]])))
    torch.testing.assert_close(batch.advantages, tensor([[[-0.075, 0.05, -0.3]]]))
    torch.testing.assert_close(batch.returns, tensor([[[0.025, 0.25, 0.0]]]))
    got = means(objective.rollout_metrics(batch, state))
    # k1: .4 - .2 + .6; k3: e^-.4 + e^.2 + e^-.6 - 3 + .8. Squares of returns: .000625 + .0625; of advantages, which
    # are what values missed: .005625 + .0025 + .09.
    assert got == pytest.approx(
        {
            "objective/scores": 1.0,
            "objective/entropy": 2.6,
            "objective/kl": 0.8,
            "objective/kl3": np.exp([-0.4, 0.2, -0.6]).sum() - 2.2,
            "objective/non_score_reward": -0.4,
            "objective/rlhf_reward": 1.0 - 0.7 - 0.4,
            "val/num_eos_tokens": 0.0,
            "lengths/response": 3.0,
            "nll/policy": 2.6 / 3,
            "nll/reference": 3.4 / 3,
            "val/returns": 0.275 / 3,
            "val/squared_returns": 0.063125 / 3,
            "val/squared_error": 0.098125 / 3,
        },
        rel=1e-12,
    )


def test_the_other_estimator_is_charged_where_it_is_asked_for():
    objective = PPO(**PLAIN | {"kl_coef": 0.5}, kl_estimator="k3", lam=1.0)
    batch, state = rewarded(objective, drawn([[1.0]], [[3]], **TOKENS))
    kl3 = np.exp([-0.4, 0.2, -0.6]).sum() - 2.2
    assert float(batch.returns[0, 0, 0]) == pytest.approx(1 - kl3 / 2)
    assert means(objective.rollout_metrics(batch, state))["objective/non_score_reward"] == pytest.approx(-kl3 / 2)


# Scores 1, 2, 3, 6 have mean 3 and standard deviation sqrt(14 / 3) = 2.160247.
@pytest.mark.parametrize(
    ("knobs", "want"),
    [
        ({"reward_norm": "norm", "reward_clip": None}, [-0.925820, -0.462910, 0.0, 1.388730]),
        ({"reward_norm": "norm", "reward_clip": 0.8}, [-0.8, -0.462910, 0.0, 0.8]),
        ({"reward_norm": "scale", "reward_clip": None}, [0.462910, 0.925820, 1.388730, 2.777460]),
        ({"reward_norm": "none", "reward_clip": 2.5}, [1.0, 2.0, 2.5, 2.5]),
    ],
)
def test_scores_are_normalised_by_all_so_far_and_then_clipped(knobs: dict, want: list[float]):
    """Responses of one token without a value: the return is the score that arrives. The rollout itself is included."""
    objective = PPO(kl_coef=0.0, **knobs)
    once, state = rewarded(objective, drawn([[1.0], [2.0], [3.0], [6.0]], [[1]] * 4))
    assert once.returns.flatten().tolist() == pytest.approx(want, abs=1e-6)
    first, before = rewarded(objective, drawn([[2.0], [3.0], [1.0]], [[1]] * 3))
    then, after = rewarded(objective, drawn([[6.0]], [[1]]), before)
    assert then.returns.item() == pytest.approx(want[-1], abs=1e-6)
    assert floats(after) == pytest.approx(floats(state))


@given(seed=st.integers(0, 2**16))
def test_two_processes_reward_as_one(seed: int):
    """What rows say of themselves is gathered, so every process comes to the same state, and its rows to the same."""
    batch, _ = make(PPO(), seed=seed)
    objective = PPO(target_kl=2.0, missing_eos_penalty=1.0)
    g = torch.Generator().manual_seed(seed)
    batch = batch.with_columns(finished=torch.rand(6, 3, generator=g) < 0.5)
    parts = [batch.rows(slice(0, 2)), batch.rows(slice(2, 6))]
    each = [objective.rollout_statistics(part) for part in parts]
    gathered = {name: torch.cat([part[name] for part in each]) for name in each[0]}
    whole, state = rewarded(objective, batch)
    assert floats(objective.update_state(gathered, state_of(objective))) == pytest.approx(floats(state), rel=1e-12)
    for part, rows_ in zip(parts, (slice(0, 2), slice(2, 6)), strict=True):
        for name, column in objective.compute_advantages(part, state).items():
            torch.testing.assert_close(column, whole[name][rows_])


def test_what_does_not_exist_or_count_earns_nothing():
    """Whatever stands under the masks, a NaN score included; and one score alone, or equal ones, are not divided by."""
    batch, _ = make(PPO())
    batch = batch.with_columns(finished=batch.present)
    want, state = rewarded(PPO(), batch)
    hidden = ~batch.loss_mask
    columns = {n: batch[n].masked_fill(hidden, -5.0) for n in ("old_logps", "ref_logps", "old_values")}
    noisy = batch.with_columns(score=batch.score.masked_fill(~batch.present, nan), **columns)
    got, again = rewarded(PPO(missing_eos_penalty=0.0), noisy)
    assert again == state and not want.advantages[hidden].any() and not want.returns[hidden].any()
    torch.testing.assert_close((got.advantages, got.returns), (want.advantages, want.returns))
    metrics = [numbers(Loss({}, PPO().rollout_metrics(b, state))) for b in (got, want)]
    assert metrics[0] == pytest.approx(metrics[1])
    for scores in ([[5.0]], [[5.0], [5.0]]):
        assert not rewarded(PPO(), drawn(scores, [[1]] * len(scores)))[0].returns.any()


def test_the_weight_of_the_kl_adapts_from_one_rollout_to_the_next():
    """Target .4, KL .8 of one response: error 1, at most .2, over a horizon of 10. It does not while only the critic
    learns. What a rollout pays was known before it."""
    objective = PPO(**PLAIN | {"kl_coef": 0.5}, target_kl=0.4, kl_horizon=10.0)
    batch = drawn([[1.0]], [[3]], **TOKENS)
    state, paid = state_of(objective), []
    for columns in ({"frozen_policy": torch.tensor([True])}, {}, {}):
        found, state = rewarded(objective, batch.with_columns(**columns), state)
        paid.append(-means(objective.rollout_metrics(found, state))["objective/non_score_reward"] / 0.8)
    assert paid == pytest.approx([0.5, 0.5, 0.5 * 1.02])
    assert float(state["next_kl_coef"]) == pytest.approx(0.5 * 1.02**2)
    assert "kl_coef" not in PPO().init_state()  # a run that is resumed with another kl_coef has that


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"score": tensor([[1.0], [nan]])}, "the scorer's score of response 0 to row 1 is nan"),
        (
            {"ref_logps": tensor([[[-torch.inf]], [[0.0]]])},
            "the reference's log-prob of response 0 to row 0 is -inf",
        ),
    ],
)
def test_a_number_that_is_not_finite_spoils_nothing(columns: dict, message: str):
    batch = drawn([[1.0], [2.0]], [[1], [1]]).with_columns(**columns)
    with pytest.raises(ValueError, match=message):
        rewarded(PPO(target_kl=1.0), batch)


# ---- a minibatch ---------------------------------------------------------------------------------------------------


def test_the_first_minibatch_has_ratio_1_and_loses_minus_the_advantage():
    batch, out = make(PPO())
    objective = PPO(vf_coef=0.0)
    loss = objective.loss(out, batch.with_columns(old_logps=out.required("logps").detach()))
    mean = float(batch.advantages[batch.loss_mask].mean())
    assert value(objective, loss, batch) == pytest.approx(-mean)
    got = means(loss.metrics)
    assert got["val/ratio"] == 1.0 and got["policy/clipfrac_avg"] == got["policy/approxkl_avg"] == 0.0
    assert got["policy/entropy_avg"] == pytest.approx(-float(out.required("logps").detach()[batch.loss_mask].mean()))


# Two rows that were drawn, of 2 and 1 tokens, and a demonstration of 2 tokens with log-probs -.5 and -.25.
#
#            ratio        A       surrogate                      V     V_old   R     value loss
# token 0    1.5          2       max(-3, -1.2 * 2) = -2.4       .5    0       1     max(.25, .64) / 2 = .32
# token 1    .5           -1      max(.5, .8) = .8               0     0       .4    .08
# token 2    1            3       -3                             1     1       1     0
RATIOS = tensor([[[1.5, 0.5]], [[1.0, 7.0]], [[1.0, 1.0]]])
MINIBATCH = drawn(
    [[0.0]] * 3,
    [[2], [1], [2]],
    old_logps=tensor([[[-1.0, -1.0]], [[-1.0, 0.0]], [[0.0, 0.0]]]),
    old_values=tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 0.0]]]),
    advantages=tensor([[[2.0, -1.0]], [[3.0, 9.0]], [[0.0, 0.0]]]),
    returns=tensor([[[1.0, 0.4]], [[1.0, 9.0]], [[0.0, 0.0]]]),
    ptx=torch.tensor([False, False, True]),
)
LOGPS = torch.where(MINIBATCH.ptx[:, None, None], tensor([-0.5, -0.25]), RATIOS.log() + MINIBATCH.old_logps)
VALUES = tensor([[[0.5, 0.0]], [[1.0, 5.0]], [[3.0, 3.0]]])


def outputs(**more: Tensor) -> Outputs:
    return Outputs(
        **{name: x.clone().requires_grad_() for name, x in ({"logps": LOGPS, "values": VALUES} | more).items()}
    )


def test_a_minibatch_by_hand():
    """A demonstration has no part in PPO's terms, and what was drawn none in its."""
    objective = PPO(ptx_coef=2.0, vf_coef=0.5)
    loss = objective.loss(outputs(), MINIBATCH)
    totals = {name: (float(term.total.detach()), term.unit, term.weight) for name, term in loss.terms.items()}
    assert totals == {
        "policy_avg": (pytest.approx(-4.6), "tokens", 1.0),
        "value_avg": (pytest.approx(0.4), "tokens", 0.5),
        "ptx": (pytest.approx(0.75), "ptx_tokens", 2.0),
    }
    sizes = {name: int(size) for name, size in objective.sizes(MINIBATCH).items()}
    assert sizes == {"prompts": 2, "responses": 2, "tokens": 3, "best_tokens": 3, "ptx_tokens": 2}
    assert value(objective, loss, MINIBATCH) == pytest.approx(-4.6 / 3 + 0.5 * 0.4 / 3 + 2 * 0.75 / 2)
    assert means(loss.metrics) == pytest.approx(
        {
            "policy/clipfrac_avg": 2 / 3,
            "val/clipfrac_avg": 1 / 3,
            "val/ratio": 1.0,
            "policy/approxkl_avg": (np.log(1.5) ** 2 + np.log(0.5) ** 2) / 6,
            "policy/entropy_avg": (1.5 * (1 - np.log(1.5)) + 0.5 * (1 - np.log(0.5)) + 1) / 3,
        }
    )


def test_demonstrations_and_drawn_rows_apart_are_the_same_as_together():
    objective = PPO(ptx_coef=2.0)
    parts = [slice(0, 1), slice(1, 3)]
    total: dict[str, float] = {}
    for part in parts:
        for name, number in numbers(objective.loss(rows(outputs(), part), MINIBATCH.rows(part))).items():
            total[name] = total.get(name, 0.0) + number
    assert total == pytest.approx(numbers(objective.loss(outputs(), MINIBATCH)))
    plain = Batch({name: column for name, column in MINIBATCH.rows(slice(0, 2)).items() if name != "ptx"})
    loss = objective.loss(rows(outputs(), slice(0, 2)), plain)
    assert "ptx" not in loss.terms and float(loss.terms["policy_avg"].total.detach()) == pytest.approx(-4.6)
    assert int(objective.sizes(plain)["ptx_tokens"]) == 0
    assert "ptx" not in PPO().loss(outputs(), MINIBATCH).terms


def test_while_the_policy_is_frozen_only_the_critic_learns():
    batch = MINIBATCH.with_columns(frozen_policy=torch.ones(3, dtype=torch.bool))
    loss = PPO(ptx_coef=1.0, entropy_coef=1.0).loss(Outputs(values=outputs().values), batch)
    assert set(loss.terms) == {"value_avg"} and set(loss.metrics) == {"loss/value_avg", "val/clipfrac_avg"}
    assert float(loss.terms["value_avg"].total.detach()) == pytest.approx(0.4)


def test_entropy_is_a_bonus():
    objective = PPO(entropy_coef=0.1)
    assert objective.outputs == {"logps", "values", "entropy"} and PPO().outputs == {"logps", "values"}
    loss = objective.loss(outputs(entropy=tensor([[[1.0, 2.0]], [[3.0, 9.0]], [[9.0, 9.0]]])), MINIBATCH)
    term = loss.terms["entropy"]
    assert (float(term.total.detach()), term.unit, term.weight) == (-6.0, "tokens", 0.1)
    assert means(loss.metrics)["policy/entropy_avg"] == 2.0


def test_the_policy_gradient_is_a_finite_difference_on_a_tiny_policy():
    """Four tokens to choose from at each of three places, one matrix of logits, and rewards through every step."""
    g = torch.Generator().manual_seed(0)
    logits, old = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    tokens = torch.multinomial(old.softmax(-1), 5, replacement=True, generator=g).T[:, None]  # [5, 1, 3]

    def logps(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).expand(5, 1, 3, 4).gather(-1, tokens[..., None])[..., 0]

    scores = torch.randn(5, 1, generator=g, dtype=torch.float64).tolist()
    objective = PPO(advantage_norm=True, advantage_clip=1.0)
    batch, _ = rewarded(objective, drawn(scores, [[3]] * 5, old_logps=logps(old), ref_logps=logps(old + 0.1)))
    batch = with_statistics(objective, batch, Outputs())

    def loss(logits: Tensor) -> Tensor:
        out = Outputs(logps=logps(logits), values=torch.zeros(5, 1, 3, dtype=torch.float64))
        return objective.loss(out, batch).reduced(objective.sizes(batch))

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


# ---- advantages of a step ------------------------------------------------------------------------------------------


def test_advantages_are_normalised_over_the_step_by_hand():
    """2, -1, 3 of the drawn rows: mean 4/3, squares 4/9 + 49/9 + 25/9 = 78/9, so deviation sqrt(78 / 9 / 2)."""
    objective = PPO(advantage_norm=True, advantage_clip=0.5, cliprange=10.0)
    batch = with_statistics(objective, MINIBATCH, outputs())
    assert batch.advantage_mean.tolist() == pytest.approx([4 / 3] * 3)
    assert batch.advantage_std.tolist() == pytest.approx([(78 / 18) ** 0.5] * 3)
    # (2 - 4/3) / 2.0817 = .3203; (-1 - 4/3) / 2.0817 = -1.12 and (3 - 4/3) / 2.0817 = .80 are clipped.
    total = -(1.5 * 0.320256 + 0.5 * -0.5 + 1.0 * 0.5)
    assert float(objective.loss(outputs(), batch).terms["policy_avg"].total.detach()) == pytest.approx(total, abs=1e-6)


@given(seed=st.integers(0, 2**16), cut=st.integers(1, 5))
def test_micro_batches_and_processes_are_normalised_as_one(seed: int, cut: int):
    """Their rows are padded to lengths of their own, and absent rows stay out of it."""
    objective = PPO(advantage_norm=True)
    batch, out = make(objective, seed=seed)
    whole = with_statistics(objective, batch, out)
    longer = Batch({n: torch.cat([c, c], -1) if c.dim() == 3 else c for n, c in batch.items()})
    masks = {n: torch.cat([batch[n], torch.zeros_like(batch[n])], -1) for n in ("response_mask", "loss_mask")}
    parts = [batch.rows(slice(0, cut)), longer.with_columns(**masks).rows(slice(cut, 6))]
    each = [objective.gather_statistics(out, part) for part in parts]
    columns, _ = objective.apply_statistics({name: torch.cat([part[name] for part in each]) for name in each[0]}, {})
    for name, column in columns.items():
        torch.testing.assert_close(column, whole[name])
    counted = batch.advantages[batch.loss_mask].numpy()
    assert float(whole.advantage_mean[0]) == pytest.approx(counted.mean())
    assert float(whole.advantage_std[0]) == pytest.approx(counted.std(ddof=1))


def test_an_absent_row_has_no_deviation_to_divide_by():
    objective = PPO(advantage_norm=True)
    batch, out = make(objective)
    filled = with_statistics(objective, fill_rows(batch, 1), out)
    more = mapped(out, lambda v: torch.cat([v, v.new_zeros(1, *v.shape[1:])]).detach().requires_grad_())
    assert filled.advantage_std[-1] == 0
    for term in objective.loss(more, filled).terms.values():
        for gradient in torch.autograd.grad(term.total, [more.logps, more.values], allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


def test_half_precision_log_probs_and_values_are_used_in_float32():
    batch, out = make(PPO())
    half = mapped(out, lambda v: v.detach().bfloat16().requires_grad_())
    low = Batch({n: c.bfloat16() if c.is_floating_point() else c for n, c in batch.items()})
    found, _ = rewarded(PPO(), low.with_columns(finished=low.present), PPO().init_state())
    assert found.advantages.dtype == found.returns.dtype == torch.float32
    assert {term.total.dtype for term in PPO().loss(half, found).terms.values()} == {torch.float32}


# ---- the switches --------------------------------------------------------------------------------------------------


def test_the_presets_differ_in_these_switches_and_no_other():
    best, vanilla = (dataclasses.asdict(NAMES[name]) for name in ("ppo-max", "ppo"))
    assert {name: (best[name], vanilla[name]) for name in best if best[name] != vanilla[name]} == {
        "kl_coef": (0.05, 0.0),
        "reward_norm": ("norm", "none"),
        "reward_clip": (0.8, None),
        "cliprange_value": (0.2, None),
        "critic_pretrain_steps": (50, 0),
    }
    assert NAMES["ppo-max"] == PPO()


def test_what_it_needs_follows_from_its_switches():
    assert PPO().needs == NAMES["ppo"].needs == {"scorer", "reference"}
    assert PPO().cross_batch is False and PPO(advantage_norm=True).cross_batch is True
    assert PPO().on_policy and PPO().trains == "actor-critic"
    frozen = drawn([[1.0]], [[1]], frozen_policy=torch.ones(1))
    assert PPO(entropy_coef=0.1).outputs_on(frozen) == {"values"}
    assert PPO(entropy_coef=0.1).outputs_on(drawn([[1.0]], [[1]])) == {"values", "logps", "entropy"}


@pytest.mark.parametrize(
    ("step", "explained", "start"),
    [(0, 0.1, -1), (0, 0.31, 0), (0, nan, -1), (9, 0.3, -1), (10, nan, 10), (12, 0.1, 12)],
)
def test_the_policy_begins_when_the_critic_has_learnt_enough(step: int, explained: float, start: int):
    objective = PPO(critic_pretrain_steps=10, critic_pretrain_until=0.3)
    state = objective.start_policy(objective.init_state(), explained, step, 100)
    assert float(state["policy_start"]) == start
    if start >= 0:  # for good
        assert objective.start_policy(state, -1.0, step + 4, 100) == state


@pytest.mark.parametrize(("steps", "start"), [(4, 0), (8, 4), (12, 4), (16, 8), (400, 52)])
def test_half_of_a_short_run_is_the_policys(steps: int, start: int):
    """Rollouts of four steps: 50 steps are 13 of them, and of a short run as many whole ones as half of it holds."""
    objective = PPO(critic_pretrain_steps=50)
    states = {
        step: objective.start_policy(objective.init_state(), nan, step, steps)["policy_start"]
        for step in range(0, steps, 4)
    }
    assert next(step for step, state in states.items() if state >= 0) == start


def test_without_pretraining_the_policy_begins_at_once():
    assert float(NAMES["ppo"].init_state()["policy_start"]) == 0


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"kl_coef": -1.0}, "kl_coef=-1.0 must be at least 0"),
        ({"kl_coef": 0.0, "target_kl": 6.0}, "kl_coef=0.0 must be at least 0, above 0 to adapt it"),
        ({"kl_coef": nan}, "kl_coef=nan must be"),
        ({"target_kl": 0.0}, "target_kl=0.0 must be above 0, or None"),
        ({"reward_norm": "whiten"}, "reward_norm='whiten' must be one of none, scale, norm"),
        ({"kl_estimator": "k2"}, "kl_estimator='k2' must be one of k1, k3"),
        ({"reward_clip": 0.0}, "reward_clip=0.0 must be above 0, or None"),
        ({"cliprange": 0.0}, "cliprange=0.0 must be above 0"),
        ({"lam": 1.5}, r"lam=1.5 must lie in \[0, 1\]"),
        ({"num_mini_batches": 0}, "num_mini_batches=0 must be at least 1"),
        ({"missing_eos_penalty": -1.0}, "missing_eos_penalty=-1.0 must be at least 0"),
        ({"critic_pretrain_until": 1.5}, "critic_pretrain_until=1.5 must be at most 1"),
        ({"source": "diverse-beam"}, "source='diverse-beam' must be sampling"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"top_p": 0.0}, "top_p=0.0 must lie in"),
    ],
)
def test_what_makes_no_sense_is_refused(knobs: dict, message: str):
    with pytest.raises(ValueError, match=message):
        PPO(**knobs)


def test_flags():
    from transformers import HfArgumentParser

    parser = HfArgumentParser(PPOArguments)
    flags = ["--kl_coef", "0.1", "--reward_norm", "scale", "--target_kl", "6", "--advantage_norm", "True"]
    (parsed,) = parser.parse_args_into_dataclasses(flags)
    assert PPO(**vars(parsed)) == PPO(kl_coef=0.1, reward_norm="scale", target_kl=6.0, advantage_norm=True)
    assert PPO(**vars(parser.parse_args_into_dataclasses([])[0])) == PPO()
    assert parser.format_help()
