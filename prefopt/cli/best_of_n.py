"""`prefopt best-of-n`: draws N responses to each prompt, scores them and writes the selected ones. Trains nothing.

    responses.jsonl   the selected rows, which training commands take
    report.json       what was drawn, and what the best of N is worth
    rewards.png       the same as a picture

beside what `draw.py` puts there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..candidates.report import describe, scorer_card, write_rewards
from ..candidates.selection import Group, Row, above, best, best_random, best_worst, by_prompt, ranked, write_rows
from ..objectives.sampling_arguments import SamplingArguments, changed
from ..scoring.scorer import Scorer
from ..training.arguments import ScorerArguments, option
from ..utils import jsonl
from . import is_first, set_up_logging
from .draw import DrawingArguments, Drawn, check, draw, parsed
from .rows import read
from .scorer import check_scorer, load_scorer
from .table import places, show

if TYPE_CHECKING:
    from . import Program

SELECTIONS: dict[str, Callable[[list[Group], Any], list[Row]]] = {
    "best": lambda groups, args: best(groups, args.score_threshold),
    "ranked": lambda groups, args: ranked(groups, None, args.score_threshold),
    "best-worst": lambda groups, args: best_worst(groups, args.score_threshold),
    "best-random": lambda groups, args: best_random(groups, args.seed, args.score_threshold),
    "above": lambda groups, args: above(groups, args.score_threshold),
}
EXAMPLE = "prompts.jsonl --scorer reward-model \\\n      --responses_per_prompt 16 --output_dir out"


@dataclass(kw_only=True)
class BestOfNArguments(DrawingArguments):
    """How many responses to draw, and which to write."""

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


def main(program: Program, prog: str, argv: Sequence[str]) -> int:
    """Parse, draw, score, select; returns the exit code."""
    given = parsed(program, prog, argv, (BestOfNArguments, ScorerArguments), EXAMPLE)
    if not given:
        return 0
    args, scorer_args, model_args, rows_args = given
    check(args, model_args, rows_args)
    check_scorer(scorer_args)
    if args.select == "above" and args.score_threshold is None:
        raise ValueError("--select above needs --score_threshold: say above what")
    set_up_logging()
    rows = read(rows_args, "any")
    scorer = cast(Scorer, load_scorer(scorer_args))  # before anything is drawn: it may be none after all
    drawn = draw("best-of-n", args, model_args, rows)
    drawn.pool.score(scorer)
    if is_first():
        _select(drawn, scorer, args)
    return 0


def _select(drawn: Drawn, scorer: Scorer, args: BestOfNArguments) -> None:
    scored = [one for one in drawn.pool.scored(scorer) if drawn.has(one.candidate)]
    groups = by_prompt(scored)
    rows = SELECTIONS[args.select](groups, args)
    report = {"policy": drawn.version, "scorer": scorer_card(scorer), **describe(scored)}
    report |= {"unanswered": report["prompts"] - len(groups), "select": args.select, "rows": len(rows)}
    jsonl.replace(drawn.folder / "report.json", [report])
    write_rewards(drawn.folder / "rewards.png", [{"iteration": 0, **report}])
    write_rows(drawn.folder / "responses.jsonl", rows)
    if not rows:
        raise ValueError(_nothing(drawn, report, args))
    show(report, drawn.new)
    places([(f"{args.select} ({len(rows):,} rows)", "responses.jsonl"), ("report", "report.json")], drawn.folder)


def _nothing(drawn: Drawn, report: dict[str, Any], args: BestOfNArguments) -> str:
    threshold = args.score_threshold
    wanted = "" if threshold is None else f", and --score_threshold {threshold:g} may leave out the others"
    return (
        f"none of {report['responses']} responses gives a row: {report['unfinished']:.0%} were cut off at "
        f"--max_new_tokens {args.max_new_tokens}{wanted}; they and their scores are in {drawn.pool.folder}"
    )
