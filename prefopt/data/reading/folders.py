"""Chooses the files of a folder that make up one split: all of them, each once, and none of another."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from ..records import DataError
from ..report import LoadReport
from .files import split_suffix
from .rows import is_of, names_split

NO_DATA = (
    *("*.md", "*.lock", "*.metadata", "*.py", "*.yaml", "*.yml", "*.sh", "license*", "readme*", "citation*"),
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json"),
    *("_success", "_committed*", "_started*", "_metadata", "_common_metadata"),
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx", "*.model", "*.jinja", "merges.txt"),
    *("config.json", "*_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "*.index.json"),
)
"""Files that lie beside data and hold no rows, in small letters: of a repository, `datasets`, Spark, or a model."""

MOST_NAMES = 10

_SHARD = re.compile(r"^(?P<name>.*?)[-_.]?(?P<number>\d+)-of-(?P<total>\d+)(-[0-9a-f]{8,})?$")
_PART = re.compile(r"([-_.]?(part|shard|chunk))?[-_.]?\d+$")
_PIECE = re.compile(r"(?P<name>.+?)([-_.](part|shard|chunk)[-_.]?|[-_.])\d+$")
"""Part of a whole by its name: train-part1, train_2."""


class _Form(NamedTuple):
    """The kind of a file's name: of x-00000-of-00003.jsonl.gz, (".jsonl", ".gz", "00003")."""

    suffix: str
    compression: str
    total: str


def files_of(folder: Path, split: str, report: LoadReport) -> list[Path]:
    """The files of one split, in the order of their numbers; what was left beside them is noted in the report.

    Raises:
        DataError: there are none; it is not clear which; a file is there twice; a shard is missing.
    """
    data, others = _inside(folder)
    labels = {path: _label(path.relative_to(folder), split.lower()) for path in data}
    chosen = _of_split(folder, labels, split.lower())
    _check_twice(folder, chosen)
    _check_parts(folder, chosen)
    _check_shards(folder, chosen)
    left = [(path, label) for path, label in labels.items() if path not in chosen]
    beside = [path for path, label in left if label is None or is_of(label, split)]
    if beside or others:
        report.note("files beside these are not read", f"{folder}: {_names(folder, [*beside, *others])}")
    report.other_splits |= {str(label): None for path, label in left if path not in beside}
    if report.other_splits and not any(labels[path] for path in chosen):
        report.note(f"read as split {split!r}, which no file there names", f"{folder}: {_names(folder, chosen)}")
    return chosen


def _inside(folder: Path) -> tuple[list[Path], list[Path]]:
    """The data files of a folder, and those of an unknown kind."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}: mend that") from error

    tree = os.walk(folder, onerror=refuse, followlinks=True)
    found = (Path(inner) / name for inner, _, names in tree for name in names)
    paths = [path for path in found if not _is_left_out(path.relative_to(folder))]
    paths.sort(key=lambda path: [int(each) if each.isdigit() else each for each in re.split(r"([0-9]+)", str(path))])
    known = [path for path in paths if split_suffix(path.name)[1]]
    return known, [path for path in paths if not split_suffix(path.name)[1]]


def _is_left_out(path: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return hidden or any(fnmatch(path.name.lower(), pattern) for pattern in NO_DATA)


def _label(path: Path, split: str) -> str | None:
    """The part of a path that says which split it is of, less numbers: "train_sft" of data/train_sft-00000-of-00003."""
    for part in (split_suffix(path.name)[0].lower(), *(part.lower() for part in reversed(path.parts[:-1]))):
        if part == split:
            return split
        if names_split(part) or is_of(part, split):
            shard = _SHARD.match(part)
            return shard["name"] if shard else _PART.sub("", part)
    return None


def _of_split(folder: Path, labels: dict[Path, str | None], split: str) -> list[Path]:
    """The files of one split: those that name it; for train, where none does, those that name no split."""
    exact = [path for path, label in labels.items() if label == split]
    named = {label for label in labels.values() if label is not None and is_of(label, split)}
    if exact:
        return exact
    if len(named) > 1:
        raise DataError(
            f"{folder}: split {split!r} may be any of {', '.join(sorted(named))}: "
            f'name one of them as the split, such as split="{min(named)}"'
        )
    if named:
        return [path for path, label in labels.items() if label in named]
    unnamed = [path for path, label in labels.items() if label is None]
    if unnamed and split == "train":
        return unnamed
    found = _names(folder, labels) or "no data file"
    raise DataError(f"{folder}: no file of split {split!r}; found {found}. Name the split as it is in the file name")


def _names(folder: Path, paths: Iterable[Path]) -> str:
    names = [str(path.relative_to(folder)) for path in paths]
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _form(path: Path) -> tuple[str, _Form]:
    """A file's name less what tells its form, and that form."""
    stem, suffix, compression = split_suffix(path.name)
    shard = _SHARD.match(stem)
    return (
        (shard["name"], _Form(suffix, compression, shard["total"])) if shard else (stem, _Form(suffix, compression, ""))
    )


def _check_twice(folder: Path, paths: list[Path]) -> None:
    """Raise a DataError where two files seem to hold the same rows: one file by two names, or one name in two forms."""
    files: dict[tuple[int, int], Path] = {}
    names: dict[str, tuple[Path, _Form]] = {}
    for path in paths:
        if path.exists():  # a broken link is named when it is read
            status = path.stat()
            other = files.setdefault((status.st_dev, status.st_ino), path)
            if other is not path:
                raise DataError(
                    f"{folder}: {_names(folder, (other, path))} are one file by two names: remove one of them"
                )
        name, form = _form(path)
        other, other_form = names.setdefault(name, (path, form))
        if form.suffix != other_form.suffix or (form != other_form and path.parent == other.parent):
            raise DataError(
                f"{folder}: {_names(folder, (other, path))} seem to hold the same rows in two forms: "
                "remove one of them, or give the other by its own path"
            )


def _check_parts(folder: Path, paths: list[Path]) -> None:
    """Raise a DataError where a file lies beside others that are parts of it by their names."""
    stems = {(path.parent, split_suffix(path.name)[0].lower()): path for path in paths}
    for (parent, stem), part in stems.items():
        piece = None if _SHARD.match(stem) else _PIECE.match(stem)
        whole = stems.get((parent, piece["name"])) if piece else None
        if whole is not None:
            raise DataError(
                f"{folder}: {_names(folder, (whole, part))}: the one may hold the rows of the other, by their names: "
                "remove one of them, give the other by its own path, or rename them if each has rows of its own"
            )


def _check_shards(folder: Path, paths: list[Path]) -> None:
    """Raise a DataError where a file says that there are more of its kind than there are."""
    shards: dict[tuple[Path, str, _Form], dict[int, Path]] = defaultdict(dict)
    for path in paths:
        if shard := _SHARD.match(split_suffix(path.name)[0]):
            group, number = shards[(path.parent, *_form(path))], int(shard["number"])
            if number in group:
                raise DataError(
                    f"{folder}: {_names(folder, (group[number], path))} are the same shard: remove one of them"
                )
            group[number] = path
    for (_, name, form), group in shards.items():
        total = int(form.total)
        expected = range(1, total + 1) if total in group and 0 not in group else range(total)
        if missing := [number for number in expected if number not in group]:
            numbers = ", ".join(str(number).zfill(len(form.total)) for number in missing[:MOST_NAMES])
            raise DataError(
                f"{folder}: of the {total} shards of {name or 'the data'}{form.suffix}, "
                f"{len(missing)} are missing: {numbers}: fetch them"
            )
