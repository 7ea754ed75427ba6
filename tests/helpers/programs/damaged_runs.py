"""Run by itself: files of runs that were killed late are damaged, and the runs called again; prints a table.

python -m tests.helpers.programs.damaged_runs '{"folder": "damaged", "methods": ["dpo", "rejection-sampling"]}'

Whatever is damaged, a run ends as the undisturbed one, or is refused by a message that names the file.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.helpers.kills import ENDED, Attempt, Kill, Run, Whole, killed, undisturbed
from tests.helpers.programs import killed_runs
from tests.helpers.programs.faulted_runs import like
from tests.helpers.programs.killed_runs import RUNS, differing, prepare

LATE = {"compare": 1.0, "rejection-sampling": 0.8, "rejection-sampling-searched": 0.8}
"""After which share of its changes of files a run is killed, where it is not `OFTEN`; 1 is not at all."""
OFTEN = 0.65
ANOTHER = {"learning_rate": 2e-3, "seed": 7}
"""What makes a run another one, whose files have the same names."""
SKIPPED = re.compile(r"(^|/)(log[^/]*|\.lock)$|\.staging")
"""What programs say, and what is not written to its end, which nothing reads."""


def flip(path: Path, other: Path | None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(data)


def cut(path: Path, other: Path | None) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def zero(path: Path, other: Path | None) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def remove(path: Path, other: Path | None) -> None:
    path.unlink()


def replace(path: Path, other: Path | None) -> None:
    if other is not None:
        shutil.copyfile(other, path)


DAMAGES: dict[str, Callable[[Path, Path | None], None]] = {
    "flipped": flip,
    "cut": cut,
    "zeroed": zero,
    "removed": remove,
    "another run's": replace,
}


def killed_late(run: Run, folder: Path, whole: Whole, share: float) -> None:
    if share == 1.0:
        undisturbed(run, folder)
    else:
        killed(run, folder, Kill(signal.SIGKILL, operation=round(share * whole.operations)))


def files_of(folder: Path) -> dict[str, Path]:
    """The last one of the files that are called alike, by that name."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size)
    return {like(str(path), folder): path for path in paths if not SKIPPED.search(str(path.relative_to(folder)))}


def outcome(run: Run, folder: Path, damaged: Path, whole: Whole) -> dict[str, Any]:
    """What came of the same call on a damaged folder."""
    statuses = Attempt(run, folder).end()
    said = "\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.glob("log-[0-9].txt")))
    if set(statuses) != {ENDED}:
        last = said.rpartition("Traceback")[2].partition("\n")[2]
        names = damaged.name in last
        return {"outcome": "refused, named" if names else "REFUSED, NOT NAMED", "log": said[-2000:]}
    if differs := differing(run, folder, whole):
        return {"outcome": "WRONG", "differs": differs, "log": said[-2000:]}
    return {"outcome": "equal, named" if damaged.name in said else "equal"}


def cases(
    late: dict[str, Path], another: dict[str, Path], only: str, damages: list[str] | None
) -> Iterator[tuple[str, str]]:
    """Every file and what may be done to it, where that changes it."""
    for name, path in late.items():
        other = another.get(name)
        for damage in damages or DAMAGES:
            same = damage == "another run's" and (other is None or other.read_bytes() == path.read_bytes())
            if re.search(only, name) and not same:
                yield name, damage


def main(
    folder: str,
    methods: list[str],
    only: str = "",
    damages: list[str] | None = None,
    part: float = 1.0,
    seed: int = 0,
) -> None:
    found: list[dict[str, Any]] = []
    for method in methods:
        run, place, share = RUNS[method], Path(folder).resolve() / method, LATE.get(method, OFTEN)
        whole = undisturbed(run, place / "whole")
        killed_runs.OTHER.update(ANOTHER)
        killed_late(run, place / "another", whole, share)
        killed_runs.OTHER.clear()
        killed_late(run, place / "late", whole, share)
        files, others = files_of(place / "late"), files_of(place / "another")
        planned = list(cases(files, others, only, damages))
        chosen = set(random.Random(f"{seed} {method}").sample(planned, round(part * len(planned))))
        for name, damage in (case for case in planned if case in chosen):
            there = place / "tried"
            shutil.copytree(place / "late", there)
            damaged = there / files[name].relative_to(place / "late")
            DAMAGES[damage](damaged, others.get(name))
            result = {"method": method, "file": name, "damage": damage, **outcome(run, there, damaged, whole)}
            print("RESULT " + json.dumps(result), flush=True)
            found.append(result)
            shutil.rmtree(there)
    print("\n".join(table(found)))


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """A row a file, a column a damage."""
    yield "| method | file | " + " | ".join(DAMAGES) + " |"
    yield "|---|---|" + "---|" * len(DAMAGES)
    rows: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for each in found:
        rows[each["method"], each["file"]][each["damage"]] = each["outcome"]
    for (method, name), cells in rows.items():
        yield f"| {method} | {name} | {' | '.join(cells.get(damage, '-') for damage in DAMAGES)} |"
    yield f"{len(found)} cases: {dict(Counter(each['outcome'] for each in found))}"


if __name__ == "__main__":
    prepare()
    main(**json.loads(sys.argv[1]))
