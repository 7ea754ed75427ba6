"""`prefopt self-rejected`: pairs of a dataset's answers and, rejected, a policy's own responses. Needs no scorer.

    pairs.jsonl   the pairs, which `prefopt dpo` takes

beside what `sampling.py` puts there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..candidates.report import warn_of_texts
from ..candidates.selection import self_rejected, write_rows
from ..objectives.sampling_arguments import SamplingArguments
from ..utils.options import changed
from .command import Command
from .console import is_first, set_up_logging
from .help_page import Page
from .rows import read
from .sampling import Sampled, SamplingCommandArguments, check, page_of, parsed, sample
from .table import places

TITLE = "Self-rejected"


@dataclass(kw_only=True)
class SelfRejectedArguments(SamplingCommandArguments):
    """How many pairs to make of each answer."""

    responses_per_prompt: int = changed(SamplingArguments, "responses_per_prompt", 1)


def help_page(command: Command, prog: str, whole: bool) -> Page:
    """The page that `--help` shows, or the `whole` one."""
    return page_of(command, prog, (SelfRejectedArguments,), TITLE, whole)


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, sample, pair; returns the exit code."""
    arguments = parsed(command, prog, argv, (SelfRejectedArguments,), TITLE)
    if not arguments:
        return 0
    args, model_args, rows_args = arguments
    check(args, model_args, rows_args)
    set_up_logging()
    sampled = sample("self-rejected", args, model_args, read(rows_args, "sft"))
    if is_first():
        _pair(sampled)
    return 0


def _pair(sampled: Sampled) -> None:
    candidates = sampled.candidates()
    warn_of_texts(candidates)
    pairs, left_out = self_rejected(sampled.rows, candidates)
    reasons = [f"{count:,} {reason}" for reason, count in left_out.items()]
    write_rows(sampled.folder / "pairs.jsonl", pairs)
    if not pairs:
        raise ValueError(f"no response makes a pair: {', '.join(reasons)}; all are in {sampled.pool.folder}")
    print(f"\n{sampled.new:,} new responses; left out: {', '.join(reasons) or 'none'}")
    places([(f"{len(pairs):,} pairs", "pairs.jsonl")], sampled.folder)
