"""Sources of all kinds, what is wrong with them, and the datasets that come out."""

import gzip
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from prefopt.data import DataError, load, load_preferences, load_prompts, load_sft

ROWS = [{"query": f"Question {i}?", "chosen": f"Good {i}", "rejected": f"Bad {i}"} for i in range(3)]
Writer = Callable[..., Path]


def chosen(dataset: Dataset) -> list[str]:
    return list(dataset["chosen"])


def as_array(path: Path, wrap: bool) -> Path:
    path.write_text(json.dumps({"version": 1, "data": ROWS} if wrap else ROWS))
    return path


def as_parquet(path: Path) -> Path:
    Dataset.from_list(ROWS).to_parquet(path)
    return path


def saved(path: Path) -> Path:
    Dataset.from_list(ROWS).save_to_disk(path)
    return path


SOURCES: dict[str, Callable[[Path, Writer], Any]] = {
    "jsonl": lambda folder, write: write(ROWS),
    "jsonl.gz": lambda folder, write: write(ROWS, "rows.jsonl.gz"),
    "json lines named .json": lambda folder, write: write(ROWS, "rows.json"),
    "json array": lambda folder, write: as_array(folder / "rows.json", wrap=False),
    "json object with data": lambda folder, write: as_array(folder / "rows.json", wrap=True),
    "parquet": lambda folder, write: as_parquet(folder / "rows.parquet"),
    "folder": lambda folder, write: write(ROWS, "data/train.jsonl").parent,
    "folder without split names": lambda folder, write: write(ROWS, "data/all.jsonl").parent,
    "saved dataset": lambda folder, write: saved(folder / "saved"),
    "text path": lambda folder, write: str(write(ROWS)),
    "list": lambda folder, write: ROWS,
    "Dataset": lambda folder, write: Dataset.from_list(ROWS),
    "DatasetDict": lambda folder, write: DatasetDict(train=Dataset.from_list(ROWS)),
    "IterableDataset": lambda folder, write: Dataset.from_list(ROWS).to_iterable_dataset(),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_rows(name: str, tmp_path: Path, write: Writer) -> None:
    dataset, report = load(SOURCES[name](tmp_path, write))
    assert dataset.column_names == ["prompt", "chosen", "rejected"]
    assert chosen(dataset) == ["Good 0", "Good 1", "Good 2"]
    assert dataset[2]["prompt"] == [{"role": "user", "content": "Question 2?"}]
    assert (report.rows, report.kept, report.adapter) == (3, 3, "query-chosen-rejected")


def test_a_folder_reads_the_split_it_is_asked_for(write: Writer) -> None:
    write(ROWS, "data/train-00000-of-00001.jsonl")
    folder = write(ROWS[:1], "data/test.jsonl").parent
    assert (len(load_preferences(folder)), len(load_preferences(folder, split="test"))) == (3, 1)
    with pytest.raises(DataError, match=r"no file of split 'dev'; found test.jsonl, train-00000-of-00001.jsonl"):
        load_preferences(folder, split="dev")


def test_a_dict_of_splits_names_those_it_has() -> None:
    with pytest.raises(DataError, match="no split 'test' in this dataset; it has train"):
        load_preferences(DatasetDict(train=Dataset.from_list(ROWS)), split="test")


def test_a_hub_id_is_read_split_by_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def from_hub(name: str, split: str) -> Dataset:
        asked.append((name, split))
        return Dataset.from_list([*ROWS, {**ROWS[0], "rejected": "Good 0"}])

    monkeypatch.setattr("datasets.load_dataset", from_hub)
    dataset, report = load("owner/name", split="test")
    assert asked == [("owner/name", "test")] and len(dataset) == 3
    assert report.examples == {"identical answers": ["owner/name[test]:row 3"]}


def test_an_unreachable_hub_id_is_an_error_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_hub(name: str, split: str) -> Dataset:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("datasets.load_dataset", from_hub)
    with pytest.raises(
        DataError, match=r"owner/name: neither a file here nor readable from the hub \(split 'train'\): no"
    ):
        load("owner/name")


GOOD = json.dumps(ROWS[0]).encode()
BAD_LINES = [
    (b'{"query": "x", ', "not valid JSON", "column"),
    (b'{"query": "\xff\xfe", "chosen": "y", "rejected": "z"}', "bytes are not UTF-8", "byte 12 of the line"),
    (b'["a", "b"]', "row is a list, expected an object", ""),
    (b'{"query": "x", "chosen": 3, "rejected": "z"}', "field 'chosen': is a number, expected text", ""),
    (b'{"query": "x", "chosen": "y", "rejected": null}', "field 'rejected': missing", ""),
    (b"[" * 100_000, "JSON is nested too deeply", ""),
]


@pytest.mark.parametrize(("line", "reason", "detail"), BAD_LINES, ids=[reason for _, reason, _ in BAD_LINES])
def test_a_bad_line_is_counted_or_with_strict_an_error(line: bytes, reason: str, detail: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n\n" + GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    dataset, report = load(path)
    assert len(dataset) == 3 and report.dropped == {reason: 1}
    assert report.examples[reason][0].startswith(f"{path}:4") and detail in report.examples[reason][0]
    with pytest.raises(DataError) as caught:
        load(path, strict=True)
    assert f"{path}:4" in str(caught.value) and reason in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\n")
    assert chosen(load_preferences(path, strict=True)) == ["Good 0"]


def test_a_truncated_gzip_keeps_what_was_read(tmp_path: Path) -> None:
    lines = b"".join(json.dumps({**ROWS[0], "chosen": f"Good {i * 7919}"}).encode() + b"\n" for i in range(20_000))
    whole = gzip.compress(lines)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    dataset, report = load(path)
    assert 1000 < len(dataset) < 20_000 and report.dropped.total() == 1
    assert "gzip data is truncated or damaged" in next(iter(report.dropped))
    assert next(iter(report.examples.values()))[0].startswith(f"{path}:{len(dataset) + 1} (")
    with pytest.raises(DataError, match="gzip data is truncated or damaged"):
        load(path, strict=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "holds no row at all"),
        ("rows.jsonl", b"\n \n", "holds no row at all"),
        ("rows.jsonl", b"nonsense\n", "no row could be read(?s:.*)not valid JSON"),
        ("rows.jsonl.gz", b"not gzip", "not a readable gzip file"),
        ("rows.json", b"[1, 2", "not valid JSON"),
        ("rows.parquet", b"not parquet", "not a readable parquet file"),
        ("rows.foo", b"a,b", "unknown kind of file; known are .jsonl, .json, "),
    ],
)
def test_an_unreadable_file_is_always_an_error(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "a/b/c", "./missing"])
def test_a_missing_file_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: no such file or folder"):
        load(name)


def test_unknown_rows_name_their_fields_and_the_known_formats() -> None:
    with pytest.raises(DataError) as caught:
        load_preferences([{"left": "x", "right": 3}])
    assert "left (str), right (int)" in str(caught.value)
    assert all(name in str(caught.value) for name in ("hh-rlhf", "rm-static-zh", "rrhf", "moss"))


def test_rows_of_another_kind_say_what_they_are() -> None:
    with pytest.raises(DataError, match="They look like 'alpaca', which holds no preference"):
        load_preferences([{"instruction": "x", "output": "y"}])
    with pytest.raises(DataError, match="adapter 'alpaca' holds no preference"):
        load_preferences([{"instruction": "x", "output": "y"}], adapter="alpaca")


def test_no_usable_row_is_an_error_that_counts() -> None:
    with pytest.raises(DataError, match="no row could be used(?s:.*)dropped 2: identical answers"):
        load_preferences([{"query": "x", "chosen": "y", "rejected": "y"}] * 2)


def test_what_is_dropped_is_logged_with_its_place(write: Writer, caplog: pytest.LogCaptureFixture) -> None:
    path = write([*ROWS, {"query": "x", "chosen": "y", "rejected": "y"}])
    with caplog.at_level(logging.INFO, "prefopt"):
        load_preferences(path)
    assert caplog.messages == [
        f"{path}: 4 rows read as query-chosen-rejected, 3 kept",
        f"dropped 1: identical answers ({path}:4)",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_a_file_changed_within_one_tick_is_read_anew(write: Writer) -> None:
    before = load_preferences(write(ROWS))
    path = write([{**row, "chosen": row["chosen"].replace("Good", "Fine")} for row in ROWS])
    assert chosen(load_preferences(path)) == ["Fine 0", "Fine 1", "Fine 2"]
    again = load_preferences(write(ROWS))
    assert before._fingerprint == again._fingerprint != load_preferences(ROWS[:2])._fingerprint


def test_extra_columns_of_pairs_and_their_absence() -> None:
    rows = [
        {**ROWS[0], "margin": 0.5, "grade": "slightly better", "score_chosen": 8, "score_rejected": 3},
        {**ROWS[1], "margin": None},
    ]
    first, second = load_preferences(rows)
    assert {name: first[name] for name in ("margin", "grade", "score_chosen", "score_rejected")} == {
        "margin": 0.5,
        "grade": "slightly",
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    }
    assert [second[name] for name in ("margin", "grade", "score_chosen")] == [None, None, None]


def test_k_lists_are_sorted_by_score() -> None:
    dataset = load_preferences([{"query": "x", "responses": ["b", "a", "c"], "scores": [1, 2, 0]}])
    assert dataset[0] == {
        "prompt": [{"role": "user", "content": "x"}],
        "responses": ["a", "b", "c"],
        "scores": [2.0, 1.0, 0.0],
    }


def test_which_responses_finished_is_a_column_where_a_row_says_it() -> None:
    rows = [ROWS[0], {**ROWS[1], "finished": [True, False]}, {**ROWS[2], "finished": None}]
    pairs = load_preferences(rows)
    assert list(pairs["finished"]) == [None, [True, False], None]
    assert str(pairs.features["finished"]) == "List(Value('bool'))"
    assert list(load_sft(rows)["finished"]) == [None, [True], None]  # of a pair the chosen one is left
    assert load_prompts(rows).column_names == ["prompt"]
    assert "finished" not in load_preferences([rows[0], rows[2]]).column_names
    ranked = {"query": "x", "responses": ["b", "a", ""], "scores": [1, 2, 3], "finished": [False, True, False]}
    assert load_preferences([ranked])[0]["finished"] == [True, False]
    assert load_sft([ranked])[0] == {**load_sft([ranked | {"finished": None}])[0], "finished": [True]}
    single = [{"query": "x", "response": "y", "finished": flag} for flag in (True, [False])]
    assert list(load_sft(single)["finished"]) == [[True], [False]]


def test_sft_and_prompts_can_be_had_from_any_row_that_has_them() -> None:
    assert load_sft(ROWS)[0] == {"prompt": [{"role": "user", "content": "Question 0?"}], "response": "Good 0"}
    assert load_sft([{"query": "x", "responses": ["b", "a"], "scores": [1, 2]}])[0]["response"] == "a"
    assert load_prompts(ROWS).column_names == ["prompt"] and len(load_prompts(ROWS)) == 3


def test_later_turns_are_a_column_only_where_a_row_has_them() -> None:
    long = [{"role": ("user", "assistant")[i % 2], "content": said} for i, said in enumerate("abcd")]
    dataset = load_sft([{"messages": long}, {"messages": long[:2]}])
    assert list(dataset["response"]) == ["b", "b"]
    assert list(dataset["later_turns"]) == [long[2:], []]
    assert load_sft([{"messages": long[:2]}]).column_names == ["prompt", "response"]


@pytest.mark.parametrize("loader", [load_preferences, load_sft, load_prompts])
def test_loading_what_was_loaded_changes_nothing(loader: Callable[..., Dataset]) -> None:
    long = [{"role": ("user", "assistant")[i % 2], "content": said} for i, said in enumerate("abcd")]
    rows = (
        [{"messages": long}, {"messages": long[:2]}]
        if loader is load_sft
        else [{**ROWS[0], "margin": 2.0, "finished": [True, False]}, ROWS[1]]
    )
    once = loader(rows)
    assert loader(once).to_list() == once.to_list()


def test_importing_the_data_room_loads_no_torch() -> None:
    code = "import sys, prefopt.data; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
