"""A pool that was cut short, damaged or robbed of a file is refused with the file's name, and a kill never is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefopt.candidates._ledger import INDEX, Ledger
from prefopt.utils.jsonl import DamagedFile

RECORDS = [{"k": k, "response": f"巴黎 {k}"} for k in range(32)]


def filled(folder: Path, parts: int = 4) -> Path:
    path, size = folder / "scores" / "a.jsonl", len(RECORDS) // parts
    for part in range(parts):
        Ledger(folder).append(path, RECORDS[part * size : (part + 1) * size])
    return path


def cut(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:15]))


def flip(path: Path) -> None:
    """One digit of one record, which leaves it JSON."""
    path.write_bytes(path.read_bytes().replace("巴黎 7".encode(), "巴黎 8".encode(), 1))


def zero(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "a.jsonl is cut off after 15 of 32 records"),
        (flip, "a.jsonl is damaged, its content is not what was written"),
        (zero, "a.jsonl is damaged"),
        (Path.unlink, "a.jsonl is missing, of 32 records"),
    ],
)
def test_damage_is_found_before_a_record_is_used(damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    path = filled(tmp_path)
    damage(path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for act in (lambda: next(Ledger(tmp_path).read(path)), lambda: Ledger(tmp_path).append(path, RECORDS)):
        with pytest.raises(DamagedFile, match=f"{message}.*restore it"):
            act()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_damage_of_the_index_is_found(tmp_path: Path) -> None:
    path = filled(tmp_path)
    text = (tmp_path / INDEX).read_text()
    for damaged in (text.replace('"records": 32', '"records": 31'), text[: len(text) // 2], "[1]"):
        (tmp_path / INDEX).write_text(damaged)
        with pytest.raises(DamagedFile, match=f"{INDEX} is damaged"):
            list(Ledger(tmp_path).read(path))


def test_what_a_kill_leaves_between_records_and_index_is_gone_on_with(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    filled(whole)
    path = filled(killed, parts=4)
    older = tmp_path / "older"
    Ledger(older).append(older / "scores/a.jsonl", RECORDS[:8])
    shutil.copy(older / INDEX, killed / INDEX)  # of after the first append; the file has all four
    with path.open("ab") as file:
        file.write(b'{"half')
    assert list(Ledger(killed).read(path)) == RECORDS
    ledger = Ledger(killed)
    ledger.append(path, RECORDS[:1])
    ledger.append(path, RECORDS[1:2])
    Ledger(whole).append(whole / "scores/a.jsonl", RECORDS[:2])
    assert (killed / INDEX).read_bytes() == (whole / INDEX).read_bytes()
    assert list(Ledger(killed).read(path)) == [*RECORDS, *RECORDS[:2]]


def test_a_folder_without_an_index_gets_one(tmp_path: Path) -> None:
    path = filled(tmp_path)
    (tmp_path / INDEX).unlink()
    assert list(Ledger(tmp_path).read(path)) == RECORDS
    Ledger(tmp_path).append(path, RECORDS[:1])
    cut(path)
    with pytest.raises(DamagedFile, match="cut off after 15 of 33 records"):
        list(Ledger(tmp_path).read(path))
