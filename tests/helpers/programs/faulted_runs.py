"""Run by itself: runs of which a change of a file fails, and that are run again; prints a table, a row a file.

python -m tests.helpers.programs.faulted_runs '{"folder": "faults", "methods": ["dpo"], "each": 1}'

Every kind of change of every file is tried: a write, a rename, a flush, a truncation, the making of a folder; with a
full disk, an error of input and output, and a write that takes only half.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.failing_disk import Fault, Operation, recorded, restart_preloaded
from tests.helpers.kills import ENDED, Attempt, Run, Whole, finish, undisturbed
from tests.helpers.programs.killed_runs import RUNS, differing, prepare

KINDS = ("ENOSPC", "EIO", "short")
LIKE = (
    (re.compile(r"checkpoint-\d+"), "checkpoint-N"),
    (re.compile(r"(iteration|temperatures)-\d+"), r"\1-N"),
    (re.compile(r"candidates-[\d-]+"), "candidates-N"),
    (re.compile(r"[0-9a-f]{16,}"), "HASH"),
    (re.compile(r"\.tmp[A-Za-z0-9]+$"), "*.safetensors"),
    (re.compile(r"\.(\d+\.)?staging(?=$|/)"), ""),
    (re.compile(r"//+"), "/"),
    (re.compile(r"^(out/\w+/)((?:[a-z][\w-]*?-)?)(?:\d+-)?[0-9a-f]{10}(?=/|$)"), r"\1\2*"),
)


def like(path: str, folder: Path) -> str:
    """What a file is called that is written at many times, under many numbers."""
    name = str(Path(path).relative_to(folder)) if path != str(folder) else "."
    for pattern, short in LIKE:
        name = pattern.sub(short, name)
    return name


def cases(operations: list[Operation], folder: Path, each: int, rng: random.Random) -> Iterator[tuple[int, str, str]]:
    """Of each kind of change of each file so many, at every fault that it may have: number, kind of fault, file."""
    numbers: dict[Operation, list[int]] = defaultdict(list)
    for number, (what, path) in enumerate(operations):
        numbers[what, like(path, folder)].append(number)
    for (what, name), found in numbers.items():
        for number in sorted(rng.sample(found, min(each, len(found)))):
            for kind in KINDS:
                if kind != "short" or what == "write":
                    yield number, kind, name


def tried(run: Run, folder: Path, fault: Fault, whole: Whole) -> dict[str, Any]:
    """One fault: how the run ended, whether it named the file, and whether it ends as others do if it is run again."""
    folder.mkdir(parents=True)
    with recorded(folder, fault) as operations:
        statuses = Attempt(run, folder).end()
    what, path = operations[fault.at or 0]
    log = "\n".join(each.read_text("utf-8", "replace") for each in sorted(folder.glob("log-[0-9].txt")))
    ended = set(statuses) == {ENDED}
    outcome = "went on" if ended else "error"
    if not ended and not named(log, path, folder):
        outcome = "file not named"
    if outcome == "error" and fault.kind == "ENOSPC" and "free" not in log:
        outcome = "room not told"
    try:
        finish(run, folder)
    except AssertionError as error:
        return {**vars(fault), "what": what, "outcome": "cannot go on", "log": log[-1500:], "again": str(error)[-1500:]}
    differs = differing(run, folder, whole)
    if differs:
        outcome = "DIFFERS"
    more = {} if outcome in ("went on", "error") else {"log": log[-2500:]}
    return {**vars(fault), "what": what, "outcome": outcome, "differs": differs, **more}


def named(log: str, path: str, folder: Path) -> bool:
    """Whether the last error, or a warning after which the run went on to the next failing write, names the file.

    As it is or is to be called, or the checkpoint that it is part of.
    """
    warnings = [line for line in log.splitlines() if line.startswith("[Errno")]
    said = "\n".join([log.rpartition("Traceback")[2], *warnings])
    final = re.sub(r"/\.staging(/model)?|\.(\d+\.)?staging", "", path)
    checkpoint = re.search(r".*/checkpoint-\d+", final)
    temporary = Path(final).name.startswith(".tmp")  # safetensors', beside the file
    wanted = [path, final, *([checkpoint[0]] if checkpoint else []), *([str(Path(final).parent)] if temporary else [])]
    return any(each in said for each in wanted)


def main(folder: str, methods: list[str], each: int = 1, seed: int = 0, only: str = "", part: float = 1.0) -> None:
    found: list[dict[str, Any]] = []
    for method in methods:
        run, place, rng = RUNS[method], Path(folder).resolve() / method, random.Random(f"{seed} {method}")
        (place / "whole").mkdir(parents=True)
        with recorded(place / "whole") as operations:
            whole = undisturbed(run, place / "whole")
        planned = [case for case in cases(operations, place / "whole", each, rng) if re.search(only, case[2])]
        for number, kind, name in sorted(rng.sample(planned, round(part * len(planned)))):
            there = place / f"{number}-{kind}"
            result = {"method": method, "file": name, **tried(run, there, Fault(kind, number), whole)}
            print("RESULT " + json.dumps(result), flush=True)
            found.append(result)
            shutil.rmtree(there, ignore_errors=True)
    print("\n".join(table(found)))


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """A row a file, a column a fault: what came of how many."""
    yield "| method | file | changes | " + " | ".join(KINDS) + " |"
    yield "|---|---|---|" + "---|" * len(KINDS)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for each in found:
        rows[each["method"], each["file"]].append(each)
    for (method, name), cells in sorted(rows.items()):
        outcomes = [Counter(cell["outcome"] for cell in cells if cell["kind"] == kind) for kind in KINDS]
        words = [", ".join(f"{count} {what}" for what, count in outcome.items()) or "-" for outcome in outcomes]
        yield f"| {method} | {name} | {', '.join(sorted({c['what'] for c in cells}))} | {' | '.join(words)} |"
    yield f"{len(found)} cases: {dict(Counter(each['outcome'] for each in found))}"


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    restart_preloaded(Path(arguments["folder"]), "tests.helpers.programs.faulted_runs", sys.argv[1:])
    prepare()
    main(**arguments)
