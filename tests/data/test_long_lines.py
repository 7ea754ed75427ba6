"""A line that no row has: it is refused by file and line, before it has taken the machine's memory."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from prefopt.data import DataError, LoadReport
from prefopt.data.reading import read_rows, text

ROW = {"prompt": "问", "response": "答"}


def rows_of(path: Path) -> list[dict[str, object]]:
    return [row for _, row in read_rows(str(path), "train", LoadReport(str(path)))]


def packed(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl"])
def test_a_long_line_is_refused(name: str, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "LONGEST" if name.endswith("gz") else "LONGEST_PLAIN", 1 << 20)
    short, long = json.dumps(ROW, ensure_ascii=False), json.dumps({**ROW, "response": "x" * (1 << 20)})
    path = packed(tmp_path / name, f"{short}\n{short}\n{long}\n".encode(encoding))
    with pytest.raises(DataError, match=rf"{name}:3: this line has more than 1 MiB.*: write a row a line"):
        rows_of(path)
    assert rows_of(packed(path, f"{short}\n{short}\n".encode(encoding))) == [ROW, ROW]


def test_a_line_of_the_longest_length_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps(ROW).encode()
    monkeypatch.setattr(text, "LONGEST", len(line) + 1)
    assert rows_of(packed(tmp_path / "rows.jsonl.gz", line + b"\n" + line)) == [ROW, ROW]
    with pytest.raises(DataError, match="rows.jsonl.gz:1: "):
        rows_of(packed(tmp_path / "rows.jsonl.gz", line + b" \n"))


def test_what_does_not_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a line of 8 MiB, little more than the bound is decompressed."""
    monkeypatch.setattr(text, "LONGEST", 1 << 20)
    path = packed(tmp_path / "rows.jsonl.gz", b'{"prompt": "' + b"x" * (1 << 23))
    read = 0
    opened = gzip.GzipFile.read1

    def counted(file: gzip.GzipFile, size: int = -1) -> bytes:
        nonlocal read
        data = opened(file, size)
        read += len(data)
        return data

    monkeypatch.setattr(gzip.GzipFile, "read1", counted)
    with pytest.raises(DataError, match="this line has more than 1 MiB"):
        rows_of(path)
    assert 1 << 20 < read < (1 << 20) + (1 << 18)
