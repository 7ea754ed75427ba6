"""One and two processes give the same numbers.

Some launchers silently run one process, so the world size is asserted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.processes import launch

RANKS = "tests.helpers.programs.invariance_ranks"
STEPS: dict[str, tuple[dict[str, int], dict[str, int], int, list[str]]] = {
    "fixed": (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        4,
        [],
    ),
    "by tokens": (
        {"max_tokens_per_batch": 64, "gradient_accumulation_steps": 32},
        {"max_tokens_per_batch": 64, "gradient_accumulation_steps": 32},
        2,
        ["dpo", "multi-turn sft", "rrhf", "bco (cross-batch, with state)"],
    ),
}
"""Arguments of one process and of two, how many steps that makes of two epochs, and of which cases (none: all). Fixed:
13 rows, 8 a step; one process takes 4x2, two take 2x2 each, and the last step is ragged. By tokens: all rows are one
step."""

Pair = tuple[dict[str, Any], dict[str, Any], int]


@pytest.fixture(scope="module", params=STEPS)
def one_and_two(request: pytest.FixtureRequest) -> Pair:
    one, two, steps, cases = STEPS[request.param]
    found = (launch(ranks, RANKS, args=args, cases=cases) for ranks, args in ((1, one), (2, two)))
    return next(found), next(found), steps


def test_two_processes_really_ran(one_and_two: Pair) -> None:
    assert {case["world"] for case in one_and_two[0].values()} == {1}
    assert {case["world"] for case in one_and_two[1].values()} == {2}


def test_evaluation_is_the_same(one_and_two: Pair) -> None:
    one, two, _ = one_and_two
    for name in one:
        assert two[name]["eval"] == pytest.approx(one[name]["eval"], rel=1e-9, abs=1e-9), name


def test_training_is_the_same(one_and_two: Pair) -> None:
    one, two, steps = one_and_two
    for name in one:
        assert len(one[name]["logs"]) == steps
        for ours, theirs in zip(one[name]["logs"], two[name]["logs"], strict=True):
            assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-8), name
        assert two[name]["weights"] == pytest.approx(one[name]["weights"], rel=1e-9, abs=1e-9), name


@pytest.mark.slow
def test_weights_spread_over_ranks_train_the_same() -> None:
    """FSDP2 against DDP on two ranks: the same losses, gradient norms and weights, step by step."""
    whole, sharded = (launch(2, "tests.helpers.programs.sharded_ranks", sharded=how) for how in (False, True))
    for name, expected in whole.items():
        found = sharded[name]
        assert (expected.pop("wrapper"), found.pop("wrapper")) == ("DistributedDataParallel", "FSDPLlamaForCausalLM")
        assert expected.pop("world") == found.pop("world") == 2
        assert len(expected["losses"]) == 3
        for figure, numbers in expected.items():
            # Trainer keeps losses in float32
            assert found[figure] == pytest.approx(numbers, rel=1e-6 if figure == "losses" else 1e-9), (name, figure)
