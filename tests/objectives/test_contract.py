"""What every objective must keep, in float64 to 1e-9: walks the registry, so that a new file is tested as it is."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.batch import Batch, Outputs, fill_rows
from prefopt.objectives import DPO
from prefopt.objectives.base import Loss, Metric, Objective, Term, load, mean_of, registry
from prefopt.objectives.checks import checked_loss, checked_objective
from prefopt.objectives.checks import loss_of as loss_checked
from prefopt.objectives.ppo import PPO
from tests.helpers.objectives import asked, declared_only, loss_of, make, mapped, numbers, rows, with_statistics

EVERY_SWITCH = PPO(advantage_norm=True, advantage_clip=1.0, entropy_coef=0.01, ptx_coef=1.0, target_kl=6.0)
OBJECTIVES = registry() | {"ppo-max, every switch": EVERY_SWITCH}
every = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
exactly = {"rel": 1e-9, "abs": 1e-9}
MAIN = {"logps", "scores", "values"}


def gradients(objective: Objective, batch: Batch, out: Outputs) -> dict[str, torch.Tensor | None]:
    read = {name: getattr(out, name) for name in sorted(objective.outputs)}
    total = loss_of(objective, batch, out).reduced(objective.sizes(batch))
    found = torch.autograd.grad(total, list(read.values()), allow_unused=True)
    return dict(zip(read, found, strict=True))


@every
@pytest.mark.parametrize("scale", [1.0, 1e3], ids=["", "extreme"])
def test_gradients_are_finite(objective: Objective, scale: float):
    batch, out = make(objective)
    out = dataclasses.replace(
        out, **{n: (scale * getattr(out, n).detach()).requires_grad_() for n in MAIN & objective.outputs}
    )
    found = gradients(objective, batch, out)
    assert scale > 1 or all(found[name].abs().sum() > 0 for name in MAIN & objective.outputs)
    for name, gradient in found.items():
        assert gradient is None or gradient.isfinite().all(), name
    assert all(map(torch.isfinite, map(torch.tensor, numbers(loss_of(objective, batch, out)).values())))


@every
def test_gradients_are_finite_in_float32_where_policy_and_reference_differ_by_a_thousand(objective: Objective):
    batch, out = make(objective)
    for sign in (-1e3, 1e3):
        shift = torch.tensor([sign, -sign, sign]).repeat(2)[: batch.present.shape[1], None] * batch.loss_mask / 5
        moved = mapped(
            out, lambda v, s=shift: (v + (s if v.dim() == 3 else s[..., 0])).float().detach().requires_grad_()
        )
        far = Batch({name: c.float() if c.is_floating_point() else c for name, c in batch.items()})
        for name, gradient in gradients(objective, far, moved).items():
            assert gradient is None or gradient.isfinite().all(), name


@every
def test_more_padding_changes_nothing(objective: Objective):
    batch, out = make(objective)
    want = numbers(loss_of(objective, batch, out))

    def longer(name: str, column: torch.Tensor) -> torch.Tensor:
        if name.startswith("prompt"):
            return torch.cat([column.new_zeros(len(column), 3), column], 1)
        if column.dim() < 3:
            return column
        return torch.cat([column, column.new_zeros(*column.shape[:2], 5)], 2)

    padded = Batch({name: longer(name, column) for name, column in batch.items()})
    assert numbers(loss_of(objective, padded, mapped(out, lambda v: longer("", v)))) == pytest.approx(want, **exactly)


@every
def test_what_stands_under_the_masks_is_not_read(objective: Objective):
    batch, out = make(objective)
    want = numbers(loss_of(objective, batch, out))
    hidden = ~batch.loss_mask
    noisy = mapped(out, lambda v: v.masked_fill(hidden, -7.0) if v.dim() == 3 else v)
    tokens = {name: c for name, c in batch.items() if c.dim() == 3 and c.is_floating_point()}
    batch = batch.with_columns(**{name: column.masked_fill(hidden, -3.0) for name, column in tokens.items()})
    assert numbers(loss_of(objective, batch, noisy)) == pytest.approx(want, **exactly)


@every
@given(seed=st.integers(0, 2**16))
@settings(max_examples=5)
def test_order_of_prompts_changes_nothing(objective: Objective, seed: int):
    batch, out = make(objective, seed=seed)
    order = torch.randperm(len(batch.index), generator=torch.Generator().manual_seed(seed))
    want = numbers(loss_of(objective, batch, out))
    assert numbers(loss_of(objective, batch.rows(order), rows(out, order))) == pytest.approx(want, **exactly)


@every
def test_absent_rows_change_nothing(objective: Objective):
    batch, out = make(objective)
    want, sizes = numbers(loss_of(objective, batch, out)), objective.sizes(batch)
    filled = fill_rows(batch, 2)
    more = mapped(out, lambda v: torch.cat([v, v.new_zeros(2, *v.shape[1:])]))
    assert numbers(loss_of(objective, filled, more)) == pytest.approx(want, **exactly)
    assert objective.sizes(filled) == sizes
    found = gradients(objective, filled, more)
    assert all(g is None or g.isfinite().all() for g in found.values())


@every
@given(cuts=st.lists(st.integers(1, 5), max_size=3, unique=True).map(sorted), seed=st.integers(0, 2**16))
@settings(max_examples=5)
def test_parts_add_up_to_the_whole(objective: Objective, cuts: list[int], seed: int):
    batch, out = make(objective, seed=seed)
    batch = with_statistics(objective, batch, out)
    whole = objective.loss(out, batch)
    slices = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, 6], strict=True)]
    parts = [objective.loss(rows(out, s), batch.rows(s)) for s in slices]
    assert added_up(parts) == pytest.approx(numbers(whole), **exactly)
    sizes = [objective.sizes(batch.rows(s)) for s in slices]
    assert {unit: sum(s[unit] for s in sizes) for unit in sizes[0]} == objective.sizes(batch)
    assert {t.unit for t in whole.terms.values()} <= set(sizes[0])


def added_up(parts: list[Loss]) -> dict[str, float]:
    reduce = {"mean": sum, "sum": sum, "min": min, "max": max}
    each = [numbers(part) for part in parts]
    kinds = {f"total {name}": metric.reduce for name, metric in parts[0].metrics.items()}
    return {name: reduce[kinds.get(name, "mean")](e[name] for e in each) for name in each[0]}


@every
def test_swapping_chosen_and_rejected_flips_the_margin(objective: Objective):
    if objective.responses != 2:
        pytest.skip("not a pair objective")
    batch, out = make(objective)
    order = torch.tensor([1, 0, 2])[: batch.present.shape[1]]
    swapped = Batch({n: c[:, order] if n.startswith(("response", "loss", "ref")) else c for n, c in batch.items()})
    names = [name for name in loss_of(objective, batch, out).metrics if name.split("/")[-1] in ("margin", "margins")]
    assert names
    before = loss_of(objective, batch, out).metrics
    after = loss_of(objective, swapped, mapped(out, lambda v: v[:, order])).metrics
    for name in names:
        assert float(after[name].total) == pytest.approx(-float(before[name].total), **exactly)


@every
def test_metrics_and_rewards_are_detached(objective: Objective):
    loss = loss_of(objective, *make(objective))
    assert not any(m.total.requires_grad or m.count.requires_grad for m in loss.metrics.values())
    assert loss.rewards is None or not loss.rewards.requires_grad
    assert all(t.total.requires_grad for t in loss.terms.values())
    assert all(t.total.shape == () for t in loss.terms.values())


@every
def test_only_what_is_declared_is_read(objective: Objective):
    batch, out = make(objective)
    bare = declared_only(objective, batch)
    loss_of(objective, bare, out)
    for column, need in asked(objective).items():
        less = Batch({name: c for name, c in bare.items() if name != column})
        if need == "mismatched":
            less = Batch({name: c[:, :-1] if c.dim() == 3 else c for name, c in bare.items()})
            out_of = mapped(out, lambda v: v[:, :-1])
        with pytest.raises((AttributeError, IndexError, KeyError, ValueError)):
            loss_of(objective, less, out_of if need == "mismatched" else out)
    for name in objective.outputs:
        with pytest.raises(ValueError, match=name):
            loss_of(objective, bare, dataclasses.replace(out, **{name: None}))


@every
def test_an_objective_is_a_value(objective: Objective):
    assert dataclasses.is_dataclass(objective)
    assert copy.deepcopy(objective) == objective == dataclasses.replace(objective)
    assert pickle.loads(pickle.dumps(objective)) == objective
    for field in dataclasses.fields(objective):
        value = getattr(objective, field.name)
        assert f"{field.name}={value!r}" in repr(objective)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(objective, field.name, value)


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(ValueError, match="did you mean simpo"):
        load("simp")


TERM = Term(torch.ones(()), "prompts")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.tensor(1.0), r"^DPO\.loss returned a tensor of shape \[\], not a Loss: return Loss\(\{'dpo': Term\("),
        (None, r"DPO\.loss returned None, not a Loss"),
        (1.0, r"DPO\.loss returned a float, not a Loss"),
        ({"loss": torch.tensor(1.0)}, r"DPO\.loss returned a dict, not a Loss: return Loss\("),
        ((torch.tensor(1.0), {}), r"DPO\.loss returned a tuple, not a Loss"),
        (Loss({}), "terms is a dict: give a dict of at least one Term"),
        (Loss(TERM), "terms is a Term: give a dict of at least one Term by its name"),
        (Loss({"nll": torch.ones(())}), "the term 'nll' is a tensor of shape .*: give Term"),
        (Loss({"nll": (torch.ones(()), "prompts")}), "the term 'nll' is a tuple: give Term"),
        (Loss({"nll": Term(torch.ones(3), "prompts")}), r"the term 'nll' is a tensor of shape \[3\]: .*losses.sum\(\)"),
        (Loss({"nll": Term(torch.ones(1), "prompts")}), r"the term 'nll' is a tensor of shape \[1\]: give Term"),
        (Loss({"nll": Term(1.0, "prompts")}), "the term 'nll' is a float: give Term"),
        (Loss({"nll": TERM}, [1.0]), "metrics is a list: give a dict of Metric"),
        (
            Loss({"nll": TERM}, {"kl": torch.ones(())}),
            r"the metric 'kl' is a tensor of shape \[\]: give Metric.*mean_of",
        ),
        (
            Loss({"nll": TERM}, {"kl": Metric(torch.ones(3), torch.tensor(3))}),
            "'kl': total is a tensor of shape .3.: giv",
        ),
    ],
)
def test_what_is_no_loss_is_told_so(value: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        checked_loss(DPO(), value, Outputs(), make(DPO())[0])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Loss({"nll": Term(torch.ones(()), "prompt")}), "unit 'prompt', which is not counted; did you mean prompts"),
        (
            Loss({"nll": TERM}, rewards=torch.ones(6)),
            r"rewards is a tensor of shape \[6\]: .* \[prompts, responses\] = \[6, 2\]",
        ),
        (Loss({"nll": TERM}), "no term depends on the model's outputs, .* without detach"),
    ],
)
def test_what_cannot_be_divided_or_learnt_is_told_so(value: Loss, said: str) -> None:
    batch, out = make(DPO())
    with pytest.raises(ValueError, match=said):
        checked_loss(DPO(), value, out, batch)


def test_a_loss_is_returned_as_it_is() -> None:
    batch, out = make(DPO())
    loss = Loss(
        {"nll": Term(out.required("logps").sum(), "prompts")}, {"kl": mean_of(batch.ref_logps, batch.loss_mask)}
    )
    assert checked_loss(DPO(), loss, out, batch) is loss


class Own(Objective):
    """A newcomer's."""

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        return Loss({"own": Term((out.logps * out.entropy).sum(), "tokens")})  # type: ignore[operator]


def test_an_error_in_a_loss_says_what_there_was_to_read() -> None:
    batch, out = make(DPO())
    with pytest.raises(TypeError, match="unsupported operand") as raised:
        loss_checked(Own(), out, batch)
    (note,) = raised.value.__notes__
    assert "Own.loss(out, batch) was given out.logps [6, 2, 7] (others are None unless `wants`" in note
    assert "batch.ref_logps [6, 2, 7]" in note and "batch.response_mask [6, 2, 7]" in note


def declaring(**members: Any) -> Objective:
    return type("Own", (Own,), members)()


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (Own, TypeError, r"objective is the class Own: give an object, Own\(...\)"),
        (lambda out, batch: 0, TypeError, "objective is a function: give a name, .* subclass of Objective"),
        (declaring(needs={"reference"}), TypeError, r"Own.needs is \{'reference'\}: write a frozenset of names"),
        (declaring(wants="entropy"), TypeError, "Own.wants is 'entropy': write a frozenset"),
        (declaring(needs=frozenset({"refrence"})), ValueError, "Own.needs has 'refrence'; did you mean reference"),
        (declaring(wants=frozenset({"entropie"})), ValueError, "Own.wants has 'entropie'; did you mean entropy"),
        (declaring(trains="polcy"), ValueError, "Own.trains is 'polcy'; did you mean policy"),
    ],
)
def test_what_an_objective_declares_wrongly_is_told(given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        checked_objective(given)


@every
def test_every_objective_passes_the_checks(objective: Objective) -> None:
    assert checked_objective(objective) is objective
    batch, out = make(objective)
    assert loss_checked(objective, out, with_statistics(objective, batch, out)).terms


def test_a_method_of_another_name_is_told() -> None:
    class Renamed(Objective):
        def compute_loss(self, model: Any, inputs: Any) -> Any: ...

    class Empty(Objective):
        """Has no loss."""

    with pytest.raises(TypeError, match=r"Renamed has no method loss: write .def loss\(self.*it has compute_loss"):
        Renamed()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="Empty has no method loss.*no method of its own"):
        Empty()  # type: ignore[abstract]


def test_fields_without_a_dataclass_are_told() -> None:
    class Fields(Own):
        beta: float = 0.1

    assert Fields().beta == 0.1
    with pytest.raises(TypeError, match=r"Fields takes no arguments: write @dataclass\(frozen=True, kw_only=True\)"):
        Fields(beta=0.2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("lines", "name", "said"),
    [
        ("NAMES = ['mine']", "mine", "NAMES is a list: write a dict of objectives by their names"),
        ("NAMES = {'mine': 3}", "mine", "my_own:mine is a int and no objective: write a subclass of Objective"),
        ("class Mine: ...\nNAMES = {'mine': Mine}", "mine", r"my_own:mine is a class \(Mine\) and no objective"),
        ("def mine(out, batch): ...", "mine", "my_own:mine is a function and no objective"),
    ],
)
def test_a_file_that_declares_no_objective_is_told(
    lines: str, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own.py").write_text(lines)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    sys.modules.pop("my_own", None)
    with pytest.raises(ValueError, match=said):
        load(f"my_own:{name}")
    sys.modules.pop("my_own", None)


def test_an_objective_by_its_class_or_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As scorers, judges and adapters are: from the current folder, by the name that stands there."""
    lines = (
        "from prefopt import DPO",
        "class Mine(DPO): ...",
        "ready = DPO(beta=0.3)",
        "NAMES = {'mine': Mine(beta=0.2), 'class': Mine}",
    )
    (tmp_path / "my_objectives.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    betas = {name: load(f"my_objectives:{name}").beta for name in ("mine", "Mine", "ready", "class")}  # type: ignore[attr-defined]
    assert betas == {"mine": 0.2, "Mine": 0.1, "ready": 0.3, "class": 0.1}
    with pytest.raises(ValueError, match=r"NAMES \['class', 'mine'\]: did you mean mine\? name one as my_objectives:"):
        load("my_objectives:mien")
    sys.modules.pop("my_objectives")
