"""`prefopt label export` and `prefopt label import`, from a pool to pairs that a reward model trains on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefopt import load_preferences
from prefopt.candidates import Pool
from prefopt.cli.label_export import WAYS
from prefopt.cli.label_import import SEVERAL
from prefopt.labelling import HOW
from prefopt.labelling.votes import SEVERAL as WAYS_OF_SEVERAL
from tests.helpers.commands import error_of, run
from tests.helpers.labels import candidates, page_file


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """As best-of-n leaves one: in a folder of its run."""
    Pool(tmp_path / "run" / "pool").append(candidates(8, 3))
    return tmp_path / "run"


def test_from_a_pool_to_pairs_that_train(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels"
    assert run("label", "export", str(pool), "--output_dir", str(out), "--count", "8", "--repeats", "0.25") == 0
    assert "8 pairs, 2 of them twice with sides swapped" in capsys.readouterr().out
    ids = [json.loads(line)["pair_id"] for line in (out / "annotate/pairs.jsonl").read_text("utf-8").splitlines()]
    labels = [{"id": each, "choice": "a", "grade": "better", "note": "", "time": None} for each in ids]
    for name in ("李", "Bo"):
        (tmp_path / f"{name}.json").write_text(json.dumps(page_file(name, labels)), "utf-8")
    files = [str(tmp_path / "李.json"), str(tmp_path / "Bo.json")]
    assert run("label", "import", str(out), *files) == 0
    said = capsys.readouterr().out
    assert "20 new labels" in said and "8 of 8 pairs are labelled, 6 preferences" in said
    assert "pairs without a preference: 2 contradicted" in said
    rows = load_preferences(str(out / "preferences.jsonl"))
    assert rows.num_rows == 6 and set(rows["grade"]) == {"better"}
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["annotators"]["李"]["flipped"] == 2 and report["shown_as_a"]["hits"] == 20
    other = tmp_path / "weighted.jsonl"
    weighted = ["--several", "weights", "--weights", "李=2", "Bo=0.5", "--output", str(other)]
    assert run("label", "import", str(out), *weighted) == 0
    assert len(other.read_text("utf-8").splitlines()) == 6


def test_a_file_of_candidates_and_a_round(pool: Path, tmp_path: Path) -> None:
    (file,) = (pool / "pool").glob("candidates-*.jsonl")
    argv = ["--output_dir", str(tmp_path / "labels"), "--count", "3", "--lang", "zh", "--how", "across_policies"]
    assert run("label", "export", str(file), *argv) == 0
    assert "哪个回答更好" in (tmp_path / "labels/annotate/index.html").read_text("utf-8")
    assert run("label", "export", str(file), *argv[:-4], "--round", "1") == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["export", "{}/none", "--output_dir", "{}/o", "--count", "1"], "no candidates-*.jsonl in it, nor in a folder"),
        (["export", "{}/rows.jsonl", "--output_dir", "{}/o", "--count", "1"], "rows.jsonl: not a file of candidates"),
        (["export", "{}/run", "--output_dir", "{}/o", "--count", "99"], "count=99: 8 prompts have 24 pairs"),
        (["import", "{}/run"], "key.jsonl: no such file"),
        (["import", "{}/run", "--weights", "Bo"], "--weights Bo: expected NAME=VALUE"),
        (["import", "{}/run", "--weights", "Bo=much"], "--weights Bo=much: expected a number"),
    ],
)
def test_a_wrong_word_is_answered(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "q"}\n')
    assert said in error_of(capsys, "label", *(word.format(tmp_path) for word in argv))


def test_the_choices_of_the_command_are_those_of_the_library() -> None:
    """The command names them itself, so that its help loads nothing heavy."""
    assert tuple(HOW) == WAYS and WAYS_OF_SEVERAL == SEVERAL
