"""Every loss of the DPO family against its paper's formula, worked by hand on two pairs."""

from __future__ import annotations

from math import exp, log, log1p

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefopt.batch import Batch, Outputs
from prefopt.objectives import pair_losses
from prefopt.objectives.dpo import DPO, NAMES, DPOArguments
from prefopt.objectives.pair_losses import LOSSES
from tests.helpers.objectives import loss_of, with_statistics

# Two pairs, all tokens counted. Sums of log-probs, and lengths:
#            chosen             rejected
#   pair 0   -4.0  of 4         -6.5  of 5      under the policy
#            -5.0               -6.0            under the reference
#   pair 1   -3.0  of 3         -2.0  of 2
#            -2.5               -4.0
LOGPS, REFERENCE, LENGTHS = [[-4.0, -6.5], [-3.0, -2.0]], [[-5.0, -6.0], [-2.5, -4.0]], [[4, 5], [3, 2]]
# Log-ratios a_w, a_l and their difference:
#   pair 0   1.0, -0.5,   1.5
#   pair 1  -0.5,  2.0,  -2.5


def ls(x: float) -> float:
    return -log1p(exp(-x))


def sg(x: float) -> float:
    return 1 / (1 + exp(-x))


def world(logps=LOGPS, reference=REFERENCE, lengths=LENGTHS, dtype=torch.float64) -> tuple[Batch, Outputs]:
    """Rows whose responses have these sums, spread evenly over their tokens."""
    n = torch.tensor(lengths)
    mask = torch.arange(int(n.max())) < n[..., None]
    spread = lambda sums: (torch.tensor(sums, dtype=dtype)[..., None] / n[..., None]).expand(mask.shape) * mask  # noqa: E731
    batch = Batch(response_mask=mask, loss_mask=mask, ref_logps=spread(reference))
    return batch, Outputs(logps=spread(logps).clone().requires_grad_())


def value(objective: DPO, *world_: object) -> float:
    batch, out = world_ or world()
    return float(loss_of(objective, batch, out).reduced(objective.sizes(batch)).detach())


def mean(*rows: float) -> float:
    return sum(rows) / len(rows)


# NLL: -(-4 - 3) / (4 + 3) = 1 per token.
CASES = {
    "sigmoid": (DPO(beta=0.1), mean(-ls(0.15), -ls(-0.25))),
    "sigmoid, beta .5": (DPO(beta=0.5), mean(-ls(0.75), -ls(-1.25))),
    "cdpo": (DPO(label_smoothing=0.1), mean(-0.9 * ls(0.15) - 0.1 * ls(-0.15), -0.9 * ls(-0.25) - 0.1 * ls(0.25))),
    "robust": (
        DPO(loss_type="robust", label_smoothing=0.1),
        mean((-0.9 * ls(0.15) + 0.1 * ls(-0.15)) / 0.8, (-0.9 * ls(-0.25) + 0.1 * ls(0.25)) / 0.8),
    ),
    # a_w / n_w - a_l / n_l: 1/4 + .5/5 = .35 and -.5/3 - 2/2 = -7/6
    "sigmoid_norm": (DPO(loss_type="sigmoid_norm", beta=2.0), mean(-ls(0.7), -ls(-7 / 3))),
    "ipo": (DPO(loss_type="ipo", beta=0.1), mean((0.35 - 5) ** 2, (-7 / 6 - 5) ** 2)),
    "hinge": (DPO(loss_type="hinge", beta=1.0), mean(0.0, 3.5)),
    "exo_pair": (
        DPO(loss_type="exo_pair", beta=1.0, label_smoothing=0.01),
        mean(
            sg(1.5) * (log(sg(1.5)) - log(0.99)) + sg(-1.5) * (log(sg(-1.5)) - log(0.01)),
            sg(-2.5) * (log(sg(-2.5)) - log(0.99)) + sg(2.5) * (log(sg(2.5)) - log(0.01)),
        ),
    ),
    "nca_pair": (
        DPO(loss_type="nca_pair", beta=1.0),
        mean(-ls(1) - 0.5 * ls(-1) - 0.5 * ls(0.5), -ls(-0.5) - 0.5 * ls(0.5) - 0.5 * ls(-2)),
    ),
    # The mean of all four log-ratios is .5, so beta times it is the shift.
    "bco_pair": (
        DPO(loss_type="bco_pair", beta=2.0),
        mean(-ls(2 * 0.5) - ls(-2 * -1.0), -ls(2 * -1.0) - ls(-2 * 1.5)),
    ),
    "bco_pair_trl": (DPO(loss_type="bco_pair_trl", beta=1.0), mean(-ls(1) - ls(0.5), -ls(-0.5) - ls(-2))),
    # 1 / (2 beta) = 1
    "sppo_hard": (DPO(loss_type="sppo_hard", beta=0.5), mean(0.0 + 0.5**2, 1.5**2 + 3.0**2)),
    # log pi_w / pi_l: 2.5, -1; reference: 1, 1.5. Sorted: -1 with 1, 2.5 with 1.5.
    "aot": (DPO(loss_type="aot", beta=1.0), mean(-ls(-2.0), -ls(1.0))),
    # a_w: 1, -.5; a_l: -.5, 2. Sorted: -.5 with -.5, 1 with 2.
    "aot_unpaired": (DPO(loss_type="aot_unpaired", beta=1.0), mean(-ls(0.0), -ls(-1.0))),
    "aot, smoothed": (
        DPO(loss_type="aot", beta=1.0, label_smoothing=0.25),
        mean(-0.75 * ls(-2.0) - 0.25 * ls(2.0), -0.75 * ls(1.0) - 0.25 * ls(-1.0)),
    ),
    "apo_zero": (DPO(loss_type="apo_zero", beta=1.0), mean(1 - sg(1) + sg(-0.5), 1 - sg(-0.5) + sg(2))),
    "apo_down": (DPO(loss_type="apo_down", beta=1.0), mean(sg(1) + 1 - sg(1.5), sg(-0.5) + 1 - sg(-2.5))),
    "discopop": (
        DPO(loss_type="discopop", beta=0.1, discopop_tau=0.5),
        mean(
            (1 - sg(0.3)) * -ls(0.15) + sg(0.3) * exp(-0.15),
            (1 - sg(-0.5)) * -ls(-0.25) + sg(-0.5) * exp(0.25),
        ),
    ),
    "sft": (DPO(loss_type="sft"), 1.0),
    # Means per token: -1, -1.3 and -1, -1.
    "simpo": (DPO(loss_type="simpo", beta=2.0, simpo_gamma=1.0), mean(-ls(0.6 - 1), -ls(0 - 1))),
    "simpo, gamma from beta": (DPO(loss_type="simpo", beta=2.0), mean(-ls(0.6 - 1), -ls(0 - 1))),
    # Differences of sums: 2.5 and -1.
    "cpo": (DPO(loss_type="cpo", beta=0.1, cpo_alpha=0.3), mean(-ls(0.25), -ls(-0.1)) + 0.3 * 1.0),
    "slic": (DPO(loss_type="slic", slic_delta=2.0, slic_lambda=0.5), mean(0.0, 3.0) + 0.5 * 1.0),
    "orpo": (
        DPO(loss_type="orpo", beta=0.1),
        1.0 - 0.1 * mean(ls(log(exp(-1) / (1 - exp(-1))) - log(exp(-1.3) / (1 - exp(-1.3)))), ls(0.0)),
    ),
    "mixture": (
        DPO(loss_type=["sigmoid", "hinge", "sft"], loss_weights=[0.5, 2.0, 0.25], beta=1.0),
        0.5 * mean(-ls(1.5), -ls(-2.5)) + 2.0 * mean(0.0, 3.5) + 0.25 * 1.0,
    ),
    "rpo": (NAMES["rpo"], mean(-ls(0.015), -ls(-0.025)) + 0.005),
    "mpo": (
        NAMES["mpo"],
        0.8 * mean(-ls(0.15), -ls(-0.25)) + 0.2 * mean(-ls(0.05) - ls(0.1), -ls(-0.1) - ls(-0.15)) + 1.0,
    ),
    # Past the shorter response of the pair: 1 of 5 rejected tokens of pair 0, 1 of 3 chosen tokens of pair 1.
    # a_l of pair 0: -.5 (4 + alpha) / 5 = -.43; a_w of pair 1: -.5 (2 + alpha) / 3 = -1.15/3, at alpha = .3.
    "ld_dpo": (DPO(beta=1.0, ld_alpha=0.3), mean(-ls(1.43), -ls(-1.15 / 3 - 2))),
    "ld_alpha 1": (DPO(beta=1.0, ld_alpha=1.0), mean(-ls(1.5), -ls(-2.5))),
    "forward_kl": (
        DPO(beta=1.0, f_divergence_type="forward_kl"),
        mean(-ls(-exp(-1) + exp(0.5)), -ls(-exp(0.5) + exp(-2))),
    ),
    "js_divergence": (
        DPO(beta=1.0, f_divergence_type="js_divergence"),
        mean(-ls(ls(1) - ls(-0.5)), -ls(ls(-0.5) - ls(2))),
    ),
    "alpha_divergence": (
        DPO(beta=1.0, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.25),
        mean(
            -ls((exp(-0.75) - exp(0.375)) / -0.75),
            -ls((exp(0.375) - exp(-1.5)) / -0.75),
        ),
    ),
    "alpha 1 is reverse kl": (
        DPO(beta=1.0, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=1.0),
        mean(-ls(1.5), -ls(-2.5)),
    ),
    "alpha 0 is forward kl": (
        DPO(beta=1.0, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.0),
        mean(-ls(-exp(-1) + exp(0.5)), -ls(-exp(0.5) + exp(-2))),
    ),
}


@pytest.mark.parametrize("objective, want", CASES.values(), ids=CASES.keys())
def test_loss_is_its_formula(objective: DPO, want: float):
    assert value(objective) == pytest.approx(want, rel=1e-12)


def test_every_loss_has_a_formula_here():
    tested = {name for objective, _ in CASES.values() for name in objective.loss_type}
    assert tested | {"kto"} == set(LOSSES)  # KTO has tests of its own below


LITERAL = [
    (0.7234482, DPO()),  # ln(1 + e^-.15) = ln 1.8607080 = .6209571, ln(1 + e^.25) = ln 2.2840254 = .8259394
    (0.6931472, DPO(beta=1e-9)),  # ln 2
    (29.8251389, DPO(loss_type="ipo")),  # (4.65^2 + 6.1666667^2) / 2 = (21.6225 + 38.0277778) / 2
    (1.0, DPO(loss_type="sft")),  # 7 nats over 7 tokens
    (1.75, DPO(loss_type="hinge", beta=1.0)),  # (0 + 3.5) / 2
    (5.75, DPO(loss_type="sppo_hard", beta=0.5)),  # (0 + .25 + 2.25 + 9) / 2
]


@pytest.mark.parametrize("want, objective", LITERAL)
def test_literal_numbers(want: float, objective: DPO):
    assert value(objective) == pytest.approx(want, abs=1e-7)


def kto_world() -> tuple[Batch, Outputs]:
    """The two pairs, with a mismatched third response of log-ratio .5 and 1."""
    add = lambda table, third: [[*row, x] for row, x in zip(table, third, strict=True)]  # noqa: E731
    return world(add(LOGPS, [-3.0, -3.0]), add(REFERENCE, [-3.5, -4.0]), add(LENGTHS, [2, 5]))


def test_kto_averages_over_responses_and_takes_z_from_mismatched_ones():
    z = 0.75
    rows = [
        0.5 * (1 - sg(2 * (1 - z))),
        3 * (1 - sg(2 * (z + 0.5))),
        0.5 * (1 - sg(2 * (-0.5 - z))),
        3 * (1 - sg(2 * (z - 2))),
    ]
    objective = DPO(loss_type="kto", beta=2.0, desirable_weight=0.5, undesirable_weight=3.0)
    assert value(objective, *kto_world()) == pytest.approx(mean(*rows), rel=1e-12)
    batch, out = kto_world()
    assert float(loss_of(objective, batch, out).metrics["kl"].total) == pytest.approx(2 * z)


def test_kto_takes_rows_with_one_response():
    batch, out = kto_world()
    only = batch.response_mask.clone()
    only[0, 1] = only[1, 0] = False
    batch = batch.with_columns(response_mask=only, loss_mask=only & batch.loss_mask)
    want = mean(1 - sg(1 - 0.75), 1 - sg(0.75 - 2))
    assert value(DPO(loss_type="kto", beta=1.0), batch, out) == pytest.approx(want, rel=1e-12)
    assert float(loss_of(DPO(loss_type="kto"), batch, out).metrics["rewards/margins"].count) == 0


def test_kto_z_is_never_negative():
    batch, out = kto_world()
    batch = batch.with_columns(ref_logps=batch.ref_logps.index_fill(1, torch.tensor([2]), 0.0))
    want = mean(1 - sg(1), 1 - sg(0.5), 1 - sg(-0.5), 1 - sg(-2))
    assert value(DPO(loss_type="kto", beta=1.0), batch, out) == pytest.approx(want, rel=1e-12)


def test_bco_shift_is_the_mean_of_all_rewards_so_far():
    objective = DPO(loss_type="bco_pair", beta=2.0)
    seen = {"a_w": torch.tensor([1.0, -0.5]), "a_l": torch.tensor([-0.5, 2.0])}
    columns, state = objective.apply_statistics(seen, objective.init_state())
    assert columns["bco_shift"].tolist() == [0.5, 0.5]
    columns, state = objective.apply_statistics({"a_w": torch.tensor([3.0]), "a_l": torch.tensor([1.0])}, state)
    assert columns["bco_shift"].tolist() == pytest.approx([(4 * 0.5 + 4.0) / 6])
    assert float(state["bco_count"]) == 6
    columns, _ = DPO(loss_type="bco_pair", bco_momentum=0.75).apply_statistics(seen, state)
    assert columns["bco_shift"].tolist() == pytest.approx([0.75 * 1.0 + 0.25 * 0.5] * 2)


def test_wpo_weighs_each_pair_by_its_probability_and_takes_no_gradient_from_it():
    batch, out = world()
    sums = torch.tensor([[-4.0 + 1.2, -6.5 + 2.0], [-3.0, -2.0 - 1.0]])  # so that log p - log sum p^2 is known
    n = torch.tensor(LENGTHS)
    out = Outputs(logps=out.logps, log_sum_sq=(sums / n)[..., None].expand(batch.loss_mask.shape).double())
    weights = [exp(-1.2 / 4 - 2.0 / 5), exp(0.0 + 1.0 / 2)]
    want = mean(weights[0] * -ls(1.5), weights[1] * -ls(-2.5))
    objective = DPO(beta=1.0, use_weighting=True)
    assert value(objective, batch, out) == pytest.approx(want, rel=1e-6)
    loss_of(objective, batch, out).reduced(objective.sizes(batch)).backward()
    assert out.logps.grad[0, 0, 0] == pytest.approx(-0.5 * weights[0] * sg(-1.5), rel=1e-6)


def sorted_loss(name: str, logps: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """AOT as its paper has it: sort, subtract, average."""
    policy, ref = (logps * mask).sum(-1), (reference * mask).sum(-1)
    a = policy - ref
    if name == "aot":
        gap = (policy[:, 0] - policy[:, 1]).sort().values - (ref[:, 0] - ref[:, 1]).sort().values
    else:
        gap = a[:, 0].sort().values - a[:, 1].sort().values
    return -torch.nn.functional.logsigmoid(beta * gap).mean()


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
@given(seed=st.integers(0, 2**16))
def test_aot_in_parts_has_the_gradient_of_sorting_the_whole_step(name: str, seed: int):
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.randint(1, 6, (7, 2, 1), generator=g)
    logps, reference = (-torch.rand(7, 2, 5, generator=g, dtype=torch.float64) for _ in range(2))
    logps.requires_grad_()
    want = sorted_loss(name, logps, reference, mask, beta=0.7)
    objective = DPO(loss_type=name, beta=0.7)
    whole = Batch(response_mask=mask, loss_mask=mask, ref_logps=reference)
    batch, sizes = with_statistics(objective, whole, Outputs(logps=logps)), objective.sizes(whole)
    got = sum(objective.loss(Outputs(logps=logps[s]), batch.rows(s)).reduced(sizes) for s in (slice(3), slice(3, 7)))
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(x, logps)[0] for x in (got, want)), rtol=1e-12, atol=1e-15)


OPTIONS = [DPO(loss_type=n, f_divergence_type=f, beta=b, label_smoothing=1e-3 if n == "exo_pair" else 0.0)
           for n in sorted(n for n, s in LOSSES.items() if s.divergent)
           for f in pair_losses.DIVERGENCES for b in (0.1, 5.0)]  # fmt: skip


@pytest.mark.parametrize("objective", [*NAMES.values(), *OPTIONS], ids=repr)
@pytest.mark.parametrize("ratio", [-1e3, -100.0, 0.0, 100.0, 1e3])
def test_extreme_log_ratios_in_float32(objective: DPO, ratio: float):
    base = [[-1200.0, -1200.0, -1200.0], [0.0, -1e-30, -5.0]]
    signs = (ratio, -ratio, ratio)
    far, near = ([[x - max(-sign * s, 0) for x, s in zip(row, signs, strict=True)] for row in base] for sign in (1, -1))
    batch, out = world(far, near, [[9, 7, 8], [4, 2, 3]], torch.float32)
    if "log_sum_sq" in objective.wants:
        out = Outputs(logps=out.logps, log_sum_sq=torch.zeros_like(batch.ref_logps))
    loss = loss_of(objective, batch, out).reduced(objective.sizes(batch))
    assert loss.isfinite() and torch.autograd.grad(loss, out.logps)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_log_probs_are_summed_in_float32(dtype: torch.dtype):
    batch, out = world(dtype=dtype)
    loss = loss_of(DPO(), batch, out)
    assert loss.terms["sigmoid"].total.dtype == loss.rewards.dtype == torch.float32


def metrics(objective: DPO, *world_: object) -> dict[str, float]:
    batch, out = world_ or world()
    return {name: float(m.total / m.count) for name, m in loss_of(objective, batch, out).metrics.items()}


def test_metrics_have_trl_s_names_and_meaning():
    assert metrics(DPO(beta=0.5)) == pytest.approx({
        "rewards/chosen": 0.5 * 0.25, "rewards/rejected": 0.5 * 0.75, "rewards/margins": 0.5 * -0.5,
        "rewards/accuracies": 0.5, "logps/chosen": -3.5, "logps/rejected": -4.25,
    })  # fmt: skip


def test_rewards_without_a_reference_are_log_probs():
    assert metrics(DPO(loss_type="simpo", beta=2.0))["rewards/margins"] == pytest.approx(2 * 0.15)
    assert metrics(DPO(loss_type="simpo"))["rewards/accuracies"] == 0.75
    assert metrics(DPO(loss_type="cpo", beta=2.0))["rewards/margins"] == pytest.approx(2 * 0.75)


def test_a_mixture_reports_its_terms():
    objective = DPO(loss_type=["sigmoid", "sft"], loss_weights=[3.0, 2.0], beta=1.0)
    batch, out = world()
    terms, units = loss_of(objective, batch, out).terms, objective.sizes(batch)
    assert [float(terms[name].total / units[terms[name].unit]) for name in ("sigmoid", "sft")] == pytest.approx(
        [mean(-ls(1.5), -ls(-2.5)), 1.0]
    )


def test_a_policy_that_equals_its_reference_ties_whatever_rounding_says():
    batch, out = world(LOGPS, [[x * (1 + 2e-7) for x in row] for row in LOGPS])
    assert metrics(DPO(), batch, out)["rewards/accuracies"] == 0.5
    assert value(DPO(), batch, out) == pytest.approx(log(2), rel=1e-6)


@pytest.mark.parametrize("knobs, message", {
    "unknown name": ({"loss_type": "sigmod"}, "unknown loss_type 'sigmod': did you mean sigmoid"),
    "none": ({"loss_type": []}, "at least one loss"),
    "twice": ({"loss_type": ["ipo", "ipo"]}, "only once"),
    "weights": ({"loss_type": ["ipo", "sft"], "loss_weights": [1.0]}, "1 numbers for the 2 losses ipo, sft"),
    "beta": ({"beta": 0.0}, "beta=0.0 must be above 0"),
    "smoothing": ({"label_smoothing": 0.5}, r"label_smoothing=0.5 must lie in \[0, 0.5\)"),
    "robust": ({"loss_type": "robust", "label_smoothing": 0.6}, "label_smoothing=0.6"),
    "exo": ({"loss_type": "exo_pair"}, "set it above 0"),
    "unread smoothing": ({"loss_type": "hinge", "label_smoothing": 0.1}, "no meaning for loss_type hinge: it"),
    "divergence": ({"f_divergence_type": "kl"}, "must be one of reverse_kl, forward_kl"),
    "divergence of simpo": ({"loss_type": "simpo", "f_divergence_type": "forward_kl"}, "='forward_kl' has no meaning"),
    "divergence of nca": ({"loss_type": ["nca_pair"], "f_divergence_type": "forward_kl"}, "applies to discopop"),
    "ld": ({"loss_type": ["sigmoid", "simpo"], "ld_alpha": 0.5}, "ld_alpha=0.5 has no meaning"),
    "ld range": ({"ld_alpha": 1.5}, r"must lie in \[0, 1\]"),
    "weighting": ({"loss_type": "aot", "use_weighting": True}, "use_weighting=True has no meaning for loss_type aot"),
    "weighting sft": ({"loss_type": "sft", "use_weighting": True}, "use_weighting"),
    "tau": ({"loss_type": "discopop", "discopop_tau": 0.0}, "discopop_tau"),
    "momentum": ({"loss_type": "bco_pair", "bco_momentum": 1.0}, "bco_momentum"),
}.values())  # fmt: skip
def test_what_makes_no_sense_is_refused(knobs: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DPO(**knobs)


@pytest.mark.parametrize("name", ["simpo", "orpo", "cpo", "slic"])
def test_reference_free_losses_need_no_reference(name: str):
    assert NAMES[name].needs == frozenset() and not NAMES[name].cross_batch
    batch, out = world()
    value(NAMES[name], Batch({n: c for n, c in batch.items() if n != "ref_logps"}), out)


def test_what_the_trainer_must_provide():
    assert DPO(loss_type="sft").needs == frozenset()
    assert DPO(loss_type=["simpo", "sigmoid"]).needs == {"reference"}
    assert NAMES["kto"].needs == {"reference", "mismatched"} and NAMES["kto"].cross_batch
    assert NAMES["wpo"].wants == {"log_sum_sq"} and NAMES["dpo"].wants == frozenset()
    assert {n for n, o in NAMES.items() if o.cross_batch} == {"aot", "aot_unpaired", "kto", "bco_pair", "mpo"}


def test_one_response_is_not_a_pair():
    mask = torch.ones(2, 1, 3, dtype=torch.bool)
    batch = Batch(response_mask=mask, loss_mask=mask, ref_logps=torch.zeros(2, 1, 3))
    with pytest.raises(ValueError, match="a pair has two responses"):
        DPO().loss(Outputs(logps=torch.zeros(2, 1, 3)), batch)


def test_arguments_parse_as_flags():
    from transformers import HfArgumentParser

    parser = HfArgumentParser(DPOArguments)
    flags = ["--loss_type", "sigmoid", "sft", "--loss_weights", "1", "0.5", "--ld_alpha", "0.5", "--use_weighting"]
    (parsed,) = parser.parse_args_into_dataclasses(flags)
    objective = DPO(**vars(parsed))
    assert objective.loss_type == ["sigmoid", "sft"] and objective.loss_weights == [1.0, 0.5]
    assert DPO(**vars(parser.parse_args_into_dataclasses([])[0])) == DPO()
    assert all(action.help for action in parser._actions)
