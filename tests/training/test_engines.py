"""What trains with its weights spread over two processes ends as with all of them in each, is saved whole, and resumes.

`tests/helpers/engines.py` says what of this is real on CPUs. Under ZeRO: `make test-engines`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.helpers.processes import launch
from tests.helpers.programs.engine_runs import BROKEN, BY_GENERATE, CASES, GENERATING, ON_POLICY, REFERENCES

PROGRAM = "tests.helpers.programs.engine_runs"
FEW = ["reward", "dpo, precomputed", "dpo, moving reference", "dpo, lora", "rejection sampling", "ppo"]
WRAPPERS = {"fsdp2": "FSDP", "zero2": "DeepSpeedEngine", "zero3": "DeepSpeedEngine"}
ON = "2 processes on cpu under"
EIGHT = "8 rows a step; float64 weights"
LAUNCHED = {
    "ddp": f"{ON} DDP; {EIGHT}, whole in each",
    "fsdp2": f"{ON} FSDP2; {EIGHT}, spread over the processes with gradients, optimizer and reference",
    "zero2": f"{ON} DeepSpeed ZeRO-2; {EIGHT}, whole in each, gradients and optimizer spread over the processes",
    "zero3": f"{ON} DeepSpeed ZeRO-3; {EIGHT}, spread over the processes with gradients and optimizer",
}
"""What a run of eight rows a step says that it is trained by."""
ZERO = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed: make test-engines")


def is_exact(name: str, engine: str) -> bool:
    """Whether a run computes in float64: DeepSpeed and experts cannot, nor is what a path leads to trained so."""
    case = CASES.get(name)
    return engine == "fsdp2" and not (case is not None and (case.by_path or case.experts))


def compare(engine: str, cases: list[str], folder: Path) -> None:
    """An engine against DDP."""
    expected, found = (launch(2, PROGRAM, folder=str(folder / e), engine=e, cases=cases) for e in ("ddp", engine))
    assert list(found) == cases
    for name in cases:
        check(name, engine, expected[name], found[name])
        weights, theirs = (
            load_file(folder / e / name.replace(", ", "-").replace(" ", "-") / "weights.safetensors")
            for e in ("ddp", engine)
        )
        assert weights.keys() == theirs.keys()
        for weight in weights:
            allowed = pytest.approx(weights[weight].numpy(), abs=1e-9 if is_exact(name, engine) else 5e-5)
            assert theirs[weight].numpy() == allowed, (name, weight)
    saved = [name for name in cases if name not in GENERATING]
    resumed = launch(2, PROGRAM, folder=str(folder / engine), engine=engine, cases=saved, resume=True)
    assert resumed == dict.fromkeys(saved, {"otherwise": []})


def check(name: str, engine: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    assert "error" not in expected and "error" not in found, (expected.get("details"), found.get("details"))
    assert (expected["world"], found["world"]) == (2, 2)
    assert expected["wrapper"] != found["wrapper"] and found["wrapper"].startswith(WRAPPERS[engine])
    exact = is_exact(name, engine)
    if name == "reward":
        assert (expected["launch"], found["launch"]) == (LAUNCHED["ddp"], LAUNCHED[engine])
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-6), name  # Trainer keeps losses in float32
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-9 if exact else 1e-6), name
    near = {"rel": 1e-6} if exact else {"rel": 1e-4, "abs": 1e-3}
    assert found["evaluated"] == pytest.approx(expected["evaluated"], **near), name
    assert [row["response"] for row in found["pool"]] == [row["response"] for row in expected["pool"]], name
    assert bool(found["pool"]) == (name in GENERATING)
    assert found["saved otherwise"] == [], name


def test_weights_that_fsdp_spreads_train_save_and_resume_as_whole_ones(tmp_path: Path) -> None:
    compare("fsdp2", FEW, tmp_path)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_process_holds_its_part_of_all_numbers(processes: int, tmp_path: Path) -> None:
    """Of weights, gradients, moments and the reference, within a tenth of one process's share."""
    one, found = (
        launch(n, PROGRAM, folder=str(tmp_path / str(n)), engine="fsdp2" if n > 1 else None, cases=["dpo"])
        for n in (1, processes)
    )
    for kind, size in one["dpo"]["held"].items():
        assert size > 0 and found["dpo"]["held"][kind] <= 1.1 * size / processes, kind


@pytest.mark.slow
def test_so_they_do_for_every_method(tmp_path: Path) -> None:
    compare("fsdp2", [*CASES, *GENERATING, *ON_POLICY], tmp_path)


@ZERO
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_what_trains_on_rows_does_so_under_deepspeed_too(engine: str, tmp_path: Path) -> None:
    compare(engine, [name for name in CASES if engine == "zero2" or name not in REFERENCES], tmp_path)


@ZERO
@pytest.mark.slow
def test_a_reference_in_parts_is_refused_under_zero3(tmp_path: Path) -> None:
    found = launch(2, PROGRAM, folder=str(tmp_path), engine="zero3", cases=list(REFERENCES))
    for name in REFERENCES:
        assert "loaded by its path is in parts, and can be no reference" in found[name]["error"]


@ZERO
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_what_deepspeed_cannot_do_is_refused(engine: str, tmp_path: Path) -> None:
    found = launch(2, PROGRAM, folder=str(tmp_path), engine=engine, cases=["rejection sampling", "ppo", *BROKEN])
    assert all(
        "examples/accelerate/ddp.yaml or fsdp2" in found[name]["error"] for name in ("rejection sampling", "ppo")
    )
    assert not list(tmp_path.rglob("candidates-*"))
    for name in BROKEN:
        assert "rows [4, 5]" in found[name]["error"] and "DeepSpeed has learnt from it" in found[name]["error"]


def test_what_fsdp_cannot_sample_is_refused(tmp_path: Path) -> None:
    found = launch(2, PROGRAM, folder=str(tmp_path), engine="fsdp2", cases=list(BY_GENERATE))
    for name in BY_GENERATE:
        assert "unequally often: launch this with examples/accelerate/ddp.yaml" in found[name]["error"]


def test_a_step_of_spread_weights_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    found = launch(2, PROGRAM, folder=str(tmp_path), engine="fsdp2", cases=list(BROKEN))
    for name in BROKEN:
        assert found[name]["skipped"] == 1 and found[name]["saved otherwise"] == [], found[name]
