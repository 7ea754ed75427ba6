"""What annotators send back becomes rows that train; parts add up, and nothing is lost, doubled or left out unsaid."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from prefopt import RewardConfig, RewardTrainer, load_preferences
from prefopt.data import DataError
from prefopt.labelling import LabelPair, export_labels, import_labels, pairs_to_label
from prefopt.labelling.store import Judgments
from tests.helpers import label_exports as exports
from tests.helpers.labels import candidates, page_file
from tests.helpers.models import untrained
from tests.helpers.training import quiet

ANN = {"id": 2, "email": "ann@example.com", "first_name": "", "last_name": ""}


@pytest.fixture
def pairs() -> list[LabelPair]:
    return pairs_to_label(candidates(12, 2), count=12, seed=9, repeats=0)


@pytest.fixture
def folder(tmp_path: Path, pairs: list[LabelPair]) -> Path:
    export_labels(tmp_path / "labels", pairs)
    return tmp_path / "labels"


def label(pair: LabelPair, choice: str | None, grade: str | None = None, time: str = "2026-11-30T09:00:00.000Z") -> Any:
    return {"id": pair.id, "choice": choice, "grade": grade, "note": "", "time": time}


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return path


def table(path: Path, rows: Sequence[Mapping[str, str]], delimiter: str = ",", encoding: str = "utf-8-sig") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def said(folder: Path) -> dict[str, list[tuple[str, str, str | None]]]:
    """Of every id who said what."""
    found: dict[str, list[tuple[str, str, str | None]]] = {}
    for each in Judgments(folder).current:
        found.setdefault(each.id, []).append((each.annotator, each.choice, each.grade))
    return found


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_parts_add_up_and_nothing_counts_twice(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    labels = [label(pair, "a", "slightly") for pair in pairs]
    half = written(tmp_path / "half.json", page_file("李", labels[:5]))
    whole = written(tmp_path / "whole.json", page_file("李", labels))
    first = import_labels(folder, [half])
    assert (len(first.rows), first.report.labelled, first.report.pairs) == (5, 5, 12)
    before = (folder / "judgments.jsonl").read_bytes()
    assert import_labels(folder, [half]).rows == first.rows
    assert (folder / "judgments.jsonl").read_bytes() == before
    both = import_labels(folder, [whole, half])
    assert (both.report.added.new, both.report.added.known) == (7, 10)
    assert [row for row in both.rows if row in first.rows] == first.rows and len(both.rows) == 12
    assert import_labels(folder).rows == both.rows


def test_the_later_of_two_labels_counts_whichever_file_came_first(
    folder: Path, tmp_path: Path, pairs: list[LabelPair]
) -> None:
    early = label(pairs[0], "a", "better", "2026-11-30T09:00:00.000Z")
    late = label(pairs[0], "b", "slightly", "2026-11-30T18:00:00.000+08:00")
    files = [written(tmp_path / f"{place}.json", page_file("李", [each])) for place, each in enumerate([late, early])]
    report = import_labels(folder, files).report
    assert (report.added.new, report.added.older, report.added.changed) == (1, 1, 0)
    assert said(folder) == {pairs[0].id: [("李", "b", "slightly")]}
    back = written(tmp_path / "back.json", page_file("李", [label(pairs[0], "tie", None, "2026-11-30T11:00:00Z")]))
    assert import_labels(folder, [back]).report.added.changed == 1
    assert import_labels(folder, files).report.added.known == 2
    assert said(folder) == {pairs[0].id: [("李", "tie", None)]}
    assert len((folder / "judgments.jsonl").read_text("utf-8").splitlines()) == 3


def test_more_pairs_keep_the_labels_and_others_are_refused(
    folder: Path, tmp_path: Path, pairs: list[LabelPair]
) -> None:
    import_labels(folder, [written(tmp_path / "a.json", page_file("李", [label(pairs[0], "a", "better")]))])
    more = pairs_to_label(candidates(30, 2), count=30, seed=9, repeats=0)
    with pytest.raises(DataError, match="labels of them would be lost: take another folder"):
        export_labels(folder, pairs_to_label(candidates(12, 2), count=12, seed=8, repeats=0))
    export_labels(folder, [*pairs, *(pair for pair in more if pair not in pairs)])
    labels = import_labels(folder)
    assert labels.report.pairs == 30 and [row["pair"] for row in labels.rows] == [pairs[0].pair]


def test_a_kill_leaves_all_of_an_import_or_nothing(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    """Killed in the middle of the write: half a line, which the next import cuts off."""
    files = [
        written(tmp_path / f"{name}.json", page_file(name, [label(pair, "a", "better") for pair in pairs]))
        for name in ("李", "Bo")
    ]
    import_labels(folder, files[:1])
    program = (
        "import os, sys\n"
        "from prefopt.labelling import import_labels\n"
        "from prefopt.utils import files\n"
        "def write(descriptor, data):\n"
        "    os.write(descriptor, data[:50]); os.fsync(descriptor); os.kill(os.getpid(), 9)\n"
        "files.write = write\n"
        "import_labels(sys.argv[1], sys.argv[2:])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, folder, *files], capture_output=True)
    assert done.returncode == -9
    assert {name for each in said(folder).values() for name, *_ in each} == {"李"}
    report = import_labels(folder, files).report
    assert (report.added.new, report.added.known, report.annotators["Bo"].judgments) == (12, 12, 12)


# ---- what is left out is said ---------------------------------------------------------------------------------------


def test_what_is_no_label_is_counted_with_its_place(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    ids = [pair.id for pair in pairs]
    rows = [
        {"pair_id": ids[0], "choice": "A", "grade": "better", "note": ""},
        {"pair_id": "p000000000000", "choice": "A", "grade": "better", "note": ""},
        {"pair_id": ids[1], "choice": "", "grade": "slightly", "note": ""},
        {"pair_id": ids[2], "choice": "", "grade": "", "note": "see later"},
        {"pair_id": ids[3], "choice": "", "grade": "", "note": ""},
        {"pair_id": ids[4], "choice": "perhaps", "grade": "", "note": ""},
        {"pair_id": ids[5], "choice": "B", "grade": "", "note": ""},
        {"pair_id": ids[6], "choice": "skip", "grade": "", "note": ""},
        {"pair_id": ids[7], "choice": "tie", "grade": "", "note": ""},
        {"pair_id": ids[8], "choice": "both bad", "grade": "", "note": ""},
    ]
    path = table(tmp_path / "filled.csv", rows)
    labels = import_labels(folder, [path], annotator="李")
    report = labels.report
    assert report.left_out == {"unknown id: of another export": 1, "half-filled: no choice": 2, "not understood": 1}
    assert report.places["not understood"][0].startswith(f"{path}:7 ('perhaps' is none of A, B")
    assert report.places["unknown id: of another export"] == [f"{path}:3 (p000000000000)"]
    assert report.noted == {"a preference without a grade": 1} and report.unlabelled == 1
    assert report.annotators["李"].choices == {"a": 1, "b": 1, "both_bad": 1, "skip": 1, "tie": 1}
    assert report.without == {"tie": 1, "both bad": 1} and report.labelled == 4
    assert ["grade" in row for row in labels.rows].count(True) == 1 == len(labels.rows) - 1
    text = "\n".join(report.lines())
    assert "left out 1: not understood" in text and "李: 5 labels (1 a, 1 b, 1 both bad, 1 skip, 1 tie)" in text


def test_who_labelled_must_be_said(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    path = table(tmp_path / "filled.csv", [{"pair_id": pairs[0].id, "choice": "A"}])
    with pytest.raises(DataError, match="filled.csv:2: who labelled this is not said: fill the annotator's column"):
        import_labels(folder, [path])
    assert not (folder / "judgments.jsonl").exists()


def test_files_of_something_else_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="key.jsonl: no such file: .* is no folder that `prefopt label export` wrote"):
        import_labels(tmp_path)
    other = written(tmp_path / "other.json", [{"question": "q", "better": "A"}])
    with pytest.raises(DataError, match="no column 'pair_id'.* it has question, better. Give columns, as pair_id=NAME"):
        import_labels(folder, [other])
    with pytest.raises(DataError, match="a file of the labelling page without its labels: save it there again"):
        import_labels(folder, [written(tmp_path / "cut.json", {"format": "prefopt-labels", "labels": [1]})])
    with pytest.raises(ValueError, match="columns: chosen: known are pair_id, choice, grade"):
        import_labels(folder, columns={"chosen": "x"})


# ---- spreadsheets ---------------------------------------------------------------------------------------------------


def filled(path: Path, lang: str) -> list[dict[str, str]]:
    """The exported table, its first three pairs labelled."""
    names = {"en": ("choice", "grade", "annotator"), "zh": ("选择", "程度", "标注人")}[lang]
    values = {"en": [("A", "better"), ("tie", ""), ("b", "slightly better")]}
    values["zh"] = [("A", "更好"), ("平局", ""), ("b", "略好")]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, (choice, grade) in zip(rows, values[lang], strict=False):
        row.update(dict(zip(names, (choice, grade, "李"), strict=True)))
    return rows


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-16")])
def test_the_exported_table_filled_in(
    tmp_path: Path, pairs: list[LabelPair], lang: str, delimiter: str, encoding: str
) -> None:
    page = export_labels(tmp_path / "labels", pairs, lang=lang)
    path = table(tmp_path / "back.csv", filled(page.with_name("pairs.csv"), lang), delimiter, encoding)
    report = import_labels(tmp_path / "labels", [path]).report
    expected = [("a", "better"), ("tie", None), ("b", "slightly")]
    assert said(tmp_path / "labels") == {pair.id: [("李", *each)] for pair, each in zip(pairs, expected, strict=False)}
    assert (report.unlabelled, report.left_out) == (9, {})


def test_a_workbook(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["pair_id", "choice", "grade", "annotator", "time"])
    book.active.append([pairs[0].id, "A", "better", "李", None])
    book.active.append([None] * 5)
    book.active.append([pairs[1].id, "both bad", None, 12, None])
    book.save(tmp_path / "back.xlsx")
    import_labels(folder, [tmp_path / "back.xlsx"])
    assert said(folder) == {pairs[0].id: [("李", "a", "better")], pairs[1].id: [("12", "both_bad", None)]}
    (tmp_path / "not.xlsx").write_text("pair_id,choice")
    with pytest.raises(DataError, match="not.xlsx: not a workbook that can be read"):
        import_labels(folder, [tmp_path / "not.xlsx"])


# ---- tools ----------------------------------------------------------------------------------------------------------


def test_label_studio_json(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    ids = [pair.id for pair in pairs]
    tasks = [
        exports.task(
            ids[0],
            exports.annotation(1, exports.choices("choice", "A slightly"), exports.note("hm")),
            exports.annotation(ANN, exports.choices("choice", "tie")),
        ),
        exports.task(ids[1], exports.annotation(1, cancelled=True), exports.annotation(ANN, exports.note("later"))),
        exports.task(ids[2], exports.annotation(1, exports.choices("choice", "B"), exports.choices("grade", "better"))),
        exports.task(ids[3]),
        exports.task(ids[4], exports.annotation(1, exports.choices("choice", "both bad"))),
    ]
    report = import_labels(folder, [written(tmp_path / "project.json", tasks)]).report
    assert said(folder) == {
        ids[0]: [("1", "a", "slightly"), ("ann@example.com", "tie", None)],
        ids[1]: [("1", "skip", None)],
        ids[2]: [("1", "b", "better")],
        ids[4]: [("1", "both_bad", None)],
    }
    assert report.left_out == {"half-filled: no choice": 1}
    first = Judgments(folder).current[0]
    assert (first.note, first.time) == ("hm", exports.UPDATED)


def test_label_studio_json_min(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    """A skipped annotation is not in it; a task without any is, with nulls."""
    ids = [pair.id for pair in pairs]
    rows = [
        exports.flat_task(ids[0], 1, choice="A", grade="slightly", note="hm"),
        exports.flat_task(ids[0], "ann@example.com", choice="tie"),
        exports.flat_task(ids[1], 2, grade="better"),
        exports.flat_task(ids[2]),
    ]
    report = import_labels(folder, [written(tmp_path / "min.json", rows)]).report
    assert said(folder) == {ids[0]: [("1", "a", "slightly"), ("ann@example.com", "tie", None)]}
    assert (report.left_out, report.unlabelled) == ({"half-filled: no choice": 1}, 1)
    assert Judgments(folder).current[0].time == exports.UPDATED


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_label_studio_csv(folder: Path, tmp_path: Path, pairs: list[LabelPair], delimiter: str) -> None:
    """Values that are not choices or texts stand there as JSON; TSV has the name result.csv, too."""
    rows = [
        {"annotator": "1", "pair_id": pairs[0].id, "side": '[{"selected":"left"}]', "stars": '[{"rating":3}]'},
        {"annotator": "2", "pair_id": pairs[0].id, "side": '[{"selected":"right"}]', "stars": '[{"rating":1}]'},
        {"annotator": "", "pair_id": pairs[1].id, "side": "", "stars": ""},
    ]
    path = table(tmp_path / "result.csv", rows, delimiter)
    words = {"3": "significantly", "1": "negligibly"}
    report = import_labels(folder, [path], columns={"choice": "side", "grade": "stars"}, words=words).report
    assert said(folder) == {pairs[0].id: [("1", "a", "significantly"), ("2", "b", "negligibly")]}
    assert report.unlabelled == 1


def test_label_studio_by_stars_and_sides(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    tasks = [
        exports.task(pairs[0].id, exports.annotation(1, exports.pairwise("side", "right"), exports.rating("stars", 2))),
        exports.task(pairs[1].id, exports.annotation(1, exports.pairwise("side", "left"))),
    ]
    columns = {"choice": "side", "grade": "stars"}
    import_labels(folder, [written(tmp_path / "p.json", tasks)], columns=columns, words={"2": "slightly"})
    assert said(folder) == {pairs[0].id: [("1", "b", "slightly")], pairs[1].id: [("1", "a", None)]}


def argilla(shape: Any, ids: list[str]) -> list[dict[str, Any]]:
    """Two users; the second discards one record and leaves another a draft."""
    return [
        shape(
            ids[0],
            choice=[("u1", "A slightly", "submitted"), ("u2", "tie", "submitted")],
            note=[("u1", "hm", "submitted")],
        ),
        shape(ids[1], choice=[("u1", "both bad", "submitted"), ("u2", "A better", "discarded")], note=[]),
        shape(ids[2], choice=[("u2", "B better", "draft")], note=[]),
        shape(ids[3], choice=[], note=[]),
    ]


def test_argilla_flat(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    ids = [pair.id for pair in pairs]
    report = import_labels(folder, [written(tmp_path / "flat.json", argilla(exports.flat_record, ids))]).report
    assert said(folder) == {
        ids[0]: [("u1", "a", "slightly"), ("u2", "tie", None)],
        ids[1]: [("u1", "both_bad", None), ("u2", "skip", None)],
    }
    assert report.left_out == {"half-filled: no choice": 1} and report.noted == {}
    assert Judgments(folder).current[0].note == "hm"


def test_argilla_nested_says_that_it_does_not_say_what_was_discarded(
    folder: Path, tmp_path: Path, pairs: list[LabelPair]
) -> None:
    ids = [pair.id for pair in pairs]
    report = import_labels(folder, [written(tmp_path / "records.json", argilla(exports.record, ids))]).report
    assert said(folder)[ids[0]] == [("u1", "a", "slightly"), ("u2", "tie", None)]
    assert said(folder)[ids[1]] == [("u1", "both_bad", None), ("u2", "a", "better")]
    assert report.noted == {"Argilla's nested export does not say which answers were drafts or discarded": 4}


# ---- how far to trust them, and what trains -------------------------------------------------------------------------


def test_agreement_and_position(tmp_path: Path) -> None:
    """李 prefers the first candidate of every pair, Bo what stands on the left, and Al agrees with 李."""
    pairs = pairs_to_label(candidates(20, 2), count=20, seed=2, repeats=0.5)
    folder = tmp_path / "labels"
    export_labels(folder, pairs)
    right = [label(pair, "b" if pair.swapped else "a", "better") for pair in pairs]
    left = [label(pair, "a", "better") for pair in pairs]
    files = [
        written(tmp_path / f"{name}.json", page_file(name, labels))
        for name, labels in (("李", right), ("Al", right), ("Bo", left))
    ]
    alike = import_labels(folder, files[:2]).report
    assert alike.agreement_on_sides and alike.agreement_on_grades
    assert alike.agreement_on_sides.units == 20 and alike.agreement_on_sides.ac == 1.0
    report = import_labels(folder, files[2:]).report
    bo, li = report.annotators["Bo"], report.annotators["李"]
    assert (bo.repeated, bo.contradicted, bo.flipped) == (10, 10, 10)
    assert (li.repeated, li.contradicted, li.flipped) == (10, 0, 0)
    assert (bo.shown_as_a.hits, bo.shown_as_a.count, bo.shown_as_a.high) == (30, 30, pytest.approx(1.0))
    # Wilson's lower bound for all of n: n / (n + z²), z = 1.959964.
    assert bo.shown_as_a.low == pytest.approx(30 / (30 + 1.959964**2), abs=1e-6)
    assert report.agreement_on_sides and report.agreement_on_sides.ac < 0.7
    assert report.rows == 20 and report.without == {}
    assert "Bo: 10 in both orders, 10 not alike, 10 the same position both times" in report.lines()


def test_the_rows_load_as_pairs_with_grades(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    from prefopt.candidates import write_rows

    labels = [label(pairs[0], "a", "significantly"), label(pairs[1], "b"), label(pairs[2], "b", "negligibly")]
    rows = import_labels(folder, [written(tmp_path / "a.json", page_file("李", labels))]).rows
    write_rows(tmp_path / "preferences.jsonl", rows)
    loaded = load_preferences(str(tmp_path / "preferences.jsonl"))
    assert loaded["grade"][:] == ["significantly", None, "negligibly"]
    assert loaded["chosen"][:] == [pairs[0].texts[0], pairs[1].texts[1], pairs[2].texts[1]]
    assert loaded["rejected"][:] == [pairs[0].texts[1], pairs[1].texts[0], pairs[2].texts[0]]
    assert loaded["sampled_ids"][0] == [list(each.ids or ()) for each in pairs[0].shown]
    assert loaded["prompt"][0] == [dict(turn) for turn in pairs[0].prompt]


def test_a_reward_model_trains_on_them_with_margins(
    folder: Path, tmp_path: Path, pairs: list[LabelPair], tokenizer: Any
) -> None:
    """The first loss is that of equal scores with the margins of Llama 2's small table (arXiv:2307.09288, table 27)."""
    grades = {"significantly": 1.0, "better": 2 / 3, "slightly": 1 / 3, "negligibly": 0.0}
    labels = [label(pair, "a", grade) for pair, grade in zip(pairs, grades, strict=False)]
    rows = import_labels(folder, [written(tmp_path / "a.json", page_file("李", labels))]).rows
    config = RewardConfig(**quiet(tmp_path, max_steps=1, per_device_train_batch_size=4))
    train = Dataset.from_list(rows)
    trainer = RewardTrainer(untrained(tokenizer), args=config, train_dataset=train, processing_class=tokenizer)
    (head,) = [weight for name, weight in trainer.model.named_parameters() if "score" in name]
    head.data.zero_()
    trainer.train()
    expected = sum(math.log1p(math.exp(margin)) for margin in grades.values()) / 4
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-4)


def test_a_weight_for_nobody_is_said(folder: Path, tmp_path: Path, pairs: list[LabelPair]) -> None:
    """Bo may still send labels back; a name with a slip in it would not be seen."""
    path = written(tmp_path / "a.json", page_file("李", [label(pairs[0], "a", "better")]))
    report = import_labels(folder, [path], several="weights", weights={"Bo": 2.0}).report
    assert report.noted == {"a weight for somebody who has not labelled": 1} and report.rows == 1
