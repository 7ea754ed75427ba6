"""`prefopt best-of-n`: samples N responses to each prompt, scores them and writes the selected ones. Trains nothing.

    responses.jsonl   the selected rows, which training commands take
    report.json       what was sampled, and what the best of N is worth
    rewards.png       the same as a picture

beside what `sampling.py` puts there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..candidates.report import describe, scorer_card, warn_of_texts, write_rewards
from ..candidates.selection import Group, Row, above, best, best_random, best_worst, by_prompt, ranked, write_rows
from ..objectives.sampling_arguments import SamplingArguments
from ..scoring.scorer import Scorer
from ..training.arguments import ScorerArguments
from ..utils import jsonl
from ..utils.options import changed, option
from .command import Command
from .console import is_first, set_up_logging
from .help_page import Page
from .rows import read
from .sampling import Sampled, SamplingCommandArguments, check, page_of, parsed, sample
from .scorer import check_scorer, load_scorer
from .table import places, show

SELECTIONS: dict[str, Callable[[list[Group], Any], list[Row]]] = {
    "best": lambda groups, args: best(groups, args.score_threshold),
    "ranked": lambda groups, args: ranked(groups, None, args.score_threshold),
    "best-worst": lambda groups, args: best_worst(groups, args.score_threshold),
    "best-random": lambda groups, args: best_random(groups, args.seed, args.score_threshold),
    "above": lambda groups, args: above(groups, args.score_threshold),
}
TITLE = "Best of N"


@dataclass(kw_only=True)
class BestOfNArguments(SamplingCommandArguments):
    """How many responses to sample, and which to write."""

    responses_per_prompt: int = changed(SamplingArguments, "responses_per_prompt", 16)
    select: str = option(
        "best",
        "What responses.jsonl holds: the `best` response to each prompt; all, `ranked`; pairs, `best-worst` or "
        "`best-random`; or each response `above` score_threshold.",
        choices=list(SELECTIONS),
    )
    score_threshold: float | None = option(
        None, "Leave out prompts whose best response scores less; of `above`, every response that does."
    )


KINDS = (BestOfNArguments, ScorerArguments)


def help_page(command: Command, prog: str, whole: bool) -> Page:
    """The page that `--help` shows, or the `whole` one."""
    return page_of(command, prog, KINDS, TITLE, whole)


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, sample, score, select; returns the exit code."""
    arguments = parsed(command, prog, argv, KINDS, TITLE)
    if not arguments:
        return 0
    args, scorer_args, model_args, rows_args = arguments
    check(args, model_args, rows_args)
    check_scorer(scorer_args)
    if args.select == "above" and args.score_threshold is None:
        raise ValueError("--select above needs --score_threshold: say above what")
    set_up_logging()
    rows = read(rows_args, "any")
    scorer = cast(Scorer, load_scorer(scorer_args))  # before anything is sampled: it may be none after all
    sampled = sample("best-of-n", args, model_args, rows)
    sampled.pool.score(scorer)
    if is_first():
        _select(sampled, scorer, args)
    return 0


def _select(sampled: Sampled, scorer: Scorer, args: BestOfNArguments) -> None:
    scored = [each for each in sampled.pool.scored(scorer) if sampled.has(each.candidate)]
    groups = by_prompt(scored)
    rows = SELECTIONS[args.select](groups, args)
    report = {"policy": sampled.version, "scorer": scorer_card(scorer), **describe(scored)}
    report |= {"without_ids": warn_of_texts(row.candidate for group in groups for row in group)}
    report |= {"unanswered": report["prompts"] - len(groups), "select": args.select, "rows": len(rows)}
    jsonl.replace(sampled.folder / "report.json", [report])
    write_rewards(sampled.folder / "rewards.png", [{"iteration": 0, **report}])
    write_rows(sampled.folder / "responses.jsonl", rows)
    if not rows:
        raise ValueError(_nothing(sampled, report, args))
    show(report, sampled.new)
    places([(f"{args.select} ({len(rows):,} rows)", "responses.jsonl"), ("report", "report.json")], sampled.folder)


def _nothing(sampled: Sampled, report: dict[str, Any], args: BestOfNArguments) -> str:
    threshold = args.score_threshold
    wanted = "" if threshold is None else f", and --score_threshold {threshold:g} may leave out the others"
    return (
        f"none of {report['responses']} responses gives a row: {report['unfinished']:.0%} were truncated at "
        f"--max_new_tokens {args.max_new_tokens}{wanted}; they and their scores are in {sampled.pool.folder}"
    )
