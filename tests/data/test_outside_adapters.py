"""Adapters from outside of prefopt: by module:name, by registration, and what is said of one that is wrong."""

import re
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from prefopt.cli.data_check import main as data_check
from prefopt.data import Candidates, DataError, Turn, load, load_preferences, load_prompts, load_sft, register
from prefopt.data.adapters import REGISTRY
from prefopt.utils.extensions import load_named

ROWS = [{"ask": f"Question {i}?", "good": f"Answer {i}.", "bad": "No."} for i in range(3)]
HEAD = "from prefopt.data import Adapter, Candidates, Drop, Turn, register\n"
PAIR = """
def my_rows(row):
    if not row["good"]:
        raise Drop("no good answer")
    return Candidates((Turn("user", row["ask"]),), (row["good"], row["bad"]))
"""
_numbers = count()

Module = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    """Writes a module into the current folder, which is not on the path; gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    known = dict(REGISTRY)
    names: list[str] = []

    def writing(code: str) -> str:
        names.append(f"mine_{next(_numbers)}")
        (tmp_path / f"{names[-1]}.py").write_text(HEAD + dedent(code), encoding="utf-8")
        return names[-1]

    yield writing
    REGISTRY.clear()
    REGISTRY.update(known)
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def registered() -> Iterator[None]:
    """The registry is what it was when the test is over."""
    known = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(known)


def test_a_function_is_an_adapter(module: Module, write: Callable[..., Path]) -> None:
    path = write([*ROWS, {"ask": "x", "good": "", "bad": "y"}])
    name = f"{module(PAIR)}:my_rows"
    table, report = load(path, "preferences", name)
    assert table["chosen"][:] == [f"Answer {i}." for i in range(3)] and table["rejected"][:] == ["No."] * 3
    assert table["prompt"][0] == [{"role": "user", "content": "Question 0?"}]
    assert (report.adapter, report.kept, dict(report.dropped)) == (name, 3, {"no good answer": 1})
    assert load_sft(path, name)["response"][:] == table["chosen"][:]
    assert load_prompts(path, name)["prompt"][:] == table["prompt"][:]


NEW_FORMAT = """
@register("ask-good-bad", kind="pair", fields="ask, good, bad: texts", recognises=lambda row: "ask" in row)
def my_rows(row):
    return Candidates((Turn("user", row["ask"]),), (row["good"], row["bad"]))
"""


def test_a_new_format_costs_three_lines_and_is_recognised_then(module: Module, write: Callable[..., Path]) -> None:
    assert len(NEW_FORMAT.strip().splitlines()) <= 10
    load_named(f"{module(NEW_FORMAT)}:my_rows", "adapter")
    table, report = load(write([{**row, "votes": 3} for row in ROWS]))
    assert report.adapter == "ask-good-bad" and report.unread == {"votes": 3}
    assert table["chosen"][:] == [f"Answer {i}." for i in range(3)]


@pytest.mark.parametrize(
    ("responses", "purpose", "columns"),
    [
        ("()", "prompts", {"prompt"}),
        ("(row['good'],)", "sft", {"prompt", "response"}),
        ("(row['good'], row['bad'])", "preferences", {"prompt", "chosen", "rejected"}),
        ("[row['good'], row['bad'], row['ask']][: 2 + ('1' in row['ask'])]", "preferences", {"prompt", "responses"}),
    ],
    ids=["prompt", "sft", "pair", "list"],
)
def test_the_kind_is_what_the_function_returns(responses: str, purpose: str, columns: set[str], module: Module) -> None:
    """Lists do for tuples, and {role, content} for a turn."""
    turns = "[{'role': 'user', 'content': row['ask']}]"
    name = f"{module(f'def my_rows(row): return Candidates({turns}, {responses})')}:my_rows"
    table = load(ROWS, purpose, name)[0]
    assert set(table.column_names) == columns and len(table) == 3


@pytest.mark.parametrize(
    "code",
    [
        PAIR + "found = Adapter('mine', 'pair', 'ask, good, bad', lambda row: 'ask' in row, my_rows)",
        PAIR + "class found(Adapter):\n  def __init__(self): super().__init__('mine', 'pair', 'x', bool, my_rows)",
        PAIR + "found = register('mine', kind='pair', fields='ask, good, bad')(my_rows)",
        "class found:\n  def __call__(self, row):\n"
        "    return Candidates((Turn('user', row['ask']),), (row['good'], row['bad']))",
    ],
    ids=["adapter", "class of adapter", "registered", "class of callable"],
)
def test_other_things_that_are_adapters(code: str, module: Module) -> None:
    assert load_preferences(ROWS, f"{module(code)}:found")["chosen"][:] == [f"Answer {i}." for i in range(3)]


def test_a_registered_format_is_recognised_before_ours(registered: None) -> None:
    """A pair with `prompt, chosen, rejected` is TRL's; here it is somebody's who writes the rejected one first."""
    rows = [{"prompt": "x", "chosen": "worse", "rejected": "better", "swapped": True}] * 2

    @register("swapped", kind="pair", fields="prompt, chosen, rejected", recognises=lambda row: "swapped" in row)
    def swapped(row: dict[str, Any]) -> Candidates:
        return Candidates((Turn("user", row["prompt"]),), (row["rejected"], row["chosen"]))

    table, report = load(rows)
    assert report.adapter == "swapped" and table["chosen"][:] == ["better"] * 2
    assert load([{**row, "swapped": None} for row in rows])[1].adapter == "trl"
    assert load_preferences(rows, "swapped")["chosen"][:] == ["better"] * 2


def test_a_registered_format_may_say_what_was_truncated(registered: None) -> None:
    for name, columns in (("with", True), ("without", False)):
        register(name, kind="sft", fields="a, b", finish_columns=columns)(
            lambda row: Candidates((Turn("user", row["a"]),), (row["b"],))
        )
    rows = [{"a": "x", "b": "y", "finish_reason": "length"}]
    assert load_sft(rows, "with")["finished"][:] == [[False]]
    assert "finished" not in load_sft(rows, "without").column_names


def test_registering_is_checked(registered: None) -> None:
    with pytest.raises(
        DataError, match="adapter 'x' is of the kind 'triple'; known are pair, list, unpaired, sft, prompt"
    ):
        register("x", kind="triple", fields="")(lambda row: Candidates(()))
    with pytest.raises(DataError, match="adapter 'trl' comes with prefopt: register yours under another name"):
        register("trl", kind="pair", fields="")(lambda row: Candidates(()))
    assert REGISTRY["trl"].comes_with_prefopt

    def asks(row: dict[str, Any]) -> bool:
        return row["something"] == 1

    register("mine", kind="pair", fields="", recognises=asks)(lambda row: Candidates(()))
    with pytest.raises(
        DataError, match="adapter 'mine': `recognises` raised KeyError: 'something', on a row with.*ask"
    ):
        load(ROWS)


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        ("", "nothing", r"adapter mine_\d+:nothing: mine_\d+ has no nothing"),
        ("my_rows = 3", "my_rows", r"adapter mine_\d+:my_rows is 3, which reads no rows: give a function"),
        ("class my_rows:\n  def __init__(self, x): ...", "my_rows", "a class that cannot be made without arguments"),
        (
            "def my_rows(row): return row",
            "my_rows",
            "row 0: adapter .*my_rows' returned an object, expected",
        ),
        ("def my_rows(row): return None", "my_rows", "row 0: adapter .*my_rows' returned null, expected"),
        ("def my_rows(row): return row['nope']", "my_rows", "row 0: adapter .*my_rows' raised KeyError: 'nope'"),
        ("def my_rows(row): raise Drop('never')", "my_rows", r"none of the first rows could be used \(row 2: never\)"),
        (
            "def my_rows(row): return Candidates(row['ask'], ('x',))",
            "my_rows",
            "returned Candidates with text where a tuple belongs: `prompt` is a tuple of Turn",
        ),
        (
            "def my_rows(row): return Candidates((Turn('user', 'x'),), ('x', 3))",
            "my_rows",
            "returned Candidates with a number where a tuple belongs",
        ),
        (
            "def my_rows(row): return Candidates((Turn('user', 'x'),), ('x',) * (1 + ('1' in row['ask'])))",
            "my_rows",
            r"different kinds, by their numbers of responses: 1 \(row 0\), 2 \(row 1\)",
        ),
    ],
)
def test_what_is_no_adapter_is_told(code: str, name: str, said: str, module: Module) -> None:
    with pytest.raises(DataError, match=said):
        load_preferences(ROWS, f"{module(code)}:{name}")


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("raise RuntimeError('broken')", "rows.jsonl:101: adapter .*my_rows' raised RuntimeError: broken"),
        ("return 'text'", "rows.jsonl:101: adapter .*my_rows' returned text, expected"),
        (
            "return Candidates((Turn('user', 'x'),), ('y',))",
            "rows.jsonl:101: adapter .*kind 'pair' and returned 1 ",
        ),
    ],
)
def test_an_adapter_that_fails_late_names_its_row(
    then: str, said: str, module: Module, write: Callable[..., Path]
) -> None:
    path = write([*ROWS * 33, ROWS[0], {**ROWS[0], "ask": "late"}])
    code = PAIR.replace("(row):\n", f"(row):\n    if row['ask'] == 'late': {then}\n", 1)
    with pytest.raises(DataError, match=said):
        load_preferences(path, f"{module(code)}:my_rows")


@pytest.mark.parametrize("name", ["no_such_module:name", "no_such_folder/mine.py:name", "mine:"])
def test_a_name_that_leads_nowhere(name: str) -> None:
    with pytest.raises(DataError, match=f"adapter {name}: "):
        load_preferences(ROWS, name)


def test_a_purpose_that_its_rows_do_not_serve(module: Module) -> None:
    code = "def my_rows(row): return Candidates((Turn('user', row['ask']),))"
    with pytest.raises(DataError, match="my_rows' holds no preference"):
        load_preferences(ROWS, f"{module(code)}:my_rows")


def test_the_check_of_data_takes_it_too(
    module: Module, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, name = str(write(ROWS)), f"{module(PAIR)}:my_rows"
    assert data_check([path, "--adapter", name]) == 0
    assert f"read as {name}" in capsys.readouterr().out.replace("\n", " ")
    assert data_check([path, "--adapter", f"{name}s"]) == 2
    assert "has no my_rowss; did you mean my_rows?" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["docs/data.md", "prefopt/data/adapters/base.py"])
def test_the_documented_one_reads_rows(file: str, module: Module) -> None:
    text = (Path(__file__).parents[2] / file).read_text(encoding="utf-8")
    (code,) = re.findall(r"( *from prefopt\.data import Candidates, .*?def my_rows.*?return [^\n]*\n)", text, re.S)
    rows = [{"title": "Which?", "better": "This.", "worse": "That."}]
    assert load_preferences(rows, f"{module(code)}:my_rows")["chosen"][:] == ["This."]
