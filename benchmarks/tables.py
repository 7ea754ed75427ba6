"""From measurements to tables: medians over repeats, ratios within a repeat, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

Record = Mapping[str, Any]
SUBJECT = {"dpo": "prefopt", "reward": "prefopt", "rrhf": "shared", "overhead": "bare", "ablation": "naive"}
"""Whose time and memory every other row of a table is divided by."""


class Spread(NamedTuple):
    """A median with the least and the greatest value."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.least:.2f}-{self.greatest:.2f})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def settings_of(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Every setting that was measured, in the order of its first result."""
    found: list[dict[str, Any]] = []
    for record in records:
        if "cpu_s" in record and record["setting"] not in found:
            found.append(record["setting"])
    return found


def by_method(records: Iterable[Record], setting: Mapping[str, Any]) -> dict[str, dict[int, Record]]:
    """Method -> repeat -> result, of one setting; a later result of the same run replaces an earlier one."""
    found: dict[str, dict[int, Record]] = {}
    for record in records:
        if "cpu_s" in record and record["setting"] == setting:
            found.setdefault(record["method"], {})[record["repeat"]] = record
    return found


def ratios(runs: Mapping[int, Record], subject: Mapping[int, Record], field: str) -> Spread | None:
    """`field` divided by the subject's in the same repeat, as both then trained on the same pairs; None without one."""
    both = sorted(set(runs) & set(subject))
    return spread([runs[repeat][field] / subject[repeat][field] for repeat in both]) if both else None


def of_totals(runs: Mapping[int, Record], subject: Mapping[int, Record]) -> float | None:
    """CPU seconds of all common repeats over the subject's: what counts where repeats hold different pairs."""
    both = set(runs) & set(subject)
    return sum(runs[r]["cpu_s"] for r in both) / sum(subject[r]["cpu_s"] for r in both) if both else None


def summary(records: Iterable[Record], setting: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one table."""
    methods = by_method(records, setting)
    subjects = [name for name in methods if name.split(" (")[0] == SUBJECT[setting["work"]]]
    order = sorted(methods, key=lambda name: name in subjects)
    rows = {name: _row(methods[name], {s: methods[s] for s in subjects if s != name}) for name in order}
    machines: list[Any] = []
    for runs in methods.values():
        machines += [run["machine"] for run in runs.values() if run["machine"] not in machines]
    return {"setting": dict(setting), "subjects": subjects, "methods": rows, "machines": machines}


def _row(runs: Mapping[int, Record], subjects: Mapping[str, Mapping[int, Record]]) -> dict[str, Any]:
    medians = {name: median(run[name] for run in runs.values()) for name in ("cpu_s", "wall_s", "tokens", "peak_mib")}
    time = {name: ratios(runs, subject, "cpu_s") for name, subject in subjects.items()}
    memory = {name: ratios(runs, subject, "peak_mib") for name, subject in subjects.items()}
    totals = {name: of_totals(runs, subject) for name, subject in subjects.items()}
    return {**medians, "repeats": len(runs), "time_ratio": time, "total_ratio": totals, "memory_ratio": memory}


def markdown(table: Mapping[str, Any]) -> str:
    """One table, headed by its setting."""
    unit = "prompt" if table["setting"]["work"] == "rrhf" else "pair"
    subjects = table["subjects"]
    head = ["method", "repeats", f"CPU s/{unit}", *(f"time / {s}" for s in subjects)]
    head += [
        *(f"total / {s}" for s in subjects),
        f"wall s/{unit}",
        f"tokens/{unit}",
        "peak MiB",
        *(f"memory / {s}" for s in subjects),
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    lines += [_cells(name, row, subjects) for name, row in table["methods"].items()]
    return "\n".join([_title(table), "", *("| " + " | ".join(line) + " |" for line in lines), ""])


def _cells(name: str, row: Mapping[str, Any], subjects: Sequence[str]) -> list[str]:
    time = [str(row["time_ratio"].get(s) or "1") for s in subjects]
    totals = [f"{total:.2f}x" if (total := row["total_ratio"].get(s)) else "1" for s in subjects]
    memory = [f"{r.median:.2f}x" if (r := row["memory_ratio"].get(s)) else "1" for s in subjects]
    return [
        name,
        str(row["repeats"]),
        f"{row['cpu_s']:.3f}",
        *time,
        *totals,
        f"{row['wall_s']:.3f}",
        f"{row['tokens']:.0f}",
        f"{row['peak_mib']:.0f}",
        *memory,
    ]


def _title(table: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in table["setting"].items() if name != "work"}
    return f"**{table['setting']['work']}**: " + ", ".join(f"{name} {value}" for name, value in shown.items())


def write_summary(records: Sequence[Record]) -> str:
    """Every table's numbers as JSON."""
    return json.dumps([summary(records, setting) for setting in settings_of(records)], indent=2) + "\n"
