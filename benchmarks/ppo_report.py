"""What `ppo.py` found: tables of 80 columns, markdown, JSON and a picture. Knows numbers, and judges nothing."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from examples.small_world import console

from .ppo_outcome import RULE, Run, numbers, summary
from .ppo_picture import draw

Rows = list[list[str]]
Groups = Sequence[tuple[str, Sequence[str]]]
"""Title and the methods that belong together: a method may be in several."""
GAINS = ["method", "gold", "over SFT", "in SE", "score", "KL", "tokens", "cut", "rep", "CPU s"]
VERDICTS = ["method", "score", "gold", "tokens", "rep", "fell", "rose", "S", "G", "L", "collapse", "alarm"]
SUMMARY = ["method", "gain", "least SE", "score", "KL", "tokens", "CPU s", "G", "collapses", "alarms"]
NOTES = [
    "gold: the mean gold reward. over SFT: its mean paired difference, also in standard errors (SE). score: the reward "
    "model's. KL: to SFT, in nats. cut, rep: shares cut off, and blank or repeating themselves.",
    "For a collapse speak: score, gold, tokens, rep above SFT's, in SE, 99 at most. fell, rose: gold and score of the "
    "last quarter of the rollouts less those of the quarter with the most gold. S, G, L: score up, gold down, longer "
    "or repeating. alarm: the rollout after which the library's own guard spoke, of all rollouts.",
    "Of all seeds: means, and in least SE the least gain of a seed in its SE. G, collapses, alarms: how many have "
    "their gold down, have collapsed, and made the guard speak.",
    RULE,
]


def report(folder: Path, runs: Sequence[Run], groups: Groups, name: str, picture: str) -> None:
    """Print the tables, and write them as NAME.json and NAME.md with a picture beside them."""
    before = {run.seed: run for run in runs if run.method == "sft"}
    rows = [numbers(run, before[run.seed]) for run in runs]
    tables = [table for seed in before for table in _of_seed(seed, [row for row in rows if row["seed"] == seed])]
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != "sft"))
    sums = [summary([row for row in rows if row["method"] == method]) for method in methods]
    tables.append((f"Seeds {', '.join(map(str, before))}", SUMMARY, [_summed(each) for each in sums]))
    for table in tables:
        show(*table)
    console.print("\n\n".join(NOTES), highlight=False)
    text = "\n\n".join([*(markdown(*table) for table in tables), *(textwrap.fill(note, 120) for note in NOTES)])
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.json").write_text(
        json.dumps({"rule": RULE, "summary": sums, "runs": rows}, indent=2) + "\n", encoding="utf-8"
    )
    drawn = draw(folder / picture, runs, groups)
    for path in (f"{name}.md", f"{name}.json", *([picture] if drawn else [])):
        console.print(f"wrote {folder / path}")


def _of_seed(seed: int, rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[str], Rows]]:
    others = [row for row in rows if row["method"] != "sft"]
    count = "fresh responses to held-out prompts"
    return [
        (f"Seed {seed}: {count}", GAINS, [_gains(row) for row in rows]),
        (f"Seed {seed}: what speaks for a collapse", VERDICTS, [_verdict(row) for row in others]),
    ]


def _gains(row: dict[str, Any]) -> list[str]:
    is_sft = row["method"] == "sft"
    gained = ["-", "-"] if is_sft else [f"{row['gain']:+.2f} ± {row['gain_error']:.2f}", f"{row['gain_in_se']:.1f}"]
    shares = [f"{row[name]:.0%}" for name in ("unfinished", "degenerate")]
    cost = "-" if is_sft else f"{row['cpu_seconds']:.0f}"
    return [row["method"], f"{row['gold']:.2f}", *gained, *_means(row), *shares, cost]


def _means(row: dict[str, Any]) -> list[str]:
    return [f"{row['score']:.2f}", f"{row['log_ratio']:.1f}", f"{row['length']:.1f}"]


def _verdict(row: dict[str, Any]) -> list[str]:
    said = row["verdict"]
    apart = [f"{said[name]:+.1f}" for name in ("score", "gold", "length", "repeating")]
    turned = ["-" if said[name] is None else f"{said[name]:+.2f}" for name in ("fell", "rose")]
    parts = [_yes(row[name]) for name in ("score_up", "gold_down", "longer_or_repeating")]
    alarm = "-" if row["alarm"] is None else f"{row['alarm']}/{row['rollouts']}"
    return [row["method"], *apart, *turned, *parts, "YES" if row["collapsed"] else "no", alarm]


def _yes(holds: bool) -> str:
    return "x" if holds else "."


def _summed(row: dict[str, Any]) -> list[str]:
    gains = [f"{row['gain']:+.2f}", f"{row['least_gain_in_se']:+.1f}"]
    counts = [f"{row[name]}/{len(row['seeds'])}" for name in ("gold_downs", "collapses", "alarms")]
    return [row["method"], *gains, *_means(row), f"{row['cpu_seconds']:.0f}", *counts]


def show(title: str, head: Sequence[str], rows: Rows) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, title_justify="left")
    for name in head:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def markdown(title: str, head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---" if name == "method" else "---:" for name in head], *rows]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])
