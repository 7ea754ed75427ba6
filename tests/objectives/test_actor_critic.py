"""The formulas of PPO against numbers worked by hand, explicit sums, numpy, finite differences and an exact KL."""

from __future__ import annotations

from math import isnan, log, nan

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefopt.objectives.ppo_losses import (
    KL_ESTIMATORS,
    MAX_LOG_RATIO,
    Moments,
    adaptive_kl,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    gae,
    merge_moments,
    policy_ratio,
    token_rewards,
)

seeds = st.integers(0, 2**16)


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ragged(seed: int, rows: int = 4, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and a mask with holes; the last row has no token at all."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, width, generator=g) < 0.7
    mask[-1] = False
    rewards, values = torch.randn(2, rows, width, generator=g, dtype=torch.float64)
    return rewards, values, mask


def test_gae_by_hand():
    """gamma .9, lambda .5, so that advantages decay by .45; the fourth token is padding.

    delta_2 = 1.0 - .3 = .7      delta_1 = .2 + .9 * .3 - .4 = .07      delta_0 = -.1 + .9 * .4 - .5 = -.24
    A_2 = .7                     A_1 = .07 + .45 * .7 = .385            A_0 = -.24 + .45 * .385 = -.06675
    """
    mask = torch.tensor([True, True, True, False])
    got = gae(t(-0.1, 0.2, 1.0, 5.0), t(0.5, 0.4, 0.3, 9.0), mask, gamma=0.9, lam=0.5)
    torch.testing.assert_close(got, t(-0.06675, 0.385, 0.7, 0.0), rtol=1e-12, atol=1e-12)


@given(seed=seeds, gamma=st.sampled_from([1.0, 0.9]), lam=st.sampled_from([0.0, 0.95, 1.0]))
def test_gae_is_the_double_sum(seed: int, gamma: float, lam: float):
    """A_t = sum_l (gamma lambda)^l (r_{t+l} + gamma V_{t+l+1} - V_{t+l}) over the tokens that count."""
    rewards, values, mask = ragged(seed)
    got = gae(rewards, values, mask, gamma=gamma, lam=lam)
    assert not got[~mask].any()
    for row in range(len(mask)):
        r, v = rewards[row, mask[row]].tolist(), [*values[row, mask[row]].tolist(), 0.0]
        want = [
            sum((gamma * lam) ** (i - start) * (r[i] + gamma * v[i + 1] - v[i]) for i in range(start, len(r)))
            for start in range(len(r))
        ]
        assert got[row, mask[row]].tolist() == pytest.approx(want, abs=1e-12)


@given(seed=seeds)
def test_with_lambda_1_returns_are_what_is_still_to_come(seed: int):
    rewards, values, mask = ragged(seed)
    to_come = (rewards * mask).flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close((gae(rewards, values, mask, lam=1.0) + values)[mask], to_come[mask])


def test_token_rewards_by_hand():
    """-.1 * (.5, -1, .25) on tokens, and 2 on the last that counts; the second response does not exist."""
    mask = torch.tensor([[True, True, False, True, False], [False] * 5])
    kl = t(0.5, -1.0, 7.0, 0.25, 7.0).expand(2, 5)
    got = token_rewards(t(2.0, 3.0), kl, mask, kl_coef=0.1)
    torch.testing.assert_close(got, torch.stack([t(-0.05, 0.1, 0.0, 2 - 0.025, 0.0), torch.zeros(5).double()]))


def test_moments_by_hand():
    """1, 2, 3 and then 6: mean 2, variance 2/3; then mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5, of a sample 14/3."""
    first = merge_moments(Moments.single(t(1.0, 2.0, 3.0)))
    assert [float(x) for x in vars(first).values()] == pytest.approx([3, 2, 2 / 3])
    both = merge_moments(first, Moments.single(t(6.0)))
    assert [float(x) for x in vars(both).values()] == pytest.approx([4, 3, 3.5])
    assert float(both.std) == pytest.approx((14 / 3) ** 0.5)


@given(seed=seeds, cuts=st.lists(st.integers(0, 20), max_size=4).map(sorted))
def test_moments_are_those_of_all_numbers_however_they_are_split(seed: int, cuts: list[int]):
    """One after the other as over time, at once as over processes, and row by row; some lots are empty."""
    values = 3 + 2 * torch.randn(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    want = [20, np.mean(values.numpy()), np.var(values.numpy())]
    parts = [merge_moments(Moments.single(part)) for part in values.tensor_split(cuts)]
    running = parts[0]
    for part in parts[1:]:
        running = merge_moments(running, part)
    table, mask = values.view(4, 5), torch.rand(4, 5, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[0, 0] = True
    seen = table[mask].numpy()
    rows = Moments.of_rows(table.masked_fill(~mask, 77.0), mask)
    together, by_row = merge_moments(*parts), merge_moments(rows)
    for moments, numbers in ((together, want), (running, want), (by_row, [len(seen), seen.mean(), seen.var()])):
        assert [float(x) for x in vars(moments).values()] == pytest.approx(numbers, abs=1e-12)
    assert float(running.std) == pytest.approx(np.std(values.numpy(), ddof=1))


@pytest.mark.parametrize("values", [[], [4.0], [4.0, 4.0], [0.1] * 11])
def test_there_is_nothing_to_divide_by_where_numbers_do_not_vary(values: list[float]):
    """Eleven times .1 has a mean that is not quite .1, and so a tiny deviation."""
    for dtype in (torch.float32, torch.float64):
        assert float(merge_moments(Moments.single(torch.tensor(values, dtype=dtype))).std) == 1.0


@pytest.mark.parametrize(
    ("kl", "want"),
    [(6.0, 0.2), (6.6, 0.2 * (1 + 0.1 * 0.0064)), (60.0, 0.2 * 1.00128), (3.0, 0.2 * 0.99872), (0.0, 0.2 * 0.99872)],
)
def test_the_weight_of_the_kl_by_hand(kl: float, want: float):
    """Target 6, 64 responses of a horizon of 10000: .0064 times the error, which is at most .2."""
    assert float(adaptive_kl(t(0.2), t(kl), t(64.0), target=6.0, horizon=10000.0)) == pytest.approx(want, rel=1e-12)


def test_surrogate_by_hand():
    """eps = .2. Good tokens (A = 2) gain up to 1.2 and lose without bound, bad ones (A = -1) the other way round.

    rho          1.5                     .5                    1      |  1.5                   .5
    max(         -3, -2.4)               -1, -1.6)             -2     |  1.5, 1.2)             .5, .8)
    """
    ratio, advantages = t(1.5, 0.5, 1.0, 1.5, 0.5), t(2.0, 2.0, 2.0, -1.0, -1.0)
    losses, clipped = clipped_surrogate(ratio, advantages, cliprange=0.2)
    torch.testing.assert_close(losses, t(-2.4, -1.0, -2.0, 1.5, 0.8))
    assert clipped.tolist() == [True, False, False, False, True]


def test_value_loss_by_hand():
    """eps = .2, V_old = 0, which V = .5 and -.5 leave on both sides: half the larger square of

    V, R         .5, 1        -.5, 1        -.5, -1       .5, -1       .1, 1
    V - R        -.5          -1.5          .5            1.5          -.9
    clipped      .2 - 1       -.2 - 1       -.2 + 1       .2 + 1       -.9
    """
    values, returns = t(0.5, -0.5, -0.5, 0.5, 0.1), t(1.0, 1.0, -1.0, -1.0, 1.0)
    losses, clipped = clipped_value_loss(values, torch.zeros(5).double(), returns, cliprange=0.2)
    torch.testing.assert_close(losses, t(0.64, 2.25, 0.64, 2.25, 0.81) / 2)
    assert clipped.tolist() == [True, False, True, False, False]
    losses, clipped = clipped_value_loss(values, torch.zeros(5).double(), returns, cliprange=None)
    torch.testing.assert_close(losses, t(0.25, 2.25, 0.25, 2.25, 0.81) / 2)
    assert not clipped.any()


@given(seed=seeds)
def test_gradients_are_finite_differences(seed: int):
    g = torch.Generator().manual_seed(seed)
    new, old, advantages, values, returns = torch.randn(5, 8, generator=g, dtype=torch.float64)
    everywhere = torch.ones(8, dtype=torch.bool)

    def surrogate(logps: Tensor) -> Tensor:
        return clipped_surrogate(policy_ratio(logps, old, everywhere), advantages, cliprange=0.2)[0].sum()

    def critic(values: Tensor) -> Tensor:
        return clipped_value_loss(values, old, returns, cliprange=0.2)[0].sum()

    assert torch.autograd.gradcheck(surrogate, new.requires_grad_())
    assert torch.autograd.gradcheck(critic, values.requires_grad_())


def test_a_ratio_stays_finite_and_is_1_where_nothing_counts():
    logps = torch.tensor([200.0, -200.0, 0.0, nan], requires_grad=True)
    ratio = policy_ratio(logps, torch.zeros(4), torch.tensor([True, True, True, False]))
    torch.testing.assert_close(ratio.log().detach(), torch.tensor([MAX_LOG_RATIO, -MAX_LOG_RATIO, 0.0, 0.0]))
    (gradient,) = torch.autograd.grad(ratio.sum(), logps)
    assert gradient.tolist() == [0.0, 0.0, 1.0, 0.0]


def test_the_mean_of_k1_and_of_k3_is_the_exact_kl():
    """Over all tokens exactly, and over tokens drawn within 3 standard errors. k3 is never negative."""
    p, q = t(0.5, 0.3, 0.15, 0.05), t(0.25, 0.25, 0.25, 0.25)
    exact = sum(a * log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    drawn = torch.multinomial(p, 10000, replacement=True, generator=torch.Generator().manual_seed(0))
    for kind in KL_ESTIMATORS.values():
        each = kind(p.log() - q.log())
        assert float((p * each).sum()) == pytest.approx(exact, rel=1e-12)
        sample = each[drawn]
        assert abs(float(sample.mean()) - exact) < 3 * float(sample.std()) / len(sample) ** 0.5
    assert (KL_ESTIMATORS["k3"](torch.randn(1000, dtype=torch.float64)) >= 0).all()


def test_explained_variance_by_hand():
    """Returns 1, 2, 3 vary by 2/3; values 1, 2, 2 miss by 1/3 on average: a half is explained."""
    logs = {"val/returns": 2.0, "val/squared_returns": 14 / 3, "val/squared_error": 1 / 3}
    assert explained_variance(logs) == pytest.approx(0.5)
    assert isnan(explained_variance({"val/returns": 2.0, "val/squared_returns": 4.0, "val/squared_error": 1.0}))
