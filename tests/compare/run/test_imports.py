"""The code that a plan names: which file it is, is said before it runs, and a report of what is done runs none."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prefopt.compare import compare
from prefopt.compare.measure import judge_from
from prefopt.compare.plan import PlanError, instead_of_imports, plan_from
from prefopt.compare.report import write
from prefopt.tasks import Schedule, Task, in_order
from prefopt.tasks.worker import run_task
from prefopt.utils import extensions

CODE = """\
from pathlib import Path
from prefopt import DPO
Path({ran!r}).open("a").write(__name__ + "\\n")

class Own(DPO):
    pass

def longer(prompts, responses):
    return [float(len(response)) for response in responses]

NAMES = {{"own": Own(beta=0.3)}}
"""
PLAN: dict[str, Any] = {
    "policy": "testbed",
    "data": {"train": "testbed", "train_rows": 16},
    "sft": {"max_steps": 1},
    "training": {"per_device_train_batch_size": 8, "max_length": 128, "bf16": False},
    "methods": {"mine": {"method": "own_code:own", "max_steps": 1}},
    "evaluation": {"prompts": 4, "pairs": 4, "responses_per_prompt": 1, "max_new_tokens": 4, "curve_points": 0},
    "judges": ["own_code:longer", {"judge": "own_code:longer", "name": "again", "tolerance": 2}],
}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file in which the user's module notes that it runs."""
    (tmp_path / "own_code.py").write_text(CODE.format(ran=str(tmp_path / "ran.txt")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "ran.txt"
    sys.modules.pop("own_code", None)


def one_by_one(schedule: Schedule, tasks: Iterable[Task]) -> None:
    for task in in_order(tasks):
        if all(needed.result(schedule.out) for needed in task.dependencies()):
            assert run_task(task, schedule.out, schedule.grace), task.failure(schedule.out)


def test_a_report_imports_nothing_and_says_the_same(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Schedule, "run", one_by_one)
    monkeypatch.setattr(write, "write_figures", lambda *arguments: {})  # pictures, which take longest
    out = tmp_path / "out"

    def print_and_look(line: str, *more: Any, **how: Any) -> None:
        said.append((line, ran.exists()))

    said: list[tuple[str, bool]] = []
    console = Console(file=io.StringIO())
    monkeypatch.setattr(console, "print", print_and_look)
    first = compare(PLAN, out, console=console)
    file = tmp_path / "own_code.py"
    lines = [f"{where}: imports own_code, which runs {file}" for where in ("methods: mine", "judges", "judges")]
    assert said[:3] == [(line, False) for line in lines] and ran.read_text() == "own_code\n"

    sys.modules.pop("own_code")
    file.write_text("raise SystemExit('this must not run')")  # another program by now
    again = compare(PLAN, out, report_only=True, console=console)
    assert "own_code" not in sys.modules and ran.read_text() == "own_code\n"
    kept = {"provenance": {}, "warnings": [], "notes": []}
    one, other = ({**json.loads(json.dumps(vars(f), default=vars)), **kept} for f in (first, again))
    assert one == other
    assert {judge.name for judge in again.judges} == {"own_code:longer", "again"}
    assert {method.name for method in again.methods} == {"sft", "mine"}


def test_a_report_on_what_no_run_has_kept_is_refused(ran: Path, tmp_path: Path) -> None:
    refused = "imports nothing, and no run in this folder has kept what the report needs"
    with pytest.raises(PlanError, match=f"methods: mine: own_code:own: --report_only {refused}"):
        compare({**PLAN, "judges": []}, tmp_path / "out", report_only=True)
    with (
        instead_of_imports(tmp_path),
        pytest.raises(PlanError, match=f"judges: own_code:longer: --report_only {refused}"),
    ):
        judge_from("own_code:longer", folder=tmp_path)
    assert not ran.exists() and "own_code" not in sys.modules


def test_what_a_plan_imports(ran: Path) -> None:
    plan = plan_from({**PLAN, "methods": {"dpo": {}, "a.b": None, "x": {"method": "c:d"}}, "judges": ["score", "e:f"]})
    assert plan.imports == [("methods: a.b", "a.b"), ("methods: x", "c"), ("judges", "e")]
    assert not ran.exists()


def test_the_file_is_found_without_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "outer_package/inner"
    inner.mkdir(parents=True)
    for folder in (inner.parent, inner):
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (inner / "module.py").touch()
    (tmp_path / "spread").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert extensions.file_of("outer_package.inner.module") == str(inner / "module.py")
    assert extensions.file_of("outer_package.inner") == str(inner / "__init__.py")
    assert extensions.file_of("spread") == str(tmp_path / "spread")
    assert extensions.file_of("outer_package.absent") is None and extensions.file_of("absent.module") is None
    assert not {"outer_package", "spread"} & set(sys.modules)


def test_the_log_names_the_file_before_it_runs(ran: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with extensions.importing_nothing("nothing is"), pytest.raises(extensions.NotImported, match="nothing is"):
        extensions.load_named("own_code:longer", "--scorer")
    assert not ran.exists()
    with caplog.at_level("INFO", logger="prefopt"):
        assert extensions.load_named("own_code:longer", "--scorer")([""], ["abc"]) == [3.0]
        extensions.load_named("own_code:longer", "--scorer")
    assert caplog.messages == [f"--scorer own_code:longer: imports own_code, which runs {tmp_path / 'own_code.py'}"]
