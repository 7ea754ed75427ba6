"""What a pool's files held when they were last written: by it one that was cut short or damaged is noticed.

    index.json    for each file the number of its records and of its bytes, and the hash of these bytes

A kill may leave a file longer than the index says, never shorter: what is behind the bytes that it knows is read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..utils import files, flop_counter, jsonl
from ..utils.hashing import Damaged, file_hasher, hash_of_file, sealed, unsealed

INDEX = "index.json"
REMEDY = "restore it, or begin anew in another folder"


class Ledger:
    """Reads and appends to the files of a folder, each of which is checked before it is first used.

    A folder that an earlier version wrote has no index, and gets one with the next record.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._checked: set[Path] = set()
        self._hashed: dict[Path, tuple[int, Any]] = {}
        """How many bytes of a file were hashed, and the hasher, which goes on with what is appended."""

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        """The complete records of a file.

        Raises:
            DamagedFile: it is not what was written.
        """
        self._check(path)
        yield from jsonl.read(path)

    def append(self, path: Path, records: Iterable[jsonl.Record]) -> None:
        """Add records at the end, and return when they are on the disk, and known to the index, as all before them are.

        Raises:
            DamagedFile: the file is not what was written.
            OSError: as on a full disk; the message names the file. What it held is intact.
        """
        self._check(path)
        data = jsonl.append(path, records, partial(flop_counter.about_to_keep, path))
        size = jsonl.complete_size(path) if path.is_file() else 0
        known = self._index()
        if size == known.get(self._name(path), {"bytes": 0})["bytes"]:
            return
        hashed, hasher = self._hashed.pop(path, (0, None))
        if hasher is None or hashed != size - len(data):
            hasher = file_hasher(path, size - len(data))
        hasher.update(data)
        there = known.get(self._name(path), {"records": 0, "bytes": 0})
        whole = there["bytes"] == size - len(data)
        count = there["records"] + data.count(b"\n") if whole else sum(1 for _ in jsonl.read(path))
        known[self._name(path)] = {"records": count, "bytes": size, "hash": hasher.hexdigest()}
        try:
            files.replace(self.folder / INDEX, sealed({"files": dict(sorted(known.items()))}))
        except OSError:
            if self._index().get(self._name(path), {"bytes": 0})["bytes"] < size:  # else the index is there already
                jsonl.take_back(path, size - len(data))
            raise
        self._hashed[path] = size, hasher

    def check_present(self) -> None:
        """Make sure that all files that the index knows are there.

        Raises:
            DamagedFile: one is missing.
        """
        for name, known in self._index().items():
            if not (self.folder / name).is_file():
                raise jsonl.DamagedFile(f"{self.folder / name} is missing, of {known['records']} records: {REMEDY}")

    def _check(self, path: Path) -> None:
        if path in self._checked:
            return
        known = self._index().get(self._name(path))
        if known is not None:
            self.check_present()
            if path.stat().st_size < known["bytes"]:
                left = sum(1 for _ in jsonl.read(path))
                raise jsonl.DamagedFile(f"{path} is cut off after {left} of {known['records']} records: {REMEDY}")
            if hash_of_file(path, known["bytes"]) != known["hash"]:
                raise jsonl.DamagedFile(f"{path} is damaged, its content is not what was written: {REMEDY}")
        self._checked.add(path)

    def _index(self) -> dict[str, Any]:
        path = self.folder / INDEX
        if not path.is_file():
            return {}
        try:
            return dict(unsealed(path.read_bytes())["files"])
        except (Damaged, KeyError, TypeError, ValueError) as error:
            raise jsonl.DamagedFile(f"{path} is damaged ({error}): {REMEDY}") from error

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
