"""Reads multiple-choice questions from files of C-Eval's, MedMCQA's or a general form.

C-Eval      question, A, B, C, D (or more, or fewer), answer: a letter                 csv, jsonl, json, parquet
MedMCQA     question, opa, opb, opc, opd, cop: a number, see `_first_cop`              csv, jsonl, json, parquet
general     question, choices: a list, answer: a letter or a number from 0             jsonl, json, parquet
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from ...data.reading import Located, read_rows
from ...data.records import DataError, kind_of
from ...data.report import LoadReport

logger = logging.getLogger(__name__)

MEDMCQA = ("opa", "opb", "opc", "opd")
FORMS = (
    "give question, A, B, C, D and answer (C-Eval), or question, opa, opb, opc, opd and cop (MedMCQA), or question, "
    "choices and answer"
)


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        file: name of the file that it comes from.
        number: of the question in that file, from 0.
        answer: number of the right option, from 0.
        origin: file and line.
    """

    file: str
    number: int
    text: str
    options: tuple[str, ...]
    answer: int
    origin: str


def read_questions(*paths: str | Path, first_cop: int | None = None) -> list[Question]:
    """The questions of all files, in their order.

    Args:
        first_cop: the number of option a in MedMCQA's column `cop`, where a file does not tell it.

    Raises:
        DataError: a file that is missing, empty, given twice or of no known form; a row without its text, an option or
            a possible answer. The message names file and line: no question is left out.
    """
    by_file: dict[str, list[Question]] = {}
    for path in map(Path, paths):
        questions = _of_file(path, first_cop)
        for name, earlier in by_file.items():
            if name == path.name or list(map(_text_and_options, earlier)) == list(map(_text_and_options, questions)):
                raise DataError(f"{path}: the same name or the same questions as {earlier[0].origin}: give it once")
        by_file[path.name] = questions
    return [question for questions in by_file.values() for question in questions]


def _text_and_options(question: Question) -> tuple[str, tuple[str, ...]]:
    return question.text, question.options


def _of_file(path: Path, first_cop: int | None) -> list[Question]:
    if not path.is_file():
        raise DataError(f"{path}: no such file of questions: give a csv, jsonl, json or parquet file")
    report = LoadReport(str(path))
    rows = list(_csv(path) if path.suffix == ".csv" else read_rows(path, "test", report))
    for reason, places in report.examples.items():
        raise DataError(f"{places[0]}: {reason}: mend or remove it")
    if not rows:
        raise DataError(f"{path}:1: holds no question below its header. Is it the file you meant?")
    parse = _form(rows, first_cop)
    questions = []
    for number, (origin, row) in enumerate(rows):
        options, answer = parse(origin, row)
        text = _text(row.get("question"), "question", origin)
        questions.append(Question(path.name, number, text, options, answer, origin))
    return questions


def _csv(path: Path) -> Iterator[Located]:
    """Rows with the line on which they begin; a quoted text may go over several."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            line = 1 if reader.fieldnames is None else reader.line_num + 1
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}:{line}: has not as many columns as the header: quote texts with commas")
                yield f"{path}:{line}", row
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: bytes are not UTF-8 at byte {error.start + 1}: convert the file") from error
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not valid CSV: {error}") from error


Parse = Callable[[str, Mapping[str, Any]], tuple[tuple[str, ...], int]]


def _form(rows: list[Located], first_cop: int | None) -> Parse:
    """How to read the options and the answer of each row, by the columns of the first."""
    origin, columns = rows[0]
    if "choices" in columns:
        return _general
    if MEDMCQA[0] in columns:
        first = _first_cop(rows, first_cop)
        return lambda origin, row: _medmcqa(origin, row, first)
    letters = _letters(columns)
    if len(letters) > 1:
        return lambda origin, row: _ceval(origin, row, letters)
    raise DataError(f"{origin}: no form of questions has the columns {', '.join(map(str, columns))}: {FORMS}")


def _letters(columns: Mapping[str, Any]) -> str:
    """Those of the options: A, B and so on, as far as there are columns without a gap."""
    count = next(n for n, letter in enumerate(ascii_uppercase + "-") if letter not in columns)
    return ascii_uppercase[:count]


def _ceval(origin: str, row: Mapping[str, Any], letters: str) -> tuple[tuple[str, ...], int]:
    options = tuple(_text(row.get(letter), f"option {letter}", origin) for letter in letters)
    return options, _letter(row.get("answer"), len(options), origin)


def _general(origin: str, row: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    choices = row.get("choices")
    if not isinstance(choices, list) or not 1 < len(choices) <= len(ascii_uppercase):
        what = f"a list of {len(choices)}" if isinstance(choices, list) else kind_of(choices)
        raise DataError(f"{origin}: choices is {what}: give a list of 2 to {len(ascii_uppercase)} options")
    options = tuple(_text(each, f"option {ascii_uppercase[i]}", origin) for i, each in enumerate(choices))
    answer = row.get("answer")
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(options):
            raise DataError(f"{origin}: answer is {answer}: it counts from 0 to {len(options) - 1}, or is a letter")
        return options, answer
    return options, _letter(answer, len(options), origin)


def _letter(answer: Any, count: int, origin: str) -> int:
    """The number of an option by its letter."""
    letters = ascii_uppercase[:count]
    given = answer.strip() if isinstance(answer, str) else answer
    if given in (None, ""):
        raise DataError(f"{origin}: there is no answer, as in a test file whose answers are kept back: use another")
    if not isinstance(given, str) or len(given) != 1 or given not in letters:
        raise DataError(f"{origin}: answer is {answer!r}: give one of {', '.join(letters)}")
    return letters.index(given)


def _medmcqa(origin: str, row: Mapping[str, Any], first: int) -> tuple[tuple[str, ...], int]:
    options = tuple(_text(row.get(name), name, origin) for name in MEDMCQA)
    return options, _cop(origin, row) - first


def _cop(origin: str, row: Mapping[str, Any]) -> int:
    given = row.get("cop")
    if given in (None, "", -1, "-1"):
        raise DataError(f"{origin}: there is no answer (cop is {given!r}), as in MedMCQA's test file: use another")
    if isinstance(given, bool) or str(given) not in "01234" or len(str(given)) != 1:
        raise DataError(f"{origin}: cop is {given!r}: give the number of an option")
    return int(given)


def _first_cop(rows: list[Located], given: int | None) -> int:
    """What number option a has: 0 in MedMCQA as the hub has it, 1 in its authors' files.

    The same columns, and an error of one would go unseen in any single row; so the whole file has to tell: one with a 0
    counts from 0, one with a 4 from 1.
    """
    places: dict[int, str] = {}
    for origin, row in rows:
        places.setdefault(_cop(origin, row), origin)
    if given is not None:
        outside = next((at for cop, at in places.items() if not given <= cop < given + len(MEDMCQA)), None)
        if given not in (0, 1) or outside:
            raise DataError(f"{outside or rows[0][0]}: this cop does not fit first_cop={given}: it is 0 or 1")
        return given
    if 0 in places and 4 in places:
        raise DataError(f"{places[4]}: cop is 4, but 0 at {places[0]}: four options count from 0 or from 1")
    if 0 not in places and 4 not in places:
        raise DataError(
            f"{rows[0][0]}: no cop in this file is 0 or 4, so it may count from 0 (the hub's files) or from 1 (the "
            "authors'): pass first_cop=0 or first_cop=1 to read_questions, or give letters in C-Eval's form"
        )
    first = 0 if 0 in places else 1
    logger.info("%s: cop counts from %d, as one is %d", places[4 * first], first, 4 * first)
    return first


def _text(value: Any, what: str, origin: str) -> str:
    """A text, or a number as one."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    text = str(value).strip() if isinstance(value, str) or number else ""
    if not text:
        state = "is empty" if isinstance(value, str) else f"is {kind_of(value)}"
        raise DataError(f"{origin}: {what} {state}: {FORMS}")
    return text
