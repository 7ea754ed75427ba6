"""Files, folders and datasets as people have them: each is read right, or refused with what it is."""

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import json
import lzma
import os
import pickle
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import types
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from prefopt.data import DataError, LoadReport, load
from prefopt.data.reading import read_rows

ROWS = [
    {"prompt": "你好，天气怎么样？", "chosen": "今天天气很好。\n适合出门。", "rejected": "不知道"},
    {"prompt": 'Say "hi", please', "chosen": "hi; there\ttoo", "rejected": "a\r\nb"},
    {"prompt": "naïve 😀", "chosen": "c'est ça", "rejected": "no"},
]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]
JSONL = "".join(line + "\n" for line in LINES).encode()
CHINESE = [{"prompt": "你好，请问今天的天气怎么样？", "chosen": "今天的天气很好。", "rejected": "我不知道。"}] * 2
CHINESE_JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in CHINESE)


def rows(source: Any, split: str = "train", report: LoadReport | None = None) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(source, split, report or LoadReport("test", strict=True))]


def places(source: Any, split: str = "train") -> list[str]:
    return [place.rpartition("/")[2] for place, _ in read_rows(source, split, LoadReport("test", strict=True))]


def with_csv(separator: str = ",", end: str = "\n", mark: str = "") -> bytes:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [separator.join(ROWS[0])] + [separator.join(map(cell, row.values())) for row in ROWS]
    return (mark + end.join(lines) + end).encode()


def with_table(write: Callable[[pa.Table, Path], Any]) -> Callable[[Path], Any]:
    return lambda path: write(pa.Table.from_pylist(ROWS), path)


def as_file(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table, 2)


def as_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as file:
        file.write_table(table, 2)


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def columns() -> dict[str, list[str]]:
    return {name: [row[name] for row in ROWS] for name in ROWS[0]}


def dumped(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


Content = bytes | Callable[[Path], Any]

READ: dict[str, tuple[str, Content]] = {  # what it is -> file name, content
    "jsonl": ("x.jsonl", JSONL),
    "ndjson": ("x.ndjson", JSONL),
    "jsonlines": ("x.jsonlines", JSONL),
    "a suffix in capitals": ("x.JSONL", JSONL),
    "blank lines, \\r\\n and no last line end": ("x.jsonl", b"\r\n\n" + JSONL.replace(b"\n", b"\r\n\r\n").rstrip()),
    "jsonl of one line": ("one.jsonl", LINES[0].encode()),
    "JSON lines named .json": ("x.json", JSONL),
    "an array named .jsonl": ("x.jsonl", dumped(ROWS)),
    "a printed array named .jsonl": ("x.jsonl", json.dumps(ROWS, indent=2).encode()),
    "an array with an object a line": ("x.json", ("[\n" + ",\n".join(LINES) + "\n]\n").encode()),
    "an array of one object, a line each": ("one.json", ("[\n" + LINES[0] + "\n]\n").encode()),
    "printed objects one after another": ("x.jsonl", "\n".join(json.dumps(row, indent=4) for row in ROWS).encode()),
    "a single object": ("one.json", dumped(ROWS[0])),
    "a single object, printed": ("one.jsonl", json.dumps(ROWS[0], indent=1).encode()),
    "data": ("x.json", dumped({"version": 1, "data": ROWS})),
    "data, in a printed file": ("x.jsonl", json.dumps({"data": ROWS}, indent=2).encode()),
    "LMFlow's instances": ("x.json", dumped({"type": "text2text", "instances": ROWS})),
    "splits": ("x.json", dumped({"train": ROWS, "test": ROWS[:1]})),
    "splits of columns": ("x.json", dumped({"test": {}, "train": columns()})),
    "columns": ("x.json", dumped(columns())),
    "columns as pandas writes them": (
        "x.json",
        dumped({name: {str(i): cell for i, cell in enumerate(cells)} for name, cells in columns().items()}),
    ),
    "pandas, by index": ("x.json", dumped({str(number): row for number, row in enumerate(ROWS)})),
    "pandas, split": (
        "x.json",
        dumped({"columns": list(ROWS[0]), "index": [0, 1, 2], "data": [list(row.values()) for row in ROWS]}),
    ),
    "the hub's datasets-server": (
        "x.json",
        dumped(
            {"features": [], "rows": [{"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(ROWS)]}
        ),
    ),
    "UTF-8 with a mark": ("x.jsonl", b"\xef\xbb\xbf" + JSONL),
    "UTF-16 with a mark": ("x.jsonl", JSONL.decode().encode("utf-16")),
    "UTF-16, big end first, with a mark": ("x.jsonl", b"\xfe\xff" + JSONL.decode().encode("utf-16-be")),
    "UTF-32 with a mark": ("x.json", JSONL.decode().encode("utf-32")),
    "an array in UTF-16": ("x.json", dumped(ROWS).decode().encode("utf-16")),
    "csv": ("x.csv", with_csv()),
    "csv with \\r\\n between rows": ("x.csv", with_csv(end="\r\n")),
    "csv with a mark": ("x.csv", with_csv(mark="\ufeff")),
    "csv with semicolons": ("x.csv", with_csv(";")),
    "csv with tabs": ("x.csv", with_csv("\t")),
    "csv in UTF-16, as Excel saves Unicode text": ("x.csv", with_csv("\t").decode().encode("utf-16")),
    "csv with blank lines": ("x.csv", b"\n" + with_csv() + b"\n\n"),
    "tsv": ("x.tsv", with_csv("\t")),
    "parquet": ("x.parquet", with_table(pq.write_table)),
    "parquet under another name": ("x.jsonl", with_table(pq.write_table)),
    "arrow file": ("x.arrow", with_table(as_file)),
    "arrow stream": ("x.arrow", with_table(as_stream)),
    "feather": ("x.feather", with_table(pyarrow.feather.write_feather)),
    **{
        f"{name} of {kind}": (f"x.{kind}{suffix}", compress(data))
        for kind, data in {"jsonl": JSONL, "json": dumped(ROWS), "csv": with_csv(), "tsv": with_csv("\t")}.items()
        for name, suffix, compress in (
            ("gzip", ".gz", gzip.compress),
            ("bzip2", ".bz2", bz2.compress),
            ("xz", ".xz", lzma.compress),
            ("zstd", ".zst", zstd),
        )
    },
    "gzip under a plain name": ("x.jsonl", gzip.compress(JSONL)),
    "zstd of two frames": ("x.jsonl.zst", zstd(LINES[0].encode() + b"\n") + zstd("\n".join(LINES[1:]).encode())),
}


def written(folder: Path, name: str, content: Content) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    return path


@pytest.mark.parametrize("what", READ)
def test_is_read(what: str, tmp_path: Path) -> None:
    name, content = READ[what]
    path = written(tmp_path, name, content)
    expected = ROWS[:1] if name.startswith("one") else ROWS
    assert rows(path) == rows(str(path)) == expected


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.jsonl", JSONL, ["x.jsonl:1", "x.jsonl:2", "x.jsonl:3"]),
        ("x.jsonl", b"\n" + JSONL.replace(b"\n", b"\n\n"), ["x.jsonl:2", "x.jsonl:4", "x.jsonl:6"]),
        ("x.json", dumped(ROWS), ["x.json:item 1", "x.json:item 2", "x.json:item 3"]),
        ("x.json", dumped({"train": ROWS}), [f"x.json[train]:item {i}" for i in (1, 2, 3)]),
        (
            "x.json",
            b"\n" + b"\n".join(json.dumps(row, indent=1).encode() for row in ROWS),
            ["x.json:2", "x.json:7", "x.json:12"],
        ),
        ("x.csv", with_csv(), ["x.csv:2", "x.csv:4", "x.csv:6"]),  # two of the rows have a line end in a cell
        ("x.parquet", with_table(pq.write_table), ["x.parquet:row 1", "x.parquet:row 2", "x.parquet:row 3"]),
        ("x.arrow", with_table(as_stream), ["x.arrow:row 1", "x.arrow:row 2", "x.arrow:row 3"]),
    ],
)
def test_a_place_can_be_looked_up(name: str, content: Content, expected: list[str], tmp_path: Path) -> None:
    assert places(written(tmp_path, name, content)) == expected


def archive(write: Callable[[Any], Any]) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def zipped(*names: str) -> bytes:
    def write(out: Any) -> None:
        with zipfile.ZipFile(out, "w") as file:
            for name in names:
                file.writestr(name, JSONL)

    return archive(write)


def tarred(mode: str) -> bytes:
    def write(out: Any) -> None:
        with tarfile.open(fileobj=out, mode=mode) as file:  # type: ignore[call-overload]
            entry = tarfile.TarInfo("x.jsonl")
            entry.size = len(JSONL)
            file.addfile(entry, io.BytesIO(JSONL))

    return archive(write)


def database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table pairs (prompt text)")
    connection.close()


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("exploded", "w")


TORN = gzip.compress(JSONL * 5000, mtime=0)

REFUSED: dict[str, tuple[str, Content, str]] = {  # what it is -> file name, content, what the message says
    "empty": ("x.jsonl", b"", "holds no row at all"),
    "blank lines": ("x.json", b"\n  \n\n", "holds no row at all"),
    "an empty array": ("x.json", b"[]", "holds no row at all"),
    "data without rows": ("x.json", b'{"data": []}', "holds no row at all"),
    "a csv of a header": ("x.csv", b"prompt,chosen\n", "holds no row at all"),
    "gzip of nothing": ("x.jsonl.gz", gzip.compress(b""), "holds no row at all"),
    "a number": ("x.json", b"[\n1\n]\n3", "row is a list, expected an object|row is a number"),
    "a text": ("x.json", b'"a text"', "row is text, expected an object"),
    "a zip archive": ("x.zip", zipped("x.jsonl"), "is a zip archive: unpack it"),
    "a zip archive named as data": ("x.jsonl", zipped("x.jsonl"), "is a zip archive: unpack it"),
    "an Excel workbook": (
        "x.xlsx",
        zipped("[Content_Types].xml", "xl/workbook.xml"),
        "is an Excel workbook: save .* csv",
    ),
    "a Word document": ("x.docx", zipped("word/document.xml"), "is a Word document"),
    "a PyTorch checkpoint": ("x.json", zipped("archive/data.pkl"), "is a PyTorch checkpoint: give the data"),
    "a NumPy archive": ("x.npz", archive(lambda out: np.savez(out, a=np.zeros(3))), "is a NumPy archive"),
    "a NumPy array": ("x.npy", archive(lambda out: np.save(out, np.zeros(3))), "is a NumPy array"),
    "a tar archive": ("x.tar", tarred("w"), "is a tar archive: unpack it"),
    "a tar archive in gzip": ("x.tar.gz", tarred("w:gz"), "is a tar archive: unpack it"),
    "a pickle": ("x.pkl", pickle.dumps(Bomb()), "is a Python pickle, which can run code"),
    "a pickle named as data": ("x.jsonl", pickle.dumps(ROWS, 2), "is a Python pickle, which can run code"),
    "an SQLite database": ("x.db", database, "is an SQLite database: export its table"),
    "safetensors": ("x.json", lambda path: save_file({"a": np.zeros(2)}, path), "is a safetensors file, the weights"),
    "a web page": ("x.jsonl", b"\n<!DOCTYPE html>\n<html>404</html>", "is a web page, .* download the data itself"),
    "a web page in gzip": ("x.jsonl.gz", gzip.compress(b"<html>login</html>"), "is a web page"),
    "XML": ("x.json", b'<?xml version="1.0"?><Error/>', "is an XML document"),
    "PDF": ("x.pdf", b"%PDF-1.7\n%\xe2\xe3", "is a PDF document"),
    "a Git LFS pointer": (
        "x.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "is a Git LFS pointer, not the data: run `git lfs pull`",
    ),
    "a Git LFS pointer named .gz": (
        "x.jsonl.gz",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "is a Git LFS pointer",
    ),
    "Feather of version 1": (
        "x.feather",
        b"FEA1" + bytes(20) + b"FEA1",
        "is a Feather file of version 1: write it anew",
    ),
    "gzip by name alone": ("x.jsonl.gz", JSONL, "not a readable gzip file: .* take .gz off its name"),
    "gzip of gzip": ("x.jsonl.gz", gzip.compress(gzip.compress(JSONL)), "is compressed twice: decompress it once"),
    "a gzip of a few bytes": ("x.jsonl.gz", gzip.compress(JSONL)[:12], "not a readable gzip file"),
    "a cut off gzip": ("x.jsonl.gz", TORN[: len(TORN) // 2], "gzip data is truncated or damaged"),
    "a cut off bzip2": ("x.jsonl.bz2", bz2.compress(JSONL * 9000)[:-9], "bzip2 data is truncated or damaged"),
    "a cut off xz": ("x.csv.xz", lzma.compress(with_csv() * 900)[:-9], "xz data is truncated or damaged|xz file"),
    "a cut off zstd": (
        "x.jsonl.zst",
        zstd(os.urandom(300_000).hex().encode())[:-99],
        "not a readable zstd file|zstd data is",
    ),
    "parquet in gzip": (
        "x.parquet.gz",
        lambda path: path.write_bytes(gzip.compress(table_bytes())),
        "decompress it with `gzip",
    ),
    "a cut off parquet": (
        "x.parquet",
        lambda path: path.write_bytes(table_bytes()[:-20]),
        "not a readable parquet file",
    ),
    "a cut off arrow stream": (
        "x.arrow",
        lambda path: (with_table(as_stream)(path), path.write_bytes(path.read_bytes()[:-30])),
        "not a readable arrow file after row 2",
    ),
    "an arrow stream without its end": (
        "x.arrow",
        lambda path: (with_table(as_stream)(path), path.write_bytes(path.read_bytes()[:-8])),
        "arrow stream ends without its end mark, rows may be lost",
    ),
    "parquet with two columns of a name": (
        "x.parquet",
        lambda path: pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path),
        "more than one column 'a': rename",
    ),
    "UTF-16 without a mark": ("x.jsonl", JSONL.decode().encode("utf-16-le"), "text in UTF-16LE, .*`iconv -f UTF-16LE"),
    "UTF-16, big end first": ("x.csv", with_csv().decode().encode("utf-16-be"), "text in UTF-16BE, .*`iconv"),
    "half a character of UTF-16": ("x.jsonl", JSONL.decode().encode("utf-16")[:-1], "bytes are not utf-16.*: convert"),
    "GB18030": ("x.jsonl", CHINESE_JSONL.encode("gb18030"), "text in GB18030, not UTF-8: .*`iconv -f GB18030 -t UTF-8"),
    "GBK in an array": ("x.json", dumped(CHINESE).decode().encode("gbk"), "text in GB18030"),
    "GBK in csv and gzip": (
        "x.csv.gz",
        gzip.compress("prompt,chosen\n你好吗朋友,我很好谢谢\n".encode("gbk")),
        "text in GB18030",
    ),
    "Latin-1 in csv": ("x.csv", b"prompt,chosen\ncaf\xe9,no\n", "x.csv:2: bytes are not UTF-8, byte 4 of the line"),
    "Latin-1 in jsonl": ("x.jsonl", '{"prompt": "déjà vu été"}\n'.encode("latin-1"), "bytes are not UTF-8.*|byte 13"),
    "NUL bytes": ("x.jsonl", JSONL + bytes(512), "x.jsonl:4 .*: line holds NUL bytes"),
    "a cut off last line": ("x.jsonl", JSONL[:-9], "x.jsonl:3 .*the file may be cut off.*: not valid JSON"),
    "a cut off array": ("x.json", dumped(ROWS)[:-9], "not valid JSON: .*: mend it, or write it again"),
    "a printed file with a mistake": (
        "x.json",
        json.dumps(ROWS, indent=1).replace('"chosen":', '"chosen"', 1).encode(),
        "not valid JSON: Expecting ':' delimiter: line 4",
    ),
    "another split": (
        "x.json",
        dumped({"test": ROWS, "validation": ROWS}),
        "no split 'train' in this file; it has test, val",
    ),
    "columns of different lengths": (
        "x.json",
        dumped({"prompt": ["a", "b"], "chosen": ["c"]}),
        "prompt has 2, chosen has 1",
    ),
    "truncated cells": (
        "x.json",
        dumped({"rows": [{"row_idx": 0, "row": ROWS[0], "truncated_cells": ["chosen"]}]}),
        "item 1 .chosen.: cells are truncated by the datasets-server",
    ),
    "csv with an open quote": ("x.csv", b'prompt,chosen\nx,y\na,"b\nc,d\n', "x.csv:3: not valid csv"),
    "csv with quotes in a quoted cell": (
        "x.csv",
        b'prompt,chosen\n"say "hi" now",b\n',
        "x.csv:2: not valid csv .* double quotes",
    ),
    "csv with a comma too much": (
        "x.csv",
        b"prompt,chosen\na,b\nc,d, e\n",
        "x.csv:3 .3 cells, and 2 names.: row has not as many",
    ),
    "csv with a name twice": ("x.csv", b"prompt,chosen,prompt\na,b,c\n", "the header names 'prompt' more than once"),
    "an unknown suffix": ("x.dat", JSONL, "unknown kind of file; known are .jsonl, .json, .*.csv"),
}


def table_bytes() -> bytes:
    return archive(lambda out: pq.write_table(pa.Table.from_pylist(ROWS), out))


@pytest.mark.parametrize("what", REFUSED)
def test_is_refused(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, on one line, with the path; strict, or a row that cannot be used would be counted."""
    monkeypatch.chdir(tmp_path)
    name, content, message = REFUSED[what]
    path = written(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as caught:
        rows(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [name]  # of the pickle nothing was run


def test_there_are_more_oddities_than_fifty() -> None:
    assert len(READ) + len(REFUSED) > 53


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"prompt": "a", "data": ["b", "c"]},
        {"query": "a", "responses": ["b", "c"], "scores": [1, 2]},
    ],
)
def test_a_row_of_lists_is_no_table(row: dict[str, Any], tmp_path: Path) -> None:
    for name in ("x.json", "x.jsonl"):
        assert rows(written(tmp_path, name, dumped(row))) == [row]


def test_columns_of_conversations_are_a_table(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": text}] for text in "abc"]
    found = rows(written(tmp_path, "x.json", dumped({"chosen": chats, "rejected": chats})))
    assert found == [{"chosen": chat, "rejected": chat} for chat in chats]


def test_a_page_of_the_datasets_server_is_said_to_be_one(tmp_path: Path) -> None:
    page = {"rows": [{"row_idx": 0, "row": ROWS[0], "truncated_cells": []}], "num_rows_total": 1200}
    report = LoadReport("x")
    assert rows(written(tmp_path, "x.json", dumped(page)), report=report) == ROWS[:1]
    assert report.noted == {"the file is one page of a dataset": 1} and "x.json, 1 of 1,200 rows" in report.lines()[-1]


def test_a_broken_first_line_is_dropped_and_the_others_are_read(tmp_path: Path) -> None:
    report = LoadReport("x")
    assert rows(written(tmp_path, "x.jsonl", b'{"prompt": "x", \n' + JSONL), report=report) == ROWS
    assert report.dropped == {"not valid JSON": 1} and ":1 (" in report.examples["not valid JSON"][0]


def test_one_line_of_another_encoding_among_many_is_dropped(tmp_path: Path) -> None:
    report = LoadReport("x")
    assert rows(written(tmp_path, "x.jsonl", JSONL + CHINESE_JSONL.encode("gbk")), report=report) == ROWS
    assert report.dropped == {"bytes are not UTF-8": 2}


def test_rows_before_damage_are_kept_and_the_damage_is_counted(tmp_path: Path) -> None:
    lines = b"".join(dumped({"prompt": f"{number * 7919:060}"}) + b"\n" for number in range(50_000))
    for suffix, compress in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)):
        whole = compress(lines)
        report = LoadReport("x")
        path = written(tmp_path, f"x.jsonl{suffix}", whole[: len(whole) * 3 // 4])
        found = rows(path, report=report)
        assert 5_000 < len(found) < 50_000 and found[-1] == {"prompt": f"{(len(found) - 1) * 7919:060}"}, suffix
        (reason,) = report.dropped
        assert "data is truncated or damaged, the rest of the file is lost" in reason
        assert report.examples[reason][0].startswith(f"{path}:{len(found) + 1} (")


def test_a_cell_of_csv_may_be_long_and_an_empty_one_is_missing(tmp_path: Path) -> None:
    long = "很" * 500_000
    path = written(tmp_path, "x.csv", f'prompt,chosen,score\n{long},"",3\n'.encode())
    assert rows(path) == [{"prompt": long, "chosen": None, "score": "3"}]


def test_a_file_of_rows_that_are_all_bad_is_no_empty_file(tmp_path: Path) -> None:
    report = LoadReport("x")
    assert rows(written(tmp_path, "x.json", b"[1, 2]"), report=report) == []
    assert report.dropped == {"row is a number, expected an object": 2}


# What is no file


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything: go on as nobody."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("what", ["the file", "its folder"])
def test_a_file_without_permission_is_refused(what: str) -> None:
    with tempfile.TemporaryDirectory() as outer:  # which others than its owner may enter
        Path(outer).chmod(0o755)
        path = written(Path(outer), "inner/x.jsonl", JSONL)
        (path if what == "the file" else path.parent).chmod(0)
        denied = "x.jsonl: cannot be read: Permission denied: mend that"
        with without_privileges(), pytest.raises(DataError, match=denied):
            rows(path)
        path.parent.chmod(0o755)


def test_a_folder_that_cannot_be_looked_into_is_not_left_out() -> None:
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        written(Path(outer), "train.jsonl", JSONL)
        closed = written(Path(outer), "inner/train.jsonl", JSONL).parent
        closed.chmod(0)
        with (
            without_privileges(),
            pytest.raises(DataError, match="inner: cannot be read: Permission denied: mend that"),
        ):
            rows(outer)
        closed.chmod(0o755)


def test_a_linked_folder_is_read_and_one_that_leads_back_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "elsewhere/train.jsonl", JSONL)
    source = written(tmp_path, "here/notes.md", b"").parent
    (source / "link").symlink_to(tmp_path / "elsewhere")
    assert rows(source) == ROWS
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="are one file by two names"):
        rows(source)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a folder"])
def test_a_pipe_is_refused_and_not_waited_for(inside: bool, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    os.mkfifo(path)
    with pytest.raises(
        DataError, match="train.jsonl: is a pipe, socket or device, not a file: write its data to a file"
    ):
        rows(tmp_path if inside else path)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a folder"])
def test_a_broken_link_is_refused(inside: bool, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.symlink_to("gone.jsonl")
    with pytest.raises(DataError, match="train.jsonl: is a link to gone.jsonl, which is not there"):
        rows(tmp_path if inside else path)


def test_a_folder_may_be_named_like_a_file(tmp_path: Path) -> None:
    """As Spark names what it writes."""
    written(tmp_path, "rows.jsonl/part-00001.jsonl", (LINES[2] + "\n").encode())
    written(tmp_path, "rows.jsonl/part-00000.jsonl", "\n".join(LINES[:2]).encode())
    written(tmp_path, "rows.jsonl/_SUCCESS", b"")
    report = LoadReport("x")
    assert rows(tmp_path / "rows.jsonl", report=report) == ROWS and not report.noted


def test_an_address_is_refused() -> None:
    with pytest.raises(DataError, match="https://example.org/x.jsonl: an address is not read: download it"):
        rows("https://example.org/x.jsonl")


# Folders


def folder(tmp_path: Path, *names: str) -> Path:
    """Files of one row each, which says what the file is called."""
    for name in names:
        row = {"prompt": name}
        if name.endswith(".parquet"):
            written(tmp_path, name, lambda path, row=row: pq.write_table(pa.Table.from_pylist([row]), path))  # type: ignore[misc]
        else:
            data = dumped(row)
            written(tmp_path, name, gzip.compress(data) if name.endswith(".gz") else data)
    return tmp_path


def names_read(source: Path, split: str = "train", report: LoadReport | None = None) -> list[str]:
    return [row["prompt"] for row in rows(source, split, report)]


ULTRAFEEDBACK = [
    f"data/{name}-00000-of-00001.parquet" for name in ("train_prefs", "train_sft", "test_prefs", "test_sft")
]


def test_a_split_of_which_there_are_several_has_to_be_named(tmp_path: Path) -> None:
    source = folder(tmp_path, *ULTRAFEEDBACK)
    with pytest.raises(DataError, match="split 'train' may be any of train_prefs, train_sft: .* split=\"train_prefs\""):
        rows(source)
    assert names_read(source, "train_prefs") == [ULTRAFEEDBACK[0]]
    assert names_read(source, "test_sft") == [ULTRAFEEDBACK[3]]


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["train.jsonl", "train_extra.jsonl", "test.jsonl"], "train", ["train.jsonl"]),
        (["hh_train.jsonl", "hh_test.jsonl"], "train", ["hh_train.jsonl"]),
        (["hh_train.jsonl", "hh_test.jsonl"], "test", ["hh_test.jsonl"]),
        (
            ["a/train.jsonl.gz", "a/test.jsonl.gz", "b/train.jsonl.gz"],
            "train",
            ["a/train.jsonl.gz", "b/train.jsonl.gz"],
        ),
        (["train/0.parquet", "train/1.parquet", "test/0.parquet"], "train", ["train/0.parquet", "train/1.parquet"]),
        (["part-1.jsonl", "part-10.jsonl", "part-2.jsonl"], "train", ["part-1.jsonl", "part-2.jsonl", "part-10.jsonl"]),
        (
            ["train_2.jsonl", "train_10.jsonl", "train_1.jsonl"],
            "train",
            ["train_1.jsonl", "train_2.jsonl", "train_10.jsonl"],
        ),
        (["训练/train.jsonl", "训练/test.jsonl"], "train", ["训练/train.jsonl"]),
        (["训练.jsonl"], "train", ["训练.jsonl"]),
        (["train-1-of-2.jsonl", "train-2-of-2.jsonl"], "train", ["train-1-of-2.jsonl", "train-2-of-2.jsonl"]),
        (["helpful.jsonl", "harmless.jsonl"], "helpful", ["helpful.jsonl"]),
        (["training.jsonl", "testing.jsonl"], "train", ["training.jsonl"]),
        (["training/0.jsonl", "testing/0.jsonl"], "test", ["testing/0.jsonl"]),
        (["trainset.jsonl", "testset.jsonl"], "train", ["trainset.jsonl"]),
        (["训练集.jsonl", "验证集.jsonl", "测试集.jsonl"], "train", ["训练集.jsonl"]),
        (["训练集.jsonl", "验证集.jsonl", "测试集.jsonl"], "validation", ["验证集.jsonl"]),
        (["訓練/1.jsonl", "測試/1.jsonl"], "train", ["訓練/1.jsonl"]),
        (["训练数据1.jsonl", "训练数据2.jsonl", "测试.jsonl"], "train", ["训练数据1.jsonl", "训练数据2.jsonl"]),
        (["train.jsonl", "training.jsonl"], "train", ["train.jsonl"]),
        *(
            (["data.jsonl", f"{other}.jsonl"], "train", ["data.jsonl"])
            for other in ("holdout", "heldout", "held_out", "valid", "validation", "dev", "eval", "evaluation", "测试")
        ),
    ],
)
def test_the_files_of_a_split(names: list[str], split: str, expected: list[str], tmp_path: Path) -> None:
    assert names_read(folder(tmp_path, *names), split) == expected


def test_all_shards_are_read_in_order_and_a_missing_one_is_named(tmp_path: Path) -> None:
    shards = [f"data/train-{number:05}-of-00003.parquet" for number in range(3)]
    source = folder(tmp_path, *reversed(shards))
    assert names_read(source) == shards
    (tmp_path / shards[1]).unlink()
    with pytest.raises(DataError, match="of the 3 shards of train.parquet, 1 are missing: 00001: fetch them"):
        rows(source)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x.jsonl", "x.jsonl.gz"], "x.jsonl, x.jsonl.gz seem to hold the same rows in two forms"),
        (["x.jsonl", "x.parquet"], "x.jsonl, x.parquet seem to hold the same rows in two forms"),
        (["raw/train.jsonl", "data/train.parquet"], "data/train.parquet, raw/train.jsonl seem to hold the same"),
        (["train.jsonl", "train-00000-of-00001.jsonl"], "train.jsonl seem to hold the same rows in two forms"),
        (["train-0-of-2.jsonl", "train-1-of-2.jsonl", "train-0-of-1.jsonl"], "seem to hold the same rows in two forms"),
        (["train-0-of-1-0123456789abcdef.jsonl", "train-0-of-1.jsonl"], "are the same shard"),
        (["train.jsonl", "train-part1.jsonl", "train-part2.jsonl"], "train.jsonl, train-part1.jsonl: the one may hold"),
        (["data.jsonl", "data_1.jsonl"], "data.jsonl, data_1.jsonl: the one may hold the rows of the other"),
        (["training.jsonl", "训练集.jsonl"], "split 'train' may be any of training, 训练集"),
        (["testing.jsonl", "dev.jsonl"], "no file of split 'train'; found dev.jsonl, testing.jsonl"),
        (["README.md"], "no file of split 'train'; found no data file"),
    ],
)
def test_a_folder_that_would_be_read_twice_or_not_at_all_is_refused(
    names: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        rows(folder(tmp_path, *names))


def test_a_file_and_a_link_to_it_are_not_both_read(tmp_path: Path) -> None:
    source = folder(tmp_path, "a.jsonl")
    (source / "latest.jsonl").symlink_to("a.jsonl")
    with pytest.raises(DataError, match="a.jsonl, latest.jsonl are one file by two names: remove one of them"):
        rows(source)


def test_what_lies_beside_data_is_left_out_and_the_rest_is_noted(tmp_path: Path) -> None:
    silent = [".ipynb_checkpoints/train.jsonl", "._train.jsonl", ".cache/huggingface/x.json", "__MACOSX/._train.jsonl"]
    silent += ["README.md", "dataset_infos.json", "train.jsonl.lock", "train.jsonl.metadata", "config.json"]
    silent += ["tokenizer.json", "model.safetensors", "model.safetensors.index.json", "LICENSE", "test.jsonl"]
    source = folder(tmp_path, "train.jsonl", *silent)
    report = LoadReport("x")
    assert names_read(source, report=report) == ["train.jsonl"] and not report.noted
    folder(tmp_path, "more.jsonl", "rows.xlsx", "notes.txt", "train_sft.jsonl")
    assert names_read(source, report=report) == ["train.jsonl"]
    assert report.noted == {"files beside these are not read": 1}
    assert report.examples == {
        "files beside these are not read": [f"{source}: more.jsonl, train_sft.jsonl, notes.txt, rows.xlsx"]
    }


def test_notes_reach_the_log_and_the_account(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = written(tmp_path, "train.jsonl", JSONL).parent
    written(tmp_path, "rows.xlsx", b"PK")
    with caplog.at_level("INFO", "prefopt"):
        load(source)
    assert f"noted 1: files beside these are not read ({source}: rows.xlsx)" in caplog.messages


def test_the_other_splits_of_a_folder_are_named(tmp_path: Path) -> None:
    named = LoadReport("x")
    assert names_read(folder(tmp_path / "a", "训练集.jsonl", "测试集.jsonl", "dev.jsonl"), report=named) == [
        "训练集.jsonl"
    ]
    assert named.lines()[1:] == ["other splits there, which are not read: dev, 测试集"]
    inferred = LoadReport("x")
    source = folder(tmp_path / "b", "data.jsonl", "holdout.jsonl")
    assert names_read(source, report=inferred) == ["data.jsonl"] and inferred.needs_attention
    assert inferred.lines()[1:] == [
        f"noted 1: read as split 'train', which no file there names ({source}: data.jsonl)",
        "other splits there, which are not read: holdout",
    ]


@pytest.mark.parametrize("names", [("training", "testing"), ("训练集", "测试集"), ("train", "validation")])
def test_splits_in_one_file_or_dict_by_other_words(names: tuple[str, str], tmp_path: Path) -> None:
    splits = dict(zip(names, (ROWS, ROWS[:1]), strict=True))
    assert rows(written(tmp_path, "x.json", dumped(splits))) == ROWS
    assert rows(datasets.DatasetDict({n: datasets.Dataset.from_list(part) for n, part in splits.items()})) == ROWS


def test_saved_datasets_and_their_splits(tmp_path: Path) -> None:
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train_prefs=one, test_prefs=one.select([0])).save_to_disk(tmp_path / "many")
    assert rows(tmp_path / "one") == rows(tmp_path / "many", "train_prefs") == ROWS
    with pytest.raises(DataError, match="no split 'train' in this saved dataset; it has train_prefs, test_prefs"):
        rows(tmp_path / "many")
    (tmp_path / "one" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match="one: a saved dataset that cannot be opened: .*data-00000-of-00001.arrow"):
        rows(tmp_path / "one")


def test_the_cache_of_datasets_is_a_folder_of_streams(tmp_path: Path) -> None:
    source = written(tmp_path, "rows.jsonl", JSONL)
    cache = tmp_path / "cache"
    datasets.load_dataset("json", data_files={"train": str(source)}, cache_dir=str(cache))
    (info,) = cache.rglob("dataset_info.json")
    assert rows(info.parent) == ROWS


# The same rows in every form

MIXED = [
    {"prompt": "你好", "chosen": "fine", "rejected": 3, "tags": [{"a": 1}, "b"]},
    {"prompt": "hi", "chosen": 2.5, "rejected": 'say "bad"', "tags": []},
    {"prompt": "oh", "chosen": None, "rejected": {"text": "worse"}, "tags": None},
]


def mixed() -> datasets.Dataset:
    return datasets.Dataset.from_list(MIXED, on_mixed_types="use_json")


def without_marks(path: Path) -> None:
    """The file of `datasets` with columns of plain text: only its own metadata say that they are JSON."""
    mixed().to_parquet(path)
    table = pq.read_table(path)
    plain = [
        pa.array([json.dumps(row["chosen"]) for row in MIXED]),
        pa.array([json.dumps(row["rejected"]) for row in MIXED]),
    ]
    table = pa.table({"prompt": table["prompt"], "chosen": plain[0], "rejected": plain[1], "tags": table["tags"]})
    pq.write_table(table.replace_schema_metadata(pq.read_schema(path).metadata), path)


FORMS: dict[str, Callable[[Path], Any]] = {
    "jsonl": lambda path: written(path, "x.jsonl", b"".join(dumped(row) + b"\n" for row in MIXED)),
    "in memory": lambda path: mixed(),
    "a stream": lambda path: mixed().to_iterable_dataset(),
    "save_to_disk": lambda path: mixed().save_to_disk(path / "saved") or path / "saved",
    "its arrow file": lambda path: (mixed().save_to_disk(path / "s"), path / "s" / "data-00000-of-00001.arrow")[1],
    "to_parquet": lambda path: (mixed().to_parquet(path / "x.parquet"), path / "x.parquet")[1],
    "to_json": lambda path: (mixed().to_json(path / "x.jsonl"), path / "x.jsonl")[1],
    "to_json, one array": lambda path: (mixed().to_json(path / "x.json", lines=False), path / "x.json")[1],
    "parquet of plain text": lambda path: (without_marks(path / "x.parquet"), path / "x.parquet")[1],
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_mixed_values_are_the_same_in_every_form(form: str, tmp_path: Path) -> None:
    assert rows(FORMS[form](tmp_path)) == MIXED


def test_csv_holds_text_alone(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_csv(tmp_path / "x.csv")
    assert rows(tmp_path / "x.csv") == ROWS
    numbers = datasets.Dataset.from_list([{"prompt": "a", "score": 1.5}, {"prompt": "b", "score": None}])
    numbers.to_csv(tmp_path / "y.csv")
    assert rows(tmp_path / "y.csv") == [{"prompt": "a", "score": "1.5"}, {"prompt": "b", "score": None}]


TURNS = [[{"role": "user", "content": "你好"}, {"role": "assistant", "content": "hi"}], [], None]


@pytest.mark.parametrize("form", ["parquet", "arrow", "in memory"])
def test_turns_that_are_stored_field_by_field_are_turns(form: str, tmp_path: Path) -> None:
    """As the feature Sequence({"role": ..., "content": ...}) of `datasets` stores them."""
    text = datasets.Value("string")
    features = datasets.Features({"messages": datasets.Sequence({"role": text, "content": text})})
    by_field = [
        {name: [turn[name] for turn in turns] for name in ("role", "content")}
        for turns in TURNS[:2]
        if turns is not None
    ]
    dataset = datasets.Dataset.from_list([{"messages": each} for each in (*by_field, None)], features=features)
    if form == "parquet":
        dataset.to_parquet(tmp_path / "x.parquet")
    if form == "arrow":
        with pa.ipc.new_file(str(tmp_path / "x.arrow"), dataset.data.schema) as file:
            file.write_table(dataset.data.table)
    source = dataset if form == "in memory" else tmp_path / f"x.{form}"
    assert rows(source) == [{"messages": turns} for turns in TURNS]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", "好"], pa.large_string()), ["a", "好"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([[{"role": "user", "content": "a"}]]), [[{"role": "user", "content": "a"}]]),
        (pa.array([Decimal("0.10"), None], pa.decimal128(5, 2)), [0.1, None]),
        (pa.array([{"score": Decimal("1.5")}]), [{"score": 1.5}]),
        (pa.array([b"\xff\x00", None]), [b"\xff\x00", None]),
        (pa.array([datetime.datetime(2024, 5, 1)], pa.timestamp("us")), [datetime.datetime(2024, 5, 1)]),
        (pa.array([{"question": ["a"], "answer": ["b"]}]), [{"question": ["a"], "answer": ["b"]}]),
    ],
    ids=[
        "large text",
        "dictionary",
        "turns",
        "decimals",
        "decimals inside",
        "binary",
        "times",
        "lists that are no turns",
    ],
)
def test_kinds_of_columns(column: pa.Array, expected: list[Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    as_file(pa.table({"x": column}), tmp_path / "x.arrow")
    assert rows(tmp_path / "x.parquet") == rows(tmp_path / "x.arrow") == [{"x": cell} for cell in expected]


def test_cells_that_are_not_what_their_column_says_are_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([10**17], pa.timestamp("ms"))}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="x.parquet: a cell after row 0 is not what its column says"):
        rows(tmp_path / "x.parquet")


def test_a_dataset_that_is_set_to_another_format_gives_the_same_rows() -> None:
    dataset = datasets.Dataset.from_list([{"prompt": "a", "scores": [1, 2]}])
    assert (
        rows(dataset.with_format("numpy", columns=["scores"])) == rows(dataset) == [{"prompt": "a", "scores": [1, 2]}]
    )
    added = dataset.with_transform(lambda batch: {"prompt": [text + "!" for text in batch["prompt"]]})
    assert rows(added) == [{"prompt": "a!"}]


def test_a_frame_gives_its_rows_and_a_lazy_one_is_refused() -> None:
    assert rows(datasets.Dataset.from_list(ROWS).to_pandas()) == ROWS
    lazy = type("LazyFrame", (), {"__iter__": lambda self: iter(())})()
    with pytest.raises(DataError, match="cannot read rows from LazyFrame: give a path, a hub id, a Dataset"):
        rows(lazy)


# Hubs


def test_a_dataset_of_several_configurations_says_how_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_hub(name: str, split: str) -> None:
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['en', 'zh']")

    monkeypatch.setattr("datasets.load_dataset", from_hub)
    with pytest.raises(DataError, match=r"owner/name: (?s:.*)\['en', 'zh'\]\nChoose with --dataset_config NAME"):
        rows("owner/name")


def test_datasets_still_says_so_of_configurations(tmp_path: Path) -> None:
    """The words that the hint above waits for."""
    written(
        tmp_path,
        "README.md",
        b"---\nconfigs:\n- config_name: en\n  data_files: en.jsonl\n- config_name: zh\n  data_files: zh.jsonl\n---\n",
    )
    folder(tmp_path, "en.jsonl", "zh.jsonl")
    with pytest.raises(ValueError, match="Config name is missing"):
        datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))


def test_a_dataset_of_modelscope_is_read_as_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def dataset_snapshot_download(name: str) -> str:
        asked.append(name)
        if name == "owner/none":
            raise ValueError("no such dataset")
        return str(tmp_path)

    module = types.ModuleType("modelscope")
    module.__spec__ = types.SimpleNamespace(name="modelscope")  # type: ignore[assignment]
    module.dataset_snapshot_download = dataset_snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope", module)
    written(tmp_path, "data/train.jsonl", JSONL)
    assert rows("modelscope://owner/name") == ROWS and asked == ["owner/name"]
    with pytest.raises(DataError, match="modelscope://owner/none: cannot be fetched from ModelScope: no such dataset"):
        rows("modelscope://owner/none")


def test_modelscope_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefopt.utils.extras.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"owner/name needs modelscope: pip install 'prefopt\[modelscope\]'"):
        rows("modelscope://owner/name")


# Memory

STREAMED = """
import resource, sys
from prefopt.data import LoadReport
from prefopt.data.reading import read_rows
import datasets, pyarrow.parquet, pyarrow.ipc
next(iter(read_rows(sys.argv[1] + "/small" + sys.argv[2], "train", LoadReport("x"))))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for _ in read_rows(sys.argv[1] + "/large" + sys.argv[2], "train", LoadReport("x")))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".arrow"])
def test_memory_does_not_grow_with_the_file(suffix: str, tmp_path: Path) -> None:
    """Of 75 MB of text, less than half is in memory at any time."""
    count, text = 15_000, "x" * 5000
    for name, number in (("small", 10), ("large", count)):
        path = tmp_path / f"{name}{suffix}"
        if suffix in (".jsonl", ".csv"):
            lines = [b"prompt\n" if suffix == ".csv" else b""] + [
                text.encode() + b"\n" if suffix == ".csv" else dumped({"prompt": text}) + b"\n"
            ] * number
            path.write_bytes(b"".join(lines))
            continue
        table = pa.table({"prompt": [f"{i}{text}" for i in range(number)]})
        if suffix == ".parquet":
            pq.write_table(table, path, row_group_size=1000, compression="none", use_dictionary=False)
        else:
            with pa.ipc.new_stream(str(path), table.schema) as file:
                file.write_table(table, 1000)
    done = subprocess.run(
        [sys.executable, "-c", STREAMED, str(tmp_path), suffix], capture_output=True, text=True, check=True
    )
    found, grown = map(int, done.stdout.split())
    assert found == count and grown < 37
