"""The losses on unpaired rows against numbers worked by hand on three of them, and DPO's way to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from prefopt.batch import Batch, Outputs
from prefopt.objectives.base import Objective
from prefopt.objectives.dpo import DPO, UNPAIRED
from prefopt.objectives.kto import KTO, LOSSES
from tests.helpers.objectives import loss_of, make, numbers, rows, with_statistics

# Three rows, all tokens counted. Sums of log-probs of the row's own response and of a mismatched one:
#            policy        reference     log-ratios
#   good     -4.0, -3.0    -5.0, -3.5     1.0,  .5
#   good     -3.0, -3.0    -2.5, -4.0    - .5, 1.0
#   bad      -2.0, -3.0    -4.0, -2.25    2.0, -.75      so that z = (.5 + 1 - .75) / 3 = .25
POLICY = [[-4.0, -3.0], [-3.0, -3.0], [-2.0, -3.0]]
REFERENCE = [[-5.0, -3.5], [-2.5, -4.0], [-4.0, -2.25]]
LENGTHS = [[4, 2], [3, 5], [2, 1]]
LABELS = [True, True, False]
WEIGHTS = {"desirable_weight": 0.5, "undesirable_weight": 3.0}


def world(
    mismatched: Sequence[float] = (-3.5, -4.0, -2.25), labels: Sequence[bool] = LABELS, k: int = 2
) -> tuple[Batch, Outputs]:
    """The three rows, whose mismatched responses have these log-probs under the reference, or without them (k = 1)."""
    n = torch.tensor(LENGTHS)[:, :k]
    mask = torch.arange(5) < n[..., None]
    reference = [[own, other] for (own, _), other in zip(REFERENCE, mismatched, strict=True)]

    def spread(sums: list[list[float]]) -> Tensor:
        each = torch.tensor(sums, dtype=torch.float64)[:, :k, None] / n[..., None]
        return each.expand(mask.shape) * mask

    batch = Batch(response_mask=mask, loss_mask=mask, ref_logps=spread(reference), label=torch.tensor(labels))
    return batch, Outputs(logps=spread(POLICY).requires_grad_())


def value(objective: Objective, batch: Batch, out: Outputs) -> Tensor:
    return loss_of(objective, batch, out).reduced(objective.sizes(batch))


LITERAL = {
    # m = 2 (1 - .25), 2 (-.5 - .25), 2 (.25 - 2) = 1.5, -1.5, -3.5; 1 - sigmoid(m) = .182425524, .817574476, .970687769
    # (.5 .182425524 + .5 .817574476 + 3 .970687769) / 3
    "kto": (KTO(beta=2.0, **WEIGHTS), 1.1373544359),
    # shift (1 - .5 + 2) / 3 = .8333333; m = .3333333, -2.6666667, -2.3333333; ln(1 + e^-m) = .5403055747, 2.7338424427,
    # 2.4258869608
    "bco": (KTO(loss_type="bco", beta=2.0, **WEIGHTS), 2.9715782971),
    # m = 2, -1, -4; 1 - sigmoid(m) = .1192029220, .7310585786, .9820137900
    "apo_zero_unpaired": (KTO(loss_type="apo_zero_unpaired", beta=2.0, **WEIGHTS), 1.1237240401),
}


@pytest.mark.parametrize("name", LOSSES)
def test_literal_numbers(name: str) -> None:
    objective, want = LITERAL[name]
    assert float(value(objective, *world()).detach()) == pytest.approx(want, abs=1e-10)


@pytest.mark.parametrize("name", ["bco", "apo_zero_unpaired"])
def test_only_kto_reads_mismatched_responses(name: str) -> None:
    objective, want = LITERAL[name]
    assert float(value(objective, *world(k=1)).detach()) == pytest.approx(want, abs=1e-10)
    assert "mismatched" not in objective.needs and "mismatched" in KTO().needs


def test_the_gradient_is_the_paper_s_and_none_of_it_flows_through_z() -> None:
    """dL/da = -weight beta sigmoid(m) sigmoid(-m) / 3 of a good row, with the other sign of a bad one."""
    batch, out = world()
    value(KTO(beta=2.0, **WEIGHTS), batch, out).backward()
    # .182425524 .817574476 = .1491464520 and .970687769 .029312231 = .0284530239
    want = [-0.5 * 2 * 0.1491464520 / 3, -0.5 * 2 * 0.1491464520 / 3, 3 * 2 * 0.0284530239 / 3]
    assert out.logps is not None and out.logps.grad is not None
    gradient = out.logps.grad
    assert gradient[:, 0, 0].tolist() == pytest.approx(want, abs=1e-9)
    assert (gradient[:, 1] == 0).all()


def test_z_is_never_negative() -> None:
    batch, out = world(mismatched=(-2.0, -2.0, -2.0))  # log-ratios of -1 each
    # m = 2 (1 - 0), 2 (-.5 - 0), 2 (0 - 2), as without a shift
    assert float(value(KTO(beta=2.0, **WEIGHTS), batch, out).detach()) == pytest.approx(1.1237240401, abs=1e-10)
    assert float(loss_of(KTO(), batch, out).metrics["kl"].total) == 0


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_a_step_of_one_label(name: str, good: bool) -> None:
    batch, out = world(labels=[good] * 3)
    objective = KTO(loss_type=name)
    loss = loss_of(objective, batch, out)
    total = loss.reduced(objective.sizes(batch))
    total.backward()
    assert out.logps is not None and out.logps.grad is not None
    own = out.logps.grad[:, 0][batch.loss_mask[:, 0]]
    assert total > 0 and ((own < 0) if good else (own > 0)).all()
    there, missing = ("chosen", "rejected") if good else ("rejected", "chosen")
    assert int(loss.metrics[f"rewards/{there}"].count) == 3 and int(loss.metrics[f"rewards/{missing}"].count) == 0
    assert [int(loss.metrics[f"count/{side}"].total) for side in (there, missing)] == [3, 0]


def test_metrics_have_trl_s_names_and_are_sums_and_counts() -> None:
    batch, out = world()
    metrics = loss_of(KTO(beta=0.5), batch, out).metrics
    means = {name: float(m.total / m.count) for name, m in metrics.items() if m.reduce == "mean"}
    assert means == pytest.approx({
        "rewards/chosen": 0.5 * 0.25, "rewards/rejected": 0.5 * 2.0, "rewards/margins": 0.5 * 0.25,
        "logps/chosen": -3.5, "logps/rejected": -2.0, "kl": 0.25,
    })  # fmt: skip
    assert metrics["rewards/margins"].minus == "rewards/rejected"
    bco = loss_of(KTO(loss_type="bco", beta=0.5), batch, out).metrics
    assert float(bco["delta"].total / bco["delta"].count) == pytest.approx(0.5 * 2.5 / 3)


def test_bco_shift_is_the_mean_of_all_rewards_so_far() -> None:
    objective = KTO(loss_type="bco")
    first, second = torch.tensor([1.0, -0.5, 2.0]), torch.tensor([3.0])
    columns, state = objective.apply_statistics({"ratio": first}, objective.init_state())
    assert columns["bco_shift"].tolist() == pytest.approx([2.5 / 3] * 3)
    columns, state = objective.apply_statistics({"ratio": second}, state)
    assert columns["bco_shift"].tolist() == pytest.approx([5.5 / 4]) and float(state["bco_count"]) == 4
    columns, _ = KTO(loss_type="bco", bco_momentum=0.75).apply_statistics({"ratio": first}, state)
    assert columns["bco_shift"].tolist() == pytest.approx([0.75 * 5.5 / 4 + 0.25 * 2.5 / 3] * 3)


@pytest.mark.parametrize("name", UNPAIRED)
def test_dpo_hands_unpaired_rows_over(name: str) -> None:
    """Its state and statistics too; and what it does is a plan of its own, not what it does on pairs."""
    settings: dict[str, Any] = {"beta": 0.7, "desirable_weight": 2.0, "undesirable_weight": 0.3}
    dpo, objective = DPO(loss_type=name, **settings), KTO(loss_type=UNPAIRED[name], **settings)
    assert dpo.unpaired == objective and objective.unpaired is objective
    batch, out = make(objective)
    assert numbers(loss_of(dpo, batch, out)) == numbers(loss_of(objective, batch, out))
    assert dpo.sizes(batch) == objective.sizes(batch) and dpo.cross_batch >= objective.cross_batch
    assert dpo.init_state().keys() == objective.init_state().keys()
    assert dpo.needs | {"label"} == objective.needs


def test_a_row_is_half_a_pair() -> None:
    """KTO of pairs that lack one response each, which DPO averages over responses too, is that of unpaired rows."""
    batch, out = make(KTO(), prompts=5)
    unpaired = value(KTO(beta=0.4), batch, out)
    side = torch.where(batch.label, 0, 1)

    def as_pair(column: Tensor) -> Tensor:
        pair = column.new_zeros(len(column), 3, *column.shape[2:])
        pair[torch.arange(len(column)), side] = column[:, 0]
        pair[:, 2] = column[:, 1]
        return pair

    pairs = Batch({name: as_pair(column) for name, column in batch.items() if column.dim() == 3})
    assert out.logps is not None
    want = value(DPO(loss_type="kto", beta=0.4), pairs, Outputs(logps=as_pair(out.logps)))
    torch.testing.assert_close(unpaired, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("settings", [
    {"loss_type": "sigmoid"}, {"loss_type": "simpo"}, {"loss_type": ["kto", "sft"]}, {"loss_type": "bco_pair_trl"},
    {"loss_type": "kto", "loss_weights": [2.0]}, {"loss_type": "apo_zero", "ld_alpha": 0.5},
    {"loss_type": "bco_pair", "use_weighting": True},
])  # fmt: skip
def test_what_compares_pairs_says_so(settings: dict[str, Any]) -> None:
    batch, out = world()
    with pytest.raises(ValueError, match=r"is set up for pairs, .* of the losses kto, bco_pair, apo_zero each takes"):
        DPO(**settings).loss(out, batch)


@pytest.mark.parametrize(("settings", "said"), [
    ({"loss_type": "sigmoid"}, "loss_type='sigmoid': unpaired rows take one of kto, bco, apo_zero_unpaired"),
    ({"loss_type": ["kto"]}, r"loss_type=\['kto'\]: unpaired rows take one of"),
    ({"beta": 0.0}, "beta=0.0 must be above 0"),
    ({"undesirable_weight": -1.0}, r"undesirable_weight=-1.0 must lie in \[0, inf\)"),
    ({"desirable_weight": float("nan")}, r"desirable_weight=nan must lie in"),
    ({"loss_type": "bco", "bco_momentum": 1.0}, r"bco_momentum=1.0 must lie in \[0, 1\)"),
    ({"bco_momentum": 0.5}, "bco_momentum=0.5 .* loss_type be bco"),
])  # fmt: skip
def test_settings_outside_their_range(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        KTO(**settings)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ratio", [-1e3, -100.0, 0.0, 100.0, 1e3])
def test_extreme_log_ratios_in_float32(name: str, ratio: float) -> None:
    batch, out = world()
    assert out.logps is not None
    far = (out.logps.detach() + ratio / 2 * batch.loss_mask).float().requires_grad_()
    near = batch.with_columns(ref_logps=batch.ref_logps.float())
    loss = value(KTO(loss_type=name), near, Outputs(logps=far))
    assert loss.isfinite() and torch.autograd.grad(loss, far)[0].isfinite().all()


def test_z_is_the_same_for_every_row_of_a_step() -> None:
    batch, out = world()
    assert with_statistics(KTO(), batch, out).kto_z.tolist() == pytest.approx([0.25] * 3)
    first = slice(2)
    assert with_statistics(KTO(), batch.rows(first), rows(out, first)).kto_z.tolist() == pytest.approx([0.75] * 2)
